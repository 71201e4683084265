"""The functions of an ELF file by address: of its symbol tables, and the stubs that those leave out.

Tables are read with numpy, in pieces. What it costs is bounded by the file's size and by the limits below, whatever
its headers claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from elftools.elf.structs import ELFStructs
from numpy.typing import NDArray

from symbolizer import plt
from symbolizer.elf import Elf, ElfError, Section
from symbolizer.symbols import RANK_PLT, RANK_STUB, PackedStrings, Rank, SymbolTable, symbol_table

MAX_SYMBOL_BYTES = 96 << 20
MAX_STRING_BYTES = 192 << 20
_PIECE = 24 << 15
_MAX_RESOLVERS = 1 << 12  # functions that choose what stubs lead to; a static program has some tens

_STT_NOTYPE, _STT_FUNC, _STT_GNU_IFUNC = 0, 2, 10
_STB_LOCAL, _STB_WEAK = 0, 2
_VERSYM_HIDDEN = 0x8000
_SHN_LORESERVE, _SHN_XINDEX = 0xFF00, 0xFFFF

_SYM = {
    32: "name:u4 value:u4 size:u4 info:u1 other:u1 shndx:u2",
    64: "name:u4 info:u1 other:u1 shndx:u2 value:u8 size:u8",
}
_NONE = np.empty(0, np.uint64)


def read_symbols(elf: Elf) -> SymbolTable:
    """Functions of .symtab and of .dynsym, and stubs of the procedure linkage table, by virtual address.

    A function is a FUNC or GNU_IFUNC symbol, or one without type (as assemblers write them), of
    an executable section. Of .dynsym only what .symtab lacks is added. symbols.py says which of several symbols
    names an address. Raises ElfError.
    """
    chunks: list[_Symbols] = []
    strings: list[tuple[int, int]] = []
    dynamic: Section | None = None
    for kind in ("SHT_SYMTAB", "SHT_DYNSYM"):
        for section in [section for section in elf.sections if section.kind == kind][:1]:
            names = _names(elf, section)
            base = sum(size for _, size in strings)
            known = np.sort(np.concatenate([chunk.start for chunk in chunks])) if chunks else _NONE
            found = [chunk.outside(known) for chunk in _functions(elf, section, base, names.size)]
            if kind == "SHT_DYNSYM":
                dynamic = section
            if any(len(chunk.start) for chunk in found):
                chunks += found
                strings.append((names.offset, names.size))
    stubs, names_of_stubs = _stubs(elf, chunks, dynamic, strings)
    return _table(chunks + stubs, PackedStrings(chain(_pieces(elf, strings), [names_of_stubs])))


def _table(chunks: list[_Symbols], strings: PackedStrings) -> SymbolTable:
    none = _Symbols(_NONE, _NONE, _NONE.astype(np.uint32), _NONE.astype(np.uint8), _NONE)
    start, end, limit = (np.concatenate([getattr(c, n) for c in [none, *chunks]]) for n in ("start", "end", "limit"))
    name = np.concatenate([chunk.name for chunk in [none, *chunks]])
    rank = np.concatenate([chunk.rank for chunk in [none, *chunks]])
    return symbol_table(start, end, name, rank, limit, strings)


def _stubs(
    elf: Elf, functions: list[_Symbols], dynamic: Section | None, strings: list[tuple[int, int]]
) -> tuple[list[_Symbols], bytes]:
    """Stubs of the procedure linkage table, named after what their slots' relocations say they lead to, and the
    names that this adds, which are to follow those of `functions`, the `strings` (offset, size) of the file.

    They lead to symbols of the table `dynamic`, or to one of `functions`. Where any of it is damaged a stub has
    no name, or there is none.
    """
    if elf.machine != "EM_X86_64":
        return [], b""
    code = [section for section in elf.sections if section.executable and section.kind == "SHT_PROGBITS"]
    code = [section for section in code if elf.section_name(section) in plt.SECTIONS][: len(plt.SECTIONS)]
    found = []
    for section in code:
        stubs = elf.read(section.offset, min(section.size, plt.MAX_CODE_BYTES))
        found.append(plt.read_stubs(section.address, stubs, _relocations(elf, dynamic)))
    if not any(len(stubs.start) for stubs in found):
        return [], b""
    start, end, resolver = (np.concatenate([getattr(s, n) for s in found]) for n in ("start", "end", "resolver"))
    name_base = sum(size for _, size in strings)
    imported, names = _dynamic_names(elf, dynamic, np.concatenate([stubs.symbol for stubs in found]))
    chosen, more_names = _names_at(elf, functions, strings, resolver)
    name = np.where(imported >= 0, imported, np.where(chosen >= 0, chosen + len(names), -1))
    name = np.where(name >= 0, name + name_base, -1)
    names += more_names
    rank = np.where(name >= 0, RANK_STUB, RANK_PLT).astype(np.uint8)
    return [_Symbols(start, end, np.maximum(name, 0).astype(np.uint32), rank, end)], names


def _dynamic_names(elf: Elf, dynamic: Section | None, numbers: NDArray[np.uint32]) -> tuple[NDArray[np.int64], bytes]:
    """Where the names of the dynamic symbols with these numbers begin in the bytes that follow, or -1."""
    if dynamic is None or not numbers.any():
        return np.full(len(numbers), -1, np.int64), b""
    layout = _symbol_layout(elf.structs)
    size = min(dynamic.size // layout.itemsize, int(numbers.max()) + 1) * layout.itemsize
    data = elf.read(dynamic.offset, size)
    offsets = np.append(np.frombuffer(data, layout, len(data) // layout.itemsize)["name"], np.uint32(0))
    offsets = np.where(numbers > 0, offsets[np.minimum(numbers, len(offsets) - 1)], 0)
    distinct, which = np.unique(offsets, return_inverse=True)
    strings = _names(elf, dynamic)
    text = elf.read(strings.offset, strings.size)
    names, begins = bytearray(), []
    for offset in distinct.tolist():
        name = text[offset : text.find(b"\0", offset, offset + plt.MAX_NAME_BYTES) + 1] if offset else b""
        begins.append(len(names) if name and len(names) < plt.MAX_NAMES_BYTES else -1)
        names += name if begins[-1] >= 0 else b""
    return np.array(begins, np.int64)[which], bytes(names)


def _relocations(elf: Elf, dynamic: Section | None) -> Iterator[bytes]:
    """What may relocate the slots of stubs: small tables first, as .rela.plt is. Of large ones their end:
    before it linkers put what refers to no symbol."""
    tables = [s for s in elf.sections if s.kind == "SHT_RELA" and s.entry_size == 24]
    if dynamic is not None:  # those of a static file refer to no symbols, whatever table they name
        own = (0, *(number for number, section in enumerate(elf.sections) if section is dynamic))
        tables = [s for s in tables if s.link in own]
    for table in sorted(tables, key=lambda table: table.size)[:2]:
        size = table.size - table.size % 24
        most = min(size, plt.MAX_RELOCATION_BYTES - plt.MAX_RELOCATION_BYTES % 24)
        yield elf.read(table.offset + size - most, most)


def _names(elf: Elf, section: Section) -> Section:
    if not 0 < section.link < len(elf.sections):
        raise ElfError("a symbol table names a string table that is not there")
    names = elf.sections[section.link]
    if names.size > MAX_STRING_BYTES:
        raise ElfError(f"its symbol names take {names.size >> 20} MB, more than {MAX_STRING_BYTES >> 20}")
    return names


def _pieces(elf: Elf, parts: list[tuple[int, int]]) -> Iterator[bytes]:
    for offset, size in parts:
        for at in range(0, size, _PIECE):
            data = elf.read(offset + at, min(_PIECE, size - at))
            if len(data) < min(_PIECE, size - at):
                raise ElfError("its symbol names are cut short")
            yield data


def _functions(elf: Elf, section: Section, name_base: int, name_bytes: int) -> Iterator[_Symbols]:
    layout = _symbol_layout(elf.structs)
    size = section.size - section.size % layout.itemsize
    if size > MAX_SYMBOL_BYTES:
        raise ElfError(f"its symbol table takes {size >> 20} MB, more than {MAX_SYMBOL_BYTES >> 20}")
    if section.entry_size != layout.itemsize:
        raise ElfError("its symbol table has entries of a strange size")
    executable = np.array([section.executable for section in elf.sections])
    limits = np.array([(section.address + section.size) % 2**64 for section in elf.sections], np.uint64)
    step = _PIECE - _PIECE % layout.itemsize
    for at in range(0, size, step):
        data = elf.read(section.offset + at, min(step, size - at))
        if len(data) < min(step, size - at):
            raise ElfError("its symbol table is cut short")
        symbols = np.frombuffer(data, layout)
        hidden = _hidden_versions(elf, section, at // layout.itemsize, len(symbols))
        kind, where = symbols["info"] & 15, symbols["shndx"].astype(np.int64)
        ordinary = (where > 0) & (where < min(len(elf.sections), _SHN_LORESERVE))
        where = np.where(ordinary, where, 0)
        code = ordinary & executable[where] & np.isin(kind, (_STT_FUNC, _STT_GNU_IFUNC, _STT_NOTYPE))
        code |= (symbols["shndx"] == _SHN_XINDEX) & np.isin(kind, (_STT_FUNC, _STT_GNU_IFUNC))
        code &= (symbols["name"] > 0) & (symbols["name"] < name_bytes)
        symbols, kind, where, hidden = symbols[code], kind[code], where[code], hidden[code]
        start = symbols["value"].astype(np.uint64)
        if elf.machine == "EM_ARM":
            start &= ~np.uint64(1)  # the low bit says Thumb
        end = start + np.minimum(symbols["size"].astype(np.uint64), ~start)
        binding = symbols["info"] >> 4
        rank = np.select([binding == _STB_WEAK, binding == _STB_LOCAL], [Rank.WEAK, Rank.LOCAL], 0)
        rank += Rank.HIDDEN_VERSION * hidden + Rank.UNTYPED * (kind == _STT_NOTYPE)
        yield _Symbols(
            start,
            end,
            (symbols["name"].astype(np.int64) + name_base).astype(np.uint32),
            rank.astype(np.uint8),
            np.maximum(limits[where], start),
        )


def _hidden_versions(elf: Elf, symbols: Section, first: int, count: int) -> NDArray[np.bool_]:
    """Which of `count` symbols from number `first` on are of a version that no new program is linked to.

    That is bit 15 of their entries in .gnu.version (Linux Standard Base, chapter "Symbol Versioning"), which belongs to
    .dynsym; names in .symtab say it themselves (`foo@V1`).
    """
    found = np.zeros(count, bool)
    for section in elf.sections:
        if section.kind == "SHT_GNU_versym" and elf.sections[section.link : section.link + 1] == (symbols,):
            data = elf.read(section.offset + 2 * first, min(2 * count, max(section.size - 2 * first, 0)))
            versions = np.frombuffer(data, "<u2" if elf.structs.little_endian else ">u2", len(data) // 2)
            found[: len(versions)] = versions & _VERSYM_HIDDEN > 0
            break
    return found


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


def _names_at(
    elf: Elf, functions: list[_Symbols], strings: list[tuple[int, int]], addresses: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], bytes]:
    """Where the name of the function that starts at each address begins in the bytes that follow, or -1 (as at 0)."""
    distinct, which = np.unique(addresses, return_inverse=True)
    begins = np.full(len(distinct), -1, np.int64)
    names = bytearray()
    if distinct.any() and functions:
        table = _table(functions, PackedStrings(_pieces(elf, strings)))
        starts = table.ranges.start
        for place, symbol in enumerate(table.find(distinct[:_MAX_RESOLVERS].tolist())):
            if symbol >= 0 and starts[symbol] == distinct[place] > 0:
                begins[place] = len(names)
                names += table.best_name(symbol)[: plt.MAX_NAME_BYTES] + b"\0"
    return begins[which], bytes(names)


def _symbol_layout(structs: ELFStructs) -> np.dtype[np.void]:
    order = "<" if structs.little_endian else ">"
    fields = [field.split(":") for field in _SYM[structs.elfclass].split()]
    return np.dtype([(name, order + code) for name, code in fields])
