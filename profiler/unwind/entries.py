"""The entries of .eh_frame (LSB core, 10.6) and .debug_frame (DWARF 5, 6.4.1): CIEs, and an FDE for each function."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.unwind.encodings import (
    ADDRESS_MASK,
    DAMAGE,
    DamagedError,
    FrameSection,
    number,
    pointer,
    pointer_size,
    sleb,
    uleb,
)
from profiler.unwind.program import INITIAL, RETURN_ADDRESS, Cie, ProgramRunner
from profiler.unwind.table import CfaKind

MAX_FUNCTIONS = 1 << 20
_MAX_CIES = 1 << 16
_MAX_AUGMENTATION = 16

_U4, _U8, _BEGIN_SIZE = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<iI")
_PC_RELATIVE_4 = 0x1B


@dataclass(frozen=True, slots=True)
class Functions:
    """Where functions begin, their sizes in bytes and the numbers of their programs; `skipped` entries were damaged."""

    begins: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    numbers: NDArray[np.uint32]
    skipped: int


def read_functions(section: FrameSection, runner: ProgramRunner) -> Functions:
    """All FDEs of a section, in its order. A CIE is known from where it stands on, as compilers and linkers put them.

    Of a damaged entry as much as is whole is kept. An entry longer than what is left of the section ends it.
    """
    data, eh, address = section.data, section.eh, section.address
    begins, sizes, numbers = array("Q"), array("Q"), array("I")
    cies: dict[int, Cie] = {}
    same: dict[Cie, Cie] = {}
    at, end, skipped = 0, len(data), 0
    while at + 4 <= end:
        start = at
        (length,) = _U4.unpack_from(data, at)
        at += 4
        if not length:
            if eh and not section.bounded:
                break
            continue
        wide = length == 0xFFFFFFFF
        if wide and at + 8 <= end:
            (length,) = _U8.unpack_from(data, at)
            at += 8
        if length > end - at:
            skipped += 1
            break
        following = at + length
        try:
            identifier, place = at, at + 4
            if wide and not eh:
                (value,) = _U8.unpack_from(data, at)
                place, is_cie = at + 8, value == 2**64 - 1
            else:
                (value,) = _U4.unpack_from(data, at)
                is_cie = value == (0 if eh else 0xFFFFFFFF)
            if place > following:
                raise DamagedError("an entry is too short")
            if is_cie:
                if len(cies) == _MAX_CIES:
                    raise DamagedError("there are more CIEs than any file has")
                cie = _read_cie(section, place, following, runner)
                cies[start] = same.setdefault(cie, cie)
            else:
                known = cies.get(identifier - value if eh else value)
                if known is None or len(begins) == MAX_FUNCTIONS:
                    raise DamagedError("an FDE has no CIE, or there are more than any file has")
                if known.encoding == _PC_RELATIVE_4:
                    begin, size = _BEGIN_SIZE.unpack_from(data, place)
                    begin = (begin + address + place) & ADDRESS_MASK
                    place += 8
                else:
                    begin, place = pointer(known.encoding, section, place)
                    size, place = number(known.encoding, data, place)
                    size &= ADDRESS_MASK
                if known.augmented:
                    extra = data[place]
                    place += 1
                    if extra > 0x7F:
                        extra, place = uleb(data, place - 1)
                    place += extra
                if place > following:
                    raise DamagedError("an FDE is too short")
                program = runner.number(known, section, place, following, begin)
                begins.append(begin)
                sizes.append(size)
                numbers.append(program)
        except DAMAGE:
            skipped += 1
        at = following
    programs = np.array(numbers, np.uint32)
    skipped += int(runner.damaged()[programs].sum())
    return Functions(np.array(begins, np.uint64), np.array(sizes, np.uint64), programs, skipped)


def _read_cie(section: FrameSection, at: int, end: int, runner: ProgramRunner) -> Cie:
    """The CIE whose version stands at `at`. Raises DAMAGE."""
    data = section.data
    version = data[at]
    if version not in ((1, 3) if section.eh else (1, 3, 4)):
        raise DamagedError("a CIE has an unknown version")
    at += 1
    zero = data.find(0, at, min(at + _MAX_AUGMENTATION, end))
    if zero < 0:
        raise DamagedError("a CIE's augmentation does not end")
    augmentation = data[at:zero].decode("latin-1")
    at = zero + 1
    if version == 4:
        if data[at] != 8 or data[at + 1] != 0:
            raise DamagedError("a CIE has addresses of another size, or segments")
        at += 2
    if augmentation.startswith("eh"):  # gcc 2: a pointer to its exception table
        at, augmentation = at + 8, augmentation[2:]
    code_factor, at = uleb(data, at)
    data_factor, at = sleb(data, at)
    if version == 1:
        return_column, at = data[at], at + 1
    else:
        return_column, at = uleb(data, at)
    encoding, signal = 0, False
    augmented = augmentation.startswith("z")
    if augmented:
        size, at = uleb(data, at)
        program = at + size
        for letter in augmentation[1:]:
            if letter == "R":
                encoding, at = data[at], at + 1
            elif letter == "P":
                at += 1 + pointer_size(data[at], data, at + 1, section.address + at + 1)
            elif letter == "L":
                at += 1
            elif letter == "S":
                signal = True
            else:
                break  # what follows cannot be told apart, but where the program begins is known
        if at > program:
            raise DamagedError("a CIE's augmentation is too short")
        at = program
    elif augmentation == "S":  # in .debug_frame, where GNU as writes no "z"
        signal = True
    elif augmentation:
        raise DamagedError("a CIE has an unknown augmentation")
    if at > end:
        raise DamagedError("a CIE is too short")
    fixed = CfaKind.SIGNAL if signal else None if return_column == RETURN_ADDRESS else CfaKind.UNSUPPORTED
    before = Cie(code_factor, data_factor, encoding, augmented, INITIAL, fixed)
    _, _, state, damaged, _ = runner.run(data[at:end], before, section, at, 0)
    if damaged:
        raise DamagedError("a CIE's instructions are damaged")
    return Cie(code_factor, data_factor, encoding, augmented, state, fixed)
