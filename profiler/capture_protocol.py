"""What a server asks of an agent, and what that answers: captures, profiles of some time, rate and processes.

    GET  /api/v1/agents/AGENT/captures?host=HOST&epoch=EPOCH&known=ID,ID&wait=SECONDS
         → {"captures": [{"id", "seconds", "hz", "pids", "cgroups", "event"}, …], "pause": SECONDS}
    POST /api/v1/agents/AGENT/captures/ID?host=HOST&epoch=EPOCH&state=…&seconds=…&samples=…&problem=…
         with the profile so far in OTLP, or nothing new → the same answer

`captures` are all that this agent is to have at work: one that is no longer among them was cancelled. The first is
answered once that differs from what is `known`, or after `wait`. EPOCH tells an agent's starts apart. Only what is here
travels, and never a command; an agent does not take a server's word for what is too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from profiler import events
from profiler.events import EVENT
from profiler.model import Profile

MOST_SECONDS: Final = 600
MOST_AT_ONCE: Final = 8
MOST_PIDS: Final = 64
MOST_CGROUPS: Final = 16
RUNNING, DONE, CANCELLED, FAILED = STATES = ("running", "done", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class Request:
    """A capture that is asked for. `hz` 0 is the always-on rate; without `pids` and `cgroups` it is of everything."""

    id: str
    seconds: float
    hz: int = 0
    pids: tuple[int, ...] = ()
    cgroups: tuple[str, ...] = ()
    event: str = EVENT

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "seconds": self.seconds,
            "hz": self.hz,
            "pids": list(self.pids),
            "cgroups": list(self.cgroups),
            "event": self.event,
        }


def read_requests(document: object) -> list[Request]:
    """The requests in a server's answer. Raises ValueError for what is none."""
    try:
        return [_request(found) for found in _mapping(document)["captures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("it is no list of captures") from error


def _request(found: Any) -> Request:
    pids, cgroups = tuple(map(int, found["pids"])), tuple(map(str, found["cgroups"]))
    return Request(str(found["id"]), float(found["seconds"]), int(found["hz"]), pids, cgroups, str(found["event"]))


def _mapping(document: object) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise TypeError
    return document


def refusal(request: Request) -> str:
    """Why an agent does not do what it is asked for, in a sentence; "" where it does."""
    if request.event != EVENT:
        return f"Agents sample {EVENT} only."
    if not math.isfinite(request.seconds) or not 0 < request.seconds <= MOST_SECONDS:
        return f"A capture takes between 0 and {MOST_SECONDS} seconds."
    if not 0 <= request.hz <= events.HIGHEST_HZ:
        return f"The sampling rate must be between 1 and {events.HIGHEST_HZ:,} Hz, or 0 for the always-on rate."
    if len(request.pids) > MOST_PIDS or not all(0 < pid < 1 << 32 for pid in request.pids):
        return f"At most {MOST_PIDS} pids can be chosen, each a number above 0."
    if len(request.cgroups) > MOST_CGROUPS or not all(0 < len(path) <= 4096 for path in request.cgroups):
        return f"At most {MOST_CGROUPS} cgroups can be chosen, each by its path."
    return ""


@dataclass(frozen=True, slots=True)
class Report:
    """How far a capture is. `samples` are those so far; `profile`, if there is anything new of it, holds them all."""

    id: str
    state: str
    seconds: float
    samples: int
    profile: Profile | None = None
    problem: str = ""
