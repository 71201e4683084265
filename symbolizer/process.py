"""What the symbolizer asks of one process: its root directory, its user, its pid as it sees it itself."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import TracebackType

from symbolizer.files import open_root

_INNER_PID = re.compile(rb"^NSpid:.*?(\d{1,10})$", re.MULTILINE)
_MEMORY = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) ..(.). \S+ \S+ 0(?: +(\[.+\]))? *$", re.MULTILINE)
_LARGEST_MAPS = 8 << 20
_USERS = re.compile(rb"^Uid:((?:\s+\d{1,10}){4})$", re.MULTILINE)


class Process:
    """A process for the length of one question, which may be over already, with its relatives.

    Opens nothing before it is needed, each thing once, and closes all at the end of a `with` block.
    """

    def __init__(self, pid: int, relatives: Sequence[int] = (), proc: str = "/proc") -> None:
        self.pid = pid
        self.proc = proc
        self.relatives = relatives
        self._roots: dict[str, int | None] = {}

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for root in self._roots.values():
            if root is not None:
                os.close(root)
        self._roots.clear()

    @cached_property
    def alive(self) -> bool:
        """False also for a zombie, which has no memory any more and so nothing left to ask."""
        try:
            os.readlink(f"{self.proc}/{self.pid}/exe")
        except PermissionError:
            return True
        except OSError:
            return False
        return True

    def memory_name(self, address: int) -> str:
        """What /proc/PID/maps calls the executable memory at an address that shows no file: "[heap]", "[stack]", or
        "[anon:NAME]" where the process gave it that name (PR_SET_VMA_ANON_NAME in prctl(2)); "" where it has none, or
        is gone."""
        for start, end, name in self._named_memory:
            if start <= address < end:
                return name
        return ""

    @cached_property
    def _named_memory(self) -> list[tuple[int, int, str]]:
        try:
            with open(f"{self.proc}/{self.pid}/maps", "rb") as file:
                text = file.read(_LARGEST_MAPS)
        except OSError:
            return []
        found = []
        stack = -1
        for first, last, executable, name in reversed(_MEMORY.findall(text)):
            start, end = int(first, 16), int(last, 16)
            # Of a stack that was made executable in part the kernel names one part alone.
            if name == b"[stack]" or end == stack and not name:
                stack, name = start, b"[stack]"
            if name and executable == b"x":
                found.append((start, end, os.fsdecode(name)))
        return found

    def started(self) -> float:
        """When the process started, in seconds as time.time() has them; 0 where that is unknown (proc_pid_stat(5))."""
        try:
            with open(f"{self.proc}/{self.pid}/stat", "rb", buffering=0) as file:
                ticks = int(file.read().rpartition(b")")[2].split()[19])
        except (OSError, IndexError, ValueError):
            return 0.0
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - since_boot

    def own_root(self) -> int | None:
        """A descriptor of the process's root directory, or None where it is gone or refused."""
        return self._root(f"{self.proc}/{self.pid}/root")

    def other_roots(self) -> Iterator[tuple[int | None, int]]:
        """(pid or None for the host itself, root) of whoever may see the same files, likeliest first."""
        for pid in self.relatives:
            root = self._root(f"{self.proc}/{pid}/root")
            if root is not None:
                yield pid, root
        host = self._root(f"{self.proc}/1/root")
        if host is None:
            host = self._root("/")
        if host is not None:
            yield None, host

    def _root(self, path: str) -> int | None:
        if path not in self._roots:
            try:
                self._roots[path] = open_root(path)
            except OSError:
                self._roots[path] = None
        return self._roots[path]


def inner_pid_and_users(pid: int, proc: str = "/proc") -> tuple[int, frozenset[int]]:
    """(pid in the process's own pid namespace, its user ids); (pid, none) where it is gone."""
    try:
        with open(f"{proc}/{pid}/status", "rb", buffering=0) as file:
            status = file.read()
    except OSError:
        return pid, frozenset()
    inner, users = _INNER_PID.search(status), _USERS.search(status)
    return int(inner[1]) if inner else pid, frozenset(map(int, users[1].split())) if users else frozenset()
