"""The difference of two profiles as a table of text: which functions changed most."""

from __future__ import annotations

from typing import Final

from profiler.model import StackTable
from profiler.report import cell
from web.flamegraph.changes import changes_of
from web.flamegraph.diff import SIGNIFICANT

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
    changes = changes_of(before, after, absolute=absolute)
    own, total = changes.own * changes.scale[:, None], changes.total * changes.scale[:, None]
    own_change, total_change = changes.own_change, changes.total_change
    changed = changes.largest()
    shown = changed[:most]

    def number(value: float, *, signed: bool = False) -> str:
        text = f"{abs(value):,.0f}" if absolute else f"{abs(value):.2f}%"
        return (("-" if value < 0 else "+") if signed else "") + text

    cells = [
        (
            number(own_change[i], signed=True) + ("*" if abs(changes.own_z[i]) >= SIGNIFICANT else " "),
            number(own[0][i]),
            number(own[1][i]),
            number(total_change[i], signed=True),
            number(total[0][i]),
            number(total[1][i]),
            cell(changes.binaries[i]),
            cell(changes.frames[i].function),
        )
        for i in shown
    ]
    titles = ("Self change ", "before", "after", "Total change", "before", "after", "Shared Object", "Function")
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = [f"# {cell(note)}" for note in notes]
    lines += [
        f"# before: {changes.whole[0]:,.0f} {unit}, after: {changes.whole[1]:,.0f} {unit}; "
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
