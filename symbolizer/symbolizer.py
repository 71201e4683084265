"""Addresses → Locations with names: the one door to the symbolizer.

What is remembered, and how it is bounded:
- symbol tables, and apart from them perf maps: `cache_bytes` each, the least recently used dropped
  first (the newest stays however large it is; elf.py and perfmap.py bound a single one);
- Locations: MAX_LOCATIONS, the least recently used binary's dropped first, and as many of the kernel;
- binaries: MAX_BINARIES;
- which binary a process's mapping without build id shows, and what could not be opened: MAX_ANSWERS,
  a failure for RETRY_SECONDS;
- the kernel's symbols: one table.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from symbolizer.demangle import function_names
from symbolizer.elf import Elf, ElfError, Loads, read_elf, virtual_addresses
from symbolizer.elf_symbols import read_symbols
from symbolizer.files import read_at
from symbolizer.jit import Jit
from symbolizer.kernel import Kernel
from symbolizer.locate import damaged, is_file, open_mapped
from symbolizer.process import Process
from symbolizer.symbols import PackedStrings, SymbolTable
from symbolizer.types import Binary, Frame, Kind, Location, Mapping, Reason
from symbolizer.unknown import UnknownError, file_name, shown_path, unknown
from symbolizer.vdso import VSYSCALLS, read_vdso

MAX_LOCATIONS = 50_000
MAX_BINARIES = 4_096
MAX_ANSWERS = 8_192
RETRY_SECONDS = 60.0

_NO_MAPPING = unknown(Reason.NO_MAPPING)
_PROCESS_GONE = unknown(Reason.PROCESS_GONE)
_ANONYMOUS = unknown(Reason.ANONYMOUS)


@dataclass(slots=True, eq=False)
class _Code:
    """A binary with what is remembered of it. Where `unknown` is set, that is all there is to say."""

    binary: Binary
    kind: Kind = Kind.NATIVE
    unknown: Frame | None = None
    loads: Loads = ()
    table: SymbolTable | None = None
    locations: dict[int, Location] = field(default_factory=dict)
    frames: dict[int, tuple[Frame, ...]] = field(default_factory=dict)


class Symbolizer:
    """Names addresses. Not for use by several threads at once.

    Nothing that a process, a file or the kernel shows makes a method raise: what cannot be named
    becomes a Location whose frame has kind UNKNOWN and says why. The same address of the same binary
    gives the same Location object for as long as it is remembered.
    """

    def __init__(self, *, cache_bytes: int = 32 << 20, proc: str = "/proc", sys: str = "/sys") -> None:
        """`cache_bytes` bounds symbol tables (see above); `proc` and `sys` are where those are mounted."""
        self._cache_bytes = cache_bytes
        self._proc = proc
        self._kernel = Kernel(proc, sys)
        self._jit = Jit(cache_bytes)
        self._vdso: _Code | None = None
        self._vsyscall = _vsyscall_code()
        self._codes: OrderedDict[_Code, None] = OrderedDict()  # least recently used first
        self._by_build_id: dict[str, _Code] = {}
        self._by_file: dict[tuple[int, ...], _Code] = {}
        self._by_unknown: dict[tuple[Binary, Frame], _Code] = {}
        self._answers: dict[tuple[int, Mapping], tuple[_Code, float]] = {}
        self._location_count = 0
        self._table_bytes = 0

    def kernel(self, addresses: Sequence[int]) -> list[Location]:
        """One Location for each absolute address of kernel code, already adjusted for lookup."""
        return self._kernel.locations(addresses)

    def user(
        self, pid: int, queries: Sequence[tuple[int, Mapping | None]], relatives: Sequence[int] = ()
    ) -> list[Location]:
        """One Location for each (absolute user address, mapping in force or None) of process `pid`.

        Addresses are already adjusted for lookup. `relatives` are other pids (parent, …) that likely
        see the same files: their root directories are tried where `pid` is gone, then the host's.
        """
        groups: dict[int, tuple[Mapping | None, list[int]]] = {}
        for i, (_, mapping) in enumerate(queries):
            group = groups.get(id(mapping))
            if group is None:
                groups[id(mapping)] = (mapping, [i])
            else:
                group[1].append(i)
        located: dict[int, Location] = {}
        nowhere: list[int] = []
        anonymous: list[int] = []
        with Process(pid, relatives, self._proc) as process:
            for mapping, positions in groups.values():
                if mapping is None:
                    nowhere = positions
                    continue
                code = self._code(process, mapping)
                if code is None:
                    anonymous += positions
                    continue
                base = mapping.start - mapping.offset
                known = code.locations
                if missing := {o for i in positions if (o := queries[i][0] - base) not in known}:
                    known = self._named(code, process, mapping, sorted(missing))
                for i in positions:
                    located[i] = known[queries[i][0] - base]
            if anonymous:
                located.update(self._anonymous(process, {i: queries[i][0] for i in anonymous}))
            if nowhere:
                frames = (_NO_MAPPING if process.alive else _PROCESS_GONE,)
                located.update({i: Location(queries[i][0], None, frames) for i in nowhere})
        self._forget()
        return [located[i] for i in range(len(queries))]

    # Which binary

    def _code(self, process: Process, mapping: Mapping) -> _Code | None:
        """What a mapping shows; None for memory that belongs to no file."""
        if mapping.path == "[vdso]":
            return self._used(self._vdso_code(mapping))
        if mapping.path == "[vsyscall]":
            return self._used(self._vsyscall)
        if not is_file(mapping.path):
            return None
        code = self._by_build_id.get(mapping.build_id) if mapping.build_id else None
        if code is None:
            code = self._answered(process, mapping) or self._answer(process, mapping)
        # Compilers keep code in memory files too; only those that hold a program count as files.
        if code.unknown and code.unknown.reason is not Reason.NO_SYMBOLS and mapping.path.startswith("/memfd:"):
            return None
        return self._used(code)

    def _answered(self, process: Process, mapping: Mapping) -> _Code | None:
        """What was found for the mapping before, also by a parent that had the same one before it forked."""
        now = time.monotonic()
        for pid in (process.pid, *process.relatives[:1]) if mapping.inode else (process.pid,):
            answer = self._answers.get((pid, mapping))
            if answer and now < answer[1]:
                return answer[0]
        return None

    def _answer(self, process: Process, mapping: Mapping) -> _Code:
        expires = float("inf")
        try:
            handle = open_mapped(process, mapping)
            try:
                code = self._code_of_file(handle, mapping)
            finally:
                os.close(handle)
        except UnknownError as error:
            code, expires = self._unknown_code(mapping, error.frame), time.monotonic() + RETRY_SECONDS
        while len(self._answers) >= MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[process.pid, mapping] = (code, expires)
        return code

    def _code_of_file(self, handle: int, mapping: Mapping) -> _Code:
        status = os.fstat(handle)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        code = self._by_file.get(key)
        if code is None:
            try:
                elf = read_elf(lambda offset, size: read_at(handle, offset, size))
                build_id = elf.build_id() or elf.content_id(status.st_size)
                code = self._by_build_id.get(build_id)
                if code is None:
                    code = self._by_build_id[build_id] = _Code(Binary(shown_path(mapping.path), build_id))
                    self._load(code, elf)
            except ElfError as error:
                code = self._unknown_code(mapping, damaged(error, file_name(mapping.path)))
            except OSError as error:
                raise UnknownError(unknown(Reason.UNREADABLE_FILE, file_name(mapping.path))) from error
            if len(self._by_file) >= MAX_ANSWERS:
                self._by_file.clear()
            self._by_file[key] = code
        return code

    def _unknown_code(self, mapping: Mapping, frame: Frame) -> _Code:
        binary = Binary(shown_path(mapping.path), mapping.build_id)
        code = self._by_unknown.get((binary, frame))
        if code is None:
            if len(self._by_unknown) >= MAX_BINARIES:
                self._by_unknown.clear()
            code = self._by_unknown[binary, frame] = _Code(binary, Kind.UNKNOWN, frame)
        return code

    def _vdso_code(self, mapping: Mapping) -> _Code:
        if mapping.start < 1 << 32:  # a 32-bit process's, which is another than ours
            return self._unknown_code(mapping, unknown(Reason.NO_SYMBOLS, "vdso"))
        if self._vdso is None:
            image = read_vdso()
            try:
                elf = read_elf(lambda offset, size: image[offset : offset + size])
                self._vdso = _Code(Binary("[vdso]", elf.build_id()), Kind.VDSO)
                self._load(self._vdso, elf)
            except ElfError:
                self._vdso = self._unknown_code(mapping, unknown(Reason.NO_SYMBOLS, "vdso"))
        return self._vdso

    # Names in a binary

    def _named(self, code: _Code, process: Process, mapping: Mapping, offsets: list[int]) -> dict[int, Location]:
        """The code's Locations with those at `offsets` added."""
        if code.unknown is None and code.table is None:
            try:
                self._reload(code, process, mapping)
            except UnknownError as error:  # to be tried again, so not remembered
                return code.locations | {o: Location(o, code.binary, (error.frame,)) for o in offsets}
        only_stubs = code.table is not None and code.table.only_stubs
        reason = Reason.NO_SYMBOLS if only_stubs else Reason.OUTSIDE_SYMBOLS
        nameless = (code.unknown or unknown(reason, file_name(mapping.path)),)
        found = [-1] * len(offsets)
        if code.table is not None:
            found = code.table.find(virtual_addresses(code.loads, offsets))
        for offset, i in zip(offsets, found, strict=True):
            frames = nameless if i < 0 else code.frames.get(i)
            if frames is None:
                assert code.table is not None
                function, system = function_names(code.table.best_name(i))
                frames = code.frames[i] = (Frame(function, code.kind, system),)
            code.locations[offset] = Location(offset, code.binary, frames)
        if code.table is not None:
            code.table.strings.close()
        self._location_count += len(offsets)
        return code.locations

    def _reload(self, code: _Code, process: Process, mapping: Mapping) -> None:
        handle = open_mapped(process, mapping)
        try:
            self._load(code, read_elf(lambda offset, size: read_at(handle, offset, size)))
        except (ElfError, OSError) as error:
            raise UnknownError(unknown(Reason.UNREADABLE_FILE, file_name(mapping.path))) from error
        finally:
            os.close(handle)

    def _load(self, code: _Code, elf: Elf) -> None:
        """Reads the symbol table of a binary. A damaged one makes the binary unknown."""
        try:
            table = read_symbols(elf)
        except ElfError as error:
            code.unknown = damaged(error, file_name(code.binary.path))
            return
        if not len(table):
            code.unknown = unknown(Reason.NO_SYMBOLS, file_name(code.binary.path))
            return
        code.table, code.loads = table, elf.loads
        self._table_bytes += table.nbytes

    # Memory without a file

    def _anonymous(self, process: Process, queries: dict[int, int]) -> dict[int, Location]:
        named: dict[int, Location] = {}
        nameless: Frame | None = None
        try:
            named = self._jit.locations(process, set(queries.values()))
        except UnknownError as error:
            nameless = error.frame
        if nameless is None:
            nameless = _ANONYMOUS if process.alive else _PROCESS_GONE
        return {i: named.get(address) or Location(address, None, (nameless,)) for i, address in queries.items()}

    # Bounds

    def _used(self, code: _Code) -> _Code:
        self._codes[code] = None
        self._codes.move_to_end(code)
        return code

    def _forget(self) -> None:
        if self._table_bytes > self._cache_bytes:
            held = [c for c in self._codes if c.table is not None and c.kind is not Kind.VDSO]
            for code in held[:-1]:
                if self._table_bytes <= self._cache_bytes:
                    break
                assert code.table is not None
                self._table_bytes -= code.table.nbytes
                code.table = None
        if self._location_count > MAX_LOCATIONS:
            for code in self._codes:
                if self._location_count <= MAX_LOCATIONS * 3 // 4:
                    break
                self._location_count -= len(code.locations)
                code.locations, code.frames = {}, {}
        if len(self._codes) > MAX_BINARIES:
            self._codes.clear()
            self._by_build_id.clear()
            self._by_file.clear()
            self._by_unknown.clear()
            self._answers.clear()
            self._vdso, self._vsyscall = None, _vsyscall_code()
            self._location_count = self._table_bytes = 0


def _vsyscall_code() -> _Code:
    starts = np.array(sorted(VSYSCALLS), np.uint64)
    names = [VSYSCALLS[int(start)].encode() + b"\0" for start in starts]
    at = np.cumsum([0] + [len(name) for name in names])[:-1].astype(np.uint32)
    rank = np.zeros(len(starts), np.uint8)
    table = SymbolTable(starts, starts + np.uint64(0x400), at, rank, PackedStrings(names))
    return _Code(Binary("[vsyscall]"), Kind.VDSO, loads=((0, 0x1000, 0),), table=table)
