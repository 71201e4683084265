"""Symbol files by build id: asked for when a binary is met, built by a process of their own, kept on disk and mapped.

A symbol file is mapped, not read: of 200 MB a lookup touches a few pages. So its seal covers the ends of it alone, with
its header and its last strings: a checksum of the whole would read 200 MB from the disk and take 0.3 s of CPU, for each
file and each start of the agent. What that would find in addition is damage in between. But the builder has every file
on the disk before it gets its name, so that a power cut leaves none that is damaged; only its owner can write to the
folder; and SymFile takes nothing for granted, so that damage makes names wrong, and nothing worse.
"""

from __future__ import annotations

import mmap
import os
import select
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from symbolizer.builder import Builder, Failure
from symbolizer.cachefolder import SEAL_BYTES, CacheFolder, is_build_id
from symbolizer.debuginfo.symfile import SymFile, SymFileError
from symbolizer.names import clean_name
from symbolizer.unknown import file_name

DEFAULT_LIMIT_BYTES = 1 << 30
VERSION = 1
"""Of what is kept: to be raised when symbol files get another form, or when more is put into them than before."""

NOTHING_THERE = "there is no debug information"
RETRY_SECONDS = 3600.0
MOST_OPEN = 128
MOST_WAITING = 32
MOST_ROOTS = 4
MOST_UNKEPT_BYTES = 64 << 20

MOST_FILE_BYTES = 1 << 30
_SEALED_ENDS = 64 << 10
_MOST_NEGATIVES = 8192
_MOST_LOST = 3
_SECONDS, _SECONDS_WITH_DEBUGINFOD = 30.0, 120.0
_TOUCH_SECONDS = 600.0
_LOOK_SECONDS = 1.0
_MOST_SAID, _LONGEST_SAID = 5, 200


@dataclass(slots=True)
class _Asked:
    """A symbol file that was asked for, so many times. `files`: descriptors of the binary and of root directories,
    none while it is being built."""

    path: str
    files: list[int]
    times: int = 1


@dataclass(slots=True)
class _Opened:
    """`unkept` are bytes of memory, where the file is nowhere on disk; `opened` and `touched` are monotonic times."""

    symbols: SymFile
    unkept: int
    opened: float
    touched: float


@dataclass(frozen=True, slots=True)
class _Negative:
    """Why there is none, when to try again, and how often building it took the builder's process with it."""

    reason: str
    retry: float
    lost: int


