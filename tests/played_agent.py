"""An agent that samples nothing: all of captures but the kernel, with samples that are known beforehand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from profiler.agent import _window
from profiler.capture_link import CaptureLink
from profiler.captures import Captures
from profiler.collector import Collector, View
from profiler.model import Accounting, Cost, Profile, Sample, Window
from profiler.push import Pusher, parse_target
from profiler.sampler import Filters
from symbolizer.types import Binary, Frame, Kind, Location

HZ = 99
CPUS = 2
BUSY, QUIET = 42, 43  # pids of a process that is found three times of four, and of another
_MAIN = Location(0x400, Binary("/opt/app/shop", "ff" * 20), (Frame("main", Kind.NATIVE, "", "shop.c", 12),))
_SUM = Location(0x500, _MAIN.binary, (Frame("sum", Kind.NATIVE, "", "shop.c", 40),))
_READ = Location(0x77, None, (Frame("ksys_read", Kind.KERNEL),))


@dataclass(slots=True)
class PlayedSampler:
    """Ticks that come as they are due: one in four idle, and of the others three in four of BUSY."""

    hz: int
    filters: Filters
    began: float
    ticks_told: int = 0
    since: float = 0.0

    def drain(self, now: float) -> Profile:
        self.since = self.since or self.began
        ticks = int((now - self.since) * self.hz * CPUS) - self.ticks_told
        self.ticks_told += ticks
        wall = time.time() - time.monotonic()
        window = Window(round((self.began + wall) * 1e9), round((now + wall) * 1e9))
        self.began = now
        idle = ticks // 4
        busy = (ticks - idle) * 3 // 4
        samples = (
            Sample((_SUM, _MAIN), BUSY, "shop", "shop", busy),
            Sample((_READ, _MAIN), QUIET, "reader", "reader", ticks - idle - busy),
        )
        sampled = sum(sample.count for sample in samples)
        accounting = Accounting(ticks, ticks, idle, 0, sampled, {}, 2 * sampled, cost=Cost(7 * ticks, ticks, 5, 1, 1))
        return of(Profile("", "cpu-clock", self.hz, window, samples, accounting), self.filters)


def of(profile: Profile, filters: Filters) -> Profile:
    if not filters.pids:
        return profile
    kept = tuple(sample for sample in profile.samples if sample.pid in filters.pids)
    sampled = sum(sample.count for sample in kept)
    accounting = profile.accounting
    out = accounting.sampled - sampled
    accounting = replace(accounting, sampled=sampled, filtered=out, frames_named=2 * sampled)
    return replace(profile, samples=kept, accounting=accounting)


class PlayedCollector:
    """A Collector's outside, over PlayedSamplers."""

    def __init__(self, host: str) -> None:
        self.host, self.hz = host, HZ
        self.sampler = PlayedSampler(HZ, Filters(), time.monotonic())
        self.beside: list[PlayedSampler] = []
        self.windows: list[Profile] = []
        self.cuts = 0

    def attend(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.05))

    def cut(self, views: Sequence[View]) -> list[Profile]:
        self.cuts += 1
        now = time.monotonic()
        whole = replace(self.sampler.drain(now), host=self.host)
        own = {id(sampler): replace(sampler.drain(now), host=self.host) for sampler in self.beside}
        return [whole, *(own[id(view.own)] if view.own else of(whole, view.filters) for view in views)]

    def open_sampler(self, hz: int, filters: Filters) -> PlayedSampler:
        self.beside.append(PlayedSampler(hz, filters, time.monotonic()))
        return self.beside[-1]

    def close_sampler(self, sampler: PlayedSampler) -> None:
        self.beside.remove(sampler)

    def settle(self, seconds: float) -> bool:
        return True

    def better_names(self) -> list[Location]:
        return []


class _NoPusher:
    def put_names(self, names: Sequence[Location]) -> None:
        pass


class PlayedAgent:
    """Runs in a thread until stop() or kill(), and keeps the windows that it would push."""

    def __init__(self, url: str, host: str = "web-1", token: str = "", agent: str = "an agent") -> None:
        self.said: list[str] = []
        self.collector = PlayedCollector(host)
        self.link = CaptureLink(parse_target(url, token), agent, host, self.said.append)
        self.captures = Captures(cast(Collector, self.collector), self.link.asked, self.report)
        self.dead = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def report(self, report: Any) -> None:
        if not self.dead:
            self.link.report(report)

    def _run(self) -> None:
        pusher = cast(Pusher, _NoPusher())
        while not self._stop.is_set():
            window = _window(cast(Collector, self.collector), self.captures, pusher, self._stop)
            self.collector.windows.append(window)
        self.captures.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self.link.close(5)

    def kill(self) -> None:
        """Ends without another word, as by SIGKILL."""
        self.dead = True
        self.link.close(0)
        self._stop.set()
        self._thread.join(10)


@contextmanager
def playing(url: str, **options: str) -> Iterator[PlayedAgent]:
    agent = PlayedAgent(url, **options)
    try:
        yield agent
    finally:
        agent.stop()
