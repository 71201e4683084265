"""Debug files fetched by build id from debuginfod servers (elfutils' debuginfod(8): GET /buildid/BUILDID/debuginfo).

A server is not trusted to answer, to be brief, or to be right. Whoever asks has an answer within `Limits.seconds`,
whatever the servers do. What comes is written to the cache whole, and only if it is an ELF file of that build id.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

from symbolizer.debuginfo.bounded_http import Call, StatusError, TooLargeError, TransferError
from symbolizer.debuginfo.debuginfod_cache import DebuginfodCache
from symbolizer.elf import MAX_WHOLE_BUILD_ID, ElfError, read_elf
from symbolizer.files import read_at

SILENT_SECONDS = 300.0  # a server that could not be asked is left alone for
FAILED_SECONDS = 600.0  # a build id that could not be fetched is not asked for again for; as cache_miss_s
MAX_FAILURES = 4096

_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){2,64}")
_TOO_LARGE = 406  # what servers answer that heed X-DEBUGINFOD-MAXSIZE


class Answer(StrEnum):
    """How a question for a build id ended."""

    CACHED = "in the cache"
    FETCHED = "fetched"
    MISSING = "no server has it"
    TOO_LARGE = "too large"
    NOT_IT = "not the file asked for"
    NO_ANSWER = "no answer"
    TIMEOUT = "out of time"
    BUSY = "too many questions at once"
    NO_ROOM = "no room in the cache"
    CACHE_UNUSABLE = "cache unusable"
    INVALID = "not a build id"


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds`: until a question has its answer. `stall_seconds`: without a byte from a server. `most_bytes`: of one
    file. `spare_bytes`: left free on the cache's disk. `redirects`: of one question to one server. `questions`: over
    the network at once."""

    seconds: float = 90.0
    stall_seconds: float = 20.0
    most_bytes: int = 1 << 30
    spare_bytes: int = 1 << 30
    redirects: int = 5
    questions: int = 4


def server_urls(text: str) -> tuple[str, ...]:
    """The servers of a DEBUGINFOD_URLS: prefixes of URLs with white space between them.

    Raises ValueError for what is no http:// or https:// URL. Words like "ima:enforcing", by which newer elfutils are
    told to check signatures, are left out.
    """
    urls = [word.rstrip("/") for word in text.split() if not word.startswith("ima:")]
    for url in urls:
        try:
            parts = urlsplit(url)
            proper = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            proper = False
        if not proper or not url.isascii() or not url.isprintable():
            raise ValueError(f"{url!r} is no debuginfod server: give it as https://HOST or http://HOST")
    return tuple(dict.fromkeys(urls))


