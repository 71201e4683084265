"""Files of one kind on disk, by build id, so that what takes long to make is made once in the life of a machine.

The agent is root and trusts what it reads here: so only files of its own in a folder of its own are read. A file is its
contents and a seal of 32 bytes, which says that they are whole and of which build id.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from symbolizer.files import read_at

SEAL_BYTES = 32

_BUILD_ID = re.compile(r"(content:)?[0-9a-f]{1,64}(@[0-9a-f]{1,64})?")
_ABANDONED_SECONDS = 3600
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def is_build_id(text: str) -> bool:
    """Whether a file can be kept by it: hex, or "content:" and hex. "@" and more hex or digits may follow, where the
    build id alone does not say which file it is (owned_id)."""
    return _BUILD_ID.fullmatch(text) is not None


def owned_id(build_id: str, file: int) -> str:
    """The build id where the open file is root's or ours; else with its owner's number, "5f3a…@1000": who can write a
    file can give it any build id, and what is made of it must not be taken for another's. Raises OSError."""
    owner = os.fstat(file).st_uid
    return build_id if owner in (0, os.geteuid()) else f"{build_id}@{owner}"


def unique_id(owned: str, identity: str) -> str:
    """What owned_id() gave with the hex of a hash over the file's content (identity.py): no two files share it."""
    build_id, _, owner = owned.partition("@")
    return f"{build_id}@{identity}{owner}"


