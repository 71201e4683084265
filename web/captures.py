"""The life of a capture: asked for by people, done by an agent that asks the server, kept in the store.

All of it happens on the event loop. What is not over is here, everything is in the store: a server that is started
again goes on with what it finds there, as agents do, whose reports hold all that a capture has so far.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, ParamSpec, TypeVar

from profiler.capture_protocol import MOST_AT_ONCE, Request
from profiler.capture_protocol import Report as AgentReport
from web.store import captures as stored
from web.store.captures import Capture, State
from web.store.store import Store

EXPIRES_S: Final = 60.0  # until an agent has begun
SILENCE_S: Final = 20.0  # of an agent that asks every second while it has something at work
OVERDUE_S: Final = 60.0  # beyond its end
MOST_ACTIVE: Final = 64
MOST_WAITING_AGENTS: Final = 300
MOST_WAIT_S: Final = 30.0
BUSY_PAUSE_S: Final = 10.0
_AGENT_IS_THERE_S: Final = 90.0
_KNOWN_HOSTS_S: Final = 86400
NO_SUCH_CAPTURE: Final = "There is no such capture: its address is wrong, or it is older than what is kept."
_SILENT: Final = "The agent has not been heard of since then"
_LOOK_SECONDS: Final = 1.0

log = logging.getLogger("pilotlight.captures")

P = ParamSpec("P")
Result = TypeVar("Result")


class TooMany(Exception):
    """No more captures are taken now; the message is one sentence for people."""


class NotYours(Exception):
    """The capture is another agent's, or over; the message is one sentence."""


class NoSuchCapture(Exception):
    """There is no capture of that id; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Who asks: the agent's id and start, and the host it samples."""

    id: str
    epoch: str
    host: str


