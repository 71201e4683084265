"""Stacks out of the store: sums in SQL, then arrays; a StackTable for pictures, a Profile for exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.model import NumberedFrames, Sample, StackTable, bases, common_rate
from symbolizer.types import Frame, Kind, Location
from web.store.locations import Locations
from web.store.selection import Selection
from web.store.store import Store, StoreUnavailable

Ids = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Stacks:
    """Distinct stacks of a selection: stack i has `locations[j] for j in index[offsets[i]:offsets[i + 1]]`,
    leaf first, and the id `ids[i]` (ascending)."""

    ids: Ids
    index: NDArray[np.int64]
    offsets: NDArray[np.int64]
    locations: list[Location]

    def rows_of(self, ids: Ids) -> NDArray[np.int64]:
        places = np.searchsorted(self.ids, ids)
        if len(ids) and not (len(self.ids) and np.array_equal(self.ids.take(places, mode="clip"), ids)):
            raise StoreUnavailable("the store holds samples of stacks that are missing from it")
        return places


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """How many frames have names, and how many have none, by reason, weighted with their sample's count."""

    named: int
    unknown: Mapping[str, int]


def fetch_stacks(store: Store, selection: Selection, horizon: int, locations: Locations) -> Stacks:
    where, parameters = selection.where(horizon, samples=True)
    answer = store.raw(
        "SELECT groupArray(id), groupArray(toUInt32(length(locations))), groupArrayArray(locations)"
        " FROM (SELECT id, locations FROM stacks"
        f" WHERE id IN (SELECT stack FROM samples WHERE {where}) ORDER BY id LIMIT 1 BY id)",
        parameters,
    )
    ids: Ids = answer.array(np.uint64)
    lengths = answer.array(np.uint32)
    flat = answer.array(np.uint64)
    order = np.argsort(ids, kind="stable")
    flat, offsets = gather(flat, csr(lengths), order)
    distinct, index = np.unique(flat, return_inverse=True)
    return Stacks(ids[order], index.astype(np.int64), offsets, locations.get(distinct.tolist()))


@dataclass(frozen=True, slots=True)
class Group:
    """Counts of stacks below one process and thread name: counts[i] of the stack with the id stacks[i]."""

    process: str
    thread: str
    stacks: Ids
    counts: NDArray[np.uint64]


def weighed(column: str, rates: Sequence[int]) -> str:
    """SQL for a count in `column`, taken at its row's `hz`, at the common rate of all `rates` (see common_rate)."""
    rate = common_rate(rates)
    if rate is None:
        raise ValueError(f"no common rate of {rates}")
    return column if set(rates) == {rate} else f"{column} * intDiv({rate}, hz)"


def fetch_groups(store: Store, selection: Selection, horizon: int, rates: Sequence[int]) -> list[Group]:
    """The counts of a selection's stacks, at the common rate of `rates`: those of its windows."""
    where, parameters = selection.where(horizon, samples=True)
    answer = store.raw(
        "SELECT process, thread, groupArray(stack), groupArray(count) FROM"
        " (SELECT toString(process) AS process, toString(thread) AS thread, stack, sum(weight) AS count"
        f" FROM (SELECT process, thread, stack, {weighed('value', rates)} AS weight FROM samples WHERE {where})"
        " GROUP BY process, thread, stack)"
        " GROUP BY process, thread ORDER BY process, thread",
        parameters,
    )
    groups = []
    while answer.more:
        groups.append(Group(answer.string(), answer.string(), answer.array(np.uint64), answer.array(np.uint64)))
    return groups


