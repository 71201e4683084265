"""The agent's line to the server for captures: it asks what to capture and tells what came of it.

The agent asks, as it may sit where nobody can reach it. While nothing is asked for, one request after another waits at
the server; while there are captures, short ones go every second and each report's answer says as much.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode

from profiler.capture_protocol import FAILED, RUNNING, Report, Request, read_requests
from profiler.formats.otlp_write import write_otlp
from profiler.push import Target, connect, said

WAIT_SECONDS = 25
_TIMEOUT = WAIT_SECONDS + 15.0
_SHORT_PAUSE = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
_NOT_OFFERED_PAUSE = 600.0
_KEEP_SECONDS = 600.0  # what the server does not take meanwhile is dropped
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes

    @property
    def final(self) -> bool:
        """Whether asking again would not change it."""
        return self.status < 300 or self.status in (400, 403, 404, 405, 409, 413, 415, 422)


class CaptureLink:
    """Talks with the server from a thread of its own. asked() and report() never wait."""

    def __init__(self, target: Target, agent: str, host: str, say: Callable[[str], None]) -> None:
        self._target, self._say = target, say
        self._path = f"{target.base}/api/v1/agents/{quote(agent, safe='')}/captures"
        self._query = {"host": host, "epoch": str(time.time_ns())}
        self._asked: tuple[Request, ...] | None = None
        self._pause = 0.0
        self._reports: dict[str, tuple[float, Report]] = {}  # with when the oldest of them came
        self._at_work: set[str] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)
        self._thread.start()

    def asked(self) -> tuple[Request, ...] | None:
        """All captures that this agent is to have at work now; None as long as the server has not said."""
        return self._asked

    def report(self, report: Report) -> None:
        """Queues a report; a later one of the same capture takes an earlier one's place, which it contains."""
        with self._changed:
            since, earlier = self._reports.pop(report.id, (time.monotonic(), None))
            if earlier is not None and report.profile is None and report.state != FAILED:
                report = replace(report, profile=earlier.profile)
            self._reports[report.id] = since, report
            (self._at_work.add if report.state == RUNNING else self._at_work.discard)(report.id)
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Sends what is queued, for that long at most."""
        with self._changed:
            self._closing = True
            idle = not self._reports
            self._changed.notify()
        if idle and self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)  # it may be waiting for an answer
        self._thread.join(seconds)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                if self._closing and not self._reports:
                    return
                waiting = next(iter(self._reports.items()), None)
            if waiting is not None:
                understood = self._deliver(waiting[0], *waiting[1])
            else:
                understood = self._ask()
            if understood:
                pause = _FIRST_PAUSE
            elif self._rest(max(pause, self._pause)):
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _rest(self, seconds: float) -> bool:
        """Waits so long, or until the end is near; whether it was the time that ran out."""
        with self._changed:
            if self._closing:
                self._changed.wait(min(seconds, _SHORT_PAUSE))
                return False
            return not self._changed.wait_for(lambda: self._closing, seconds)

    def _ask(self) -> bool:
        """Asks what to do: at once after a pause that a report ends, or, without captures, by a question that waits at
        the server."""
        with self._changed:
            busy = bool(self._asked or self._at_work)
            if busy and self._changed.wait_for(lambda: self._reports or self._closing, _SHORT_PAUSE):
                return True
        began = time.monotonic()
        known = ",".join(request.id for request in self._asked or ())
        wait = 0 if busy or self._asked is None else WAIT_SECONDS
        answer = self._send("GET", "", {"known": known, "wait": str(wait)})
        if answer is None or not self._understand(answer):
            return self._closing
        # A server that answers at once, and with nothing new, is not to be asked without end.
        if wait and not self._asked and time.monotonic() - began < _SHORT_PAUSE:
            self._rest(max(self._pause, _SHORT_PAUSE))
        return True

    def _deliver(self, id: str, since: float, report: Report) -> bool:
        body = gzip.compress(write_otlp(report.profile), 1, mtime=0) if report.profile is not None else b""
        figures = {"state": report.state, "seconds": f"{report.seconds:.3f}", "samples": str(report.samples)}
        answer = self._send("POST", f"/{quote(id, safe='')}", {**figures, "problem": report.problem}, body)
        if answer is not None and answer.status == 413 and report.profile is not None:
            problem = "The profile was larger than the server takes: capture less, or at a lower rate."
            self.report(replace(report, state=FAILED, profile=None, problem=problem))
            return True
        off_our_hands = answer is not None and answer.final
        given_up = time.monotonic() - since > _KEEP_SECONDS
        if off_our_hands or given_up:
            with self._changed:
                if self._reports.get(id, (0.0, None))[1] is report:
                    del self._reports[id]
            refused = answer is not None and answer.status >= 400 and answer.status != 404
            if (refused or given_up) and report.state != RUNNING:
                why = f"{answer.status}: {said(answer.body)}" if answer else "it cannot be reached"
                self._say(f"The server did not take a capture ({why}).")
        return answer is not None and (self._understand(answer) or off_our_hands)

    def _understand(self, answer: _Answer) -> bool:
        """Takes over what the server wants; whether it said so."""
        self._pause = 0.0
        if answer.status in (404, 405):  # a server without captures
            self._pause = _NOT_OFFERED_PAUSE
        try:
            document: Any = json.loads(answer.body) if answer.status == 200 else None
            asked = tuple(read_requests(document))
            pause = float(document.get("pause", 0))
        except (ValueError, TypeError, RecursionError):
            return False
        self._asked = asked
        self._pause = min(max(pause, 0.0), _LONGEST_PAUSE)
        return True

    def _send(self, method: str, path: str, query: dict[str, str], body: bytes = b"") -> _Answer | None:
        """The server's answer, None where there is none."""
        headers = {"Authorization": f"Bearer {self._target.token}"} if self._target.token else {}
        if body:
            headers |= {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
        address = f"{self._path}{path}?{urlencode({**self._query, **query})}"
        for _ in range(2):  # the second time on a new connection, should the server have closed the old one
            reused = self._connection is not None
            connection = self._connection or connect(self._target, _TIMEOUT)
            self._connection = connection
            try:
                connection.request(method, address, body if method == "POST" else None, headers)
                response = connection.getresponse()
                return _Answer(response.status, response.read(_MOST_BYTES))
            except (OSError, http.client.HTTPException):
                connection.close()
                self._connection = None
                if not reused or self._closing:
                    return None
        return None
