"""When the samples of an opened file were taken: a heat map as paths of an SVG picture, with columns from 1 ms on."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from profiler.formats.reading import ReadFile
from profiler.formats.timed import span
from web.parts import FileTimes, FileTimesRow

MOST_COLUMNS: Final = 400
MOST_ROWS: Final = 10
SHADES: Final = 8
_STEPS: Final = tuple(digit * 10**power for power in range(-3, 5) for digit in (1, 2, 5))  # seconds


def file_times(file: ReadFile, event: str, chosen: tuple[float, float] | None) -> FileTimes | None:
    """The heat map of an event of a whole file: all samples, then the heaviest processes, by steps; None where the
    file does not say when they were taken. `chosen` is the part that is shown, in seconds from its beginning."""
    whole = span(file)
    place = next((i for i, profile in enumerate(file.profiles) if profile.event == event), None)
    if whole is None or place is None or not file.times[place]:
        return None
    profile, length = file.profiles[place], whole[1] - whole[0]
    # A part is shown with as much time around it, so that the next choice can be a finer one.
    since, until = (chosen[0], min(chosen[1], length)) if chosen else (0.0, length)
    begin, end = max(1.5 * since - 0.5 * until, 0.0), min(1.5 * until - 0.5 * since, length)
    step = next((step for step in _STEPS if (end - begin) / step < MOST_COLUMNS), (end - begin) / (MOST_COLUMNS - 1))
    first = math.floor(begin / step)
    columns = math.floor(end / step) - first + 1
    column = np.floor((np.array(file.times[place]) - whole[0]) / step).astype(np.int64) - first
    seen = (column >= 0) & (column < columns)
    column = column[seen]
    counts = np.array([sample.count for sample in profile.samples], np.float64)[seen]
    names: dict[str, int] = {}
    process = np.array([names.setdefault(sample.process, len(names)) for sample in profile.samples])[seen]
    weights = np.bincount(process, counts, len(names))
    heaviest = np.argsort(-weights, kind="stable").tolist()
    listed = list(names)
    rows = [("all", np.ones(len(process), bool))]
    rows += [(listed[number] or "(no name)", process == number) for number in heaviest[: MOST_ROWS - 1]]
    if rest := heaviest[MOST_ROWS - 1 :]:
        rows.append((f"{len(rest):,} others", np.isin(process, rest)))
    by_step = [np.bincount(column[of], counts[of], columns).astype(np.float64) for _, of in rows]
    peak = max(float(values.max()) for values in by_step[1:])
    return FileTimes(
        seconds=length,
        start=first * step,
        step=step,
        columns=columns,
        since=chosen[0] if chosen else 0.0,
        until=min(chosen[1], (first + columns) * step) if chosen else columns * step,
        is_part=chosen is not None,
        rows=[
            FileTimesRow(name, int(values.sum()), _paths(values, float(values.max()) if name == "all" else peak))
            for (name, _), values in zip(rows, by_step, strict=True)
        ],
    )


def _paths(values: NDArray[np.float64], peak: float) -> list[tuple[float, str]]:
    """Squares of one by one, a path for each shade that occurs: (opacity, path)."""
    shade = np.ceil(values / peak * SHADES).astype(np.int64)
    return [
        (level / SHADES, "".join(f"M{x} 0h1v1h-1z" for x in np.flatnonzero(shade == level).tolist()))
        for level in range(1, SHADES + 1)
        if (shade == level).any()
    ]
