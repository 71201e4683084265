"""Rows of different lengths as flat numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Row i is `flat[start[i]:start[i] + length[i]]`. Rows may lie anywhere in `flat`, which may hold more (int32).

    Never changed once made: whoever has one may go on reading it while another is made from it.
    """

    flat: NDArray[np.int32]
    start: Integers
    length: Integers

    def __len__(self) -> int:
        return len(self.start)

    @property
    def nbytes(self) -> int:
        return self.flat.nbytes + self.start.nbytes + self.length.nbytes

    def take(self, rows: NDArray[Any]) -> Ragged:
        return Ragged(self.flat, self.start[rows], self.length[rows])

    def packed(self) -> tuple[NDArray[np.int32], Integers]:
        """All rows one after the other, and where each begins and the last ends."""
        offsets = csr(self.length)
        places = np.arange(offsets[-1])
        places += np.repeat(self.start - offsets[:-1], self.length)
        return self.flat[places], offsets


def csr(lengths: NDArray[Any]) -> Integers:
    """Lengths of rows → where each begins, and where the last ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


class Growing:
    """A flat array that is appended to: views of it that were given out stay as they are."""

    def __init__(self) -> None:
        self._buffer: NDArray[np.int32] = np.empty(1024, np.int32)
        self._used = 0

    def append(self, values: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
        """The whole array with `values` at its end, and where they begin."""
        begin, end = self._used, self._used + len(values)
        if end > len(self._buffer):
            grown = np.empty(max(end, end + end // 4), np.int32)
            grown[:begin] = self._buffer[:begin]
            self._buffer = grown
        self._buffer[begin:end] = values
        self._used = end
        return self._buffer[:end], begin
