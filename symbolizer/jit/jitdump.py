"""Names and lines of code compiled while a program runs, from the jit-PID.dump that its compiler writes.

The format is perf's (Linux: tools/perf/Documentation/jitdump-specification.txt, tools/perf/util/jitdump.[ch]): a header
and records that are only ever appended. A record of a function's lines comes before that of its code. Each record has a
time, so code is named as it was when the samples were taken even where its memory was used for another since.
"""

from __future__ import annotations

import os
import time
from array import array
from bisect import bisect_right
from dataclasses import dataclass, replace
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from symbolizer.files import read_at
from symbolizer.jit.names import jit_frames, own_file, script_path, v8_script
from symbolizer.jit.overlaps import newest_wins
from symbolizer.names import clean_name
from symbolizer.types import Frame, Kind

MAX_FUNCTIONS = 250_000
MAX_NAMES_BYTES = 64 << 20
MAX_NAME = 4096
MAX_LINES_BYTES = 256 << 10
"""A larger record of lines is not read."""
MAX_RECORDS_AT_ONCE = 250_000
"""What refresh() reads at most; the rest is for the next time."""

_PIECE = 1 << 20
_MAGIC = 0x4A695444
_VERSION = 1
_HEADER_BYTES = 40
_MAX_HEADER = 1 << 20
_ARCH_TIMESTAMP = 1
_LOAD, _MOVE, _LINES = 0, 1, 2
_PREFIX_BYTES = 16
_LOAD_BYTES = _PREFIX_BYTES + 40
_MOVE_BYTES = _PREFIX_BYTES + 48
_LINES_BYTES = _PREFIX_BYTES + 16
_MAX_WAITING = 1024
_SAME_FILE = b"\xff"
# V8 counts from the start of the ELF file that `perf inject` makes of each function (src/diagnostics/perf-jit.cc).
_V8_SHIFT = 0x40
_NONE = newest_wins(np.empty(0, np.uint64), np.empty(0, np.uint64))


class JitDumpError(ValueError):
    """The file cannot serve as a jitdump file; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class _Format:
    header: Struct
    prefix: Struct
    load: Struct
    move: Struct
    lines: Struct
    line: Struct


def _format(order: str) -> _Format:
    return _Format(*(Struct(order + fields) for fields in ("6I2Q", "2IQ", "2I4Q", "2I5Q", "2Q", "Q2I")))


_LITTLE, _BIG = _format("<"), _format(">")

_Entry = tuple[int, str, int]
"""Address, file, line."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of one function: from starts[i] on its code came from entries[i], (file, line)."""

    starts: list[int]
    entries: list[tuple[str, int]]
    files: set[str]


