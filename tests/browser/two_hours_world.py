"""The world of spike_world.py, and the hour before it, in which nothing special happened."""

from __future__ import annotations

from profiler.model import Profile

from . import spike_world as spike


def world() -> list[Profile]:
    calm = [
        spike.profile(host, window - 30, spike.START - 3600 + 300)  # as 5 min earlier, so that it has no spike
        if window in spike.SPIKE
        else spike.profile(host, window, spike.START - 3600)
        for host in spike.HOSTS
        for window in range(spike.WINDOWS)
    ]
    return [*calm, *spike.world()]
