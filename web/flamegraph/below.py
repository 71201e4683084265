"""What was folded away below a node of a picture, to be loaded when someone asks for it."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from web.flamegraph import layout
from web.flamegraph.calltree import CallTree, weighed
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


def folded_below(tree: CallTree, node: int, lighter: int) -> CallTree:
    """What prune() folds away below a node, of a tree that nothing was folded away in, with that node as its root.

    Its children that weigh less than `lighter` are in it, with all below them. The root weighs what they do.
    """
    chosen = np.zeros(len(tree), bool)
    bounds = np.searchsorted(tree.level, np.arange(int(tree.level[-1]) + 2))
    for depth in range(int(tree.level[node]) + 1, len(bounds) - 1):
        nodes = slice(int(bounds[depth]), int(bounds[depth + 1]))
        above = tree.parent[nodes]
        light = (above == node) & (tree.total[nodes] < lighter)
        chosen[nodes] = chosen[above] | light
        if not chosen[nodes].any():
            break
    kept = np.flatnonzero(chosen)
    number = np.zeros(len(tree), np.int64)
    number[kept] = 1 + np.arange(len(kept))
    parent = np.concatenate(([-1], number[tree.parent[kept]]))
    level = np.concatenate(([0], tree.level[kept] - tree.level[node])).astype(np.int64)
    heads = kept[tree.parent[kept] == node]
    total = np.concatenate(([int(tree.total[heads].sum())], tree.total[kept]))
    own, start = weighed(parent, level, total)
    return CallTree(
        parent=parent.astype(np.int32),
        level=level.astype(np.int32),
        frame=np.concatenate(([int(tree.frame[node])], tree.frame[kept])).astype(np.int32),
        total=total,
        own=own,
        start=start,
        frames=tree.frames,
        binaries=tree.binaries,
        other_lines=tree.other_lines,
        elided=tree.elided,
    )
