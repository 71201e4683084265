"""Stubs of the procedure linkage table: named as objdump labels them however they were linked, damaged or not."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from symbolizer import plt
from symbolizer.elf import Elf, ElfError, read_elf
from symbolizer.elf_symbols import read_symbols
from symbolizer.naming.demangle import function_names
from symbolizer.symbols import SymbolTable

SOURCE = """
#include <stdlib.h>
#include <string.h>
#include <time.h>
int work(int argc, char **argv) {
    int (*volatile taken)(const char *, const char *) = strcmp;  // called and taken: a stub in .plt.got
    return (int)(clock() + strtol(argv[0], 0, 10) + time(0)) + taken(argv[0], "x") + strcmp(argv[0], argv[1]);
}
int main(int argc, char **argv) { return work(argc, argv); }
"""
BRANCHES_MARKED = ["-fcf-protection=full", "-Wl,-z,ibtplt"]
LINKS = {
    "lazy": ["-pie", "-fPIE", "-Wl,-z,lazy"],
    "now": ["-pie", "-fPIE", "-Wl,-z,now"],
    "lazy, branches marked": ["-pie", "-fPIE", "-Wl,-z,lazy", *BRANCHES_MARKED],
    "now, branches marked": ["-pie", "-fPIE", "-Wl,-z,now", *BRANCHES_MARKED],
    "at a fixed address": ["-no-pie", "-fno-pie", "-Wl,-z,lazy"],
    "library, stripped": ["-shared", "-fPIC", "-s"],
    "library, stripped, branches marked": ["-shared", "-fPIC", "-s", *BRANCHES_MARKED],
    "stripped": ["-pie", "-fPIE", "-s"],
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    if not shutil.which("gcc"):
        pytest.fail("gcc is not installed: `make setup-dev` installs it", pytrace=False)
    folder = tmp_path_factory.mktemp("plt")

    def build(name: str, *options: str) -> Path:
        (folder / "source.c").write_text(SOURCE)
        if not (folder / name).exists():
            files = ["-o", str(folder / name), str(folder / "source.c")]
            subprocess.run(["gcc", "-O1", "-fno-builtin", *files, *options], check=True)
        return folder / name

    return build


def elf_of(data: bytes) -> Elf:
    return read_elf(lambda offset, size: data[offset : offset + size])


def name_at(table: SymbolTable, address: int) -> str:
    (i,) = table.find([address])
    return table.best_name(i).decode() if i >= 0 else ""


def objdump_labels(path: Path | str) -> dict[int, str]:
    """What objdump calls the stubs; it calls a section's first entry after its second, as in "clock@plt-0x10"."""
    sections = [option for section in plt.SECTIONS for option in ("-j", section.decode())]
    out = subprocess.run(["objdump", "-d", *sections, path], capture_output=True, text=True).stdout
    labels = re.findall(r"^([0-9a-f]+) <(.+)>:$", out, re.M)
    return {int(address, 16): re.sub(r".*@plt-0x\w+$", ".plt", label) for address, label in labels}


@pytest.mark.parametrize("kind", LINKS)
def test_stubs_have_the_names_that_objdump_gives_them(kind: str, build: Callable[..., Path]) -> None:
    path = build(kind, *LINKS[kind])
    table = read_symbols(elf_of(path.read_bytes()))
    labels = objdump_labels(path)
    assert {"clock@plt", "strtol@plt", "time@plt", "strcmp@plt"} <= set(labels.values())
    assert {address: name_at(table, address) for address in labels} == labels
    assert {name_at(table, address + 7) for address in labels} == set(labels.values())


