"""Keeps the kernel's unwinder supplied: the mappings of every process, and the tables of the files that samples meet.

A process's mappings go to the kernel as its records come in, so that they are there at its first tick; a table comes
when a sample asked for it, from the cache on disk or from the worker, and stays while there is room.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from profiler import maps
from profiler.addressspace import File
from profiler.processes import Processes
from profiler.unwind.cache import TableCache
from profiler.unwind.store import LOADED, MOST_FILES, NOT_LOADED, REFUSED, WITHOUT_TABLE, TableStore
from profiler.unwind.table import UnwindTable
from profiler.unwind.worker import Failure, TableWorker
from symbolizer.elf import read_elf
from symbolizer.locate import is_file, open_mapped
from symbolizer.process import Process
from symbolizer.types import Mapping
from symbolizer.unknown import UnknownError
from symbolizer.vdso import read_vdso

_IN_BLOCK, _MOST_BLOCKS = 32, 32  # bpf/unwind.h
_BLOCK_HEAD = struct.Struct("=II")
_MAPPING = struct.Struct("=QQII")
_STARTS = 8 * _MOST_BLOCKS
_BLOCK_BYTES = _BLOCK_HEAD.size + _STARTS + _IN_BLOCK * _MAPPING.size
_KEY = struct.Struct("=II")
_WANTED_PROCESS = 1 << 32
_USER_ADDRESSES = 1 << 47
_MOST_FAILURES = 3
_LOOK_SECONDS = 0.1
_VDSO = "[vdso]"


@dataclass(slots=True)
class _KnownFile:
    """A file that some process maps. `seen_in` and `mapping` are where to open it; `failures` how often that failed."""

    key: str
    seen_in: int
    mapping: Mapping
    state: int = NOT_LOADED
    asked: bool = False
    failures: int = 0


class Unwinder:
    """One for a sampler whose maps `map_fd` gives by name; feed() it after each batch of records."""

    def __init__(
        self,
        map_fd: Callable[[str], int],
        processes: Processes,
        wait_for_readers: Callable[[], None],
        *,
        budget: int,
        cache: Path | None,
        eager: frozenset[int] = frozenset(),
    ) -> None:
        """`eager`: processes whose files, and their children's, get their tables before a sample asks for them."""
        self._blocks, self._wanted = map_fd("mapping_blocks"), map_fd("wanted")
        self._processes = processes
        self._eager = eager
        self._store = TableStore(map_fd, budget, wait_for_readers)
        self._cache = TableCache(cache) if cache is not None else None
        self._worker = TableWorker(cache)
        self._numbers: dict[str, int] = {}
        self._files: list[_KnownFile | None] = [None]
        self._pending: dict[int, None] = {}  # files that are to get tables, in order
        self._number_of: dict[File, int] = {}
        self._installed: set[int] = set()
        self._look_again = 0.0
        self._window = 1
        self._refused: set[int] = set()
        self._refusals = self._failed = 0
        self._processes_left_out = 0
        self._told = (0, 0, 0, 0)
        self._store.set_state(0, WITHOUT_TABLE)

    def feed(self, *, only_asked: bool = False) -> None:
        """Hands the kernel what changed: mappings of processes, and tables that were asked for, or, unless only_asked,
        that processes to be eager for map."""
        eager: set[int] = set()
        for pid in self._processes.take_changed():
            eager.update(self._install(pid))
        for what in self._asked_for():
            if what >= _WANTED_PROCESS:
                pid = what - _WANTED_PROCESS
                if self._processes.look_up(pid):
                    eager.update(self._install(pid))
            else:
                self._pending[what] = None
        if not only_asked:
            self._pending.update(dict.fromkeys(eager))
        while self._pending:  # one at a time, as mappings must not wait for them
            number = next(iter(self._pending))
            del self._pending[number]
            if self._request(number):
                break
        for number, answer in self._worker.finished():
            self._take(number, answer)

    def end_window(self, used: Iterable[Mapping]) -> None:
        """Notes which mappings had samples in the window that ends; the tables of others are the first to go."""
        self._window += 1
        for mapping in used:
            number = self._numbers.get(self._key(mapping.path, mapping.build_id, mapping.device, mapping.inode))
            if number is not None:
                self._store.touch(number, self._window)
        for number in self._refused:
            self._set_state(number, NOT_LOADED)
        self._refused.clear()
        # The kernel forgets processes as they end, but not what was written after that.
        for pid in [pid for pid in self._installed if not self._processes.is_running(pid)]:
            self._forget(pid)

    @property
    def has_more(self) -> bool:
        """Whether feed() has left something for its next call."""
        return bool(self._pending)

    def fileno(self) -> int:
        """A descriptor that is readable when feed() has a table to load, -1 while none is being made."""
        return self._worker.fileno()

    def losses(self) -> str:
        """One sentence on the tables that stacks went without since the last call; "" where there were none."""
        now = self._store.evictions, self._refusals, self._failed, self._processes_left_out
        evicted, refused, failed, left_out = (new - old for new, old in zip(now, self._told, strict=True))
        self._told = now
        parts = [
            f"{evicted:,} unwind tables made room for others" if evicted else "",
            f"{refused:,} found no room in --unwind-memory" if refused else "",
            f"{failed:,} could not be made" if failed else "",
            f"{left_out:,} times a process had more mappings than there was room for" if left_out else "",
        ]
        said = [part for part in parts if part]
        return f"{', '.join(said)}: stacks may end there." if said else ""

    def builder_cpu_ns(self) -> int:
        """CPU time spent by the worker until now."""
        return self._worker.cpu_ns()

    def builder_memory_bytes(self) -> int:
        return self._worker.memory_bytes()

    def table_bytes(self) -> int:
        """Kernel memory of the chunks of rows."""
        return self._store.bytes_used

    def close(self) -> None:
        self._worker.close()
        self._store.close()

    def _asked_for(self) -> list[int]:
        asked: list[int] = []
        now = time.monotonic()
        if now < self._look_again:
            return asked
        self._look_again = now + _LOOK_SECONDS
        for keys, _ in maps.drain(self._wanted, np.dtype("<u8"), np.dtype("u1")):
            asked += keys.tolist()
        return asked

    def _install(self, pid: int) -> list[int]:
        """Writes the mappings of a process in force now; returns the files that are to get tables at once."""
        space = self._processes.space(pid)
        if space is None:
            return []
        if len(self._files) + len(space.ranges()) > MOST_FILES:
            self._forget_files()
        eager = bool(self._eager) and self._is_eager(pid)
        entries: list[tuple[int, int, int, int]] = []
        for start, end, offset, file in space.ranges():
            if start >= _USER_ADDRESSES:  # [vsyscall]
                break
            number = self._number(file, pid, start, end, offset)
            if not number and entries and not entries[-1][3] and entries[-1][0] + (entries[-1][2] << 12) == start:
                start = entries.pop()[0]  # one stretch of code made at run time, however many mappings it has
            entries.append((start, (offset - start) & 0xFFFFFFFFFFFFFFFF, (end - start) >> 12, number))
        most = _IN_BLOCK * _MOST_BLOCKS
        if len(entries) > most:
            entries = self._most_useful(entries, most)
        blocks = [entries[at : at + _IN_BLOCK] for at in range(0, len(entries), _IN_BLOCK)] or [[]]
        starts = b"".join(block[0][0].to_bytes(8, "little") for block in blocks if block)
        for number in reversed(range(len(blocks))):  # block 0, which the walk begins with, last
            head = _BLOCK_HEAD.pack(len(blocks[number]), len(blocks)) + starts.ljust(_STARTS, b"\0")
            body = b"".join([_MAPPING.pack(*entry) for entry in blocks[number]])
            if maps.put_bytes(self._blocks, _KEY.pack(pid, number), (head + body).ljust(_BLOCK_BYTES, b"\0")):
                self._forget(pid)  # better none than those of before
                self._processes_left_out += 1
                return []
        self._installed.add(pid)
        return [entry[3] for entry in entries if entry[3]] if eager else []

    def _most_useful(self, entries: list[tuple[int, int, int, int]], most: int) -> list[tuple[int, int, int, int]]:
        """Those of files before those of code made at run time, the larger ones first; by address again."""
        self._processes_left_out += 1
        return sorted(sorted(entries, key=lambda e: (not e[3], -e[2]))[:most])

    def _is_eager(self, pid: int) -> bool:
        return pid in self._eager or any(parent in self._eager for parent in self._processes.relatives(pid))

    def _number(self, file: File, pid: int, start: int, end: int, offset: int) -> int:
        """The number of a file, 0 for memory that is none."""
        number = self._number_of.get(file)
        if number is None:
            number = self._number_of[file] = self._new_number(file, pid, start, end, offset)
        known = self._files[number]
        if known is not None and known.state == NOT_LOADED:  # whoever maps it last is likeliest still there
            known.seen_in, known.mapping = pid, Mapping(start, end, offset, *file)
        return number

    def _new_number(self, file: File, pid: int, start: int, end: int, offset: int) -> int:
        path, build_id, device, inode = file
        if not is_file(path) and path != _VDSO:
            return 0
        key = self._key(path, build_id, device, inode)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._files)
            self._files.append(_KnownFile(key, pid, Mapping(start, end, offset, path, build_id, device, inode)))
            self._store.set_state(number, NOT_LOADED)
        return number

    def _key(self, path: str, build_id: str, device: int, inode: int) -> str:
        """Names a file's content: by its build id, wherever the file is, only if no user could have written it."""
        if path == _VDSO:
            return path
        if build_id and self._processes.build_ids.is_trusted(path, device, inode):
            return build_id
        return f"{device}:{inode}:{build_id}:{path}"

    def _forget(self, pid: int) -> None:
        """Takes a process's blocks out."""
        self._installed.discard(pid)
        number = 0
        while maps.take_out(self._blocks, _KEY.pack(pid, number)) or number == 0:
            number += 1

    def _forget_files(self) -> None:
        """Begins anew with the numbers: more files than there are numbers were mapped over time."""
        for _ in maps.drain(self._blocks, np.dtype([("tgid", "<u4"), ("block", "<u4")]), _BLOCK):
            pass
        self._processes.mark_all_changed()
        self._store.clear()
        self._worker.close()
        self._numbers.clear()
        self._number_of.clear()
        self._files = [None]
        self._refused.clear()
        self._pending.clear()

    def _request(self, number: int) -> bool:
        """Sees to it that a file gets its table; whether that took any work."""
        known = self._files[number] if number < len(self._files) else None
        if known is None or known.asked or known.state != NOT_LOADED:
            return False
        vdso = read_vdso() if known.mapping.path == _VDSO else b""
        build_id = read_elf(lambda at, size: vdso[at : at + size]).build_id() if vdso else known.mapping.build_id
        table = self._cache.get(build_id) if self._cache is not None and build_id else None
        if table is not None:
            self._take(number, table)
            return True
        try:
            file = _in_memory(vdso) if vdso else self._open(known.mapping, known.seen_in)
        except (UnknownError, OSError):
            self._fail(number, known)
            return True
        # What others could have written under a known file's build id is not kept for the next start.
        trusted = bool(vdso) or os.fstat(file).st_uid == os.geteuid()
        known.asked = self._worker.submit(number, build_id if trusted else "", file)
        return True

    def _open(self, mapping: Mapping, pid: int) -> int:
        with Process(pid, self._processes.relatives(pid)) as process:
            return open_mapped(process, mapping)

    def _take(self, number: int, answer: UnwindTable | Failure) -> None:
        known = self._files[number] if number < len(self._files) else None
        if known is None:
            return
        known.asked = False
        if isinstance(answer, Failure):
            known.failures += _MOST_FAILURES if answer.final else 0
            self._fail(number, known)
        elif len(answer.page_starts) < 2:
            self._set_state(number, WITHOUT_TABLE)
        elif self._store.add(number, answer, self._window):
            known.state = LOADED
        else:
            self._refusals += 1
            self._set_state(number, REFUSED)
            if self._store.could_fit(answer):
                self._refused.add(number)  # tried again when what is in use now may no longer be
        self._note_evicted()

    def _note_evicted(self) -> None:
        for number, known in enumerate(self._files):
            if known is not None and known.state == LOADED and number not in self._store:
                known.state = NOT_LOADED

    def _fail(self, number: int, known: _KnownFile) -> None:
        known.failures += 1
        if known.failures >= _MOST_FAILURES:
            self._failed += 1
            self._set_state(number, REFUSED)

    def _set_state(self, number: int, state: int) -> None:
        known = self._files[number]
        if known is not None:
            known.state = state
            self._store.set_state(number, state)


_BLOCK = np.dtype(("V", _BLOCK_BYTES))


def _in_memory(data: bytes) -> int:
    file = os.memfd_create("vdso", os.MFD_CLOEXEC)
    with open(file, "wb", closefd=False) as target:
        target.write(data)
    return file
