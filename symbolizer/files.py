"""Opening files that other users wrote, below the root directory of the process that uses them.

Nothing is opened for reading before it is known to be a regular file: opening a FIFO can block and
opening a device can have effects. So a path is first resolved to an O_PATH descriptor, which has no
effect on whatever it names, and that very object is then opened through /proc/self/fd.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys

_SYS_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_AT_PATH = os.O_PATH | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class NotRegularError(OSError):
    """What the path names is a directory, a device, a pipe or a socket."""


def open_root(path: str) -> int:
    """A descriptor of the directory that `path` ("/proc/PID/root") leads to. Raises OSError."""
    return os.open(path, _AT_PATH | os.O_DIRECTORY)


def open_beneath(root: int, path: str, *, follow: bool = True) -> int:
    """Opens the regular file at `path` for reading as a process with root directory `root` would.

    Symbolic links, ".." and absolute paths stay below `root`; the links of /proc are refused. With
    `follow` False the last part of the path may not be a link. Raises OSError, NotRegularError.
    """
    how = _OpenHow(
        flags=_AT_PATH | (0 if follow else os.O_NOFOLLOW),
        mode=0,
        resolve=_RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS,
    )
    name = os.fsencode(path)
    if b"\0" in name:
        raise FileNotFoundError(f"a path cannot hold a zero byte: {path!r}")
    handle: int = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root),
        ctypes.c_char_p(name),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if handle < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return _reopen(handle, path)


def open_link(path: str) -> int:
    """Opens the regular file that a link of /proc (exe, map_files/…) leads to. Raises as open_beneath."""
    return _reopen(os.open(path, _AT_PATH), path)


def _reopen(handle: int, path: str) -> int:
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise NotRegularError(f"not a regular file: {path}")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(f"/proc/self/fd/{handle}", flags)
    finally:
        os.close(handle)


def read_at(handle: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset`: fewer only where the file ends. Raises OSError.

    Never by mmap: a file cut short by its owner would then kill the reader.
    """
    if offset < 0 or offset > sys.maxsize or size <= 0:
        return b""
    data = os.pread(handle, size, offset)
    while len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
