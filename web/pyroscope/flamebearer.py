"""Call trees as Pyroscope's flame graphs: rows of numbers, four for a node, seven where two profiles are compared.

A node is [distance from the end of its left neighbour, total, own, name]; in a comparison the first three come twice.
Values are in the unit of the profile type. A node covers [start, start + total) of the counts of all, and what is
converted are those bounds: so a node's total is exactly what it has itself and its children have, in the unit as well.
Source: https://github.com/grafana/pyroscope/blob/main/pkg/og/structs/flamebearer/flamebearer.go
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from profiler.model import StackTable
from symbolizer.types import Frame
from web.flamegraph.calltree import CallTree, build_tree, prune
from web.flamegraph.diff import DiffTree, build_diff, prune_diff

ROOT: Final = "total"
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Flame:
    """`total` is the sum of both sides where two are compared, `left` and `right` their own; else `right` is 0."""

    names: list[str]
    levels: list[list[int]]
    total: int
    max_self: int
    left: int
    right: int


def in_unit(counts: NDArray[np.int64], hz: int, is_time: bool) -> NDArray[np.int64]:
    """Counts of 1/hz seconds as nanoseconds, rounded; others as they are."""
    if not is_time:
        return counts
    seconds, rest = np.divmod(counts, hz)
    nanoseconds: NDArray[np.int64] = seconds * _SECOND + (rest * _SECOND + hz // 2) // hz
    return nanoseconds


def single(tree: CallTree, hz: int, is_time: bool) -> Flame:
    total, own, start = side(tree.start, tree.total, tree.parent, hz, is_time)
    names, name = _names(tree.frames, tree.frame)
    columns = (_distances(start, total, tree.level), total, own, name)
    return Flame(names, _levels(columns, tree.level), int(total[0]), int(own.max()), int(total[0]), 0)


def double(tree: DiffTree, hz: tuple[int, int], is_time: bool) -> Flame:
    """`hz` are the rates of the counts before and after."""
    names, name = _names(tree.frames, tree.frame)
    sides = (
        side(tree.before_start, tree.before, tree.parent, hz[0], is_time),
        side(tree.after_start, tree.after, tree.parent, hz[1], is_time),
    )
    columns = [column for total, own, start in sides for column in (_distances(start, total, tree.level), total, own)]
    (left, left_own, _), (right, right_own, _) = sides
    return Flame(
        names,
        _levels((*columns, name), tree.level),
        int(left[0]) + int(right[0]),
        int(max(left_own.max(), right_own.max())),
        int(left[0]),
        int(right[0]),
    )


def flame_of(table: StackTable, max_nodes: int, hz: int, is_time: bool) -> Flame:
    return single(prune(build_tree(table), max_nodes), hz, is_time)


def diff_of(left: StackTable, right: StackTable, max_nodes: int, hz: tuple[int, int], is_time: bool) -> Flame:
    return double(prune_diff(build_diff(left, right), max_nodes), hz, is_time)


def empty_table() -> StackTable:
    return StackTable([], [], np.empty(0, np.uint32), np.zeros(1, np.int64), np.empty(0, np.int64))


def below(table: StackTable, path: list[str]) -> StackTable:
    """The stacks that begin with functions of these names, root first; the others weigh nothing then."""
    counts = table.counts.copy()
    depth = np.diff(table.offsets)
    for level, name in enumerate(path):
        fitting = np.array([frame.function == name for frame in table.frames] or [False], bool)
        deep = np.flatnonzero(depth > level)
        counts[depth <= level] = 0
        counts[deep[~fitting[table.index[table.offsets[:-1][deep] + level]]]] = 0
    return StackTable(table.frames, table.binaries, table.index, table.offsets, counts)


def side(
    start: NDArray[np.int64], total: NDArray[np.int64], parent: NDArray[np.int32], hz: int, is_time: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Totals, own values and starts of nodes in the unit, from their starts and totals in counts."""
    begin = in_unit(start, hz, is_time)
    whole = in_unit(start + total, hz, is_time) - begin
    own = whole.copy()
    np.subtract.at(own, parent[1:], whole[1:])
    return whole, own, begin


def _names(frames: list[Frame], frame: NDArray[np.int32]) -> tuple[list[str], NDArray[np.int64]]:
    """The names of a tree, the root's first, and the place of each node's among them."""
    places = {ROOT: 0}
    place = np.zeros(len(frames), np.int64)
    for number in np.unique(frame[1:]).tolist():
        place[number] = places.setdefault(frames[number].function or "[unnamed]", len(places))
    name = place[frame]
    name[0] = 0
    return list(places), name


def _distances(start: NDArray[np.int64], total: NDArray[np.int64], level: NDArray[np.int32]) -> NDArray[np.int64]:
    """How far each node begins behind the end of its left neighbour, in its level; of the first, behind 0."""
    end = start + total
    distance = start.copy()
    neighbours = np.flatnonzero(level[1:] == level[:-1]) + 1
    distance[neighbours] -= end[neighbours - 1]
    return distance


def _levels(columns: tuple[NDArray[np.int64], ...], level: NDArray[np.int32]) -> list[list[int]]:
    values = np.column_stack(columns)
    bounds = np.searchsorted(level, np.arange(int(level[-1]) + 2))
    return [
        values[first:stop].ravel().tolist()
        for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
