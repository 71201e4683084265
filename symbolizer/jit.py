"""Addresses in memory that belongs to no file → Locations, by the process's perf map."""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from symbolizer.files import NotRegularError, open_beneath
from symbolizer.perfmap import PerfMap, PerfMapError
from symbolizer.process import Process, inner_pid_and_users
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import UnknownError, unknown

MAX_PERF_MAPS = 256
MAX_WITHOUT = 4_096
RETRY_SECONDS = 30.0
_BINARIES = {Kind.JIT: Binary("[jit]"), Kind.PYTHON: Binary("[python]")}


class Jit:
    """Perf maps of processes, the least recently used dropped beyond `cache_bytes` or MAX_PERF_MAPS.

    That a process has none is remembered for RETRY_SECONDS.
    """

    def __init__(self, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        self._maps: OrderedDict[int, tuple[PerfMap, dict[int, Location]]] = OrderedDict()
        self._without: dict[int, float] = {}

    def locations(self, process: Process, addresses: Iterable[int]) -> dict[int, Location]:
        """Locations of those addresses that the perf map names. Looks for new entries first.

        Raises UnknownError where there is a perf map but it cannot be trusted or read.
        """
        now = time.monotonic()
        if now < self._without.get(process.pid, now):
            return {}
        opened = self._refreshed(process)
        if opened is None:
            if len(self._without) >= MAX_WITHOUT:
                self._without.clear()
            self._without[process.pid] = now + RETRY_SECONDS
            return {}
        perf_map, known = opened
        missing = sorted({address for address in addresses if address not in known})
        frames: dict[int, Frame] = {}
        for address, i in zip(missing, perf_map.find(np.array(missing, np.uint64)), strict=True):
            if i >= 0:
                frame = frames.get(i) or frames.setdefault(i, perf_map.frame(i))
                known[address] = Location(address, _BINARIES[frame.kind], (frame,))
        return {address: known[address] for address in addresses if address in known}

    def _refreshed(self, process: Process) -> tuple[PerfMap, dict[int, Location]] | None:
        handle = _open_perf_map(process)
        if handle is None:
            if process.own_root() is not None:
                self._maps.pop(process.pid, None)  # what is kept was another process's
            return self._maps.get(process.pid)
        try:
            perf_map, known = self._maps.setdefault(process.pid, (PerfMap(), {}))
            self._maps.move_to_end(process.pid)
            if perf_map.refresh(handle):
                known.clear()
        except PerfMapError as error:
            raise UnknownError(unknown(Reason.UNREADABLE_FILE, "perf map", str(error))) from error
        except OSError as error:
            raise UnknownError(unknown(Reason.UNREADABLE_FILE, "perf map")) from error
        finally:
            os.close(handle)
        self._forget()
        return perf_map, known

    def _forget(self) -> None:
        size = sum(perf_map.nbytes for perf_map, _ in self._maps.values())
        while len(self._maps) > 1 and (size > self._cache_bytes or len(self._maps) > MAX_PERF_MAPS):
            size -= self._maps.popitem(last=False)[1][0].nbytes


def _open_perf_map(process: Process) -> int | None:
    """The descriptor of the process's perf map, or None where it has none. Raises UnknownError."""
    root = process.own_root()
    if root is not None:
        pid, users = inner_pid_and_users(process.pid, process.proc)
        handle = _open(root, pid)
        return None if handle is None else _trusted(handle, users)
    for relative, root in process.other_roots():
        handle = _open(root, process.pid)
        if handle is not None:
            users = frozenset() if relative is None else inner_pid_and_users(relative, process.proc)[1]
            return _trusted(handle, users)
    return None


def _open(root: int, pid: int) -> int | None:
    try:
        return open_beneath(root, f"/tmp/perf-{pid}.map", follow=False)
    except NotRegularError as error:
        raise UnknownError(unknown(Reason.UNREADABLE_FILE, "perf map", "not a regular file")) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UnknownError(unknown(Reason.UNREADABLE_FILE, "perf map", "permission denied")) from error
        return None


def _trusted(handle: int, users: frozenset[int]) -> int:
    """The descriptor, of a file that one of `users` or root owns; any other could have been put there by anybody."""
    if os.fstat(handle).st_uid in users | {0}:
        return handle
    os.close(handle)
    raise UnknownError(unknown(Reason.UNREADABLE_FILE, "perf map", "owned by another user"))
