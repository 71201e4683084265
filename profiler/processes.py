"""Which processes there were, their names, and what was mapped where in them, over time.

The kernel's record stream (records.py) is the source; /proc is read once at the start, and again only for
processes whose records were lost.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from profiler import records
from profiler.addressspace import AddressSpace, File
from profiler.buildids import LOOK_AGAIN_SECONDS, BuildIds
from symbolizer.types import Mapping

_PIDS = struct.Struct("=II")
_FORK = struct.Struct("=IIII")  # pid, ppid, tid, ptid
_MAPS_LINE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ..x. ([0-9a-f]{1,16}) ([0-9a-f]{1,3}):([0-9a-f]{1,5}) (\d{1,20})(?: +(.*))?$",
    re.M,
)
_OCTAL = re.compile(rb"\\(0[0-7]{2}|134)")
_LARGEST_MAPS = 8 << 20

MOST_MAPPINGS = 200_000
"""How many mappings are kept, of all processes; some 50 MB at the very most. Beyond it, processes that were
never sampled, then those sampled longest ago, lose theirs; they are read from /proc again when sampled."""


@dataclass(slots=True)
class _Space:
    """What a process is from one exec (or its fork) to the next. `forgotten`: some of its mappings are not here."""

    since: int
    name: str
    mapped: AddressSpace
    scanned: int = 0
    forgotten: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What a process ran from one exec (or its fork) to the next: its name, and what was mapped."""

    name: str
    mapped: AddressSpace


@dataclass(slots=True)
class _Process:
    parent: int
    spaces: list[_Space]
    threads: bool = True
    exited: int = 0
    sampled: int = 0


