"""Captures: profiles of some time, rate and processes that a server asks for while the agent runs.

Those at the always-on rate are cut out of the running stream: the window in hand ends where a capture begins, ends or
reports, and a capture is the merge of the parts within it. Those at another rate have a sampler of their own for as
long as they last. capture_link.py talks with the server, in the terms of capture_protocol.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from profiler import events
from profiler.better_names import renamed
from profiler.capture_protocol import CANCELLED, DONE, FAILED, MOST_AT_ONCE, RUNNING, Report, Request, refusal
from profiler.cgroups import cgroup_ids
from profiler.collector import Collector, View
from profiler.libbpf import BpfError
from profiler.model import Profile, merge
from profiler.sampler import Filters, alive
from symbolizer.types import Location

MOST_SAMPLERS: Final = 2
_STEPS: Final = 10
_SHORTEST_STEP, _LONGEST_STEP = 1.0, 10.0
_NAMES_SECONDS, _LOOK_SECONDS = 2.0, 0.5


@dataclass(slots=True)
class _Running:
    request: Request
    view: View
    began: float
    reported: float
    delivered: float
    parts: list[Profile] = field(default_factory=list)
    samples: int = 0
    ended: float = 0.0  # when; 0.0 while it goes on. Then names are waited for
    state: str = DONE
    problem: str = ""
    better: list[Location] = field(default_factory=list)

    @property
    def step(self) -> float:
        return min(max(self.request.seconds / _STEPS, _SHORTEST_STEP), _LONGEST_STEP)

    @property
    def end(self) -> float:
        return self.began + self.request.seconds

    @property
    def due(self) -> float:
        """When it wants to be cut next."""
        return self.ended + _LOOK_SECONDS if self.ended else min(self.end, self.reported + self.step)


class Captures:
    """The captures at work in this agent. due() says when to cut, views() what, and take() has what came of it."""

    def __init__(
        self,
        collector: Collector,
        asked: Callable[[], Iterable[Request] | None],
        report: Callable[[Report], None],
    ) -> None:
        """`asked` gives all that is to be at work; None where that is not known. `report` and it must not wait."""
        self._collector, self._asked, self._report = collector, asked, report
        self._running: dict[str, _Running] = {}
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self._running)

    def wait(self) -> float:
        """Seconds until the window in hand has to be cut for a capture: 0 for now."""
        wanted = self._wanted()
        if wanted is not None and (
            any(id not in self._seen for id in wanted)
            or any(id not in wanted and not running.ended for id, running in self._running.items())
        ):
            return 0.0
        now = time.monotonic()
        return max(min((running.due - now for running in self._running.values()), default=math.inf), 0.0)

    def views(self) -> list[View]:
        """What to cut for, in the order in which take() has it."""
        return [running.view for running in self._going_on()]

    def take(self, parts: Iterable[Profile], better: Sequence[Location], *, settled: bool) -> None:
        """Takes what was cut for the views, and names that became better; ends and begins captures.

        `settled` says that no more debug information is being read: what has ended waits a little for that.
        """
        now = self._collector.sampler.began  # when the parts ended
        for running, part in zip(self._going_on(), parts, strict=True):
            running.parts.append(part)
            running.samples += part.accounting.sampled
        wanted = self._wanted()
        for running in self._running.values():
            running.better += better
            if not running.ended and wanted is not None and running.request.id not in wanted:
                self._end(running, now, CANCELLED)
            elif not running.ended and now >= running.end:
                self._end(running, now, DONE)
            elif not running.ended and now >= running.reported + running.step:
                self._tell(running, now)
        self._finish(now, settled)
        if wanted is not None:
            for id in wanted.keys() - self._seen:
                self._begin(wanted[id])
            self._seen &= wanted.keys() | self._running.keys()

    def close(self) -> None:
        """Ends what goes on, with what there is: the agent stops."""
        now = self._collector.sampler.began
        for running in self._going_on():
            self._end(running, now, FAILED, "The agent was stopped before the end.")
        self._finish(now, settled=True)

    def _wanted(self) -> dict[str, Request] | None:
        asked = self._asked()
        return None if asked is None else {request.id: request for request in asked}

    def _going_on(self) -> list[_Running]:
        return [running for running in self._running.values() if not running.ended]

    def _begin(self, request: Request) -> None:
        self._seen.add(request.id)
        try:
            view = self._view(request)
        except (BpfError, events.EventError, _Refused) as error:
            self._report(Report(request.id, FAILED, 0.0, 0, problem=str(error)))
            return
        began = (view.own or self._collector.sampler).began
        self._running[request.id] = _Running(request, view, began, began, began)
        self._report(Report(request.id, RUNNING, 0.0, 0))

    def _view(self, request: Request) -> View:
        problem = refusal(request)
        if problem:
            raise _Refused(problem)
        if len(self._running) >= MOST_AT_ONCE:
            raise _Refused(f"This agent has {MOST_AT_ONCE} captures at work already, which is the most it takes.")
        gone = [pid for pid in request.pids if not alive([pid])]
        if gone:
            raise _Refused(f"There is no process {', '.join(map(str, gone))}.")
        try:
            cgroups = frozenset(id for path in request.cgroups for id in cgroup_ids(path))
        except OSError as error:
            raise _Refused(f"There is no cgroup {error.filename} ({error.strerror}).") from error
        filters = Filters(frozenset(request.pids), cgroups)
        if request.hz in (0, self._collector.hz):
            return View(filters)
        if sum(running.view.own is not None for running in self._running.values()) >= MOST_SAMPLERS:
            raise _Refused(
                f"This agent has {MOST_SAMPLERS} captures at other rates than its own at work already, which is the"
                " most it takes: ask for its own rate, or later."
            )
        return View(filters, self._collector.open_sampler(request.hz, filters))

    def _end(self, running: _Running, now: float, state: str, problem: str = "") -> None:
        running.ended, running.state, running.problem = now, state, problem
        if running.view.own is not None:
            self._collector.close_sampler(running.view.own)

    def _finish(self, now: float, settled: bool) -> None:
        """Hands over what has ended, once debug information that is being read for it is there or took too long."""
        for id, running in list(self._running.items()):
            if not running.ended:
                continue
            late = now >= running.ended + min(_NAMES_SECONDS, running.request.seconds / 2)
            if settled or late or running.state != DONE:
                del self._running[id]
                self._tell(running, running.ended, final=True)

    def _tell(self, running: _Running, now: float, *, final: bool = False) -> None:
        running.reported = now
        seconds = min(max(now - running.began, 0.0), running.request.seconds)
        with_profile = final or now >= running.delivered + running.request.seconds / _STEPS
        profile = None
        if with_profile and running.parts:
            running.delivered = now
            profile = merge(running.parts)
            running.parts = [profile]
            if running.better:
                profile = renamed(profile, running.better)
        state = running.state if final else RUNNING
        self._report(Report(running.request.id, state, seconds, running.samples, profile, running.problem))


class _Refused(Exception):
    """The agent does not do it; the message says why."""