def limits_of(environment: Mapping[str, str], limits: Limits | None = None) -> Limits:
    """`limits` with what debuginfod-find's variables say instead, as whole numbers above 0: DEBUGINFOD_MAXTIME and
    DEBUGINFOD_TIMEOUT in seconds, DEBUGINFOD_MAXSIZE in bytes."""
    limits = limits or Limits()

    def number(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0

    return replace(
        limits,
        seconds=min(number("DEBUGINFOD_MAXTIME") or limits.seconds, threading.TIMEOUT_MAX),
        stall_seconds=min(number("DEBUGINFOD_TIMEOUT") or limits.stall_seconds, 86400.0),
        most_bytes=number("DEBUGINFOD_MAXSIZE") or limits.most_bytes,
    )


class Debuginfod:
    """A client of some servers, asked in their order. For use by several threads at once."""

    def __init__(self, urls: tuple[str, ...], folder: str, limits: Limits | None = None) -> None:
        """`urls` as server_urls() gives them, `folder` as debuginfod_cache.cache_folder() does."""
        self.answers: Counter[Answer] = Counter()
        """How many calls of `fetch` ended so."""
        self._urls = urls
        self._cache = DebuginfodCache(folder)
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._limits.questions)
        self._questions: dict[str, _Question] = {}
        self._failures: dict[str, _Failure] = {}
        self._silent_until: dict[str, float] = {}

    def fetch(self, build_id: str) -> int | None:
        """A descriptor of the ELF file with this build id (in hex) that has its debug information, or None.

        Takes `Limits.seconds` at most. Why there is none says `reason`. Raises nothing.
        """
        file: int | None = None
        try:
            file, answer, reason = self._find(build_id)
        except OSError as error:
            answer, reason = Answer.CACHE_UNUSABLE, f"the cache {self._cache.folder} cannot be used: {error}"
        with self._lock:
            self.answers[answer] += 1
            if file is None:
                self._remember(build_id, answer, reason)
            else:
                self._failures.pop(build_id, None)
        return file

    def reason(self, build_id: str) -> str:
        """Why the last question for this build id gave no file, in words; "" where that is not known."""
        with self._lock:
            failure = self._failures.get(build_id)
            return failure.reason if failure else ""

    def _find(self, build_id: str) -> tuple[int | None, Answer, str]:
        if not _BUILD_ID.fullmatch(build_id):
            return None, Answer.INVALID, "it is not a build id"
        if (file := self._cached(build_id)) is not None:
            return file, Answer.CACHED, ""
        with self._lock:
            failure = self._failures.get(build_id)
        if failure and time.monotonic() < failure.until:
            return None, failure.answer, failure.reason
        if self._cache.is_missing(build_id):
            return None, Answer.MISSING, "no debuginfod server had it when last asked"
        answer, reason = self._ask(build_id)
        if answer is Answer.FETCHED and (file := self._cached(build_id)) is None:
            answer, reason = Answer.CACHE_UNUSABLE, f"it vanished from the cache {self._cache.folder}"
        return file, answer, reason

    def _cached(self, build_id: str) -> int | None:
        file = self._cache.open(build_id)
        if file is not None:
            try:
                _check(file, build_id)
            except (ElfError, OSError):  # other clients keep whatever they are sent
                os.close(file)
                self._cache.discard(build_id)
                return None
        return file

    def _remember(self, build_id: str, answer: Answer, reason: str) -> None:
        now = time.monotonic()
        known = self._failures.get(build_id)
        if known is None or known.until <= now:
            while len(self._failures) >= MAX_FAILURES:
                del self._failures[next(iter(self._failures))]
            lasting = answer not in (Answer.MISSING, Answer.BUSY)  # the cache remembers what is missing
            self._failures[build_id] = _Failure(now + FAILED_SECONDS * lasting, answer, reason)

    def _ask(self, build_id: str) -> tuple[Answer, str]:
        end = time.monotonic() + self._limits.seconds
        if not self._slots.acquire(timeout=self._limits.seconds):
            return Answer.BUSY, "too many questions to debuginfod servers at once"
        with self._lock:
            question = self._questions.get(build_id)
            urls = [url for url in self._urls if self._silent_until.get(url, 0.0) <= time.monotonic()]
            if question or not urls:
                self._slots.release()
            else:
                question = _Question(build_id, urls, self._cache, self._limits, self._asked)
                try:
                    question.start()
                except RuntimeError:
                    self._slots.release()
                    return Answer.BUSY, "no thread could be started to ask debuginfod servers"
                self._questions[build_id] = question
        if not question:
            return Answer.NO_ANSWER, "no debuginfod server could be asked lately"
        question.join(max(end - time.monotonic(), 0.0))
        if question.is_alive():
            question.abort()
            return Answer.TIMEOUT, f"no debuginfod server sent it within {self._limits.seconds:g} s"
        return question.answer, question.reason

    def _asked(self, question: _Question) -> None:
        """Called by a question's thread at its end, which may be after whoever asked has given up."""
        with self._lock:
            self._questions.pop(question.build_id, None)
            for url in question.silent:
                self._silent_until[url] = time.monotonic() + SILENT_SECONDS
        self._slots.release()


