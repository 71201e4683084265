"""Function bounds by .eh_frame: as readelf tells of real files, and of damaged ones nothing impossible."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer import function_bounds as module
from symbolizer.elf import Elf, read_elf
from symbolizer.files import read_at
from symbolizer.function_bounds import bounds, starts_of
from symbolizer.ranges import Ranges
from symbolizer.symbols import PackedStrings, SymbolTable
from symbolizer.types import Kind, Reason
from symbolizer.unknown import unknown_function

Functions = list[tuple[int, int]]

SOURCE = """
#include <stdexcept>
__attribute__((noinline)) int thrower(int x) { if (x > 2) throw std::runtime_error("x"); return x; }
__attribute__((noinline)) static int catcher(int x) { try { return thrower(x); } catch (...) { return 7; } }
int exported(int x) { return catcher(x) + 1; }
#ifndef SHARED
int main(int argc, char **) { return exported(argc); }
#endif
"""
GO = """
package main

// static int twice(int x) { volatile int y = x; return y * 2; }
import "C"

func main() { println(C.twice(3)) }
"""


def functions(elf: Elf) -> Functions:
    found = bounds(elf)
    return list(zip(found.start.tolist(), found.end.tolist(), strict=True))


def of_bytes(data: bytes) -> Elf:
    return read_elf(lambda offset, size: data[offset : offset + size])


def of_file(path: str | Path) -> Functions:
    with open(path, "rb") as file:
        return functions(read_elf(partial(read_at, file.fileno())))


def by_readelf(path: str | Path) -> Functions:
    shown = subprocess.run(["readelf", "--debug-dump=frames", "-wN", path], capture_output=True, text=True).stdout
    eh_frame = shown.partition("Contents of the .debug_frame")[0]
    return sorted({(int(a, 16), int(b, 16)) for a, b in re.findall(r" FDE cie=\w+ pc=(\w+)\.\.(\w+)", eh_frame)})


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """build("g++", FLAG…) → a program of SOURCE; "rustc" and "go" build one of their own."""
    folder = tmp_path_factory.mktemp("bounds")
    (folder / "source.cc").write_text(SOURCE)
    (folder / "source.rs").write_text('fn main() { println!("{:?}", std::env::args().collect::<Vec<_>>()) }\n')
    (folder / "source.go").write_text(GO)
    sources = {"rustc": "source.rs", "go": "source.go"}

    def run(compiler: str, *flags: str) -> Path:
        command = compiler.split()
        if not shutil.which(command[0]):
            pytest.fail(f"{command[0]} is not installed: `make setup-dev` installs it", pytrace=False)
        output = folder / re.sub(r"\W", "_", " ".join([compiler, *flags]))
        if not output.exists():
            source = sources.get(command[0], "source.cc")
            subprocess.run([*command, "-o", output, *flags, source], check=True, cwd=folder)
        return output

    return run


@pytest.mark.parametrize(
    "flags",
    [
        ["-O2"],
        ["-O2", "-fno-pie", "-no-pie"],
        ["-O2", "-static"],
        ["-O2", "-s"],
        ["-O2", "-DSHARED", "-shared", "-fPIC", "-s"],
        ["-O2", "-Wl,-z,noseparate-code"],
        ["-O2", "-mcmodel=large"],
        ["-O2", "-Wl,--no-eh-frame-hdr"],
        ["-O2", "-c"],
    ],
    ids=" ".join,
)
def test_every_way_of_linking_has_the_functions_that_readelf_tells(
    flags: list[str], build: Callable[..., Path]
) -> None:
    path = build("g++", *flags)
    if "-c" in flags:  # not linked: it has no addresses yet
        assert of_file(path) == []
        return
    assert of_file(path) == by_readelf(path) != []


@pytest.mark.parametrize("compiler", ["rustc -O", "clang++ -O2", "go build"])
def test_other_compilers_files_have_the_functions_that_readelf_tells(compiler: str, build: Callable[..., Path]) -> None:
    path = build(compiler)
    assert of_file(path) == by_readelf(path) != []


@pytest.mark.parametrize("name", ["libc.so.6", "python3", "libLLVM"])
def test_large_system_files_have_the_functions_that_readelf_tells(name: str) -> None:
    known = {"libc.so.6": "/lib/x86_64-linux-gnu/libc.so.6", "python3": "/usr/bin/python3"}
    found = [Path(known[name])] if name in known else sorted(Path("/usr/lib").glob("x86_64-linux-gnu/libLLVM-1*.so.1"))
    assert found, f"{name} is not installed: `make setup-dev` installs it"
    got = of_file(found[0])
    assert len(got) > 3000
    assert got == by_readelf(found[0])


def test_symbols_of_a_stripped_file_lie_in_its_functions(build: Callable[..., Path]) -> None:
    path = build("g++", "-O2")
    named = subprocess.run(["nm", "-S", path], capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"^(\w+) (\w+) [tT] (_Z\w*(?:thrower|catcher|exported)\w*|main)$", named, re.M)
    assert len(symbols) >= 4
    stripped = path.with_name("stripped")
    subprocess.run(["strip", "-o", stripped, path], check=True)
    with open(stripped, "rb") as file:
        found = bounds(read_elf(partial(read_at, file.fileno())))
    for start, size, _ in symbols:
        first, last = int(start, 16), int(start, 16) + int(size, 16) - 1
        assert starts_of(found, [first, last]) == [first, first]


def test_an_address_between_functions_is_in_none() -> None:
    found = Ranges(np.array([16, 64], np.uint64), np.array([32, 2**64 - 1], np.uint64))
    inside = starts_of(found, [0, 15, 16, 31, 32, 63, 64, 2**64 - 2, 2**64 - 1])
    assert inside == [None, None, 16, 16, None, None, 64, 64, None]
    nothing = np.empty(0, np.uint64)
    assert starts_of(Ranges(nothing, nothing), [0, 7]) == [None, None]


@pytest.mark.parametrize(
    ("first", "last", "width"), [(0, 1 << 32, 8), (5, 1 << 32, 4), (2**64 - (1 << 32), 2**64 - 1, 4)]
)
def test_addresses_keep_their_value_in_as_many_bytes_as_they_need(first: int, last: int, width: int) -> None:
    start, end = np.array([first, last - 1], np.uint64), np.array([first + 1, last], np.uint64)
    ranges = Ranges(start, end)
    assert ranges.start.tolist() == start.tolist() and ranges.end.tolist() == end.tolist()
    assert ranges.nbytes == 4 * width
    assert starts_of(ranges, [first, first + 1, last - 1, last]) == [first, None, last - 1, None]
    table = SymbolTable(start, end, np.zeros(2, np.uint32), np.zeros(2, np.uint8), PackedStrings([b"f\0"]))
    assert table.find([first, first + 1, last - 1, last]) == [0, -1, 1, -1]


def test_a_function_without_a_name_is_called_by_its_file_and_start_and_stays_unknown() -> None:
    frame = unknown_function("libfoo.so", 0x1A30, Reason.OUTSIDE_SYMBOLS)
    assert frame.function == "[libfoo.so+0x1a30: address outside symbols]"
    assert (frame.kind, frame.reason) == (Kind.UNKNOWN, Reason.OUTSIDE_SYMBOLS)


# Files made by hand

CODE = 0x10000
FRAMES = 0x20000


def cie(order: str, encoding: int, augmentation: bytes = b"zR", wide: bool = False) -> bytes:
    data = bytes([encoding])
    if augmentation == b"zPLR":
        data = b"\x1b" + bytes(4) + b"\x1b" + data
    body = struct.pack(order + "IB", 0, 1) + augmentation + b"\0\x01\x78\x10"
    if augmentation:
        body += bytes([len(data)]) + data
    return entry(order, body, wide)


def entry(order: str, body: bytes, wide: bool = False) -> bytes:
    body += bytes(-len(body) % 8)
    return (struct.pack(order + "IQ", 0xFFFFFFFF, len(body)) if wide else struct.pack(order + "I", len(body))) + body


def fde(order: str, at: int, of: int, form: str, start: int, size: int, wide: bool = False) -> bytes:
    return entry(order, struct.pack(order + "I" + form + form, at + (12 if wide else 4) - of, start, size), wide)


def file_with(frames: bytes, width: int = 8, order: str = "<", header: bytes = b"", named: bool = True) -> bytes:
    """An ELF file with 64 KB of code at CODE, `frames` at FRAMES, `header` as PT_GNU_EH_FRAME; .eh_frame is `named`."""
    names = b"\0.eh_frame\0.shstrtab\0"
    wide = width == 8
    head, segment, section = (64, 56, 64) if wide else (52, 32, 40)
    segments = 3 if header else 2
    begin = head + segments * segment
    frames_at, header_at = begin, begin + len(frames)
    names_at = header_at + len(header)
    sections_at = names_at + len(names)
    code_at = sections_at + 3 * section

    def program_header(kind: int, flags: int, offset: int, address: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, flags, offset, address, address, size, size, 1)
        return struct.pack(order + "IIIIIIII", kind, offset, address, address, size, size, flags, 1)

    def section_header(name: int, kind: int, address: int, offset: int, size: int) -> bytes:
        layout = "IIQQQQIIQQ" if wide else "IIIIIIIIII"
        return struct.pack(order + layout, name, kind, 2, address, offset, size, 0, 0, 1, 0)

    data = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    machine = {(8, "<"): 62, (8, ">"): 21, (4, "<"): 3, (4, ">"): 20}[width, order]
    data += struct.pack(order + "HHI", 3, machine, 1)
    data += struct.pack(order + ("QQQ" if wide else "III"), 0, head, sections_at)
    data += struct.pack(order + "IHHHHHH", 0, head, segment, segments, section, 3, 2)
    data += program_header(1, 5, code_at, CODE, 0x10000)
    data += program_header(1, 4, frames_at, FRAMES, len(frames) + len(header))
    if header:
        data += program_header(0x6474E550, 4, header_at, FRAMES + len(frames), len(header))
    data += frames + header + names
    data += section_header(0, 0, 0, 0, 0)
    data += section_header(1 if named else 0, 1, FRAMES, frames_at, len(frames))
    data += section_header(11, 3, 0, names_at, len(names))
    assert len(data) == code_at
    return data + bytes(0x10000)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("wide", [False, True], ids=["", "64-bit lengths"])
@pytest.mark.parametrize(
    ("encoding", "form", "augmentation"),
    [
        (0x00, "", b"zR"),
        (0x00, "", b""),
        (0x03, "I", b"zR"),
        (0x0B, "i", b"zPLR"),
        (0x1B, "i", b"zR"),
        (0x1C, "q", b"zR"),
    ],
)
def test_every_form_of_entry_is_read_in_both_widths_and_byte_orders(
    encoding: int, form: str, augmentation: bytes, wide: bool, width: int, order: str
) -> None:
    form = form or ("Q" if width == 8 else "I")
    frames = cie(order, encoding, augmentation, wide)
    for start in (CODE + 0x100, CODE + 0x40):
        here = FRAMES + len(frames) + (16 if wide else 8)
        frames += fde(order, len(frames), 0, form, start - (here if encoding & 0x70 else 0), 0x20, wide)
    found = functions(of_bytes(file_with(frames + bytes(4), width, order)))
    assert found == [(CODE + 0x40, CODE + 0x60), (CODE + 0x100, CODE + 0x120)]


def frames_of(*ranges: tuple[int, int]) -> tuple[bytes, list[int]]:
    """.eh_frame of functions (start, size), and where in it each FDE is."""
    frames, places = cie("<", 0x04), []
    for start, size in ranges:
        places.append(len(frames))
        frames += fde("<", len(frames), 0, "Q", start, size)
    return frames, places


def header_of(frames: bytes, table: list[tuple[int, int]], form: str = "i", count: int | None = None) -> bytes:
    """.eh_frame_hdr after `frames`, with a table of (start, place in frames)."""
    base = FRAMES + len(frames)
    count = len(table) if count is None else count
    encodings = bytes([1, 0x1B, 0x03, {"i": 0x3B, "q": 0x3C}[form]])
    rows = b"".join(struct.pack("<" + form * 2, start - base, FRAMES + at - base) for start, at in table)
    return encodings + struct.pack("<iI", FRAMES - (base + 4), count) + rows


@pytest.mark.parametrize("form", "iq")
def test_the_sorted_table_leads_to_the_functions_also_without_sections(form: str) -> None:
    frames, places = frames_of((CODE, 16), (CODE + 64, 32))
    header = header_of(frames, list(zip([CODE, CODE + 64], places, strict=True)), form)
    assert functions(of_bytes(file_with(frames, header=header, named=False))) == [
        (CODE, CODE + 16),
        (CODE + 64, CODE + 96),
    ]


def test_without_a_usable_table_the_entries_are_walked() -> None:
    frames, places = frames_of((CODE, 16), (CODE + 64, 32))
    table = [(CODE, places[0])]
    whole = header_of(frames, table)
    for header in (
        whole[:3] + b"\xff" + whole[4:],  # no table
        whole[:2] + b"\xff\xff" + whole[4:],
        b"\x02" + whole[1:],  # another version
        header_of(frames, table, count=0),
        header_of(frames, table, count=2**32 - 1),
        whole[:5],
        whole[:4] + struct.pack("<i", 0x7FFFFFFF) + whole[8:],  # .eh_frame nowhere
    ):
        assert len(functions(of_bytes(file_with(frames, header=header)))) == 2
    assert len(functions(of_bytes(file_with(frames, header=whole)))) == 1


def test_functions_are_kept_apart_and_in_executable_memory() -> None:
    top = CODE + 0x10000
    ranges = [
        (CODE + 0x80, 0x1000),  # reaches over the next
        (CODE + 0x100, 0x10),
        (CODE + 0x100, 0x20),  # the same start: the longer counts
        (CODE + 0x200, 0),
        (top - 8, 2**64 - 1),  # reaches beyond its segment
        (top, 16),
        (0, 16),
        (2**64 - 16, 32),
    ]
    found = functions(of_bytes(file_with(frames_of(*ranges)[0])))
    assert found == [(CODE + 0x80, CODE + 0x100), (CODE + 0x100, CODE + 0x120), (top - 8, top)]


def test_what_is_damaged_is_left_out_and_the_rest_kept() -> None:
    good = frames_of((CODE, 16))[0]
    no_cie = entry("<", struct.pack("<IQQ", 0x7000, CODE + 32, 16))
    itself = entry("<", struct.pack("<IQQ", 4, CODE + 32, 16))
    into_the_middle = entry("<", struct.pack("<IQQ", len(good) - 2, CODE + 32, 16))
    short = struct.pack("<IIQ", 12, len(good) + 4, CODE + 32)
    for bad in (no_cie, itself, into_the_middle, short):
        frames = good + bad
        frames += fde("<", len(frames), 0, "Q", CODE + 64, 16)
        assert functions(of_bytes(file_with(frames))) == [(CODE, CODE + 16), (CODE + 64, CODE + 80)], bad
    for end in (b"\xff\xff\xff\x7f", b"\xff" * 12, b"\xff\xff\xff\xff\x10", b"\x10\0"):
        assert functions(of_bytes(file_with(good + end))) == [(CODE, CODE + 16)]


def test_endless_sections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nothing but zeros, of entries that hold nothing, and with more CIEs than any file has."""
    monkeypatch.setattr(module, "MAX_ENTRIES", 1000)
    good = frames_of((CODE, 16))[0]
    for filler in (bytes(4), struct.pack("<II", 4, 1), cie("<", 0x04)):
        assert functions(of_bytes(file_with(good + filler * 20_000))) == [(CODE, CODE + 16)]
    asked: list[int] = []
    data = file_with(good)

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return data[offset : offset + size].ljust(min(size, 1 << 16), b"\0")

    huge = bytearray(data)
    section = len(data) - 0x10000 - 2 * 64
    struct.pack_into("<Q", huge, section + 32, 1 << 40)  # a section of a terabyte
    data = bytes(huge)
    assert functions(read_elf(read)) == [(CODE, CODE + 16)]
    assert max(asked) <= module.MAX_SECTION_BYTES


