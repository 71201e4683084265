"""Debug information in the form that symbolic reads: an ELF file of nothing but its debug sections.

It is made of files that symbolic cannot take as they are: those with a dwz supplementary file (merged by dwz.py),
those whose sections are compressed with zstd, and those that no linker has placed (ET_REL, as kernel modules are),
whose relocations are applied here.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from symbolizer.debuginfo.dwz import DwarfSections, merged
from symbolizer.elf import Elf, ElfError, Section
from symbolizer.elf_content import check_compression, section_content

SECTIONS = (
    b".debug_info",
    b".debug_abbrev",
    b".debug_line",
    b".debug_line_str",
    b".debug_str",
    b".debug_str_offsets",
    b".debug_addr",
    b".debug_ranges",
    b".debug_rnglists",
)
_OF_SUPPLEMENT = (b".debug_info", b".debug_abbrev", b".debug_str", b".debug_line_str")
_ET_REL, _ET_DYN = 1, 3
_RELOCATED_BASE = 1 << 16  # code at address 0 counts as removed by the linker
_PLACE_ALIGN = 1 << 12
_MAX_PLACED = 64
_ZSTD = 2

# Relocations of debug sections (the psABI of each machine): type → bytes written. All are symbol + addend.
_ABSOLUTE = {"EM_X86_64": {1: 8, 10: 4, 11: 4}, "EM_AARCH64": {257: 8, 258: 4}, "EM_RISCV": {2: 8, 1: 4}}


def is_relocatable(elf: Elf) -> bool:
    """Whether no linker has placed the file: all its sections begin at 0."""
    order = "little" if elf.structs.little_endian else "big"
    return int.from_bytes(elf.read(16, 2), order) == _ET_REL  # type: ignore[arg-type]


def placed_sections(elf: Elf) -> dict[int, int]:
    """Addresses for the executable sections (by number) of a file that no linker has placed.

    .text begins at 0, so that an address in it is the offset from where the kernel loaded it; the others follow in
    their order, each at the next multiple of 4096.
    """
    numbers = [number for number, section in enumerate(elf.sections) if section.executable][:_MAX_PLACED]
    numbers.sort(key=lambda number: elf.section_name(elf.sections[number]) != b".text")
    places, at = {}, 0
    for number in numbers:
        places[number] = at
        at += (elf.sections[number].size + _PLACE_ALIGN) // _PLACE_ALIGN * _PLACE_ALIGN
        if at >> 31:
            break
    return places


def debug_image(elf: Elf, supplement: Elf | None, most: int) -> bytes | None:
    """An ELF file with the debug information of `elf`, None where symbolic can read `elf` itself.

    Addresses in it are as in `elf`, or as placed_sections has them, relative to its one load segment. Sections of
    more than `most` bytes, and damaged ones, raise ElfError.
    """
    relocatable = is_relocatable(elf)
    parts = {name: part for name in SECTIONS if (part := elf.section(name)) is not None}
    if supplement is None and not relocatable and not any(_zstd(elf, part) for part in parts.values()):
        for part in parts.values():
            if part.size > most:
                raise ElfError(f"a section takes {part.size} bytes, more than {most}")
        for part in elf.sections:
            check_compression(elf, part, most)
        return None
    content: DwarfSections = {name: section_content(elf, part, most) for name, part in parts.items()}
    address = next((segment.address for segment in elf.segments if segment.kind == "PT_LOAD"), 0)
    if relocatable:
        address = _RELOCATED_BASE
        for name in parts:
            content[name] = _relocated(elf, name, content[name], most)
    if supplement is not None:
        shared = {
            name: section_content(supplement, part, most)
            for name in _OF_SUPPLEMENT
            if (part := supplement.section(name)) is not None
        }
        content = merged(content, shared, little_endian=elf.structs.little_endian)
    return _written(elf, content, address)


def _zstd(elf: Elf, section: Section) -> bool:
    order = "little" if elf.structs.little_endian else "big"
    kind = elf.read(section.offset, 4) if section.compressed else b""
    return int.from_bytes(kind, order) == _ZSTD  # type: ignore[arg-type]


def _relocated(elf: Elf, name: bytes, content: bytes, most: int) -> bytes:
    """The section with its .rela section applied."""
    table, symbols = elf.section(b".rela" + name), next((s for s in elf.sections if s.kind == "SHT_SYMTAB"), None)
    kinds = _ABSOLUTE.get(str(elf.machine), {})
    if table is None or symbols is None or elf.structs.elfclass != 64:
        return content
    order = "<" if elf.structs.little_endian else ">"
    entry = np.dtype([("at", order + "u8"), ("kind", order + "u4"), ("symbol", order + "u4"), ("addend", order + "i8")])
    if order == ">":
        entry = np.dtype([("at", ">u8"), ("symbol", ">u4"), ("kind", ">u4"), ("addend", ">i8")])
    data = section_content(elf, table, most)
    entries = np.frombuffer(data, entry, len(data) // entry.itemsize)
    values = _symbol_values(elf, section_content(elf, symbols, most), order)
    entries = entries[entries["symbol"] < len(values)]
    result = np.frombuffer(content, np.uint8).copy()
    wanted = values[entries["symbol"]] + entries["addend"].astype(np.uint64)
    for kind, size in kinds.items():
        these = (entries["kind"] == kind) & (entries["at"] < max(len(content) - size + 1, 0))
        at = entries["at"][these].astype(np.int64)
        raw = wanted[these].astype(f"{order}u{size}").view(np.uint8).reshape(-1, size)
        result[at[:, None] + np.arange(size)] = raw
    return result.tobytes()


def _symbol_values(elf: Elf, data: bytes, order: str) -> NDArray[np.uint64]:
    fields = ("name:u4", "info:u1", "other:u1", "shndx:u2", "value:u8", "size:u8")
    layout = np.dtype([(field.split(":")[0], order + field.split(":")[1]) for field in fields])
    symbols = np.frombuffer(data, layout, len(data) // layout.itemsize)
    places = np.zeros(1 << 16, np.uint64)
    for number, start in placed_sections(elf).items():
        places[number] = start + _RELOCATED_BASE
    values: NDArray[np.uint64] = symbols["value"].astype(np.uint64) + places[symbols["shndx"]]
    return values


def _written(elf: Elf, content: DwarfSections, address: int) -> bytes:
    """An ELF file of these sections with one load segment at `address` (System V ABI, gabi chapters 4 and 5)."""
    wide = elf.structs.elfclass == 64
    order = "<" if elf.structs.little_endian else ">"
    header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    segment = struct.Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
    section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
    names = b"\0" + b"\0".join(content) + b"\0.shstrtab\0"
    at = 16 + header.size + segment.size
    chunks, headers = [], [bytes(section.size)]
    for name, data in [*content.items(), (b".shstrtab", names)]:
        where = names.index(b"\0" + name + b"\0") + 1
        headers.append(section.pack(where, 3 if data is names else 1, 0, 0, at, len(data), 0, 0, 1, 0))
        chunks.append(data)
        at += len(data)
    if not wide and at >> 32:
        raise ElfError("its debug information is too large for a 32-bit file")
    flags, size = 5, 1 << 12
    load = (1, flags, 0, address, address, 0, size, 1) if wide else (1, 0, address, address, 0, size, flags, 1)
    sizes = (16 + header.size, segment.size, 1, section.size, len(headers), len(headers) - 1)
    fixed = header.pack(_ET_DYN, _machine(elf), 1, 0, 16 + header.size, at, 0, *sizes)
    return b"".join([elf.read(0, 16), fixed, segment.pack(*load), *chunks, *headers])


def _machine(elf: Elf) -> int:
    return int.from_bytes(elf.read(18, 2), "little" if elf.structs.little_endian else "big")
