"""Symbol files: built of what compilers write, compared with llvm-symbolizer; and of damaged bytes."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer.debuginfo.image import debug_image
from symbolizer.debuginfo.symfile import MAX_INLINED, SourceFrame, SymFile, SymFileError, pack_symfile
from symbolizer.elf import read_elf
from tests.symbolizer_programs import Compile, compiler, opened, symfile, tool

KINDS = {
    "dwarf2": ["g++", "-O2", "-gdwarf-2"],
    "dwarf3": ["g++", "-O2", "-gdwarf-3"],
    "dwarf4": ["g++", "-O2", "-gdwarf-4"],
    "dwarf5": ["g++", "-O2", "-gdwarf-5"],
    "clang4": ["clang++", "-O2", "-gdwarf-4"],
    "clang5": ["clang++", "-O2", "-gdwarf-5"],
    "exec": ["g++", "-O2", "-g", "-no-pie", "-fno-pie"],
    "moved": ["g++", "-O2", "-g", "-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x3000000"],
    "zlib": ["g++", "-O2", "-g", "-gz=zlib"],
    "zlib-gnu": ["g++", "-O2", "-g", "-gz=zlib-gnu"],
    "unoptimized": ["g++", "-O0", "-g"],
    "rust": ["rustc", "-O", "-g"],
    "go": ["go"],
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    return compiler(tmp_path_factory.mktemp("symfile"))


def text_section(path: Path) -> tuple[int, int]:
    """Where .text begins and ends, by address."""
    table = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\.text\s+\w+\s+(\w+) \w+ (\w+)", table)
    assert found
    return int(found[1], 16), int(found[1], 16) + int(found[2], 16)


def some_addresses(path: Path, count: int = 1500) -> list[int]:
    start, end = text_section(path)
    return sorted(random.Random(5).sample(range(start, end), min(count, end - start)))


def llvm(path: Path, addresses: list[int]) -> list[list[tuple[str, str, int]]]:
    """(function, file, line) of each frame at each address, innermost first, as llvm-symbolizer tells them."""
    command = [tool("llvm-symbolizer"), f"--obj={path}", "--inlines", "--no-demangle", "--functions=linkage"]
    asked = "".join(f"{address:#x}\n" for address in addresses)
    answer = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    blocks = []
    for block in answer.strip("\n").split("\n\n"):
        lines = block.split("\n")
        places = [lines[i + 1].rsplit(":", 2) for i in range(0, len(lines) - 1, 2)]
        blocks.append([(lines[2 * i], place[0], int(place[1])) for i, place in enumerate(places)])
    assert len(blocks) == len(addresses)
    return blocks


def aliases(path: Path) -> dict[str, set[str]]:
    """For each symbol all names of its address."""
    table = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    by_address: dict[str, set[str]] = {}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) == 3:
            by_address.setdefault(fields[0], set()).add(fields[2])
    return {name: names for names in by_address.values() for name in names}


def disagreements(path: Path, found: SymFile) -> tuple[int, Counter[str]]:
    """How many frames were compared, and how many differ in what.

    Not compared is padding, of which llvm-symbolizer says a line but no function. Two things are counted apart, since
    one side knows nothing there: the file of a function that only symbols know (llvm-symbolizer takes it from the
    symbol table), and code before the first row of its line table, where gcc puts cold parts (llvm-symbolizer takes
    the line of the function before, or names an inlined function without a line).
    """
    addresses = some_addresses(path)
    same = aliases(path)
    frames, kinds = 0, Counter[str]()
    for ours, theirs in zip(found.lookup(addresses), llvm(path, addresses), strict=True):
        if theirs[-1][0] == "??":
            continue
        frames += len(theirs)
        if len(ours) == 1 and not ours[0].line:
            kinds["no line"] += any(line for _, _, line in theirs)
            kinds["function"] += ours[0].function.decode() not in same.get(theirs[-1][0], {theirs[-1][0]})
        elif len(ours) != len(theirs):
            kinds["no line" if theirs[0][1] == "??" else "depth"] += len(theirs)
        else:
            for i, (our, (function, file, line)) in enumerate(zip(ours, theirs, strict=True)):
                names = same.get(function, {function}) if i == len(ours) - 1 else {function}
                kinds["function"] += our.function.decode() not in names
                kinds["line"] += our.line != line
                kinds["file"] += os.path.basename(our.file) != os.path.basename(file)
    return frames, +kinds


@pytest.mark.parametrize("kind", KINDS)
def test_frames_agree_with_llvm_symbolizer(build: Compile, kind: str) -> None:
    path = build(kind, *KINDS[kind])
    with_lines = symfile(path)
    assert with_lines.note == ""
    frames, kinds = disagreements(path, with_lines)
    unknown = kinds.pop("no line", 0)
    assert frames > 1000
    assert kinds.total() <= frames / 1000, kinds
    assert unknown <= frames / 100


def test_frames_agree_where_the_debug_information_is_a_file_of_its_own(build: Compile, tmp_path: Path) -> None:
    whole = build("dwarf5", *KINDS["dwarf5"])
    debug, binary = tmp_path / "p.debug", tmp_path / "p"
    subprocess.run(["objcopy", "--only-keep-debug", whole, debug], check=True)
    subprocess.run(["strip", "-o", binary, whole], check=True)
    start, end = text_section(whole)
    addresses = range(start - 0x1000, end + 0x1000)  # stubs of the procedure linkage table among them
    apart = symfile(binary, debug).lookup(addresses)
    assert apart == symfile(whole).lookup(addresses)
    assert any(frames and frames[-1].function.endswith(b"@plt") for frames in apart)


def test_debug_information_follows_a_binary_that_was_moved_since(build: Compile, tmp_path: Path) -> None:
    before, after = build("exec", *KINDS["exec"]), build("moved", *KINDS["moved"])
    debug, bare = tmp_path / "before.debug", tmp_path / "bare"
    subprocess.run(["objcopy", "--only-keep-debug", before, debug], check=True)
    subprocess.run(["strip", "-o", bare, after], check=True)
    (start, end), (old, _) = text_section(after), text_section(before)
    assert start - old > 1 << 20
    moved = symfile(bare, debug).lookup(range(start, end, 3))
    assert moved == symfile(after).lookup(range(start, end, 3))
    assert any(len(frames) > 3 for frames in moved)


def test_names_of_the_binary_fill_what_the_debug_file_leaves_out(build: Compile, tmp_path: Path) -> None:
    whole = build("dwarf4", *KINDS["dwarf4"])
    debug = tmp_path / "without.debug"
    subprocess.run(["objcopy", "--only-keep-debug", "--strip-symbol=_Z3runiPPc", whole, debug], check=True)
    with_symbols, own = symfile(whole, debug), symfile(whole)
    addresses = some_addresses(whole)
    assert [f[-1:] and f[-1].function for f in with_symbols.lookup(addresses)] == [
        f[-1:] and f[-1].function for f in own.lookup(addresses)
    ]


def test_the_physical_function_is_named_by_its_symbol_and_appears_once(build: Compile) -> None:
    path = build("dwarf5", *KINDS["dwarf5"])
    frames = [found for found in symfile(path).lookup(range(*text_section(path))) if found]
    cold = [found for found in frames if found[-1].function == b"_Z3runiPPc.cold"]
    assert cold
    assert all(frame.function != b"_Z3runiPPc" for found in cold for frame in found)
    assert any(len(found) > 1 and found[-1].line for found in cold)
    inlined = [found for found in frames if found[0].function == b"clamp_all"]
    assert inlined
    assert all(found[-1].function == b"_Z3runiPPc" for found in inlined)


def test_of_several_names_the_alias_rule_chooses(tmp_path: Path) -> None:
    source, output = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text("""
        int g;
        __attribute__((noinline)) int __inner(int x) { return g ^ x; }
        extern int inner(int) __attribute__((alias("__inner")));
        int outer(int x) { return inner(x) + __inner(x + 1); }
    """)
    subprocess.run(["gcc", "-O2", "-g", "-shared", "-fPIC", "-o", output, source], check=True)
    found = [frames for frames in symfile(output).lookup(range(*text_section(output))) if frames]
    names = {frames[-1].function for frames in found if frames[-1].line}
    assert names == {b"inner", b"outer"}


def test_a_function_that_only_debug_information_knows_has_its_name_from_there(tmp_path: Path, build: Compile) -> None:
    whole, bare = build("dwarf5", *KINDS["dwarf5"]), tmp_path / "bare"
    subprocess.run(["objcopy", "--strip-symbol=_ZL5depthi", whole, bare], check=True)
    address = next(
        int(line.split()[0], 16)
        for line in subprocess.run(["nm", whole], capture_output=True, text=True, check=True).stdout.splitlines()
        if line.endswith("_ZL5depthi")
    )
    assert [frames[-1].function for frames in symfile(whole).lookup([address])] == [b"_ZL5depthi"]
    assert [frames[-1].function for frames in symfile(bare).lookup([address])] == [b"depth"]


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (0x30_0000_0000, ["-shared", "-fPIC"]),
        (0xFFFF_FFFF_8100_0000, ["-static", "-nostdlib", "-mcmodel=kernel", "-fno-pie", "-no-pie", "-Wl,-e,work"]),
    ],
    ids=["prelinked", "kernel"],
)
def test_code_at_high_addresses_has_lines(tmp_path: Path, start: int, options: list[str]) -> None:
    source, output = tmp_path / "high.c", tmp_path / "high"
    source.write_text("int g;\nint work(int x) {\n    return g ^ x;\n}\n")
    place = f"-Wl,-Ttext-segment={start:#x}"
    subprocess.run(["gcc", "-O1", "-g", *options, place, "-o", output, source], check=True)
    first, end = text_section(output)
    assert first > start
    work = SourceFrame(b"work", str(source), 3)
    assert (work,) in symfile(output).lookup(range(first, end))


def test_an_object_that_no_linker_has_placed_is_read_by_section(tmp_path: Path) -> None:
    source, made = tmp_path / "m.c", tmp_path / "m.ko"
    source.write_text("""
        int g;
        static inline __attribute__((always_inline)) int twice(int x) {
            return x * g;
        }
        int __attribute__((section(".init.text"))) start_it(int x) {
            return g = twice(x);
        }
        int work(int x) {
            return twice(x + g) ^ x;
        }
    """)
    subprocess.run(["gcc", "-c", "-O2", "-g", "-o", tmp_path / "m.o", source], check=True)
    subprocess.run(["ld", "-r", "-o", made, tmp_path / "m.o"], check=True)
    debug, stripped = tmp_path / "m.debug", tmp_path / "stripped.ko"
    subprocess.run(["objcopy", "--only-keep-debug", made, debug], check=True)
    subprocess.run(["strip", "-g", "-o", stripped, made], check=True)
    for found in (symfile(made), symfile(stripped, debug)):
        assert found.sections == {b".text": 0, b".init.text": 0x1000}
        twice = SourceFrame(b"twice", str(source), 4)
        for start, function, line in ((0, b"work", 10), (0x1000, b"start_it", 7)):
            frames = found.lookup(range(start, start + 32))
            assert (twice, SourceFrame(function, str(source), line)) in frames
            assert {chain[-1].function for chain in frames if chain} == {function}


def edited(path: Path, section: bytes, *, size: int | None = None, content: bytes = b"") -> bytes:
    """A file whose header claims another size of a section, or whose section begins with other bytes."""
    data = bytearray(path.read_bytes())
    elf = read_elf(lambda at, count: bytes(data[at : at + count]))
    (table,) = struct.unpack_from("<Q", data, 40)
    number = next(i for i, part in enumerate(elf.sections) if elf.section_name(part) == section)
    if size is not None:
        struct.pack_into("<Q", data, table + 64 * number + 32, size)
    at = elf.sections[number].offset
    data[at : at + len(content)] = content
    return bytes(data)


def test_relocations_of_a_section_that_was_cut_are_left_out_and_the_last_four_bytes_of_a_whole_one_count(
    tmp_path: Path, build: Compile
) -> None:
    path = build("object", "clang++", "-c", "-g", "-gdwarf-5", "-O1")
    elf = read_elf(lambda at, size: path.read_bytes()[at : at + size])
    part = elf.section(b".debug_str_offsets")
    assert part is not None and elf.sections[elf.sections.index(part) + 1].kind == "SHT_RELA"
    whole = debug_image(elf, None, 1 << 24)
    assert whole is not None
    made = read_elf(lambda at, size: whole[at : at + size])
    placed = made.section(b".debug_str_offsets")
    assert placed is not None
    last = whole[placed.offset : placed.offset + placed.size][-4:]
    strings = made.section(b".debug_str")
    assert strings is not None and 0 < int.from_bytes(last, "little") < strings.size
    for size in range(1, 9):
        (tmp_path / "cut").write_bytes(edited(path, b".debug_line", size=size))
        assert isinstance(symfile(tmp_path / "cut"), SymFile)


@pytest.mark.parametrize("kind", ["zlib", "zlib-gnu"])
@pytest.mark.parametrize("claimed", [1 << 61, 1 << 36, 3 << 30])
def test_a_compressed_section_that_claims_more_than_it_can_hold_leaves_the_names_of_symbols(
    kind: str, claimed: int, build: Compile, tmp_path: Path
) -> None:
    whole, packed = build("dwarf5", *KINDS["dwarf5"]), tmp_path / "packed"
    subprocess.run(["objcopy", f"--compress-debug-sections={kind}", whole, packed], check=True)
    if kind == "zlib":
        data = edited(packed, b".debug_info", content=struct.pack("<IIQ", 1, 0, claimed))
    else:
        data = edited(packed, b".zdebug_info", content=b"ZLIB" + struct.pack(">Q", claimed))
    packed.write_bytes(data)
    found = symfile(packed)
    assert "section" in found.note
    assert b"_Z3runiPPc" in {frames[-1].function for frames in found.lookup(some_addresses(whole)) if frames}


def test_a_section_that_claims_gigabytes_takes_no_memory_for_them(build: Compile, tmp_path: Path) -> None:
    """As in the process of the builder, which has 2 GB."""
    path = tmp_path / "claims"
    path.write_bytes(edited(build("object", "clang++", "-c", "-g", "-gdwarf-5", "-O1"), b".debug_info", size=3 << 30))
    script = f"""
