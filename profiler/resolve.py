"""Raw addresses of a window → samples with names, and the account of how many frames have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.addressspace import AddressSpace
from profiler.cgroups import Cgroups
from profiler.model import Sample
from profiler.processes import Processes, Program
from profiler.sampler import MAX_FRAMES, RawWindow, Stacks
from symbolizer.names import clean_name
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Location, Reason
from symbolizer.unknown import unknown

_CUT = Location(0, None, (unknown(Reason.TRUNCATED),))
_NOWHERE = (unknown(Reason.NO_MAPPING),)

Stack = tuple[Location, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The samples of a window. `frames_named` and `frames_unknown`, by reason, are weighted with their counts.

    `without_stack` are ticks whose stack did not come with its window; 0 unless the kernel misbehaves.
    """

    samples: tuple[Sample, ...]
    frames_named: int
    frames_unknown: dict[str, int]
    without_stack: int


@dataclass(frozen=True, slots=True)
class _Process:
    """What is known of one process: the programs it ran, and its user stacks by position, as each of them saw it."""

    programs: list[Program]
    names: list[str]
    stacks: list[dict[int, Stack]]


def resolve(raw: RawWindow, processes: Processes, symbolizer: Symbolizer, cgroups: Cgroups) -> Resolved:
    """Gives every stack of the window its locations, each looked up once however often it occurs."""
    stacks = raw.stacks
    kernel_at = stacks.find(raw.keys["kernel_stack"])
    user_at = stacks.find(raw.keys["user_stack"])
    missing = ((raw.keys["kernel_stack"] != 0) & (kernel_at < 0)) | ((raw.keys["user_stack"] != 0) & (user_at < 0))
    rows = np.flatnonzero(~missing)
    kernel = _kernel_stacks(stacks, kernel_at[rows], symbolizer)
    known = _user_stacks(raw, user_at[rows], raw.keys["tgid"][rows], processes, symbolizer)
    samples: list[Sample] = []
    weights: dict[int, int] = {}
    keys = raw.keys[rows]
    for pid, comm, cgroup, kernel_position, user_position, count in zip(
        keys["tgid"].tolist(),
        keys["comm"].tolist(),
        keys["cgroup"].tolist(),
        kernel_at[rows].tolist(),
        user_at[rows].tolist(),
        raw.counts[rows].tolist(),
        strict=True,
    ):
        process, thread = known[pid], clean_name(comm)
        program = _choose(process, user_position, thread) if len(process.programs) > 1 else 0
        stack = kernel.get(kernel_position, ()) + process.stacks[program].get(user_position, ())
        for location in stack:
            weights[id(location)] = weights.get(id(location), 0) + count
        workload = cgroups.workload(cgroup)
        name = process.names[program] if process.names else thread
        samples.append(Sample(stack, pid, name, thread, count, workload.service, workload.container))
    named, unknown = _frame_counts(samples, weights)
    return Resolved(tuple(samples), named, unknown, int(raw.counts[missing].sum()))


def lookup_addresses(stacks: Stacks) -> NDArray[np.uint64]:
    """The addresses to look names up by: return addresses point behind their call, so one less; leaves as is."""
    addresses = stacks.addresses - np.uint64(1)
    leaves = stacks.offsets[:-1][np.diff(stacks.offsets) > 0]
    addresses[leaves] += np.uint64(1)
    return addresses


def _kernel_stacks(stacks: Stacks, positions: NDArray[np.int64], symbolizer: Symbolizer) -> dict[int, Stack]:
    used = np.unique(positions[positions >= 0])
    addresses, slices = _gather(stacks, used)
    distinct, inverse = np.unique(addresses, return_inverse=True)
    return _tuples(used.tolist(), slices, inverse.tolist(), symbolizer.kernel(distinct.tolist()))


