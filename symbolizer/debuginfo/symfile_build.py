"""Debug information → a symbol file. Takes `symbolic`, memory and time: meant for a process of its own.

Lines and inlined functions come from DWARF, by symbolic's SymCache. The physical function's name comes from the symbol
tables, by the alias rule of symbols.py: of the debug file's tables first, where those have none of the binary's own.
DWARF's name stands where neither has one, or where its function begins within the symbol (which is then a label or a
section rather than that function).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from symbolizer.debuginfo.image import debug_image, is_relocatable, placed_sections
from symbolizer.debuginfo.symcache import SymCache, read_symcache
from symbolizer.debuginfo.symfile import SymFileError, each_once, pack_symfile
from symbolizer.elf import Elf, ElfError, Read, read_elf
from symbolizer.elf_symbols import read_symbols
from symbolizer.files import read_at
from symbolizer.symbols import SymbolTable

MAX_DEBUG_BYTES = 4 << 30
"""Of one section of debug information, decompressed."""

_I64 = NDArray[np.int64]
_FAR = 1 << 32


class DebugFiles(Protocol):
    """Descriptors of an ELF file with debug information and of its dwz supplementary file, where it has one."""

    @property
    def file(self) -> int: ...
    @property
    def supplement(self) -> int | None: ...


def build_symfile(binary_read: Read, info: DebugFiles, *, most_bytes: int = MAX_DEBUG_BYTES) -> bytes:
    """The bytes of a symbol file for the binary that `binary_read` reads, from the debug information `info`.

    Addresses in it are the binary's, wherever a prelinker has moved that since its debug information was split off.
    Debug information that cannot be used leaves the names of the symbol tables, and a note that says why there is no
    more. Sections that take more than `most_bytes` count as such. Raises SymFileError where there is nothing to tell,
    or one of the files is damaged or cannot be read.
    """
    try:
        binary = read_elf(binary_read)
        debug = read_elf(lambda offset, size: read_at(info.file, offset, size))
        cache, note = None, ""
        try:
            cache = _debug_lines(debug, info, most_bytes)
            note = _why_incomplete(debug, cache, info)
        except (SymFileError, ElfError) as error:
            note = str(error)
        bias, tables = _bias(binary, debug), []
        try:
            tables += _tables(debug, bias)
        except ElfError as error:
            note = note or str(error)
        tables += _tables(binary, 0)
        base = (_load_address(debug) + bias if cache is not None else _load_address(binary)) % 2**64
        names = {}
        if is_relocatable(binary):
            places = placed_sections(binary)
            base, names = 0, {binary.section_name(binary.sections[number]): at for number, at in places.items()}
    except (ElfError, OSError) as error:
        raise SymFileError(str(error)) from error
    return _pack(cache, tables, base, note, names)


def _why_incomplete(debug: Elf, cache: SymCache | None, info: DebugFiles) -> str:
    if cache is None:
        return "there is no debug information"
    if not np.any(cache.location >= 0):
        if debug.section(b".debug_addr") is not None:
            return "its debug information is split into .dwo files, which are not read"
        return "its debug information describes no code"
    if info.supplement is None and any(debug.section(name) for name in (b".gnu_debugaltlink", b".debug_sup")):
        return "the supplementary debug file is missing, so that inlined functions lack names"
    return ""


# Reading


def _debug_lines(debug: Elf, info: DebugFiles, most_bytes: int) -> SymCache | None:
    section = debug.section(b".debug_info")
    if section is None or section.kind == "SHT_NOBITS":
        return None
    image = debug_image(debug, _supplement(info), most_bytes)
    if image is None:
        return _converted(info.file)
    with _in_memory(image) as file:
        return _converted(file)


def _supplement(info: DebugFiles) -> Elf | None:
    file = info.supplement
    return None if file is None else read_elf(lambda offset, size: read_at(file, offset, size))


@contextmanager
def _in_memory(content: bytes | bytearray) -> Iterator[int]:
    file = os.memfd_create("debug")
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
        yield file
    finally:
        os.close(file)


def _converted(file: int) -> SymCache:
    """What symbolic makes of an ELF file, which it maps: being cut short meanwhile kills the process."""
    from symbolic.debuginfo import Archive  # tens of MB that only the process of the builder needs
    from symbolic.exceptions import SymbolicError

    try:
        for part in Archive.open(f"/proc/self/fd/{file}").iter_objects():
            stream = part.make_symcache().open_stream()  # type: ignore[no-untyped-call]
            return read_symcache(stream.read())
    except SymbolicError as error:
        raise SymFileError(f"its debug information is damaged: {str(error).splitlines()[0]}") from error
    raise SymFileError("symbolic found no object in the debug file")


def _tables(elf: Elf, bias: int) -> list[tuple[SymbolTable, int]]:
    """Symbol tables, and what is to be added to their addresses."""
    if not is_relocatable(elf):
        return [(read_symbols(elf), bias)]
    found = []
    for number, start in placed_sections(elf).items():
        parts = [replace(part, executable=i == number) for i, part in enumerate(elf.sections)]
        found.append((read_symbols(replace(elf, sections=tuple(parts))), start))
    return found


def _load_address(elf: Elf) -> int:
    """Of the first load segment: what symbolic takes addresses relative to."""
    return next((segment.address for segment in elf.segments if segment.kind == "PT_LOAD"), 0)


def _bias(binary: Elf, debug: Elf) -> int:
    """How far a prelinker has moved the binary since. File offsets of a debug file mean nothing, addresses do."""
    if is_relocatable(binary):
        return 0
    places = {debug.section_name(part): part.address for part in debug.sections[:256] if part.executable}
    for part in binary.sections[:256]:
        if part.executable and (name := binary.section_name(part)) in places:
            return part.address - places[name]
    if any(segment.kind == "PT_LOAD" for segment in debug.segments):
        return _load_address(binary) - _load_address(debug)
    return 0


# Merging


class _Strings:
    """Strings of a symbol file, each once."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._known = {b"": 0}

    def offset(self, text: bytes) -> int:
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = len(self.data)
            self.data += text + b"\0"
        return found


