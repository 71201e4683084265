"""ELF files: segments, symbols and build ids, of real linkers and of damaged files."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.structs import ELFStructs
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer import symbols
from symbolizer.elf import Elf, ElfError, build_id_of_notes, read_elf, virtual_addresses
from symbolizer.elf_symbols import read_symbols

SOURCE = """
int counter;
__attribute__((noinline)) int inner(int x) { for (int i = 0; i < x; i++) counter += i; return counter; }
static __attribute__((noinline, used)) int hidden(int x) { return inner(x) + 1; }
int outer(int x) { return hidden(x) * 2; }
extern int alias_b(int) __attribute__((alias("outer")));
extern int __weak_name(int) __attribute__((weak, alias("outer")));
__asm__(".text\\n.globl bare\\nbare: nop; nop; nop; nop; ret\\n.globl bare_end\\nbare_end: ret\\n");
#ifndef SHARED
int main(int argc, char **argv) { return outer(argc); }
#endif
"""
LINKS = {
    "pie": ["-fPIE", "-pie"],
    "exec": ["-fno-pie", "-no-pie"],
    "static": ["-fno-pie", "-no-pie", "-static"],
    "moved": ["-fno-pie", "-no-pie", "-Wl,-Ttext-segment=0x10000000"],
    "shared": ["-DSHARED", "-fPIC", "-shared"],
    "prelinked": ["-DSHARED", "-fPIC", "-shared", "-Wl,-Ttext-segment=0x3000000000"],
    "split": ["-fPIE", "-pie", "-Wl,-z,separate-code"],
    "joined": ["-fPIE", "-pie", "-Wl,-z,noseparate-code"],
}


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    if not shutil.which("gcc"):
        pytest.fail("gcc is not installed: `make setup-dev` installs it", pytrace=False)
    folder = tmp_path_factory.mktemp("elf")

    def build(name: str, *options: str) -> Path:
        source, output = folder / "source.c", folder / name
        source.write_text(SOURCE)
        if not output.exists():
            subprocess.run(["gcc", "-O1", "-o", output, source, "-Wl,--build-id=sha1", *options], check=True)
        return output

    return build


def _nm(path: Path | str, *options: str) -> list[tuple[int, int, str]]:
    """(start, size, name) of every defined symbol with a size in a code section, as nm tells them."""
    out = subprocess.run(["nm", "-S", "--defined-only", *options, path], capture_output=True, text=True, check=True)
    found = []
    for line in out.stdout.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2] in "tTwWi":
            found.append((int(fields[0], 16), int(fields[1], 16), fields[3].split("@")[0]))
    return found


def _check_against_nm(path: Path | str, *options: str, seed: int = 7) -> int:
    data = Path(path).read_bytes()
    elf = read_elf(reader(data))
    symbols = [symbol for symbol in _nm(path, *options) if symbol[1]]
    sections = [section for section in elf.sections if section.executable]
    in_text = [s for s in symbols if any(x.address <= s[0] < x.address + x.size for x in sections)]
    chosen = random.Random(seed)
    picked = [(s[0] + chosen.randrange(s[1]), s) for s in chosen.choices(in_text, k=2000)]
    table = read_symbols(elf)
    found = table.find([address for address, _ in picked])
    for (address, symbol), i in zip(picked, found, strict=True):
        assert i >= 0, symbol
        name = table.best_name(i).decode().split("@")[0]
        holding = {s[2]: s for s in in_text if s[0] <= address < s[0] + s[1]} if symbol[2] != name else {name: symbol}
        assert name in holding
    return len(in_text)


@pytest.mark.parametrize("kind", LINKS)
def test_symbols_are_those_that_nm_tells(kind: str, build: Callable[..., Path]) -> None:
    assert _check_against_nm(build(kind, *LINKS[kind])) >= 3


@pytest.mark.parametrize("kind", LINKS)
def test_file_offsets_lead_to_the_addresses_that_readelf_tells(kind: str, build: Callable[..., Path]) -> None:
    path = build(kind, *LINKS[kind])
    out = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
    loads = re.findall(r"LOAD\s+0x(\w+) 0x(\w+) 0x\w+ 0x(\w+) 0x\w+ (...)", out)
    elf = read_elf(reader(path.read_bytes()))
    executable = [[int(x, 16) for x in load[:3]] for load in loads if "E" in load[3]]
    assert executable
    for offset, address, size in executable:
        for step in (0, size // 2, size - 1):
            assert virtual_addresses(elf.loads, [offset + step]) == [address + step]


@pytest.mark.parametrize("path", ["/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/python3"])
def test_stripped_system_files_are_named_by_their_dynamic_symbols(path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"no {path}")
    assert _check_against_nm(path, "-D") > 500


def test_build_id_is_the_one_readelf_tells(build: Callable[..., Path]) -> None:
    path = build("pie", *LINKS["pie"])
    out = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
    assert read_elf(reader(path.read_bytes())).build_id() == out.split("Build ID: ")[1].split()[0]


def test_a_file_without_build_id_is_known_by_its_content(build: Callable[..., Path]) -> None:
    data = build("noid", *LINKS["pie"], "-Wl,--build-id=none").read_bytes()
    elf = read_elf(reader(data))
    assert elf.build_id() == ""
    assert elf.content_id(len(data)).startswith("content:")
    assert elf.content_id(len(data)) == read_elf(reader(data)).content_id(len(data))
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    assert read_elf(reader(bytes(changed))).content_id(len(data)) != elf.content_id(len(data))
    longer = read_elf(reader(data + b"\0"))
    assert longer.content_id(len(data) + 1) != elf.content_id(len(data))


def test_content_id_reads_little_of_a_large_file() -> None:
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    elf = Elf(read, ELFStructs(), "EM_X86_64", (), ())
    elf.content_id(1 << 40)
    assert sum(asked) <= 4 << 20


def test_aliases_resolve_to_the_strongest_then_plainest_name(build: Callable[..., Path]) -> None:
    elf = read_elf(reader(build("exec", *LINKS["exec"]).read_bytes()))
    table = read_symbols(elf)
    start = next(s for s, _, name in _nm(build("exec", *LINKS["exec"])) if name == "outer")
    i = table.find([start])[0]
    assert table.best_name(i) == b"outer"


def test_assembler_symbols_without_size_reach_to_the_next(build: Callable[..., Path]) -> None:
    path = build("exec", *LINKS["exec"])
    out = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    start = int(next(line.split()[0] for line in out.splitlines() if line.endswith(" bare")), 16)
    table = read_symbols(read_elf(reader(path.read_bytes())))
    found = table.find([start, start + 4, start + 5])
    assert [table.best_name(i) for i in found] == [b"bare", b"bare", b"bare_end"]


def test_a_stripped_static_file_has_no_symbols_and_no_error(build: Callable[..., Path]) -> None:
    path = build("bare-static", *LINKS["static"], "-s")
    table = read_symbols(read_elf(reader(path.read_bytes())))
    assert table.only_stubs
    assert {table.best_name(i) for i in range(len(table))} == {b".plt"}


def _everything(data: bytes) -> None:
    try:
        elf = read_elf(reader(data))
        elf.build_id()
        virtual_addresses(elf.loads, [0, 4096, 2**64 - 1])
        table = read_symbols(elf)
        table.find([0, 4096, 2**64 - 1])
        for i in range(min(len(table), 5)):
            table.best_name(i)
    except ElfError:
        pass


def _small(build: Callable[..., Path]) -> bytes:
    return build("tiny", "-DSHARED", "-fPIC", "-shared", "-nostdlib", "-Wl,-z,noseparate-code").read_bytes()


def test_an_elf_file_cut_at_any_byte_raises_only_elf_error(build: Callable[..., Path]) -> None:
    data = _small(build)
    for size in range(len(data)):
        _everything(data[:size])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_elf_file_with_any_bytes_changed_raises_only_elf_error(
    build: Callable[..., Path], data: st.DataObject
) -> None:
    image = bytearray(_small(build))
    for _ in range(data.draw(st.integers(1, 8))):
        # Half of the changes go where the headers are: the first KB and the section headers at the end.
        place = data.draw(st.one_of(st.integers(0, 1023), st.integers(len(image) - 2048, len(image) - 8)))
        image[place : place + 8] = data.draw(st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" * 8, os.urandom(8)]))
    _everything(bytes(image))


@pytest.mark.parametrize(
    "data", [b"", b"\x7f", b"\x7fELF", b"#!/bin/sh\n", b"MZ" + bytes(100), b"\x7fELF" + b"\xff" * 100]
)
def test_what_is_no_elf_file_says_so(data: bytes) -> None:
    with pytest.raises(ElfError, match="it is not an ELF file|its ELF header"):
        read_elf(reader(data))


def test_a_file_that_claims_gigabytes_of_symbols_is_refused_before_they_are_read(build: Callable[..., Path]) -> None:
    image = bytearray(_small(build))
    elf = read_elf(reader(bytes(image)))
    shoff = int.from_bytes(image[40:48], "little")
    for i, section in enumerate(elf.sections):
        if section.kind == "SHT_SYMTAB":
            image[shoff + 64 * i + 32 : shoff + 64 * i + 40] = (24 << 40).to_bytes(8, "little")
    with pytest.raises(ElfError, match="more than"):
        read_symbols(read_elf(reader(bytes(image))))


@pytest.mark.parametrize(("at", "what"), [(56, "segments"), (60, "sections")])
def test_a_file_that_claims_thousands_of_headers_is_refused_before_they_are_read(
    at: int, what: str, build: Callable[..., Path]
) -> None:
    image = bytearray(_small(build))
    image[at : at + 2] = b"\xff\xff"
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return bytes(image[offset : offset + size])

    with pytest.raises(ElfError, match=f"65535 .*{what}"):
        read_elf(read)
    assert sum(asked) < 1 << 16


def test_of_gigabytes_of_notes_little_is_read(build: Callable[..., Path]) -> None:
    image = bytearray(_small(build))
    elf = read_elf(reader(bytes(image)))
    assert elf.build_id()
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    endless = tuple(replace(segment, kind="PT_NOTE", size=1 << 40) for segment in elf.segments)
    assert replace(elf, read=read, segments=endless).build_id() == ""
    assert sum(asked) <= 1 << 16


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"GNU\0", b"\3\0\0\0", b"\4\0\0\0"]), max_size=12))
def test_notes_of_any_bytes_give_an_id_or_none(notes: list[bytes]) -> None:
    assert re.fullmatch(r"([0-9a-f]{2}){0,20}", build_id_of_notes(b"".join(notes)))


def test_thirty_two_bit_files_are_read_too(tmp_path: Path) -> None:
    source = tmp_path / "a.s"
    source.write_text(".text\n.globl small\n.type small,@function\nsmall: nop\n ret\n.size small, .-small\n")
    made = subprocess.run(["as", "--32", source, "-o", tmp_path / "a.o"], capture_output=True)
    linked = subprocess.run(["ld", "-m", "elf_i386", "-e", "small", tmp_path / "a.o", "-o", tmp_path / "a"])
    if made.returncode or linked.returncode:
        pytest.skip("binutils without i386")
    elf = read_elf(reader((tmp_path / "a").read_bytes()))
    table = read_symbols(elf)
    entry = next(section.address for section in elf.sections if section.executable)
    assert table.best_name(table.find([entry + 1])[0]) == b"small"


long_names = st.sampled_from([b"x" * 9000, b"y" * 200_000])


@given(st.lists(st.binary(max_size=40) | long_names, max_size=12), st.integers(1, 999))
@settings(deadline=None)
def test_names_are_the_same_packed_and_loose(names: list[bytes], piece: int) -> None:
    text = b"".join(name.replace(b"\0", b"") + b"\0" for name in names)
    chunks = [text[at : at + piece] for at in range(0, len(text), piece)]
    with pytest.MonkeyPatch.context() as patch:
        loose = symbols.PackedStrings(chunks)
        patch.setattr(symbols, "_MOST_LOOSE", 0)
        packed = symbols.PackedStrings(chunks)
    for at in [*range(0, len(text) + 2, 1009), *(i for i in range(min(len(text), 200)))]:
        whole = text[at:].partition(b"\0")[0]
        for strings in (loose, packed):
            found = strings.at(at)
            assert found == whole[: 1 << 13]


def test_long_tables_of_names_take_less_memory_than_their_text() -> None:
    text = b"".join(b"_ZN4llvm%dfunctionEv\0" % i for i in range(400_000))
    assert symbols.PackedStrings([text]).nbytes < len(text) / 2


def _names_by_symbol(path: Path) -> dict[str, str]:
    """What each symbol that nm tells of a file's text is shown as."""
    table = read_symbols(read_elf(reader(path.read_bytes())))
    out = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    starts = {
        line.split()[2]: int(line.split()[0], 16) for line in out.splitlines() if line[17:19] in ("t ", "T ", "W ")
    }
    return {name: table.best_name(table.find([start])[0]).decode() for name, start in starts.items()}


