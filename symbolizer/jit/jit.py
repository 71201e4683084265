"""Addresses in memory that belongs to no file → Locations, by the process's jitdump file and its perf map."""

from __future__ import annotations

import errno
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TypeVar

import numpy as np

from symbolizer.files import NotRegularError, open_beneath
from symbolizer.jit.jitdump import JitDump, JitDumpError
from symbolizer.jit.perfmap import PerfMap, PerfMapError
from symbolizer.locate import open_mapped
from symbolizer.process import Process, inner_pid_and_users
from symbolizer.types import Binary, Frame, Kind, Location, Mapping, Reason
from symbolizer.unknown import UnknownError, unknown

MAX_PROCESSES = 256
MAX_WITHOUT = 4_096
MAX_KNOWN = 50_000
_CLOCK_SECONDS = 5.0  # by which the system's clock may have been set back meanwhile
RETRY_SECONDS = 30.0

_T = TypeVar("_T")
_Status = Callable[[int], tuple[int, frozenset[int]]]
"""inner_pid_and_users() of a pid."""

_BINARIES = {Kind.JIT: Binary("[jit]"), Kind.PYTHON: Binary("[python]")}
_DUMP_NAME = re.compile(r"/jit-\d+\.dump(?: \(deleted\))?\Z")
_DUMP_IN_MAPS = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ..x. ([0-9a-f]{1,16}) ([0-9a-f]{1,3}):([0-9a-f]{1,5}) (\d{1,20}) +"
    rb"(/.*/jit-\d+\.dump(?: \(deleted\))?)$",
    re.MULTILINE,
)
_MAX_MAPS_BYTES = 16 << 20


def dump_among(mappings: Iterable[Mapping]) -> Mapping | None:
    """The latest of a process's mappings that shows a jitdump file, if any does.

    Compilers map the file executable, for nothing but profilers to find it.
    """
    return next((m for m in reversed(list(mappings)) if _DUMP_NAME.search(m.path)), None)


@dataclass(slots=True)
class _Compiled:
    """What is known of the code that one process compiled. `known` holds the number of the function, negative where it
    is one of the perf map, that an address was named by."""

    dump: JitDump = field(default_factory=JitDump)
    perf_map: PerfMap = field(default_factory=PerfMap)
    known: dict[int, tuple[int, Location]] = field(default_factory=dict)
    marker: Mapping | None = None
    look_for_marker: float = 0.0

    @property
    def nbytes(self) -> int:
        return self.dump.nbytes + self.perf_map.nbytes

    @property
    def anything(self) -> bool:
        return len(self.dump) + len(self.perf_map) > 0

    def read_dump(self, handle: int, until_ns: int | None) -> None:
        holds = False
        try:
            holds = self.dump.refresh(handle, until_ns)
        finally:
            if not holds:
                self.known.clear()

    def read_perf_map(self, handle: int) -> None:
        holds = False
        try:
            holds = self.perf_map.refresh(handle)
        finally:
            if not holds:
                self.known.clear()

    def forget_dump(self) -> None:
        self.dump.clear()
        self.known.clear()

    def forget_perf_map(self) -> None:
        self.perf_map.clear()
        self.known.clear()

    def locations(self, addresses: list[int], dump: int | None, failures: list[Frame]) -> dict[int, Location]:
        """The Location of each address that has a name, or of each, should there be a failure to show in its place."""
        array = np.array(addresses, np.uint64)
        located: dict[int, Location] = {}
        if len(self.known) > MAX_KNOWN:
            self.known.clear()
        for address, in_dump, in_map in zip(addresses, self.dump.find(array), self.perf_map.find(array), strict=True):
            number = in_dump if in_dump >= 0 else -1 - in_map
            if in_dump < 0 and in_map < 0:
                if failures:
                    located[address] = Location(address, None, (failures[0],))
                continue
            known = self.known.get(address)
            if known is None or known[0] != number:
                frames = self.dump.frames(in_dump, address, dump) if in_dump >= 0 else self.perf_map.frames(in_map)
                known = self.known[address] = (number, Location(address, _BINARIES[frames[-1].kind], frames))
            located[address] = known[1]
        return located


class Jit:
    """What processes compiled, the least recently used dropped beyond `cache_bytes` or MAX_PROCESSES.

    That a process says nothing of it is remembered for RETRY_SECONDS.
    """

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._processes: OrderedDict[int, _Compiled] = OrderedDict()
        self._without: dict[tuple[int, Mapping | None], float] = {}

    def locations(
        self,
        process: Process,
        addresses: Iterable[int],
        dump: Mapping | None = None,
        until_ns: int | None = None,
    ) -> dict[int, Location]:
        """Locations of those addresses that something is known of. Looks for new functions first.

        `dump` is the mapping that shows the process's jitdump file, see dump_among(); without it that is looked for in
        /proc/PID/maps, and in /tmp. `until_ns` (CLOCK_MONOTONIC) is when the last of the addresses was sampled: what
        was compiled later is left for the next time. Where the process has files that cannot be trusted or read, an
        address that has no name gets an unknown frame that says so.
        """
        now = time.monotonic()
        without = (process.pid, dump)
        if now < self._without.get(without, now):
            return {}
        compiled = self._processes.setdefault(process.pid, _Compiled())
        self._processes.move_to_end(process.pid)
        failures: list[Frame] = []
        status = cache(partial(inner_pid_and_users, proc=process.proc))
        handle = _attempt(lambda: _open_dump(process, status, compiled, dump, now), "jitdump", failures)
        try:
            if handle is not None:
                _attempt(lambda: compiled.read_dump(handle, until_ns), "jitdump", failures)
                if compiled.dump.trouble:
                    failures.append(unknown(Reason.UNREADABLE_FILE, "jitdump", compiled.dump.trouble))
            exists = _attempt(lambda: _read_perf_map(process, status, compiled), "perf map", failures)
            if handle is None and not exists and not failures and not compiled.anything:
                del self._processes[process.pid]
                if len(self._without) >= MAX_WITHOUT:
                    self._without.clear()
                self._without[without] = now + RETRY_SECONDS
                return {}
            located = compiled.locations(sorted(set(addresses)), handle, failures)
        finally:
            if handle is not None:
                os.close(handle)
        self._forget()
        return located

    def _forget(self) -> None:
        size = sum(compiled.nbytes for compiled in self._processes.values())
        while len(self._processes) > 1 and (size > self._cache_bytes or len(self._processes) > MAX_PROCESSES):
            size -= self._processes.popitem(last=False)[1].nbytes


