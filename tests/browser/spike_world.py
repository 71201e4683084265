"""Half an hour of four hosts, an hour ago: one of them was busy for a while with one function, another was silent."""

from __future__ import annotations

import math
import os
import time

from profiler.model import Accounting, Cost, Profile, Sample, Unwinding, Window
from symbolizer.types import Binary, Frame, Kind, Location

WINDOWS = 180
SPIKE = range(100, 112)  # windows in which web-2 was busy
SILENT = range(60, 90)  # windows that there are none of web-3
HOSTS = ("db-1", "web-1", "web-2", "web-3")
CPUS = 4
GUILTY = "regex_backtrack"


def start_of(now: float) -> int:
    """When it begins: on a whole ten minutes, so that minutes and steps are whole."""
    return int(now) // 600 * 600 - 3600


# A server of its own process makes the same world, whenever it begins.
START = start_of(float(os.environ.setdefault("PILOTLIGHT_TEST_WORLD", str(time.time()))))


def at(window: int) -> int:
    return START + 10 * window


def _location(name: str, kind: Kind = Kind.NATIVE, binary: str = "/usr/sbin/nginx") -> Location:
    number = int.from_bytes(name.encode()[:7], "big")
    frame = Frame(name, kind, file=f"src/{name[:3]}.c", line=10 + len(name))
    return Location(number, None if kind is Kind.KERNEL else Binary(binary, "ab"), (frame,))


_MAIN, _LOOP, _REQUEST, _PARSE = map(_location, ("main", "event_loop", "http_request", "parse_headers"))
_SYSCALL, _READ = _location("do_syscall_64", Kind.KERNEL), _location("vfs_read", Kind.KERNEL)
_LEAVES = [_location(name) for name in ("memcpy", "ssl_write", "gzip_deflate", "json_encode", "hash_lookup")]


def busy(host: str, window: int) -> int:
    """Samples that a host has in a window, but for the spike."""
    return int(400 + 250 * math.sin(window / 14 + len(host)) + 60 * len(host))


def profile(host: str, window: int, start: int = START) -> Profile:
    count = busy(host, window)
    stacks = [(leaf, _REQUEST, _LOOP, _MAIN) for leaf in _LEAVES] + [(_READ, _SYSCALL, _REQUEST, _LOOP, _MAIN)]
    name = "postgres" if host.startswith("db") else "nginx"
    samples = [Sample(stack, 7, name, name, 1 + count * (i + 1) // 30) for i, stack in enumerate(stacks)]
    samples.append(Sample((_LEAVES[0], _MAIN), 9, "backup", "backup", 1 + count // 9))
    if host == "web-2" and window in SPIKE:
        samples.append(Sample((_location(GUILTY), _PARSE, _REQUEST, _LOOP, _MAIN), 7, name, name, 2600))
    total, ticks = sum(sample.count for sample in samples), 99 * 10 * CPUS
    lost = {"counts map full": 2} if host == "db-1" and window % 30 == 0 else {}
    cost = Cost(ticks * 1500, ticks, 30_000_000, 60 << 20, 20 << 20)
    account = Accounting(
        ticks,
        ticks,
        ticks - total - sum(lost.values()),
        0,
        total,
        lost,
        total * 4,
        {"no symbols": total // 10},
        cost,
        Unwinding(total - 12, 0, {"no unwind information": 12}),
    )
    times = Window((start + 10 * window) * 10**9, (start + 10 * window + 10) * 10**9)
    labels = {"env": "prod", "role": host.partition("-")[0]}
    return Profile(host, "cpu-clock", 99, times, tuple(samples), account, labels)


def world() -> list[Profile]:
    return [
        profile(host, window)
        for host in HOSTS
        for window in range(WINDOWS)
        if not (host == "web-3" and window in SILENT)
    ]
