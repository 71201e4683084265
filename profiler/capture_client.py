"""`pilotlight capture`: has a server capture something of a host, and writes what came of it to files."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from profiler.agent import stop_on_signals
from profiler.formats.json import read_json
from profiler.model import Profile
from profiler.push import Target, connect, said
from profiler.record import INTERRUPTED, Output, check_outputs, summary, write_output

_TIMEOUT = 60.0
_LOOK_SECONDS = 0.5
_FAILED = 1


class CaptureError(Exception):
    """Nothing can be captured as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """`host` "" is the only one there is, `hz` 0 the rate at which that is sampled anyway."""

    target: Target
    outputs: tuple[Output, ...]
    host: str = ""
    seconds: float = 10.0
    hz: int = 0
    pids: tuple[int, ...] = ()
    cgroups: tuple[str, ...] = ()
    name: str = ""


def run_capture(options: CaptureOptions) -> int:
    """Captures, writes every output, says on stderr where the ticks went, and returns the exit code.

    An interrupt ends the capture, and what it has is written. Raises RecordError or CaptureError.
    """
    check_outputs(options.outputs)
    stop = stop_on_signals()
    server = _Server(options.target)
    capture = server.ask("POST", "/api/v1/captures", _wanted(options))
    capture = _follow(server, capture, stop)
    if "json" not in capture["links"]:
        raise CaptureError(capture["problem"] or f"The capture is {capture['state']}; there is nothing of it.")
    profile = _profile(server.fetch(capture["links"]["json"]))
    written = all([write_output(output, profile) for output in options.outputs])
    print(f"{summary(profile)}\n{server.address(capture['links']['page'])}", file=sys.stderr)
    if capture["state"] not in ("done", "cancelled"):
        raise CaptureError(capture["problem"])
    if not written:
        return _FAILED
    return INTERRUPTED if stop.is_set() else 0


def _wanted(options: CaptureOptions) -> dict[str, Any]:
    wanted: dict[str, Any] = {"host": options.host, "seconds": options.seconds, "name": options.name}
    if options.hz:
        wanted["hz"] = options.hz
    if options.pids:
        wanted["pid"] = options.pids
    if options.cgroups:
        wanted["cgroup"] = options.cgroups
    return wanted


def _follow(server: _Server, capture: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
    """The capture once it is over."""
    address, cancelled = capture["links"]["self"], False
    with _progress() as show:
        while capture["state"] in ("waiting", "running"):
            show(capture)
            if stop.is_set() and not cancelled:
                cancelled = True
                capture = server.ask("DELETE", address)
                continue
            threading.Event().wait(_LOOK_SECONDS) if cancelled else stop.wait(_LOOK_SECONDS)
            capture = server.ask("GET", address)
    return capture


def _profile(data: bytes) -> Profile:
    try:
        return read_json(data)
    except ValueError as error:
        raise CaptureError(f"The server's answer is no profile: {error}.") from error


class _Server:
    """What a server answers. Raises CaptureError where it does not, or refuses."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def ask(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        body = None if document is None else json.dumps(document).encode()
        try:
            found = json.loads(self.fetch(path, method, body))
            if isinstance(found, dict) and isinstance(found.get("links"), dict) and "state" in found:
                return found
        except ValueError:
            pass
        raise CaptureError(f"The server {self.address('')} does not answer as pilotlight's does.")

    def fetch(self, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self._target.token}"} if self._target.token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = connect(self._target, _TIMEOUT)
        try:
            connection.request(method, self._target.base + quote(path, safe="/%?&=."), body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or error
            raise CaptureError(f"The server {self.address('')} cannot be reached ({reason}).") from error
        finally:
            connection.close()
        if response.status in (401, 403):
            raise CaptureError(f"The server {self.address('')} wants another token: give it with --token-file.")
        if response.status >= 300:
            raise CaptureError(f"The server refuses ({response.status}): {said(answer)}.")
        return answer

    def address(self, path: str) -> str:
        target = self._target
        host = f"[{target.host}]" if ":" in target.host else target.host
        return f"http{'s' if target.tls else ''}://{host}:{target.port}{target.base}{path}"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields what shows one line of progress, which it takes away at the end; nothing unless on a terminal."""
    if not sys.stderr.isatty():
        yield lambda capture: None
        return

    def show(capture: dict[str, Any]) -> None:
        done = capture["progress"]
        line = f"{capture['state']}  {done['seconds']:.1f} of {capture['seconds']:g} s  {done['samples']:,} samples"
        print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)

    yield show
    print("\r\x1b[K", end="", file=sys.stderr, flush=True)
