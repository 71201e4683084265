"""Names of code compiled while a program runs, from the /tmp/perf-PID.map that its compiler writes.

A line is "START SIZE NAME", numbers in hex (Linux: tools/perf/Documentation/jit-interface.txt).
Compilers append to the file as they go, and reuse memory: of entries that overlap the newest holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symbolizer.files import read_at
from symbolizer.names import clean_name
from symbolizer.symbols import PackedStrings
from symbolizer.types import Frame, Kind

MAX_BYTES = 64 << 20
_PIECE = 4 << 20
_MAX_PARTS = 128
_MAX_DIGITS = 16
_MAX_STEPS_BACK = 256
_PYTHON = re.compile(r"py::(.+?):(.*)", re.DOTALL)

# The value of a hex digit; 255 for all other bytes.
_DIGIT = np.full(256, 255, np.uint8)
for _i, _c in enumerate("0123456789abcdef"):
    _DIGIT[ord(_c)] = _DIGIT[ord(_c.upper())] = _i


class PerfMapError(ValueError):
    """The file cannot serve as a perf map; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Functions in the order of the file: [start, end) uint64 addresses and offsets of names.

    `malformed` counts lines that are not entries. `size` is the number of bytes that end in a whole
    line; what follows them was read too, but is to be read again when the file has grown.
    """

    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    name: NDArray[np.int64]
    malformed: int
    size: int


class PerfMap:
    """The perf map of one process, read on as it grows."""

    def __init__(self) -> None:
        self.malformed = 0
        self._identity = (0, 0)
        self._version = (-1, -1)
        self._parts: list[tuple[Entries, PackedStrings]] = []
        self._size = 0
        self._start = np.empty(0, np.uint64)
        self._end = np.empty(0, np.uint64)
        self._furthest = np.empty(0, np.uint64)
        self._age = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._start)

    @property
    def nbytes(self) -> int:
        arrays = self._start.nbytes * 4 + sum(entries.name.nbytes for entries, _ in self._parts)
        return arrays + sum(strings.nbytes for _, strings in self._parts)

    def refresh(self, handle: int) -> bool:
        """Reads what is new in the file; says whether anything was. Raises OSError, PerfMapError.

        A file that is another one than last time, or was cut, is read from its start.
        """
        status = os.fstat(handle)
        identity, version = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        if identity == self._identity and version == self._version:
            return False
        if status.st_size > MAX_BYTES:
            raise PerfMapError(f"larger than {MAX_BYTES >> 20} MB")
        # After many small additions all is read again, so that the parts do not become too many.
        many = len(self._parts) > _MAX_PARTS
        if identity != self._identity or status.st_size < self._version[0] or many:
            self._parts, self._size, self.malformed = [], 0, 0
        elif self._parts and self._parts[-1][0].size == 0:
            self._parts.pop()  # an unfinished last line
        self._identity, self._version = identity, version
        for text, whole in _pieces(handle, self._size):
            entries, names = parse_perf_map(text)
            if not whole:
                entries = Entries(entries.start, entries.end, entries.name, 0, 0)
            self._parts.append((entries, PackedStrings([names], b"\n")))
            self._size += entries.size
            self.malformed += entries.malformed
        self._sort()
        return True

    def _sort(self) -> None:
        start = np.concatenate([np.empty(0, np.uint64), *(entries.start for entries, _ in self._parts)])
        end = np.concatenate([np.empty(0, np.uint64), *(entries.end for entries, _ in self._parts)])
        age = np.lexsort((np.arange(len(start)), start))
        start, end = start[age], end[age]
        newest = np.append(start[1:] != start[:-1], True) if len(start) else np.empty(0, bool)
        self._start, self._end, self._age = start[newest], end[newest], age[newest]
        self._furthest = np.maximum.accumulate(self._end)

    def find(self, addresses: NDArray[np.uint64]) -> list[int]:
        """For each address the number of the newest entry that holds it, or -1."""
        if not len(self):
            return [-1] * len(addresses)
        last = (np.searchsorted(self._start, addresses, "right") - 1).tolist()
        return [self._newest(i, address) for i, address in zip(last, addresses.tolist(), strict=True)]

    def _newest(self, i: int, address: int) -> int:
        best, age = -1, -1
        for j in range(i, max(i - _MAX_STEPS_BACK, -1), -1):
            if address >= self._furthest[j]:
                break
            if address < self._end[j] and self._age[j] > age:
                best, age = int(self._age[j]), int(self._age[j])
        return best

    def frame(self, number: int) -> Frame:
        """The function of entry `number`, as find() gave it."""
        for entries, strings in self._parts:
            if number < len(entries.start):
                return jit_frame(strings.at(int(entries.name[number])))
            number -= len(entries.start)
        raise IndexError(number)


def jit_frame(name: bytes) -> Frame:
    """The frame for a perf map's name: CPython's "py::function:file" is taken apart, all else kept."""
    text = clean_name(name)
    if match := _PYTHON.fullmatch(text):
        return Frame(match[1], Kind.PYTHON, file=match[2])
    return Frame(text, Kind.JIT)


def _pieces(handle: int, offset: int) -> Iterator[tuple[bytes, bool]]:
    """(text, whether its last line is whole): all of it whole lines but for what ends the file."""
    rest = b""
    while offset < MAX_BYTES + _PIECE:
        data = read_at(handle, offset, _PIECE)
        offset += len(data)
        rest += data
        end = rest.rfind(b"\n") + 1
        if end:
            yield rest[:end], True
            rest = rest[end:]
        if len(data) < _PIECE:
            break
    if rest:
        yield rest, False


def parse_perf_map(text: bytes) -> tuple[Entries, bytes]:
    """The entries of a text, and the bytes that their names' offsets count in (names end with \\n)."""
    data = np.frombuffer(text + b"\n", np.uint8)
    ends = np.flatnonzero(data == 10)
    starts = np.append(0, ends[:-1] + 1)
    used = ends > starts  # an empty line is no mistake
    starts, ends = starts[used], ends[used]
    lines = len(starts)
    start, at = _hex_field(data, starts, ends)
    size, name = _hex_field(data, at, ends)
    good = (at > starts) & (name > at) & (name < ends) & (size > 0) & (start <= ~size)
    starts, name, start, size = starts[good], name[good], start[good], size[good]
    whole = len(text) if text.endswith(b"\n") else text.rfind(b"\n") + 1
    return Entries(start, start + size, name, lines - len(start), whole), text + b"\n"


def _hex_field(
    data: NDArray[np.uint8], at: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hex number (with or without 0x) at each place and the place after the blank that ends it.

    Where there is none the place after it is 0.
    """
    prefixed = (at + 2 < ends) & (data[at] == ord("0")) & (data[np.minimum(at + 1, ends)] | 32 == ord("x"))
    first = at + 2 * prefixed
    value = np.zeros(len(at), np.uint64)
    here, open_ = first.copy(), np.ones(len(at), bool)
    for _ in range(_MAX_DIGITS):
        digit = _DIGIT[data[np.minimum(here, ends)]]
        open_ &= digit != 255
        if not open_.any():
            break
        value[open_] = (value[open_] << np.uint64(4)) | digit[open_]
        here += open_
    good = (here > first) & (here < ends) & (data[here] == ord(" "))
    return value, np.where(good, here + 1, 0)
