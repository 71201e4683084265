"""The kernel's stream of process records: what was mapped, named, forked and ended, on every CPU, in time order.

Source: perf_event_open(2), "MMAP layout" and the PERF_RECORD_* structs of linux/perf_event.h.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import struct
import time
from collections.abc import Collection, Set
from dataclasses import dataclass

from profiler import events

MMAP, LOST, COMM, EXIT, FORK, MMAP2 = 1, 2, 3, 4, 7, 10
MISC_COMM_EXEC = 1 << 13

_PAGE = os.sysconf("SC_PAGE_SIZE")
_DATA_HEAD = 1024  # offset in struct perf_event_mmap_page; data_tail, data_offset and data_size follow
_ALL_RINGS = 8 << 20
_SMALLEST_RING, _LARGEST_RING = 64 << 10, 512 << 10
_HEADER = struct.Struct("=IHH")
_U64 = struct.Struct("=Q")
_TIME_FROM_END = 16  # sample_id: tid, time, cpu: the time stands 16 bytes before the end
SAMPLE_ID_SIZE = 24


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order of their times, each (time, type, misc, body after the header). `lost`: dropped ones."""

    records: list[tuple[int, int, int, bytes]]
    lost: int


class RecordStream:
    """Reads the rings of all CPUs. Raises EventError where the kernel refuses them."""

    def __init__(self, *, prompt: bool = False) -> None:
        """`prompt`: wait() is to return at the first record, not only when a ring is half full."""
        cpus = events.online_cpus()
        self._prompt = prompt
        size = _ALL_RINGS // len(cpus)
        self._size = 1 << max(min(size, _LARGEST_RING), _SMALLEST_RING).bit_length() - 1
        self._rings: dict[int, tuple[int, mmap.mmap]] = {}
        self._poll = select.epoll()
        self._early: list[tuple[int, int, int, bytes]] = []
        self._lost_early = 0
        try:
            self.follow_cpus(cpus)
        except BaseException:
            self.close()
            raise

    def follow_cpus(self, online: Set[int]) -> None:
        """Opens rings on CPUs that came online, and takes what is left from those of CPUs that went."""
        for cpu in self._rings.keys() - online:  # should it come back, the kernel writes to this one no more
            fd, ring = self._rings.pop(cpu)
            self._lost_early += _take(ring, self._early)
            self._poll.unregister(fd)
            ring.close()
            os.close(fd)
        for cpu in sorted(online - self._rings.keys()):
            try:
                fd = self._open(cpu)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    continue
                raise events.EventError(str(error.strerror)) from error
            try:
                ring = mmap.mmap(fd, _PAGE + self._size)
            except OSError as error:
                os.close(fd)
                raise events.EventError(
                    f"No memory could be locked for process records ({error.strerror}): raise `ulimit -l` or "
                    "kernel.perf_event_mlock_kb."
                ) from error
            self._rings[cpu] = fd, ring
            self._poll.register(fd, select.EPOLLIN)

    def wait(self, seconds: float, beside: Collection[int] = ()) -> bool:
        """Whether there are records to read, enough of them unless prompt, before `seconds` are over; or whether one
        of the descriptors `beside` can be read."""
        for descriptor in beside:
            self._poll.register(descriptor, select.EPOLLIN)
        try:
            return bool(self._poll.poll(seconds))
        finally:
            for descriptor in beside:
                self._poll.unregister(descriptor)

    def read(self) -> Batch:
        """What was recorded until now, complete up to this instant, in the order it happened."""
        # A record that is younger than the first look at a ring may follow an older one that is still to be
        # read in another ring: such records wait for the next batch.
        until = time.monotonic_ns()
        records, lost = self._early, self._lost_early
        self._lost_early = 0
        for _, ring in self._rings.values():
            lost += _take(ring, records)
        records.sort(key=_record_time)
        cut = len(records)
        while cut and records[cut - 1][0] > until:
            cut -= 1
        self._early = records[cut:]
        del records[cut:]
        return Batch(records, lost)

    def locked_bytes(self) -> int:
        return len(self._rings) * (self._size + _PAGE)

    def close(self) -> None:
        for fd, ring in self._rings.values():
            ring.close()
            os.close(fd)
        self._rings.clear()
        self._poll.close()

    def _open(self, cpu: int) -> int:
        return events.open_records(cpu, 1 if self._prompt else self._size // 2)


def _record_time(record: tuple[int, int, int, bytes]) -> int:
    return record[0]


def _take(ring: mmap.mmap, records: list[tuple[int, int, int, bytes]]) -> int:
    """Appends a ring's records, gives its space back, and returns how many the kernel had to drop."""
    head, tail, offset, size = struct.unpack_from("=QQQQ", ring, _DATA_HEAD)
    length = head - tail
    if not length:
        return 0
    start = offset + tail % size
    end = start + length
    data = ring[start:end] if end <= offset + size else ring[start : offset + size] + ring[offset : end - size]
    _U64.pack_into(ring, _DATA_HEAD + 8, head)
    at, lost = 0, 0
    while at < length:
        kind, misc, step = _HEADER.unpack_from(data, at)
        if kind == LOST:
            lost += _U64.unpack_from(data, at + 16)[0]
        elif kind in (MMAP2, COMM, FORK, EXIT):
            (stamp,) = _U64.unpack_from(data, at + step - _TIME_FROM_END)
            records.append((stamp, kind, misc, data[at + 8 : at + step - SAMPLE_ID_SIZE]))
        at += step
    return lost
