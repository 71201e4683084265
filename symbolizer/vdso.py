"""The code that the kernel maps into every process: [vdso], and the three calls of [vsyscall]."""

from __future__ import annotations

import os

from symbolizer.files import read_at

VSYSCALLS = {0x000: "gettimeofday", 0x400: "time", 0x800: "getcpu"}
"""Functions of the [vsyscall] page by offset, 1 KB apart (Linux: arch/x86/entry/vsyscall)."""

_MAX_BYTES = 1 << 20


def read_vdso() -> bytes:
    """The vdso of this process, which all processes of its word size share; b"" where it has none."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                if line.rstrip().endswith("[vdso]"):
                    start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
                    return _memory(start, min(end - start, _MAX_BYTES))
    except OSError:
        pass
    return b""


def _memory(start: int, size: int) -> bytes:
    handle = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_at(handle, start, size)
    finally:
        os.close(handle)
