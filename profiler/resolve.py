"""Raw addresses of a window → samples with names, and the account of the frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.addressspace import AddressSpace
from profiler.cgroups import Cgroups
from profiler.model import Passage, Sample, Unwinding
from profiler.processes import Processes, Program
from profiler.sampler import RawWindow
from profiler.stacks import CUT_MARK, END_ROOT, END_UNKNOWN, MAX_FRAMES, WALK_ENDS, Stacks
from symbolizer.names import clean_name
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Location, Mapping, Reason
from symbolizer.unknown import unknown

_CUT = Location(0, None, (unknown(Reason.TRUNCATED),))
_NOWHERE = (unknown(Reason.NO_MAPPING),)
_MARKS = [None if reason is None else Location(0, None, (unknown(reason, "stack cut"),)) for reason in WALK_ENDS]
_MOST_BINARIES = 40

Stack = tuple[Location, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The samples of a window. `frames_named` and `frames_unknown`, by reason, are weighted with their counts.

    `without_stack` are ticks whose stack did not come with its window; 0 unless the kernel misbehaves. `mappings` are
    those that user stacks went through.
    """

    samples: tuple[Sample, ...]
    frames_named: int
    frames_unknown: dict[str, int]
    without_stack: int
    unwinding: Unwinding
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """Stacks that were given locations: entry i is the stack at positions[i] in the window's Stacks; its addresses, end
    to end from starts[i] on, are those of `locations` that `numbers` say. `weights` are the ticks that found it."""

    positions: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    numbers: NDArray[np.int64]
    locations: list[Location]
    weights: NDArray[np.int64]

    def stacks(self, marks: NDArray[np.int64]) -> list[Stack]:
        """The stack of each entry, those that are not whole with a frame at the root that says why."""
        numbers, locations = self.numbers.tolist(), self.locations
        found = []
        for start, length, mark in zip(
            self.starts.tolist(), self.lengths.tolist(), marks[self.positions].tolist(), strict=True
        ):
            frames = [locations[number] for number in numbers[start : start + length]]
            reason = _MARKS[mark]
            if reason is not None:
                frames.append(reason)
            found.append(tuple(frames))
        return found


@dataclass(slots=True)
class _Process:
    """What is known of one process: the programs it ran, and its user stacks by position as each of them saw it.

    A stack is missing from a program whose mappings cover less of it than another's.
    """

    programs: list[Program]
    names: list[str]
    stacks: list[dict[int, Stack]]


def resolve(
    raw: RawWindow,
    processes: Processes,
    symbolizer: Symbolizer,
    cgroups: Cgroups,
    breathe: Callable[[], None] = lambda: None,
) -> Resolved:
    """Gives every stack of the window its locations, each looked up once however often it occurs.

    `breathe` is called again and again on the way, for what must not wait until the end.
    """
    stacks = raw.stacks
    kernel_at = stacks.find(raw.keys["kernel_stack"])
    user_at = stacks.find(raw.keys["user_stack"])
    missing = ((raw.keys["kernel_stack"] != 0) & (kernel_at < 0)) | ((raw.keys["user_stack"] != 0) & (user_at < 0))
    rows = np.flatnonzero(~missing)
    keys, counts, kernel_at, user_at = raw.keys[rows], raw.counts[rows], kernel_at[rows], user_at[rows]
    marks = _marks(stacks)
    kernel_part = _kernel_part(stacks, kernel_at, counts, symbolizer)
    kernel = dict(zip(kernel_part.positions.tolist(), kernel_part.stacks(marks), strict=True))
    known, user_part, mappings = _user_part(raw, user_at, keys["tgid"], counts, marks, processes, symbolizer, breathe)
    samples: list[Sample] = []
    for pid, comm, cgroup, kind, kernel_position, user_position, count in zip(
        keys["tgid"].tolist(),
        keys["comm"].tolist(),
        keys["cgroup"].tolist(),
        keys["cpu_kind"].tolist(),
        kernel_at.tolist(),
        user_at.tolist(),
        counts.tolist(),
        strict=True,
    ):
        process, thread = known[pid], clean_name(comm)
        program = _choose(process, user_position, thread) if len(process.programs) > 1 else 0
        stack = kernel.get(kernel_position, ()) + process.stacks[program].get(user_position, ())
        workload = cgroups.workload(cgroup)
        name = process.names[program] if process.names else thread
        who = (pid, name, thread, count, workload.service, workload.container)
        samples.append(Sample(stack, *who, raw.cpu_kinds[kind]))
    named, unknown_frames = _frame_counts([kernel_part, user_part], marks)
    return Resolved(
        tuple(samples),
        named,
        unknown_frames,
        int(raw.counts[missing].sum()),
        _unwinding(stacks, user_part),
        mappings,
    )


def _kernel_part(
    stacks: Stacks, positions: NDArray[np.int64], counts: NDArray[np.uint64], symbolizer: Symbolizer
) -> _Part:
    used = np.unique(positions[positions >= 0])
    index, starts, lengths = _gather(stacks, used)
    distinct, inverse = np.unique(stacks.addresses[index], return_inverse=True)
    locations = symbolizer.kernel(distinct.tolist())
    return _Part(used, starts, lengths, inverse, locations, _weights(len(stacks.ids), positions, counts)[used])


