"""Numbers as call frame information has them: LEB128 (DWARF 5, 7.6) and encoded pointers (LSB core, 10.5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ADDRESS_MASK = 2**64 - 1
OMITTED = 0xFF
_PC_RELATIVE, _ALIGNED, _INDIRECT = 0x10, 0x50, 0x80
_ULEB, _SLEB = 1, 9
_FIXED = {
    0x0: struct.Struct("<Q"),
    0x2: struct.Struct("<H"),
    0x3: struct.Struct("<I"),
    0x4: struct.Struct("<Q"),
    0x8: struct.Struct("<q"),
    0xA: struct.Struct("<h"),
    0xB: struct.Struct("<i"),
    0xC: struct.Struct("<q"),
}


class DamagedError(ValueError):
    """An entry of a section says what none can say."""


DAMAGE = (DamagedError, IndexError, struct.error)
"""What reading a damaged entry raises: IndexError and struct.error where it is cut short."""


@dataclass(frozen=True, slots=True)
class FrameSection:
    """Call frame information as it is in a file.

    `address` is its virtual address, `bases` what pointers can be relative to, by the bits of their encoding that say
    so: 0x20 text, 0x30 data. `eh` tells .eh_frame from .debug_frame; `bounded` is False where only the beginning of
    .eh_frame is known and a zero entry ends it.
    """

    data: bytes
    address: int
    eh: bool
    bounded: bool = True
    bases: dict[int, int] = field(default_factory=dict)


def uleb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and where it ends. Raises DAMAGE; more than ten bytes are damage too."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    raise DamagedError("a number does not end")


def sleb(data: bytes, at: int) -> tuple[int, int]:
    """A signed LEB128 number and where it ends. Raises DAMAGE."""
    value, end = uleb(data, at)
    if data[end - 1] & 0x40:
        value -= 1 << 7 * (end - at)
    return value, end


def pointer_size(encoding: int, data: bytes, at: int, address: int) -> int:
    """Bytes that an encoded pointer at `at`, whose virtual address is `address`, takes. Raises DAMAGE."""
    if encoding == OMITTED:
        return 0
    if encoding == _ALIGNED:
        return -address % 8 + 8
    form = encoding & 0xF
    if form in (_ULEB, _SLEB):
        return uleb(data, at)[1] - at
    if form not in _FIXED:
        raise DamagedError("a pointer has an unknown encoding")
    return _FIXED[form].size


def pointer(encoding: int, section: FrameSection, at: int) -> tuple[int, int]:
    """An encoded pointer of a section and where it ends. Raises DAMAGE, and for one that is in memory only."""
    data, relative = section.data, encoding & 0x70
    if encoding & _INDIRECT:
        raise DamagedError("a pointer is indirect or left out")
    if encoding == _ALIGNED:
        at += -(section.address + at) % 8
        return _FIXED[0].unpack_from(data, at)[0], at + 8
    base = 0
    if relative == _PC_RELATIVE:
        base = section.address + at
    elif relative:
        if relative not in section.bases:
            raise DamagedError("a pointer is relative to something unknown")
        base = section.bases[relative]
    value, end = number(encoding, data, at)
    return (base + value) & ADDRESS_MASK, end


def number(encoding: int, data: bytes, at: int) -> tuple[int, int]:
    """The number an encoded pointer consists of, relative to nothing, and where it ends. Raises DAMAGE."""
    form = encoding & 0xF
    if form == _ULEB:
        return uleb(data, at)
    if form == _SLEB:
        return sleb(data, at)
    layout = _FIXED.get(form)
    if layout is None:
        raise DamagedError("a pointer has an unknown encoding")
    return layout.unpack_from(data, at)[0], at + layout.size
