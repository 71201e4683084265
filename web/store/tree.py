"""The call tree of sums, straight from cached stacks: what stacks.table_of() and build_tree() would make of them."""

from __future__ import annotations

import secrets
from bisect import bisect_left
from typing import Final

import numpy as np

from profiler.model import begin_of
from symbolizer.types import Frame
from web.flamegraph.calltree import ROOT, CallTree, Paths, merge_paths
from web.store.ragged import csr
from web.store.stackcache import PREFIX, Stacks
from web.store.sums import Sums
from web.store.ticks import ticks

_FACTOR: Final = np.uint64(secrets.randbits(64) | 1)


def begins_of(sums: Sums) -> list[list[Frame]]:
    """The frames that stacks of each key stand on, see model.begin_of; the last two labels are process and thread."""
    return [begin_of(sums.labels[:-2], key[:-2], *key[-2:]) for key in sums.keys]


def tree_of(sums: Sums, stacks: Stacks, limit: int | None = None) -> CallTree:
    """See calltree.build_tree; the keys of `sums` end with process and thread."""
    begins = begins_of(sums)
    base_names = {(frame.function, frame.kind.value, ""): frame for begin in begins for frame in begin}
    lengths = np.fromiter(map(len, begins), np.int64, len(begins))
    offsets = csr(lengths)

    # All functions in order, with the names of bases, which are few, put where they belong.
    functions = sorted(base_names)
    named, binaries = stacks.functions.copy(), stacks.function_binaries.copy()
    other_lines = [0] * len(named)
    _choose_lines(sums, stacks, named, other_lines)
    places = {key: _place(named, binaries, key) for key in functions}
    known = {key: place for key, place in places.items() if _is(named, binaries, place, key)}
    added = [(key, place) for key, place in places.items() if key not in known]
    before = np.array([place for _, place in added], np.int64)
    shift = np.searchsorted(before, np.arange(len(named)), side="right")
    ranks = (1 + np.arange(len(named)) + shift)[stacks.of] if len(named) else np.empty(0, np.int64)
    base_rank = {key: 1 + place + int(shift[place]) for key, place in known.items()}
    base_rank |= {key: 1 + place + i for i, (key, place) in enumerate(added)}
    for key, place in reversed(added):
        named.insert(place, base_names[key])
        binaries.insert(place, "")
        other_lines.insert(place, 0)

    base_index = [base_rank[frame.function, frame.kind.value, ""] for begin in begins for frame in begin]
    # Stacks that begin alike are merged as one for so long: most of them do, over most of their length.
    of = stacks.frames.take(stacks.rows)
    common = np.minimum(of.length, PREFIX)
    alike = stacks.prefix[stacks.rows] + sums.key.astype(np.uint64) * _FACTOR
    order = np.argsort(alike, kind="stable")
    is_first = np.append([True], alike[order][1:] != alike[order][:-1])[: len(order)]
    first = np.flatnonzero(is_first)
    head = order[first]
    long = of.length[order] > PREFIX
    longer = order[long]
    parts = csr(np.bincount((np.cumsum(is_first) - 1)[long], minlength=len(head)))
    shifted = of.start + len(base_index)
    paths = Paths(
        frames=[ROOT, *named],
        binaries=["", *binaries],
        other_lines=[0, *other_lines],
        # What is in `index` for a base is a number of its own, after those of frames.
        rank=np.concatenate((ranks, np.array(base_index, np.int64))),
        index=np.concatenate((np.arange(len(ranks), len(ranks) + len(base_index), dtype=np.int32), stacks.frames.flat)),
        at=offsets[sums.key[head]],
        end=offsets[sums.key[head] + 1],
        then_at=shifted[head],
        then_end=shifted[head] + common[head],
        part=parts[:-1],
        part_end=parts[1:],
        parts=(shifted[longer] + PREFIX, shifted[longer] + of.length[longer], sums.counts[longer]),
        count=np.add.reduceat(sums.counts[order], first) if len(first) else sums.counts,
    )
    return merge_paths(paths, limit)


def _place(named: list[Frame], binaries: list[str], key: tuple[str, str, str]) -> int:
    """How many functions come before `key`."""
    return bisect_left(range(len(named)), key, key=lambda i: (named[i].function, named[i].kind.value, binaries[i]))


def _is(named: list[Frame], binaries: list[str], place: int, key: tuple[str, str, str]) -> bool:
    return place < len(named) and (named[place].function, named[place].kind.value, binaries[place]) == key


def _choose_lines(sums: Sums, stacks: Stacks, named: list[Frame], other_lines: list[int]) -> None:
    """Gives each function that is on several lines here the frame with most ticks, as model.functions_of does.

    `named` and `other_lines` are those of stacks.functions.
    """
    if len(named) == len(stacks.of):
        return
    of_frames = ticks(sums, stacks)
    used = np.flatnonzero(of_frames)
    order = np.lexsort((of_frames[used], stacks.told[used], stacks.of[used]))
    used = used[order]
    function, told, weight = stacks.of[used], stacks.told[used], of_frames[used]
    last = np.flatnonzero(np.append(function[1:] != function[:-1], [True][: len(function)]))
    best = used[last]
    alike = (function[1:] == function[:-1]) & (told[1:] == told[:-1]) & (weight[1:] == weight[:-1])
    for i in np.flatnonzero(np.append([False][: len(alike) + 1], alike)[last]).tolist() if len(used) else ():
        begin = end = int(last[i])
        while begin and alike[begin - 1]:
            begin -= 1
        frames = stacks.frame_list
        best[i] = max(used[begin : end + 1].tolist(), key=lambda j: (frames[j].file, frames[j].line))
    for place, j in zip(function[last].tolist(), best.tolist(), strict=True):
        named[place] = stacks.frame_list[j]
    # Frames that differ in more than their lines may be on the same one.
    pairs = np.unique(np.stack((function, stacks.line[used]))[:, stacks.line[used] > 0], axis=1)
    places, lines = np.unique(pairs[0], return_counts=True)
    for place, count in zip(places[lines > 1].tolist(), lines[lines > 1].tolist(), strict=True):
        other_lines[place] = count - 1
