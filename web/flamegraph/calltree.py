"""Stacks merged into a call tree, level by level, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profiler.model import StackTable, functions_of
from symbolizer.types import Frame, Kind

ROOT = Frame("all", Kind.PROCESS)
_FEW: Final = 1 << 16  # samples of a node


@dataclass(frozen=True, slots=True)
class CallTree:
    """A call tree in level order: node 0 is the root "all", parents come before their children.

    The children of a node are neighbours, in alphabetical order. For node i: `parent[i]` (the root's
    is -1), `level[i]` (the root's is 0), `frame[i]` into `frames` and `binaries`, `total[i]` and
    `own[i]` in counts (total = own + the children's totals, exactly), and `start[i]`, the total of
    everything left of it, so that it covers [start, start + total) of the root's [0, total).
    parent, level and frame are int32; the others int64. frames[i] has the line that most ticks were on,
    in all of the tree, and `other_lines[i]` is how many others it was on. frames[elided:] are no functions
    but stand for what prune() folded away, which is all that weighs less than `lighter`.
    """

    parent: NDArray[np.int32]
    level: NDArray[np.int32]
    frame: NDArray[np.int32]
    total: NDArray[np.int64]
    own: NDArray[np.int64]
    start: NDArray[np.int64]
    frames: list[Frame]
    binaries: list[str]
    other_lines: list[int]
    elided: int
    lighter: int = 0

    def __len__(self) -> int:
        return len(self.parent)


@dataclass(frozen=True, slots=True)
class Paths:
    """Stacks as they are merged. Path i weighs count[i] and goes through the functions rank[index[j]] for j in
    [at[i], end[i]), then for j in [then_at[i], then_end[i]); root first. There it may part: `parts` are three columns,
    and for k in [part[i], part_end[i]) parts[2][k] of its weight goes on for j in [parts[0][k], parts[1][k]).

    Functions are numbered from 1 in alphabetical order; `frames`, `binaries` and `other_lines` are as in CallTree.
    """

    frames: list[Frame]
    binaries: list[str]
    other_lines: list[int]
    rank: NDArray[np.integer]
    index: NDArray[np.integer]
    at: NDArray[np.int64]
    end: NDArray[np.int64]
    then_at: NDArray[np.int64]
    then_end: NDArray[np.int64]
    part: NDArray[np.int64]
    part_end: NDArray[np.int64]
    parts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    count: NDArray[np.int64]


def build_tree(table: StackTable, limit: int | None = None) -> CallTree:
    """Merge stacks that begin with the same functions. Stacks that weigh nothing have no place in the tree.

    With a `limit` it is what prune() would make of it, and done sooner. Raises ValueError if a count is negative.
    """
    functions = functions_of(table)
    order = sorted(
        range(len(functions.frames)),
        key=lambda i: (functions.frames[i].function, functions.frames[i].kind, functions.binaries[i]),
    )
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(1, len(order) + 1)
    nothing = np.zeros(len(table.counts), np.int64)
    paths = Paths(
        frames=[ROOT, *(functions.frames[i] for i in order)],
        binaries=["", *(functions.binaries[i] for i in order)],
        other_lines=[0, *(functions.other_lines[i] for i in order)],
        rank=place[functions.of],
        index=table.index,
        at=table.offsets[:-1],
        end=table.offsets[1:],
        then_at=nothing,
        then_end=nothing,
        part=nothing,
        part_end=nothing,
        parts=(nothing, nothing, nothing),
        count=table.counts,
    )
    return merge_paths(paths, limit)


def merge_paths(paths: Paths, limit: int | None = None) -> CallTree:
    """As build_tree."""
    if len(paths.count) and int(paths.count.min()) < 0:
        raise ValueError("a stack has a negative count; a call tree can only be made from counts of 0 or more")
    names = len(paths.frames)

    # One entry per stack that reaches the present level, kept in the order of its node.
    weighty = np.flatnonzero(paths.count)
    at, end, count = paths.at[weighty], paths.end[weighty], paths.count[weighty]
    then = [column[weighty] for column in (paths.then_at, paths.then_end, paths.part, paths.part_end)]
    node = np.zeros(len(weighty), np.int64)

    parents = [np.array([-1])]
    labels = [np.array([0])]
    totals = [np.array([count.sum()])]
    tails: list[NDArray[np.int64]] = []
    first = 0  # the number of the level's first node
    while True:
        if then:
            turning = np.flatnonzero((at >= end) & (then[0] < then[1]))
            at[turning], end[turning] = then[0][turning], then[1][turning]
            then[0][turning] = then[1][turning]
            parting = (at >= end) & (then[2] < then[3])
            if parting.any():
                sizes = np.where(parting, then[3] - then[2], 1)
                source = np.repeat(np.arange(len(at)), sizes)
                part = np.flatnonzero(parting[source])
                which = (then[2][source] + np.arange(len(source)) - np.repeat(np.cumsum(sizes) - sizes, sizes))[part]
                at, end, count, node, *then = (column[source] for column in (at, end, count, node, *then))
                at[part], end[part], count[part] = (column[which] for column in paths.parts)
                then[3][part] = then[2][part]
        deeper = at < end
        if not deeper.all():
            at, end, count, node, *then = (column[deeper] for column in (at, end, count, node, *then))
        if not len(node):
            break
        if then and (then[0] >= then[1]).all() and (then[2] >= then[3]).all():
            then = []
        key = node * names + paths.rank[paths.index[at]]
        moved = _sort_within_nodes(key, node)
        if moved is not None:
            where, source = moved
            for column in (key, at, end, count, *then):
                column[where] = column[source]
        begins = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        parent = node[begins]  # sorting moved entries within their node only
        parents.append(parent + first)
        labels.append(key[begins] - parent * names)
        totals.append(np.add.reduceat(count, begins))
        sizes = np.diff(begins, append=len(key))
        first += len(totals[-2])
        at = at + 1
        if limit is None or then:
            node = np.repeat(np.arange(len(begins)), sizes)
        else:
            # Below a node that only one stack reaches there is nothing to merge: that is most of a large tree.
            single = np.flatnonzero(sizes == 1)
            alone = begins[single]
            tail = at[alone] < end[alone]
            single, alone = single[tail], alone[tail]
            tails.append(np.stack((single + first, at[alone], end[alone], count[alone])))
            rest = np.repeat(sizes > 1, sizes)
            node = np.repeat(np.flatnonzero(sizes > 1), sizes[sizes > 1])
            at, end, count = at[rest], end[rest], count[rest]
    parent, label, total = np.concatenate(parents), np.concatenate(labels), np.concatenate(totals)
    level = np.repeat(np.arange(len(parents)), [len(nodes) for nodes in parents])
    listed = paths.frames, paths.binaries, paths.other_lines
    if limit is None:
        return _tree(parent, level, label, total, *listed, elided=names)
    tail_nodes = np.concatenate(tails, axis=1) if tails else np.zeros((4, 0), np.int64)
    return _grown(paths, limit, parent, level, label, total, tail_nodes)


def _grown(
    paths: Paths,
    limit: int,
    parent: NDArray[np.int64],
    level: NDArray[np.int64],
    label: NDArray[np.int64],
    total: NDArray[np.int64],
    tails: NDArray[np.int64],
) -> CallTree:
    """The tree of nodes in level order, with those of the tails that are heavy enough, and without nodes that are not.

    A tail is a node, where in `index` what is below it begins and ends, and its count.
    """
    at, at_index, end, count = tails
    length = end - at_index
    threshold = _threshold(np.concatenate((total, count)), np.concatenate((np.ones_like(total), length)), limit)
    size = np.ones(len(total), np.int64)
    light = count < threshold
    size[at[light]] += length[light]
    at, at_index, count, length = at[~light], at_index[~light], count[~light], length[~light]

    # Nodes of a level are in the order of where they begin, and an only child begins where its parent does.
    _, start = weighed(parent, level, total)
    whose = np.repeat(np.arange(len(at)), length)
    ends = np.cumsum(length)
    step = np.arange(len(whose)) - (ends - length)[whose]
    above = np.where(step == 0, at[whose], len(total) + np.arange(len(whose)) - 1)
    all_levels = np.concatenate((level, level[at][whose] + step + 1))
    order = np.lexsort((np.concatenate((start, start[at][whose])), all_levels))
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    parent = np.concatenate((parent, above))[order]
    parent[1:] = number[parent[1:]]
    return _folded(
        parent,
        all_levels[order],
        np.concatenate((label, paths.rank[paths.index[at_index[whose] + step]]))[order],
        np.concatenate((total, count[whose]))[order],
        np.concatenate((size, np.ones(len(whose), np.int64)))[order],
        threshold,
        (paths.frames, paths.binaries, paths.other_lines),
    )


def _threshold(totals: NDArray[np.int64], how_many: NDArray[np.int64], limit: int) -> int:
    """The least weight of nodes that are kept, of so many nodes with each of these totals; 0 where all are."""
    if int(how_many.sum()) <= limit:
        return 0
    # The heaviest limit + 1 nodes cannot all stay, so the lightest of them sets what is too light.
    light = totals < _FEW
    beyond = limit + 1 - int(how_many[~light].sum())
    if beyond > 0:  # it is among the light ones, of which there are many of each weight
        by_weight = np.bincount(totals[light], how_many[light], _FEW)
        return _FEW - int(np.searchsorted(np.cumsum(by_weight[::-1]), beyond))
    totals, how_many = totals[~light], how_many[~light]
    order = np.argsort(-totals)
    return int(totals[order[np.searchsorted(np.cumsum(how_many[order]), limit + 1)]]) + 1


def _folded(
    parent: NDArray[Any],
    level: NDArray[Any],
    label: NDArray[Any],
    total: NDArray[np.int64],
    size: NDArray[np.int64],
    threshold: int,
    listed: tuple[list[Frame], list[str], list[int]],
    whole: int = 0,
) -> CallTree:
    """The tree of nodes in level order, each standing for `size` of them, without those below a threshold."""
    frames, binaries, other_lines = listed
    if not threshold:
        return _tree(parent, level, label, total, frames, binaries, other_lines, len(frames))
    keep = total >= threshold
    folding = fold(parent, level, with_children(keep, level) if whole else keep, size)
    names, name = folding.names(100 * threshold / (whole or int(total[0])))
    return _tree(
        parent=folding.parent,
        level=folding.level,
        label=folding.arranged(label, len(frames) + name),
        total=folding.sums(total),
        frames=frames + names,
        binaries=binaries + [""] * len(names),
        other_lines=other_lines + [0] * len(names),
        elided=len(frames),
        lighter=threshold,
    )


def _sort_within_nodes(
    key: NDArray[np.int64], node: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Where entries have to be moved to, and where from, so that `key` ascends; None if it does.

    Entries are in the order of their node already, so one that is alone in its node stays put; deep
    down that is nearly all of them, which makes this several times faster than sorting every level.
    """
    if (key[1:] >= key[:-1]).all():
        return None
    same = node[1:] == node[:-1]
    shared = np.zeros(len(node), bool)
    shared[1:] = same
    shared[:-1] |= same
    where = np.flatnonzero(shared)
    return where, where[np.argsort(key[where], kind="stable")]


def _tree(
    parent: NDArray[np.int64],
    level: NDArray[np.int64],
    label: NDArray[np.int64],
    total: NDArray[np.int64],
    frames: list[Frame],
    binaries: list[str],
    other_lines: list[int],
    elided: int,
    lighter: int = 0,
) -> CallTree:
    """The tree of nodes that are in level order already, with what follows from their totals."""
    own, start = weighed(parent, level, total)
    return CallTree(
        parent=parent.astype(np.int32),
        level=level.astype(np.int32),
        frame=label.astype(np.int32),
        total=total,
        own=own,
        start=start,
        frames=frames,
        binaries=binaries,
        other_lines=other_lines,
        elided=elided,
        lighter=lighter,
    )


def weighed(
    parent: NDArray[np.integer], level: NDArray[np.integer], total: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`own` and `start`, as in CallTree, of nodes in level order, from their totals."""
    own = total.copy()
    start = np.zeros(len(total), np.int64)
    bounds = np.searchsorted(level, np.arange(int(level[-1]) + 2))
    for first, stop in zip(bounds[1:-1].tolist(), bounds[2:].tolist(), strict=True):
        above = parent[first:stop]
        weights = total[first:stop]
        before = np.cumsum(weights) - weights
        begins = np.flatnonzero(np.concatenate(([True], above[1:] != above[:-1])))
        shift = start[above[begins]] - before[begins]
        start[first:stop] = before + np.repeat(shift, np.diff(begins, append=len(above)))
        own[above[begins]] -= np.add.reduceat(weights, begins)
    return own, start


def with_children(keep: NDArray[np.bool_], level: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The nodes to keep of a part that someone asked for: where it would be none but the root, as the others are all
    equally light, its children too, so that whoever goes on asking comes to all of it."""
    return keep if keep[1:].any() else level <= 1


def prune(tree: CallTree, limit: int, whole: int = 0) -> CallTree:
    """The tree with about `limit` nodes at most: the lightest are folded, exactly, into their parent's
    "(N frames below x %)" node. A tree of no more than `limit` nodes comes back as it is.

    A node is folded where it weighs less than the threshold, and all below it with it; every total
    that stays is what it was. Folded nodes come after their siblings. The share x is of the root; or of `whole`, where
    the tree is a part of one that weighs that, see with_children().
    """
    ones = np.ones(len(tree), np.int64)
    threshold = _threshold(tree.total, ones, limit)
    if not threshold:
        return tree
    listed = tree.frames, tree.binaries, tree.other_lines
    return _folded(tree.parent, tree.level, tree.frame, tree.total, ones, threshold, listed, whole)


@dataclass(frozen=True, slots=True)
class Folding:
    """How a tree in level order becomes a smaller one: `kept` nodes stay, and each of `holders`, kept nodes too, gets
    one more child, its last, for what is folded away below it.

    `heads` are the topmost nodes of what is folded away, `folded[i]` is how many nodes are below holders[i].
    `parent` and `level` are those of the smaller tree, whose node i is number order[i] of kept and holders together.
    """

    kept: NDArray[np.int64]
    holders: NDArray[np.int64]
    heads: NDArray[np.int64]
    head_parent: NDArray[np.int64]
    folded: NDArray[np.int64]
    order: NDArray[np.int64]
    parent: NDArray[np.int64]
    level: NDArray[np.int64]

    def arranged(self, of_nodes: NDArray[Any], of_holders: NDArray[Any]) -> NDArray[np.int64]:
        """What kept nodes had, and what the holders' new children have, in the order of the smaller tree."""
        return np.concatenate((of_nodes[self.kept], of_holders))[self.order].astype(np.int64)

    def sums(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        """The totals of the smaller tree, exactly those of the larger one."""
        weight = np.zeros(len(total), np.int64)
        np.add.at(weight, self.head_parent, total[self.heads])
        return self.arranged(total, weight[self.holders])

    def names(self, percent: float) -> tuple[list[Frame], NDArray[np.int64]]:
        """Frames that say how much is folded away, below which share; and which of them each holder's child has."""
        shown = np.format_float_positional(percent, precision=2, fractional=False, trim="-")
        sizes, size = np.unique(self.folded, return_inverse=True)
        names = [f"({n:,} {'frame' if n == 1 else 'frames'} below {shown} %)" for n in sizes.tolist()]
        return [Frame(name, Kind.UNKNOWN) for name in names], size


def fold(
    parent: NDArray[np.integer],
    level: NDArray[np.integer],
    keep: NDArray[np.bool_],
    size: NDArray[np.int64] | None = None,
) -> Folding:
    """Fold nodes that are not to be kept into their parents. The root is kept; below what is not, nothing may be.

    A node counts as `size` of them, where that is given.
    """
    keep = keep.copy()
    keep[0] = True
    # Whoever is folded hands the number of frames folded into it on to its parent, deepest first.
    folded = (~keep).astype(np.int64) * (1 if size is None else size)
    bounds = np.searchsorted(level, np.arange(int(level[-1]) + 2))
    for first, stop in zip(bounds[-2:0:-1].tolist(), bounds[:1:-1].tolist(), strict=True):
        nodes = first + np.flatnonzero(~keep[first:stop])
        np.add.at(folded, parent[nodes], folded[nodes])
    heads = np.flatnonzero(~keep & keep[parent])
    kept, holders = np.flatnonzero(keep), np.unique(parent[heads]).astype(np.int64)
    # Nodes are in the order of their parents, by their old numbers as by the new; holders come last of siblings.
    old_parent = np.concatenate((parent[kept], holders)).astype(np.int64)
    order = np.argsort(2 * old_parent + (np.arange(len(old_parent)) >= len(kept)), kind="stable")
    new_number = np.full(len(parent) + 1, -1)
    places = np.flatnonzero(order < len(kept))
    new_number[kept[order[places]]] = places
    return Folding(
        kept=kept,
        holders=holders,
        heads=heads,
        head_parent=parent[heads].astype(np.int64),
        folded=folded[holders],
        order=order,
        parent=new_number[old_parent[order]],
        level=np.concatenate((level[kept], level[holders] + 1))[order].astype(np.int64),
    )


def tree_to_json(tree: CallTree) -> dict[str, Any]:
    """The whole tree as columns, in level order, for json.dumps.

    `children[i]` is how many children node i has: as these come in the order of their parents, that
    alone gives every parent and level. `own[i]` is what node i weighs without its children; totals
    and positions are sums of it. `frame[i]` points into `frames`, itself columns: `name`, `kind` and
    `reason` (into `kinds` and `reasons`, 0 where there is none), `binary` and `file` (into `strings`,
    which begins with ""), `line` (0 where unknown: else the one that most ticks were on) and
    `other_lines` (how many others). Frames from number `elided` on stand for what was folded away.
    """
    return {
        "children": np.bincount(tree.parent[1:], minlength=len(tree)).tolist(),
        "own": tree.own.tolist(),
        **frames_to_json(tree.frame, tree.frames, tree.binaries, tree.other_lines, tree.elided),
    }


def frames_to_json(
    frame: NDArray[np.int32], frames: list[Frame], binaries: list[str], other_lines: list[int], elided: int
) -> dict[str, Any]:
    """The columns of tree_to_json that say what the frames of its nodes are; those that no node has are left out."""
    is_used = np.bincount(frame, minlength=len(frames)) > 0
    used = np.flatnonzero(is_used)
    of_nodes = [frames[i] for i in used.tolist()]
    strings: dict[str, int] = {"": 0}
    kinds: dict[str, int] = {}
    reasons: dict[str, int] = {"": 0}
    return {
        "frame": (np.cumsum(is_used) - 1)[frame].tolist(),
        "frames": {
            "name": [f.function for f in of_nodes],
            "kind": [kinds.setdefault(f.kind.value, len(kinds)) for f in of_nodes],
            "reason": [reasons.setdefault(f.reason.value if f.reason else "", len(reasons)) for f in of_nodes],
            "binary": [strings.setdefault(binaries[i], len(strings)) for i in used.tolist()],
            "file": [strings.setdefault(f.file, len(strings)) for f in of_nodes],
            "line": [f.line for f in of_nodes],
            "other_lines": [other_lines[i] for i in used.tolist()],
        },
        "elided": int(np.searchsorted(used, elided)),
        "kinds": list(kinds),
        "reasons": list(reasons),
        "strings": list(strings),
    }