def _attempt(action: Callable[[], _T], file: str, failures: list[Frame]) -> _T | None:
    """What the action returns; None where it fails, for which there is then a frame more."""
    try:
        return action()
    except UnknownError as error:
        failures.append(error.frame)
    except (PerfMapError, JitDumpError) as error:
        failures.append(unknown(Reason.UNREADABLE_FILE, file, str(error)))
    except OSError:
        failures.append(unknown(Reason.UNREADABLE_FILE, file))
    return None


def _open_dump(process: Process, status: _Status, compiled: _Compiled, dump: Mapping | None, now: float) -> int | None:
    """The descriptor of the process's jitdump file, or None where it has none. Raises UnknownError."""
    alive = process.own_root() is not None
    if alive and dump is None and now >= compiled.look_for_marker:
        compiled.look_for_marker = now + RETRY_SECONDS
        compiled.marker = _marker(process)
    marker = dump or compiled.marker
    if marker is None:
        handle = _open_in_tmp(process, status, "jit-{}.dump", "jitdump")
    else:
        handle = _open_marked(process, marker, compiled)
    if handle is None and alive and len(compiled.dump):
        compiled.forget_dump()  # it was another process's
    return handle


def _open_marked(process: Process, marker: Mapping, compiled: _Compiled) -> int | None:
    try:
        return open_mapped(process, marker)
    except UnknownError as error:
        if process.own_root() is None and len(compiled.dump):
            return None  # what is known of it still holds
        raise UnknownError(unknown(error.frame.reason or Reason.UNREADABLE_FILE, "jitdump")) from error


def _marker(process: Process) -> Mapping | None:
    try:
        with open(f"{process.proc}/{process.pid}/maps", "rb", buffering=0) as file:
            text = b""
            while len(text) < _MAX_MAPS_BYTES and (more := file.read(1 << 16)):
                text += more
    except OSError:
        return None
    found = [
        Mapping(
            int(start, 16),
            int(end, 16),
            int(offset, 16),
            os.fsdecode(path),
            device=os.makedev(int(major, 16), int(minor, 16)),
            inode=int(inode),
        )
        for start, end, offset, major, minor, inode, path in _DUMP_IN_MAPS.findall(text)
    ]
    return dump_among(found)


def _read_perf_map(process: Process, status: _Status, compiled: _Compiled) -> bool:
    """Whether the process has a perf map, which then has been read. Raises UnknownError, PerfMapError, OSError."""
    handle = _open_in_tmp(process, status, "perf-{}.map", "perf map")
    if handle is None:
        if process.own_root() is not None and len(compiled.perf_map):
            compiled.forget_perf_map()  # it was another process's
        return False
    try:
        compiled.read_perf_map(handle)
    finally:
        os.close(handle)
    return True


def _open_in_tmp(process: Process, status: _Status, name: str, kind: str) -> int | None:
    """The descriptor of the file in the process's /tmp that is named after its pid, as it sees that itself; None where
    there is none. Raises UnknownError."""
    root = process.own_root()
    if root is not None:
        pid, users = status(process.pid)
        handle = _open(root, name.format(pid), kind)
        if handle is not None and os.fstat(handle).st_mtime < process.started() - _CLOCK_SECONDS:
            os.close(handle)  # of a process that had the pid before
            handle = None
        return None if handle is None else _trusted(handle, users, kind)
    for relative, root in process.other_roots():
        handle = _open(root, name.format(process.pid), kind)
        if handle is not None:
            users = frozenset() if relative is None else status(relative)[1]
            return _trusted(handle, users, kind)
    return None


def _open(root: int, name: str, kind: str) -> int | None:
    try:
        return open_beneath(root, f"/tmp/{name}", follow=False)
    except NotRegularError as error:
        raise UnknownError(unknown(Reason.UNREADABLE_FILE, kind, "not a regular file")) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UnknownError(unknown(Reason.UNREADABLE_FILE, kind, "permission denied")) from error
        return None


def _trusted(handle: int, users: frozenset[int], kind: str) -> int:
    """The descriptor, of a file that one of `users` or root owns; any other could have been put there by anybody."""
    if os.fstat(handle).st_uid in users | {0}:
        return handle
    os.close(handle)
    raise UnknownError(unknown(Reason.UNREADABLE_FILE, kind, "owned by another user"))
