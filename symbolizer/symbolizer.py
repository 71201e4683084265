"""Addresses → Locations with names: the one door to the symbolizer.

What is remembered, and how it is bounded:
- symbol tables, and apart from them perf maps: `cache_bytes` each, the least recently used dropped
  first (the newest stays however large it is; elf.py and perfmap.py bound a single one); symbol files
  are mapped, so that only what is looked at takes memory, and are given up when SymFiles gives them up;
- Locations: MAX_LOCATIONS, the least recently used binary's dropped first, and as many of the kernel;
- binaries: MAX_BINARIES;
- which binary a process's mapping shows, and what could not be opened: MAX_ANSWERS; a failure, and what
  was found without a build id, for RETRY_SECONDS;
- the kernel's symbols: one table.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from symbolizer.cachefolder import owned_id, unique_id
from symbolizer.code import Code
from symbolizer.debuginfo.files import is_likely
from symbolizer.elf import Elf, ElfError, read_elf
from symbolizer.files import read_at, version
from symbolizer.identity import code_identity
from symbolizer.jit.jit import Jit
from symbolizer.kernel.kernel import Kernel
from symbolizer.locate import damaged, is_file, is_memory_file, memory_location, open_mapped
from symbolizer.process import Process
from symbolizer.symbols import PackedStrings, SymbolTable
from symbolizer.types import Binary, Frame, Kind, Location, Mapping, Reason
from symbolizer.unknown import UnknownError, file_name, shown_path, unknown
from symbolizer.vdso import VSYSCALLS, read_vdso

if TYPE_CHECKING:
    from symbolizer.debuginfo.symfiles import SymFiles

MAX_LOCATIONS = 50_000
MAX_BINARIES = 4_096
MAX_ANSWERS = 8_192
RETRY_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 3600.0

_NO_MAPPING = unknown(Reason.NO_MAPPING)
_PROCESS_GONE = unknown(Reason.PROCESS_GONE)


class Symbolizer:
    """Names addresses. Not for use by several threads at once.

    Nothing that a process, a file or the kernel shows makes a method raise: what cannot be named
    becomes a Location whose frame has kind UNKNOWN and says why. The same address of the same binary
    gives the same Location object for as long as it is remembered.
    """

    def __init__(
        self,
        symfiles: SymFiles | None = None,
        *,
        cache_bytes: int = 32 << 20,
        proc: str = "/proc",
        sys: str = "/sys",
    ) -> None:
        """Without `symfiles` names are those of symbol tables alone, without lines and inlined functions.

        `cache_bytes` bounds symbol tables (see above); `proc` and `sys` are where those are mounted.
        """
        self._symfiles = symfiles
        self._cache_bytes = cache_bytes
        self._proc = proc
        self._kernel = Kernel(proc, sys, symfiles)
        self._jit = Jit(cache_bytes)
        self._vdso: Code | None = None
        self._vsyscall = _vsyscall_code()
        self._codes: OrderedDict[Code, None] = OrderedDict()  # least recently used first
        self._by_key: dict[str, Code] = {}
        self._by_build_id: dict[str, Code] = {}
        self._by_version: dict[tuple[int, ...], Code] = {}
        self._by_reported: dict[tuple[str, int, int], Code] = {}  # build id, device, inode of mappings
        self._by_unknown: dict[tuple[Binary, Frame], Code] = {}
        self._answers: dict[tuple[int, Mapping], tuple[Code, float]] = {}
        self._location_count = 0
        self._table_bytes = 0

    def kernel(self, addresses: Sequence[int]) -> list[Location]:
        """One Location for each absolute address of kernel code, already adjusted for lookup."""
        return self._kernel.locations(addresses)

    def kernel_file(self, binary: Binary) -> str:
        """The file that the code of a kernel's or module's binary is from, see Kernel.file(); "" where unknown."""
        return self._kernel.file(binary)

    def user(
        self,
        pid: int,
        queries: Sequence[tuple[int, Mapping | None]],
        relatives: Sequence[int] = (),
        until_ns: int | None = None,
    ) -> list[Location]:
        """One Location for each (absolute user address, mapping in force or None) of process `pid`.

        Addresses are already adjusted for lookup. `relatives` are other pids (parent, …) that likely
        see the same files: their root directories are tried where `pid` is gone, then the host's.
        `until_ns` (CLOCK_MONOTONIC) is when the last of the addresses was sampled, which tells what was
        compiled by then.
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
        anonymous: dict[int, tuple[int, Mapping]] = {}
        with Process(pid, relatives, self._proc) as process:
            for mapping, positions in groups.values():
                if mapping is None:
                    nowhere = positions
                    continue
                code = self._code(process, mapping)
                if code is None:
                    anonymous |= {i: (queries[i][0], mapping) for i in positions}
                    continue
                base = mapping.start - mapping.offset
                known = code.locations
                missing = {o for i in positions if (o := queries[i][0] - base) not in known}
                if missing or self._is_time_to_ask(code):
                    known = self._named(code, process, mapping, sorted(missing))
                for i in positions:
                    located[i] = known[queries[i][0] - base]
            if anonymous:
                located.update(self._anonymous(process, anonymous, until_ns))
            if nowhere:
                frames = (_NO_MAPPING if process.alive else _PROCESS_GONE,)
                located.update({i: Location(queries[i][0], None, frames) for i in nowhere})
        self._forget()
        return [located[i] for i in range(len(queries))]

    def file(self, path: str, addresses: Sequence[int], seconds: float = 0.0) -> list[Location]:
        """One Location for each virtual address in an ELF file of this host, all `address` as given.

        Waits up to `seconds` for a symbol file that is being made.
        """
        mapping = Mapping(0, 0, 0, os.path.abspath(path))
        with Process(os.getpid(), (), self._proc) as process:
            code = self._answered(process, mapping) or self._answer(process, mapping)
            if self._symfiles is not None and self._symfiles.wait(code.key, seconds):
                self._improve(code)
            problem = self._reopen(code, process, mapping) if code.forgotten else None
        frames = [(problem,)] * len(addresses) if problem else code.frames_at(addresses)
        self._used(code)
        self._forget()
        return [Location(address, code.binary, found) for address, found in zip(addresses, frames, strict=True)]

    def improved(self) -> list[Location]:
        """Locations that were given before and have better names now, since symbol files came meanwhile."""
        if self._symfiles is None:
            return []
        keys = self._symfiles.poll()
        codes = [code for key in keys if (code := self._by_key.get(key)) is not None]
        return self._kernel.improve(keys) + [location for code in codes for location in self._improve(code)]

    # Which binary

    def _code(self, process: Process, mapping: Mapping) -> Code | None:
        """What a mapping shows; None for memory that belongs to no file."""
        if mapping.path == "[vdso]":
            return self._used(self._vdso_code(mapping))
        if mapping.path == "[vsyscall]":
            return self._used(self._vsyscall)
        if not is_file(mapping.path):
            return None
        # Files that differ can have the same build id: so each file is looked at once.
        code = self._by_reported.get(_reported(mapping)) if mapping.build_id else None
        if code is None:
            code = self._answered(process, mapping) or self._answer(process, mapping)
        # Compilers keep code in memory files too; only those that hold a program count as files.
        if code.unknown and code.unknown.reason is not Reason.NO_SYMBOLS and is_memory_file(mapping.path):
            return None
        return self._used(code)

    def _answered(self, process: Process, mapping: Mapping) -> Code | None:
        """What was found for the mapping before, also by a parent that had the same one before it forked."""
        now = time.monotonic()
        for pid in (process.pid, *process.relatives[:1]) if mapping.inode else (process.pid,):
            answer = self._answers.get((pid, mapping))
            if answer and now < answer[1]:
                return answer[0]
        return None

    def _answer(self, process: Process, mapping: Mapping) -> Code:
        retry = time.monotonic() + RETRY_SECONDS
        try:
            handle = open_mapped(process, mapping)
            try:
                code = self._code_of_file(process, handle, mapping)
            finally:
                os.close(handle)
            # A file without build id may be written anew in its place.
            expires = float("inf") if mapping.build_id and code.kind is not Kind.UNKNOWN else retry
        except UnknownError as error:
            # Gone, with its process: what it was found to be before, or a file that nobody else could give its id.
            before = self._answers.get((process.pid, mapping))
            known = self._by_build_id.get(mapping.build_id) or (before[0] if before is not None else None)
            if known is None or known.kind is Kind.UNKNOWN:
                known = self._unknown_code(mapping, error.frame)
            code, expires = known, retry
        else:
            if mapping.build_id and code.kind is not Kind.UNKNOWN:
                if len(self._by_reported) >= MAX_ANSWERS:
                    self._by_reported.clear()
                self._by_reported[_reported(mapping)] = code
        while len(self._answers) >= MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[process.pid, mapping] = (code, expires)
        return code

    def _code_of_file(self, process: Process, handle: int, mapping: Mapping) -> Code:
        """Raises UnknownError where the file cannot be read, or is being written to."""
        now = version(handle)
        code = self._by_version.get(now)
        if code is None:
            try:
                code = self._code_of_elf(read_elf(lambda at, size: read_at(handle, at, size)), handle, mapping.path)
                self._ask(code, process, handle, mapping.path)
            except ElfError as error:
                code = self._unknown_code(mapping, damaged(error, file_name(mapping.path)))
            except OSError as error:
                raise UnknownError(unknown(Reason.UNREADABLE_FILE, file_name(mapping.path))) from error
            if len(self._by_version) >= MAX_ANSWERS:
                self._by_version.clear()
            self._by_version[now] = code
        return code

    def _code_of_elf(self, elf: Elf, handle: int, path: str) -> Code:
        """The code of an ELF file, the same for the same build id, owner and content. Raises ElfError, OSError,
        UnknownError."""
        before = version(handle)
        build_id, key = _identity(elf, handle)
        code = self._by_key.get(key)
        if code is None:
            if build_id in self._by_build_id:  # of another file
                build_id = key
            code = Code(Binary(shown_path(path), build_id), key)
            code.load(elf)
            if version(handle) != before:
                changed = unknown(Reason.UNREADABLE_FILE, file_name(path), "changed while it was read")
                raise UnknownError(changed)
            self._table_bytes += code.nbytes
            self._by_key[key] = self._by_build_id[build_id] = code
        return code

    def _unknown_code(self, mapping: Mapping, frame: Frame) -> Code:
        binary = Binary(shown_path(mapping.path), mapping.build_id)
        code = self._by_unknown.get((binary, frame))
        if code is None:
            if len(self._by_unknown) >= MAX_BINARIES:
                self._by_unknown.clear()
            code = self._by_unknown[binary, frame] = Code(binary, kind=Kind.UNKNOWN, unknown=frame)
        return code

    def _vdso_code(self, mapping: Mapping) -> Code:
        if mapping.start < 1 << 32:  # a 32-bit process's, which is another than ours
            return self._unknown_code(mapping, unknown(Reason.NO_SYMBOLS, "vdso"))
        if self._vdso is None:
            image = read_vdso()
            try:
                elf = read_elf(lambda offset, size: image[offset : offset + size])
                self._vdso = Code(Binary("[vdso]", elf.build_id()), kind=Kind.VDSO)
                self._load(self._vdso, elf)
            except ElfError:
                self._vdso = self._unknown_code(mapping, unknown(Reason.NO_SYMBOLS, "vdso"))
        return self._vdso

    # Names in a binary

    def _named(self, code: Code, process: Process, mapping: Mapping, offsets: list[int]) -> dict[int, Location]:
        """The code's Locations with those at `offsets` added."""
        if code.forgotten:
            self._improve(code)  # from the disk, so that the file need not be there any more
        if code.forgotten or self._is_time_to_ask(code):
            problem = self._reopen(code, process, mapping)
            if problem is not None and code.forgotten:  # to be tried again, so not remembered
                return code.locations | {o: Location(o, code.binary, (problem,)) for o in offsets}
        code.name(offsets)
        self._location_count += len(offsets)
        return code.locations

    def _reopen(self, code: Code, process: Process, mapping: Mapping) -> Frame | None:
        """Reads what was forgotten and asks for a symbol file. Returns why that cannot be, or None."""
        name = file_name(mapping.path)
        code.ask_again = time.monotonic() + RETRY_SECONDS
        try:
            handle = open_mapped(process, mapping)
        except UnknownError as error:
            return error.frame
        try:
            elf = read_elf(lambda offset, size: read_at(handle, offset, size))
            before = version(handle)
            if _identity(elf, handle)[1] != code.key:  # written anew in its place, or it has the build id alone
                return unknown(Reason.FILE_MISSING, name, "file replaced")
            self._ask(code, process, handle, mapping.path)
            if code.forgotten:
                self._load(code, elf)
                if version(handle) != before:
                    self._forget_tables(code)
                    return unknown(Reason.UNREADABLE_FILE, name, "changed while it was read")
        except (ElfError, OSError):
            return unknown(Reason.UNREADABLE_FILE, name)
        finally:
            os.close(handle)
        return None

    def _load(self, code: Code, elf: Elf) -> None:
        self._table_bytes -= code.nbytes
        code.load(elf)
        self._table_bytes += code.nbytes

    def _is_time_to_ask(self, code: Code) -> bool:
        return (
            self._symfiles is not None
            and code.key != ""
            and time.monotonic() >= code.ask_again
            and code.symfile is None
            and self._symfiles.wants(code.key)
        )

    def _ask(self, code: Code, process: Process, handle: int, path: str) -> None:
        """Has a symbol file made of the binary, or takes the one there is."""
        if self._symfiles is None or code.symfile is not None:
            return
        self._improve(code)
        if code.symfile is None and self._symfiles.wants(code.key):
            others = list(process.other_roots())
            # The host's comes first: not everybody can put things there, and it must not be beyond MOST_ROOTS.
            roots = [root for pid, root in others if pid is None]
            if (own := process.own_root()) is not None:
                roots.append(own)
            roots += [root for pid, root in others if pid is not None]
            if self._symfiles.fetches or is_likely(handle, path, roots):
                self._symfiles.request(code.key, handle, path, roots)
            else:
                code.ask_again = time.monotonic() + LOOK_AGAIN_SECONDS

    def _improve(self, code: Code) -> list[Location]:
        symfile = self._symfiles.get(code.key) if self._symfiles is not None else None
        if symfile is None or code.symfile is not None:
            return []
        self._table_bytes -= code.nbytes
        better = code.improve(symfile)
        self._table_bytes += code.nbytes
        return better

    # Memory without a file

    def _anonymous(
        self, process: Process, queries: dict[int, tuple[int, Mapping]], until_ns: int | None
    ) -> dict[int, Location]:
        named = self._jit.locations(process, {address for address, _ in queries.values()}, until_ns=until_ns)
        located = {}
        for i, (address, mapping) in queries.items():
            location = named.get(address)
            if location is None or location.frames[0].kind is Kind.UNKNOWN:
                problem = location.frames[0] if location is not None else None
                location = memory_location(process, mapping, address, problem)
            located[i] = location
        return located

    # Bounds

    def _forget_tables(self, code: Code) -> None:
        self._table_bytes -= code.nbytes
        code.forget_tables()

    def _used(self, code: Code) -> Code:
        if code.symfile is not None and self._symfiles is not None:
            self._symfiles.get(code.key)  # which tells that it is in use
        self._codes[code] = None
        self._codes.move_to_end(code)
        return code

    def _forget(self) -> None:
        if self._table_bytes > self._cache_bytes:
            held = [code for code in self._codes if code.nbytes and code.kind is not Kind.VDSO]
            for code in held[:-1]:
                if self._table_bytes <= self._cache_bytes:
                    break
                self._forget_tables(code)
        if self._location_count > MAX_LOCATIONS:
            for code in self._codes:
                if self._location_count <= MAX_LOCATIONS * 3 // 4:
                    break
                self._location_count -= len(code.locations)
                code.forget_locations()
        if len(self._codes) > MAX_BINARIES:
            self._codes.clear()
            self._by_key.clear()
            self._by_build_id.clear()
            self._by_version.clear()
            self._by_reported.clear()
            self._by_unknown.clear()
            self._answers.clear()
            self._vdso, self._vsyscall = None, _vsyscall_code()
            self._location_count = self._table_bytes = 0


def _identity(elf: Elf, handle: int) -> tuple[str, str]:
    """The build id of an open file, with its owner, and what no other file has. Raises ElfError, OSError."""
    build_id = owned_id(elf.build_id() or elf.content_id(os.fstat(handle).st_size), handle)
    return build_id, unique_id(build_id, code_identity(elf))


def _reported(mapping: Mapping) -> tuple[str, int, int]:
    return mapping.build_id, mapping.device, mapping.inode


def _vsyscall_code() -> Code:
    starts = np.array(sorted(VSYSCALLS), np.uint64)
    names = [VSYSCALLS[int(start)].encode() + b"\0" for start in starts]
    at = np.cumsum([0] + [len(name) for name in names])[:-1].astype(np.uint32)
    rank = np.zeros(len(starts), np.uint8)
    table = SymbolTable(starts, starts + np.uint64(0x400), at, rank, PackedStrings(names))
    return Code(Binary("[vsyscall]"), kind=Kind.VDSO, loads=((0, 0x1000, 0),), table=table)
