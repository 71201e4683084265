"""Debug information that dwz shared out, put together again.

`dwz -m` moves what several debug files have in common into a supplementary file, and refers to it by forms of its own:
DW_FORM_GNU_ref_alt and DW_FORM_GNU_strp_alt (dwz's extension of DWARF 4), DW_FORM_ref_sup4/8 and DW_FORM_strp_sup
(DWARF 5, 7.5.5). Here both files' sections are joined, the supplement's last. The forms become DW_FORM_ref_addr and
DW_FORM_strp, which have the same size, and whatever points into what moved is shifted. So nothing changes its size.

It takes one walk over all DIEs, skipping by a plan for each abbreviation. Time and memory are bounded by the sections'
sizes: every DIE has a byte, and abbreviations are read about once.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from symbolizer.elf import ElfError

DwarfSections = dict[bytes, bytes]
"""What the debug sections hold, by name (b".debug_info")."""

_MOST_ABBREVIATION_BYTES = 1 << 16  # read besides twice the section
_PIECE = 1 << 18
_AT_STMT_LIST, _AT_RESERVED = 0x10, 0x04
_REF_ADDR, _STRP, _LINE_STRP, _STRING, _INDIRECT, _IMPLICIT_CONST = 0x10, 0x0E, 0x1F, 0x08, 0x16, 0x21
_REF_SUP4, _REF_SUP8, _STRP_SUP, _GNU_REF_ALT, _GNU_STRP_ALT = 0x1C, 0x24, 0x1D, 0x1F20, 0x1F21
_TYPE_UNITS, _SPLIT_UNITS = (2, 6), (4, 5)  # DW_UT_

# Bytes of a form's value (DWARF 5, 7.5.5 and 7.5.6).
_FIXED = {
    **{0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x19: 0, _REF_SUP4: 4},
    **{0x1E: 16, 0x20: 8, _IMPLICIT_CONST: 0, _REF_SUP8: 8},
    **{0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4},
}
_OFFSETS = {_STRP, 0x17, _STRP_SUP, _LINE_STRP, _GNU_STRP_ALT}
_NUMBERS = {0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23, 0x1F01, 0x1F02}
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4, 0x09: 0, 0x18: 0}  # bytes of the length, 0 where that is a ULEB128

_SKIP, _MARK, _NUMBER, _BLOCK, _SIZED_BLOCK, _TEXT, _DYNAMIC = range(7)
_Step = tuple[int, int, "array[int] | None", int]
"""What a value is, its size (or that of its length), where to note its place, bytes of fixed size that follow."""
_Plans = dict[int, int | tuple[_Step, ...]]
"""By abbreviation code: the bytes of all its values, or how to pass them."""


def merged(main: DwarfSections, supplement: DwarfSections, *, little_endian: bool = True) -> DwarfSections:
    """The sections of `main` with those of its supplementary file joined to them. Raises ElfError where damaged."""
    info, text, lines = (len(main.get(name, b"")) for name in (b".debug_info", b".debug_str", b".debug_line_str"))
    if any((len(main.get(name, b"")) + len(data)) >> 32 for name, data in supplement.items()):
        raise ElfError("its debug information and the supplementary file's take more than 4 GB together")
    to_supplement = {_GNU_REF_ALT: info, _REF_SUP4: info, _REF_SUP8: info, _GNU_STRP_ALT: text, _STRP_SUP: text}
    within_supplement = {_REF_ADDR: info, _STRP: text, _LINE_STRP: lines}
    first = _Walk(main, little_endian, to_supplement, 0)
    second = _Walk(supplement, little_endian, within_supplement, len(main.get(b".debug_abbrev", b"")))
    first.run()
    second.run()
    result = dict(main)
    result[b".debug_info"] = first.moved() + second.moved()
    result[b".debug_abbrev"] = bytes(first.abbreviations + second.abbreviations)
    for name in (b".debug_str", b".debug_line_str"):
        if shared := supplement.get(name):
            result[name] = main.get(name, b"") + shared
    return result


@dataclass(slots=True)
class _Unit:
    """What the header of a unit says: where its DIEs are, and the sizes of addresses and offsets."""

    end: int
    dies: int
    version: int
    address: int
    offset: int
    abbreviations: int
    abbreviations_at: int


@dataclass(slots=True)
class _Walk:
    """One pass over a file's units, which notes where values are that have to be shifted, and by how much."""

    sections: DwarfSections
    little_endian: bool
    shifts: dict[int, int]
    abbreviations_shift: int
    abbreviations: bytearray = field(init=False)
    _marks: dict[tuple[int, int], array[int]] = field(default_factory=dict)
    _plans: dict[tuple[int, ...], _Plans] = field(default_factory=dict)
    _left: int = field(init=False)

    def run(self) -> None:
        """Reads all units; afterwards `abbreviations` and `moved()` are ready."""
        self.abbreviations = bytearray(self.sections.get(b".debug_abbrev", b""))
        self._left = 2 * len(self.abbreviations) + _MOST_ABBREVIATION_BYTES
        info = self.sections.get(b".debug_info", b"")
        at = 0
        try:
            while at < len(info):
                unit = self._unit(info, at)
                if self.abbreviations_shift:
                    self._marked(self.abbreviations_shift, unit.offset).append(unit.abbreviations_at)
                key = (unit.abbreviations, unit.version, unit.address, unit.offset)
                if key not in self._plans:
                    self._plans[key] = self._read_plans(unit)
                self._pass(info, unit, self._plans[key])
                at = unit.end
        except (IndexError, KeyError) as error:
            raise ElfError("its .debug_info or .debug_abbrev is damaged") from error

    def moved(self) -> bytes:
        """.debug_info with all that was noted shifted."""
        info = np.frombuffer(self.sections.get(b".debug_info", b""), np.uint8).copy()
        order = "<" if self.little_endian else ">"
        for (shift, size), marks in self._marks.items():
            for first in range(0, len(marks), _PIECE):
                at = np.array(marks[first : first + _PIECE], np.int64)
                at = at[at + size <= len(info)][:, None] + np.arange(size)
                values = info[at].view(f"{order}u{size}") + np.array(shift, f"u{size}")
                info[at] = values.astype(f"{order}u{size}").view(np.uint8)
        return info.tobytes()

    def _marked(self, shift: int, size: int) -> array[int]:
        return self._marks.setdefault((shift, size), array("q"))

    def _number(self, data: bytes, at: int, size: int) -> int:
        if at + size > len(data):
            raise IndexError
        return int.from_bytes(data[at : at + size], "little" if self.little_endian else "big")

    def _unit(self, info: bytes, at: int) -> _Unit:
        """The header of a unit (DWARF 5, 7.5.1, and DWARF 4, 7.5.1)."""
        length, offset = self._number(info, at, 4), 4
        at += 4
        if length == 0xFFFFFFFF:
            length, offset = self._number(info, at, 8), 8
            at += 8
        end = at + length
        version = self._number(info, at, 2)
        if end > len(info) or not 2 <= version <= 5:
            raise ElfError("its .debug_info is damaged or of a DWARF version that is not known")
        at += 2
        if version == 5:
            kind, address = info[at], info[at + 1]
            table = at + 2
            extra = 8 if kind in _SPLIT_UNITS else 8 + offset if kind in _TYPE_UNITS else 0
            dies = table + offset + extra
        else:
            table = at
            address = info[table + offset]
            dies = table + offset + 1
        return _Unit(end, dies, version, address, offset, self._number(info, table, offset), table)

    def _read_plans(self, unit: _Unit) -> _Plans:
        """The table of abbreviations of a unit (DWARF 5, 7.5.3), its forms changed on the way."""
        data, plans = self.abbreviations, _Plans()
        at = begin = unit.abbreviations
        code, at = _uleb(data, at)
        while code:
            _, at = _uleb(data, at)  # the tag
            at += 1  # whether it has children
            forms = []
            while True:
                name_at = at
                name, at = _uleb(data, at)
                form_at = at
                form, at = _uleb(data, at)
                if not name and not form:
                    break
                if form == _IMPLICIT_CONST:
                    _, at = _uleb(data, at)
                forms.append(self._renamed(form, form_at, unit))
                if self.abbreviations_shift and name == _AT_STMT_LIST and at - name_at == 2:
                    data[name_at] = _AT_RESERVED  # line tables stay behind: inlined code is in its caller's
            self._left -= at - begin
            if self._left < 0:
                raise ElfError("its abbreviations overlap")
            begin = at
            plans.setdefault(code, self._plan(forms, unit))
            code, at = _uleb(data, at)
        return plans

    def _renamed(self, form: int, at: int, unit: _Unit) -> int:
        """The form as it was; in the abbreviations the one that is to stand for it. Each has as many bytes."""
        for sup, gnu, plain in ((_REF_SUP4, _GNU_REF_ALT, _REF_ADDR), (_STRP_SUP, _GNU_STRP_ALT, _STRP)):
            if form == gnu:
                self.abbreviations[at : at + 2] = bytes([plain | 0x80, 0])
            elif form == sup or (form == _REF_SUP8 and plain == _REF_ADDR and unit.offset == 8):
                self.abbreviations[at] = plain
        return form

    def _plan(self, forms: list[int], unit: _Unit) -> int | tuple[_Step, ...]:
        steps: list[_Step] = []
        for form in forms:
            kind, size, marks = self._step(form, unit)
            if kind == _SKIP and steps:
                before = steps[-1]
                steps[-1] = (before[0], before[1], before[2], before[3] + size)
            else:
                steps.append((kind, 0, None, size) if kind == _SKIP else (kind, size, marks, 0))
        if not steps or (len(steps) == 1 and steps[0][0] == _SKIP):
            return steps[0][3] if steps else 0
        return tuple(steps)

    def _step(self, form: int, unit: _Unit) -> tuple[int, int, array[int] | None]:
        size = _FIXED.get(form)
        if form == 0x01:
            size = unit.address
        elif form in (_REF_ADDR, _GNU_REF_ALT):
            size = unit.address if unit.version == 2 else unit.offset
        elif form in _OFFSETS:
            size = unit.offset
        if size is not None:
            shift = self.shifts.get(form)
            if shift and size in (4, 8) and (form != _REF_SUP8 or unit.offset == 8):
                return _MARK, size, self._marked(shift, size)
            return _SKIP, size, None
        if form in _NUMBERS:
            return _NUMBER, 0, None
        if form in _BLOCKS:
            return (_SIZED_BLOCK, _BLOCKS[form], None) if _BLOCKS[form] else (_BLOCK, 0, None)
        if form == _STRING:
            return _TEXT, 0, None
        if form == _INDIRECT:
            return _DYNAMIC, 0, None
        raise ElfError(f"its debug information has a form that is not known ({form:#x})")

    def _pass(self, data: bytes, unit: _Unit, plans: _Plans) -> None:
        """Goes over the DIEs of a unit."""
        at, end = unit.dies, unit.end
        find: Callable[[bytes, int], int] = data.index
        while at < end:
            code = data[at]
            at += 1
            if not code:
                continue
            if code > 127:
                code, at = _uleb(data, at - 1)
            plan = plans[code]
            if plan.__class__ is int:
                at += plan
                continue
            for kind, size, marks, after in plan:  # type: ignore[union-attr]
                if kind == _MARK:
                    marks.append(at)  # type: ignore[union-attr]
                    at += size
                elif kind == _BLOCK:
                    length = data[at]
                    at += 1
                    if length > 127:
                        length, at = _uleb(data, at - 1)
                    at += length
                elif kind == _NUMBER:
                    while data[at] > 127:
                        at += 1
                    at += 1
                elif kind == _TEXT:
                    try:
                        at = find(b"\0", at) + 1
                    except ValueError:
                        raise IndexError from None
                elif kind == _SIZED_BLOCK:
                    at += size + self._number(data, at, size)
                elif kind == _DYNAMIC:
                    at = self._indirect(data, at, unit)
                at += after
        if at > end:
            raise ElfError("its .debug_info is damaged")

    def _indirect(self, data: bytes, at: int, unit: _Unit) -> int:
        """Where a value ends that is preceded by its form (DW_FORM_indirect). dwz gives none into the supplement."""
        form, at = _uleb(data, at)
        if form in (_INDIRECT, _IMPLICIT_CONST):
            raise ElfError("its .debug_info is damaged")
        kind, size, _ = self._step(form, unit)
        if kind in (_SKIP, _MARK):
            return at + size
        if kind == _SIZED_BLOCK:
            return at + size + self._number(data, at, size)
        if kind == _TEXT:
            end = data.find(b"\0", at)
            return end + 1 if end >= 0 else len(data) + 1
        value, at = _uleb(data, at)
        return at + value if kind == _BLOCK else at


def _uleb(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number of at most 70 bits, and where it ends. Raises IndexError past the end."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