@pytest.fixture(scope="module")
def real(build: Callable[..., Path]) -> tuple[bytes, list[tuple[int, int]]]:
    """A program's bytes, and where in them .eh_frame, its header and the headers of the file are."""
    data = build("g++", "-O2", "-s").read_bytes()
    shown = subprocess.run(["readelf", "-SW", build("g++", "-O2", "-s")], capture_output=True, text=True).stdout
    parts = re.findall(r"\.eh_frame\w*\s+\S+\s+\w+ (\w+) (\w+)", shown)
    assert len(parts) == 2
    return data, [(0, 0x300), *((int(at, 16), int(size, 16)) for at, size in parts)]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 12), cut=st.booleans())
def test_damaged_files_give_nothing_impossible(
    seed: int, count: int, cut: bool, real: tuple[bytes, list[tuple[int, int]]]
) -> None:
    chosen = random.Random(seed)
    data = bytearray(real[0])
    for _ in range(count):
        at, size = chosen.choice(real[1])
        data[at + chosen.randrange(size)] = chosen.choice((0, 1, 4, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
    if cut:
        del data[chosen.randrange(len(data)) :]
    try:
        elf = of_bytes(bytes(data))
    except ValueError:
        return
    found = functions(elf)
    code = [(s.address, s.address + s.size) for s in elf.segments if s.kind == "PT_LOAD" and s.executable]
    for start, end in found:
        assert start < end and any(first <= start and end <= last for first, last in code)
    assert all(a[1] <= b[0] for a, b in zip(found, found[1:], strict=False))
