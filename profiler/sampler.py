"""The sampler: BPF on every CPU's clock, drained window by window into numpy arrays."""

from __future__ import annotations

import contextlib
import ctypes as c
import errno
import os
import re
import time
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from profiler import events, maps
from profiler.accounting import TickCounts
from profiler.cpukinds import cpu_kinds
from profiler.libbpf import BpfObject, BpfRefused, possible_cpus
from profiler.model import Window
from profiler.stacks import STACK, Stacks, to_look_up
from profiler.unwind.store import most_chunks

# The layouts of bpf/sampler.h.
SAMPLE_KEY = np.dtype(
    [
        ("cgroup", "<u8"),
        ("kernel_stack", "<u8"),
        ("user_stack", "<u8"),
        ("tgid", "<u4"),
        ("cpu_kind", "<u4"),
        ("comm", "S16"),
    ]
)
LOST_REASONS = ("counts map full", "stack map full", "no memory", "stack id collision", "stack unreadable")
COUNTERS = np.dtype(
    [
        ("ticks", "<u8"),
        ("idle", "<u8"),
        ("filtered", "<u8"),
        ("sampled", "<u8"),
        ("lost", "<u8", len(LOST_REASONS)),
        ("run_ns", "<u8"),
    ]
)
COUNT = np.dtype("<u8")
_FILTER_PIDS, _FILTER_CGROUPS, _FILTER_CHILDREN, _UNWIND_TABLES = 0, 4, 8, 12  # where .rodata has the constants

BTF = Path("/sys/kernel/btf/vmlinux")
_OBJECT = Path(__file__).parent / "bpf" / "sampler.bpf.o"
_FOLLOWERS = ("on_exit", "on_fork", "on_rename")
BPF_LOOP_SINCE = (5, 17)
_STOCK = 16
_MAPS = ("stacks_0", "stacks_1", "counts_0", "counts_1", "counters", "ticks", "cpu_kinds", "pids", "cgroups")
_UNWIND_MAPS = ("mapping_blocks", "unwind_files", "unwind_pages", "unwind_rules", "unwind_chunks")
_SHARED_MAPS = (*_UNWIND_MAPS, "wanted")
_ARRAYS = frozenset(("unwind_files", "unwind_pages", "unwind_rules", "unwind_chunks"))
_MOST_BLOCKS, _MOST_BLOCKS_UP_FRONT = 16384, 4096
_FEWEST_ENTRIES, _MOST_ENTRIES = 1 << 14, 1 << 18
_MOST_ENTRIES_UP_FRONT = 1 << 15  # 32 MB for each generation of stacks


@dataclass(frozen=True, slots=True)
class RawWindow:
    """One window as the kernel counted it. `keys` are of SAMPLE_KEY, `counts` go with them; stack id 0 is no stack, and
    a key's `cpu_kind` the place of its name in `cpu_kinds`.

    `start_mono_ns` and `end_mono_ns` are the window's bounds by CLOCK_MONOTONIC, which process records are
    stamped with. `cpu_seconds` sums the time each CPU was sampled, `hz` times a second.
    """

    window: Window
    hz: int
    start_mono_ns: int
    end_mono_ns: int
    cpu_seconds: float
    keys: NDArray[Any]
    counts: NDArray[np.uint64]
    stacks: Stacks
    counted: TickCounts
    cpu_kinds: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class Filters:
    """What to sample; everything where both are empty. `children`: also what the pids fork from now on."""

    pids: frozenset[int] = frozenset()
    cgroups: frozenset[int] = frozenset()
    children: bool = False

    def select(self, raw: RawWindow) -> RawWindow:
        """What a sampler with these pids and cgroups would have counted of the window of one that has none; `raw`
        itself where there are none."""
        if not self.pids and not self.cgroups:
            return raw
        rows = np.ones(len(raw.keys), bool)
        for column, wanted in (("tgid", self.pids), ("cgroup", self.cgroups)):
            if wanted:
                rows &= np.isin(raw.keys[column], np.array(sorted(wanted), raw.keys[column].dtype))
        others = int(raw.counts[~rows].sum())
        counted = replace(raw.counted, filtered=raw.counted.filtered + others, sampled=raw.counted.sampled - others)
        return replace(raw, keys=raw.keys[rows], counts=raw.counts[rows], counted=counted)


