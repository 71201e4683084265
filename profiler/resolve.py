"""Raw addresses of a window → samples with names, and the account of how many frames have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiler.cgroups import Cgroups
from profiler.model import Sample
from profiler.processes import Processes, Program
from profiler.sampler import MAX_FRAMES, RawWindow, Stacks
from symbolizer.names import clean_name
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Frame, Kind, Location, Mapping, Reason

_CUT = Location(0, None, (Frame("[truncated]", Kind.UNKNOWN, reason=Reason.TRUNCATED),))


@dataclass(slots=True)
class FrameCounts:
    """Frames weighted with their samples' counts: those with a name, and those without by reason."""

    named: int = 0
    unknown: dict[str, int] = field(default_factory=dict)

    def add(self, stack: tuple[Location, ...], count: int) -> None:
        for location in stack:
            for frame in location.frames:
                if frame.reason is None:
                    self.named += count
                else:
                    self.unknown[frame.reason.value] = self.unknown.get(frame.reason.value, 0) + count


@dataclass(frozen=True, slots=True)
class Resolved:
    """`without_stack` are ticks whose stack did not come with its window; 0 unless the kernel misbehaves."""

    samples: tuple[Sample, ...]
    frames: FrameCounts
    without_stack: int


def resolve(raw: RawWindow, processes: Processes, symbolizer: Symbolizer, cgroups: Cgroups) -> Resolved:
    """Gives every stack of the window its locations, each looked up once however often it occurs."""
    stacks = raw.stacks
    addresses = lookup_addresses(stacks)
    kernel_at = stacks.find(raw.keys["kernel_stack"])
    user_at = stacks.find(raw.keys["user_stack"])
    missing = ((raw.keys["kernel_stack"] != 0) & (kernel_at < 0)) | ((raw.keys["user_stack"] != 0) & (user_at < 0))
    kernel = _kernel_stacks(stacks, addresses, kernel_at, symbolizer)
    samples: list[Sample] = []
    frames = FrameCounts()
    rows = np.flatnonzero(~missing)
    rows = rows[np.argsort(raw.keys["tgid"][rows], kind="stable")]
    pids = raw.keys["tgid"][rows]
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(pids)) + 1, [len(rows)]]) if len(rows) else [0]
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        pid = int(pids[first])
        of_pid = rows[first:last]
        programs = processes.programs(pid, raw.start_mono_ns, raw.end_mono_ns)
        user = _user_stacks(pid, programs, stacks, addresses, user_at[of_pid], processes, symbolizer)
        for row in of_pid.tolist():
            key = raw.keys[row]
            thread = clean_name(key["comm"])
            by_program = user.get(int(user_at[row]))
            program = _choose(programs, by_program, thread)
            stack = kernel.get(int(kernel_at[row]), ()) + (by_program[program] if by_program else ())
            workload = cgroups.workload(int(key["cgroup"]))
            count = int(raw.counts[row])
            frames.add(stack, count)
            samples.append(
                Sample(
                    stack,
                    pid,
                    clean_name(programs[program].name) if programs else thread,
                    thread,
                    count,
                    workload.service,
                    workload.container,
                )
            )
    return Resolved(tuple(samples), frames, int(raw.counts[missing].sum()))


def lookup_addresses(stacks: Stacks) -> NDArray[np.uint64]:
    """The addresses to look names up by: return addresses point behind their call, so one less; leaves as is."""
    addresses = stacks.addresses - np.uint64(1)
    leaves = stacks.offsets[:-1][np.diff(stacks.offsets) > 0]
    addresses[leaves] += np.uint64(1)
    return addresses


def _kernel_stacks(
    stacks: Stacks, addresses: NDArray[np.uint64], positions: NDArray[np.int64], symbolizer: Symbolizer
) -> dict[int, tuple[Location, ...]]:
    used = np.unique(positions[positions >= 0])
    index, slices = _gather(stacks, used)
    distinct, inverse = np.unique(addresses[index], return_inverse=True)
    return _tuples(used, slices, inverse, symbolizer.kernel(distinct.tolist()))


def _user_stacks(
    pid: int,
    programs: Sequence[Program],
    stacks: Stacks,
    addresses: NDArray[np.uint64],
    positions: NDArray[np.int64],
    processes: Processes,
    symbolizer: Symbolizer,
) -> dict[int, list[tuple[Location, ...]]]:
    """The locations of each user stack of a process, once for each program it ran (once where none is known)."""
    used = np.unique(positions[positions >= 0])
    if not len(used):
        return {}
    index, slices = _gather(stacks, used)
    distinct, inverse = np.unique(addresses[index], return_inverse=True)
    relatives = processes.relatives(pid)
    found: dict[int, list[tuple[Location, ...]]] = {position: [] for position in used.tolist()}
    for mappings in [program.mappings for program in programs] or [()]:
        queries = list(zip(distinct.tolist(), mappings_at(mappings, distinct), strict=True))
        locations = symbolizer.user(pid, queries, relatives)
        for position, stack in _tuples(used, slices, inverse, locations).items():
            found[position].append(stack)
    return found


def mappings_at(mappings: Sequence[Mapping], addresses: NDArray[np.uint64]) -> list[Mapping | None]:
    """The mapping that holds each address; `mappings` are in the order of their addresses and do not overlap."""
    if not mappings:
        return [None] * len(addresses)
    starts = np.array([mapping.start for mapping in mappings], np.uint64)
    ends = np.array([mapping.end for mapping in mappings], np.uint64)
    at = np.searchsorted(starts, addresses, side="right") - 1
    inside = (at >= 0) & (addresses < ends[at])
    return [mappings[i] if ok else None for i, ok in zip(at.tolist(), inside.tolist(), strict=True)]


def _choose(programs: Sequence[Program], stacks: list[tuple[Location, ...]] | None, thread: str) -> int:
    """Which program a sample came from, of those the process ran in this window (the kernel does not say when
    in the window it was taken): the one whose mappings cover most of the stack, then the one named like the
    thread, then the latest.
    """
    if len(programs) < 2:
        return 0

    def fit(program: int) -> tuple[int, bool, int]:
        covered = sum(location.binary is not None for location in stacks[program]) if stacks else 0
        return covered, programs[program].name == thread, program

    return max(range(len(programs)), key=fit)


def _gather(stacks: Stacks, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Where the addresses of the stacks at `positions` are, end to end, and the slice of each stack in that."""
    starts = stacks.offsets[positions]
    lengths = stacks.offsets[positions + 1] - starts
    ends = np.cumsum(lengths)
    begins = ends - lengths
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - begins, lengths)
    return index, list(zip(begins.tolist(), ends.tolist(), strict=True))


def _tuples(
    positions: NDArray[np.int64],
    slices: Sequence[tuple[int, int]],
    inverse: NDArray[np.intp],
    locations: Sequence[Location],
) -> dict[int, tuple[Location, ...]]:
    flat = [locations[i] for i in inverse.tolist()]
    return {
        position: tuple(flat[begin:end]) + ((_CUT,) if end - begin == MAX_FRAMES else ())
        for position, (begin, end) in zip(positions.tolist(), slices, strict=True)
    }
