"""Unwind tables on disk, one file for each build id, so that a file is taken apart once in the life of a machine.

The agent is root and what it reads here steers code in the kernel: so only files of its own in a folder of its own are
read, each has a checksum over its build id and its contents, and the table it holds is checked like any other bytes.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from profiler.unwind.table import VERSION, TableError, UnwindTable

_BUILD_ID = re.compile(r"(content:)?[0-9a-f]{1,64}")
_ENDING = f".v{VERSION}.unwind"
_OURS = re.compile(r"(content-)?[0-9a-f]{1,64}\.v[0-9]+\.unwind(\.[0-9]+)?")
_DIGEST_BYTES = 32
_MAX_FILE_BYTES = 64 << 20
_ABANDONED_SECONDS = 3600
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class TableCache:
    """The tables in `folder`, of which those used longest ago go when all take more than `limit_bytes`.

    Nothing here raises for what is on disk: a folder or a file that is a symbolic link, of another user or open for
    others to write is not used, a damaged file is deleted, and where nothing can be written nothing is kept.
    """

    def __init__(self, folder: Path, limit_bytes: int = 256 << 20) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def get(self, build_id: str) -> UnwindTable | None:
        """The table of a file by its build id (hex, or "content:" and hex), None if it is not there."""
        name = _file_name(build_id)
        if name is None:
            return None
        with suppress(OSError), _opened(self.folder) as folder:
            data = _read_ours(name, folder)
            if data is None:
                return None
            table = _checked(build_id, data)
            with suppress(OSError):  # a cache that can only be read serves as well
                if table is None:
                    os.unlink(name, dir_fd=folder)
                else:
                    os.utime(name, dir_fd=folder, follow_symlinks=False)
            return table
        return None

    def put(self, build_id: str, table: UnwindTable) -> bool:
        """Keeps a table; False if that was not possible."""
        name = _file_name(build_id)
        data = table.to_bytes()
        size = _DIGEST_BYTES + len(data)
        if name is None or size > min(self.limit_bytes, _MAX_FILE_BYTES):
            return False
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened(self.folder) as folder:
                self._make_room(folder, size)
                _write(name, _digest(build_id, data) + data, folder)
        except OSError:
            return False
        return True

    def _make_room(self, folder: int, size: int) -> None:
        """Deletes what was used longest ago until `size` bytes more are within the limit, and what was left half
        written by an agent that ended."""
        files: list[tuple[int, int, str]] = []
        abandoned = time.time() - _ABANDONED_SECONDS
        with os.scandir(folder) as entries:
            for entry in entries:
                if not _OURS.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                    continue
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if not entry.name.endswith(".unwind") and found.st_mtime < abandoned:
                        os.unlink(entry.name, dir_fd=folder)
                    else:
                        files.append((found.st_mtime_ns, found.st_size, entry.name))
        total = size + sum(file[1] for file in files)
        for _, bytes_freed, name in sorted(files):
            if total <= self.limit_bytes:
                break
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
                total -= bytes_freed


def _file_name(build_id: str) -> str | None:
    return build_id.replace(":", "-") + _ENDING if _BUILD_ID.fullmatch(build_id) else None


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder. Raises OSError; PermissionError if it is not ours alone to write to."""
    descriptor = os.open(folder, _OPEN_FOLDER)
    try:
        if not _ours_alone(os.fstat(descriptor)):
            raise PermissionError(f"others can write to {folder}")
        yield descriptor
    finally:
        os.close(descriptor)


def _ours_alone(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_ours(name: str, folder: int) -> bytes | None:
    """What is in a file of the folder; None if it is not one that we wrote. Raises OSError."""
    descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _ours_alone(found) or found.st_size > _MAX_FILE_BYTES:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def _digest(build_id: str, data: bytes) -> bytes:
    digest = blake2b(build_id.encode() + b"\0", digest_size=_DIGEST_BYTES)
    digest.update(data)
    return digest.digest()


def _checked(build_id: str, data: bytes) -> UnwindTable | None:
    contents = data[_DIGEST_BYTES:]
    if data[:_DIGEST_BYTES] != _digest(build_id, contents):
        return None
    try:
        return UnwindTable.from_bytes(contents)
    except TableError:
        return None


def _write(name: str, data: bytes, folder: int) -> None:
    """Puts a file into the folder, whole or not at all. Raises OSError."""
    beside = f"{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=folder)
    try:
        with open(os.open(beside, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(data)
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise
