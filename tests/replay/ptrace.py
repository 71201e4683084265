"""Processes stopped by ptrace(2): stepped one instruction at a time, or recorded as they stand."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.replay.core import USER_REGISTERS, Area, MappedFile, write_core

LARGEST_AREA = 16 << 20
"""How much of one mapping is recorded, in bytes: from below the stack pointer of a thread on if one is in it."""

_TRACEME, _SINGLESTEP, _GETREGS, _DETACH = 0, 9, 12, 17
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_PAGE, _RED_ZONE = 4096, 128
_WALL = 0x40000000  # wait for threads too
_MAPS_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \S+ (\d+) *(.*)$", re.MULTILINE)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class TraceError(RuntimeError):
    """The process cannot be traced or read; the message says why."""


@dataclass(frozen=True, slots=True)
class MapsLine:
    """One mapping of /proc/PID/maps (proc_pid_maps(5))."""

    start: int
    end: int
    permissions: str
    offset: int
    path: str


class Tracee:
    """A program run under control, stopped at its first instruction; it ends with the `with` block."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.pid = os.fork()
        if not self.pid:
            try:
                _libc.ptrace(_TRACEME, 0, None, None)
                os.execve(command[0], list(command), environment or {})
            finally:
                os._exit(127)
        if self._wait() is None:
            raise TraceError(f"{command[0]} cannot be run under ptrace")
        self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Tracee:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._memory)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, _WALL)

    def registers(self) -> NDArray[Any]:
        """USER_REGISTERS now."""
        return np.frombuffer(_get_registers(self.pid), USER_REGISTERS).reshape(())

    def read(self, address: int, size: int) -> bytes:
        """Memory, up to where it ends."""
        return _read(self._memory, address, size)

    def step(self, deliver: int = 0) -> int | None:
        """Runs one instruction, or, with a signal to deliver, to the first one of its handler.

        Returns the signal that stopped it then: SIGTRAP after a step, another before its delivery; None at its end.
        """
        _ptrace(_SINGLESTEP, self.pid, 0, deliver)
        return self._wait()

    def maps(self) -> list[MapsLine]:
        return read_maps(self.pid)

    def _wait(self) -> int | None:
        _, status = os.waitpid(self.pid, _WALL)
        if os.WIFSTOPPED(status):
            return os.WSTOPSIG(status)
        self.pid = 0
        return None


def read_maps(pid: int) -> list[MapsLine]:
    """All mappings of a process. Raises TraceError where it is gone."""
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError as error:
        raise TraceError(f"process {pid} cannot be read: {error.strerror}") from error
    return [
        MapsLine(
            int(start, 16),
            int(end, 16),
            permissions.decode(),
            int(offset, 16),
            os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), path)),
        )
        for start, end, permissions, offset, _, path in _MAPS_LINE.findall(text)
    ]


def record_process(pid: int, path: Path) -> None:
    """Writes a core file of a running process, which stands still meanwhile and then goes on.

    In it are the registers of all threads, writable memory up to LARGEST_AREA a mapping, the vdso and code that is in
    no file, and the first page of each mapped file, which has its build id. Raises TraceError, OSError.
    """
    threads: dict[int, bytes] = {}
    try:
        _stop_all(pid, threads)
        maps = read_maps(pid)
        pointers = [int(np.frombuffer(registers, USER_REGISTERS)["rsp"][0]) for registers in threads.values()]
        handle = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            areas = [area for line in maps if (area := _area(handle, line, pointers))]
        finally:
            os.close(handle)
        auxv = Path(f"/proc/{pid}/auxv").read_bytes()
        files = [MappedFile(m.start, m.end, m.offset, m.path) for m in maps if m.path.startswith("/")]
        write_core(path, list(threads.items()), files, auxv, areas)
    finally:
        for tid in threads:
            with suppress(TraceError):  # killed meanwhile
                _ptrace(_DETACH, tid, 0, 0)


def _stop_all(pid: int, threads: dict[int, bytes]) -> None:
    """Stops all threads of a process, also those that others start meanwhile; fills in their registers."""
    gone: set[int] = set()
    while new := {int(name) for name in _tasks(pid)} - threads.keys() - gone:
        for tid in sorted(new, key=lambda tid: (tid != pid, tid)):
            try:
                _ptrace(_SEIZE, tid, 0, 0)
                _ptrace(_INTERRUPT, tid, 0, 0)
                os.waitpid(tid, _WALL)
                threads[tid] = _get_registers(tid)
            except (TraceError, ChildProcessError):
                if tid == pid:
                    raise
                gone.add(tid)


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        raise TraceError(f"process {pid} cannot be read: {error.strerror}") from error


def _area(handle: int, line: MapsLine, pointers: list[int]) -> Area | None:
    """What is recorded of a mapping; None where that is nothing."""
    executable = "x" in line.permissions
    is_file = line.path.startswith("/")
    if line.path in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
        return None
    start, size = line.start, 0
    if is_file and "w" not in line.permissions:
        size = 0 if line.offset else _PAGE
    elif "w" in line.permissions or executable:
        inside = [pointer for pointer in pointers if line.start <= pointer < line.end]
        if inside and not executable:
            start = max(line.start, (min(inside) - _RED_ZONE) & -_PAGE)
        size = min(line.end - start, LARGEST_AREA)
    if not size and not executable:
        return None
    return Area(start, line.end, executable, _read(handle, start, size))


def _read(handle: int, address: int, size: int) -> bytes:
    found = b""
    try:
        while len(found) < size and (more := os.pread(handle, size - len(found), address + len(found))):
            found += more
    except OSError:  # nothing is there from here on
        pass
    return found


def _get_registers(tid: int) -> bytes:
    registers = ctypes.create_string_buffer(USER_REGISTERS.itemsize)
    _ptrace(_GETREGS, tid, 0, ctypes.addressof(registers))
    return registers.raw


def _ptrace(request: int, tid: int, address: int, data: int) -> None:
    if _libc.ptrace(request, tid, address, data) < 0:
        raise TraceError(f"process {tid} cannot be traced: {os.strerror(ctypes.get_errno())}")
