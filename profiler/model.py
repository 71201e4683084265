"""The data that flows through pilotlight: a Profile of one window, its samples and their accounting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import Final

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Frame, Kind, Location

MAX_HZ: Final = 1_000_000


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
    """`count` ticks that found the same thread name of the same process in the same stack, on CPUs of the same kind.

    `stack` is leaf first, kernel frames before user frames, and may be empty. `process` is the
    name of the process, `thread` that of the thread (its comm); both are "" and `pid` is 0 where a file of
    another profiler does not tell. `service` and `container` are "" where the process belongs to none, `cpu_kind`
    (as cpukinds.py has it) where nobody tells.
    """

    stack: tuple[Location, ...]
    pid: int
    process: str
    thread: str
    count: int
    service: str = ""
    container: str = ""
    cpu_kind: str = ""


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
class Passage:
    """How stacks passed through the code of one binary: frames whose caller was found by the binary's unwind table, and
    by frame pointer, and stacks that ended there before their root, by reason; weighted with their sample's count."""

    by_table: int = 0
    by_frame_pointer: int = 0
    ended: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Passage) -> Passage:
        return Passage(
            self.by_table + other.by_table,
            self.by_frame_pointer + other.by_frame_pointer,
            _add_counts(self.ended, other.ended),
        )


@dataclass(frozen=True, slots=True)
class Unwinding:
    """How far user stacks were walked, weighted with their sample's count.

    `whole` reached their root; `cut`, by reason, did not; `unchecked` were walked by frame pointers alone, which do not
    tell. `binaries` are by path, those that most frames passed through.
    """

    whole: int = 0
    unchecked: int = 0
    cut: Mapping[str, int] = field(default_factory=dict)
    binaries: Mapping[str, Passage] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """The same as plain counts that add up across windows: of "whole", "unchecked", a reason of `cut`, and of
        "table", "frame pointer" or a reason, then a tab and the path of a binary."""
        found = {"whole": self.whole, "unchecked": self.unchecked, **self.cut}
        for path, passage in self.binaries.items():
            fates = {"table": passage.by_table, "frame pointer": passage.by_frame_pointer, **passage.ended}
            found.update({f"{fate}\t{path}": count for fate, count in fates.items()})
        return {key: count for key, count in found.items() if count}

    @staticmethod
    def from_counts(counts: Mapping[str, int]) -> Unwinding:
        """What counts() was made from."""
        whole, cut, binaries = {"whole": 0, "unchecked": 0}, dict[str, int](), dict[str, Passage]()
        for key, count in counts.items():
            fate, tab, path = key.partition("\t")
            if not tab:
                (whole if fate in whole else cut)[fate] = count
                continue
            by = {"table": Passage(count), "frame pointer": Passage(0, count)}.get(fate, Passage(0, 0, {fate: count}))
            binaries[path] = binaries.get(path, Passage()) + by
        return Unwinding(whole["whole"], whole["unchecked"], cut, binaries)

    def __add__(self, other: Unwinding) -> Unwinding:
        binaries = dict(self.binaries)
        for path, passage in other.binaries.items():
            binaries[path] = binaries[path] + passage if path in binaries else passage
        return Unwinding(
            self.whole + other.whole,
            self.unchecked + other.unchecked,
            _add_counts(self.cut, other.cut),
            binaries,
        )

    def scaled(self, factor: int) -> Unwinding:
        """Every count `factor` times."""
        return self.from_counts(_scale_counts(self.counts(), factor))


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
    unwinding: Unwinding = Unwinding()

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
            unwinding=self.unwinding + other.unwinding,
        )

    def scaled(self, factor: int) -> Accounting:
        """What it would be at `factor` times the rate: every count that often. What it cost stays."""
        if factor == 1:
            return self
        return Accounting(
            expected=self.expected * factor,
            ticks=self.ticks * factor,
            idle=self.idle * factor,
            filtered=self.filtered * factor,
            sampled=self.sampled * factor,
            lost=_scale_counts(self.lost, factor),
            frames_named=self.frames_named * factor,
            frames_unknown=_scale_counts(self.frames_unknown, factor),
            cost=self.cost,
            unwinding=self.unwinding.scaled(factor),
        )


def _add_counts(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted(a.keys() | b.keys())}


def _scale_counts(counts: Mapping[str, int], factor: int) -> dict[str, int]:
    return {key: count * factor for key, count in counts.items()}


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything one host executed in one window, for one event.

    `event` is the perf event's name ("cpu-clock", "cycles"). `hz` is samples a second and CPU; a
    count of 1 stands for 1/hz CPU-seconds. What other profilers count that is neither time nor
    samples of it has its unit in the event's name ("alloc_space:bytes", see event_names.py) and an
    hz of 1, which means nothing there. sampled == sum of the samples' counts.
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
    `binaries[j]` is the path of the binary that frames[j] came from, or "". A function has a frame for
    each of its lines (see functions_of); a stack may occur twice. `per_sample` is the most that one sample that was
    taken weighs: more than 1 where windows of lower rates were brought to a common one.
    """

    frames: list[Frame]
    binaries: list[str]
    index: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    per_sample: int = 1


def stack_table(profile: Profile, group_by: Sequence[str] = ()) -> StackTable:
    """The profile's stacks on what begin_of() has them stand on, with the values of `group_by`, of grouping.LABELS."""
    frames = NumberedFrames()
    by_location: dict[int, list[int]] = {}  # by id(): hashing a Location costs more than all the rest here
    index: list[int] = []
    offsets = [0]
    for sample in profile.samples:
        values = [str(getattr(sample, label)) for label in group_by]
        begin = begin_of(group_by, values, sample.process, sample.thread)
        index.extend(frames.number(frame, "") for frame in begin)
        for location in reversed(sample.stack):
            known = by_location.get(id(location))
            if known is None:
                binary = location.binary.path if location.binary else ""
                known = [frames.number(frame, binary) for frame in reversed(location.frames)]
                by_location[id(location)] = known
            index.extend(known)
        offsets.append(len(index))
    return StackTable(
        frames.frames,
        frames.binaries,
        np.array(index, np.uint32),
        np.array(offsets, np.int64),
        np.array([sample.count for sample in profile.samples], np.int64),
    )