class Processes:
    """All processes of the machine, kept up to date by apply(); times are CLOCK_MONOTONIC nanoseconds."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._lost_at = 0
        self._mappings = 0
        self._changed: set[int] = set()
        self.build_ids = BuildIds()
        self._identified: dict[File, File] = {}
        self._identified_since = 0.0
        self.records_lost = 0
        self.rescans = 0
        self.mappings_dropped = 0
        self._told = (0, 0, 0)

    def scan(self) -> None:
        """Reads all processes from /proc. The record stream must run before, so that nothing falls between."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                self._scan_process(int(entry))

    def apply(self, batch: records.Batch) -> None:
        """Takes in what happened since the last batch."""
        if batch.lost:
            self.records_lost += batch.lost
            self._lost_at = time.monotonic_ns()
        for stamp, kind, misc, body in batch.records:
            if kind == records.MMAP2:
                self._on_mapping(stamp, body)
            elif kind == records.FORK:
                self._on_fork(stamp, body)
            elif kind == records.COMM:
                self._on_name(stamp, misc, body)
            else:
                self._on_exit(stamp, body)
        if self._mappings > MOST_MAPPINGS:
            self._drop_mappings()

    def programs(self, pid: int, start: int, end: int) -> list[Program]:
        """What the process ran in [start, end), oldest first; empty where nothing is known of it."""
        process = self._known(pid)
        if process is None:
            return []
        process.sampled = end
        for space in process.spaces:
            self._identify(pid, space.mapped)
        ran = [
            space for space, ended in _with_ends(process.spaces) if space.since < end and (ended > start or not ended)
        ]
        return [Program(space.name, space.mapped) for space in ran or process.spaces[-1:]]

    def take_changed(self) -> list[int]:
        """The running processes whose mappings changed since the last call, other than by fork or exit."""
        changed = [pid for pid in self._changed if pid in self._processes and not self._processes[pid].exited]
        self._changed.clear()
        return changed

    def mark_all_changed(self) -> None:
        """Has take_changed() name all running processes."""
        self._changed.update(self._processes)

    def is_running(self, pid: int) -> bool:
        """Whether a process is known, and not known to have ended."""
        process = self._processes.get(pid)
        return process is not None and not process.exited

    def look_up(self, pid: int) -> bool:
        """Whether anything is known of a process; it is read from /proc where records are missing."""
        return self._known(pid) is not None

    def space(self, pid: int) -> AddressSpace | None:
        """What is mapped in a process now, None where that is not known or the process has ended."""
        process = self._processes.get(pid)
        if process is None or process.exited or process.spaces[-1].forgotten:
            return None
        mapped = process.spaces[-1].mapped
        self._identify(pid, mapped)
        return mapped

    def _identify(self, pid: int, mapped: AddressSpace) -> None:
        now = time.monotonic()
        if now - self._identified_since >= LOOK_AGAIN_SECONDS:
            self._identified, self._identified_since = {}, now
        mapped.identify(lambda mapping: self.build_ids.of(mapping, pid, self.relatives), self._identified)

    def relatives(self, pid: int) -> list[int]:
        """The process's parent, its parent and so on: who most likely sees the same files."""
        found: list[int] = []
        process = self._processes.get(pid)
        while process is not None and process.parent and len(found) < 8:
            found.append(process.parent)
            process = self._processes.get(process.parent)
        return found

    def end_window(self, end: int) -> None:
        """Forgets what no later window can need: processes and programs that ended before `end`."""
        for pid, process in list(self._processes.items()):
            if process.exited and process.exited < end:
                if process.threads and _is_running(pid):  # only its first thread ended
                    process.exited = 0
                else:
                    self._mappings -= sum(len(space.mapped) for space in process.spaces)
                    del self._processes[pid]
                    continue
            while len(process.spaces) > 1 and process.spaces[1].since < end:
                self._mappings -= len(process.spaces.pop(0).mapped)
        self._changed &= self._processes.keys()

    def losses(self) -> str:
        """One sentence on what was lost, and read again, since the last call; "" where nothing was."""
        now = self.records_lost, self.rescans, self.mappings_dropped
        lost, rescans, dropped = (new - old for new, old in zip(now, self._told, strict=True))
        if not lost and not dropped:
            return ""
        self._told = now
        return (
            f"{lost:,} process records were lost and {dropped:,} mappings dropped; "
            f"{rescans:,} sampled processes were read from /proc again."
        )

    def __len__(self) -> int:
        return len(self._processes)

    def _on_mapping(self, stamp: int, body: bytes) -> None:
        pid, _ = _PIDS.unpack_from(body)
        process = self._processes.get(pid)
        if process is None:
            return
        space = process.spaces[-1]
        if stamp < space.scanned:
            return
        before = len(space.mapped)
        space.mapped.add(body)
        self._changed.add(pid)
        self._mappings += len(space.mapped) - before

    def _on_fork(self, stamp: int, body: bytes) -> None:
        pid, parent_pid, _, _ = _FORK.unpack_from(body)
        if pid == parent_pid:
            if pid in self._processes:
                self._processes[pid].threads = True
            return
        if parent_pid in self._changed:  # what the child began with in the kernel was not all yet
            self._changed.add(pid)
        parent = self._processes.get(parent_pid)
        if parent is None:
            space = _Space(stamp, "", AddressSpace(), forgotten=True)
        else:
            origin = parent.spaces[-1]
            space = _Space(stamp, origin.name, origin.mapped.copy(), forgotten=origin.forgotten)
        self._mappings += len(space.mapped)
        process = self._processes.get(pid)
        if process is None:
            self._processes[pid] = _Process(parent_pid, [space], threads=False)
        elif process.spaces[-1].scanned < stamp:
            process.parent, process.exited = parent_pid, 0
            process.spaces.append(space)

    def _on_name(self, stamp: int, misc: int, body: bytes) -> None:
        pid, tid = _PIDS.unpack_from(body)
        if pid != tid:
            return
        name = body[8:].split(b"\0", 1)[0].decode(errors="backslashreplace")
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = _Process(0, [_Space(stamp, name, AddressSpace(), forgotten=True)])
        last = process.spaces[-1]
        if not misc & records.MISC_COMM_EXEC:
            last.name = name
        elif last.scanned < stamp:
            process.spaces.append(_Space(stamp, name, AddressSpace()))

    def _on_exit(self, stamp: int, body: bytes) -> None:
        pid, _, tid, _ = _FORK.unpack_from(body)
        process = self._processes.get(pid)
        if process is not None and pid == tid:
            process.exited = stamp

    def _known(self, pid: int) -> _Process | None:
        """The process, read from /proc first where its records are missing or some may be."""
        process = self._processes.get(pid)
        if process is None:
            self._scan_process(pid)
            return self._processes.get(pid)
        last = process.spaces[-1]
        if last.forgotten or last.scanned < self._lost_at and last.since < self._lost_at:
            self.rescans += 1
            self._scan_process(pid)
        return process

    def _scan_process(self, pid: int) -> None:
        """Puts what /proc says of the process in the place of its last address space; nothing if it is gone."""
        stamp = time.monotonic_ns()
        try:
            name, parent = read_status(pid)
            mappings = read_maps(pid)
        except OSError:
            return
        space = _Space(stamp, name, AddressSpace(mappings), scanned=stamp)
        self._changed.add(pid)
        self._mappings += len(space.mapped)
        process = self._processes.get(pid)
        if process is None:
            self._processes[pid] = _Process(parent, [space])
            return
        self._mappings -= len(process.spaces[-1].mapped)
        space.since = process.spaces[-1].since
        process.spaces[-1] = space

    def _drop_mappings(self) -> None:
        for process in sorted(self._processes.values(), key=lambda p: p.sampled):
            if self._mappings <= MOST_MAPPINGS * 3 // 4:
                return
            for space in process.spaces:
                dropped = len(space.mapped)
                self._mappings -= dropped
                self.mappings_dropped += dropped
                space.mapped, space.forgotten = AddressSpace(), True


def read_maps(pid: int) -> list[Mapping]:
    """The executable mappings of /proc/PID/maps (proc_pid_maps(5)), by address. Raises OSError."""
    with open(f"/proc/{pid}/maps", "rb") as file:
        return parse_maps(file.read(_LARGEST_MAPS))


def parse_maps(text: bytes) -> list[Mapping]:
    """As read_maps(). Lines that are not of its form are left out."""
    return [
        Mapping(
            int(start, 16),
            int(end, 16),
            int(offset, 16),
            os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), path)),
            device=os.makedev(int(major, 16), int(minor, 16)),
            inode=int(inode),
        )
        for start, end, offset, major, minor, inode, path in _MAPS_LINE.findall(text)
    ]


def read_status(pid: int) -> tuple[str, int]:
    """Name and parent of a process, from /proc/PID/stat. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read(4096)
    name, _, rest = text.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    if len(fields) < 2:
        raise ProcessLookupError(f"process {pid} has ended")
    return name.decode(errors="backslashreplace"), int(fields[1])


def _is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/maps")


def _with_ends(spaces: list[_Space]) -> Iterator[tuple[_Space, int]]:
    """Each address space with when it ended, 0 for the last."""
    for space, following in zip(spaces, spaces[1:], strict=False):
        yield space, following.since
    yield spaces[-1], 0
