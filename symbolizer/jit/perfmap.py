"""Names of code compiled while a program runs, from the /tmp/perf-PID.map that its compiler writes.

A line is "START SIZE NAME", numbers in hex (Linux: tools/perf/Documentation/jit-interface.txt).
Compilers append to the file as they go, and reuse memory: of entries that overlap the newest holds. Some, the JVM for
one, write the whole file anew when asked to, in place. An entry says nothing of when: what is in the file at the end of
a window is what its samples are named by.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symbolizer.files import read_at
from symbolizer.jit.names import jit_frames
from symbolizer.jit.overlaps import newest_wins
from symbolizer.symbols import PackedStrings
from symbolizer.types import Frame

MAX_BYTES = 64 << 20
MAX_ENTRIES = 1_000_000
"""Lines that are no entries count as well."""
_PIECE = 1 << 20
_LONGEST_LINE = 1 << 20
_MAX_PARTS = 128
_MAX_DIGITS = 16
_FINGERPRINT = 4096
_NONE = newest_wins(np.empty(0, np.uint64), np.empty(0, np.uint64))

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
    """The perf map of one process, read on as it grows. Entries are numbered in the order of the file."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.malformed = 0
        self._identity = (0, 0)
        self._version = (-1, -1)
        self._fingerprint = b""
        self._parts: list[tuple[Entries, PackedStrings]] = []
        self._size = 0
        self._owners = _NONE

    def __len__(self) -> int:
        return sum(len(entries.start) for entries, _ in self._parts)

    @property
    def nbytes(self) -> int:
        return self._owners.nbytes + sum(entries.start.nbytes * 3 + strings.nbytes for entries, strings in self._parts)

    def refresh(self, handle: int) -> bool:
        """Reads what is new in the file; False where numbers of entries given before hold no more.

        A file that is another one than last time, or was cut or written anew, is read from its start. Raises OSError,
        PerfMapError.
        """
        status = os.fstat(handle)
        identity, version = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        if identity == self._identity and version == self._version:
            return True
        if status.st_size > MAX_BYTES:
            raise PerfMapError(f"larger than {MAX_BYTES >> 20} MB")
        holds = True
        anew = identity != self._identity or status.st_size < self._version[0]
        if anew or _ends(handle, self._size) != self._fingerprint:
            holds = not self._parts
            self.clear()
        elif self._parts and self._parts[-1][0].size == 0:
            holds = False
            self._parts.pop()  # an unfinished last line
        if len(self._parts) > _MAX_PARTS:
            # After many small additions all is read again, so that the parts do not become too many.
            self._parts, self._size, self.malformed = [], 0, 0
        self._identity, self._version = identity, version
        for text, whole in _pieces(handle, self._size):
            if not whole and len(text) > _LONGEST_LINE:
                self.clear()
                raise PerfMapError(f"a line of more than {_LONGEST_LINE >> 20} MB")
            entries, names = parse_perf_map(text)
            if not whole:
                entries = Entries(entries.start, entries.end, entries.name, 0, 0)
            self._parts.append((entries, PackedStrings([names], b"\n")))
            self._size += entries.size
            self.malformed += entries.malformed
            if len(self) + self.malformed > MAX_ENTRIES:
                self.clear()
                raise PerfMapError(f"more than {MAX_ENTRIES:,} entries")
        self._fingerprint = _ends(handle, self._size)
        start = np.concatenate([np.empty(0, np.uint64), *(entries.start for entries, _ in self._parts)])
        end = np.concatenate([np.empty(0, np.uint64), *(entries.end for entries, _ in self._parts)])
        self._owners = newest_wins(start, end)
        return holds

    def find(self, addresses: NDArray[np.uint64]) -> list[int]:
        """For each address the number of the newest entry that holds it, or -1."""
        return self._owners.find(addresses)

    def frames(self, number: int) -> tuple[Frame, ...]:
        """The function of entry `number`, as find() gave it, behind those inlined into it."""
        for entries, strings in self._parts:
            if number < len(entries.start):
                return jit_frames(strings.at(int(entries.name[number])))
            number -= len(entries.start)
        raise IndexError(number)


def _ends(handle: int, size: int) -> bytes:
    """What the first `size` bytes of a file begin and end with: other bytes where it was written anew."""
    some = min(size, _FINGERPRINT)
    return read_at(handle, 0, some) + read_at(handle, size - some, some)


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
        if len(data) < _PIECE or len(rest) > _LONGEST_LINE:
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
