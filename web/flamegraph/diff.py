"""Two profiles side by side: one call tree of both, each node with what it weighs before and after.

A difference is of shares, since two profiles seldom hold equally many samples; or, where both cover the same time at
the same rate and how much ran is itself the question, of counts ("absolute").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from web.flamegraph.calltree import CallTree, build_tree, fold, frames_to_json, weighed, with_children

SIGNIFICANT: Final = 3.29  # standard errors: two-sided 0.1 %
FEWEST: Final = 5  # samples of both sides together; below, a normal distribution says nothing
_MAX_INT: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class DiffTree:
    """The union of two call trees, nodes in the order of CallTree: what vanished and what is new are in it as well.

    For node i: `before[i]` and `after[i]` are its totals in counts of either side, 0 where it is only on the other,
    `before_own` and `after_own` what it weighs without its children, `before_start` and `after_start` the totals of
    everything left of it. Those are int64; parent, level and frame are int32. `frames`, `binaries`, `other_lines` and
    `elided` are as in CallTree. before[0] and after[0] are the two profiles' totals. What prune_diff() folded away has
    a share of less than `lighter` of either. `per_sample` is StackTable's of both.
    """

    parent: NDArray[np.int32]
    level: NDArray[np.int32]
    frame: NDArray[np.int32]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    before_own: NDArray[np.int64]
    after_own: NDArray[np.int64]
    before_start: NDArray[np.int64]
    after_start: NDArray[np.int64]
    frames: list[Frame]
    binaries: list[str]
    other_lines: list[int]
    elided: int
    lighter: float = 0.0
    per_sample: tuple[int, int] = (1, 1)

    def __len__(self) -> int:
        return len(self.parent)


def build_diff(before: StackTable, after: StackTable) -> DiffTree:
    """Merge two tables, exactly. A function is the same in both if its name, kind and binary are.

    Raises ValueError if a count is negative, or both together are beyond 64 bits.
    """
    if sum(before.counts.tolist()) + sum(after.counts.tolist()) > _MAX_INT:
        raise ValueError("the counts of both profiles add up to more than 64 bits hold")
    tree = build_tree(joined(before, after))
    # A tree of the same frames numbers them alike, so each of its nodes is found by its parent and frame.
    old = build_tree(replace(joined(before, after), counts=_counts(before.counts, 0 * after.counts)))
    total = np.zeros(len(tree), np.int64)
    total[_places(old, tree)] = old.total
    merged = diff_tree(
        tree.parent,
        tree.level,
        tree.frame,
        total,
        tree.total - total,
        tree.frames,
        tree.binaries,
        tree.other_lines,
        tree.elided,
    )
    return replace(merged, per_sample=(before.per_sample, after.per_sample))


def joined(before: StackTable, after: StackTable) -> StackTable:
    """The stacks of both, first those of `before`."""
    return StackTable(
        before.frames + after.frames,
        before.binaries + after.binaries,
        np.concatenate((before.index, after.index + np.uint32(len(before.frames)))),
        np.concatenate((before.offsets, after.offsets[1:] + before.offsets[-1])),
        _counts(before.counts, after.counts),
    )


def _counts(before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((before, after)).astype(np.int64)


def _places(part: CallTree, whole: CallTree) -> NDArray[np.int64]:
    """Which node of `whole` each node of `part` is, which has no paths but those of `whole`, and its frame numbers."""
    keys = whole.parent[1:].astype(np.int64) * len(whole.frames) + whole.frame[1:]  # ascending
    places = np.zeros(len(part), np.int64)
    bounds = np.searchsorted(part.level, np.arange(int(part.level[-1]) + 2))
    for first, stop in zip(bounds[1:-1].tolist(), bounds[2:].tolist(), strict=True):
        wanted = places[part.parent[first:stop]] * len(whole.frames) + part.frame[first:stop]
        places[first:stop] = 1 + np.searchsorted(keys, wanted)
    return places


def diff_tree(
    parent: NDArray[Any],
    level: NDArray[Any],
    frame: NDArray[Any],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    frames: list[Frame],
    binaries: list[str],
    other_lines: list[int],
    elided: int,
    lighter: float = 0.0,
) -> DiffTree:
    """The tree of nodes in level order, with what follows from their totals."""
    before_own, before_start = weighed(parent, level, before)
    after_own, after_start = weighed(parent, level, after)
    return DiffTree(
        parent=parent.astype(np.int32),
        level=level.astype(np.int32),
        frame=frame.astype(np.int32),
        before=before,
        after=after,
        before_own=before_own,
        after_own=after_own,
        before_start=before_start,
        after_start=after_start,
        frames=frames,
        binaries=binaries,
        other_lines=other_lines,
        elided=elided,
        lighter=lighter,
    )


def prune_diff(tree: DiffTree, limit: int, whole: tuple[int, int] | None = None) -> DiffTree:
    """The tree with about `limit` nodes at most: those with the least share of either side are folded, exactly, into
    their parent's "(N frames below x %)" node, as calltree.prune does. One of no more than `limit` comes back as it is.
    Shares are of the root; or of `whole`, before and after, where the tree is a part of one, see with_children().
    """
    if len(tree) <= limit:
        return tree
    share = shares(tree, whole)
    # The heaviest limit + 1 nodes cannot all stay, so the lightest of them sets what is too light.
    lightest = np.partition(share, len(tree) - limit - 1)[len(tree) - limit - 1]
    keep = share > lightest
    folding = fold(tree.parent, tree.level, with_children(keep, tree.level) if whole else keep)
    least = share[folding.kept].min(initial=1.0)
    names, name = folding.names(100 * float(least))
    pruned = diff_tree(
        folding.parent,
        folding.level,
        folding.arranged(tree.frame, len(tree.frames) + name),
        folding.sums(tree.before),
        folding.sums(tree.after),
        tree.frames + names,
        tree.binaries + [""] * len(names),
        tree.other_lines + [0] * len(names),
        len(tree.frames),
        float(np.nextafter(lightest, np.inf)),
    )
    return replace(pruned, per_sample=tree.per_sample)


def shares(tree: DiffTree, whole: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """The share of each node before or after, whichever is larger; of `whole`, or of the root."""
    before, after = whole or (int(tree.before[0]), int(tree.after[0]))
    return np.maximum(tree.before / max(before, 1), tree.after / max(after, 1))


def significance(tree: DiffTree, *, absolute: bool = False) -> NDArray[np.float64]:
    """By how many standard errors each node grew; below 0, shrank. 0 where there are fewer than FEWEST samples.

    Shares are compared by the z-test for two proportions with the pooled estimate of the variance (Fleiss, Levin and
    Paik, Statistical Methods for Rates and Proportions, section 3.1); counts, where `absolute`, as two Poisson
    counts of equal exposure: (after - before) / sqrt(after + before) (Przyborowski and Wilenski, Biometrika 31, 1940).

    Where samples of lower rates count for several, all are taken to be such: a draw counts for `per_sample`, and what
    both sides have in common is estimated from all draws. That makes too little of those that were taken at the higher
    rates, and never too much.

    This is one test for each node, and no correction for their number: beyond SIGNIFICANT are one in a thousand
    of the nodes that did not change. Ticks that follow each other are no independent draws, either; so it tells
    what may be noise from what need not be, and not how sure to be of one node among many.
    """
    before, after = tree.before.astype(np.float64), tree.after.astype(np.float64)
    return z_scores(before, after, float(before[0]), float(after[0]), absolute=absolute, per_sample=tree.per_sample)


def z_scores(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    all_before: float,
    all_after: float,
    *,
    absolute: bool,
    per_sample: tuple[int, int] = (1, 1),
) -> NDArray[np.float64]:
    """The test of significance() for counts of anything, out of so many on either side, where a sample counts for
    `per_sample` at most on either."""
    old, new = per_sample
    drawn = before / old + after / new
    if absolute:
        difference, variance = after - before, old * new * drawn
    elif not all_before or not all_after:
        return np.zeros(len(before))  # there is nothing to compare with
    else:
        pooled = drawn / (all_after / new + all_before / old)
        difference = after / all_after - before / all_before
        variance = pooled * (1 - pooled) * (new / all_after + old / all_before)
    told = (drawn >= FEWEST) & (variance > 0)
    return np.divide(difference, np.sqrt(np.maximum(variance, 0)), out=np.zeros(len(before)), where=told)


def at_rate(table: StackTable, factor: int) -> StackTable:
    """The table at a rate that is `factor` times its own."""
    return replace(table, counts=table.counts * factor, per_sample=table.per_sample * factor)


def names_only(table: StackTable) -> StackTable:
    """The table without binaries and kinds, to be compared with one from a format that does not have them."""
    frames = [frame if frame.kind is Kind.UNKNOWN else replace(frame, kind=Kind.NATIVE) for frame in table.frames]
    return replace(table, frames=frames, binaries=[""] * len(frames))


def diff_to_json(tree: DiffTree, *, absolute: bool = False) -> dict[str, Any]:
    """The whole tree as columns, for json.dumps; as calltree.tree_to_json, but for the weights.

    Those are `before_own` and `after_own`, counts of either side without the children's, and `z`, significance() with
    two decimals. `significant` is the least |z| that is.
    """
    return {
        "children": np.bincount(tree.parent[1:], minlength=len(tree)).tolist(),
        "before_own": tree.before_own.tolist(),
        "after_own": tree.after_own.tolist(),
        "z": np.round(significance(tree, absolute=absolute), 2).tolist(),
        "significant": SIGNIFICANT,
        **frames_to_json(tree.frame, tree.frames, tree.binaries, tree.other_lines, tree.elided),
    }