@dataclass(frozen=True, slots=True)
class _Failure:
    until: float
    answer: Answer
    reason: str


class _Question(threading.Thread):
    """Asks one server after the other for one build id, and puts what it gets into the cache."""

    def __init__(
        self, build_id: str, urls: list[str], cache: DebuginfodCache, limits: Limits, asked: Callable[[_Question], None]
    ) -> None:
        super().__init__(name=f"debuginfod {build_id[:8]}", daemon=True)
        self.build_id = build_id
        self.answer = Answer.CACHE_UNUSABLE
        self.reason = ""
        self.silent: list[str] = []
        """Servers that did not answer at all."""
        self._urls = urls
        self._cache = cache
        self._limits = limits
        self._asked = asked
        self._call: Call | None = None
        self._aborted = False

    def abort(self) -> None:
        self._aborted = True
        if self._call:
            self._call.abort()

    def run(self) -> None:
        try:
            self.answer, self.reason = self._run()
        except OSError as error:
            self.reason = f"the cache {self._cache.folder} cannot be used: {error}"
        finally:
            self._asked(self)

    def _run(self) -> tuple[Answer, str]:
        file = self._cache.open(self.build_id)
        if file is not None:  # another question for it has just ended
            os.close(file)
            return Answer.FETCHED, ""
        self._cache.clean()
        room = self._cache.room() - self._limits.spare_bytes
        if room <= 0:
            return Answer.NO_ROOM, f"less than {self._limits.spare_bytes} bytes are free for the cache"
        failures: list[tuple[Answer, str]] = []
        try:
            with self._cache.store(self.build_id) as file:
                for url in self._urls:
                    os.ftruncate(file, 0)
                    os.lseek(file, 0, os.SEEK_SET)
                    failure = self._download(url, file, min(room, self._limits.most_bytes))
                    if failure is None:
                        return Answer.FETCHED, ""
                    failures.append((failure[0], f"{_shown(url)}: {failure[1]}"))
                raise _NothingError
        except _NothingError:
            pass
        reason = "; ".join(sentence for _, sentence in failures)
        for answer, _ in failures:
            if answer is not Answer.MISSING:
                return answer, reason
        self._cache.remember_missing(self.build_id)
        return Answer.MISSING, reason

    def _download(self, url: str, file: int, most_bytes: int) -> tuple[Answer, str] | None:
        self._call = call = Call(
            f"{url}/buildid/{self.build_id}/debuginfo",
            {"User-Agent": "pilotlight", "X-DEBUGINFOD-MAXSIZE": str(most_bytes)},
            stall_seconds=self._limits.stall_seconds,
            redirects=self._limits.redirects,
        )
        if self._aborted:
            return Answer.TIMEOUT, "there was no time left to ask it"
        try:
            call.get(file, most_bytes)
            _check(file, self.build_id)
        except StatusError as error:
            return Answer.TOO_LARGE if error.status == _TOO_LARGE else Answer.MISSING, str(error)
        except TooLargeError as error:
            return Answer.TOO_LARGE, str(error)
        except TransferError as error:
            if not call.answered:
                self.silent.append(url)
            return Answer.NO_ANSWER, str(error)
        except ElfError as error:
            return Answer.NOT_IT, f"what it sent is not the file asked for: {error}"
        return None


class _NothingError(Exception):
    """No server had it."""


def _check(file: int, build_id: str) -> None:
    """Raises ElfError where it is not an ELF file of that build id, or was cut short."""
    elf = read_elf(partial(read_at, file))
    found = elf.build_id(MAX_WHOLE_BUILD_ID)
    if found != build_id:
        raise ElfError(f"its build id is {found or 'missing'}")
    size = os.fstat(file).st_size
    if elf.end > size:
        raise ElfError(f"it is cut short: {size} bytes of {elf.end}")


def _shown(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
