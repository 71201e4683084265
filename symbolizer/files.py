"""Opening files that other users wrote, below the root directory of the process that uses them.

Nothing is opened for reading before it is known to be a regular file: opening a FIFO can block and
opening a device can have effects. So a path is first resolved to an O_PATH descriptor, which has no
effect on whatever it names, and that very object is then opened through /proc/self/fd. The files of
/proc, /sys and the like are regular ones too, but reading some has effects: they are refused.
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
_LARGE = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# f_type of statfs(2) (linux/magic.h). Layered are those where mappings have another device than stat(2) tells.
_LAYERED = {0x794C7630, 0x9123683E, 0x61756673, 0xCA451A4E}  # overlayfs, btrfs, aufs, bcachefs
_OF_THE_KERNEL = {
    0x9FA0,  # proc
    0x62656572,  # sysfs
    0x64626720,  # debugfs
    0x74726163,  # tracefs
    0x73636673,  # securityfs
    0x62656570,  # configfs
    0x27E0EB,  # cgroup
    0x63677270,  # cgroup2
    0xCAFE4A11,  # bpf
    0x6165676C,  # pstore
    0xDE5E81E4,  # efivarfs
    0x42494E4D,  # binfmt_misc
    0x65735543,  # fusectl
    0x19800202,  # mqueue
}


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class NotRegularError(OSError):
    """What the path names is a directory, a device, a pipe, a socket, or a file that the kernel makes up."""


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
        if not stat.S_ISREG(os.fstat(handle).st_mode) or _file_system(handle) in _OF_THE_KERNEL:
            raise NotRegularError(f"not a regular file: {path}")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(f"/proc/self/fd/{handle}", flags)
    finally:
        os.close(handle)


def version(handle: int) -> tuple[int, ...]:
    """Device, inode, size and times of an open file: others once somebody has written to it. Raises OSError."""
    status = os.fstat(handle)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_layered(handle: int) -> bool:
    """Whether an open file is on a file system that names mappings of it with another device than stat does."""
    return _file_system(handle) in _LAYERED


def _file_system(handle: int) -> int:
    status = ctypes.create_string_buffer(512)  # struct statfs, its type first, takes less
    if _libc.fstatfs(ctypes.c_int(handle), status):
        return 0
    return ctypes.c_ulong.from_buffer(status).value & 0xFFFFFFFF


def read_at(handle: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset`: fewer only where the file ends. Raises OSError.

    Never by mmap: a file cut short by its owner would then kill the reader.
    """
    if offset < 0 or offset > sys.maxsize or size <= 0:
        return b""
    if size > _LARGE:  # what a damaged file claims to have: memory is taken for as much as is asked for
        size = min(size, max(os.fstat(handle).st_size - offset, 1))
    data = os.pread(handle, size, offset)
    while len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