import resource
from pathlib import Path
from tests.symbolizer_programs import symfile
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
print(symfile(Path({str(path)!r})).note)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "a section is cut short", done.stderr


def test_addresses_go_on_at_zero_behind_the_last_for_few_and_many() -> None:
    """As a prelinker's moves, and damaged headers, have it."""
    nodes = [np.array([0, at], np.uint32) for at in (0, 1, 0, 0)]
    base = 2**64 - 64
    found = opened(pack_symfile(base, np.array([0, 128], np.uint32), np.array([1, 0], np.uint32), nodes, b"\0f\0"))
    addresses = [base - 1, base, 2**64 - 1, 0, 63, 64]
    expected = [bool(frames) for frames in found.lookup(addresses)]
    assert expected == [False, True, True, True, True, False]
    assert [bool(frames) for frames in found.lookup(addresses * 20)] == expected * 20
    assert found.lookup([-1, 2**64]) == [(), ()]


def test_a_chain_of_a_million_nodes_is_not_walked() -> None:
    count = 1_000_000
    nodes = [np.maximum(np.arange(count, dtype=np.int64) - 1, 0).astype(np.uint32), *[np.ones(count, np.uint32)] * 3]
    found = opened(pack_symfile(0, np.array([0], np.uint32), np.array([count - 1], np.uint32), nodes, b"\0f\0"))
    tracemalloc.start()
    for addresses in ([0], [0] * 100):
        assert len(found.lookup(addresses)[0]) <= MAX_INLINED + 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 << 20