class CacheFolder:
    """The files in `folder`, of which those used longest ago go when all take more than `limit_bytes`.

    Nothing here raises for what is on disk: a folder or a file that is a symbolic link, of another user or open for
    others to write is not used, a damaged file is deleted, and where nothing can be written nothing is kept. Several
    processes may use the same folder; what one has open stays as it is when another deletes or replaces it.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        version: int,
        limit_bytes: int,
        *,
        most_bytes: int,
        sealed_ends: int | None = None,
    ) -> None:
        """Files are named BUILD_ID.vVERSION.KIND; those of lower versions are deleted. No file is larger than
        `most_bytes`. The seal covers all of the contents, or `sealed_ends` bytes at either end of them."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._version = version
        self._ending = f".v{version}.{kind}"
        self._most_bytes = most_bytes
        self._sealed_ends = sealed_ends
        self._ours = re.compile(rf"(content-)?[0-9a-f]{{1,64}}(@[0-9a-f]{{1,64}})?\.v([0-9]+)\.{kind}(\.[0-9]+)?")

    def read(self, build_id: str) -> bytes | None:
        """The contents kept for a build id, None if there are none."""
        file = self._open(build_id)
        if file is None:
            return None
        try:
            data = read_at(file, 0, os.fstat(file).st_size)
        except OSError:
            return None
        finally:
            os.close(file)
        if data[-SEAL_BYTES:] != self._seal(build_id, len(data) - SEAL_BYTES, _reader(data)):
            self.delete(build_id)
            return None
        return data[:-SEAL_BYTES]

    def open(self, build_id: str) -> int | None:
        """A descriptor, which is the caller's to close, of the contents and their seal behind them; None if there are
        none. Reads no more than the seal and what it covers."""
        file = self._open(build_id)
        if file is None:
            return None
        try:
            size = os.fstat(file).st_size - SEAL_BYTES
            seal = self._seal(build_id, size, lambda at, length: read_at(file, at, length))
            if size >= 0 and read_at(file, size, SEAL_BYTES) == seal:
                return file
            self.delete(build_id)
        except OSError:
            pass
        os.close(file)
        return None

    def put(self, build_id: str, contents: bytes) -> bool:
        """Keeps contents; False if that was not possible."""
        size = len(contents) + SEAL_BYTES
        if not is_build_id(build_id) or size > min(self.limit_bytes, self._most_bytes):
            return False
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _folder(self.folder) as folder:
                self._make_room(folder, size)
                self._write(self._name(build_id), contents, self.seal(build_id, contents), folder)
        except OSError:
            return False
        return True

    def touch(self, build_id: str) -> None:
        """Notes that a file is in use, so that it is not the next to go."""
        with suppress(OSError), _folder(self.folder) as folder:
            os.utime(self._name(build_id), dir_fd=folder, follow_symlinks=False)

    def delete(self, build_id: str) -> None:
        """Deletes what is kept for a build id."""
        with suppress(OSError), _folder(self.folder) as folder:
            os.unlink(self._name(build_id), dir_fd=folder)

    def seal(self, build_id: str, contents: bytes) -> bytes:
        """The bytes that follow the contents in a file."""
        return self._seal(build_id, len(contents), _reader(contents))

    def _seal(self, build_id: str, size: int, read: Callable[[int, int], bytes]) -> bytes:
        digest = blake2b(f"{build_id}\0{size}\0".encode(), digest_size=SEAL_BYTES)
        ends = self._sealed_ends
        if ends is None or size <= 2 * ends:
            digest.update(read(0, size))
        else:
            digest.update(read(0, ends))
            digest.update(read(size - ends, ends))
        return digest.digest()

    def _open(self, build_id: str) -> int | None:
        """A descriptor of the file of a build id, which counts as used now; None if there is none that we wrote."""
        if not is_build_id(build_id):
            return None
        name = self._name(build_id)
        with suppress(OSError), _folder(self.folder) as folder:
            file = os.open(name, _OPEN_FILE, dir_fd=folder)
            if self._is_ours(os.fstat(file)):
                with suppress(OSError):  # a cache that can only be read serves as well
                    os.utime(name, dir_fd=folder, follow_symlinks=False)
                return file
            os.close(file)
        return None

    def _is_ours(self, found: os.stat_result) -> bool:
        return stat.S_ISREG(found.st_mode) and _ours_alone(found) and found.st_size <= self._most_bytes

    def _name(self, build_id: str) -> str:
        return build_id.replace(":", "-") + self._ending

    def _make_room(self, folder: int, size: int) -> None:
        """Deletes what was used longest ago until `size` bytes more are within the limit, what an earlier version of
        this program kept, and what was left half written by a process that ended."""
        files: list[tuple[int, int, str]] = []
        abandoned = time.time() - _ABANDONED_SECONDS
        with os.scandir(folder) as entries:
            for entry in entries:
                name = self._ours.fullmatch(entry.name)
                if not name or not entry.is_file(follow_symlinks=False):
                    continue
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if int(name[3]) < self._version or (name[4] and found.st_mtime < abandoned):
                        os.unlink(entry.name, dir_fd=folder)
                    else:
                        files.append((found.st_mtime_ns, found.st_size, entry.name))
        total = size + sum(file[1] for file in files)
        for _, bytes_freed, file_name in sorted(files):
            if total <= self.limit_bytes:
                break
            with suppress(OSError):
                os.unlink(file_name, dir_fd=folder)
                total -= bytes_freed

    def _write(self, name: str, contents: bytes, seal: bytes, folder: int) -> None:
        """Puts a file into the folder, whole or not at all. Raises OSError."""
        beside = f"{name}.{secrets.randbits(64)}"  # no pid: another agent's container may have the same
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(beside, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(contents)
                file.write(seal)
                file.flush()
                if self._sealed_ends is not None:  # the seal would not show what a power cut left out of the middle
                    os.fsync(file.fileno())
            os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with suppress(OSError):
                os.unlink(beside, dir_fd=folder)
            raise


def _reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, size: data[at : at + size]


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """A descriptor of the folder. Raises OSError; PermissionError if it is not ours alone to write to."""
    descriptor = os.open(path, _OPEN_FOLDER)
    try:
        if not _ours_alone(os.fstat(descriptor)):
            raise PermissionError(f"others can write to {path}")
        yield descriptor
    finally:
        os.close(descriptor)


def _ours_alone(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
