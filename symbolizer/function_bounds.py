"""Where the functions of a file begin and end by its call frame information, for code that has no symbols.

Compilers describe every function in .eh_frame (LSB core 5.0, 10.6: an FDE each), and strip leaves that in place.
.eh_frame_hdr (10.6.2) lists where all FDEs are, so they are read without a walk from each to the next; where a linker
left that list out, or it is in a form that none writes, the walk is made. All else is done with numpy.

What it costs is bounded by the size of the section and the limits below, whatever the file claims.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from symbolizer.elf import Elf, Segment
from symbolizer.ranges import Addresses, Ranges

MAX_SECTION_BYTES = 48 << 20
MAX_ENTRIES = 1 << 20
_MAX_CIES = 1 << 12
_MAX_CIE_BYTES = 1 << 10
_MAX_EXECUTABLE = 256
_HEADER_BYTES = 32

# Encodings of pointers (LSB core, 10.5.1): the low four bits say the form, the next three what it is relative to.
_OMITTED = 0xFF
_INDIRECT = 0x80
_ABSOLUTE, _PC_RELATIVE, _DATA_RELATIVE = 0x00, 0x10, 0x30
_FORMS = {0x2: "u2", 0x3: "u4", 0x4: "u8", 0xA: "i2", 0xB: "i4", 0xC: "i8"}
_NATIVE_FORMS = (0x0, 0x8)  # of an address's size, unsigned and signed


@dataclass(frozen=True, slots=True)
class _Frames:
    """.eh_frame, or what of it was read: `data` as bytes and, for numpy, as an array of them."""

    data: bytes
    array: NDArray[np.uint8]
    address: int
    order: str
    width: int
    """Bytes of an address: 4 or 8."""


def bounds(elf: Elf) -> Ranges:
    """Where functions begin and end, by virtual address, apart from each other; none where that is unknown.

    A function begins in executable code and ends with it at the latest; one that reaches into the next ends there.
    Raises only what reading the file raises: of a damaged section as much as is whole is kept.
    """
    order, width = "<" if elf.structs.little_endian else ">", elf.structs.elfclass // 8
    found = _listed(elf, order, width)
    if found is None:
        frames = _section(elf, order, width)
        found = (frames, _walk(frames)) if frames is not None else None
    if found is None:
        return Ranges(*_nothing())
    starts, sizes = _described(*found)
    return Ranges(*_apart(starts, sizes, elf.segments))


def starts_of(functions: Ranges, addresses: Sequence[int]) -> list[int | None]:
    """For each virtual address where the function begins that it lies in, by `bounds`; None where in none."""
    base, starts, ends = functions.base, functions.starts, functions.ends
    found: list[int | None] = []
    for address in addresses:
        at = bisect_right(starts, address - base) - 1
        found.append(base + starts[at] if at >= 0 and address - base < ends[at] else None)
    return found


def _nothing() -> tuple[Addresses, Addresses]:
    return np.empty(0, np.uint64), np.empty(0, np.uint64)


# Where the FDEs are


def _listed(elf: Elf, order: str, width: int) -> tuple[_Frames, NDArray[np.int64]] | None:
    """.eh_frame and the places of all FDEs in it, by .eh_frame_hdr; None where that does not tell."""
    header = next((segment for segment in elf.segments if segment.kind == "PT_GNU_EH_FRAME"), None)
    if header is None:
        return None
    head = elf.read(header.offset, min(header.size, _HEADER_BYTES))
    if len(head) < 4 or head[0] != 1:
        return None
    frames_encoding, count_encoding, table_encoding = head[1:4]
    count_form, entry_form = _form(count_encoding, width), _form(table_encoding, width)
    frames_form = _form(frames_encoding, width)
    if not (count_form and entry_form and frames_form) or table_encoding & 0x70 != _DATA_RELATIVE:
        return None
    first, second = np.dtype(order + frames_form), np.dtype(order + count_form)
    table_at = 4 + first.itemsize + second.itemsize
    if len(head) < table_at:
        return None
    address = _based(int(np.frombuffer(head, first, 1, 4)[0]), frames_encoding, header.address + 4, header.address)
    count = int(np.frombuffer(head, second, 1, 4 + first.itemsize)[0])
    frames = _read_from(elf, address % 2 ** (8 * width), order, width)
    if frames is None or not 0 < count <= MAX_ENTRIES:
        return None
    entry = np.dtype([("start", order + entry_form), ("at", order + entry_form)])
    size = min(count * entry.itemsize, max(header.size - table_at, 0))
    data = elf.read(header.offset + table_at, size)
    table = np.frombuffer(data, entry, len(data) // entry.itemsize)
    base = np.uint64((header.address - frames.address) % 2**64)
    places = (table["at"].astype(np.int64).view(np.uint64) + base).view(np.int64)
    return frames, np.unique(places[(places >= 0) & (places < len(frames.data))])


def _form(encoding: int, width: int) -> str:
    """The numpy type, but for its byte order, of a pointer with this encoding; "" where it has none."""
    if encoding == _OMITTED or encoding & _INDIRECT:
        return ""
    low = encoding & 0xF
    if low in _NATIVE_FORMS:
        return ("i" if low else "u") + str(width)
    return _FORMS.get(low, "")


def _based(value: int, encoding: int, here: int, header: int) -> int:
    relative = encoding & 0x70
    return value + (here if relative == _PC_RELATIVE else header if relative == _DATA_RELATIVE else 0)


def _read_from(elf: Elf, address: int, order: str, width: int) -> _Frames | None:
    """What the file holds from `address` on, to the end of the load segment."""
    for segment in elf.segments:
        into = address - segment.address
        if segment.kind == "PT_LOAD" and 0 <= into < segment.size:
            data = elf.read(segment.offset + into, min(segment.size - into, MAX_SECTION_BYTES))
            return _Frames(data, np.frombuffer(data, np.uint8), address, order, width)
    return None


def _section(elf: Elf, order: str, width: int) -> _Frames | None:
    """The section .eh_frame by its name."""
    for section in elf.sections:
        if section.kind != "SHT_NOBITS" and elf.section_name(section) == b".eh_frame":
            data = elf.read(section.offset, min(section.size, MAX_SECTION_BYTES))
            return _Frames(data, np.frombuffer(data, np.uint8), section.address, order, width)
    return None


def _walk(frames: _Frames) -> NDArray[np.int64]:
    """The places of all entries, from each to the next; an entry longer than what is left ends it."""
    data, end = frames.data, len(frames.data)
    word, wide = struct.Struct(frames.order + "I"), struct.Struct(frames.order + "Q")
    found = array("q")
    at = 0
    for _ in range(MAX_ENTRIES):
        if at + 4 > end:
            break
        (length,) = word.unpack_from(data, at)
        following = at + 4 + length
        if length == 0xFFFFFFFF and at + 12 <= end:
            following = at + 12 + wide.unpack_from(data, at + 4)[0]
        if following > end:
            break
        if length:
            found.append(at)
        at = following
    return np.frombuffer(found, np.int64)


# What the FDEs say


def _described(frames: _Frames, places: NDArray[np.int64]) -> tuple[Addresses, Addresses]:
    """Starts and sizes of the functions whose FDEs are at `places`, in no order; CIEs among these do not matter."""
    length, whole = _numbers(frames, places, "u4")
    wide = whole & (length == np.uint64(0xFFFFFFFF))
    ids = places + np.where(wide, 12, 4)
    length[wide] = _numbers(frames, places[wide] + 4, "u8")[0]
    # The pointer to the CIE has four bytes also where the length has twelve, and says how far before itself that is.
    back, has_id = _numbers(frames, ids, "u4")
    owners = ids - back.astype(np.int64)
    fits = has_id & (back > 0) & (owners >= 0) & (length <= np.uint64(len(frames.data)))
    ids, owners, length = ids[fits], owners[fits], length[fits]
    starts, sizes = [], []
    at_cie, which = np.unique(owners, return_inverse=True)
    encodings = [_encoding(frames, int(at)) for at in at_cie[:_MAX_CIES]]
    of_entry = np.array([*encodings, _OMITTED], np.int64)[np.minimum(which, len(encodings))]
    for encoding in set(encodings):
        form, base = _form(encoding, frames.width), encoding & 0x70
        if not form or base not in (_ABSOLUTE, _PC_RELATIVE):
            continue
        mine = of_entry == encoding
        here = ids[mine] + 4
        bytes_each = np.dtype(form).itemsize
        start, has_start = _numbers(frames, here, form)
        size, has_size = _numbers(frames, here + bytes_each, form.replace("i", "u"))  # a size has no sign
        if base == _PC_RELATIVE:
            start += here.astype(np.uint64) + np.uint64(frames.address)
        keep = has_start & has_size & (length[mine] >= np.uint64(4 + 2 * bytes_each))
        starts.append(start[keep])
        sizes.append(size[keep])
    if not starts:
        return _nothing()
    found = np.concatenate(starts)
    return found & np.uint64(0xFFFFFFFF) if frames.width == 4 else found, np.concatenate(sizes)


def _numbers(frames: _Frames, places: NDArray[np.int64], form: str) -> tuple[Addresses, NDArray[np.bool_]]:
    """The number of this form at each place, as a uint64 with its sign kept, and whether the data reach that far."""
    size = int(form[1:])
    whole = (places >= 0) & (places <= len(frames.data) - size)
    if not whole.any():
        return np.zeros(len(places), np.uint64), whole
    parts = sliding_window_view(frames.array, size)[np.where(whole, places, 0)]
    numbers = parts.view(frames.order + form)[:, 0]
    return numbers.astype(np.int64).view(np.uint64) if form[0] == "i" else numbers.astype(np.uint64), whole


def _encoding(frames: _Frames, at: int) -> int:
    """How the CIE at `at` says that its FDEs encode addresses; that of "omitted" where it does not, or is damaged."""
    data = frames.data[at : at + _MAX_CIE_BYTES]
    try:
        (length,) = struct.unpack_from(frames.order + "I", data)
        at = 12 if length == 0xFFFFFFFF else 4
        version, ended = data[at + 4], data.index(0, at + 5)
        if data[at : at + 4] != b"\0\0\0\0" or version not in (1, 3):
            return _OMITTED
        letters = data[at + 5 : ended].decode("latin-1")
        at = ended + 1
        if letters.startswith("eh"):  # gcc 2: a pointer to its exception table
            letters, at = letters[2:], at + frames.width
        if not letters.startswith("z"):
            return _ABSOLUTE
        for _ in range(2):  # the factors of code and data addresses
            at = _after_leb(data, at)
        at = at + 1 if version == 1 else _after_leb(data, at)  # the column of the return address
        at = _after_leb(data, at)  # how long what follows is
        for letter in letters[1:]:
            if letter == "R":
                return data[at]
            if letter == "P":  # the routine that handles exceptions
                form = _form(data[at] & 0x7F, frames.width)
                if not form or data[at] & 0x70 == 0x50:  # aligned, in no file yet seen
                    return _OMITTED
                at += 1 + int(form[1:])
            elif letter == "L":
                at += 1
            elif letter not in "SB":  # a signal's frame; return addresses signed with key B
                return _OMITTED
        return _ABSOLUTE
    except (IndexError, ValueError, struct.error):
        return _OMITTED


def _after_leb(data: bytes, at: int) -> int:
    """Where the LEB128 number (DWARF 5, 7.6) at `at` ends. Raises IndexError."""
    while data[at] & 0x80:
        at += 1
    return at + 1


# What of that can be


def _apart(starts: Addresses, sizes: Addresses, segments: tuple[Segment, ...]) -> tuple[Addresses, Addresses]:
    """The functions in order, none reaching into the next or beyond its executable segment; of several that begin at
    one address the longest."""
    limits = np.zeros(len(starts), np.uint64)
    executable = [segment for segment in segments if segment.kind == "PT_LOAD" and segment.executable]
    for segment in executable[:_MAX_EXECUTABLE]:
        end = min(segment.address + segment.size, 2**64 - 1)
        inside = (starts >= np.uint64(segment.address)) & (starts < np.uint64(end))
        limits[inside] = np.uint64(end)
    keep = (limits > starts) & (sizes > 0)
    starts, sizes, limits = starts[keep], sizes[keep], limits[keep]
    ends = starts + np.minimum(sizes, limits - starts)
    order = np.lexsort((~ends, starts))
    starts, ends = starts[order], ends[order]
    first = np.append(True, starts[1:] != starts[:-1])[: len(starts)]
    starts, ends = starts[first], ends[first]
    return starts, np.minimum(ends, np.append(starts[1:], np.uint64(2**64 - 1))[: len(starts)])
