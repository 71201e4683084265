"""Stacks merged into a call tree, level by level, as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.model import StackTable, functions_of
from symbolizer.types import Frame, Kind

ROOT = Frame("all", Kind.PROCESS)


@dataclass(frozen=True, slots=True)
class CallTree:
    """A call tree in level order: node 0 is the root "all", parents come before their children.

    The children of a node are neighbours, in alphabetical order. For node i: `parent[i]` (the root's
    is -1), `level[i]` (the root's is 0), `frame[i]` into `frames` and `binaries`, `total[i]` and
    `own[i]` in counts (total = own + the children's totals, exactly), and `start[i]`, the total of
    everything left of it, so that it covers [start, start + total) of the root's [0, total).
    parent, level and frame are int32; the others int64. frames[i] has the line that most ticks were on,
    in all of the tree, and `other_lines[i]` is how many others it was on. frames[elided:] are no functions
    but stand for what prune() folded away.
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

    def __len__(self) -> int:
        return len(self.parent)


def build_tree(table: StackTable) -> CallTree:
    """Merge stacks that begin with the same functions. Stacks that weigh nothing have no place in the tree.

    Raises ValueError if a count is negative.
    """
    if len(table.counts) and int(table.counts.min()) < 0:
        raise ValueError("a stack has a negative count; a call tree can only be made from counts of 0 or more")
    functions = functions_of(table)
    order = sorted(
        range(len(functions.frames)),
        key=lambda i: (functions.frames[i].function, functions.frames[i].kind, functions.binaries[i]),
    )
    frames = [ROOT, *(functions.frames[i] for i in order)]
    binaries = ["", *(functions.binaries[i] for i in order)]
    other_lines = [0, *(functions.other_lines[i] for i in order)]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(1, len(order) + 1)
    rank = place[functions.of]

    # One entry per stack that reaches the present level, kept in the order of its node.
    weighty = np.flatnonzero(table.counts)
    at = table.offsets[:-1][weighty]
    end = table.offsets[1:][weighty]
    count = table.counts[weighty]
    node = np.zeros(len(weighty), np.int64)

    parents = [np.array([-1])]
    labels = [np.array([0])]
    totals = [np.array([count.sum()])]
    first = 0  # the number of the level's first node
    while True:
        deeper = at < end
        if not deeper.all():
            at, end, count, node = at[deeper], end[deeper], count[deeper], node[deeper]
        if not len(at):
            break
        key = node * len(frames) + rank[table.index[at]]
        moved = _sort_within_nodes(key, node)
        if moved is not None:
            where, source = moved
            key[where], at[where], end[where], count[where] = key[source], at[source], end[source], count[source]
        begins = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        parent = node[begins]  # sorting moved entries within their node only
        parents.append(parent + first)
        labels.append(key[begins] - parent * len(frames))
        totals.append(np.add.reduceat(count, begins))
        node = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(key)))
        first += len(totals[-2])
        at = at + 1
    return _tree(
        parent=np.concatenate(parents),
        level=np.repeat(np.arange(len(parents)), [len(nodes) for nodes in parents]),
        label=np.concatenate(labels),
        total=np.concatenate(totals),
        frames=frames,
        binaries=binaries,
        other_lines=other_lines,
        elided=len(frames),
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


def prune(tree: CallTree, limit: int) -> CallTree:
    """The tree with about `limit` nodes at most: the lightest are folded, exactly, into their parent's
    "(N frames below x %)" node. A tree of no more than `limit` nodes comes back as it is.

    A node is folded where it weighs less than the threshold, and all below it with it; every total
    that stays is what it was. Folded nodes come after their siblings.
    """
    if len(tree) <= limit:
        return tree
    # The heaviest limit + 1 nodes cannot all stay, so the lightest of them sets what is too light.
    threshold = int(np.partition(tree.total, len(tree) - limit - 1)[len(tree) - limit - 1]) + 1
    folding = fold(tree.parent, tree.level, tree.total >= threshold)
    names, name = folding.names(100 * threshold / int(tree.total[0]))
    return _tree(
        parent=folding.parent,
        level=folding.level,
        label=folding.arranged(tree.frame, len(tree.frames) + name),
        total=folding.sums(tree.total),
        frames=tree.frames + names,
        binaries=tree.binaries + [""] * len(names),
        other_lines=tree.other_lines + [0] * len(names),
        elided=len(tree.frames),
    )


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


def fold(parent: NDArray[np.integer], level: NDArray[np.integer], keep: NDArray[np.bool_]) -> Folding:
    """Fold nodes that are not to be kept into their parents. The root is kept; below what is not, nothing may be."""
    keep = keep.copy()
    keep[0] = True
    # Whoever is folded hands the number of frames folded into it on to its parent, deepest first.
    folded = (~keep).astype(np.int64)
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
