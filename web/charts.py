"""Values over time as paths of an SVG picture."""

from __future__ import annotations

from web.parts import Chart
from web.store.selection import Selection


def chart(points: dict[int, float], over: Selection, box: tuple[int, int], peak: float, step: int = 60) -> Chart:
    """Values at times as SVG paths in a box of that width and height; times without a value are gaps."""
    width, height = box
    first, last = over.since // step * step, (over.until - 1) // step * step
    count = (last - first) // step  # without the step that has just begun, which would look like a fall
    runs: list[list[tuple[float, float]]] = [[]]
    for i in range(count):
        value = points.get(first + i * step)
        if value is None:
            runs.append([])
        else:
            y = height - 1 - min(value / peak, 1) * (height - 3) if peak > 0 else height - 1
            runs[-1].append((i * width / max(count - 1, 1), y))
    runs = [run if len(run) > 1 else [*run, (run[0][0] + 1, run[0][1])] for run in runs if run]
    lines = ["M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in run) for run in runs]
    areas = [
        f"{line}L{run[-1][0]:.1f},{height}L{run[0][0]:.1f},{height}Z" for line, run in zip(lines, runs, strict=True)
    ]
    return Chart("".join(lines), "".join(areas))
