"""ELF files: build id, load segments and symbols, read without trusting a single field.

The layout is that of the System V ABI (gabi chapters 4 and 5), 32 and 64 bits, both byte orders.
Tables are read with numpy in pieces of bounded size, so the cost of a file is bounded by its size
and by the limits below, whatever its headers claim.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symbolizer.symbols import PackedStrings, SymbolTable, symbol_table

Read = Callable[[int, int], bytes]
"""read(offset, size): that part of the file, shorter only where the file ends."""

MAX_SYMBOL_BYTES = 96 << 20
MAX_STRING_BYTES = 192 << 20
MAX_BUILD_ID = 20  # bytes; what the kernel reports of a mapping, so the most that can be compared
_MAX_HEADERS = 1 << 16
_MAX_NOTE_BYTES = 1 << 18
_MAX_NOTES = 1024
_MAX_LOADS = 256
_PIECE = 24 << 15
_HASHED_PIECE = 1 << 16
_HASHED_PIECES = 32

_PT_LOAD, _PT_NOTE = 1, 4
_PF_X = 1
_SHT_SYMTAB, _SHT_NOTE, _SHT_NOBITS, _SHT_DYNSYM = 2, 7, 8, 11
_SHF_EXECINSTR = 4
_STT_NOTYPE, _STT_FUNC, _STT_GNU_IFUNC = 0, 2, 10
_STB_LOCAL, _STB_GLOBAL, _STB_WEAK = 0, 1, 2
_SHN_LORESERVE, _SHN_XINDEX = 0xFF00, 0xFFFF
_EM_ARM = 40
_NT_GNU_BUILD_ID = 3

_EHDR = {1: "HHIIIIIHHHHHH", 2: "HHIQQQIHHHHHH"}
_PHDR = {
    1: "type:u4 offset:u4 vaddr:u4 paddr:u4 filesz:u4 memsz:u4 flags:u4 align:u4",
    2: "type:u4 flags:u4 offset:u8 vaddr:u8 paddr:u8 filesz:u8 memsz:u8 align:u8",
}
_SHDR = {
    1: "name:u4 type:u4 flags:u4 addr:u4 offset:u4 size:u4 link:u4 info:u4 align:u4 entsize:u4",
    2: "name:u4 type:u4 flags:u8 addr:u8 offset:u8 size:u8 link:u4 info:u4 align:u8 entsize:u8",
}
_SYM = {
    1: "name:u4 value:u4 size:u4 info:u1 other:u1 shndx:u2",
    2: "name:u4 info:u1 other:u1 shndx:u2 value:u8 size:u8",
}


class ElfError(ValueError):
    """The file is a damaged ELF file, or none (NotElfError); the message says how."""


class NotElfError(ElfError):
    """The file does not begin as an ELF file does."""


@dataclass(frozen=True, slots=True)
class Elf:
    """What the headers of an ELF file say. `segments` and `sections` are structured arrays."""

    read: Read
    order: str
    bits: int
    machine: int
    segments: NDArray[np.void]
    sections: NDArray[np.void]

    @property
    def loads(self) -> NDArray[np.uint64]:
        """Rows of (file offset, bytes in the file, virtual address) of load segments, executable ones last."""
        loads = self.segments[self.segments["type"] == _PT_LOAD][:_MAX_LOADS]
        loads = loads[np.argsort(loads["flags"] & _PF_X, kind="stable")]
        columns = [loads[name].astype(np.uint64) for name in ("offset", "filesz", "vaddr")]
        return np.stack(columns, axis=1)

    def build_id(self) -> str:
        """Hex of NT_GNU_BUILD_ID, at most 20 bytes of it; "" where the file has none."""
        notes = [(s["offset"], s["filesz"], s["align"]) for s in self.segments[:_MAX_NOTES] if s["type"] == _PT_NOTE]
        notes += [(s["offset"], s["size"], s["align"]) for s in self.sections[:_MAX_NOTES] if s["type"] == _SHT_NOTE]
        for offset, size, align in notes:
            data = self.read(int(offset), min(int(size), _MAX_NOTE_BYTES))
            if found := build_id_of_notes(data, self.order, int(align)):
                return found
        return ""

    def symbols(self) -> SymbolTable:
        """Functions of .symtab and of .dynsym, by virtual address.

        A function is a FUNC or GNU_IFUNC symbol, or one without type (as assemblers write them), of
        an executable section. Of .dynsym only what .symtab lacks is added. Raises ElfError.
        """
        chunks: list[_Symbols] = []
        strings: list[tuple[int, int]] = []
        for kind in (_SHT_SYMTAB, _SHT_DYNSYM):
            for section in self.sections[self.sections["type"] == kind][:1]:
                names = self._section(int(section["link"]))
                offset, size = int(names["offset"]), int(names["size"])
                if size > MAX_STRING_BYTES:
                    raise ElfError(f"its symbol names take {size >> 20} MB, more than {MAX_STRING_BYTES >> 20}")
                base = sum(size for _, size in strings)
                known = np.concatenate([chunk.start for chunk in chunks]) if chunks else np.empty(0, np.uint64)
                found = [chunk.outside(known) for chunk in self._functions(section, base, size)]
                if any(len(chunk.start) for chunk in found):
                    chunks += found
                    strings.append((offset, size))
        if not chunks:
            none = np.empty(0, np.uint64)
            return symbol_table(none, none, none.astype(np.uint32), none.astype(np.uint8), none, PackedStrings([]))
        start, end, limit = (np.concatenate([getattr(c, n) for c in chunks]) for n in ("start", "end", "limit"))
        name = np.concatenate([chunk.name for chunk in chunks])
        rank = np.concatenate([chunk.rank for chunk in chunks])
        return symbol_table(start, end, name, rank, limit, PackedStrings(self._pieces(strings)))

    def _section(self, index: int) -> np.void:
        if not 0 < index < len(self.sections):
            raise ElfError("a symbol table names a string table that is not there")
        section: np.void = self.sections[index]
        return section

    def _pieces(self, parts: list[tuple[int, int]]) -> Iterator[bytes]:
        for offset, size in parts:
            for at in range(0, size, _PIECE):
                data = self.read(offset + at, min(_PIECE, size - at))
                if len(data) < min(_PIECE, size - at):
                    raise ElfError("its symbol names are cut short")
                yield data

    def _functions(self, section: np.void, name_base: int, name_bytes: int) -> Iterator[_Symbols]:
        layout = _dtype(_SYM[self.bits], self.order)
        size = int(section["size"]) - int(section["size"]) % layout.itemsize
        if size > MAX_SYMBOL_BYTES:
            raise ElfError(f"its symbol table takes {size >> 20} MB, more than {MAX_SYMBOL_BYTES >> 20}")
        if int(section["entsize"]) != layout.itemsize:
            raise ElfError("its symbol table has entries of a strange size")
        executable = (self.sections["flags"] & _SHF_EXECINSTR) != 0
        limits = self.sections["addr"].astype(np.uint64) + self.sections["size"].astype(np.uint64)
        step = _PIECE - _PIECE % layout.itemsize
        for at in range(0, size, step):
            data = self.read(int(section["offset"]) + at, min(step, size - at))
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
            if self.machine == _EM_ARM:
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
        if not len(known):
            return self
        new = ~np.isin(self.start, known)
        return _Symbols(self.start[new], self.end[new], self.name[new], self.rank[new], self.limit[new])


def read_elf(read: Read) -> Elf:
    """The headers of an ELF file. Raises ElfError, and whatever `read` raises."""
    ident = read(0, 64)
    if ident[:4] != b"\x7fELF":
        raise NotElfError("it is not an ELF file")
    if len(ident) < 16 or ident[4] not in _EHDR or ident[5] not in (1, 2):
        raise ElfError("its ELF header is damaged")
    bits, order = ident[4], "<>"[ident[5] - 1]
    layout = struct.Struct(order + _EHDR[bits])
    if len(ident) < 16 + layout.size:
        raise ElfError("its ELF header is cut short")
    _, machine, _, _, phoff, shoff, _, _, phsize, phnum, shsize, shnum, _ = layout.unpack_from(ident, 16)
    segment, section = _dtype(_PHDR[bits], order), _dtype(_SHDR[bits], order)
    if (phnum and phsize != segment.itemsize) or (shoff and shsize != section.itemsize):
        raise ElfError("its headers have a strange size")
    if shoff and not shnum:  # so many that the number is in the first section's size
        first = np.frombuffer(_whole(read, shoff, section.itemsize), section)[0]
        shnum = int(first["size"])
    if shnum > _MAX_HEADERS * 4:
        raise ElfError(f"it claims {shnum} sections")
    segments = np.frombuffer(_whole(read, phoff, phnum * segment.itemsize), segment)
    sections = np.frombuffer(_whole(read, shoff, shnum * section.itemsize if shoff else 0), section)
    return Elf(read, order, bits, machine, segments, sections)


def _whole(read: Read, offset: int, size: int) -> bytes:
    data = read(offset, size) if size else b""
    if len(data) < size:
        raise ElfError("its headers are cut short")
    return data


def _dtype(layout: str, order: str) -> np.dtype[np.void]:
    fields = [field.split(":") for field in layout.split()]
    return np.dtype([(name, order + code) for name, code in fields])


def virtual_addresses(loads: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The virtual address of each file offset by `Elf.loads`, 2**64 - 1 where none has it.

    Where two segments share a part of the file the executable one counts.
    """
    found = np.full(len(offsets), 2**64 - 1, np.uint64)
    for start, size, address in loads:
        inside = (offsets >= start) & (offsets - start < size)
        found[inside] = offsets[inside] - start + address
    return found


def build_id_of_notes(notes: bytes, order: str = "<", align: int = 4) -> str:
    """Hex of the NT_GNU_BUILD_ID among ELF notes (as in /sys/kernel/notes), or ""."""
    align = 8 if align == 8 else 4
    at = 0
    for _ in range(_MAX_NOTES):
        if at + 12 > len(notes):
            break
        name_size, size, kind = struct.unpack_from(order + "III", notes, at)
        name = at + 12
        content = name + _round_up(name_size, align) if align == 4 else _round_up(name + name_size, align)
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            found = notes[content : content + size]
            return found[:MAX_BUILD_ID].hex() if len(found) == size else ""
        at = _round_up(content + size, align)
    return ""


def _round_up(value: int, step: int) -> int:
    return (value + step - 1) // step * step