def _pack(
    cache: SymCache | None, tables: list[tuple[SymbolTable, int]], base: int, note: str, names: dict[bytes, int]
) -> bytes:
    strings = _Strings()
    symbols = _Symbols(tables, base, strings)
    edges = [symbols.edges]
    if cache is not None:
        edges.append(cache.start)
    starts = each_once(np.concatenate(edges))
    location = np.full(len(starts), -1, np.int64)
    if cache is not None and len(cache.start):
        which = np.searchsorted(cache.start, starts, "right") - 1
        location = np.where(which >= 0, cache.location[np.maximum(which, 0)], -1)
    name, begins = symbols.at(starts)
    shown, nodes = _nodes(cache, location, name, begins, strings)
    if not np.any(shown):
        raise SymFileError("it has neither symbols nor debug information" + (f": {note}" if note else ""))
    new = np.append(True, shown[1:] != shown[:-1])
    places = {strings.offset(section): start for section, start in names.items()}
    at = strings.offset(note.encode())
    if len(strings.data) >= _FAR:
        raise SymFileError("its names take more than 4 GB")
    return pack_symfile(base, starts[new].astype(np.uint32), shown[new], nodes, strings.data, note=at, sections=places)


class _Symbols:
    """The functions of symbol tables by address relative to `base`, the first table that knows one first.

    `edges` are the addresses where the answer may change, ascending and each once.
    """

    def __init__(self, tables: list[tuple[SymbolTable, int]], base: int, strings: _Strings) -> None:
        self._strings = strings
        self._tables = [(table, (shift - base) % 2**64) for table, shift in tables]
        ends = [np.zeros(1, np.uint64)]
        for table, shift in self._tables:
            ends += [table.ranges.start + np.uint64(shift), table.ranges.end + np.uint64(shift)]
        edges = each_once(np.concatenate(ends))
        self.edges: _I64 = edges[edges < _FAR].astype(np.int64)
        self._name = np.zeros(len(self.edges), np.int64)
        self._begin = np.full(len(self.edges), -1, np.int64)
        for table, shift in self._tables:
            self._fill(table, shift)

    def at(self, addresses: _I64) -> tuple[_I64, _I64]:
        """For each address the offset of the symbol's name among the strings (0: none) and where the symbol begins."""
        which = np.searchsorted(self.edges, addresses, "right") - 1
        return self._name[which], self._begin[which]

    def _fill(self, table: SymbolTable, shift: int) -> None:
        left = np.flatnonzero(self._name == 0)
        if not len(table) or not len(left):
            return
        addresses = self.edges[left].astype(np.uint64) - np.uint64(shift)
        start, end = table.ranges.start, table.ranges.end
        found = np.searchsorted(start, addresses, "right") - 1
        outside = (found >= 0) & (addresses >= end[found])
        found[outside] = table.find(addresses[outside].tolist())
        left, found = left[found >= 0], found[found >= 0]
        symbols, which = np.unique(found, return_inverse=True)
        offsets = [self._strings.offset(table.best_name(symbol)) for symbol in symbols.tolist()]
        self._name[left] = np.array(offsets, np.int64)[which]
        self._begin[left] = (start[found] + np.uint64(shift)).astype(np.int64)