class SymFiles:
    """The symbol files of binaries. Not for use by several threads at once.

    A binary's key is its build id: cachefolder.is_build_id says what may follow it, owned_id there what should where
    others can write the binary. Nothing here raises for what is on disk, in a binary or in its debug information, and
    nothing waits for it but wait(). At most MOST_WAITING requests wait, with up to 1 + MOST_ROOTS descriptors each;
    MOST_OPEN files are mapped, the least recently used given up first; of files that are not to be kept on disk, or
    could not be, MOST_UNKEPT_BYTES are held in memory, each for RETRY_SECONDS: then it is to be asked for again.
    """

    def __init__(
        self,
        folder: Path | None,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        debuginfod: Sequence[str] = (),
        build: str = "symbolizer.debuginfo.symfile_process:build",
    ) -> None:
        """`folder` is where files are kept, up to `limit_bytes`; None to keep nothing. What is not on this machine is
        fetched from the servers `debuginfod` (URLs), if any. `build` ("module:name") is what the builder's process
        calls, as symfile_process.build."""
        self._folder = symbol_folder(folder, limit_bytes) if folder is not None else None
        self._builder = Builder[str]("symbolizer.debuginfo.symfile_process:answer", "debug information")
        self.fetches = bool(debuginfod)
        """Whether debug information may come from elsewhere than this machine."""
        self._seconds = _SECONDS_WITH_DEBUGINFOD if debuginfod else _SECONDS
        self._question = {
            "folder": str(folder or ""),
            "limit_bytes": limit_bytes,
            "debuginfod": list(debuginfod),
            "build": build,
        }
        self._asked: dict[str, _Asked] = {}
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._negatives: dict[str, _Negative] = {}
        self._news: list[str] = []
        self._unusable: list[str] = []

    def request(self, build_id: str, binary: int, path: str, roots: Sequence[int] = ()) -> None:
        """Asks for the symbol file of the binary open as `binary`, at `path` in the eyes of its process.

        `roots` are descriptors of the root directories to look for debug information in, likeliest first. All stay the
        caller's: what is needed of them is duplicated, as the process may be gone when its turn comes. Asking again
        costs nothing; what is asked for most often comes first.
        """
        if (asked := self._asked.get(build_id)) is not None:
            asked.times += 1
            return
        if not self.wants(build_id):
            return
        files: list[int] = []
        try:
            for file in [binary, *roots[:MOST_ROOTS]]:
                files.append(os.dup(file))
        except OSError:  # no more descriptors to be had, or the caller's is none
            _close(files)
            return
        self._asked[build_id] = _Asked(path, files)
        self._ask_next()

    def wants(self, build_id: str) -> bool:
        """Whether request() would have the file made: neither is it there or waited for, nor is it known that there is
        none, nor do too many wait."""
        return (
            len(self._asked) < MOST_WAITING
            and build_id not in self._asked
            and build_id not in self._opened
            and not self._is_negative(build_id)
            and is_build_id(build_id)
        )

    def poll(self) -> list[str]:
        """The build ids of which more is known than at the last call: get() has their symbol file, or why_not() a
        reason. To be called every now and then, and when fileno() is readable."""
        self._advance()
        news, self._news = self._news, []
        return news

    def get(self, build_id: str) -> SymFile | None:
        """The symbol file, None while there is none. It may be used for as long as it is held on to; to let go of it is
        to close it."""
        opened = self._opened.get(build_id)
        now = time.monotonic()
        if opened is not None and _is_outdated(opened, now):
            del self._opened[build_id]
        elif opened is not None:
            self._opened.move_to_end(build_id)
            if self._folder is not None and now - opened.touched > _TOUCH_SECONDS:
                opened.touched = now
                self._folder.touch(build_id)
            return opened.symbols
        if self._folder is None or build_id in self._asked or self._is_negative(build_id):
            return None
        if (file := self._folder.open(build_id)) is None:
            return None
        try:
            return self._open(build_id, file).symbols
        except SymFileError:
            self._folder.delete(build_id)
            return None
        except OSError:  # no memory to map it
            return None
        finally:
            os.close(file)

    def why_not(self, build_id: str) -> str:
        """Why get() has no symbol file, in words; "" where it has one, or nothing was asked."""
        if build_id in self._opened:
            return ""
        if build_id in self._asked:
            return "its debug information is being read"
        if not is_build_id(build_id):
            return "it has no build id"
        negative = self._negatives.get(build_id)
        return negative.reason if negative is not None else ""

    def wait(self, build_id: str, seconds: float) -> bool:
        """Waits until the symbol file that was asked for is there, or it is known that there is none, or the time is
        up; whether it is there. What else is learned meanwhile is kept for poll()."""
        if (asked := self._asked.get(build_id)) is not None:
            asked.times = 1 << 62
        self._wait(lambda: build_id not in self._asked, seconds)
        return self.get(build_id) is not None

    def settle(self, seconds: float) -> bool:
        """Waits until there is nothing left to build, or the time is up; whether there is nothing."""
        self._wait(lambda: not self._asked, seconds)
        return not self._asked

    def losses(self) -> str:
        """One sentence on debug information that could not be used, since the last call; "" where there was none."""
        unusable, self._unusable = self._unusable, []
        if not unusable:
            return ""
        named = ", ".join(unusable[:_MOST_SAID])
        more = f" and {len(unusable) - _MOST_SAID} more" if len(unusable) > _MOST_SAID else ""
        return f"There will be no lines and inlined functions of {named}{more}."

    def fileno(self) -> int:
        """A descriptor that is readable when poll() has something new; -1 while nothing is being built."""
        return self._builder.fileno()

    def cpu_ns(self) -> int:
        """CPU time that building has taken in all."""
        return self._builder.cpu_ns()

    def memory_bytes(self) -> int:
        """Memory of the builder's process, see Builder; 0 while there is none."""
        return self._builder.memory_bytes()

    def close(self) -> None:
        """Ends the builder's process and forgets everything but what is on disk."""
        self._builder.close()
        for asked in self._asked.values():
            _close(asked.files)
        self._asked.clear()
        self._opened.clear()
        self._negatives.clear()
        self._news.clear()
        self._unusable.clear()

    def _wait(self, is_over: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self._advance()
            left = end - time.monotonic()
            if is_over() or left <= 0:
                return
            answered = select.poll()
            if self.fileno() >= 0:
                answered.register(self.fileno(), select.POLLIN)
            answered.poll(1000 * min(left, _LOOK_SECONDS))

    def _advance(self) -> None:
        for build_id, answer in self._builder.finished():
            asked = self._asked.pop(build_id, None)
            self._news.append(build_id)
            if isinstance(answer, Failure) and asked is not None and not answer.reason.startswith(NOTHING_THERE):
                self._unusable.append(f"{file_name(asked.path)} ({clean_name(answer.reason, _LONGEST_SAID)})")
            if isinstance(answer, Failure):
                self._fail(build_id, answer)
            else:
                self._take(build_id, answer)
        self._ask_next()

    def _ask_next(self) -> None:
        if len(self._builder) or not self._asked:
            return
        build_id, asked = max(self._asked.items(), key=lambda item: item[1].times)  # of equals the first, the oldest
        question = self._question | {"build_id": build_id, "path": asked.path}
        files, asked.files = asked.files, []
        if not self._builder.submit(build_id, question, files, self._seconds):
            del self._asked[build_id]
            self._news.append(build_id)
            self._fail(build_id, Failure("its path is too long", final=True))

    def _take(self, build_id: str, file: int) -> None:
        try:
            status = os.fstat(file)
            unkept = status.st_size if not status.st_nlink else 0  # memory, or deleted already, has no name
            if self._has_room(unkept):
                self._open(build_id, file, unkept)
                self._negatives.pop(build_id, None)
            else:
                reason = f"its symbol file of {unkept / 1e6:,.0f} MB cannot be kept on disk"
                self._fail(build_id, Failure(reason, final=False))
        except (SymFileError, OSError) as error:
            self._fail(build_id, Failure(str(error), final=False))
            if self._folder is not None:  # lest it is found there again
                self._folder.delete(build_id)
        finally:
            os.close(file)

    def _open(self, build_id: str, file: int, unkept: int = 0) -> _Opened:
        """Maps a file that its seal ends. Raises SymFileError, OSError."""
        size = os.fstat(file).st_size - SEAL_BYTES
        if size <= 0:
            raise SymFileError("the symbol file is empty")
        now = time.monotonic()
        symbols = SymFile(mmap.mmap(file, size, prot=mmap.PROT_READ))
        opened = self._opened[build_id] = _Opened(symbols, unkept, now, now)
        if len(self._opened) > MOST_OPEN:
            self._opened.popitem(last=False)
        return opened

    def _has_room(self, unkept: int) -> bool:
        """Whether so many bytes more may be held in memory."""
        now = time.monotonic()
        for build_id in [build_id for build_id, opened in self._opened.items() if _is_outdated(opened, now)]:
            del self._opened[build_id]
        return not unkept or unkept + sum(opened.unkept for opened in self._opened.values()) <= MOST_UNKEPT_BYTES

    def _is_negative(self, build_id: str) -> bool:
        negative = self._negatives.get(build_id)
        return negative is not None and time.monotonic() < negative.retry

    def _fail(self, build_id: str, failure: Failure) -> None:
        """Notes why there is none. Where that cost the builder's process, busy times may be to blame as well as the
        file, so that it is tried a few times more; what may yet be installed is looked for again for ever."""
        before = self._negatives.pop(build_id, None)
        lost = (before.lost if before is not None else 0) + failure.lost
        final = failure.final or lost >= _MOST_LOST
        if len(self._negatives) >= _MOST_NEGATIVES:
            del self._negatives[next(iter(self._negatives))]
        retry = float("inf") if final else time.monotonic() + RETRY_SECONDS
        self._negatives[build_id] = _Negative(failure.reason, retry, lost)


def symbol_folder(folder: Path, limit_bytes: int) -> CacheFolder:
    """Where symbol files are kept."""
    return CacheFolder(folder, "symbols", VERSION, limit_bytes, most_bytes=MOST_FILE_BYTES, sealed_ends=_SEALED_ENDS)


def _is_outdated(opened: _Opened, now: float) -> bool:
    return bool(opened.unkept) and now - opened.opened >= RETRY_SECONDS


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
