"""The agent: windows on the wall-clock grid, from this host to a server, until told to stop."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from profiler.capture_link import CaptureLink
from profiler.captures import Captures
from profiler.collector import Collector, Sampling
from profiler.model import Profile, Window, merge
from profiler.push import Pusher, Target
from profiler.symbols import Symbols

WINDOW_SECONDS = 10
_GRID_NS = WINDOW_SECONDS * 1_000_000_000
_FLUSH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    target: Target
    sampling: Sampling = Sampling()
    symbols: Symbols = Symbols()
    host: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def run_agent(options: AgentOptions, say: Callable[[str], None], stop: threading.Event | None = None) -> int:
    """Collects and pushes until SIGTERM, SIGINT or `stop`; then flushes the window in hand. Returns an exit code.

    Raises BpfError or EventError where this host cannot be sampled.
    """
    stop = stop or stop_on_signals()
    host = options.host or socket.gethostname()
    collector = Collector(
        options.sampling, options.symbols, window_seconds=WINDOW_SECONDS, host=host, labels=options.labels
    )
    rate = options.sampling.hz
    pusher = Pusher(options.target, agent_id(host), say)
    link = CaptureLink(options.target, agent_id(host), host, say)
    captures = Captures(collector, link.asked, link.report)
    try:
        while not stop.is_set():
            profile = on_grid(_window(collector, captures, pusher, stop))
            losses = collector.losses()
            if losses:
                say(losses)
            if collector.hz != rate:
                rate = collector.hz
                say(f"Sampling {rate} times a second and CPU from now on, which is what --max-overhead allows.")
            if profile.accounting.ticks or not stop.is_set():
                pusher.put(profile)
        captures.close()
    finally:
        collector.close()
    undelivered = pusher.close(_FLUSH_SECONDS)
    link.close(_FLUSH_SECONDS)
    if undelivered:
        say(f"{undelivered} windows could not be delivered before the agent stopped.")
    return 0


def on_grid(profile: Profile) -> Profile:
    """The profile with its window widened to the grid of whole 10 s, UTC, that it lies in.

    A window is drained some milliseconds after its end; that far it may reach over.
    """
    start = (profile.window.start_ns + _GRID_NS // 20) // _GRID_NS * _GRID_NS
    end = -(-(profile.window.end_ns - _GRID_NS // 20) // _GRID_NS) * _GRID_NS
    return replace(profile, window=Window(start, max(end, start + _GRID_NS)))


def agent_id(host: str) -> str:
    """Names this agent the same after each start, without giving the machine id away (machine-id(5))."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return hashlib.blake2b(f"pilotlight {machine} {host}".encode(), digest_size=8).hexdigest()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets, from now on."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _next_grid_ns(now_ns: int) -> int:
    return (now_ns // _GRID_NS + 1) * _GRID_NS


def _window(collector: Collector, captures: Captures, pusher: Pusher, stop: threading.Event) -> Profile:
    """The window until the grid's next line: the merge of its parts, should captures have cut it."""
    end_ns = _next_grid_ns(time.time_ns())
    parts: list[Profile] = []
    while not parts or not (stop.is_set() or time.time_ns() >= end_ns):
        _attend_until(collector, captures, end_ns, stop)
        part, *of_captures = collector.cut(captures.views())
        parts.append(part)
        settled = collector.settle(0)
        better = collector.better_names()
        captures.take(of_captures, better, settled=settled)
        pusher.put_names(better)
    return merge(parts) if len(parts) > 1 else part


def _attend_until(collector: Collector, captures: Captures, end_ns: int, stop: threading.Event) -> None:
    """Until the end, or until the window has to be cut for a capture."""
    while not stop.is_set():
        left = min((end_ns - time.time_ns()) / 1e9, captures.wait())
        if left <= 0:
            return
        collector.attend(min(left, 1.0))