def _linked(folder: Path, source: str, *options: str) -> Path:
    (folder / "a.c").write_text(source)
    path = folder / "a.so"
    command: list[str | Path] = ["gcc", "-O1", "-nostdlib", "-shared", "-fPIC", "-o", path, folder / "a.c", *options]
    subprocess.run(command, check=True)
    return path


def test_of_aliases_global_goes_before_weak_and_weak_before_local(tmp_path: Path) -> None:
    source = """
        #define ALIAS(of) __attribute__((alias(#of)))
        void aaa_local_of_weak(void); void b_weak_of_global(void);
        static __attribute__((used)) void a(void) { __asm__("nop"); }
        ALIAS(a) __attribute__((weak)) void plain_weak(void);
        static __attribute__((used)) void b(void) { __asm__("nop; nop"); }
        ALIAS(b) __attribute__((weak)) void w(void);
        ALIAS(b) void __a_long_global_name(void);
        static __attribute__((used)) void only_local(void) { __asm__("nop; nop; nop"); }
    """
    found = _names_by_symbol(_linked(tmp_path, source))
    assert (found["a"], found["b"], found["only_local"]) == ("plain_weak", "__a_long_global_name", "only_local")


@pytest.mark.parametrize("stripped", [False, True])
def test_the_default_version_of_a_symbol_goes_before_hidden_ones(tmp_path: Path, stripped: bool) -> None:
    (tmp_path / "versions").write_text("V1 { global: a; b; local: *; }; V2 { global: much_longer_name; } V1;")
    source = """
        void body(void) { __asm__("nop"); }
        extern void older(void) __attribute__((alias("body")));
        extern void newer(void) __attribute__((alias("body")));
        __asm__(".symver older, a@V1\\n.symver newer, much_longer_name@@V2\\n.symver body, b@V1");
    """
    path = _linked(tmp_path, source, f"-Wl,--version-script={tmp_path}/versions", *(["-s"] if stripped else []))
    table = read_symbols(read_elf(reader(path.read_bytes())))
    (body,) = table.find([max(table.ranges.start.tolist())])
    assert table.best_name(body).partition(b"@")[0] == b"much_longer_name"
    names = {table.strings.at(int(name)).partition(b"@")[0] for name in table.name}
    assert {b"a", b"b", b"much_longer_name"} <= names


