"""What is mapped where in one process, by its MMAP2 records or by /proc.

Most processes are sampled in a few places or not at all, and many live for milliseconds: so records are kept as they
came, put in order when an address is first looked up, and made into a Mapping only where an address falls into one.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from symbolizer.types import Mapping

_PLACE = struct.Struct("=QQQ")  # address, length, offset in the file; from byte 8 of a MMAP2 record's body
_DEVICE = struct.Struct("=IIQ")  # major, minor, inode; from byte 32
_FILE_FROM = 32
_MOST_WAITING = 256
_MOST_FILES = 20_000

File = tuple[str, str, int, int]  # path, build id, device, inode
Range = tuple[int, int, int, File]  # start, end, offset in the file, file

_files: dict[bytes, File] = {}


class AddressSpace:
    """The executable mappings of one process from one exec (or its fork) on. Where they overlap the newest wins."""

    __slots__ = ("_identified", "_ranges", "_waiting")

    def __init__(self, mappings: Iterable[Mapping] = ()) -> None:
        """`mappings` are in the order of their addresses and do not overlap."""
        self._ranges: list[Range] = [
            (m.start, m.end, m.offset, (m.path, m.build_id, m.device, m.inode)) for m in mappings
        ]
        self._waiting: list[bytes] = []
        self._identified = False

    def add(self, body: bytes) -> None:
        """Takes the body of a MMAP2 record in."""
        self._waiting.append(body)
        if len(self._waiting) > _MOST_WAITING:
            self._put_in_order()

    def copy(self) -> AddressSpace:
        """The same, as a forked child begins with."""
        twin = AddressSpace()
        twin._ranges, twin._waiting, twin._identified = self._ranges, self._waiting[:], self._identified
        return twin

    def __len__(self) -> int:
        return len(self._ranges) + len(self._waiting)

    def ranges(self) -> Sequence[Range]:
        """All mappings in force, by address; not to be changed."""
        self._put_in_order()
        return self._ranges

    def identify(self, build_id_of: Callable[[Mapping], str], identified: dict[File, File]) -> None:
        """Gives the mappings that came since the last call their files' build ids. Files in `identified` have been
        asked for, and others are added to it."""
        self._put_in_order()
        if self._identified:
            return
        self._identified = True
        ranges = []
        for found in self._ranges:
            start, end, offset, file = found
            if file[3] and not file[1]:  # memory that is no file's has no inode
                known = identified.get(file)
                if known is None:
                    path, _, device, inode = file
                    known = identified[file] = path, build_id_of(_mapping(found)), device, inode
                if known[1]:
                    found = start, end, offset, known
            ranges.append(found)
        self._ranges = ranges

    def mappings(self) -> list[Mapping]:
        """All mappings in force, by address."""
        self._put_in_order()
        return [_mapping(found) for found in self._ranges]

    def find(self, addresses: Sequence[int]) -> list[Mapping | None]:
        """The mapping in force at each address, None where there is none."""
        self._put_in_order()
        ranges = self._ranges
        starts = [found[0] for found in ranges]
        made: dict[int, Mapping] = {}
        answers: list[Mapping | None] = []
        for address in addresses:
            at = bisect_right(starts, address) - 1
            if at < 0 or address >= ranges[at][1]:
                answers.append(None)
                continue
            mapping = made.get(at)
            if mapping is None:
                mapping = made[at] = _mapping(ranges[at])
            answers.append(mapping)
        return answers

    def _put_in_order(self) -> None:
        if not self._waiting:
            return
        ranges = self._ranges[:]  # a forked child may hold the same list
        for body in self._waiting:
            _map_over(ranges, _range(body))
        self._ranges, self._waiting, self._identified = ranges, [], False


def _range(body: bytes) -> Range:
    start, length, offset = _PLACE.unpack_from(body, 8)
    # Processes map the same files over and over: what a record says of its file is read once.
    said = body[_FILE_FROM:]
    file = _files.get(said)
    if file is None:
        if len(_files) > _MOST_FILES:
            _files.clear()
        file = _files[said] = _file(body)
    return start, start + length, offset, file


def _file(body: bytes) -> File:
    path = os.fsdecode(body[64:].split(b"\0", 1)[0])
    major, minor, inode = _DEVICE.unpack_from(body, _FILE_FROM)
    return path, "", os.makedev(major, minor), inode


def _mapping(found: Range) -> Mapping:
    start, end, offset, (path, build_id, device, inode) = found
    return Mapping(start, end, offset, path, build_id, device, inode)


def _map_over(ranges: list[Range], new: Range) -> None:
    """Puts a range among others that do not overlap, cutting away what it covers, as mmap(MAP_FIXED) does."""
    start, end = new[0], new[1]
    first = bisect_right(ranges, start, key=_end)
    last = first
    before: list[Range] = []
    after: list[Range] = []
    while last < len(ranges) and ranges[last][0] < end:
        old_start, old_end, offset, file = ranges[last]
        if old_start < start:
            before.append((old_start, start, offset, file))
        if old_end > end:
            after.append((end, old_end, offset + end - old_start, file))
        last += 1
    ranges[first:last] = [*before, new, *after]


def _end(found: Range) -> int:
    return found[1]
