"""Sorted ranges of addresses, small in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Addresses = NDArray[np.uint64]


class Ranges:
    """[start, end), sorted by start: from `base` on, in four bytes each where all of them lie within 4 GB, else eight.

    `starts` and `ends` count from `base`. They are memory, as a search through that by bisect takes less for the tens
    of addresses that are asked for at a time than numpy's calls do.
    """

    def __init__(self, start: Addresses, end: Addresses) -> None:
        """Of virtual addresses."""
        self.base = int(start[0]) if len(start) and int(end.max()) - int(start[0]) < 1 << 32 else 0
        kind = np.uint32 if self.base or not len(start) or int(end.max()) < 1 << 32 else np.uint64
        self._start = (start - np.uint64(self.base)).astype(kind)
        self._end = (end - np.uint64(self.base)).astype(kind)
        self.starts, self.ends = self._start.data, self._end.data

    def __len__(self) -> int:
        return len(self._start)

    @property
    def nbytes(self) -> int:
        return self._start.nbytes + self._end.nbytes

    @property
    def start(self) -> Addresses:
        """The virtual addresses, as a new array."""
        return self._start.astype(np.uint64) + np.uint64(self.base)

    @property
    def end(self) -> Addresses:
        return self._end.astype(np.uint64) + np.uint64(self.base)