def table_of(groups: list[Group], stacks: Stacks) -> StackTable:
    """Every group's stacks below its process's name, and its thread's where that differs."""
    frames = NumberedFrames()

    # Each location's frames, root first.
    of_location = [
        [frames.number(frame, location.binary.path if location.binary else "") for frame in reversed(location.frames)]
        for location in stacks.locations
    ]
    location_offsets = csr(np.fromiter(map(len, of_location), np.int64, len(of_location)))
    location_frames = np.fromiter((frame for of in of_location for frame in of), np.int64)

    # Each distinct stack's frames, root first: turn the locations round, then put their frames in place.
    stack_of = np.repeat(np.arange(len(stacks.ids)), np.diff(stacks.offsets))
    backwards = (stacks.offsets[:-1] + stacks.offsets[1:] - 1)[stack_of] - np.arange(len(stacks.index))
    flat, entry_offsets = gather(location_frames, location_offsets, stacks.index[backwards])
    frame_offsets = entry_offsets[stacks.offsets]

    # Each group's stacks, with the names they stand on before them.
    parts: list[NDArray[np.int64]] = []
    lengths: list[NDArray[np.int64]] = []
    for group in groups:
        names = np.array([frames.number(Frame(name, kind), "") for name, kind in bases(group.process, group.thread)])
        inner, offsets = gather(flat, frame_offsets, stacks.rows_of(group.stacks))
        parts.append(np.insert(inner, np.repeat(offsets[:-1], len(names)), np.tile(names, len(group.stacks))))
        lengths.append(np.diff(offsets) + len(names))
    return StackTable(
        frames.frames,
        frames.binaries,
        _joined(parts).astype(np.uint32),
        csr(_joined(lengths)),
        _joined([group.counts.astype(np.int64) for group in groups]),
    )


def count_frames(groups: list[Group], stacks: Stacks) -> FrameCounts:
    weights = np.zeros(len(stacks.ids), np.int64)
    for group in groups:
        np.add.at(weights, stacks.rows_of(group.stacks), group.counts.astype(np.int64))
    per_location = np.zeros(len(stacks.locations), np.int64)
    np.add.at(per_location, stacks.index, np.repeat(weights, np.diff(stacks.offsets)))
    named = 0
    unknown: dict[str, int] = {}
    for location, weight in zip(stacks.locations, per_location.tolist(), strict=True):
        for frame in location.frames:
            if frame.kind is Kind.UNKNOWN:
                reason = str(frame.reason or "")
                unknown[reason] = unknown.get(reason, 0) + weight
            else:
                named += weight
    return FrameCounts(named, dict(sorted(unknown.items())))


def fetch_samples(
    store: Store, selection: Selection, horizon: int, stacks: Stacks, rates: Sequence[int]
) -> tuple[Sample, ...]:
    """One sample per stack, process, thread, pid, service and container, heaviest first; counts as in fetch_groups."""
    where, parameters = selection.where(horizon, samples=True)
    rows = store.rows(
        "SELECT stack, pid, process, thread, sum(weight) AS count, service, container"
        f" FROM (SELECT stack, pid, process, thread, {weighed('value', rates)} AS weight, service, container"
        f" FROM samples WHERE {where})"
        " GROUP BY stack, pid, process, thread, service, container"
        " ORDER BY count DESC, process, thread, pid, stack, service, container",
        parameters,
    ).rows
    places = stacks.rows_of(np.array([row[0] for row in rows], np.uint64)).tolist()
    index, offsets, locations = stacks.index.tolist(), stacks.offsets.tolist(), stacks.locations
    made: dict[int, tuple[Location, ...]] = {}
    samples = []
    for place, row in zip(places, rows, strict=True):
        stack = made.get(place)
        if stack is None:
            stack = made[place] = tuple(locations[j] for j in index[offsets[place] : offsets[place + 1]])
        samples.append(Sample(stack, *row[1:]))
    return tuple(samples)


def csr(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Lengths of rows → where each begins, and where the last ends."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def gather(
    flat: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The rows `rows` of the ragged array (flat, offsets), in that order, as a ragged array."""
    lengths = np.diff(offsets)[rows]
    result = csr(lengths)
    places = np.arange(result[-1]) + np.repeat(offsets[:-1][rows] - result[:-1], lengths)
    return flat[places], result


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
