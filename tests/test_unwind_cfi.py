"""Call frame information as compilers, assemblers, linkers and attackers write it, made into unwind tables."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.unwind.cfi import ENTRY_BYTES, build_table
from profiler.unwind.expressions import UNSUPPORTED, cfa_expression, saved_register
from profiler.unwind.table import CfaKind, RegisterKind, UnwindTable
from symbolizer.elf import ElfError, read_elf

TEXT, TEXT_SIZE = 0x10000, 0x40000
EH_FRAME = 0x80000
NOP, REMEMBER, RESTORE = b"\x00", b"\x0a", b"\x0b"
RSP8_RA = bytes([0x0C, 7, 8, 0x90, 1])  # def_cfa rsp 8; offset ra cfa-8
PCREL4 = 0x1B


def noting(data: bytes, sizes: list[int]) -> Callable[[int, int], bytes]:
    """A reader that notes how much is asked for."""

    def read(offset: int, size: int) -> bytes:
        sizes.append(size)
        return data[offset : offset + size]

    return read


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


def uleb(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def sleb(value: int) -> bytes:
    out = b""
    while not -0x40 <= value < 0x40:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value & 0x7F])


def sized(block: bytes) -> bytes:
    return uleb(len(block)) + block


class Frames:
    """A section of call frame information being put together."""

    def __init__(self, address: int = EH_FRAME, eh: bool = True, wide: bool = False) -> None:
        self.data, self.address, self.eh, self.wide = b"", address, eh, wide

    def entry(self, body: bytes) -> int:
        at = len(self.data)
        head = struct.pack("<IQ", 2**32 - 1, len(body)) if self.wide else struct.pack("<I", len(body))
        self.data += head + body
        return at

    def cie(
        self, program: bytes = RSP8_RA, augmentation: str = "zR", extra: bytes = bytes([PCREL4]), **fields: int
    ) -> int:
        version, code_factor = fields.get("version", 1), fields.get("code_factor", 1)
        identifier = b"\0\0\0\0" if self.eh else b"\xff" * (8 if self.wide else 4)
        body = identifier + bytes([version]) + augmentation.encode() + b"\0"
        body += b"\x08\x00" if version == 4 else b""
        body += uleb(code_factor) + sleb(fields.get("data_factor", -8)) + bytes([fields.get("return_column", 16)])
        return self.entry(body + (sized(extra) if augmentation.startswith("z") else b"") + program)

    def fde(self, cie: int, begin: int, size: int, program: bytes = b"", encoding: int = PCREL4) -> int:
        at = len(self.data) + (12 if self.wide else 4)
        link = struct.pack("<I", at - cie) if self.eh else struct.pack("<Q" if self.wide else "<I", cie)
        if encoding == PCREL4:
            place = struct.pack("<iI", begin - (self.address + at + len(link)), size)
        else:
            place = struct.pack("<QQ", begin, size)
        return self.entry(link + place + (b"\0" if self.eh else b"") + program)


def elf(
    sections: dict[str, tuple[int, bytes, int]],
    entry: int = 0,
    text: tuple[int, int] = (TEXT, TEXT_SIZE),
    machine: int = 62,
    with_sections: bool = True,
    more_segments: list[tuple[int, int, int, int, int]] | None = None,
) -> bytes:
    """An ELF file with one executable segment and sections by name: (address, contents, flags).

    Further segments are (type, flags, offset, address, size), their offsets from the end of the headers.
    """
    segments = [(1, 5, 0, *text), *(more_segments or [])]
    base = 64 + 56 * len(segments)
    body, names, headers = b"", b"\0", [bytes(64)]
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in sections) + b".shstrtab\0"
    for name, (address, contents, flags) in [*sections.items(), (".shstrtab", (0, strings, 0))]:
        place = base + len(body)
        headers.append(struct.pack("<IIQQQQIIQQ", len(names), 1, flags, address, place, len(contents), 0, 0, 1, 0))
        names += name.encode() + b"\0"
        body += contents
    at = base + len(body) if with_sections else 0
    count = len(headers) if with_sections else 0
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, entry, 64, at, 0, 64, 56, len(segments), 64, count, max(count - 1, 0)
    )
    for kind, flags, offset, address, size in segments:
        offset += base if kind != 1 or address != text[0] else 0
        header += struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, 1)
    return header + body + (b"".join(headers) if with_sections else b"")


def table_of(frames: Frames, entry: int = 0, text: tuple[int, int] = (TEXT, TEXT_SIZE)) -> UnwindTable:
    name = ".eh_frame" if frames.eh else ".debug_frame"
    return checked(build_table(reader(elf({name: (frames.address, frames.data, 2)}, entry, text)), by_address=True))


def checked(table: UnwindTable) -> UnwindTable:
    """A table as it comes back from its bytes, which is when everything it promises is checked."""
    assert UnwindTable.from_bytes(table.to_bytes()).to_bytes() == table.to_bytes()
    return table


def one(program: bytes, size: int = 0x100, code_factor: int = 1) -> UnwindTable:
    """The table of one function at TEXT."""
    frames = Frames()
    frames.fde(frames.cie(code_factor=code_factor), TEXT, size, program)
    return table_of(frames)


def rule(table: UnwindTable, address: int) -> tuple[int, ...]:
    return tuple(table.find(address).tolist())


def on(register: int, offset: int, rbp: tuple[int, int] = (0, 0), rbx: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    return (CfaKind.REGISTER, register, rbp[0], rbx[0], offset, rbp[1], rbx[1], 0)


UNSUPPORTED_RULE = (CfaKind.UNSUPPORTED, 0, 0, 0, 0, 0, 0, 0)
ROOT_RULE = (CfaKind.ROOT, 0, 0, 0, 0, 0, 0, 0)
SIGNAL_RULE = (CfaKind.SIGNAL, 0, 0, 0, 0, 0, 0, 0)
NONE = (0,) * 8
AT_CFA = RegisterKind.AT_CFA


def test_rows_are_by_offset_in_the_file_which_is_how_mappings_know_code(tmp_path: Path) -> None:
    source = tmp_path / "fixed.c"
    source.write_text("int main(void) { return 0; }\n")
    program = tmp_path / "fixed"
    subprocess.run(["gcc", "-no-pie", "-Wl,-Ttext-segment=0x7000000", "-o", program, source], check=True)
    data = program.read_bytes()
    text = next(s for s in read_elf(reader(data)).segments if s.kind == "PT_LOAD" and s.executable)
    by_address, by_offset = build_table(reader(data), by_address=True), build_table(reader(data))
    assert text.address - text.offset == 0x7000000
    for into in range(0, text.size, 7):
        at_address, at_offset = by_address.find(text.address + into), by_offset.find(text.offset + into)
        assert at_address.tobytes() == at_offset.tobytes()


def test_a_function_with_a_frame_pointer_is_followed_instruction_by_instruction() -> None:
    table = one(b"\x41\x0e\x10\x86\x02\x43\x0d\x06\x60\x0c\x07\x08")
    assert rule(table, TEXT - 1) == NONE
    assert rule(table, TEXT) == on(7, 8)
    assert rule(table, TEXT + 1) == on(7, 16, (AT_CFA, -16))
    assert rule(table, TEXT + 4) == rule(table, TEXT + 0x23) == on(6, 16, (AT_CFA, -16))
    assert rule(table, TEXT + 0x24) == rule(table, TEXT + 0xFF) == on(7, 8, (AT_CFA, -16))
    assert rule(table, TEXT + 0x100) == NONE
    assert len(table.rows) == 5 and table.skipped == 0


def test_remembered_states_come_back_in_order_with_cfa_and_registers() -> None:
    push, pop = b"\x41\x0e\x10\x83\x02", b"\x41\x0e\x20\x07\x10"  # the second makes the return address undefined
    table = one(REMEMBER + push + REMEMBER + pop + b"\x41" + RESTORE + b"\x41" + RESTORE)
    assert rule(table, TEXT + 1) == rule(table, TEXT + 3) == on(7, 16, rbx=(AT_CFA, -16))
    assert rule(table, TEXT + 2) == ROOT_RULE
    assert rule(table, TEXT + 4) == on(7, 8)


def test_restore_gives_a_register_the_rule_of_the_cie() -> None:
    frames = Frames()
    cie = frames.cie(RSP8_RA + b"\x86\x03")  # rbp is at cfa-24 from the beginning on
    frames.fde(cie, TEXT, 32, b"\x07\x06\x41\xc6\x41\x08\x06\x41\x06\x06\x41\x83\x02\x41\xc3")
    table = table_of(frames)
    kinds = [rule(table, TEXT + i)[2:4] for i in range(6)]
    assert kinds == [(RegisterKind.UNDEFINED, 0), (AT_CFA, 0), (0, 0), (AT_CFA, 0), (AT_CFA, AT_CFA), (AT_CFA, 0)]


def test_registers_are_followed_in_every_way_they_can_be_saved() -> None:
    ways = [
        (b"\x86\x02", (AT_CFA, -16)),  # offset
        (b"\x05\x06\x84\x01", (AT_CFA, -1056)),  # offset_extended
        (b"\x11\x06\x7e", (AT_CFA, 16)),  # offset_extended_sf
        (b"\x2f\x06\x02", (AT_CFA, 16)),  # GNU_negative_offset_extended
        (b"\x07\x06", (RegisterKind.UNDEFINED, 0)),
        (b"\x08\x06", (RegisterKind.SAME, 0)),
        (b"\x09\x06\x0c", (RegisterKind.UNDEFINED, 0)),  # register
        (b"\x14\x06\x02", (RegisterKind.UNDEFINED, 0)),  # val_offset
        (b"\x15\x06\x7e", (RegisterKind.UNDEFINED, 0)),  # val_offset_sf
        (b"\x16\x06" + sized(b"\x77\x08"), (RegisterKind.UNDEFINED, 0)),  # val_expression
        (b"\x10\x06" + sized(b"\x76\x70"), (RegisterKind.AT_RBP, -16)),  # expression breg6 -16
        (b"\x10\x06" + sized(b"\x77\x80\x01"), (RegisterKind.AT_RSP, 128)),  # expression breg7 128
        (b"\x10\x06" + sized(b"\x77\x08\x06"), (RegisterKind.UNDEFINED, 0)),  # behind another pointer
        (b"\x05\x06" + uleb(4096), (AT_CFA, -32768)),
        (b"\x05\x06" + uleb(4097), (RegisterKind.UNDEFINED, 0)),  # further than a rule can say
        (b"\x10\x06" + sized(b"\x76" + sleb(32768)), (RegisterKind.UNDEFINED, 0)),
    ]
    for program, saved in ways:
        assert rule(one(program), TEXT) == on(7, 8, saved), program.hex()
        as_rbx = program.replace(b"\x86", b"\x83", 1) if program[0] == 0x86 else program[:1] + b"\x03" + program[2:]
        assert rule(one(as_rbx), TEXT) == on(7, 8, rbx=saved), program.hex()


def test_the_cfa_is_followed_in_every_way_it_can_be_said() -> None:
    ways = [
        (b"\x0c\x06\x10", (CfaKind.REGISTER, 6, 16, 0)),  # def_cfa
        (b"\x12\x06\x7e", (CfaKind.REGISTER, 6, 16, 0)),  # def_cfa_sf
        (b"\x0d\x03", (CfaKind.REGISTER, 3, 8, 0)),  # def_cfa_register
        (b"\x0e\x80\x20", (CfaKind.REGISTER, 7, 4096, 0)),  # def_cfa_offset
        (b"\x13\x7d", (CfaKind.REGISTER, 7, 24, 0)),  # def_cfa_offset_sf
        (b"\x0f" + sized(b"\x76\x78\x06"), (CfaKind.DEREF, 6, -8, 0)),
        (b"\x0f" + sized(b"\x77\xf8\x00\x06\x23\x08"), (CfaKind.DEREF, 7, 120, 8)),
        (b"\x0f" + sized(b"\x7a\x00") + b"\x0e\x18\x0d\x06", (CfaKind.REGISTER, 6, 24, 0)),
        (b"\x0c\x10\x08", (CfaKind.UNSUPPORTED, 0, 0, 0)),  # rip
        (b"\x0c\x07" + uleb(2**31), (CfaKind.UNSUPPORTED, 0, 0, 0)),
        (b"\x0f" + sized(b"\x77\x08\x06\x06"), (CfaKind.UNSUPPORTED, 0, 0, 0)),
        (b"\x0f\x00", (CfaKind.UNSUPPORTED, 0, 0, 0)),
    ]
    for program, expected in ways:
        found = rule(one(program), TEXT)
        assert (found[0], found[1], found[4], found[7]) == expected, program.hex()


def test_the_plt_is_known_whatever_the_place_of_its_push() -> None:
    for place in range(32):
        code = bytes([0x77, 8, 0x80, 0, 0x3F, 0x1A, 0x30 + place, 0x2A, 0x33, 0x24, 0x22])
        assert cfa_expression(code) == (CfaKind.PLT, 0, place, 0)
        assert cfa_expression(code[:-1]) == UNSUPPORTED
        assert cfa_expression(code[:8] + b"\x34" + code[9:]) == UNSUPPORTED  # shifted by 4


def test_expressions_that_come_to_the_same_are_the_same_rule() -> None:
    for code in (b"\x77\x10", b"\x77\x08\x23\x08", b"\x77\x08\x38\x22", b"\x77\x18\x08\x08\x1c", b"\x92\x07\x10\x96"):
        assert cfa_expression(code) == (CfaKind.REGISTER, 7, 16, 0), code.hex()
    for code in (b"\x76\x78\x06\x23\x10", b"\x76\x78\x06\x40\x22", b"\x76\x78\x06\x11\x70\x1c"):
        assert cfa_expression(code) == (CfaKind.DEREF, 6, -8, 16), code.hex()
    for code in (b"\x77", b"\x77\x08\x23", b"\x77\x08\x38", b"\x38", b"\x77\x80", b"\x92\x11\x00", b"\x77\x08\x22"):
        assert cfa_expression(code) == UNSUPPORTED, code.hex()
        assert saved_register(code) == (RegisterKind.UNDEFINED, 0)


def test_a_realigned_function_is_followed_through_its_saved_stack_pointer() -> None:
    """As gcc writes it: the CFA in r10, rbp where the new frame begins, then the CFA in memory below it."""
    program = b"\x45\x0c\x0a\x00" + b"\x4b\x10\x06\x02\x76\x00" + b"\x45\x0f\x03\x76\x78\x06" + b"\x10\x03\x02\x76\x70"
    table = one(program + b"\x50\x0c\x0a\x00\xc6\x45\x0c\x07\x08")
    assert rule(table, TEXT + 5) == on(10, 0)
    assert rule(table, TEXT + 16) == on(10, 0, (RegisterKind.AT_RBP, 0))
    at_rbp = RegisterKind.AT_RBP
    assert rule(table, TEXT + 21) == (CfaKind.DEREF, 6, at_rbp, at_rbp, -8, 0, -16, 0)
    assert rule(table, TEXT + 37)[:3] == (CfaKind.REGISTER, 10, RegisterKind.SAME)
    assert rule(table, TEXT + 42)[1] == 7


def test_an_undefined_return_address_is_the_root_and_any_other_place_is_unsupported() -> None:
    assert rule(one(b"\x07\x10"), TEXT) == ROOT_RULE
    assert rule(one(b"\x07\x10\x0f\x01\x00"), TEXT) == ROOT_RULE
    for elsewhere in (b"\x90\x02", b"\x09\x10\x05", b"\x08\x10", b"\x10\x10\x02\x77\x08", b"\x14\x10\x01"):
        assert rule(one(elsewhere), TEXT) == UNSUPPORTED_RULE, elsewhere.hex()
    frames = Frames()
    frames.fde(frames.cie(b""), TEXT, 16)  # .cfi_startproc simple
    frames.fde(frames.cie(return_column=15), TEXT + 16, 16)
    table = table_of(frames)
    assert rule(table, TEXT) == rule(table, TEXT + 16) == UNSUPPORTED_RULE


def test_what_is_said_of_other_registers_makes_no_rows() -> None:
    table = one(
        b"\x41\x8c\x03\x41\x8d\x04\x41\xcc\x41\x2e\x20\x41\x10\x00\x02\x77\x08\x41\x07\x01\x41\x08\x0f\x41\x2e\x00"
    )
    assert [row >> 16 for row in table.rows.tolist()] == [table.rows[0] >> 16, 0]


def test_locations_advance_by_every_width_and_by_the_code_factor() -> None:
    program = b"\x42\x0e\x10\x02\x80\x0e\x18\x03\x00\x01\x0e\x20\x04\x00\x00\x01\x00\x0e\x28"
    table = one(program, 0x30000, code_factor=2)
    for offset, cfa in (
        (3, 8),
        (4, 16),
        (0x103, 16),
        (0x104, 24),
        (0x303, 24),
        (0x304, 32),
        (0x20303, 32),
        (0x20304, 40),
    ):
        assert rule(table, TEXT + offset) == on(7, cfa), offset
    pages = [rule(table, page << 16) for page in range(1, 4)]
    assert pages == [on(7, 8), on(7, 32), on(7, 32)]  # the rule in force where a page begins


def test_set_loc_is_read_where_it_stands_and_its_program_is_not_shared() -> None:
    frames = Frames()
    cie = frames.cie()
    for begin in (TEXT, TEXT + 0x100):
        at = EH_FRAME + len(frames.data) + 4 + 4 + 8 + 1 + 1
        frames.fde(cie, begin, 0x100, b"\x01" + struct.pack("<i", begin + 0x20 - at) + b"\x0e\x10")
    at = EH_FRAME + len(frames.data) + 4 + 4 + 8 + 1 + 2
    frames.fde(cie, TEXT + 0x200, 0x100, b"\x44\x01" + struct.pack("<i", TEXT - at) + b"\x0e\x10")  # goes back
    table = table_of(frames)
    for begin in (TEXT, TEXT + 0x100):
        assert rule(table, begin + 0x1F) == on(7, 8) and rule(table, begin + 0x20) == on(7, 16)
    assert rule(table, TEXT + 0x203) == on(7, 8) and rule(table, TEXT + 0x204) == UNSUPPORTED_RULE
    assert table.skipped == 1


def test_a_program_that_leaves_its_function_is_cut_off_there() -> None:
    frames = Frames()
    cie = frames.cie()
    frames.fde(cie, TEXT, 16, b"\x48\x0e\x10\x48\x0e\x18\x04\xff\xff\xff\xff\x0e\x20\x04\xff\xff\xff\xff\x0e\x20")
    frames.fde(cie, TEXT + 32, 16)
    table = table_of(frames)
    assert [rule(table, TEXT + i) for i in (7, 8, 15, 16, 31, 32)] == [
        on(7, 8), on(7, 16), on(7, 16), NONE, NONE, on(7, 8)
    ]  # fmt: skip


def test_a_signal_frame_is_one_from_its_beginning_to_its_end() -> None:
    frames = Frames()
    frames.fde(frames.cie(augmentation="zRS"), TEXT, 16, b"\x0f\x03\x77\x08\x06\x45\x0e\x10")
    table = table_of(frames)
    assert rule(table, TEXT) == rule(table, TEXT + 15) == SIGNAL_RULE
    assert rule(table, TEXT + 16) == NONE


@pytest.mark.parametrize("encoding", [0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0x0A, 0x0B, 0x0C, 0x9B, 0x50, 0xFF])
def test_personalities_of_every_encoding_are_passed_over(encoding: int) -> None:
    sizes = {0: 8, 1: 3, 2: 2, 3: 4, 4: 8, 9: 3, 10: 2, 11: 4, 12: 8}
    frames = Frames()
    if encoding == 0xFF:
        personality = b""
    elif encoding == 0x50:  # aligned: its address follows the bytes up to a multiple of eight
        personality = bytes(-(EH_FRAME + 4 + 4 + 1 + 5 + 3 + 1 + 1) % 8) + bytes(8)
    else:
        personality = b"\x81" * (sizes[encoding & 15] - 1) + b"\x01"
    extra = bytes([encoding]) + personality + b"\x1b" + bytes([PCREL4])
    frames.fde(frames.cie(augmentation="zPLR", extra=extra), TEXT, 16, b"\x41\x0e\x10")
    assert rule(table_of(frames), TEXT + 1) == on(7, 16)


@pytest.mark.parametrize("form", [0x00, 0x01, 0x02, 0x03, 0x04, 0x08, 0x09, 0x0A, 0x0B, 0x0C])
@pytest.mark.parametrize("relative", [0x00, 0x10, 0x20, 0x30])
def test_functions_are_found_by_every_encoding_of_pointers(form: int, relative: int) -> None:
    packed = {0: "Q", 2: "H", 3: "I", 4: "Q", 8: "q", 10: "h", 11: "i", 12: "q"}
    frames = Frames()
    cie = frames.cie(extra=bytes([form | relative]))
    at = EH_FRAME + len(frames.data) + 8
    text, data = 0x1000, 0x2000
    want = at + 0x30 if relative == 0x10 else 0x3000
    value = want - {0: 0, 0x10: at, 0x20: text, 0x30: data}[relative]
    encode = uleb if form == 1 else sleb if form == 9 else lambda number: struct.pack("<" + packed[form], number)
    frames.entry(struct.pack("<I", at - 4 - EH_FRAME - cie) + encode(value) + encode(0x40) + b"\0\x41\x0e\x10")
    sections = {
        ".eh_frame": (EH_FRAME, frames.data, 2),
        ".text": (text, b"", 6),
        ".got.plt": (data, b"", 3),
    }
    table = checked(build_table(reader(elf(sections, text=(0, 0x100000))), by_address=True))
    assert rule(table, want) == on(7, 8) and rule(table, want + 0x3F) == on(7, 16) and rule(table, want + 0x40) == NONE


def test_pointers_that_only_a_process_could_follow_are_skipped() -> None:
    for encoding in (0x9B, 0xFF, 0x4B, 0x2B, 0x05, 0x7B):  # indirect, omitted, function, no .text, unknown ones
        frames = Frames()
        frames.fde(frames.cie(extra=bytes([encoding])), TEXT, 16)
        frames.fde(frames.cie(), TEXT + 16, 16)
        table = table_of(frames)
        assert table.skipped == 1 and rule(table, TEXT) == NONE and rule(table, TEXT + 16) == on(7, 8), hex(encoding)


def test_augmentations_of_the_future_are_passed_over_where_their_size_is_known() -> None:
    frames = Frames()
    frames.fde(frames.cie(augmentation="zRX", extra=bytes([PCREL4]) + b"abc"), TEXT, 16)
    frames.fde(frames.cie(augmentation="X"), TEXT + 16, 16)
    table = table_of(frames)
    assert rule(table, TEXT) == on(7, 8) and rule(table, TEXT + 16) == NONE and table.skipped == 2


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("eh", [False, True])
def test_lengths_have_32_or_64_bits(eh: bool, wide: bool) -> None:
    frames = Frames(EH_FRAME if eh else 0, eh, wide)
    cie = frames.cie(augmentation="zR" if eh else "")
    frames.fde(cie, TEXT, 16, b"\x44\x0e\x10", PCREL4 if eh else 0)
    table = table_of(frames)
    assert rule(table, TEXT + 3) == on(7, 8) and rule(table, TEXT + 4) == on(7, 16) and table.skipped == 0


@pytest.mark.parametrize("version", [1, 3, 4])
def test_debug_frame_has_three_versions(version: int) -> None:
    frames = Frames(0, eh=False)
    frames.fde(frames.cie(augmentation="", version=version), TEXT, 16, b"\x44\x0e\x10", 0)
    assert rule(table_of(frames), TEXT + 4) == on(7, 16)


def test_debug_frame_is_read_compressed_in_both_ways() -> None:
    frames = Frames(0, eh=False)
    frames.fde(frames.cie(augmentation=""), TEXT, 16, b"\x44\x0e\x10", 0)
    packed = zlib.compress(frames.data)
    header = struct.pack("<IIQQ", 1, 0, len(frames.data), 1)
    for name, contents, flags in (
        (".debug_frame", header + packed, 0x800),
        (".zdebug_frame", b"ZLIB" + struct.pack(">Q", len(frames.data)) + packed, 0),
    ):
        table = checked(build_table(reader(elf({name: (0, contents, flags)})), by_address=True))
        assert rule(table, TEXT + 4) == on(7, 16)
        for damage in (contents[:30], contents[:24] + b"\xff" + contents[25:], contents[:2], b""):
            assert len(build_table(reader(elf({name: (0, damage, flags)})), by_address=True).rows) == 0


def test_of_large_sections_only_as_much_as_is_allowed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    eh, debug = Frames(), Frames(0, eh=False)
    cie, debug_cie = eh.cie(), debug.cie(augmentation="")
    for i in range(100):
        eh.fde(cie, TEXT + 32 * i, 16)
        debug.fde(debug_cie, TEXT + 32 * i + 16, 16, b"", 0)
    bomb = struct.pack("<IIQQ", 1, 0, 2**40, 1) + zlib.compress(debug.data + bytes(1 << 24))
    data = elf({".eh_frame": (EH_FRAME, eh.data, 2), ".debug_frame": (0, bomb, 0x800)})
    for limit, functions in ((2**25, 200), (len(eh.data) + len(debug.data), 200), (len(eh.data), 100), (500, 28)):
        monkeypatch.setattr("profiler.unwind.cfi.MAX_SECTION_BYTES", limit)
        read: list[int] = []
        table = build_table(noting(data, read), by_address=True)
        described = sum(rule(table, TEXT + 16 * i) != NONE for i in range(200))
        assert described == functions and max(read) <= max(limit, 1024)


def test_debug_frame_adds_functions_that_eh_frame_has_not() -> None:
    eh, debug = Frames(), Frames(0, eh=False)
    eh.fde(eh.cie(), TEXT + 16, 16, b"\x0e\x10")
    cie = debug.cie(augmentation="")
    for begin in (TEXT, TEXT + 16, TEXT + 24, TEXT + 32):
        debug.fde(cie, begin, 16, b"\x0e\x20", 0)
    table = checked(
        build_table(
            reader(elf({".eh_frame": (EH_FRAME, eh.data, 2), ".debug_frame": (0, debug.data, 0)})), by_address=True
        )
    )
    assert [rule(table, TEXT + i)[4] for i in (0, 16, 24, 31, 32, 47, 48)] == [32, 16, 16, 16, 32, 32, 0]


def test_without_section_headers_the_program_headers_lead_to_eh_frame() -> None:
    frames = Frames()
    frames.fde(frames.cie(), TEXT, 16, b"\x44\x0e\x10")
    header_at = EH_FRAME - 16
    header = struct.pack("<BBBBiII", 1, 0x1B, 0x03, 0x3B, EH_FRAME - header_at - 4, 0, 0)
    contents = header + frames.data + bytes(4) + b"\xfe" * 64  # a zero entry ends it; other data follow
    segments = [(1, 4, 0, header_at, len(contents)), (0x6474E550, 4, 0, header_at, len(header))]
    data = elf({"": (0, contents, 0)}, with_sections=False, more_segments=segments)
    table = checked(build_table(reader(data), by_address=True))
    assert rule(table, TEXT + 4) == on(7, 16) and table.skipped == 0
    for damage in (b"\x02", b"\x01\xff", b"\x01\x9b", b"\x01\x3f"):
        broken = elf({"": (0, damage + contents[len(damage) :], 0)}, with_sections=False, more_segments=segments)
        assert len(build_table(reader(broken), by_address=True).rows) == 0


def test_the_entry_point_is_a_root_where_nothing_describes_it() -> None:
    frames = Frames()
    cie = frames.cie()
    frames.fde(cie, TEXT, 16)
    frames.fde(cie, TEXT + 48, 16)
    table = table_of(frames, entry=TEXT + 20)
    assert [rule(table, TEXT + i) for i in (16, 20, 47, 48)] == [NONE, ROOT_RULE, ROOT_RULE, on(7, 8)]
    last = table_of(frames, entry=TEXT + 0x100)
    assert rule(last, TEXT + 0x100 + ENTRY_BYTES - 1) == ROOT_RULE and rule(last, TEXT + 0x100 + ENTRY_BYTES) == NONE
    for entry in (0, TEXT - 1, TEXT + 50):
        table = table_of(frames, entry=entry)
        assert CfaKind.ROOT not in table.rules["cfa"][table.rows >> 16]
    nothing = build_table(reader(elf({}, entry=TEXT)), by_address=True)
    assert rule(nothing, TEXT) == ROOT_RULE and rule(nothing, TEXT + ENTRY_BYTES) == NONE


def test_files_that_say_nothing_have_an_empty_table() -> None:
    for data in (elf({}), elf({".eh_frame": (EH_FRAME, b"", 2)}), elf({".eh_frame": (EH_FRAME, bytes(64), 2)})):
        table = checked(build_table(reader(data), by_address=True))
        assert len(table.rows) == 0 and table.skipped == 0 and rule(table, TEXT) == NONE


def test_what_is_no_elf_file_for_x86_64_is_refused_in_one_sentence() -> None:
    x32 = bytearray(elf({}))
    x32[4] = 1
    for data in (b"", b"#!/bin/sh\n", elf({})[:40], elf({}, machine=183), bytes(x32)):
        with pytest.raises(ElfError) as raised:
            build_table(reader(data), by_address=True)
        assert len(str(raised.value).splitlines()) == 1


def test_functions_outside_of_executable_segments_are_left_out_and_others_end_with_theirs() -> None:
    frames = Frames()
    cie = frames.cie()
    frames.fde(cie, TEXT - 16, 32)
    frames.fde(cie, 0, 2**32 - 1)
    frames.fde(cie, TEXT + TEXT_SIZE, 16)
    frames.fde(cie, TEXT + 32, 2**32 - 1)  # 4 GB
    table = table_of(frames)
    assert [rule(table, a) for a in (0, TEXT - 16, TEXT, TEXT + 31, TEXT + TEXT_SIZE)] == [NONE] * 5
    assert rule(table, TEXT + 32) == rule(table, TEXT + TEXT_SIZE - 1) == on(7, 8)
    assert len(table.page_starts) - 1 == TEXT_SIZE >> 16 and table.skipped == 0


def test_a_function_of_4_gb_takes_a_row_a_page() -> None:
    frames = Frames()
    frames.fde(frames.cie(), TEXT, 2**32 - 1)
    contents = {".eh_frame": (EH_FRAME, frames.data, 2)}
    table = checked(build_table(reader(elf(contents, text=(TEXT, 2**40))), by_address=True))
    assert len(table.page_starts) - 1 == 2**16 and len(table.rows) <= 2**16 + 1
    assert rule(table, TEXT + 2**32 - 2) == on(7, 8) and rule(table, TEXT + 2**32 - 1) == NONE


DAMAGED: dict[str, Callable[[int, int, int], bytes]] = {
    "a CIE of no version": lambda at, cie, fde: bytes(24),
    "an FDE of itself": lambda at, cie, fde: struct.pack("<I", 4) + bytes(20),
    "an FDE of an FDE": lambda at, cie, fde: struct.pack("<I", at + 4 - fde) + bytes(16),
    "a CIE beyond the section": lambda at, cie, fde: struct.pack("<I", 0xFFFFFFF0) + bytes(16),
    "a CIE before the section": lambda at, cie, fde: struct.pack("<I", at + 40) + bytes(16),
    "no room for a CIE": lambda at, cie, fde: b"\1\2",
    "no room for a function": lambda at, cie, fde: struct.pack("<I", at + 4 - cie) + bytes(5),
    "a large augmentation": lambda at, cie, fde: struct.pack("<I", at + 4 - cie) + bytes(8) + b"\xff\x7f",
    "a number without end": lambda at, cie, fde: struct.pack("<I", at + 4 - cie) + bytes(8) + b"\x80" * 90,
    "a name without end": lambda at, cie, fde: bytes(4) + b"\x01" + b"z" * 60,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_entry_leaves_those_before_and_after_it_whole(damage: str) -> None:
    frames = Frames()
    cie = frames.cie()
    before = frames.fde(cie, TEXT, 16)
    frames.entry(DAMAGED[damage](len(frames.data), cie, before))
    frames.fde(cie, TEXT + 16, 16)
    table = table_of(frames)
    assert table.skipped == 1
    assert rule(table, TEXT) == rule(table, TEXT + 16) == on(7, 8)


def test_an_entry_longer_than_the_section_ends_it() -> None:
    for head in (
        struct.pack("<I", 0x7FFFFFFF),
        struct.pack("<IQ", 2**32 - 1, 2**63),
        b"\xff" * 12,
        b"\xf0\xff\xff\xff",
    ):
        frames = Frames()
        cie = frames.cie()
        frames.fde(cie, TEXT, 16)
        frames.data += head
        frames.fde(cie, TEXT + 16, 16)
        table = table_of(frames)
        assert rule(table, TEXT) == on(7, 8) and rule(table, TEXT + 16) == NONE and table.skipped == 1


def test_zero_entries_are_passed_over() -> None:
    frames = Frames()
    cie = frames.cie()
    frames.data += bytes(4 * 1000)
    frames.fde(cie, TEXT, 0)
    frames.fde(cie, TEXT, 16)
    frames.fde(cie, TEXT + 4, 0)
    table = table_of(frames)
    assert rule(table, TEXT + 15) == on(7, 8) and table.skipped == 0


@pytest.mark.parametrize(
    "broken",
    [b"\x3f", b"\x0b", b"\x0e", b"\x0c\x07", b"\x0f\x40\x77", b"\x04\x01", b"\x10\x06\x7f", b"\x0e" + b"\x80" * 40],
)
def test_a_program_is_kept_up_to_where_it_breaks(broken: bytes) -> None:
    frames = Frames()
    cie = frames.cie()
    frames.fde(cie, TEXT, 16, b"\x44\x0e\x10\x44" + broken)
    frames.fde(cie, TEXT + 16, 16)
    frames.fde(frames.cie(RSP8_RA + broken), TEXT + 32, 16)
    table = table_of(frames)
    assert [rule(table, TEXT + i) for i in (0, 4, 8, 15)] == [on(7, 8), on(7, 16), UNSUPPORTED_RULE, UNSUPPORTED_RULE]
    assert rule(table, TEXT + 16) == on(7, 8) and rule(table, TEXT + 32) == NONE
    assert table.skipped == 3  # the first function, the second CIE, and the function that lacks it


def test_a_million_remembered_states_and_a_million_rows_of_one_function_are_bounded() -> None:
    frames = Frames()
    cie = frames.cie()
    frames.fde(cie, TEXT, 16, b"\x44\x0e\x10" + REMEMBER * 1_000_000)
    frames.fde(cie, TEXT + 16, 0x30000, b"\x41\x0e\x10\x41\x0e\x18" * 500_000)
    frames.fde(cie, TEXT + 0x38000, 16)
    table = table_of(frames)
    assert table.skipped == 2 and len(table.rows) < 2**19
    assert rule(table, TEXT + 4) == UNSUPPORTED_RULE and rule(table, TEXT + 0x38000) == on(7, 8)
    assert table.dense_pages == 3  # more than 16,384 rows each: what is known of them is that they are too many
    assert rule(table, TEXT + 0x10000) == UNSUPPORTED_RULE


def test_more_states_than_rules_are_unsupported() -> None:
    frames = Frames()
    cie = frames.cie()
    for begin in range(0, 70_000, 10_000):
        states = b"".join(b"\x48\x0e" + uleb(begin + i + 200) for i in range(10_000))
        frames.fde(cie, TEXT + begin * 8, 80_000, states)
    table = table_of(frames, text=(TEXT, 2**24))
    assert len(table.rules) == 65_535 and table.dense_pages == 0
    assert rule(table, TEXT + 8 * 9000) == on(7, 9199) and rule(table, TEXT + 8 * 69_000) == UNSUPPORTED_RULE


ENTRY_BYTES_OF_ANY_KIND = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(lambda body: struct.pack("<I", len(body)) + body, st.binary(max_size=60)),
        st.builds(
            lambda back, place, code: (
                struct.pack("<I", len(code) + 13) + struct.pack("<IiIB", back, place, 64, 0) + code
            ),
            st.integers(0, 200),
            st.integers(-(2**19), 0),
            st.binary(max_size=40),
        ),
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(ENTRY_BYTES_OF_ANY_KIND, st.booleans())
def test_any_bytes_as_a_section_make_a_table_that_can_be_trusted(data: bytes, eh: bool) -> None:
    frames = Frames(EH_FRAME if eh else 0, eh)
    frames.cie(augmentation="zR" if eh else "")
    frames.data += data
    table = table_of(frames)
    assert len(table.rows) <= len(frames.data) + (TEXT_SIZE >> 16) and table.skipped <= 1 + len(data)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_as_a_program_make_a_table_that_can_be_trusted(program: bytes) -> None:
    table = one(program)
    assert table.skipped <= 1 and len(table.rows) <= len(program) + 2
    assert rule(table, TEXT + 0xFF) != NONE and rule(table, TEXT + 0x100) == NONE


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not shutil.which("gcc"):
        pytest.fail("gcc is not installed: `make setup-dev` installs it", pytrace=False)
    folder = tmp_path_factory.mktemp("cfi")
    source, output = folder / "source.c", folder / "library.so"
    source.write_text(
        "int g(char *); int f(int n) { char b[n]; return g(b) + n; }\n"
        "int h(int n) { _Alignas(64) char b[256]; return g(b) + f(n); }\n"
    )
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-Wl,-z,lazy", "-o", output, source], check=True)
    return output.read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_file_is_an_elf_error_or_a_table_that_can_be_trusted(
    library: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(library)
    interesting = [0, 64, damaged.index(b"zR\0") - 9, int.from_bytes(library[40:48], "little")]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.sampled_from(interesting)) + data.draw(st.integers(0, 700))
        if at < len(damaged):
            damaged[at] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([len(damaged)] * 4 + [data.draw(st.integers(0, len(damaged)))]))
    try:
        table = checked(build_table(reader(bytes(damaged[:length])), by_address=True))
    except ElfError:
        return
    assert len(table.rows) <= 2 * len(damaged) + 2**16


def test_a_library_of_this_compiler_is_described_from_end_to_end(library: bytes, tmp_path: Path) -> None:
    """Every instruction of .text that a symbol covers has a rule that leads on."""
    (tmp_path / "library.so").write_bytes(library)
    listed = subprocess.run(["nm", "-S", tmp_path / "library.so"], capture_output=True, text=True, check=True).stdout
    table = checked(build_table(reader(library), by_address=True))
    functions = {
        fields[3]: (int(fields[0], 16), int(fields[1], 16))
        for fields in map(str.split, listed.splitlines())
        if len(fields) == 4 and fields[2] == "T"
    }
    assert set(functions) == {"f", "h"}
    for begin, size in functions.values():
        kinds = np.array([table.find(address)["cfa"] for address in range(begin, begin + size)])
        assert set(kinds.tolist()) <= {CfaKind.REGISTER, CfaKind.DEREF}
    assert CfaKind.PLT in table.rules["cfa"]
