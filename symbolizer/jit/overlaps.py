"""Ranges of addresses that overlap, the newest of which holds, made into ranges that do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Owners:
    """From bounds[i] up to bounds[i + 1] range number owner[i] holds; -1 is none. `bounds` are uint64 and sorted."""

    bounds: NDArray[np.uint64]
    owner: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        return self.bounds.nbytes + self.owner.nbytes

    def find(self, addresses: NDArray[np.uint64]) -> list[int]:
        """For each address the number of the range that holds it, or -1."""
        if not len(self.bounds):
            return [-1] * len(addresses)
        at = np.searchsorted(self.bounds, addresses, "right") - 1
        found: list[int] = np.where(at < 0, -1, self.owner[at]).tolist()
        return found


def newest_wins(start: NDArray[np.uint64], end: NDArray[np.uint64]) -> Owners:
    """Which of the ranges [start, end), none of them empty, holds where. They come oldest first.

    Every range is painted as two blocks of the largest power of two of pieces that fits into it, the blocks then
    halved, level by level, the newer paint covering the older: n log n however much they overlap.
    """
    both = np.concatenate([start, end])
    order = np.argsort(both)
    both = both[order]
    new = np.append(True, both[1:] != both[:-1])[: len(both)]
    bounds = both[new]
    owner = np.full(len(bounds), -1, np.int32)
    if not len(bounds):
        return Owners(bounds, owner)
    rank = np.empty(len(both), np.int32)
    rank[order] = np.cumsum(new) - 1
    first, past = rank[: len(start)], rank[len(start) :]
    level = np.frexp(past - first)[1] - 1
    by_level = np.argsort(level, kind="stable").astype(np.int32)  # within a level the newest stays last
    ends = np.searchsorted(level[by_level], np.arange(int(level.max()) + 2))
    for k in range(int(level.max()), -1, -1):
        size = 1 << k
        halved = owner.copy()
        np.maximum(halved[size:], owner[:-size], out=halved[size:])
        owner = halved
        here = by_level[ends[k] : ends[k + 1]]
        for at in (first[here], past[here] - size):
            owner[at] = np.maximum(owner[at], here)  # of several for one place the last, the newest, stays
    kept = np.append(True, owner[1:] != owner[:-1])
    return Owners(bounds[kept], owner[kept])
