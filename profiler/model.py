"""The data that flows through pilotlight: a Profile of one window, its samples and their accounting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Frame, Kind, Location


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end) in nanoseconds since the epoch, UTC."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Sample:
    """`count` ticks that found the same thread name of the same process in the same stack.

    `stack` is leaf first, kernel frames before user frames, and may be empty. `process` is the
    name of the process, `thread` that of the thread (its comm). `service` and `container` are ""
    where the process belongs to none.
    """

    stack: tuple[Location, ...]
    pid: int
    process: str
    thread: str
    count: int
    service: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What taking the profile cost: BPF run time and runs, the agent's CPU time, and memory in bytes."""

    bpf_ns: int = 0
    bpf_runs: int = 0
    agent_cpu_ns: int = 0
    rss_bytes: int = 0
    locked_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Times add up; of memory the larger is kept."""
        return Cost(
            self.bpf_ns + other.bpf_ns,
            self.bpf_runs + other.bpf_runs,
            self.agent_cpu_ns + other.agent_cpu_ns,
            max(self.rss_bytes, other.rss_bytes),
            max(self.locked_bytes, other.locked_bytes),
        )


@dataclass(frozen=True, slots=True)
class Accounting:
    """Where every tick went: ticks = idle + filtered + sampled + lost, exactly.

    `expected` is hz times the online CPU-seconds of the window. `lost` is by reason. `frames_named`
    and `frames_unknown` (by reason) count frames weighted with their sample's count.
    """

    expected: int = 0
    ticks: int = 0
    idle: int = 0
    filtered: int = 0
    sampled: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    frames_named: int = 0
    frames_unknown: Mapping[str, int] = field(default_factory=dict)
    cost: Cost = Cost()

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())

    @property
    def missed(self) -> int:
        """Ticks that were due and never came (throttling, steal, hotplug); below zero only by rounding."""
        return self.expected - self.ticks

    @property
    def closes(self) -> bool:
        return self.ticks == self.idle + self.filtered + self.sampled + self.lost_total

    def __add__(self, other: Accounting) -> Accounting:
        return Accounting(
            expected=self.expected + other.expected,
            ticks=self.ticks + other.ticks,
            idle=self.idle + other.idle,
            filtered=self.filtered + other.filtered,
            sampled=self.sampled + other.sampled,
            lost=_add_counts(self.lost, other.lost),
            frames_named=self.frames_named + other.frames_named,
            frames_unknown=_add_counts(self.frames_unknown, other.frames_unknown),
            cost=self.cost + other.cost,
        )


def _add_counts(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted(a.keys() | b.keys())}


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything one host executed in one window, for one event.

    `event` is the perf event's name ("cpu-clock", "cycles"). `hz` is samples a second and CPU; a
    count of 1 stands for 1/hz CPU-seconds. sampled == sum of the samples' counts.
    """

    host: str
    event: str
    hz: int
    window: Window
    samples: tuple[Sample, ...]
    accounting: Accounting
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StackTable:
    """Stacks as arrays, the form that call trees and pictures are made from.

    Stack i is `frames[j] for j in index[offsets[i]:offsets[i + 1]]`, root first, and weighs
    `counts[i]`. `index` is uint32, `offsets` (one more than there are stacks) and `counts` int64.
    `binaries[j]` is the path of the binary that frames[j] came from, or "". The pairs (frame without
    line and reason, binary) are distinct; a stack may occur twice.
    """

    frames: list[Frame]
    binaries: list[str]
    index: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]


def stack_table(profile: Profile) -> StackTable:
    """The profile's stacks below their process's name, and their thread's where that differs."""
    frames: list[Frame] = []
    binaries: list[str] = []
    ids: dict[tuple[str, Kind, str], int] = {}
    by_location: dict[int, list[int]] = {}  # by id(): hashing a Location costs more than all the rest here
    index: list[int] = []
    offsets = [0]
    for sample in profile.samples:
        for name, kind in bases(sample.process, sample.thread):
            index.append(_frame_id(Frame(name, kind), "", ids, frames, binaries))
        for location in reversed(sample.stack):
            known = by_location.get(id(location))
            if known is None:
                binary = location.binary.path if location.binary else ""
                known = [_frame_id(f, binary, ids, frames, binaries) for f in reversed(location.frames)]
                by_location[id(location)] = known
            index.extend(known)
        offsets.append(len(index))
    return StackTable(
        frames,
        binaries,
        np.array(index, np.uint32),
        np.array(offsets, np.int64),
        np.array([sample.count for sample in profile.samples], np.int64),
    )


def bases(process: str, thread: str) -> list[tuple[str, Kind]]:
    """The names a stack stands on, root first: its process, and its thread where named otherwise."""
    names = [(process, Kind.PROCESS)]
    if thread != process:
        names.append((thread, Kind.THREAD))
    return names


def _frame_id(
    frame: Frame, binary: str, ids: dict[tuple[str, Kind, str], int], frames: list[Frame], binaries: list[str]
) -> int:
    key = (frame.function, frame.kind, binary)
    found = ids.get(key)
    if found is None:
        found = ids[key] = len(frames)
        frames.append(frame)
        binaries.append(binary)
    return found


def merge(profiles: Sequence[Profile]) -> Profile:
    """One profile of all that the given ones hold: of one host, event and rate, in the order of their windows.

    Equal samples become one. Raises ValueError for no profiles, or for rates that differ.
    """
    if len({profile.hz for profile in profiles}) != 1:
        raise ValueError("Only profiles of one sampling rate can be merged.")
    counts: dict[tuple[object, ...], int] = {}
    examples: dict[tuple[object, ...], Sample] = {}
    accounting = Accounting()
    for profile in profiles:
        accounting += profile.accounting
        for sample in profile.samples:
            # Locations by id(), as hashing them costs much more; the samples kept in `examples` keep them alive.
            stack = tuple(map(id, sample.stack))
            key = (stack, sample.pid, sample.process, sample.thread, sample.service, sample.container)
            examples.setdefault(key, sample)
            counts[key] = counts.get(key, 0) + sample.count
    first, last = profiles[0], profiles[-1]
    samples = tuple(replace(examples[key], count=count) for key, count in counts.items())
    window = Window(first.window.start_ns, last.window.end_ns)
    return replace(first, window=window, samples=samples, accounting=accounting)
