"""The folder of fetched debug files that is shared with elfutils' clients (debuginfod-find, gdb, perf, …).

The layout and the rules are those of elfutils 0.188 (debuginfod-find(1), CACHE, and what it was seen to do):
FOLDER/BUILDID/debuginfo is the file, mode 0400 in a folder of mode 0700; an empty one says that no server had it, for
as many seconds after its modification as FOLDER/cache_miss_s says. Once in cache_clean_interval_s what was not used
for max_unused_age_s is removed. Each of these three holds a decimal number and is made when it is first asked for.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from symbolizer.files import open_beneath

_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){2,64}")
_OLD = re.compile(r"debuginfo(\..{6})?|executable|source.*")
_NAME = "debuginfo"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_ENTRIES = 100_000


def cache_folder(environment: Mapping[str, str]) -> str:
    """Where elfutils' clients with these environment variables keep fetched files."""
    if folder := environment.get("DEBUGINFOD_CACHE_PATH"):
        return folder
    home = environment.get("HOME", "/")
    older = os.path.join(home, ".debuginfod_client_cache")
    if os.path.exists(older):
        return older
    return os.path.join(environment.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "debuginfod_client")


class DebuginfodCache:
    """One such folder, which need not exist yet. Several processes may use it at once.

    Methods raise OSError where the folder, or something in it, is not as it should be. Build ids are in hex.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)

    def open(self, build_id: str) -> int | None:
        """A descriptor of the debug file, or None. It counts as used now."""
        try:
            with self._of(build_id) as folder:
                file = open_beneath(folder, _NAME, follow=False)
        except FileNotFoundError:
            return None
        status = os.fstat(file)
        if not status.st_size:
            os.close(file)
            return None
        with suppress(OSError):  # another user's
            os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))
        return file

    def discard(self, build_id: str) -> None:
        """Removes the debug file, which is of no use to anyone."""
        with suppress(FileNotFoundError), self._of(build_id) as folder:
            os.unlink(_NAME, dir_fd=folder)

    def is_missing(self, build_id: str) -> bool:
        """Whether it is still remembered that no server had it."""
        try:
            with self._of(build_id) as folder:
                status = os.stat(_NAME, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return False
        return time.time() - status.st_mtime <= self._setting("cache_miss_s", 600)

    def remember_missing(self, build_id: str) -> None:
        """No server has it."""
        with self._of(build_id, make=True) as folder:
            with suppress(FileNotFoundError):
                if not os.stat(_NAME, dir_fd=folder, follow_symlinks=False).st_size:
                    os.unlink(_NAME, dir_fd=folder)
            with suppress(FileExistsError):
                os.close(os.open(_NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder))

    @contextmanager
    def store(self, build_id: str) -> Iterator[int]:
        """A descriptor to write the file to. It takes its place if the block ends without an exception."""
        with self._of(build_id, make=True) as folder:
            name = f"{_NAME}.{os.urandom(3).hex()}"
            file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                yield file
                os.fchmod(file, 0o400)
                os.fsync(file)  # or the file could be empty after the machine stops, which says "missing"
                os.rename(name, _NAME, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(name, dir_fd=folder)
                with suppress(OSError):  # not empty
                    os.rmdir(os.path.join(self.folder, build_id))
                raise
            finally:
                os.close(file)

    def room(self) -> int:
        """Bytes that are free where the files are."""
        self._make()
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def clean(self) -> None:
        """Removes what was not used for long, if it is time to."""
        interval = self._setting("cache_clean_interval_s", 86400)
        mark = os.path.join(self.folder, "cache_clean_interval_s")
        if time.time() - os.stat(mark).st_mtime < interval:
            return
        os.utime(mark)
        oldest = time.time() - self._setting("max_unused_age_s", 604800)
        with os.scandir(self.folder) as entries:
            for _, entry in zip(range(_MAX_ENTRIES), entries, strict=False):
                if _BUILD_ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    with suppress(OSError), self._of(entry.name) as folder:
                        _remove_unused(folder, oldest)
                        if os.fstat(folder).st_mtime <= oldest:
                            os.rmdir(entry.path)

    def _make(self) -> None:
        os.makedirs(os.path.dirname(self.folder), 0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self.folder)

    @contextmanager
    def _of(self, build_id: str, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder of one build id. Another client may be removing what is empty meanwhile."""
        if not _BUILD_ID.fullmatch(build_id):
            raise ValueError(f"not a build id: {build_id!r}")
        path = os.path.join(self.folder, build_id)
        if make:
            self._make()
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
        folder = os.open(path, _FOLDER)
        try:
            yield folder
        finally:
            os.close(folder)

    def _setting(self, name: str, default: int) -> int:
        path = os.path.join(self.folder, name)
        try:
            with open(path, "rb", buffering=0, opener=_open_regular) as file:
                return max(int(file.read(32)), 0)
        except FileNotFoundError:
            self._make()
            with suppress(FileExistsError), open(path, "x") as made:
                made.write(str(default))
        except ValueError:
            pass
        return default


def _open_regular(path: str, flags: int) -> int:
    folder, _, name = path.rpartition("/")
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(handle, name)
    finally:
        os.close(handle)


def _remove_unused(folder: int, oldest: float) -> None:
    for name in os.listdir(folder):
        if _OLD.fullmatch(name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_atime <= oldest:
                os.unlink(name, dir_fd=folder)
