"""Windows on their way to the server: queued in bounded memory, sent in order, sent again until accepted.

Better names for what earlier windows hold go the same way, when no window waits: they can do without.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from profiler.better_names import encode
from profiler.formats.otlp_write import PushIdentity, write_otlp
from profiler.model import Profile
from symbolizer.types import Location

PATH = "/v1development/profiles"
NAMES_PATH = "/api/v1/names"
NOT_DELIVERED = "window not delivered"
_TIMEOUT = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_MOST_WITHOUT_SAMPLES = 8640  # a day of windows


class PushError(Exception):
    """The server's address cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to push: from a URL such as http://127.0.0.1:4099, with the token that its server asks for."""

    host: str
    port: int
    path: str
    tls: bool
    token: str

    @property
    def names_path(self) -> str:
        return self.base + NAMES_PATH

    @property
    def base(self) -> str:
        """What all paths of the server begin with."""
        return self.path.removesuffix(PATH)


def parse_target(url: str, token: str = "") -> Target:
    """Raises PushError for what is no http or https URL."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise PushError(f"{url!r} is no address of a server: give one such as http://127.0.0.1:4099.")
    tls = parts.scheme == "https"
    return Target(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/") + PATH, tls, token)


@dataclass(frozen=True, slots=True)
class _Waiting:
    profile: Profile  # without samples
    identity: PushIdentity
    body: bytes


@dataclass(frozen=True, slots=True)
class _WaitingNames:
    locations: int
    body: bytes


@dataclass(frozen=True, slots=True)
class PushCounts:
    """Windows sent, refused by the server for good, stripped of their samples for want of memory, and dropped; and
    locations whose better names were sent, refused for good, or dropped for want of memory."""

    sent: int = 0
    refused: int = 0
    stripped: int = 0
    dropped: int = 0
    names_sent: int = 0
    names_refused: int = 0
    names_dropped: int = 0


class Pusher:
    """Sends profiles and better names from a thread of its own. put() and put_names() never wait.

    While the server is away the queue grows up to `most_bytes`; then the oldest windows lose their samples,
    and only their account goes on, with those ticks as lost ("window not delivered"). Names take an eighth of it at
    most, and the oldest are dropped before any window loses a sample. `say` takes one sentence for the log.
    """

    def __init__(self, target: Target, agent: str, say: Callable[[str], None], *, most_bytes: int = 16 << 20) -> None:
        self.counts = PushCounts()
        self._target, self._agent, self._say, self._most_bytes = target, agent, say, most_bytes
        self._epoch, self._sequence = time.time_ns(), 0
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._names: deque[_WaitingNames] = deque()
        self._names_bytes = 0
        self._names_pause, self._names_due = _FIRST_PAUSE, 0.0
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._asked_pause = 0.0  # by the server, with its last answer
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._thread.start()

    def put(self, profile: Profile) -> None:
        """Queues a window for sending."""
        self._sequence += 1
        identity = PushIdentity(self._agent, self._epoch, self._sequence)
        waiting = _Waiting(replace(profile, samples=()), identity, _encode(profile, identity))
        before = self.counts
        with self._changed:
            self._queue.append(waiting)
            self._bytes += len(waiting.body)
            self._shrink()
            self._changed.notify()
        if self.counts.dropped > before.dropped or (self.counts.stripped and not before.stripped):
            self._say(
                f"The queue is full: {self.counts.stripped:,} windows keep only their account, "
                f"{self.counts.dropped:,} were dropped."
            )
        self._say_dropped(before)

    def put_names(self, locations: Iterable[Location]) -> None:
        """Queues names that are better than those that earlier windows gave the same build ids and addresses.

        Locations without a build id or a name are left out. The names go when no window waits.
        """
        messages = [_WaitingNames(message.locations, _compress(message.body)) for message in encode(locations)]
        before = self.counts
        with self._changed:
            for message in messages:
                self._names.append(message)
                self._names_bytes += len(message.body)
            self._shrink()
            self._changed.notify()
        self._say_dropped(before)

    def _say_dropped(self, before: PushCounts) -> None:
        if self.counts.names_dropped and not before.names_dropped:
            self._say("The queue is full: better names for windows that were sent earlier are dropped.")

    def close(self, seconds: float) -> int:
        """Sends what is queued for up to `seconds` more; returns how many windows could not be delivered.

        Names that the server would not take a moment ago are not waited for.
        """
        with self._changed:
            self._deadline = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + 1)
        return len(self._queue)

    def _count(self, what: str, number: int = 1) -> None:
        with self._changed:  # put() and the sending thread both count
            self.counts = replace(self.counts, **{what: getattr(self.counts, what) + number})

    def _shrink(self) -> None:
        """Drops the oldest names, then strips the oldest windows until the queue fits; the first window may be on its
        way and stays as it is."""
        while self._names and (
            self._names_bytes > self._most_bytes // 8 or self._bytes + self._names_bytes > self._most_bytes
        ):
            names = self._names.popleft()
            self._names_bytes -= len(names.body)
            self._count("names_dropped", names.locations)
        for position in range(1, len(self._queue)):
            if self._bytes <= self._most_bytes:
                break
            old = self._queue[position]
            if old.profile.accounting.lost.get(NOT_DELIVERED) or not old.profile.accounting.sampled:
                continue
            stub = without_samples(old.profile)
            body = _encode(stub, old.identity)
            self._queue[position] = _Waiting(stub, old.identity, body)
            self._bytes += len(body) - len(old.body)
            self._count("stripped")
        while len(self._queue) > _MOST_WITHOUT_SAMPLES:
            self._bytes -= len(self._queue[1].body)
            del self._queue[1]
            self._count("dropped")

    def _run(self) -> None:
        pause, away = _FIRST_PAUSE, False
        while (waiting := self._next()) is not None:
            if isinstance(waiting, _WaitingNames):
                self._deliver_names(waiting)
                continue
            problem = self._send(waiting)
            if problem is None:
                if away:
                    self._say(f"The server is back; {len(self._queue)} windows are on their way.")
                pause, away = _FIRST_PAUSE, False
                with self._changed:
                    self._queue.popleft()
                    self._bytes -= len(waiting.body)
                continue
            if not away:
                self._say(f"{problem} Windows are kept in memory until it is back.")
                away = True
            with self._changed:
                wait = max(pause, self._asked_pause)
                if self._deadline is not None and time.monotonic() + wait > self._deadline:
                    return
                if self._deadline is None:
                    self._changed.wait_for(lambda: self._deadline is not None, wait)
                else:
                    self._changed.wait(wait)
            pause = min(2 * pause, _LONGEST_PAUSE) if self._deadline is None else _FIRST_PAUSE

    def _next(self) -> _Waiting | _WaitingNames | None:
        """What to send next, once there is something: the oldest window, else the oldest names. None at the end."""
        with self._changed:
            while True:
                if self._queue:
                    return self._queue[0]
                late = self._deadline is not None and time.monotonic() > self._deadline
                due_in = self._names_due - time.monotonic()
                if self._names and due_in <= 0 and not late:
                    return self._names[0]
                if self._deadline is not None:
                    return None
                self._changed.wait(due_in if self._names else None)

    def _deliver_names(self, names: _WaitingNames) -> None:
        """Whatever is in the way of names is left to the windows to say, and never holds those up."""
        delivered = self._send(names) is None
        with self._changed:
            if not delivered:
                self._names_due = time.monotonic() + max(self._names_pause, self._asked_pause)
                self._names_pause = min(2 * self._names_pause, _LONGEST_PAUSE)
                return
            self._names_pause = _FIRST_PAUSE
            if self._names and self._names[0] is names:  # else dropped while on its way
                self._names.popleft()
                self._names_bytes -= len(names.body)

    def _send(self, waiting: _Waiting | _WaitingNames) -> str | None:
        """None where it is off our hands: accepted, or refused for good. Else what is in the way."""
        names = waiting.locations if isinstance(waiting, _WaitingNames) else 0
        path = self._target.names_path if names else self._target.path
        headers = {
            "Content-Type": "application/json" if names else "application/x-protobuf",
            "Content-Encoding": "gzip",
        }
        if self._target.token:
            headers["Authorization"] = f"Bearer {self._target.token}"
        where = f"{self._target.host}:{self._target.port}"
        self._asked_pause = 0.0
        for _ in range(2):  # the second time on a new connection, should the server have closed the old one
            reused = self._connection is not None
            try:
                connection = self._connection or connect(self._target, _TIMEOUT)
                self._connection = connection
                connection.request("POST", path, waiting.body, headers)
                response = connection.getresponse()
                text = response.read(65536)
                break
            except (OSError, http.client.HTTPException) as error:
                self._disconnect()
                if not reused:
                    return f"The server {where} cannot be reached ({_plain(error)})."
        else:
            return f"The server {where} cannot be reached."
        if response.status < 300:
            self._count(*(("names_sent", names) if names else ("sent", 1)))
            return None
        if names and response.status in (400, 404, 405, 413, 415, 422, 501):
            if not self.counts.names_refused:
                self._say(f"The server {where} takes no better names ({response.status}: {said(text)}).")
            self._count("names_refused", names)
            return None
        if not names and response.status in (400, 409, 413, 415, 422):
            self._count("refused")
            self._say(f"The server {where} refused a window ({response.status}: {said(text)}).")
            return None
        if response.status in (429, 503):
            self._asked_pause = _pause_of(response.headers.get("Retry-After", ""))
        if response.status == 429:
            return f"The server {where} has more to write than it can ({said(text)})."
        self._disconnect()  # whoever answers next may be another server
        if response.status in (401, 403):
            return f"The server {where} wants another token ({response.status}): give it with --token-file."
        return f"The server {where} answered {response.status} ({said(text)})."

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def connect(target: Target, timeout: float) -> http.client.HTTPConnection:
    """A connection to the server, which is opened with its first request."""
    if target.tls:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(target.host, target.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(target.host, target.port, timeout=timeout)


def without_samples(profile: Profile) -> Profile:
    """The window's account alone, its samples counted as not delivered."""
    accounting = profile.accounting
    lost = {**accounting.lost, NOT_DELIVERED: accounting.sampled}
    return replace(
        profile,
        samples=(),
        accounting=replace(accounting, sampled=0, lost=lost, frames_named=0, frames_unknown={}),
    )


def _encode(profile: Profile, identity: PushIdentity) -> bytes:
    return _compress(write_otlp(profile, identity))


def _compress(body: bytes) -> bytes:
    return gzip.compress(body, 1, mtime=0)


def _pause_of(header: str) -> float:
    """The seconds of a Retry-After (RFC 9110, 10.2.3), up to our longest pause; 0 where it gives a date or nothing."""
    return min(float(header[:9]), _LONGEST_PAUSE) if header.isascii() and header.isdigit() else 0.0


def _plain(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is unknown"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def said(body: bytes) -> str:
    """What an answer says in its body: text, a JSON object's `error`, or the message of a google.rpc.Status."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        text = document["error"]
    else:
        text = _status_message(body).decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()[:200]


def _status_message(body: bytes) -> bytes:
    """Field 2 of a protobuf message; `body` itself where it is none."""
    # An agent that is never refused a window does without the library's memory.
    from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

    try:
        fields = UnknownFieldSet(Empty.FromString(body))
    except (DecodeError, TypeError):
        return body
    return next((bytes(field.data) for field in fields if field.field_number == 2), body)
