"""Debug information that dwz shared out: as good as before it did, and damaged."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer.debuginfo.dwz import DwarfSections, merged
from symbolizer.debuginfo.symfile import SymFile
from symbolizer.elf import ElfError
from tests.symbolizer_programs import Compile, compiler, symfile, tool


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    return compiler(tmp_path_factory.mktemp("dwz"))


def answers(found: SymFile, path: Path) -> list[object]:
    """What the symbol file says of every third byte of the program."""
    table = subprocess.run(["size", "-A", path], capture_output=True, text=True, check=True).stdout
    size, start = next(map(int, line.split()[1:3]) for line in table.splitlines() if line.startswith(".text"))
    return list(found.lookup(range(start, start + size, 3)))


def shared_out(build: Compile, folder: Path, flag: str, *options: str) -> tuple[list[tuple[Path, Path]], Path]:
    """(program as it was, the same after dwz) of two programs that share much, and their supplementary file."""
    pairs = []
    for part in ("1", "2"):
        before = build(f"{flag}-{part}", "g++", "-O2", flag, f"-DPART={part}")
        after = folder / f"after-{part}"
        after.write_bytes(before.read_bytes())
        pairs.append((before, after))
    common = folder / "common"
    subprocess.run([tool("dwz"), *options, "-m", common, *(after for _, after in pairs)], check=True)
    return pairs, common


@pytest.mark.parametrize("options", [(), ("--dwarf-5",)], ids=["GNU forms", "DWARF 5 forms"])
@pytest.mark.parametrize("flag", ["-gdwarf-4", "-gdwarf-5"])
def test_names_in_the_supplementary_file_are_found(
    build: Compile, tmp_path: Path, flag: str, options: tuple[str, ...]
) -> None:
    pairs, common = shared_out(build, tmp_path, flag, *options)
    for before, after in pairs:
        expected = answers(symfile(before), before)
        assert answers(symfile(after, after, common), after) == expected
        alone = symfile(after)
        assert "supplementary" in alone.note
        assert answers(alone, after) != expected  # so the supplementary file does hold names


@pytest.mark.parametrize("flag", ["-gdwarf-4", "-gdwarf-5"])
def test_a_single_file_that_dwz_packed_reads_as_before(build: Compile, tmp_path: Path, flag: str) -> None:
    before, after = build(f"{flag}-1", "g++", "-O2", flag, "-DPART=1"), tmp_path / "after"
    subprocess.run([tool("dwz"), "-o", after, before], check=True)
    assert after.stat().st_size < before.stat().st_size
    assert answers(symfile(after), after) == answers(symfile(before), before)


def test_a_damaged_supplementary_file_leaves_the_symbols_and_says_why(build: Compile, tmp_path: Path) -> None:
    [(before, after), _], common = shared_out(build, tmp_path, "-gdwarf-4")
    data = bytearray(common.read_bytes())
    table = subprocess.run(["readelf", "-SW", common], capture_output=True, text=True, check=True).stdout
    fields = next(line for line in table.splitlines() if " .debug_info" in line).split(".debug_info")[1].split()
    data[int(fields[2], 16) + 4 : int(fields[2], 16) + 6] = b"\x63\x00"  # the version
    common.write_bytes(data)
    found = symfile(after, after, common)
    assert "damaged or of a DWARF version that is not known" in found.note
    assert any(found.lookup(range(0x1000, 0x4000, 5)))


# Values by form, hand-made: (form, its value's bytes) in a 32-bit unit of version 5 with 8-byte addresses.
VALUES = [
    (0x01, bytes(8)), (0x03, b"\2\0ab"), (0x04, b"\3\0\0\0abc"), (0x05, bytes(2)), (0x06, bytes(4)), (0x07, bytes(8)),
    (0x08, b"text\0"), (0x08, b"\0"), (0x09, b"\x81\1" + bytes(129)), (0x09, b"\0"), (0x0A, b"\2ab"), (0x0B, b"\1"),
    (0x0C, b"\1"), (0x0D, b"\x80\x80\x7f"), (0x0E, bytes(4)), (0x0F, b"\xff\1"), (0x10, bytes(4)), (0x11, b"\1"),
    (0x12, bytes(2)), (0x13, bytes(4)), (0x14, bytes(8)), (0x15, b"\x90\1"), (0x16, b"\x0b\1"), (0x16, b"\x0a\2ab"),
    (0x16, b"\x08ab\0"), (0x16, b"\x0d\x80\1"), (0x16, b"\x05ab"), (0x16, b"\x03\1\0a"), (0x17, bytes(4)),
    (0x18, b"\1a"), (0x18, b"\x80\1" + bytes(128)), (0x19, b""), (0x1A, b"\x80\1"), (0x1B, b"\1"), (0x1C, bytes(4)),
    (0x1D, bytes(4)), (0x1E, bytes(16)), (0x1F, bytes(4)), (0x20, bytes(8)), (0x22, b"\1"), (0x23, b"\1"),
    (0x24, bytes(8)), (0x25, bytes(1)), (0x26, bytes(2)), (0x27, bytes(3)), (0x28, bytes(4)), (0x29, bytes(1)),
    (0x2A, bytes(2)), (0x2B, bytes(3)), (0x2C, bytes(4)), (0x1F01, b"\x80\1"), (0x1F02, b"\1"), (0x1F20, bytes(4)),
    (0x1F21, bytes(4)),
]  # fmt: skip


def uleb(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def unit(
    values: list[tuple[int, bytes]], version: int = 5, order: str = "<", wide: bool = False, address: int = 8
) -> DwarfSections:
    """Sections with one unit, which has one DIE with these values and a null entry after it."""
    attributes = b"".join(uleb(0x2000 + i) + uleb(form) for i, (form, _) in enumerate(values))
    offset = "Q" if wide else "I"
    body = b"\1" + b"".join(value for _, value in values) + b"\0"
    head = struct.pack(f"{order}HBB{offset}", version, 1, address, 0)
    if version < 5:
        head = struct.pack(f"{order}H{offset}B", version, 0, address)
    length = struct.pack(order + "I", len(head + body))
    if wide:
        length = struct.pack(order + "IQ", 0xFFFFFFFF, len(head + body))
    return {
        b".debug_info": length + head + body,
        b".debug_abbrev": uleb(1) + uleb(0x11) + b"\0" + attributes + b"\0\0\0",
        b".debug_str": b"main\0",
    }


def none() -> DwarfSections:
    return {b".debug_info": b"", b".debug_abbrev": b"", b".debug_str": b"shared\0"}


@pytest.mark.parametrize("form", VALUES, ids=lambda value: f"{value[0]:#x}-{len(value[1])}")
def test_every_form_is_passed_over_by_its_size(form: tuple[int, bytes]) -> None:
    main = unit([form, (0x1F21, struct.pack("<I", 3)), form, (0x1F20, struct.pack("<I", 7))])
    result = merged(main, none())[b".debug_info"]
    assert result[-9 - len(form[1]) :][:4] == struct.pack("<I", 3 + len(b"main\0"))
    assert result[-5:-1] == struct.pack("<I", 7 + len(main[b".debug_info"]))


@pytest.mark.parametrize(
    ("version", "wide", "order"), [(5, True, "<"), (4, False, ">"), (3, True, ">"), (4, True, "<")]
)
def test_offsets_are_shifted_in_every_layout(version: int, wide: bool, order: str) -> None:
    one, two = (struct.pack(order + ("Q" if wide else "I"), value) for value in (1, 2))
    forms = [(0x1F20, one), (0x1F21, two)]
    main = unit(forms, version, order, wide)
    found = merged(main, none(), little_endian=order == "<")[b".debug_info"]
    expected = unit(
        [
            (0x1F20, struct.pack(order + ("Q" if wide else "I"), 1 + len(main[b".debug_info"]))),
            (0x1F21, struct.pack(order + ("Q" if wide else "I"), 2 + len(main[b".debug_str"]))),
        ],
        version,
        order,
        wide,
    )
    assert found == expected[b".debug_info"]


def test_references_of_dwarf_2_have_the_size_of_addresses() -> None:
    main = unit([(0x1F20, struct.pack("<Q", 9)), (0x1F21, struct.pack("<I", 1))], version=2)
    found = merged(main, none())[b".debug_info"]
    assert found[-13:-1] == struct.pack("<QI", 9 + len(main[b".debug_info"]), 1 + len(b"main\0"))


def test_what_the_supplement_says_of_itself_is_shifted_and_its_line_table_forgotten() -> None:
    main = unit([(0x0B, b"\1")])
    shared = unit([(0x0E, struct.pack("<I", 2)), (0x10, struct.pack("<I", 3)), (0x17, bytes(4))])
    shared[b".debug_abbrev"] = shared[b".debug_abbrev"].replace(uleb(0x2002) + uleb(0x17), uleb(0x10) + uleb(0x17))
    result = merged(main, shared)
    second = result[b".debug_info"][len(main[b".debug_info"]) :]
    assert struct.unpack_from("<I", second, 8) == (len(main[b".debug_abbrev"]),)
    assert second[-13:-1] == struct.pack("<III", 2 + 5, 3 + len(main[b".debug_info"]), 0)
    abbreviations = result[b".debug_abbrev"][len(main[b".debug_abbrev"]) :]
    assert uleb(0x10) + uleb(0x17) not in abbreviations
    assert result[b".debug_str"] == b"main\0main\0"


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.sampled_from(VALUES), max_size=12),
    st.lists(st.sampled_from(VALUES), max_size=12),
    st.integers(0, 2**32),
    st.integers(0, 12),
)
def test_damaged_sections_give_an_error_or_sections_of_the_same_size(
    first: list[tuple[int, bytes]], second: list[tuple[int, bytes]], seed: int, times: int
) -> None:
    chance = random.Random(seed)
    main, shared = unit(first), unit(second)
    for sections in (main, shared):
        for name in (b".debug_info", b".debug_abbrev"):
            data = bytearray(sections[name])
            for _ in range(times):
                data[chance.randrange(len(data))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
            sections[name] = bytes(data)
    try:
        result = merged(main, shared)
    except ElfError:
        return
    for name in (b".debug_info", b".debug_abbrev", b".debug_str"):
        assert len(result[name]) == len(main[name]) + len(shared[name])


def test_overlapping_abbreviations_are_refused_rather_than_read_again_and_again() -> None:
    table = b"\1\x11\0\0\0" * 20_000 + b"\0"
    one = unit([])[b".debug_info"]
    units = [one[:8] + struct.pack("<I", 5 * i) + one[12:] for i in range(100)]
    with pytest.raises(ElfError, match="overlap"):
        merged({b".debug_info": b"".join(units), b".debug_abbrev": table}, none())