def test_symbols_with_a_size_go_before_labels_wherever_these_are(tmp_path: Path) -> None:
    source = """
        __asm__(".text\\n.globl label_before\\nlabel_before:\\n"
                ".globl sized_function\\n.type sized_function, @function\\n"
                "sized_function: nop; nop\\n.globl label_within\\nlabel_within: nop; ret\\n"
                ".size sized_function, . - sized_function\\n.globl label_alone\\nlabel_alone: nop; ret\\n"
                ".globl label_alone_too\\n.set label_alone_too, label_alone\\n"
                ".globl function_alone\\n.type function_alone, @function\\n.set function_alone, label_alone");
    """
    found = _names_by_symbol(_linked(tmp_path, source))
    assert {found[name] for name in ("label_before", "sized_function", "label_within")} == {"sized_function"}
    assert {found[name] for name in ("label_alone", "label_alone_too", "function_alone")} == {"function_alone"}


def test_the_choice_among_aliases_does_not_depend_on_their_order(tmp_path: Path) -> None:
    names = ["same_length_b", "same_length_a", "_short", "__x", "a_longer_name_than_that"]
    chosen = set()
    for order in (names, names[::-1], names[2:] + names[:2]):
        aliases = "".join(f'extern void {name}(void) __attribute__((alias("__f")));\n' for name in order)
        found = _names_by_symbol(_linked(tmp_path, 'void __f(void) { __asm__("nop"); }\n' + aliases))
        chosen.add(found["__f"])
    assert chosen == {"same_length_a"}