class BpfPrograms(Protocol):
    """Loaded BPF programs and maps, by name."""

    def map_fd(self, name: str) -> int: ...

    def program_fd(self, name: str) -> int: ...

    def close(self) -> None: ...


class Sampler:
    """Samples from construction to close(). Raises BpfError or EventError with a sentence for the user.

    `hz` is the rate now; `tick_program` which BPF program ticks.
    """

    tick_program = "on_tick"

    def __init__(
        self,
        hz: int,
        *,
        window_seconds: float = 10,
        filters: Filters | None = None,
        unwind_bytes: int = 0,
        beside: Sampler | None = None,
    ) -> None:
        """`unwind_bytes`: how much unwind tables may take; user stacks are walked by frame pointers alone if 0.
        `beside`: a sampler that runs as long as this one, with as many, whose tables and mappings this one uses."""
        events.check_hz(hz)
        self.hz = hz
        self._beside = beside
        filters = filters or Filters()
        self._clocks: dict[int, int] = {}
        self._object = self._load(filters, window_seconds, unwind_bytes)
        try:
            for pid in filters.pids:
                self.add_pid(pid)
            for cgroup in filters.cgroups:
                maps.put(self._object.map_fd("cgroups"), cgroup, 1, key_size=8, value_size=1)
            self._generation = 0
            self._since: dict[int, float] = {}
            self._cpu_seconds = 0.0
            self._kinds = [""]
            self._kind_of = np.zeros(possible_cpus(), "<u8")
            self._start_ns, self._start_mono_ns = time.time_ns(), time.monotonic_ns()
            self.follow_cpus(events.online_cpus())
        except BaseException:
            self.close()
            raise

    @property
    def began(self) -> float:
        """When the window in hand began, in seconds of time.monotonic()."""
        return self._start_mono_ns / 1e9

    def follow_cpus(self, online: Set[int]) -> None:
        """Samples the CPUs that came online since, and stops counting on those that went. Call it each second."""
        now = time.monotonic()
        for cpu in self._clocks.keys() - online:
            os.close(self._clocks.pop(cpu))
            self._cpu_seconds += now - self._since.pop(cpu)
        fresh = sorted(online - self._clocks.keys())
        if fresh:
            self._tell_kinds()
        for cpu in fresh:
            self._warm_up(cpu)
            try:
                self._clocks[cpu] = events.open_clock(cpu, self.hz, self._object.program_fd(self.tick_program))
            except OSError as error:
                if error.errno == errno.ENODEV:  # gone offline again meanwhile
                    continue
                raise events.EventError(str(error.strerror)) from error
            self._since[cpu] = time.monotonic()

    def add_pid(self, pid: int) -> None:
        """Lets one more process through the filter by pid."""
        maps.put(self._object.map_fd("pids"), pid, 1, key_size=4, value_size=1)

    def drain(self, next_hz: int = 0) -> RawWindow:
        """Ends the window and returns it; the next one begins at the same instant, at `next_hz` if that is given."""
        old, hz = self._generation, self.hz
        self._generation = 1 - old
        end_ns, end_mono_ns = time.time_ns(), time.monotonic_ns()
        maps.put(self._object.map_fd("generation"), 0, self._generation, key_size=4, value_size=4)
        if next_hz and next_hz != hz:
            self.hz = next_hz
            for fd in self._clocks.values():
                events.change_rate(fd, next_hz)
        cpu_seconds = self._take_cpu_seconds()
        window, start_mono_ns = Window(self._start_ns, end_ns), self._start_mono_ns
        self._start_ns, self._start_mono_ns = end_ns, end_mono_ns
        wait_for_programs_in_flight()
        keys, counts = self._drain_counts(old)
        return RawWindow(
            window,
            hz,
            start_mono_ns,
            end_mono_ns,
            cpu_seconds,
            keys,
            counts,
            self._drain_stacks(old),
            self._take_counters(old),
            tuple(self._kinds),
        )

    def locked_bytes(self) -> int:
        """Kernel memory of the BPF maps, as their fdinfo says (memlock)."""
        own = _MAPS if self._beside else _MAPS + _UNWIND_MAPS
        return sum(memlock(self._object.map_fd(name)) for name in own)

    def map_fd(self, name: str) -> int:
        """The fd of one of the sampler's BPF maps."""
        return self._object.map_fd(name)

    def program_fd(self, name: str) -> int:
        """The fd of one of the sampler's BPF programs."""
        return self._object.program_fd(name)

    def close(self) -> None:
        for fd in self._clocks.values():
            os.close(fd)
        self._clocks.clear()
        self._object.close()

    def _load(self, filters: Filters, window_seconds: float, unwind_bytes: int) -> BpfPrograms:
        """The programs and maps, loaded, with room for the samples of a window; which of them ticks."""
        if kernel_version() >= BPF_LOOP_SINCE:
            with contextlib.suppress(BpfRefused):  # a kernel that does not take the loop may take the other
                return self._load_with("on_tick", filters, window_seconds, unwind_bytes)
        return self._load_with("on_tick_bounded", filters, window_seconds, unwind_bytes)

    def _load_with(self, tick: str, filters: Filters, window_seconds: float, unwind_bytes: int) -> BpfPrograms:
        self.tick_program = tick
        bounded = tick == "on_tick_bounded"
        follows = bool(unwind_bytes) and not self._beside
        needed = {
            "on_tick": not bounded,
            "on_tick_bounded": bounded,
            "walk_on": bounded,
            "on_exit": bool(filters.pids) or follows,
            "on_fork": filters.children or follows,
            "on_rename": follows,
        }
        loaded = BpfObject(_OBJECT)
        try:
            self._size(loaded, window_seconds, unwind_bytes)
            if self._beside:
                for name in _SHARED_MAPS:
                    loaded.share_map(name, self._beside.map_fd(name))
            loaded.set_constant(_FILTER_PIDS, bool(filters.pids))
            loaded.set_constant(_FILTER_CGROUPS, bool(filters.cgroups))
            loaded.set_constant(_FILTER_CHILDREN, filters.children)
            loaded.set_constant(_UNWIND_TABLES, bool(unwind_bytes))
            for program in needed:
                if not needed[program]:
                    loaded.skip_program(program)
            loaded.load()
            if bounded:
                maps.put(loaded.map_fd("next_program"), 0, loaded.program_fd("walk_on"), key_size=4, value_size=4)
            for program in _FOLLOWERS:
                if needed[program]:
                    loaded.attach(program)
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _size(self, loaded: BpfObject, window_seconds: float, unwind_bytes: int) -> None:
        ticks = int(self.hz * window_seconds * len(events.online_cpus()))
        # Twice: each tick brings a kernel and a user stack. Entries take memory only while they are used, but
        # before Linux 6.1 programs of perf events are allowed no such maps (kernel/bpf/verifier.c).
        up_front = kernel_version() < (6, 1)
        most = _MOST_ENTRIES_UP_FRONT if up_front else _MOST_ENTRIES
        entries = min(max(1 << (2 * ticks).bit_length(), _FEWEST_ENTRIES), most)
        sizes = dict.fromkeys(("stacks_0", "stacks_1", "counts_0", "counts_1"), entries)
        if not self._beside and not unwind_bytes:
            sizes |= dict.fromkeys(_UNWIND_MAPS, 1)
        elif not self._beside:
            sizes["unwind_chunks"] = max(most_chunks(unwind_bytes), 1)
            sizes["mapping_blocks"] = _MOST_BLOCKS_UP_FRONT if up_front else _MOST_BLOCKS
        for name, size in sizes.items():
            loaded.set_max_entries(name, size)
            if up_front and name not in _ARRAYS:
                loaded.allocate_up_front(name)

    def _tell_kinds(self) -> None:
        """Has the samples of each CPU say of what kind it is. A kind keeps its number."""
        for cpu, kind in cpu_kinds().items():
            if kind not in self._kinds:
                self._kinds.append(kind)
            self._kind_of[cpu] = self._kinds.index(kind)
        maps.write_per_cpu(self._object.map_fd("cpu_kinds"), 0, self._kind_of)

    def _warm_up(self, cpu: int) -> None:
        """Has the maps' allocators hold some free elements on a CPU before its first tick.

        They take an element from what their CPU holds in stock and fetch more after the interrupt
        (kernel/bpf/memalloc.c); a new map has one in stock, and a tick needs up to three.
        """
        own = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError:  # gone offline, or not ours to run on: its first tick may be lost, and is counted
            return
        try:
            for generation in (0, 1):
                maps.stock(self._object.map_fd(f"stacks_{generation}"), 8, STACK.itemsize, _STOCK)
                maps.stock(self._object.map_fd(f"counts_{generation}"), SAMPLE_KEY.itemsize, 8, _STOCK)
        finally:
            os.sched_setaffinity(0, own)

    def _take_cpu_seconds(self) -> float:
        now = time.monotonic()
        seconds = self._cpu_seconds + sum(now - since for since in self._since.values())
        self._cpu_seconds = 0.0
        self._since = dict.fromkeys(self._since, now)
        return seconds

    def _drain_counts(self, generation: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
        fd = self._object.map_fd(f"counts_{generation}")
        chunks = [(keys.copy(), counts.copy()) for keys, counts in maps.drain(fd, SAMPLE_KEY, COUNT)]
        if not chunks:
            return np.empty(0, SAMPLE_KEY), np.empty(0, COUNT)
        return np.concatenate([k for k, _ in chunks]), np.concatenate([n for _, n in chunks])

    def _drain_stacks(self, generation: int) -> Stacks:
        fd = self._object.map_fd(f"stacks_{generation}")
        return to_look_up(maps.drain(fd, np.dtype("<u8"), STACK))

    def _take_counters(self, generation: int) -> TickCounts:
        fd = self._object.map_fd("counters")
        per_cpu = maps.read_per_cpu(fd, generation, COUNTERS)
        maps.write_per_cpu(fd, generation, np.zeros_like(per_cpu))
        ticks, idle, filtered, sampled, run_ns = (
            int(per_cpu[name].sum()) for name in ("ticks", "idle", "filtered", "sampled", "run_ns")
        )
        lost = dict(zip(LOST_REASONS, per_cpu["lost"].sum(axis=0).tolist(), strict=True))
        return TickCounts(ticks, idle, filtered, sampled, {reason: n for reason, n in lost.items() if n}, run_ns)


_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_MEMBARRIER_CMD_GLOBAL = 1
_libc = c.CDLL(None, use_errno=True)


def wait_for_programs_in_flight() -> None:
    """Returns once every BPF program that read the old generation has ended.

    membarrier(2) with MEMBARRIER_CMD_GLOBAL waits for an RCU grace period (kernel/sched/membarrier.c), which no
    BPF program outlives. Where it is refused (nohz_full), a wait longer than any run has to do.
    """
    if _libc.syscall(_SYS_MEMBARRIER[os.uname().machine], _MEMBARRIER_CMD_GLOBAL, 0, 0) != 0:
        time.sleep(0.05)


def memlock(fd: int) -> int:
    """Kernel memory of one BPF map, in bytes."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("memlock:"):
            return int(line.split()[1])
    return 0


def kernel_version() -> tuple[int, ...]:
    """Major and minor number of the running kernel."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def alive(pids: Iterable[int]) -> bool:
    """Whether any of the processes still runs."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if state not in "ZX":
            return True
    return False
