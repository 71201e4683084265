"""perf events: opening them, giving them a BPF program, and which CPUs they can be opened on.

Source: perf_event_open(2) and linux/perf_event.h.
"""

from __future__ import annotations

import ctypes as c
import errno
import fcntl
import os
import struct
from pathlib import Path

from profiler.cpukinds import cpu_list

EVENT = "cpu-clock"

_libc = c.CDLL(None, use_errno=True)
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_SET_BPF, _IOC_PERIOD = 0x2400, 0x40042408, 0x40082404

TYPE_SOFTWARE = 1
COUNT_CPU_CLOCK, COUNT_DUMMY = 0, 9
SAMPLE_TID, SAMPLE_TIME, SAMPLE_CPU = 1 << 1, 1 << 2, 1 << 7
DISABLED, MMAP, COMM, FREQ, TASK = 1 << 0, 1 << 8, 1 << 9, 1 << 10, 1 << 13
WATERMARK, SAMPLE_ID_ALL, MMAP2, COMM_EXEC = 1 << 14, 1 << 18, 1 << 23, 1 << 24
USE_CLOCKID = 1 << 25
_CLOCK_MONOTONIC = 1

_MAX_RATE = Path("/proc/sys/kernel/perf_event_max_sample_rate")
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_ONLINE = Path("/sys/devices/system/cpu/online")
HIGHEST_HZ = 10_000


class EventError(Exception):
    """A perf event could not be had; the message says why and what to do."""


def check_hz(hz: int) -> None:
    """Raises EventError where the kernel would refuse to sample `hz` times a second."""
    if not 1 <= hz <= HIGHEST_HZ:
        raise EventError(f"The sampling rate must be between 1 and {HIGHEST_HZ:,} Hz, not {hz:,}.")
    highest = max_sample_rate()
    if hz > highest:
        raise EventError(
            f"The kernel allows at most {highest:,} samples a second: sample at a lower rate, or raise it with "
            f"`sysctl kernel.perf_event_max_sample_rate={hz}`."
        )


def max_sample_rate() -> int:
    return int(_MAX_RATE.read_text())


def online_cpus() -> frozenset[int]:
    """The CPUs that are online now."""
    return frozenset(cpu_list(_ONLINE.read_text()))


def open_clock(cpu: int, hz: int, program_fd: int) -> int:
    """Runs a BPF program `hz` times a second on a CPU (cpu-clock), until the returned fd is closed."""
    fd = _open(_attributes(COUNT_CPU_CLOCK, hz, FREQ | DISABLED), cpu)
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program_fd)
        fcntl.ioctl(fd, _IOC_ENABLE, 0)
    except OSError as error:
        os.close(fd)
        raise EventError(f"The sampler could not be attached to CPU {cpu} ({error.strerror}).") from error
    return fd


def change_rate(fd: int, hz: int) -> None:
    """Has an event of open_clock() tick `hz` times a second from now on.

    The clock's events have a period in nanoseconds, also if they were opened with a frequency
    (perf_swevent_init_hrtimer() in kernel/events/core.c).
    """
    fcntl.ioctl(fd, _IOC_PERIOD, struct.pack("=Q", 1_000_000_000 // hz))


def open_records(cpu: int, wakeup_bytes: int) -> int:
    """An enabled event for the process records of a CPU, stamped with CLOCK_MONOTONIC; map it for its ring.

    `wakeup_bytes`: how full the ring is when its reader is woken. Not with build ids: see buildids.py.
    """
    flags = MMAP | COMM | TASK | WATERMARK | SAMPLE_ID_ALL | MMAP2 | COMM_EXEC | USE_CLOCKID
    attributes = _attributes(
        COUNT_DUMMY, 0, flags, sample_type=SAMPLE_TID | SAMPLE_TIME | SAMPLE_CPU, wakeup=wakeup_bytes
    )
    return _open(attributes, cpu)


def _attributes(config: int, frequency: int, flags: int, *, sample_type: int = 0, wakeup: int = 0) -> bytes:
    """struct perf_event_attr, version PERF_ATTR_SIZE_VER7 (128 bytes)."""
    head = struct.pack("=IIQQQQQI", TYPE_SOFTWARE, 128, config, frequency, sample_type, 0, flags, wakeup).ljust(
        92, b"\0"
    )
    return (head + struct.pack("=i", _CLOCK_MONOTONIC if flags & USE_CLOCKID else 0)).ljust(128, b"\0")


def _open(attributes: bytes, cpu: int) -> int:
    number = _SYS_PERF_EVENT_OPEN.get(os.uname().machine)
    if number is None:
        raise EventError(f"pilotlight does not run on {os.uname().machine} yet: x86_64 and aarch64 only.")
    fd = int(_libc.syscall(number, attributes, -1, cpu, -1, _FLAG_FD_CLOEXEC))
    if fd < 0:
        code = c.get_errno()
        raise OSError(code, explain(code, cpu))
    return fd


def explain(code: int, cpu: int) -> str:
    """What an errno of perf_event_open means for the user, in one sentence."""
    if code in (errno.EPERM, errno.EACCES):
        paranoid = _PARANOID.read_text().strip()
        return f"Sampling the whole system needs root or CAP_PERFMON (kernel.perf_event_paranoid is {paranoid})."
    if code == errno.EMFILE:
        return "Too many files are open: raise the limit with `ulimit -n`."
    if code == errno.ENOSYS:
        return "This kernel was built without perf events (CONFIG_PERF_EVENTS)."
    return f"A perf event could not be opened on CPU {cpu} ({os.strerror(code)})."