def _nodes(
    cache: SymCache | None, location: _I64, name: _I64, begins: _I64, strings: _Strings
) -> tuple[NDArray[np.uint32], list[NDArray[np.uint32]]]:
    """The node of each row, and the nodes' caller, function, file and line (see symfile.py).

    A row has a location of the SymCache or -1, and a symbol with its name and where it begins or 0. A node stands for
    all locations that read the same, within the same physical function.
    """
    if cache is None:
        none = np.empty(0, np.int64)
        cache = SymCache(none, none, none, none, none, none, none, none, none, none, none.reshape(0, 3), b"")
    nowhere = len(cache.caller)  # a location of its own for code that only symbols know
    caller, depth = np.append(cache.caller, -1), np.append(cache.depth, 0)
    line = np.append(cache.line, 0)
    function_name, function_entry = _functions(cache, strings)
    file = np.append(_files(cache, strings), 0)
    inlined_name = np.append(function_name[cache.function], 0)

    physical = np.append(cache.function[cache.root], -1)[location]  # the last one's for -1
    own_name = np.where(location >= 0, function_name[physical], 0)
    better = (own_name > 0) & (function_entry[physical] > begins)
    name = np.where((name > 0) & ~better, name, own_name)

    names, which_name = np.unique(name, return_inverse=True)
    key = np.where(location >= 0, location, nowhere) * len(names) + which_name
    wanted = (location >= 0) | (name > 0)
    level = each_once(key[wanted])
    levels = [level]
    while len(level):
        outer = caller[level // len(names)]
        level = each_once(outer[outer >= 0] * len(names) + level[outer >= 0] % len(names))
        levels.append(level)
    keys = each_once(np.concatenate(levels))
    where, node = keys // len(names), np.zeros(len(keys), np.int64)
    columns: list[list[_I64]] = [[np.zeros(1, np.int64)] for _ in range(4)]
    count = 1
    for height in range(int(depth[where].max(initial=-1)) + 1):
        here = np.flatnonzero(depth[where] == height)
        at = where[here]
        of_name = keys[here] % len(names)
        if height:
            outer = node[np.searchsorted(keys, caller[at] * len(names) + of_name)]
            parts = [outer, inlined_name[at], file[at], line[at]]
        else:
            parts = [np.zeros(len(at), np.int64), names[of_name], file[at], line[at]]
        first, same = _distinct(parts)
        node[here] = count + same
        count += len(first)
        for column, part in zip(columns, parts, strict=True):
            column.append(part[first])
    shown = np.zeros(len(location), np.int64)
    shown[wanted] = node[np.searchsorted(keys, key[wanted])]
    return shown.astype(np.uint32), [np.concatenate(column).astype(np.uint32) for column in columns]


def _distinct(columns: list[_I64]) -> tuple[_I64, _I64]:
    """Rows that differ: where each is first, and for every row which of those it equals. Values are below 2**32."""
    same = columns[0]
    for column in columns[1:]:
        _, same = np.unique(same << 32 | column, return_inverse=True)
    _, first, same = np.unique(same, return_index=True, return_inverse=True)
    return first, same


def _functions(cache: SymCache, strings: _Strings) -> tuple[_I64, _I64]:
    """Names and first addresses of functions, and of none (0, -1) at the end."""
    texts, which = np.unique(cache.name, return_inverse=True)
    offsets = np.array([strings.offset(cache.text(text)) for text in texts.tolist()] + [0], np.int64)
    return np.append(offsets[which], 0), np.append(cache.entry, -1)


def _files(cache: SymCache, strings: _Strings) -> _I64:
    """The name of the file of each location, as an offset."""
    offsets = [strings.offset(cache.file_path(number)) for number in range(len(cache.path))]
    return np.array([*offsets, 0], np.int64)[cache.file]