def test_of_one_function_within_another_the_inner_one_names_its_addresses(tmp_path: Path) -> None:
    source = """
        __asm__(".text\\n.globl outer_one\\n.type outer_one, @function\\nouter_one: nop\\n"
                ".globl inner_one\\n.type inner_one, @function\\ninner_one: nop\\n.size inner_one, 1\\n"
                "nop; ret\\n.size outer_one, . - outer_one");
    """
    path = _linked(tmp_path, source)
    table = read_symbols(read_elf(reader(path.read_bytes())))
    start = int(
        subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout.split(" T outer")[0][-16:], 16
    )
    found = [table.best_name(i).decode() for i in table.find(range(start, start + 4))]
    assert found == ["outer_one", "inner_one", "outer_one", "outer_one"]


def test_stubs_of_chosen_functions_are_named_by_the_same_rules(tmp_path: Path) -> None:
    source = """
        static void one(void) {}
        static void *choose(void) { return one; }
        void __chosen(void) __attribute__((ifunc("choose")));
        extern __typeof(__chosen) chosen __attribute__((alias("__chosen")));
        extern __typeof(__chosen) a_longer_alias __attribute__((alias("__chosen")));
        int main(void) { chosen(); return 0; }
    """
    (tmp_path / "a.c").write_text(source)
    path = tmp_path / "a"
    subprocess.run(["gcc", "-O1", "-static", "-no-pie", "-o", path, tmp_path / "a.c"], check=True)
    table = read_symbols(read_elf(reader(path.read_bytes())))
    names = {table.best_name(i) for i in range(len(table)) if table.rank[i] == symbols.RANK_STUB}
    assert b"chosen@plt" in names and b"__chosen@plt" not in names


def test_a_name_of_100_kb_that_hundreds_of_symbols_share_costs_little() -> None:
    names = b"a" * 100_000 + b"\0"
    count = 256 * 100
    starts = np.repeat(np.arange(100, dtype=np.uint64) * np.uint64(16), 256)
    offsets = np.tile(np.arange(256, dtype=np.uint32), 100)
    table = symbols.SymbolTable(
        starts, starts + np.uint64(16), offsets, np.zeros(count, np.uint8), symbols.PackedStrings([names])
    )
    tracemalloc.start()
    assert all(len(table.best_name(number)) == 1 << 13 for number in table.find(range(0, 1600, 16)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20