def test_split_debug_information_leaves_names_and_says_so(build: Compile) -> None:
    path = build("split", "g++", "-O2", "-g", "-gsplit-dwarf")
    found = symfile(path)
    assert "split into .dwo files" in found.note
    names = {frames[0].function for frames in found.lookup(some_addresses(path)) if frames}
    assert b"_Z3runiPPc" in names


def test_symbols_alone_make_a_symbol_file_that_says_so(build: Compile) -> None:
    path = build("symbols", "g++", "-O2")
    found = symfile(path)
    assert found.note == "there is no debug information"
    assert {frames[0].line for frames in found.lookup(some_addresses(path)) if frames} == {0}


def test_sections_compressed_with_zstd_are_read(build: Compile, tmp_path: Path) -> None:
    pytest.importorskip("backports.zstd")
    whole, packed = build("dwarf5", *KINDS["dwarf5"]), tmp_path / "zstd"
    subprocess.run(["objcopy", "--compress-debug-sections=zstd", whole, packed], check=True)
    addresses = some_addresses(whole)
    assert symfile(packed).lookup(addresses) == symfile(whole).lookup(addresses)


def test_few_addresses_and_many_are_answered_alike(build: Compile) -> None:
    path = build("dwarf5", *KINDS["dwarf5"])
    found = symfile(path)
    addresses = [*some_addresses(path), 0, 2**64 - 1, 1 << 40]
    many = found.lookup(addresses)
    assert many == [frames for address in addresses for frames in found.lookup([address])]
    assert found.lookup([-1, 2**64, 2**70] * 20) == [()] * 60
    assert found.lookup([]) == []