def _user_stacks(
    raw: RawWindow,
    positions: NDArray[np.int64],
    pids: NDArray[np.uint32],
    processes: Processes,
    symbolizer: Symbolizer,
) -> dict[int, _Process]:
    """Every sampled process with its user stacks. A user stack's id is of one process, so is its position."""
    used, first = np.unique(positions[positions >= 0], return_index=True)
    pid_of = pids[positions >= 0][first]
    order = np.argsort(pid_of, kind="stable")
    used, pid_of = used[order], pid_of[order]
    addresses, slices = _gather(raw.stacks, used)
    lengths = [end - begin for begin, end in slices]
    address_pids = np.repeat(pid_of, lengths)
    by_pid = np.lexsort((addresses, address_pids))
    changed = np.ones(len(by_pid), bool)
    changed[1:] = np.diff(addresses[by_pid]).astype(bool) | np.diff(address_pids[by_pid]).astype(bool)
    inverse = np.empty(len(by_pid), np.int64)
    inverse[by_pid] = np.cumsum(changed) - 1
    distinct = addresses[by_pid][changed].tolist()
    numbers = inverse.tolist()
    known: dict[int, _Process] = {}
    at, first_address = 0, 0
    owners, positions_used = pid_of.tolist(), used.tolist()
    counts = dict(zip(*np.unique(address_pids[by_pid][changed], return_counts=True), strict=True))
    for pid in np.unique(pids).tolist():
        programs = processes.programs(pid, raw.start_mono_ns, raw.end_mono_ns)
        end = at
        while end < len(owners) and owners[end] == pid:
            end += 1
        own = distinct[first_address : first_address + int(counts.get(pid, 0))]
        relatives = processes.relatives(pid) if own else []
        found: list[dict[int, Stack]] = []
        for mapped in [program.mapped for program in programs] or [AddressSpace()]:
            locations = _locate(pid, own, mapped, symbolizer, relatives)
            found.append(_tuples(positions_used[at:end], slices[at:end], numbers, locations, first_address))
        known[pid] = _Process(programs, [clean_name(program.name) for program in programs], found)
        at, first_address = end, first_address + len(own)
    return known


def _locate(
    pid: int, addresses: Sequence[int], mapped: AddressSpace, symbolizer: Symbolizer, relatives: Sequence[int]
) -> list[Location]:
    """The location of each address. Where mappings are known, an address outside them is in none, even should the
    process have ended; where not one is, the symbolizer finds out why."""
    mappings = mapped.find(addresses)
    if not len(mapped):
        return symbolizer.user(pid, list(zip(addresses, mappings, strict=True)), relatives) if addresses else []
    queries = [(address, mapping) for address, mapping in zip(addresses, mappings, strict=True) if mapping]
    named = iter(symbolizer.user(pid, queries, relatives) if queries else ())
    return [
        next(named) if mapping else Location(address, None, _NOWHERE)
        for address, mapping in zip(addresses, mappings, strict=True)
    ]


def _choose(process: _Process, position: int, thread: str) -> int:
    """Which program a sample came from, of those the process ran in this window (the kernel does not say when
    in the window it was taken): the one whose mappings cover most of the stack, then the one named like the
    thread, then the latest.
    """

    def fit(program: int) -> tuple[int, bool, int]:
        stack = process.stacks[program].get(position, ())
        covered = sum(location.binary is not None for location in stack)
        return covered, process.names[program] == thread, program

    return max(range(len(process.programs)), key=fit)


def _gather(stacks: Stacks, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint64], list[tuple[int, int]]]:
    """The lookup addresses of the stacks at `positions`, end to end, and the slice of each stack in that."""
    starts = stacks.offsets[positions]
    lengths = stacks.offsets[positions + 1] - starts
    ends = np.cumsum(lengths)
    begins = ends - lengths
    index = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - begins, lengths)
    return lookup_addresses(stacks)[index], list(zip(begins.tolist(), ends.tolist(), strict=True))


def _tuples(
    positions: Sequence[int],
    slices: Sequence[tuple[int, int]],
    numbers: Sequence[int],
    locations: Sequence[Location],
    first: int = 0,
) -> dict[int, Stack]:
    """The stacks as locations: `numbers` say which, counted from `first`."""
    return {
        position: tuple([locations[number - first] for number in numbers[begin:end]])
        + ((_CUT,) if end - begin == MAX_FRAMES else ())
        for position, (begin, end) in zip(positions, slices, strict=True)
    }


def _frame_counts(samples: Sequence[Sample], weights: dict[int, int]) -> tuple[int, dict[str, int]]:
    """Frames with a name, and those without by reason, from the weight of each location by its id()."""
    named, unknown = 0, dict[str, int]()
    for location in {id(location): location for sample in samples for location in sample.stack}.values():
        weight = weights[id(location)]
        for frame in location.frames:
            if frame.reason is None:
                named += weight
            else:
                unknown[frame.reason.value] = unknown.get(frame.reason.value, 0) + weight
    return named, unknown
