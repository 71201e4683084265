"""Keeping this process small, and its memory cheap."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLD = 128 << 10


def keep_small() -> None:
    """Has large blocks go back to the kernel as soon as they are freed.

    glibc raises its thresholds when the first large block is freed (mallopt(3), M_MMAP_THRESHOLD), so that the
    passing peaks of start-up (the kernel's BTF, symbol tables) would stay with the process for good: some 20 MB.
    What lives on from window to window makes no cycles; looking for some after every 700 objects would cost as
    much time as the rest.
    """
    gc.set_threshold(100_000, 50, 1000)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _THRESHOLD)