class JitDump:
    """The jitdump file of one process, read on as it grows. Functions are numbered in the order of the file.

    `malformed` counts records that make no sense. `trouble` says, for people, why nothing is read any more: the file is
    damaged so that the next record cannot be found, or has more functions than are kept; "" where all is well.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.malformed = 0
        self.trouble = ""
        self._identity = (0, 0)
        self._header = b""
        self._format = _LITTLE
        self._timed = False
        self._at = 0
        self._names = bytearray()
        self._start, self._end, self._name_at = array("Q"), array("Q"), array("Q")
        # Where the record of a function's lines is, 0 for none, and what its code has moved by since.
        self._lines_at, self._moved = array("Q"), array("Q")
        self._by_index: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._unpacked: tuple[int, _Lines | None] = (-1, None)
        self._owners = _NONE

    def __len__(self) -> int:
        return len(self._start)

    @property
    def nbytes(self) -> int:
        return len(self._names) + len(self) * (5 * 8 + 100) + self._owners.nbytes

    def refresh(self, handle: int, until_ns: int | None = None) -> bool:
        """Reads what is new in the file, records later than `until_ns` (CLOCK_MONOTONIC) excepted, which are for the
        next time; False where numbers of functions given before hold no more. Raises OSError, JitDumpError."""
        status = os.fstat(handle)
        identity = (status.st_dev, status.st_ino)
        header = read_at(handle, 0, _HEADER_BYTES)
        holds = True
        if identity != self._identity or header != self._header or status.st_size < self._at:
            holds = not len(self)
            self.clear()
            if len(header) < _HEADER_BYTES:  # its compiler is about to write it
                return holds
            self._begin(header)
            self._identity, self._header = identity, header
        before = len(self)
        self._read(handle, status.st_size, until_ns)
        if len(self) != before:
            self._owners = newest_wins(np.array(self._start, np.uint64), np.array(self._end, np.uint64))
        return holds

    def _begin(self, header: bytes) -> None:
        self._format = _LITTLE if _LITTLE.header.unpack(header)[0] == _MAGIC else _BIG
        magic, version, size, _, _, _, began, flags = self._format.header.unpack(header)
        if magic != _MAGIC:
            raise JitDumpError("not a jitdump file")
        if version != _VERSION:
            raise JitDumpError(f"version {version} is not known")
        if not _HEADER_BYTES <= size <= _MAX_HEADER:
            raise JitDumpError("damaged header")
        self._at = size
        # Another clock than ours is of no use; compilers that do not say so are found by times yet to come.
        self._timed = not flags & _ARCH_TIMESTAMP and began <= time.monotonic_ns()

    def _read(self, handle: int, size: int, until_ns: int | None) -> None:
        now = time.monotonic_ns()
        until = now if until_ns is None or not self._timed else until_ns
        base, piece = 0, b""
        for _ in range(MAX_RECORDS_AT_ONCE):
            if self.trouble or self._at + _PREFIX_BYTES > size:
                return
            if min(self._at + _LOAD_BYTES + MAX_NAME, size) > base + len(piece):
                base, piece = self._at, read_at(handle, self._at, _PIECE)
            at = self._at - base
            if at + _PREFIX_BYTES > len(piece):
                return
            kind, length, when = self._format.prefix.unpack_from(piece, at)
            if length < _PREFIX_BYTES:
                self.trouble = "damaged"
                return
            if self._at + length > size or until < when <= now:
                return
            self._take(kind, piece[at : at + min(length, _LOAD_BYTES + MAX_NAME)])
            self._at += length

    def _take(self, kind: int, record: bytes) -> None:
        """Keeps what a record says. Those of kinds that have no part in names are passed over."""
        if kind == _LOAD and len(record) > _LOAD_BYTES:
            _, _, _, start, size, index = self._format.load.unpack_from(record, _PREFIX_BYTES)
            name = record[_LOAD_BYTES:].partition(b"\0")[0] or b"(anonymous)"
            if self._add(start, size, index, len(self._names), self._waiting.pop(start, 0), 0):
                self._names += name + b"\0"
        elif kind == _MOVE and len(record) >= _MOVE_BYTES:
            _, _, _, _, start, size, index = self._format.move.unpack_from(record, _PREFIX_BYTES)
            number = self._by_index.get(index)
            if number is None:
                self.malformed += 1
                return
            moved = (self._moved[number] + start - self._start[number]) % (1 << 64)
            self._add(start, size, index, self._name_at[number], self._lines_at[number], moved)
        elif kind == _LINES and len(record) >= _LINES_BYTES:
            start, _ = self._format.lines.unpack_from(record, _PREFIX_BYTES)
            if len(self._waiting) >= _MAX_WAITING:
                self._waiting.clear()
            self._waiting[start] = self._at
        elif kind in (_LOAD, _MOVE, _LINES):
            self.malformed += 1

    def _add(self, start: int, size: int, index: int, name_at: int, lines_at: int, moved: int) -> bool:
        if not size:  # a function without code
            return False
        if start + size >= 1 << 64:
            self.malformed += 1
            return False
        if len(self) >= MAX_FUNCTIONS or len(self._names) >= MAX_NAMES_BYTES:
            self.trouble = f"more than {len(self):,} functions"
            return False
        self._by_index[index] = len(self)
        self._start.append(start)
        self._end.append(start + size)
        self._name_at.append(name_at)
        self._lines_at.append(lines_at)
        self._moved.append(moved)
        return True

    def find(self, addresses: NDArray[np.uint64]) -> list[int]:
        """For each address the number of the newest function that holds it, or -1."""
        return self._owners.find(addresses)

    def frames(self, number: int, address: int, handle: int | None) -> tuple[Frame, ...]:
        """The frames at `address`, which is in function `number` as find() gave it, innermost first.

        Lines are read from the file, `handle`; None where it is gone. The file says from which line code came, not from
        which function: code of another source file than the function's own gets a frame of its own, without a name.
        """
        name_at = self._name_at[number]
        name = bytes(self._names[name_at : self._names.index(0, name_at)])
        frames = jit_frames(name)
        if handle is not None and self._unpacked[0] != number:
            self._unpacked = (number, self._lines(handle, number, v8_script(name)))
        lines = self._unpacked[1] if self._unpacked[0] == number else None
        if lines is None:
            return frames
        i = bisect_right(lines.starts, (address - self._moved[number]) % (1 << 64)) - 1
        if i < 0:
            return frames
        file, line = lines.entries[i]
        own = own_file(frames[-1], lines.files)
        if own in ("", file):
            return (replace(frames[0], file=file, line=line), *frames[1:])
        inlined = Frame(f"[inlined from {file}]", Kind.INLINED, file=file, line=line)
        return (inlined, *frames[:-1], replace(frames[-1], file=own, line=0))

    def _lines(self, handle: int, number: int, own: bytes | None) -> _Lines | None:
        """The lines of a function; None where it has none, or they make no sense. `own` is where V8 has it from."""
        at = self._lines_at[number]
        try:
            head = read_at(handle, at, _LINES_BYTES) if at else b""
            if len(head) < _LINES_BYTES:
                return None
            length = self._format.prefix.unpack_from(head)[1]
            record = read_at(handle, at, length) if length <= MAX_LINES_BYTES else b""
        except OSError:
            return None
        if len(record) < _LINES_BYTES or len(record) < length:
            return None
        start, count = self._format.lines.unpack_from(record, _PREFIX_BYTES)
        last = start + self._end[number] - self._start[number] + (0 if own is None else _V8_SHIFT)
        found = self._entries(record, count)
        if not _within(found, start, last) and own:
            found = self._entries_of_one_file(record, count, own)
        if not _within(found, start, last):
            return None
        if own is not None and min(found)[0] >= start + _V8_SHIFT:
            found = [(address - _V8_SHIFT, file, line) for address, file, line in found]
        found.sort(key=lambda entry: entry[0])
        entries = [(file, line) for _, file, line in found]
        return _Lines([address for address, _, _ in found], entries, {file for file, _ in entries})

    def _entries(self, record: bytes, count: int) -> list[_Entry]:
        """The entries of a record of lines; none where one of them is damaged."""
        entry, at, known = self._format.line, _LINES_BYTES, dict[bytes, str]()
        found: list[_Entry] = []
        file = ""
        for _ in range(min(count, len(record) // (entry.size + 1))):
            end = record.find(b"\0", at + entry.size)
            if end < 0:
                return []
            address, line, _ = entry.unpack_from(record, at)
            name = record[at + entry.size : end]
            if name != _SAME_FILE:
                file = known.get(name, "")
                if not file:
                    text = clean_name(name)
                    if text.encode() != name:
                        return []
                    file = known[name] = script_path(text)
            found.append((address, file, line if line < 1 << 31 else 0))
            at = end + 1
        return found

    def _entries_of_one_file(self, record: bytes, count: int, file: bytes) -> list[_Entry]:
        """The entries, if all are as long as those of this one file: V8 11 writes names that it has already freed, so
        that what stands in their place has any bytes, but as many."""
        size = self._format.line.size + len(file) + 1
        if not 0 <= len(record) - _LINES_BYTES - count * size < 8:
            return []
        path = script_path(clean_name(file))
        found = [self._format.line.unpack_from(record, _LINES_BYTES + i * size) for i in range(count)]
        return [(address, path, line) for address, line, _ in found if line < 1 << 31]


def _within(entries: list[_Entry], start: int, last: int) -> bool:
    return bool(entries) and all(start <= address <= last for address, _, _ in entries)
