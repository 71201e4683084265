"""Lines of a function's source: which of them a selection's samples were on, as far as frames have lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Frame
from web.flamegraph.layout import LABELS
from web.flamegraph.names import visible
from web.store.ragged import Integers, Ragged


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A function as pictures show it: names as svg.visible() has them, and the kind by its label, too.

    `kind` or `binary` None stand for any.
    """

    name: str
    kind: str | None = None
    binary: str | None = None

    def fits(self, frame: Frame, binary: str) -> bool:
        return (
            self.name in (frame.function, visible(frame.function))
            and self.kind in (None, str(frame.kind), LABELS[frame.kind])
            and self.binary in (None, binary, visible(binary))
        )


@dataclass(frozen=True, slots=True)
class FunctionLines:
    """What a function weighs: `own` where it is the leaf, `total` where it is on the stack, in samples; and the same by
    line, in `rows` of file, line (0 and "" where unknown), self and total, the heaviest first.

    A sample counts once for a line. Where a function is on the stack twice, on two of its lines, it counts for both:
    the lines' totals may add up to more than the function's.
    """

    own: int
    total: int
    rows: list[dict[str, Any]]


def lines_of(
    frame_list: list[Frame], binaries: list[str], frames: Ragged, weight: NDArray[np.float64], wanted: FunctionName
) -> FunctionLines | None:
    """The lines of a function, None where it is on no stack.

    `frames` are the stacks, root first, as numbers of `frame_list` and `binaries`, and `weight` the count of each.
    """
    places: dict[tuple[str, int], int] = {}
    line_of = np.full(len(frame_list), -1, np.int64)
    for j, (frame, binary) in enumerate(zip(frame_list, binaries, strict=True)):
        if wanted.fits(frame, binary):
            line_of[j] = places.setdefault((frame.file, frame.line), len(places))
    flat, offsets = frames.packed()
    hits = np.flatnonzero(line_of[flat] >= 0)
    if not len(hits):
        return None
    counts = weight.astype(np.int64)
    row = np.searchsorted(offsets, hits, side="right") - 1
    pairs = np.unique(np.stack((row, line_of[flat[hits]]), 1), axis=0)
    own, total = _zeros(places), _zeros(places)
    np.add.at(total, pairs[:, 1], counts[pairs[:, 0]])
    leaf = hits == offsets[row + 1] - 1
    np.add.at(own, line_of[flat[hits[leaf]]], counts[row[leaf]])
    rows: list[dict[str, Any]] = [
        {"file": file, "line": line, "self": int(own[i]), "total": int(total[i])}
        for (file, line), i in places.items()
        if total[i]
    ]
    rows.sort(key=lambda found: (-found["total"], -found["self"], found["file"], found["line"]))
    return FunctionLines(int(own.sum()), int(counts[np.unique(row)].sum()), rows)


def _zeros(places: dict[tuple[str, int], int]) -> Integers:
    return np.zeros(len(places), np.int64)