@pytest.mark.parametrize("kind", LINKS)
def test_every_byte_of_a_linkage_table_has_a_name_and_none_outside_it(kind: str, build: Callable[..., Path]) -> None:
    elf = elf_of(build(kind, *LINKS[kind]).read_bytes())
    table = read_symbols(elf)
    sections = [section for section in elf.sections if section.executable and elf.section_name(section) in plt.SECTIONS]
    assert sections
    for section in sections:
        names = {name_at(table, section.address + i) for i in range(section.size)}
        assert all(name == ".plt" or name.endswith("@plt") for name in names)
    inside = [range(section.address, section.address + section.size) for section in sections]
    outside = [i for i in table.ranges.start.tolist() if not any(i in addresses for addresses in inside)]
    assert not any("plt" in name_at(table, address) for address in outside)


def test_a_stub_for_a_function_that_is_chosen_at_the_start_has_the_name_of_its_chooser(
    build: Callable[..., Path],
) -> None:
    path = build("static", "-static")
    table = read_symbols(elf_of(path.read_bytes()))
    names = {table.best_name(i).decode() for i in range(len(table))}
    assert names & {"strchr@plt", "index@plt"}
    out = subprocess.run(["readelf", "-rW", path], capture_output=True, text=True, check=True).stdout
    assert sum(name.endswith("@plt") for name in names) == len(set(re.findall(r"IRELATIVE?\s+(\w+)", out)))


def test_symbols_that_are_only_stubs_are_told_apart(build: Callable[..., Path]) -> None:
    assert read_symbols(elf_of(build("stripped", *LINKS["stripped"]).read_bytes())).only_stubs
    assert not read_symbols(elf_of(build("lazy", *LINKS["lazy"]).read_bytes())).only_stubs


def test_the_name_behind_a_stub_is_made_readable() -> None:
    assert function_names(b"_ZN3foo3barEi@plt") == ("foo::bar(int)@plt", "_ZN3foo3barEi@plt")
    assert function_names(b"clock@plt") == ("clock@plt", "")


def test_a_jump_backwards_finds_its_slot_and_other_code_none() -> None:
    code = b"\xff\x25\xf0\xff\xff\xff" + b"\x66\x90" + b"\x90" * 8 + b"\x90\xff\x25" + bytes(13)
    assert plt.slots_of_stubs(code, 0x1000, 16).tolist() == [0x1000 + 6 - 16, 0]


@pytest.mark.parametrize("kind", ["lazy", "now, branches marked"])
def test_damaged_stubs_and_relocations_raise_nothing_and_leave_the_functions_alone(
    kind: str, build: Callable[..., Path]
) -> None:
    data = build(kind, *LINKS[kind]).read_bytes()
    elf = elf_of(data)
    work = next(i for i in range(len(read_symbols(elf))) if read_symbols(elf).best_name(i) == b"work")
    where = int(read_symbols(elf).ranges.start[work])
    places = [s for s in elf.sections if s.kind == "SHT_RELA" or elf.section_name(s) in plt.SECTIONS]
    chance = random.Random(3)
    for _ in range(200):
        image = bytearray(data)
        for _ in range(chance.randrange(1, 9)):
            section = chance.choice(places)
            at = section.offset + chance.randrange(section.size)
            image[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), b"\x7f" * 8, chance.randbytes(8)])
        table = read_symbols(elf_of(bytes(image)))
        assert name_at(table, where) == "work"
        for i in range(len(table)):
            table.best_name(i)


def test_of_gigabytes_that_are_claimed_little_is_read(build: Callable[..., Path]) -> None:
    data = build("lazy", *LINKS["lazy"]).read_bytes()
    elf = elf_of(data)
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return data[offset : offset + size]

    def hostile(size: int) -> Elf:
        swollen = tuple(
            replace(s, size=size) if s.kind == "SHT_RELA" or elf.section_name(s) in plt.SECTIONS else s
            for s in elf.sections
        )
        return replace(elf, read=read, sections=swollen * 50)

    read_symbols(hostile(1 << 60))
    assert sum(asked) < 1 << 27
    asked.clear()
    with pytest.raises(ElfError):
        read_symbols(replace(elf, read=read, sections=tuple(replace(s, size=1 << 60) for s in elf.sections)))
    assert sum(asked) < 1 << 20
