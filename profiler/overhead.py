"""Keeps what profiling costs below a share of one CPU: by the rate it samples at, and by how prompt it is."""

from __future__ import annotations

import time
from collections import deque

PERIOD = 120.0
_LONGEST_PAUSE = 0.1
_FREE = 0.15  # of the reserve, which no pause is made for
_AIM = 0.8  # of the limit, so that a rate is kept once it is chosen
_OWN = 0.5  # of the limit, which sampling may cost whatever else takes: what a lower rate would hardly save


class RateGovernor:
    """Chooses the rate of the next window from the costs of those before.

    Rates are the asked-for one divided by whole numbers without a rest, so that a tick at a lower rate weighs as
    much as some whole number of ticks at the full one, and windows of different rates add up exactly.
    """

    def __init__(self, hz: int, limit: float) -> None:
        """`limit` is a share of one CPU, over two minutes; 0 for none."""
        self._rates = [hz // part for part in range(1, hz + 1) if hz % part == 0]  # falling
        self._limit = limit
        self._at = 0
        self._past: deque[tuple[float, float, float]] = deque()  # two kinds of CPU seconds, and seconds, of windows

    @property
    def hz(self) -> int:
        return self._rates[self._at]

    def next_hz(self, sampling: float, following: float, seconds: float) -> int:
        """The rate to go on with after a window of so many seconds, in which samples cost `sampling` CPU seconds, and
        what comes at any rate, such as following processes as they start, `following`."""
        self._past.append((sampling, following, seconds))
        while sum(length for _, _, length in self._past) - self._past[0][2] >= PERIOD:
            self._past.popleft()
        sampling, following, seconds = (sum(column) for column in zip(*self._past, strict=True))
        if not self._limit:
            return self.hz
        if sampling + following > self._limit * max(seconds, PERIOD):
            allowed = self.hz * self._for_sampling(following / seconds) / max(sampling / seconds, 1e-12)
            lower = range(self._at + 1, len(self._rates))
            if allowed < self.hz:
                self._change(next((at for at in lower if self._rates[at] <= allowed), len(self._rates) - 1))
        elif self._at and seconds >= PERIOD:
            higher = self._rates[self._at - 1] / self.hz
            if sampling / seconds * higher <= self._for_sampling(following / seconds):
                self._change(self._at - 1)
        return self.hz

    def _for_sampling(self, following: float) -> float:
        """The share of a CPU that is left for samples."""
        return max(_AIM * self._limit - following, _OWN * self._limit)

    def _change(self, at: int) -> None:
        self._at = at
        self._past.clear()


class Pace:
    """How prompt to be: at once while that takes a small share of a CPU, then after pauses that grow until it does."""

    def __init__(self, share: float = 0.002, reserve: float = 0.25) -> None:
        """`share` of one CPU in the long run, and `reserve` CPU seconds at a time."""
        self._share, self._reserve = share, reserve
        self._spent, self._at = 0.0, time.monotonic()

    def pause(self, spent: float) -> float:
        """How many seconds to wait before the next event is attended to, after one that took `spent` CPU seconds."""
        now = time.monotonic()
        self._spent = max(self._spent - (now - self._at) * self._share, 0.0) + spent
        self._at = now
        fill = min(self._spent / self._reserve, 1.0)
        return _LONGEST_PAUSE * fill**6 if fill > _FREE else 0.0
