"""ELF files: build id, load segments and symbols, read without trusting a single field.

The layout is that of the System V ABI (gabi chapters 4 and 5), 32 and 64 bits, both byte orders.
pyelftools takes headers and notes apart; it is given parts of the file of bounded size, never the
file itself. So the cost of a file is bounded by its size and by the limits below, whatever its
headers claim. elf_symbols.py reads its symbols.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from elftools.common.utils import struct_parse
from elftools.elf.notes import iter_notes
from elftools.elf.structs import ELFStructs

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

Read = Callable[[int, int], bytes]
"""read(offset, size): that part of the file, shorter only where the file ends."""

Loads = tuple[tuple[int, int, int], ...]
"""(file offset, bytes in the file, virtual address) of each load segment."""

MAX_BUILD_ID = 20  # bytes; what the kernel reports of a mapping, so the most that can be compared
MAX_WHOLE_BUILD_ID = 64  # bytes; what debuginfod takes
_MAX_HEADERS = 4096  # a linked file has some tens of segments and of sections
_MAX_NOTE_BYTES = 1 << 15  # in all; a build id's note has 36
_MAX_LOADS = 256
_HASHED_PIECE = 1 << 16
_HASHED_PIECES = 32

_PF_X = 1
_SHF_EXECINSTR = 4
_SHF_COMPRESSED = 0x800
_MAX_SECTION_NAME = 64
_MAX_SECTION_NAMES = 1 << 20


class ElfError(ValueError):
    """The file is a damaged ELF file, or none (NotElfError); the message says how."""


class NotElfError(ElfError):
    """The file does not begin as an ELF file does."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header. `kind` is a name ("PT_LOAD"), or a number that has none."""

    kind: str | int
    executable: bool
    offset: int
    size: int
    address: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section header. `kind` is a name ("SHT_SYMTAB"), or a number that has none."""

    kind: str | int
    executable: bool
    offset: int
    size: int
    address: int
    link: int
    entry_size: int
    name: int = 0
    """Where its name is among the names of sections."""
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Elf:
    """What the headers of an ELF file say. `machine` is a name ("EM_X86_64"), or a number that has none."""

    read: Read
    structs: ELFStructs
    machine: str | int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    section_names: int = 0
    """The number of the section that holds the names of sections."""

    @property
    def loads(self) -> Loads:
        """(file offset, bytes in the file, virtual address) of load segments, executable ones last."""
        loads = [segment for segment in self.segments if segment.kind == "PT_LOAD"][:_MAX_LOADS]
        loads.sort(key=lambda segment: segment.executable)
        return tuple((segment.offset, segment.size, segment.address) for segment in loads)

    @property
    def end(self) -> int:
        """Where the last section that has bytes in the file ends, 0 without sections: a shorter file was cut."""
        return max((s.offset + s.size for s in self.sections if s.kind not in ("SHT_NULL", "SHT_NOBITS")), default=0)

    def build_id(self, most: int = MAX_BUILD_ID) -> str:
        """Hex of NT_GNU_BUILD_ID, at most `most` bytes of it; "" where the file has none."""
        parts: list[Segment | Section] = [*self.segments, *self.sections]
        left = _MAX_NOTE_BYTES
        for part in parts:
            if part.kind in ("PT_NOTE", "SHT_NOTE"):
                notes = self.read(part.offset, min(part.size, left))
                left -= len(notes)
                if found := build_id_of_notes(notes, self.structs, most):
                    return found
        return ""

    def section_name(self, section: Section) -> bytes:
        """The name of a section, at most 64 bytes of it."""
        if not 0 < self.section_names < len(self.sections):
            return b""
        at = self.sections[self.section_names].offset + section.name
        return self.read(at, _MAX_SECTION_NAME).partition(b"\0")[0]

    def section(self, name: bytes) -> Section | None:
        """The first section of that name. For b".debug_info" and its like also one named b".zdebug_info"."""
        if not 0 < self.section_names < len(self.sections):
            return None
        strings = self.sections[self.section_names]
        names = self.read(strings.offset, min(strings.size, _MAX_SECTION_NAMES))
        wanted = [name + b"\0"]
        if name.startswith(b".debug_"):
            wanted.append(b".z" + wanted[0][1:])
        for section in self.sections:
            if any(names.startswith(each, section.name) for each in wanted):
                return section
        return None

    def content_id(self, size: int) -> str:
        """ "content:" and a hash for a file of `size` bytes that has no build id.

        Of a file up to 2 MB all is hashed, of a larger one 32 pieces of 64 KB at even distances, the
        first and the last bytes among them; in both cases with the size.
        """
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        last = max(size - _HASHED_PIECE, 0)
        for i in range(_HASHED_PIECES):
            spread = max(last, _HASHED_PIECE * (_HASHED_PIECES - 1))
            digest.update(self.read(i * spread // (_HASHED_PIECES - 1), _HASHED_PIECE))
        return "content:" + digest.hexdigest()


def read_elf(read: Read) -> Elf:
    """The headers of an ELF file. Raises ElfError, and whatever `read` raises."""
    ident = read(0, 64)
    if ident[:4] != b"\x7fELF" or len(ident) < 6:
        raise NotElfError("it is not an ELF file")
    if ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise ElfError("its ELF header is damaged or cut short")
    width, little_endian = 32 * ident[4], ident[5] == 1
    try:
        header = struct_parse(_structs(width, little_endian).Elf_Ehdr, BytesIO(ident))
        structs = _structs(width, little_endian, header["e_type"], header["e_machine"], header["e_ident"]["EI_OSABI"])
    except Exception as error:  # pyelftools promises nothing about what garbage makes it raise
        raise ElfError("its ELF header is damaged or cut short") from error
    at, size = header["e_shoff"], header["e_shentsize"]
    sections = header["e_shnum"] if at else 0
    if at and not sections:  # so many that the number is in the first section's size
        sections = _headers(read, structs.Elf_Shdr, at, 1, size)[0]["sh_size"]
    return Elf(
        read,
        structs,
        header["e_machine"],
        tuple(
            Segment(h["p_type"], bool(h["p_flags"] & _PF_X), h["p_offset"], h["p_filesz"], h["p_vaddr"])
            for h in _headers(read, structs.Elf_Phdr, header["e_phoff"], header["e_phnum"], header["e_phentsize"])
        ),
        tuple(
            Section(
                h["sh_type"],
                bool(h["sh_flags"] & _SHF_EXECINSTR),
                h["sh_offset"],
                h["sh_size"],
                h["sh_addr"],
                h["sh_link"],
                h["sh_entsize"],
                h["sh_name"],
                bool(h["sh_flags"] & _SHF_COMPRESSED),
            )
            for h in _headers(read, structs.Elf_Shdr, at, sections, size)
        ),
        header["e_shstrndx"],
    )


def _headers(read: Read, layout: Any, offset: int, count: int, size: int) -> list[Any]:
    """`count` headers of `size` bytes, as pyelftools has them: iterating over its own sections or segments
    would read much else besides, and 16 ms long for a large library."""
    if count > _MAX_HEADERS:
        raise ElfError(f"it claims {count} segments or sections, more than {_MAX_HEADERS}")
    if count and size != layout.sizeof():
        raise ElfError("its headers have a strange size")
    data = read(offset, count * size) if count else b""
    if len(data) < count * size:
        raise ElfError("its headers are cut short")
    stream = BytesIO(data)
    try:
        return [struct_parse(layout, stream) for _ in range(count)]
    except Exception as error:
        raise ElfError("its headers are damaged") from error


def virtual_addresses(loads: Loads, offsets: Iterable[int]) -> list[int]:
    """The virtual address of each file offset by `Elf.loads`, 2**64 - 1 where none has it.

    Where two segments share a part of the file the executable one counts.
    """
    found = []
    for offset in offsets:
        for start, size, address in reversed(loads):
            if start <= offset < start + size:
                found.append((offset - start + address) % 2**64)
                break
        else:
            found.append(2**64 - 1)
    return found


def build_id_of_notes(notes: bytes, structs: ELFStructs | None = None, most: int = MAX_BUILD_ID) -> str:
    """Hex of the NT_GNU_BUILD_ID among ELF notes, at most `most` bytes of it, or "".

    Without `structs` they are in this machine's byte order (as in /sys/kernel/notes). Of more than
    32 KB the rest is left out.
    """
    notes = notes[:_MAX_NOTE_BYTES]
    source = cast("ELFFile", _NoteSource(BytesIO(notes), structs or _native_structs()))
    try:
        for note in iter_notes(source, 0, len(notes)):
            if note["n_type"] == "NT_GNU_BUILD_ID" and note["n_name"] == "GNU":
                found: bytes = note["n_descdata"]
                return found[:most].hex() if len(found) == note["n_descsz"] else ""
    except Exception:  # see read_elf; damaged notes hold no build id
        pass
    return ""


@dataclass(frozen=True, slots=True)
class _NoteSource:
    """As much of an ELFFile as iter_notes asks for."""

    stream: BytesIO
    structs: ELFStructs

    @property
    def elfclass(self) -> int:
        return self.structs.elfclass


def _native_structs() -> ELFStructs:
    return _structs(64, sys.byteorder == "little", "ET_DYN", "EM_NONE", "ELFOSABI_SYSV")


@lru_cache(maxsize=64)
def _structs(
    width: int, little_endian: bool, kind: str | None = None, machine: str | None = None, abi: str | None = None
) -> ELFStructs:
    """The layouts of such files as ELFFile would make them, which takes longer than to read a file's headers."""
    structs = ELFStructs(little_endian=little_endian, elfclass=width)
    structs.create_basic_structs()
    if kind is not None:
        structs.create_advanced_structs(kind, machine, abi)
    return structs
