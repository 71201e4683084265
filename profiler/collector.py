"""From ticks to Profiles: the sampler, the process records and the symbolizer at work together."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from profiler.accounting import account
from profiler.cgroups import Cgroups
from profiler.events import online_cpus
from profiler.model import Cost, Profile
from profiler.processes import Processes
from profiler.records import RecordStream
from profiler.resolve import resolve
from profiler.sampler import Filters, RawWindow, Sampler
from symbolizer.symbolizer import Symbolizer

EVENT = "cpu-clock"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Collector:
    """Samples from construction to close(); attend() it about once a second, collect() to end a window.

    Raises BpfError or EventError, each with a sentence for the user, where the kernel refuses.
    """

    def __init__(
        self,
        hz: int,
        *,
        window_seconds: float = 10,
        filters: Filters | None = None,
        host: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.hz = hz
        self.host = host or socket.gethostname()
        self.labels = dict(labels or {})
        self.processes = Processes()
        self._symbolizer = Symbolizer()
        self._cgroups = Cgroups()
        self._records = RecordStream()
        try:
            self.processes.scan()
            self.sampler = Sampler(hz, window_seconds=window_seconds, filters=filters)
        except BaseException:
            self._records.close()
            raise
        self._cpu_ns = time.process_time_ns()

    def attend(self, seconds: float) -> None:
        """Waits for up to `seconds`, less when process records press, and takes in what happened."""
        self._records.wait(seconds)
        self.processes.apply(self._records.read())
        online = online_cpus()
        self.sampler.follow_cpus(online)
        self._records.follow_cpus(online)

    def collect(self) -> Profile:
        """Ends the window in hand and returns it with names."""
        raw = self.sampler.drain()
        self.processes.apply(self._records.read())
        resolved = resolve(raw, self.processes, self._symbolizer, self._cgroups)
        self.processes.end_window(raw.end_mono_ns)
        return Profile(
            self.host,
            EVENT,
            self.hz,
            raw.window,
            resolved.samples,
            account(
                raw.counted,
                expected=round(raw.cpu_seconds * self.hz),
                drained=int(raw.counts.sum()),
                without_stack=resolved.without_stack,
                frames_named=resolved.frames_named,
                frames_unknown=resolved.frames_unknown,
                cost=self._cost(raw),
            ),
            self.labels,
        )

    def close(self) -> None:
        self.sampler.close()
        self._records.close()

    def _cost(self, raw: RawWindow) -> Cost:
        now = time.process_time_ns()
        spent, self._cpu_ns = now - self._cpu_ns, now
        return Cost(
            bpf_ns=raw.counted.run_ns,
            bpf_runs=raw.counted.ticks,
            agent_cpu_ns=spent,
            rss_bytes=rss_bytes(),
            locked_bytes=self.sampler.locked_bytes() + self._records.locked_bytes(),
        )


def rss_bytes() -> int:
    """Resident memory of this process, in bytes (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
