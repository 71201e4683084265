"""The difference of two profiles as a table of text: which functions changed most."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from profiler.model import StackTable, functions_of
from profiler.report import cell
from web.flamegraph.diff import SIGNIFICANT, joined, z_scores

MOST_ROWS: Final = 100


def diff_report(
    before: StackTable,
    after: StackTable,
    *,
    notes: tuple[str, ...] = (),
    unit: str = "samples",
    absolute: bool = False,
    most: int = MOST_ROWS,
) -> str:
    """Functions in the order of the change of what they ran themselves ("Self"), at most `most` of them.

    Beside it what they ran with all that they called ("Total"), each sample counted once. Shares are in per cent of
    either side, and changes in points; where `absolute` all are counts. A `*` stands where a change is significant.
    """
    table, stacks = joined(before, after), len(before.counts)
    functions = functions_of(table)
    own = [np.zeros(len(functions.frames)), np.zeros(len(functions.frames))]
    total = [np.zeros(len(functions.frames)), np.zeros(len(functions.frames))]
    for side, (first, stop) in enumerate(((0, stacks), (stacks, len(table.counts)))):
        _add(table, functions.of, first, stop, own[side], total[side])
    whole = np.array([before.counts.sum(), after.counts.sum()], np.float64)
    scale = np.ones(2) if absolute else 100 / np.maximum(whole, 1)
    change = own[1] * scale[1] - own[0] * scale[0]
    total_change = total[1] * scale[1] - total[0] * scale[0]
    z = z_scores(own[0], own[1], whole[0], whole[1], absolute=absolute)
    rows = sorted(
        range(len(change)), key=lambda i: (-abs(change[i]), -abs(total_change[i]), functions.frames[i].function)
    )
    changed = [i for i in rows if change[i] or total_change[i]]
    shown = changed[:most]

    def number(value: float, *, signed: bool = False) -> str:
        text = f"{abs(value):,.0f}" if absolute else f"{abs(value):.2f}%"
        return (("-" if value < 0 else "+") if signed else "") + text

    cells = [
        (
            number(change[i], signed=True) + ("*" if abs(z[i]) >= SIGNIFICANT else " "),
            number(own[0][i] * scale[0]),
            number(own[1][i] * scale[1]),
            number(total_change[i], signed=True),
            number(total[0][i] * scale[0]),
            number(total[1][i] * scale[1]),
            cell(functions.binaries[i]),
            cell(functions.frames[i].function),
        )
        for i in shown
    ]
    titles = ("Self change ", "before", "after", "Total change", "before", "after", "Shared Object", "Function")
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = [f"# {cell(note)}" for note in notes]
    lines += [
        f"# before: {whole[0]:,.0f} {unit}, after: {whole[1]:,.0f} {unit}; "
        + ("counts" if absolute else "shares of either side"),
        "# * significant: beyond what one unchanged function in a thousand shows by chance",
        "#",
        "# " + _line(titles, widths),
        "#",
    ]
    lines += ["  " + _line(row, widths) for row in cells]
    if len(changed) > len(shown):
        lines.append(f"# {len(changed) - len(shown):,} more changed less")
    return "\n".join(lines) + "\n"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    parts = [
        text.rjust(width) if at < 6 else text.ljust(width)
        for at, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def _add(
    table: StackTable,
    function_of: NDArray[np.int64],
    first: int,
    stop: int,
    own: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Adds what each function ran itself, and with all that it called, in stacks `first` to `stop`."""
    step = 1 << 16  # stacks: what is made for them at a time stays small
    for at in range(first, stop, step):
        end = min(at + step, stop)
        offsets = table.offsets[at : end + 1]
        counts = table.counts[at:end]
        depths = np.diff(offsets)
        some = depths > 0
        leaf = function_of[table.index[offsets[1:][some] - 1]]
        own += np.bincount(leaf, counts[some], len(own))
        pairs = np.unique(
            np.repeat(np.arange(end - at), depths) * len(own) + function_of[table.index[offsets[0] : offsets[-1]]]
        )
        total += np.bincount(pairs % max(len(own), 1), counts[pairs // max(len(own), 1)], len(own))