def begin_of(group_by: Sequence[str], values: Sequence[str], process: str, thread: str) -> list[Frame]:
    """The frames that a stack stands on, root first: the values of the labels that it is grouped by, then bases(), of
    which the process is left out where it is one of those."""
    if "process" in group_by:
        process, thread = "", "" if thread == process else thread
    names = [*((value or "(none)", Kind.PROCESS) for value in values), *bases(process, thread)]
    return [Frame(name, kind) for name, kind in names]


def bases(process: str, thread: str) -> list[tuple[str, Kind]]:
    """The names a stack stands on, root first: its process, where known, and its thread, where named otherwise."""
    names = [(process, Kind.PROCESS)] if process else []
    if thread != process:
        names.append((thread, Kind.THREAD))
    return names


class NumberedFrames:
    """The `frames` and `binaries` of a StackTable in the making."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.binaries: list[str] = []
        self._numbers: dict[tuple[str, Kind, str, str, int], int] = {}

    def number(self, frame: Frame, binary: str) -> int:
        """The frame's place in `frames`; that of an equal one, but for its system name and reason, where there is."""
        key = (frame.function, frame.kind, binary, frame.file, frame.line)
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.frames)
            self.frames.append(frame)
            self.binaries.append(binary)
        return found


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions that the frames of a StackTable belong to: its frame j to frames[of[j]] of binaries[of[j]].

    A function is told by name, kind and binary. `frames[i]` has the file and line that most of its ticks were on (one
    with a line before one without), `other_lines[i]` says how many lines it was on besides. `of` is int64.
    """

    frames: list[Frame]
    binaries: list[str]
    other_lines: list[int]
    of: NDArray[np.int64]


def functions_of(table: StackTable) -> Functions:
    """The functions of a table, in the order in which it has their first frames."""
    members: dict[tuple[str, Kind, str], list[int]] = {}
    for j, (frame, binary) in enumerate(zip(table.frames, table.binaries, strict=True)):
        members.setdefault((frame.function, frame.kind, binary), []).append(j)
    ticks = _ticks(table).tolist() if len(members) < len(table.frames) else []

    def worth(j: int) -> tuple[bool, bool, float, str, int]:
        frame = table.frames[j]
        return frame.line > 0, frame.file != "", ticks[j], frame.file, frame.line

    of = np.empty(len(table.frames), np.int64)
    frames, binaries, other_lines = [], [], []
    for number, group in enumerate(members.values()):
        of[group] = number
        best = max(group, key=worth) if len(group) > 1 else group[0]
        lines = {(f.file, f.line) for f in (table.frames[j] for j in group) if f.line}
        frames.append(table.frames[best])
        binaries.append(table.binaries[best])
        other_lines.append(max(len(lines) - 1, 0))
    return Functions(frames, binaries, other_lines, of)


def _ticks(table: StackTable) -> NDArray[np.float64]:
    """How many ticks each frame was on; twice as many where it was twice in their stacks."""
    found = np.zeros(len(table.frames))
    step = 1 << 16  # stacks: what is made for them at a time stays small
    for at in range(0, len(table.counts), step):
        offsets = table.offsets[at : at + step + 1]
        counts = np.repeat(table.counts[at : at + step], np.diff(offsets))
        found += np.bincount(table.index[offsets[0] : offsets[-1]], counts, len(found))
    return found


def common_rate(rates: Iterable[int]) -> int | None:
    """The rate at which windows of all these rates can be counted together: their least common multiple.

    A count at `hz` is common_rate / hz counts then. None where that rate is beyond MAX_HZ.
    """
    distinct = set(rates)
    rate = lcm(*distinct)
    return rate if len(distinct) == 1 or rate <= MAX_HZ else None


def merge(profiles: Sequence[Profile]) -> Profile:
    """One profile of all that the given ones hold: of one host and event, in the order of their windows.

    Equal samples become one. Where rates differ, its rate is the common one, and all counts are brought to that:
    1/hz CPU-seconds a count stays true, to the sample. Raises ValueError for no profiles, or for rates without
    a common one.
    """
    if not profiles:
        raise ValueError("There are no profiles to merge.")
    rates = sorted({profile.hz for profile in profiles})
    hz = common_rate(rates)
    if hz is None:
        raise ValueError(f"Profiles taken at {' and '.join(map(str, rates))} Hz have no common rate to be merged at.")
    counts: dict[tuple[object, ...], int] = {}
    examples: dict[tuple[object, ...], Sample] = {}
    accounting = Accounting()
    for profile in profiles:
        factor = hz // profile.hz
        accounting += profile.accounting.scaled(factor)
        for sample in profile.samples:
            # Locations by id(), as hashing them costs much more; the samples kept in `examples` keep them alive.
            stack = tuple(map(id, sample.stack))
            who = (sample.pid, sample.process, sample.thread, sample.service, sample.container, sample.cpu_kind)
            key = (stack, *who)
            examples.setdefault(key, sample)
            counts[key] = counts.get(key, 0) + sample.count * factor
    first, last = profiles[0], profiles[-1]
    samples = tuple(replace(examples[key], count=count) for key, count in counts.items())
    window = Window(first.window.start_ns, last.window.end_ns)
    return replace(first, hz=hz, window=window, samples=samples, accounting=accounting)