def _user_part(
    raw: RawWindow,
    positions: NDArray[np.int64],
    pids: NDArray[np.uint32],
    counts: NDArray[np.uint64],
    marks: NDArray[np.int64],
    processes: Processes,
    symbolizer: Symbolizer,
    breathe: Callable[[], None],
) -> tuple[dict[int, _Process], _Part, tuple[Mapping, ...]]:
    """Every sampled process with its user stacks, these as one part, and the mappings they went through.

    A user stack's id is of one process, so is its position. Where several programs of a process may have had a stack,
    it is in the part once for each, and weighs something once.
    """
    used, first = np.unique(positions[positions >= 0], return_index=True)
    pid_of = pids[positions >= 0][first]
    order = np.argsort(pid_of, kind="stable")
    used, pid_of = used[order], pid_of[order]
    index, starts, lengths = _gather(raw.stacks, used)
    addresses, owners = raw.stacks.addresses[index], np.repeat(pid_of, lengths)
    by_owner = np.lexsort((addresses, owners))
    is_new = np.ones(len(by_owner), bool)
    is_new[1:] = np.diff(addresses[by_owner]).astype(bool) | np.diff(owners[by_owner]).astype(bool)
    inverse = np.empty(len(by_owner), np.int64)
    inverse[by_owner] = np.cumsum(is_new) - 1
    distinct, distinct_owners = addresses[by_owner][is_new].tolist(), owners[by_owner][is_new]

    sampled = np.unique(pids)
    stack_bounds = np.searchsorted(pid_of, np.append(sampled, sampled[-1:] + 1)).tolist()
    address_bounds = np.searchsorted(distinct_owners, np.append(sampled, sampled[-1:] + 1)).tolist()
    known: dict[int, _Process] = {}
    locations: list[Location] = []
    mappings: dict[int, Mapping] = {}
    entries: list[tuple[int, int, int, bool]] = []  # stack, program, shift of its numbers, whether it weighs
    for at, pid in enumerate(sampled.tolist()):
        breathe()
        programs = processes.programs(pid, raw.start_mono_ns, raw.end_mono_ns)
        known[pid] = _Process(
            programs, [clean_name(program.name) for program in programs], [{} for _ in programs] or [{}]
        )
        first_stack, end_stack = stack_bounds[at], stack_bounds[at + 1]
        if first_stack == end_stack:
            continue
        first_address = address_bounds[at]
        own, relatives = distinct[first_address : address_bounds[at + 1]], processes.relatives(pid)
        spaces = [program.mapped for program in programs] or [AddressSpace()]
        found = [space.find(own) for space in spaces]
        stacks = range(first_stack, end_stack)
        shares = (
            [list(stacks)]
            if len(spaces) == 1
            else _shares(found, [(k, inverse[starts[k] : starts[k] + lengths[k]] - first_address) for k in stacks])
        )
        weighed: set[int] = set()
        for program, share in enumerate(shares):
            if not share:
                continue
            shift = len(locations) - first_address
            any_known = len(spaces[program]) > 0
            locations += _locate(pid, own, found[program], any_known, symbolizer, relatives, raw.end_mono_ns)
            mappings |= {id(mapping): mapping for mapping in found[program] if mapping is not None}
            entries += [(stack, program, shift, stack not in weighed) for stack in share]
            weighed.update(share)

    stack, _, shift, weighs = np.array(entries, np.int64).reshape(-1, 4).T
    entry_lengths = lengths[stack]
    entry_starts = np.cumsum(entry_lengths) - entry_lengths
    flat = np.arange(int(entry_lengths.sum())) + np.repeat(starts[stack] - entry_starts, entry_lengths)
    numbers = inverse[flat] + np.repeat(shift, entry_lengths)
    weights = _weights(len(raw.stacks.ids), positions, counts)[used[stack]] * weighs
    part = _Part(used[stack], entry_starts, entry_lengths, numbers, locations, weights)
    for (_, program, _, _), owner, position, frames in zip(
        entries, pid_of[stack].tolist(), part.positions.tolist(), part.stacks(marks), strict=True
    ):
        known[owner].stacks[program][position] = frames
    return known, part, tuple(mappings.values())


def _shares(
    found: Sequence[Sequence[Mapping | None]], stacks: Iterable[tuple[int, NDArray[np.int64]]]
) -> list[list[int]]:
    """For each program the stacks of which no other program's mappings cover more. `stacks` are with the positions of
    their addresses in `found`."""
    shares: list[list[int]] = [[] for _ in found]
    for stack, numbers in stacks:
        covered = [sum(mapped[number] is not None for number in numbers.tolist()) for mapped in found]
        best = max(covered)
        for program, frames in enumerate(covered):
            if frames == best:
                shares[program].append(stack)
    return shares