def test_a_closed_symbol_file_knows_nothing(build: Compile) -> None:
    path = build("dwarf5", *KINDS["dwarf5"])
    found = symfile(path)
    addresses = some_addresses(path)
    found.lookup(addresses)
    found.close()
    assert found.lookup(addresses) == [()] * len(addresses)
    assert found.lookup(addresses[:3]) == [()] * 3


def test_a_large_symbol_file_is_mapped_not_read(tmp_path: Path) -> None:
    count = 4 << 20
    starts = np.arange(count, dtype=np.uint32)
    nodes = [np.zeros(2, np.uint32), *[np.ones(2, np.uint32)] * 3]
    path = tmp_path / "large"
    path.write_bytes(pack_symfile(0, starts, np.ones(count, np.uint32), nodes, b"\0f\0"))
    handle = os.open(path, os.O_RDONLY)

    def resident() -> int:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    found = SymFile.open(handle)
    os.close(handle)
    assert found.nbytes > 32 << 20
    assert found.lookup([5, count - 1]) == [(SourceFrame(b"f", "f", 1),)] * 2
    found.rest()
    assert found.lookup([count // 2] * 100) == [(SourceFrame(b"f", "f", 1),)] * 100
    assert resident() - before < 8 << 20
    found.close()


def tiny() -> bytes:
    caller, function = np.array([0, 0, 1, 2], np.uint32), np.array([0, 1, 3, 5], np.uint32)
    nodes = [caller, function, np.array([0, 7, 7, 7], np.uint32), np.array([0, 10, 20, 30], np.uint32)]
    starts, shown = np.array([0, 16, 32, 48], np.uint32), np.array([1, 2, 3, 0], np.uint32)
    return pack_symfile(0x400000, starts, shown, nodes, b"\0a\0b\0c\0x.c\0why\0", note=11, sections={7: 64})


def test_a_symbol_file_reads_as_it_was_written() -> None:
    found = opened(tiny())
    a, b, c = (SourceFrame(name, "x.c", line) for name, line in ((b"a", 10), (b"b", 20), (b"c", 30)))
    assert found.lookup([0x3FFFFF, 0x400000, 0x40000F, 0x400010, 0x40002F, 0x400030, 0x500000]) == [
        (), (a,), (a,), (b, a), (c, b, a), (), ()
    ]  # fmt: skip
    assert (found.note, found.sections, found.nbytes) == ("why", {b"x.c": 64}, len(tiny()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be mapped"),
        (b"\x7fELF" + bytes(100), "not a symbol file"),
        (tiny()[:40], "cut short"),
        (tiny()[:-1], "cut short or damaged"),
        (tiny()[:16] + b"\xff" + tiny()[17:], "version 255"),
    ],
)
def test_what_is_no_symbol_file_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(SymFileError, match=message):
        opened(data)


def test_nodes_that_lead_to_themselves_or_nowhere_end_the_chain() -> None:
    names = [np.ones(4, np.uint32)] * 3
    starts, shown = np.arange(6, dtype=np.uint32), np.array([1, 2, 3, 4, 2**32 - 1, 0], np.uint32)
    for caller in ([0, 1, 3, 2], [0, 2**32 - 1, 9, 3]):
        found = opened(pack_symfile(0, starts, shown, [np.array(caller, np.uint32), *names], b"\0f\0"))
        for addresses in (range(7), [*range(7)] * 9):
            answers = found.lookup(addresses)
            assert all(len(frames) <= 2 for frames in answers)
            assert answers[3:7] == [()] * 4


def test_inlining_without_end_is_cut() -> None:
    count = 5000
    nodes = [np.maximum(np.arange(count, dtype=np.int64) - 1, 0).astype(np.uint32), *[np.ones(count, np.uint32)] * 3]
    found = opened(pack_symfile(0, np.array([0], np.uint32), np.array([count - 1], np.uint32), nodes, b"\0f\0"))
    assert len(found.lookup([0])[0]) <= MAX_INLINED + 1
    assert len(found.lookup([0] * 100)[0]) <= MAX_INLINED + 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(tiny()) - 1), st.integers(0, 255)), max_size=12), st.integers(0, 400))
