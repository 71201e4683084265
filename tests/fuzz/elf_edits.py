"""Changes of ELF files that know where headers, sections and their contents are (System V ABI, gabi chapters 4, 5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.mutate import change_bytes, change_in_place, number

_HEADER = {1: "HHIIIIIHHHHHH", 2: "HHIQQQIHHHHHH"}
_SECTION = {1: "IIIIIIIIII", 2: "IIQQQQIIQQ"}
_SEGMENT = {1: "IIIIIIII", 2: "IIQQQQQQ"}
_AT_SEGMENTS, _AT_SECTIONS, _SIZES = 4, 5, slice(8, 13)
_KIND, _OFFSET, _BYTES, _LINK = 1, 4, 5, 6
_NOBITS = 8
_KINDS = [0, 1, 2, 3, 4, 7, 8, 11, 0x6FFFFFFF, 0x6FFFFFFE, 0x60000000, 5, 6]


@dataclass(slots=True)
class _Header:
    """The numbers of one header and where it is."""

    at: int
    layout: struct.Struct
    fields: list[int]
    bits: list[int]

    def write(self, data: bytearray) -> None:
        self.layout.pack_into(data, self.at, *self.fields)


@dataclass(slots=True)
class _Parts:
    header: _Header
    sections: list[_Header]
    segments: list[_Header]


def _read(data: bytes, at: int, fields: str, order: str) -> _Header:
    layout = struct.Struct(order + fields)
    bits = [8 * struct.calcsize("=" + field) for field in fields]
    return _Header(at, layout, list(layout.unpack_from(data, at)), bits)


def _parts(data: bytes) -> _Parts | None:
    if len(data) < 16 or data[:4] != b"\x7fELF" or data[4] not in (1, 2):
        return None
    wide, order = data[4], ">" if data[5] == 2 else "<"
    try:
        header = _read(data, 16, _HEADER[wide], order)
        _, count_of_segments, _, count, _ = header.fields[_SIZES]
        starts = header.fields[_AT_SEGMENTS], header.fields[_AT_SECTIONS]
        sizes = struct.calcsize("=" + _SEGMENT[wide]), struct.calcsize("=" + _SECTION[wide])
        segments = [
            _read(data, starts[0] + i * sizes[0], _SEGMENT[wide], order) for i in range(min(count_of_segments, 64))
        ]
        sections = [_read(data, starts[1] + i * sizes[1], _SECTION[wide], order) for i in range(min(count, 128))]
    except (struct.error, OverflowError):
        return None
    return _Parts(header, sections, segments)


def _names(data: bytes, parts: _Parts) -> list[bytes]:
    number_of_names = parts.header.fields[12]
    if not number_of_names < len(parts.sections):
        return [b""] * len(parts.sections)
    at = parts.sections[number_of_names].fields[_OFFSET]
    return [data[at + part.fields[0] :][:40].partition(b"\0")[0] for part in parts.sections]


def elf_changes(*wanted: bytes) -> Callable[[Random, bytes, Sequence[bytes]], bytes]:
    """Changes of an ELF file; of sections those whose names begin with one of `wanted` are changed most often."""

    def change(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        parts = _parts(data)
        if parts is None or not parts.sections:
            return change_bytes(random, data, others)
        names = _names(data, parts)
        of_interest = [
            section for section, name in zip(parts.sections, names, strict=True) if wanted and name.startswith(wanted)
        ]
        section = random.choice(of_interest if of_interest and random.random() < 0.8 else parts.sections)
        found = bytearray(data)
        kind = random.randrange(12)
        if kind == 0:
            _edit(random, parts.header, range(13), found)
        elif kind == 1 and parts.segments:
            _edit(random, random.choice(parts.segments), range(8), found)
        elif kind in (2, 3):
            _edit(random, section, range(10), found)
        elif kind == 4:
            other = random.choice(parts.sections)
            section.fields[_OFFSET], section.fields[_BYTES] = other.fields[_OFFSET], other.fields[_BYTES]
            section.write(found)
        elif kind == 5:
            section.fields[_LINK] = random.randrange(len(parts.sections))
            if random.random() < 0.5:
                section.fields[_KIND] = random.choice(_KINDS)
            section.write(found)
        elif kind == 6 and others:
            _graft(random, section, found, random.choice(others), wanted)
        elif kind == 7:
            return change_bytes(random, data, others)
        else:
            _change_content(random, section, found)
        return bytes(found)

    return change


def _edit(random: Random, header: _Header, fields: range, data: bytearray) -> None:
    which = random.choice(fields)
    header.fields[which] = number(random, header.fields[which], header.bits[which])
    header.write(data)


def _change_content(random: Random, section: _Header, data: bytearray) -> None:
    at, size = section.fields[_OFFSET], section.fields[_BYTES]
    if section.fields[_KIND] == _NOBITS or not 0 <= at < len(data):
        return
    content = bytes(data[at : at + size])
    for _ in range(random.choice((1, 1, 2, 4))):
        content = change_in_place(random, content)
    data[at : at + len(content)] = content


def _graft(random: Random, section: _Header, data: bytearray, other: bytes, wanted: tuple[bytes, ...]) -> None:
    """Puts a section of another file at the end of this one, in the place of the section."""
    theirs = _parts(other)
    if theirs is None or not theirs.sections:
        return
    names = _names(other, theirs)
    likely = [s for s, name in zip(theirs.sections, names, strict=True) if wanted and name.startswith(wanted)]
    source = random.choice(likely or theirs.sections)
    content = other[source.fields[_OFFSET] : source.fields[_OFFSET] + source.fields[_BYTES]][: 1 << 16]
    section.fields[_OFFSET], section.fields[_BYTES] = len(data), len(content)
    section.write(data)
    data += content
