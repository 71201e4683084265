"""ELF files: build id, load segments and symbols, read without trusting a single field.

The layout is that of the System V ABI (gabi chapters 4 and 5), 32 and 64 bits, both byte orders.
pyelftools takes headers and notes apart; it is given parts of the file of bounded size, never the
file itself. Symbol tables are read with numpy, in pieces. So the cost of a file is bounded by its
size and by the limits below, whatever its headers claim.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, cast

import numpy as np
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile
from elftools.elf.notes import iter_notes
from elftools.elf.structs import ELFStructs
from numpy.typing import NDArray

from symbolizer.symbols import PackedStrings, SymbolTable, symbol_table

Read = Callable[[int, int], bytes]
"""read(offset, size): that part of the file, shorter only where the file ends."""

Loads = tuple[tuple[int, int, int], ...]
"""(file offset, bytes in the file, virtual address) of each load segment."""

MAX_SYMBOL_BYTES = 96 << 20
MAX_STRING_BYTES = 192 << 20
MAX_BUILD_ID = 20  # bytes; what the kernel reports of a mapping, so the most that can be compared
_MAX_HEADERS = 4096  # a linked file has some tens of segments and of sections
_MAX_NOTE_BYTES = 1 << 15  # in all; a build id's note has 36
_MAX_LOADS = 256
_PIECE = 24 << 15
_HASHED_PIECE = 1 << 16
_HASHED_PIECES = 32

_PF_X = 1
_SHF_EXECINSTR = 4
_STT_NOTYPE, _STT_FUNC, _STT_GNU_IFUNC = 0, 2, 10
_STB_LOCAL, _STB_GLOBAL, _STB_WEAK = 0, 1, 2
_SHN_LORESERVE, _SHN_XINDEX = 0xFF00, 0xFFFF

_SYM = {
    32: "name:u4 value:u4 size:u4 info:u1 other:u1 shndx:u2",
    64: "name:u4 info:u1 other:u1 shndx:u2 value:u8 size:u8",
}
_NONE = np.empty(0, np.uint64)


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


@dataclass(frozen=True, slots=True)
class Elf:
    """What the headers of an ELF file say. `machine` is a name ("EM_X86_64"), or a number that has none."""

    read: Read
    structs: ELFStructs
    machine: str | int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @property
    def loads(self) -> Loads:
        """(file offset, bytes in the file, virtual address) of load segments, executable ones last."""
        loads = [segment for segment in self.segments if segment.kind == "PT_LOAD"][:_MAX_LOADS]
        loads.sort(key=lambda segment: segment.executable)
        return tuple((segment.offset, segment.size, segment.address) for segment in loads)

    def build_id(self) -> str:
        """Hex of NT_GNU_BUILD_ID, at most 20 bytes of it; "" where the file has none."""
        parts: list[Segment | Section] = [*self.segments, *self.sections]
        left = _MAX_NOTE_BYTES
        for part in parts:
            if part.kind in ("PT_NOTE", "SHT_NOTE"):
                notes = self.read(part.offset, min(part.size, left))
                left -= len(notes)
                if found := build_id_of_notes(notes, self.structs):
                    return found
        return ""

    def symbols(self) -> SymbolTable:
        """Functions of .symtab and of .dynsym, by virtual address.

        A function is a FUNC or GNU_IFUNC symbol, or one without type (as assemblers write them), of
        an executable section. Of .dynsym only what .symtab lacks is added. Raises ElfError.
        """
        chunks: list[_Symbols] = []
        strings: list[tuple[int, int]] = []
        for kind in ("SHT_SYMTAB", "SHT_DYNSYM"):
            for section in [section for section in self.sections if section.kind == kind][:1]:
                names = self._names(section)
                base = sum(size for _, size in strings)
                known = np.sort(np.concatenate([chunk.start for chunk in chunks])) if chunks else _NONE
                found = [chunk.outside(known) for chunk in self._functions(section, base, names.size)]
                if any(len(chunk.start) for chunk in found):
                    chunks += found
                    strings.append((names.offset, names.size))
        if not chunks:
            none = _NONE
            return symbol_table(none, none, none.astype(np.uint32), none.astype(np.uint8), none, PackedStrings([]))
        start, end, limit = (np.concatenate([getattr(c, n) for c in chunks]) for n in ("start", "end", "limit"))
        name = np.concatenate([chunk.name for chunk in chunks])
        rank = np.concatenate([chunk.rank for chunk in chunks])
        return symbol_table(start, end, name, rank, limit, PackedStrings(self._pieces(strings)))

    def _names(self, section: Section) -> Section:
        if not 0 < section.link < len(self.sections):
            raise ElfError("a symbol table names a string table that is not there")
        names = self.sections[section.link]
        if names.size > MAX_STRING_BYTES:
            raise ElfError(f"its symbol names take {names.size >> 20} MB, more than {MAX_STRING_BYTES >> 20}")
        return names

    def _pieces(self, parts: list[tuple[int, int]]) -> Iterator[bytes]:
        for offset, size in parts:
            for at in range(0, size, _PIECE):
                data = self.read(offset + at, min(_PIECE, size - at))
                if len(data) < min(_PIECE, size - at):
                    raise ElfError("its symbol names are cut short")
                yield data

    def _functions(self, section: Section, name_base: int, name_bytes: int) -> Iterator[_Symbols]:
        layout = _symbol_layout(self.structs)
        size = section.size - section.size % layout.itemsize
        if size > MAX_SYMBOL_BYTES:
            raise ElfError(f"its symbol table takes {size >> 20} MB, more than {MAX_SYMBOL_BYTES >> 20}")
        if section.entry_size != layout.itemsize:
            raise ElfError("its symbol table has entries of a strange size")
        executable = np.array([section.executable for section in self.sections])
        limits = np.array([(section.address + section.size) % 2**64 for section in self.sections], np.uint64)
        step = _PIECE - _PIECE % layout.itemsize
        for at in range(0, size, step):
            data = self.read(section.offset + at, min(step, size - at))
            if len(data) < min(step, size - at):
                raise ElfError("its symbol table is cut short")
            symbols = np.frombuffer(data, layout)
            kind, where = symbols["info"] & 15, symbols["shndx"].astype(np.int64)
            ordinary = (where > 0) & (where < min(len(self.sections), _SHN_LORESERVE))
            where = np.where(ordinary, where, 0)
            code = ordinary & executable[where] & np.isin(kind, (_STT_FUNC, _STT_GNU_IFUNC, _STT_NOTYPE))
            code |= (symbols["shndx"] == _SHN_XINDEX) & np.isin(kind, (_STT_FUNC, _STT_GNU_IFUNC))
            code &= (symbols["name"] > 0) & (symbols["name"] < name_bytes)
            symbols, kind, where = symbols[code], kind[code], where[code]
            start = symbols["value"].astype(np.uint64)
            if self.machine == "EM_ARM":
                start &= ~np.uint64(1)  # the low bit says Thumb
            end = start + np.minimum(symbols["size"].astype(np.uint64), ~start)
            binding = symbols["info"] >> 4
            rank = np.select([binding == _STB_GLOBAL, binding == _STB_WEAK, binding == _STB_LOCAL], [1, 2, 3], 0)
            yield _Symbols(
                start,
                end,
                (symbols["name"].astype(np.int64) + name_base).astype(np.uint32),
                (rank + 4 * (kind == _STT_NOTYPE)).astype(np.uint8),
                np.maximum(limits[where], start),
            )

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


@dataclass(frozen=True, slots=True)
class _Symbols:
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    name: NDArray[np.uint32]
    rank: NDArray[np.uint8]
    limit: NDArray[np.uint64]

    def outside(self, known: NDArray[np.uint64]) -> _Symbols:
        """Those that do not start where one of `known`, which is sorted, does."""
        if not len(known):
            return self
        new = known[np.minimum(np.searchsorted(known, self.start), len(known) - 1)] != self.start
        return _Symbols(self.start[new], self.end[new], self.name[new], self.rank[new], self.limit[new])


def read_elf(read: Read) -> Elf:
    """The headers of an ELF file. Raises ElfError, and whatever `read` raises."""
    ident = read(0, 64)
    if ident[:4] != b"\x7fELF":
        raise NotElfError("it is not an ELF file")
    try:
        file = ELFFile(BytesIO(ident))
    except Exception as error:  # pyelftools promises nothing about what garbage makes it raise
        raise ElfError("its ELF header is damaged or cut short") from error
    header, structs = file.header, file.structs
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
            )
            for h in _headers(read, structs.Elf_Shdr, at, sections, size)
        ),
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


def _symbol_layout(structs: ELFStructs) -> np.dtype[np.void]:
    order = "<" if structs.little_endian else ">"
    fields = [field.split(":") for field in _SYM[structs.elfclass].split()]
    return np.dtype([(name, order + code) for name, code in fields])


def virtual_addresses(loads: Loads, offsets: Sequence[int]) -> NDArray[np.uint64]:
    """The virtual address of each file offset by `Elf.loads`, 2**64 - 1 where none has it.

    Where two segments share a part of the file the executable one counts.
    """
    found = np.full(len(offsets), 2**64 - 1, np.uint64)
    for i, offset in enumerate(offsets):
        for start, size, address in reversed(loads):
            if start <= offset < start + size:
                found[i] = (offset - start + address) % 2**64
                break
    return found


def build_id_of_notes(notes: bytes, structs: ELFStructs | None = None) -> str:
    """Hex of the NT_GNU_BUILD_ID among ELF notes, at most 20 bytes of it, or "".

    Without `structs` they are in this machine's byte order (as in /sys/kernel/notes). Of more than
    32 KB the rest is left out.
    """
    notes = notes[:_MAX_NOTE_BYTES]
    source = cast(ELFFile, _NoteSource(BytesIO(notes), structs or _native_structs()))
    try:
        for note in iter_notes(source, 0, len(notes)):
            if note["n_type"] == "NT_GNU_BUILD_ID" and note["n_name"] == "GNU":
                found: bytes = note["n_descdata"]
                return found[:MAX_BUILD_ID].hex() if len(found) == note["n_descsz"] else ""
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


@cache
def _native_structs() -> ELFStructs:
    structs = ELFStructs(little_endian=sys.byteorder == "little", elfclass=64)
    structs.create_basic_structs()
    structs.create_advanced_structs("ET_DYN", "EM_NONE", "ELFOSABI_SYSV")
    return structs