def test_damaged_symbol_files_give_an_error_or_frames_of_bounded_size(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(tiny())
    for at, byte in changes:
        data[at] = byte
    try:
        found = opened(bytes(data[: len(data) - cut] if cut < 40 else data))
    except SymFileError:
        return
    for addresses in (range(0x400000, 0x400010), range(0x3FFFF0, 0x400100)):
        for frames in found.lookup(addresses):
            assert len(frames) <= MAX_INLINED + 1
            assert all(len(frame.function) + len(frame.file) < 2 * len(data) for frame in frames)
    found.close()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_damaged_debug_information_gives_an_error_or_a_symbol_file(damaged: bytes, seed: int, times: int) -> None:
    chance = random.Random(seed)
    data = bytearray(damaged)
    for _ in range(times):
        data[chance.randrange(len(data))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    handle = os.memfd_create("damaged")
    try:
        os.write(handle, data)
        path = Path(f"/proc/self/fd/{handle}")
        found = symfile(path)
    except SymFileError as error:
        assert len(str(error).splitlines()) == 1
        return
    finally:
        os.close(handle)
    found.lookup(range(0, 0x8000, 7))
    found.close()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "d.c").write_text("""
        static inline int twice(int x) { return x * 3; }
        int work(int x) { for (int i = 0; i < x; i++) x ^= twice(x); return x; }
        int main(int argc, char **argv) { return work(argc); }
    """)
    subprocess.run(["gcc", "-O2", "-g", "-nostartfiles", "-Wl,-e,main", "-o", folder / "d", folder / "d.c"], check=True)
    return (folder / "d").read_bytes()
