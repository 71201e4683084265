"""The unwind table of an ELF file, from .eh_frame and from .debug_frame for functions that only that one has.

The sections are found by name, .eh_frame also without section headers: by PT_GNU_EH_FRAME, as at run time.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.unwind.encodings import DAMAGE, OMITTED, FrameSection, pointer
from profiler.unwind.entries import Functions, read_functions
from profiler.unwind.go import outermost_functions
from profiler.unwind.program import ProgramRunner
from profiler.unwind.table import CfaKind, UnwindTable, empty_table, make_table
from symbolizer.elf import Elf, ElfError, Read, Section, Segment, read_elf

MAX_SECTION_BYTES = 48 << 20
ENTRY_BYTES = 256
"""How far the synthetic root at the entry point reaches where nothing else is covered."""

_MAX_NAME_BYTES = 1 << 20
_MAX_EXECUTABLE = 256
_FILE_HEADER = struct.Struct("<24xQ8xQ14xH")  # of Elf64_Ehdr: e_entry, e_shoff, e_shstrndx
_SHN_XINDEX = 0xFFFF
_SHF_COMPRESSED = 0x800
_CHDR = struct.Struct("<IIQQ")  # Elf64_Chdr: type, reserved, size, alignment
_ELFCOMPRESS_ZLIB = struct.pack("<I", 1)
_ZDEBUG = struct.Struct(">4sQ")  # "ZLIB" and the size, of a .zdebug section
_SECTION_HEADER = np.dtype({"names": ["name", "flags"], "formats": ["<u4", "<u8"], "offsets": [0, 8], "itemsize": 64})
_TEXT_RELATIVE, _DATA_RELATIVE = 0x20, 0x30


@dataclass(frozen=True, slots=True)
class _Named:
    section: Section
    flags: int


def build_table(read: Read, *, by_address: bool = False) -> UnwindTable:
    """The unwind table of the ELF file that `read` reads, or of an image of one (the vdso); empty if it has none.

    Its rows are by offset in the file, which is how mappings know code; with `by_address` by virtual address, which is
    how tools that read files print it.

    Raises ElfError for what is no ELF file for x86-64, and whatever `read` raises. Time and memory are bounded by the
    size of the sections, of which MAX_SECTION_BYTES count. Functions that do not begin in an executable
    segment are left out; where one reaches beyond its segment it ends there.
    """
    elf = read_elf(read)
    if elf.machine != "EM_X86_64" or elf.structs.elfclass != 64 or not elf.structs.little_endian:
        raise ElfError("it is not for x86-64")
    header = read(0, _FILE_HEADER.size)
    if len(header) < _FILE_HEADER.size:
        raise ElfError("it is cut short")
    entry, headers_at, names_in = _FILE_HEADER.unpack(header)
    sections = _named_sections(elf, headers_at, names_in)
    runner = ProgramRunner()
    executable = sorted(
        (segment for segment in elf.segments if segment.kind == "PT_LOAD" and segment.executable),
        key=lambda segment: segment.address,
    )[:_MAX_EXECUTABLE]
    if not executable:
        return empty_table()
    found = Functions(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint32), 0)
    if eh_frame := _eh_frame(elf, sections):
        found = _inside(read_functions(eh_frame, runner), executable)
    left = MAX_SECTION_BYTES - (len(eh_frame.data) if eh_frame else 0)
    if debug_frame := _debug_frame(elf, sections, left):
        found = _with_more(found, _inside(read_functions(debug_frame, runner), executable))
    if ".gopclntab" in sections and ".symtab" in sections:
        outermost = np.isin(found.begins, outermost_functions(elf, sections[".symtab"].section))
        found.numbers[outermost] = runner.fixed(CfaKind.ROOT)
    found = _with_entry_point(found, entry, executable, runner)
    if not by_address:
        found = _by_offset(found, executable)
    return make_table(found.begins, found.sizes, found.numbers, runner.programs(), found.skipped)


def _named_sections(elf: Elf, headers_at: int, names_in: int) -> dict[str, _Named]:
    """Sections with contents by name, the first of each; none where the names are not there or damaged."""
    if not elf.sections:
        return {}
    strings = elf.sections[0].link if names_in == _SHN_XINDEX else names_in
    if strings >= len(elf.sections):
        return {}
    names = elf.read(elf.sections[strings].offset, min(elf.sections[strings].size, _MAX_NAME_BYTES))
    data = elf.read(headers_at, _SECTION_HEADER.itemsize * len(elf.sections))
    headers = np.frombuffer(data, _SECTION_HEADER, len(data) // _SECTION_HEADER.itemsize)
    found: dict[str, _Named] = {}
    for section, (name_at, flags) in zip(elf.sections, headers.tolist(), strict=False):
        if section.kind != "SHT_NOBITS":
            name = names[name_at : name_at + 32].split(b"\0", 1)[0].decode("latin-1")
            found.setdefault(name, _Named(section, flags))
    return found


def _eh_frame(elf: Elf, sections: dict[str, _Named]) -> FrameSection | None:
    if named := sections.get(".eh_frame"):
        section = named.section
        data = elf.read(section.offset, min(section.size, MAX_SECTION_BYTES))
        return FrameSection(data, section.address, True, True, _bases(sections))
    for header in elf.segments:
        if header.kind == "PT_GNU_EH_FRAME":
            return _eh_frame_of_header(elf, header)
    return None


def _bases(sections: dict[str, _Named]) -> dict[int, int]:
    """What textrel and datarel pointers are relative to: .text, and the table that the linker names DT_PLTGOT."""
    text, data = sections.get(".text"), sections.get(".got.plt") or sections.get(".got")
    bases = {}
    if text:
        bases[_TEXT_RELATIVE] = text.section.address
    if data:
        bases[_DATA_RELATIVE] = data.section.address
    return bases


def _eh_frame_of_header(elf: Elf, header: Segment) -> FrameSection | None:
    """.eh_frame where .eh_frame_hdr (LSB core, 10.6.2) says it is, up to the end of its segment."""
    data = elf.read(header.offset, min(header.size, 32))
    if len(data) < 4 or data[0] != 1 or data[1] == OMITTED:
        return None
    section = FrameSection(data, header.address, True, True, {_DATA_RELATIVE: header.address})
    try:
        address, _ = pointer(data[1], section, 4)
    except DAMAGE:
        return None
    for segment in elf.segments:
        into = address - segment.address
        if segment.kind == "PT_LOAD" and 0 <= into < segment.size:
            data = elf.read(segment.offset + into, min(segment.size - into, MAX_SECTION_BYTES))
            return FrameSection(data, address, True, False)
    return None


def _debug_frame(elf: Elf, sections: dict[str, _Named], limit: int) -> FrameSection | None:
    for name in (".debug_frame", ".zdebug_frame"):
        if named := sections.get(name):
            section = named.section
            data = elf.read(section.offset, min(section.size, limit))
            if name == ".zdebug_frame":
                data = _inflated(data, _ZDEBUG.size, limit) if data[:4] == b"ZLIB" else b""
            elif named.flags & _SHF_COMPRESSED:
                data = _inflated(data, _CHDR.size, limit) if data[:4] == _ELFCOMPRESS_ZLIB else b""
            return FrameSection(data, section.address, False, True, _bases(sections))
    return None


def _inflated(data: bytes, header: int, limit: int) -> bytes:
    """What zlib packed after a header of so many bytes, as far as it can be unpacked, but no more than `limit`."""
    if not limit:
        return b""
    try:
        return zlib.decompressobj().decompress(data[header:], limit)
    except zlib.error:
        return b""


def _inside(functions: Functions, executable: list[Segment]) -> Functions:
    """Those that begin in a segment, ending where it ends."""
    begins, sizes = functions.begins, functions.sizes.copy()
    keep = np.zeros(len(begins), bool)
    for segment in executable:
        start, end = segment.address, min(segment.address + segment.size, 2**64 - 1)
        inside = (begins >= np.uint64(start)) & (begins < np.uint64(end)) & ~keep
        sizes[inside] = np.minimum(sizes[inside], np.uint64(end) - begins[inside])
        keep |= inside
    return Functions(begins[keep], sizes[keep], functions.numbers[keep], functions.skipped)


def _by_offset(functions: Functions, executable: list[Segment]) -> Functions:
    """The functions at their offsets in the file, which is what mappings are known by, in place of their addresses."""
    begins = functions.begins.copy()
    for segment in executable:
        into = functions.begins - np.uint64(segment.address)
        inside = into < np.uint64(segment.size)
        begins[inside] = into[inside] + np.uint64(segment.offset)
    return Functions(begins, functions.sizes, functions.numbers, functions.skipped)


def _joined(first: Functions, second: Functions) -> Functions:
    return Functions(
        np.concatenate([first.begins, second.begins]),
        np.concatenate([first.sizes, second.sizes]),
        np.concatenate([first.numbers, second.numbers]),
        first.skipped + second.skipped,
    )


def _with_more(known: Functions, more: Functions) -> Functions:
    """Functions and those of `more` that begin where none of them is."""
    new = ~_covered(known, more.begins)
    return _joined(known, Functions(more.begins[new], more.sizes[new], more.numbers[new], more.skipped))


def _covered(functions: Functions, addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
    if not len(functions.begins):
        return np.zeros(len(addresses), bool)
    order = np.argsort(functions.begins, kind="stable")
    begins, sizes = functions.begins[order], functions.sizes[order]
    last = np.searchsorted(begins, addresses, side="right")
    into = addresses - begins[np.maximum(last, 1) - 1]
    covered: NDArray[np.bool_] = (last > 0) & (into < sizes[np.maximum(last, 1) - 1])
    return covered


def _with_entry_point(functions: Functions, entry: int, executable: list[Segment], runner: ProgramRunner) -> Functions:
    """Also a root at the entry point, which programs written by hand often do not describe, if it is not covered."""
    here = np.array([entry], np.uint64)
    if not entry or _covered(functions, here)[0]:
        return functions
    root = Functions(here, np.array([ENTRY_BYTES], np.uint64), np.array([runner.fixed(CfaKind.ROOT)], np.uint32), 0)
    return _joined(functions, _inside(root, executable))
