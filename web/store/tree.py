"""The call tree of sums, straight from cached stacks: what stacks.table_of() and build_tree() would make of them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import numpy as np
from numpy.typing import NDArray

from profiler.model import bases
from symbolizer.types import Frame, Kind
from web.flamegraph.calltree import ROOT, CallTree, Paths, merge_paths
from web.store.ragged import csr
from web.store.stackcache import Stacks
from web.store.sums import Sums

_AT_A_TIME: Final = 1 << 16  # stacks


def begins_of(keys: list[tuple[str, ...]]) -> list[list[Frame]]:
    """The frames that stacks of each key stand on, root first: the values of all labels but the last two, then the
    process's name, and the thread's where that differs."""
    return [
        [
            *(Frame(value or "(none)", Kind.PROCESS) for value in key[:-2]),
            *(Frame(name, kind) for name, kind in bases(*key[-2:])),
        ]
        for key in keys
    ]


def tree_of(sums: Sums, stacks: Stacks, limit: int | None = None) -> CallTree:
    """See calltree.build_tree; the keys of `sums` end with process and thread."""
    begins = begins_of(sums.keys)
    base_names = {(frame.function, frame.kind.value, ""): frame for begin in begins for frame in begin}
    lengths = np.fromiter(map(len, begins), np.int64, len(begins))
    offsets = csr(lengths)

    # All functions in order, with the names of bases, which are few, put where they belong.
    functions = sorted(base_names)
    order = np.argsort(stacks.order)  # the numbers of functions in order
    named = [stacks.frame_list[stacks.function_frames[number]] for number in order.tolist()]
    binaries = [stacks.binaries[stacks.function_frames[number]] for number in order.tolist()]
    other_lines = [0] * len(named)
    _choose_lines(sums, stacks, named, other_lines)
    places = {key: _place(named, binaries, key) for key in functions}
    known = {key: place for key, place in places.items() if _is(named, binaries, place, key)}
    added = [(key, place) for key, place in places.items() if key not in known]
    before = np.array([place for _, place in added], np.int64)
    shift = np.searchsorted(before, np.arange(len(named)), side="right")
    ranks = (1 + np.arange(len(named)) + shift)[stacks.order[stacks.of]] if len(named) else np.empty(0, np.int64)
    base_rank = {key: 1 + place + int(shift[place]) for key, place in known.items()}
    base_rank |= {key: 1 + place + i for i, (key, place) in enumerate(added)}
    for key, place in reversed(added):
        named.insert(place, base_names[key])
        binaries.insert(place, "")
        other_lines.insert(place, 0)

    base_index = [base_rank[frame.function, frame.kind.value, ""] for begin in begins for frame in begin]
    of = stacks.frames.take(stacks.rows_of(sums.stacks))
    shifted = of.start + len(base_index)
    paths = Paths(
        frames=[ROOT, *named],
        binaries=["", *binaries],
        other_lines=[0, *other_lines],
        # What is in `index` for a base is a number of its own, after those of frames.
        rank=np.concatenate((ranks, np.array(base_index, np.int64))),
        index=np.concatenate((np.arange(len(ranks), len(ranks) + len(base_index), dtype=np.int32), stacks.frames.flat)),
        at=offsets[sums.key],
        end=offsets[sums.key + 1],
        then_at=shifted,
        then_end=shifted + of.length,
        count=sums.counts,
    )
    return merge_paths(paths, limit)


def _place(named: list[Frame], binaries: list[str], key: tuple[str, str, str]) -> int:
    """How many functions come before `key`."""
    return bisect_left(range(len(named)), key, key=lambda i: (named[i].function, named[i].kind.value, binaries[i]))


def _is(named: list[Frame], binaries: list[str], place: int, key: tuple[str, str, str]) -> bool:
    return place < len(named) and (named[place].function, named[place].kind.value, binaries[place]) == key


def _choose_lines(sums: Sums, stacks: Stacks, named: list[Frame], other_lines: list[int]) -> None:
    """Gives each function that is on several lines here the frame with most ticks, as model.functions_of does.

    `named` and `other_lines` are in the functions' order.
    """
    if len(stacks.order) == len(stacks.of):
        return
    ticks = _ticks(sums, stacks)
    used = np.flatnonzero(ticks)
    function = stacks.of[used]
    by_function = np.argsort(function, kind="stable")
    used, function = used[by_function], function[by_function]
    begins = np.flatnonzero(np.concatenate(([True], function[1:] != function[:-1]))) if len(used) else used
    ends = np.append(begins[1:], len(used))
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        frames = [(stacks.frame_list[j], ticks[j]) for j in used[begin:end].tolist()]
        best, _ = max(frames, key=lambda f: (f[0].line > 0, f[0].file != "", f[1], f[0].file, f[0].line))
        place = int(stacks.order[function[begin]])
        named[place] = best
        other_lines[place] = max(len({(f.file, f.line) for f, _ in frames if f.line}) - 1, 0)


def _ticks(sums: Sums, stacks: Stacks) -> NDArray[np.float64]:
    """How many ticks each frame was on; twice as many where it was twice in their stacks."""
    rows = stacks.rows_of(sums.stacks)
    found = np.zeros(len(stacks.of))
    for at in range(0, len(rows), _AT_A_TIME):
        part = stacks.frames.take(rows[at : at + _AT_A_TIME])
        flat, _ = part.packed()
        found += np.bincount(flat, np.repeat(sums.counts[at : at + _AT_A_TIME], part.length), len(found))
    return found