def _locate(
    pid: int,
    addresses: Sequence[int],
    mappings: Sequence[Mapping | None],
    any_known: bool,
    symbolizer: Symbolizer,
    relatives: Sequence[int],
    until_ns: int,
) -> list[Location]:
    """The location of each address. Where mappings are known, an address outside them is in none, even should the
    process have ended; where not one is, the symbolizer finds out why."""
    queries = [
        (address, mapping)
        for address, mapping in zip(addresses, mappings, strict=True)
        if address != CUT_MARK and (mapping or not any_known)
    ]
    named = iter(symbolizer.user(pid, queries, relatives, until_ns) if queries else ())
    return [
        _CUT if address == CUT_MARK else next(named) if mapping or not any_known else Location(address, None, _NOWHERE)
        for address, mapping in zip(addresses, mappings, strict=True)
    ]


def _choose(process: _Process, position: int, thread: str) -> int:
    """Which program a sample came from, of those the process ran in this window (the kernel does not say when
    in the window it was taken): one whose mappings cover most of the stack, then the one named like the
    thread, then the latest.
    """
    programs = [at for at, stacks in enumerate(process.stacks) if position in stacks] or range(len(process.programs))
    return max(programs, key=lambda program: (process.names[program] == thread, program))


def _gather(
    stacks: Stacks, positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the addresses of the stacks at `positions` are, end to end, and where each stack begins in that and how
    long it is."""
    begins = stacks.offsets[positions]
    lengths = stacks.offsets[positions + 1] - begins
    starts = np.cumsum(lengths) - lengths
    index = np.arange(int(lengths.sum())) + np.repeat(begins - starts, lengths)
    return index, starts, lengths


def _weights(length: int, positions: NDArray[np.int64], counts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many ticks found each of `length` stacks."""
    found = positions >= 0
    return np.bincount(positions[found], counts[found].astype(np.float64), length).astype(np.int64)


def _marks(stacks: Stacks) -> NDArray[np.int64]:
    """For each stack the position in WALK_ENDS of why it has no more frames; 0 or END_ROOT where it is whole."""
    marks = stacks.ends.astype(np.int64)
    marks[(marks == END_UNKNOWN) & (np.diff(stacks.offsets) == MAX_FRAMES)] = WALK_ENDS.index(Reason.TRUNCATED)
    return marks


def _frame_counts(parts: Iterable[_Part], marks: NDArray[np.int64]) -> tuple[int, dict[str, int]]:
    """Frames with a name, and those without by reason, weighted; marks at the root included."""
    named, reasons = 0, dict[str, int]()
    for part in parts:
        weights = np.repeat(part.weights, part.lengths)
        per_location = np.bincount(part.numbers, weights, len(part.locations)).astype(np.int64).tolist()
        for location, weight in zip(part.locations, per_location, strict=True):
            for frame in location.frames:
                if frame.reason is None:
                    named += weight
                elif weight:
                    reasons[frame.reason.value] = reasons.get(frame.reason.value, 0) + weight
        for reason, weight in _by_reason(np.bincount(marks[part.positions], part.weights, len(WALK_ENDS))).items():
            reasons[reason] = reasons.get(reason, 0) + weight
    return named, reasons


def _unwinding(stacks: Stacks, part: _Part) -> Unwinding:
    """How far the user stacks were walked, and through which binaries."""
    if not len(part.positions):
        return Unwinding()
    ends = stacks.ends[part.positions].astype(np.int64)
    per_end = np.bincount(ends, part.weights, len(WALK_ENDS)).astype(np.int64)
    paths: dict[str, int] = {}
    binaries = np.array(
        [paths.setdefault(at.binary.path if at.binary else "", len(paths)) for at in part.locations], np.int64
    )
    # What became of a frame: 0 its caller found by table, 1 by frame pointer, 2 no matter, 3… the walk ended here.
    index, starts, lengths = _gather(stacks, part.positions)
    fates = stacks.by_frame_pointer[index].astype(np.int64)
    fates[np.repeat(ends == END_UNKNOWN, lengths)] = 2
    fates[starts + lengths - 1] = np.where((ends == END_UNKNOWN) | (ends == END_ROOT), 2, 3 + ends)
    width = 3 + len(WALK_ENDS)
    counts = np.bincount(
        binaries[part.numbers] * width + fates, np.repeat(part.weights, lengths), len(paths) * width
    ).astype(np.int64)
    found = {
        path: Passage(int(row[0]), int(row[1]), _by_reason(row[3:]))
        for path, row in zip(paths, counts.reshape(-1, width), strict=True)
        if path and (row[:2].any() or row[3:].any())
    }
    most = sorted(found.items(), key=lambda item: -(item[1].by_table + item[1].by_frame_pointer + _ended(item[1])))
    return Unwinding(
        int(per_end[END_ROOT]), int(per_end[END_UNKNOWN]), _by_reason(per_end), dict(most[:_MOST_BINARIES])
    )


def _ended(passage: Passage) -> int:
    return sum(passage.ended.values())


def _by_reason(counts: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, int]:
    return {
        reason.value: int(count)
        for reason, count in zip(WALK_ENDS, counts.tolist(), strict=True)
        if reason is not None and count
    }
