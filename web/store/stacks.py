"""Stacks out of the store: a StackTable for pictures, counts of functions, a Profile's samples for exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from profiler.model import NumberedFrames, Sample, StackTable
from symbolizer.types import Kind, Location
from web.store.ragged import Ragged, csr
from web.store.selection import Selection
from web.store.stackcache import StackCache, Stacks
from web.store.store import BadQuery, Store
from web.store.sums import NO_HOURS, Sums, source_of, weighed, whole_hours
from web.store.tree import begins_of

BASES: Final = ("process", "thread")
MAX_ENTRIES: Final = 80_000_000  # frames of all stacks of one table; each takes some 30 bytes on the way
MAX_SAMPLES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """How many frames have names, and how many have none, by reason, weighted with their sample's count."""

    named: int
    unknown: Mapping[str, int]


def stacks_of(cache: StackCache, sums: Sums) -> Stacks:
    return cache.get(sums.stacks)


def table_of(sums: Sums, stacks: Stacks) -> StackTable:
    """Every stack on the names of its key, see tree.begins_of."""
    names = NumberedFrames()
    begins = [[names.number(frame, "") for frame in begin] for begin in begins_of(sums)]
    base = Ragged(
        np.array([number for begin in begins for number in begin], np.int32),
        csr(np.fromiter(map(len, begins), np.int64, len(begins)))[:-1],
        np.fromiter(map(len, begins), np.int64, len(begins)),
    ).take(sums.key)
    of = stacks.frames.take(stacks.rows)
    lengths = base.length + of.length
    offsets = csr(lengths)
    if int(offsets[-1]) > MAX_ENTRIES:
        raise BadQuery(
            "these are more stacks than can be merged at once: choose a shorter range, one host or one service"
        )

    # Frames that are used get numbers of their own after the names', so that a small table has a short list of them.
    frames, _ = of.packed()
    used = np.zeros(len(stacks.frame_list), bool)
    used[frames] = True
    chosen = np.flatnonzero(used)
    number = np.zeros(len(used), np.uint32)
    number[chosen] = np.arange(len(names.frames), len(names.frames) + len(chosen))
    index = np.empty(int(offsets[-1]), np.uint32)
    is_base = np.zeros(len(index), bool)
    begin, _ = base.packed()
    places = np.arange(len(begin)) + np.repeat(offsets[:-1] - csr(base.length)[:-1], base.length)
    is_base[places] = True
    index[places] = begin
    index[~is_base] = number[frames]
    return StackTable(
        names.frames + [stacks.frame_list[i] for i in chosen.tolist()],
        names.binaries + [stacks.binaries[i] for i in chosen.tolist()],
        index,
        offsets,
        sums.counts,
    )


def count_frames(sums: Sums, stacks: Stacks) -> FrameCounts:
    weights = np.zeros(len(stacks.ids), np.int64)
    np.add.at(weights, stacks.rows, sums.counts)
    numbers, _ = stacks.locations.packed()
    per_location = np.zeros(len(stacks.known), np.int64)
    np.add.at(per_location, numbers, np.repeat(weights, stacks.locations.length))
    named = 0
    unknown: dict[str, int] = {}
    used = np.flatnonzero(per_location)
    for number, weight in zip(used.tolist(), per_location[used].tolist(), strict=True):
        for frame in stacks.known[number].frames:
            if frame.kind is Kind.UNKNOWN:
                reason = str(frame.reason or "")
                unknown[reason] = unknown.get(reason, 0) + weight
            else:
                named += weight
    return FrameCounts(named, dict(sorted(unknown.items())))


def fetch_samples(
    store: Store, cache: StackCache, selection: Selection, horizon: int, rates: Sequence[int], *, pids: bool
) -> tuple[Sample, ...]:
    """One sample per stack, process, thread, pid, service, container and kind of CPU, heaviest first; counts at the
    common rate.

    Without `pids`, which the rollups don't have, every pid is 0.
    """
    plan = NO_HOURS if pids else whole_hours(selection, ())
    pid = "pid" if pids else "toUInt32(0) AS pid"
    where = "service, container, cpu_kind"
    source, parameters = source_of(selection, horizon, plan, ("stack", pid, "process", "thread", "hz", where))
    rows = store.rows(
        f"SELECT stack, pid, process, thread, sum({weighed('value', rates)}) AS count, {where}"
        f" FROM ({source}) GROUP BY stack, pid, process, thread, {where}"
        f" ORDER BY count DESC, process, thread, pid, stack, {where} LIMIT {MAX_SAMPLES + 1}",
        parameters,
    ).rows
    if len(rows) > MAX_SAMPLES:
        raise BadQuery(
            f"a profile of more than {MAX_SAMPLES:,} samples cannot be exported: choose a shorter range or one host"
        )
    ids = np.array([row[0] for row in rows], np.uint64)
    stacks = cache.get(ids)
    places = stacks.rows.tolist()
    flat, ends = stacks.locations.packed()
    index, offsets, known = flat.tolist(), ends.tolist(), stacks.known
    made: dict[int, tuple[Location, ...]] = {}
    samples = []
    for place, row in zip(places, rows, strict=True):
        stack = made.get(place)
        if stack is None:
            stack = made[place] = tuple(known[j] for j in index[offsets[place] : offsets[place + 1]])
        samples.append(Sample(stack, *row[1:]))
    return tuple(samples)
