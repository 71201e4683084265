"""From ticks to Profiles: the sampler, the process records and the symbolizer at work together."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.accounting import account
from profiler.cgroups import Cgroups
from profiler.events import EVENT, online_cpus
from profiler.model import Cost, Profile
from profiler.overhead import Pace, RateGovernor
from profiler.processes import Processes
from profiler.records import RecordStream
from profiler.resolve import Resolved, resolve
from profiler.sampler import BTF, Filters, RawWindow, Sampler, wait_for_programs_in_flight
from profiler.symbols import Symbols, cache_folder, open_symfiles
from profiler.unwind.unwinder import Unwinder
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Location

AUTO, LIBBPF, BCC = BACKENDS = ("auto", "libbpf", "bcc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample: how often a second on each CPU, by which backend, and with how much memory for unwind tables, in
    bytes (0: user stacks by frame pointers alone). `max_overhead`, a share of one CPU, lowers the rate (0: never)."""

    hz: int = 99
    backend: str = AUTO
    unwind_bytes: int = 64 << 20
    max_overhead: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What one of several profiles of the same time is to hold: what `filters` let through of the ticks of a sampler,
    which filters in the kernel if it is `own`, and is the one that always runs where that is None."""

    filters: Filters
    own: Sampler | None = None


class Collector:
    """Samples from construction to close(); attend() it about once a second, collect() to end a window.

    Raises BpfError or EventError, each with a sentence for the user, where the kernel refuses.
    """

    def __init__(
        self,
        sampling: Sampling,
        symbols: Symbols | None = None,
        *,
        window_seconds: float = 10,
        filters: Filters | None = None,
        host: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        filters = filters or Filters()
        self.host = host or socket.gethostname()
        self.labels = dict(labels or {})
        self.processes = Processes()
        self._symfiles = open_symfiles(symbols) if symbols is not None else None
        self._symbolizer = Symbolizer(self._symfiles)
        self._better: list[Location] = []
        self._names_cpu_ns = 0
        self._following_ns = self._tables_cpu_ns = 0
        self._cgroups = Cgroups()
        self._governor = RateGovernor(sampling.hz, sampling.max_overhead)
        self._pace = Pace()
        self._started = False
        self._window_seconds = window_seconds
        sampler, unwind_bytes = _backend(sampling)
        self._unwind_bytes = unwind_bytes
        self._sampler: Sampler | None = None
        self._beside: list[Sampler] = []
        self._unwinder: Unwinder | None = None
        self._records = RecordStream(prompt=bool(unwind_bytes))
        try:
            self.processes.scan()
            self._sampler = self.sampler = sampler(
                sampling.hz, window_seconds=window_seconds, filters=filters, unwind_bytes=unwind_bytes
            )
            if unwind_bytes:
                self._unwinder = self._make_unwinder(unwind_bytes, filters)
                # What a command's process maps now it loses with its exec.
                self._unwinder.feed(only_asked=filters.children)
        except BaseException:
            self.close()
            raise
        self._cpu_ns = time.process_time_ns()

    @property
    def hz(self) -> int:
        """How often a second each CPU is sampled now."""
        return self._governor.hz

    def attend(self, seconds: float) -> None:
        """Takes in what happens for `seconds`: at once what the unwinder must know, as long as that is cheap."""
        online = online_cpus()
        for sampler in (self.sampler, *self._beside):
            sampler.follow_cpus(online)
        self._records.follow_cpus(online)
        end = time.monotonic() + seconds
        with _in_a_hurry():
            while (left := end - time.monotonic()) > 0:
                if self._records.wait(0 if self._has_more() else left, self._builders()) or self._has_more():
                    self._take_names()
                    pause = self._pace.pause(self._take_in())
                    time.sleep(min(pause, max(end - time.monotonic(), 0)))
            self._take_in()

    def collect(self) -> Profile:
        """Ends the window in hand and returns it with names."""
        return self.cut(())[0]

    def cut(self, views: Sequence[View]) -> list[Profile]:
        """Ends the window in hand and returns it with names, and then what each of the views has of it."""
        raw = self.sampler.drain(self._governor.hz)
        of_own = {sampler: sampler.drain() for sampler in self._beside}
        self.processes.apply(self._records.read())
        resolved = self._resolve(raw)
        raws = [of_own[view.own] if view.own else view.filters.select(raw) for view in views]
        of_views = [(part, resolved if part is raw else self._resolve(part)) for part in raws]
        self.processes.end_window(raw.end_mono_ns)
        if self._unwinder is not None:
            self._unwinder.end_window([at for _, part in [(raw, resolved), *of_views] for at in part.mappings])
        names_ns = self._take_names_cpu_ns()
        cost, following_ns = self._cost(raw, names_ns), self._take_following_ns()
        # What starting costs, a window that began before the rate changed, symbol files, each of which is built once,
        # and what people asked for besides say nothing of the rate.
        if self._started and raw.hz == self._governor.hz and not views:
            sampling_ns = cost.bpf_ns + cost.agent_cpu_ns - names_ns - following_ns
            self._governor.next_hz(max(sampling_ns, 0) / 1e9, following_ns / 1e9, raw.window.seconds)
        self._started = True
        return [self._profile(part, of_part, cost) for part, of_part in [(raw, resolved), *of_views]]

    def open_sampler(self, hz: int, filters: Filters) -> Sampler:
        """A second sampler, for a View of its own, until close_sampler(). It shares the first one's unwind tables.

        Raises BpfError or EventError where the kernel refuses.
        """
        beside = self.sampler if self._unwind_bytes else None
        sampler = type(self.sampler)(
            hz, window_seconds=self._window_seconds, filters=filters, unwind_bytes=self._unwind_bytes, beside=beside
        )
        self._beside.append(sampler)
        return sampler

    def close_sampler(self, sampler: Sampler) -> None:
        self._beside.remove(sampler)
        sampler.close()

    def better_names(self) -> list[Location]:
        """Locations of earlier windows that have better names by now; each is told once."""
        better, self._better = self._better + self._symbolizer.improved(), []
        return better

    def settle(self, seconds: float) -> bool:
        """Waits until all symbol files that were asked for are there, at most `seconds`; whether they are."""
        return self._symfiles is None or self._symfiles.settle(seconds)

    def losses(self) -> str:
        """What was lost on the way since the last call, in sentences; "" where nothing was."""
        others = (self._unwinder, self._symfiles)
        said = [self.processes.losses(), *(other.losses() for other in others if other is not None)]
        return " ".join(filter(None, said))

    def close(self) -> None:
        if self._unwinder is not None:
            self._unwinder.close()
        if self._symfiles is not None:
            self._symfiles.close()
        for sampler in (*self._beside, *filter(None, [self._sampler])):
            sampler.close()
        self._records.close()

    def _resolve(self, raw: RawWindow) -> Resolved:
        return resolve(raw, self.processes, self._symbolizer, self._cgroups, self._breathe)

    def _profile(self, raw: RawWindow, resolved: Resolved, cost: Cost) -> Profile:
        return Profile(
            self.host,
            EVENT,
            raw.hz,
            raw.window,
            resolved.samples,
            account(
                raw.counted,
                expected=round(raw.cpu_seconds * raw.hz),
                drained=int(raw.counts.sum()),
                without_stack=resolved.without_stack,
                frames_named=resolved.frames_named,
                frames_unknown=resolved.frames_unknown,
                unwinding=resolved.unwinding,
                cost=replace(cost, bpf_ns=raw.counted.run_ns, bpf_runs=raw.counted.ticks),
            ),
            self.labels,
        )

    def _has_more(self) -> bool:
        return self._unwinder is not None and self._unwinder.has_more

    def _builders(self) -> list[int]:
        """Descriptors that can be read when a table, or a symbol file, was built."""
        builders = (self._unwinder, self._symfiles)
        return [builder.fileno() for builder in builders if builder is not None and builder.fileno() >= 0]

    def _take_names(self) -> None:
        if self._symfiles is not None and self._symfiles.fileno() >= 0:
            self._better += self._symbolizer.improved()

    def _breathe(self) -> None:
        """Takes in what came meanwhile, in the midst of other work."""
        if self._records.wait(0):
            self._take_in()

    def _take_in(self) -> float:
        """Reads the process records there are and hands on what follows from them; returns the CPU seconds it took."""
        began = time.thread_time()
        self.processes.apply(self._records.read())
        if self._unwinder is not None:
            self._unwinder.feed()
        spent = time.thread_time() - began
        self._following_ns += round(spent * 1e9)
        return spent

    def _make_unwinder(self, unwind_bytes: int, filters: Filters) -> Unwinder:
        return Unwinder(
            self.sampler.map_fd,
            self.processes,
            wait_for_programs_in_flight,
            budget=unwind_bytes,
            cache=cache_folder(),
            eager=filters.pids,
        )

    def _take_names_cpu_ns(self) -> int:
        """CPU time that building symbol files took since the last call."""
        before, self._names_cpu_ns = self._names_cpu_ns, self._symfiles.cpu_ns() if self._symfiles is not None else 0
        return self._names_cpu_ns - before

    def _take_following_ns(self) -> int:
        """CPU time that following processes took since the last call, their unwind tables included."""
        tables_ns = self._unwinder.builder_cpu_ns() if self._unwinder is not None else 0
        spent = self._following_ns + tables_ns - self._tables_cpu_ns
        self._following_ns, self._tables_cpu_ns = 0, tables_ns
        return spent

    def _cost(self, raw: RawWindow, names_ns: int) -> Cost:
        now = time.process_time_ns()
        tables = builders = 0
        if self._unwinder is not None:
            now += self._unwinder.builder_cpu_ns()
            tables, builders = self._unwinder.table_bytes(), self._unwinder.builder_memory_bytes()
        if self._symfiles is not None:
            builders += self._symfiles.memory_bytes()
        locked = sum(sampler.locked_bytes() for sampler in (self.sampler, *self._beside))
        spent, self._cpu_ns = now - self._cpu_ns, now
        return Cost(
            bpf_ns=raw.counted.run_ns,
            bpf_runs=raw.counted.ticks,
            agent_cpu_ns=spent + names_ns,
            rss_bytes=rss_bytes() + builders,
            locked_bytes=locked + self._records.locked_bytes() + tables,
        )


def _backend(sampling: Sampling) -> tuple[type[Sampler], int]:
    """The sampler to use, and the memory for unwind tables that it can make use of."""
    if sampling.backend == BCC or sampling.backend == AUTO and not os.path.exists(BTF):
        from profiler.bcc import BccSampler

        return BccSampler, 0
    return Sampler, sampling.unwind_bytes if os.uname().machine == "x86_64" else 0


@contextlib.contextmanager
def _in_a_hurry() -> Iterator[None]:
    """Runs the calling thread before all ordinary ones, where that is allowed (CAP_SYS_NICE; sched(7), SCHED_FIFO)."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def rss_bytes() -> int:
    """Resident memory of this process, in bytes (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
