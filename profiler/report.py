"""A profile as a table of text, as those who know `perf report --stdio` expect it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from profiler.accounting import account_lines
from profiler.event_names import unit_of
from profiler.model import Profile, Sample
from symbolizer.types import Frame, Kind, Location

KEYS: Final = ("comm", "dso", "symbol", "process", "pid", "service", "container", "cpu_kind", "srcline")
DEFAULT_KEYS: Final = ("comm", "dso", "symbol")
_TITLES: Final = {
    "comm": "Command",
    "dso": "Shared Object",
    "symbol": "Symbol",
    "process": "Process",
    "pid": "Pid",
    "service": "Service",
    "container": "Container",
    "cpu_kind": "CPU Kind",
    "srcline": "Source:Line",
}
# perf's mark of the privilege level, and letters of our own for the kinds that perf does not tell apart
_MARKS: Final = {Kind.KERNEL: "[k]", Kind.MODULE: "[k]", Kind.BPF: "[k]", Kind.UNKNOWN: "[?]"}
_OF_FRAMES: Final = frozenset({"dso", "symbol", "srcline"})
_LONGEST: Final = 200  # characters of a cell

Row = tuple[str, ...]


def write_report(profile: Profile) -> bytes:
    """The table by DEFAULT_KEYS, with callers' shares, in UTF-8."""
    return report(profile).encode(errors="backslashreplace")


def report(
    profile: Profile, keys: Sequence[str] = DEFAULT_KEYS, *, children: bool = True, percent_limit: float = 0.0
) -> str:
    """Rows by `keys` (of KEYS), heaviest first, each with its share of the samples and their number.

    "Self" is what ran there itself. With `children` a row has besides what ran there or in what it called ("Children"),
    each sample counted once however often the row is in its stack, and rows are in the order of that. Rows below
    `percent_limit` are counted in the last line. Above the table is where every tick went.
    """
    own, total = _weights(profile, keys, children)
    whole = sum(sample.count for sample in profile.samples)
    rank = total if children else own
    rows = sorted(rank, key=lambda row: (-rank[row], -own.get(row, 0), row))
    shown = [row for row in rows if 100 * rank[row] >= percent_limit * whole]
    cells = [[cell(text) for text in row] for row in shown]
    titles = [_TITLES[key] for key in keys]
    widths = [max([len(title), *(len(row[at]) for row in cells)]) for at, title in enumerate(titles)]
    unit = unit_of(profile.event)
    number = max(len(unit), len(f"{whole:,}"))
    shares = ["Children", "Self"] if children else ["Overhead"]
    lines = [*(f"# {line}" for line in _heading(profile, whole)), "#"]
    lines.append(
        f"# {'  '.join([*(f'{s:>8}' for s in shares), f'{unit:>{number}}', *map(_pad, titles, widths)])}".rstrip()
    )
    lines.append("# " + "  ".join(["." * 8] * len(shares) + ["." * number] + ["." * width for width in widths]))
    lines.append("#")
    for row, texts in zip(shown, cells, strict=True):
        weights = [total[row], own.get(row, 0)] if children else [own[row]]
        percents = [f"{_percent(weight, whole):>8}" for weight in weights]
        count = f"{rank[row]:>{number},}"
        lines.append(("  " + "  ".join([*percents, count, *map(_pad, texts, widths)])).rstrip())
    if len(shown) < len(rows):
        rest = len(rows) - len(shown)
        lines.append(f"# {rest:,} {'row' if rest == 1 else 'rows'} below {percent_limit:g} %")
    return "\n".join(lines) + "\n"


def _heading(profile: Profile, whole: int) -> list[str]:
    seconds = profile.window.seconds
    of_time = f" for {seconds:g} s" if seconds else ""
    rate = f" at {profile.hz} Hz" if unit_of(profile.event) == "samples" else ""
    where = f"{profile.host}: " if profile.host else ""
    return [
        cell(f"{where}{profile.event}{rate}{of_time}, {whole:,} {unit_of(profile.event)}"),
        *map(cell, account_lines(profile.accounting)),
    ]


def _weights(profile: Profile, keys: Sequence[str], children: bool) -> tuple[dict[Row, int], dict[Row, int]]:
    """Self and total of each row."""
    of_sample = [_OF_SAMPLE.get(key, _nothing) for key in keys]
    by_frames = not _OF_FRAMES.isdisjoint(keys)
    numbers: dict[Row, int] = {}
    # The rows of each location's frames, by their numbers, for each of what is told of the samples that are in it.
    known: dict[Row, dict[int, tuple[int, ...]]] = {}
    own: list[int] = []
    total: list[int] = []

    def number(row: Row) -> int:
        found = numbers.setdefault(row, len(numbers))
        if found == len(own):
            own.append(0)
            total.append(0)
        return found

    for sample in profile.samples:
        about = tuple([of(sample) for of in of_sample])
        of_location = known.setdefault(about, {})
        rows: list[int] = []
        for location in sample.stack if by_frames else ():
            found = of_location.get(id(location))
            if found is None:
                parts = [_of_frame(location, frame, keys) for frame in location.frames]
                found = tuple([number(tuple([a or p for a, p in zip(about, part, strict=True)])) for part in parts])
                of_location[id(location)] = found
            rows.extend(found)
            if not children:
                break
        if not rows:
            rows = [
                number(
                    tuple([a or ("[no stack]" if key == "symbol" else "") for a, key in zip(about, keys, strict=True)])
                )
            ]
        own[rows[0]] += sample.count
        for row in set(rows) if children else ():
            total[row] += sample.count
    return (
        {row: own[at] for row, at in numbers.items() if own[at]},
        {row: total[at] for row, at in numbers.items() if total[at]},
    )


def _nothing(_: Sample) -> str:
    return ""


_OF_SAMPLE: Final[dict[str, Callable[[Sample], str]]] = {
    "comm": lambda sample: sample.thread or sample.process,
    "process": lambda sample: sample.process,
    "pid": lambda sample: str(sample.pid),
    "service": lambda sample: sample.service,
    "container": lambda sample: sample.container,
    "cpu_kind": lambda sample: sample.cpu_kind,
}


def _of_frame(location: Location, frame: Frame, keys: Sequence[str]) -> Row:
    found = {
        "dso": (location.binary.path if location.binary else "") or "[unknown]",
        "symbol": f"{_MARKS.get(frame.kind, '[.]')} {frame.function}",
        "srcline": f"{frame.file}:{frame.line}" if frame.file else "??:0",
    }
    return tuple([found.get(key, "") for key in keys])


def _percent(weight: int, whole: int) -> str:
    return f"{100 * weight / whole if whole else 0:.2f}%"


def _pad(text: str, width: int) -> str:
    return text.ljust(width)


def cell(text: str) -> str:
    """Text that stays on its line whatever it holds."""
    text = (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
