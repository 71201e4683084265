"""What was folded away below a node of a picture, to be loaded when someone asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from web.flamegraph import layout
from web.flamegraph.calltree import CallTree, weighed
from web.flamegraph.diff import DiffTree, diff_tree, shares
from web.flamegraph.names import kind_of, visible

_HIGH, _LOW = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)


def find_node(tree: CallTree, key: str) -> int | None:
    """The node of a key, as the viewer makes them: its level, and 64 bits that tell the path to it (model.js)."""
    text, _, hashes = key.partition("-")
    if not (text.isascii() and text.isdigit() and len(text) < 6 and len(hashes) == 16):
        return None
    try:
        wanted = int(hashes[:8], 16), int(hashes[8:], 16)
    except ValueError:
        return None
    level = int(text)
    if level > int(tree.level[-1]):
        return None
    bounds = np.searchsorted(tree.level, np.arange(level + 2))
    names: NDArray[np.uint32] = np.zeros(len(tree.frames), np.uint32)
    for frame in np.unique(tree.frame[: bounds[-1]]).tolist():
        names[frame] = frame_hash(tree, frame)
    high = np.zeros(int(bounds[-1]), np.uint32)
    low = high.copy()
    for depth, (first, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        name = names[tree.frame[first:stop]]
        above = tree.parent[first:stop]
        high_above, low_above = (high[above], low[above]) if depth else (high[:1], low[:1])
        high[first:stop] = (high_above ^ name) * _HIGH ^ (high_above >> np.uint32(15))
        turned = (name << np.uint32(16)) | (name >> np.uint32(16))
        low[first:stop] = (low_above ^ turned) * _LOW ^ (low_above >> np.uint32(13))
    first = int(bounds[level])
    found = np.flatnonzero((high[first:] == wanted[0]) & (low[first:] == wanted[1]))
    return first + int(found[0]) if len(found) else None


def frame_hash(tree: CallTree, frame: int) -> int:
    """CRC-32 of what a function is known by: its name, kind and binary, as the picture shows them."""
    name, binary = visible(tree.frames[frame].function), visible(tree.binaries[frame])
    return crc32(f"{name}\n{layout.LABELS[kind_of(tree, frame)]}\n{binary}".encode())


@dataclass(frozen=True, slots=True)
class _Part:
    """Nodes below one, as a tree of their own that has that node as its root: number i > 0 is kept[i - 1] of the tree.

    `heads` are the root's children, by the tree's numbers; `parent` and `level` are the part's own.
    """

    kept: NDArray[np.int64]
    heads: NDArray[np.int64]
    parent: NDArray[np.int64]
    level: NDArray[np.int64]

    def sums(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        """The totals of the part: the root weighs what its children do."""
        return np.concatenate(([int(total[self.heads].sum())], total[self.kept]))


def _part(parent: NDArray[np.integer], level: NDArray[np.integer], node: int, is_light: NDArray[np.bool_]) -> _Part:
    """Of nodes in level order: the children of a node that are light, with all below them."""
    chosen = np.zeros(len(parent), bool)
    bounds = np.searchsorted(level, np.arange(int(level[-1]) + 2))
    for depth in range(int(level[node]) + 1, len(bounds) - 1):
        nodes = slice(int(bounds[depth]), int(bounds[depth + 1]))
        above = parent[nodes]
        chosen[nodes] = chosen[above] | ((above == node) & is_light[nodes])
        if not chosen[nodes].any():
            break
    kept = np.flatnonzero(chosen)
    number = np.zeros(len(parent), np.int64)
    number[kept] = 1 + np.arange(len(kept))
    return _Part(
        kept=kept,
        heads=kept[parent[kept] == node],
        parent=np.concatenate(([-1], number[parent[kept]])),
        level=np.concatenate(([0], level[kept] - level[node])).astype(np.int64),
    )


def folded_below(tree: CallTree, node: int, lighter: int) -> CallTree:
    """What prune() folds away below a node, of a tree that nothing was folded away in, with that node as its root.

    Its children that weigh less than `lighter` are in it, with all below them. The root weighs what they do.
    """
    part = _part(tree.parent, tree.level, node, tree.total < lighter)
    total = part.sums(tree.total)
    own, start = weighed(part.parent, part.level, total)
    return CallTree(
        parent=part.parent.astype(np.int32),
        level=part.level.astype(np.int32),
        frame=np.concatenate(([int(tree.frame[node])], tree.frame[part.kept])).astype(np.int32),
        total=total,
        own=own,
        start=start,
        frames=tree.frames,
        binaries=tree.binaries,
        other_lines=tree.other_lines,
        elided=tree.elided,
    )


def folded_below_in_diff(tree: DiffTree, node: int, lighter: float) -> DiffTree:
    """As folded_below, of what prune_diff() folds away: `lighter` is a share of either side."""
    part = _part(tree.parent, tree.level, node, shares(tree) < lighter)
    return diff_tree(
        part.parent,
        part.level,
        np.concatenate(([int(tree.frame[node])], tree.frame[part.kept])),
        part.sums(tree.before),
        part.sums(tree.after),
        tree.frames,
        tree.binaries,
        tree.other_lines,
        tree.elided,
    )