class Captures:
    """Captures by id. create(), cancel() and report() return once it is in the store; they raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._active = {capture.id: capture for capture in stored.unfinished(store)}
        now = time.monotonic()
        self._heard = dict.fromkeys(self._active, now)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._agents: dict[str, float] = {}  # when an agent of a host asked last
        self._waiting_agents = 0
        self.ended: Counter[str] = Counter()  # by state, since the start
        self._progress, self._orders = asyncio.Event(), asyncio.Event()
        self._closed = False

    @property
    def active(self) -> Counter[str]:
        """Captures that are not over, by state."""
        return Counter(capture.state.value for capture in list(self._active.values()))

    # For people

    async def hosts(self) -> list[str]:
        """Hosts that can be captured: those whose agents ask, and those that pushed within a day."""
        pushed = await _in_store(stored.known_hosts, self._store, time.time() - _KNOWN_HOSTS_S)
        return sorted({*pushed, *self.listening()})

    def listening(self) -> set[str]:
        """Hosts whose agents have asked what to capture a moment ago."""
        since = time.monotonic() - _AGENT_IS_THERE_S
        return {host for host, at in list(self._agents.items()) if at > since}

    async def create(self, host: str, wanted: Request, name: str = "") -> Capture:
        """Has the host's agent capture something. Raises TooMany."""
        of_host = sum(capture.host == host for capture in self._active.values())
        if of_host >= MOST_AT_ONCE or len(self._active) >= MOST_ACTIVE:
            most, where = (MOST_AT_ONCE, "this host has") if of_host >= MOST_AT_ONCE else (MOST_ACTIVE, "there are")
            raise TooMany(f"{where} {most} captures under way, which is the most: wait for one to end, or cancel one")
        capture = Capture(
            secrets.token_hex(8),
            name,
            host,
            wanted.event,
            wanted.seconds,
            wanted.hz,
            wanted.pids,
            wanted.cgroups,
            time.time(),
        )
        self._active[capture.id] = capture
        try:
            await _in_store(stored.save, self._store, capture)
        except Exception:
            del self._active[capture.id]
            raise
        self._tell(orders=True)
        return capture

    async def find(self, id: str) -> Capture | None:
        return self._active.get(id) or await _in_store(stored.find, self._store, id)

    async def latest(self, most: int) -> list[Capture]:
        """The newest captures, newest first."""
        found = await _in_store(stored.latest, self._store, most)
        return [self._active.get(capture.id, capture) for capture in found]

    async def cancel(self, id: str) -> Capture | None:
        """Ends a capture with what it has. While its agent works, that takes until the agent has handed it over."""
        async with self._locks[id]:
            capture = await self.find(id)
            if capture is None or capture.state.over:
                self._forget(id)
                return capture
            if capture.state is State.WAITING:
                return await self._keep(replace(capture, state=State.CANCELLED, cancel=True, ended=time.time()))
            return await self._keep(replace(capture, cancel=True))

    async def changed(self, seconds: float) -> None:
        """Waits until some capture has changed, for so long at most."""
        await _within(seconds, self._progress)

    # For agents

    def orders(self, agent: Agent) -> list[Request]:
        """All that an agent is to have at work. What no agent has begun is for whichever of the host's begins it."""
        now = time.monotonic()
        self._agents[agent.host] = now
        found = []
        for capture in self._active.values():
            if capture.host == agent.host and (capture.agent, capture.epoch) in (("", ""), (agent.id, agent.epoch)):
                if capture.agent:
                    self._heard[capture.id] = now
                if not capture.cancel:
                    found.append(capture.request)
        return found

    async def wait_for_orders(self, agent: Agent, known: set[str], seconds: float) -> tuple[list[Request], float]:
        """The agent's orders once they are not `known`, or after so long; and how long to pause before asking again."""
        end = time.monotonic() + min(seconds, MOST_WAIT_S)
        orders = self.orders(agent)
        if self._waiting_agents >= MOST_WAITING_AGENTS:
            return orders, BUSY_PAUSE_S
        self._waiting_agents += 1
        try:
            while {order.id for order in orders} == known and not self._closed and time.monotonic() < end:
                await _within(end - time.monotonic(), self._orders)
                orders = self.orders(agent)
        finally:
            self._waiting_agents -= 1
        return orders, 1.0 if self._closed else 0.0

    async def report(self, agent: Agent, report: AgentReport) -> None:
        """What an agent says of a capture; a profile in it is all there is so far.

        Raises NoSuchCapture where there is no such capture, and NotYours.
        """
        async with self._locks[report.id]:
            capture = await self.find(report.id)
            if capture is None:
                self._forget(report.id)
                raise NoSuchCapture(NO_SUCH_CAPTURE)
            if capture.host != agent.host or (
                capture.agent and (capture.agent, capture.epoch) != (agent.id, agent.epoch)
            ):
                raise NotYours("this capture is of another host, or another agent does it")
            if report.profile is not None and report.profile.host != capture.host:
                raise NotYours("this profile is of another host")
            # A report may come late, after the agent was given up, and again, after it was taken.
            if capture.state.over and not (capture.agent and capture.problem.startswith(_SILENT)):
                self._forget(report.id)
                if not capture.agent:
                    raise NotYours("this capture is over")
                return
            self._heard[capture.id] = time.monotonic()
            if report.profile is not None:
                await _in_store(stored.save_profile, self._store, capture.id, report.profile)
            await self._keep(_after(capture, agent, report))

    # By themselves

    async def watch(self) -> None:
        """Ends captures that nothing is heard of any more; runs until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            there = self.listening()
            self._agents = {host: at for host, at in self._agents.items() if host in there}
            for capture in list(self._active.values()):
                try:
                    await self._look_after(capture.id)
                except Exception as error:  # whatever it was, it is tried again, and the others are looked after
                    log.warning("capture %s: %s", capture.id, error)

    def close(self) -> None:
        """Answers all who wait: the server stops."""
        self._closed = True
        self._tell(orders=True)

    @property
    def closed(self) -> bool:
        return self._closed

    async def _look_after(self, id: str) -> None:
        now = time.time()
        silent = time.monotonic() - self._heard.get(id, time.monotonic())
        async with self._locks[id]:
            capture = self._active.get(id)
            if capture is None:
                self._forget(id)
            elif capture.state is State.WAITING and now > capture.created + EXPIRES_S:
                problem = f"No agent of this host asked for it within {EXPIRES_S:.0f} s: is it running, and up to date?"
                await self._keep(replace(capture, state=State.EXPIRED, problem=problem, ended=now))
            elif capture.state is State.RUNNING and (
                silent > SILENCE_S or now > capture.started + capture.seconds + OVERDUE_S
            ):
                state = State.CANCELLED if capture.cancel else State.FAILED
                kept = "what it had collected by then is here" if capture.profiled else "there is nothing of it"
                problem = f"{_SILENT}: {kept}."
                await self._keep(replace(capture, state=state, problem=problem, ended=now))

    async def _keep(self, capture: Capture) -> Capture:
        before = self._active.get(capture.id)
        if before is None or _lasting(before) != _lasting(capture):
            await _in_store(stored.save, self._store, capture)
        if capture.state.over:
            if before is not None:
                self.ended[capture.state.value] += 1
            self._forget(capture.id)
        else:
            self._active[capture.id] = capture
        orders = before is None or capture.state.over or capture.cancel
        self._tell(orders=orders)
        return capture

    def _forget(self, id: str) -> None:
        self._active.pop(id, None)
        self._heard.pop(id, None)
        self._locks.pop(id, None)

    def _tell(self, *, orders: bool) -> None:
        self._progress.set()
        self._progress = asyncio.Event()
        if orders:
            self._orders.set()
            self._orders = asyncio.Event()


def _after(capture: Capture, agent: Agent, report: AgentReport) -> Capture:
    """The capture once the report is taken in."""
    state = State(report.state)
    if state is State.DONE and capture.cancel:
        state = State.CANCELLED
    now = time.time()
    return replace(
        capture,
        state=state,
        agent=agent.id,
        epoch=agent.epoch,
        started=capture.started or now,
        ended=now if state.over else 0.0,
        done=min(report.seconds, capture.seconds),
        samples=report.samples if report.profile is None else report.profile.accounting.sampled,
        profiled=capture.profiled or report.profile is not None,
        problem=report.problem,
    )


def _lasting(capture: Capture) -> tuple[object, ...]:
    """What must survive the server; progress comes again with the next report."""
    return capture.state, capture.cancel, capture.profiled, capture.agent, capture.epoch


async def _in_store(function: Callable[P, Result], *arguments: P.args, **named: P.kwargs) -> Result:
    """Runs it in a thread that knows of nobody who asks: what a client began goes on when it has gone (asking.py)."""
    return await asyncio.get_running_loop().run_in_executor(None, partial(function, *arguments, **named))


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return
