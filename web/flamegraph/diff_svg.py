"""Two profiles as one interactive SVG: as wide as after, before, or both, coloured by what changed.

Red grew and blue shrank, the deeper the more, and only where that is significant (diff.significance). What was before
and is no more has no width after; the viewer shows it when told to ("Vanished"), or from the start where the width is
the union of both.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from web.flamegraph import layout
from web.flamegraph.calltree import CallTree, weighed
from web.flamegraph.diff import FEWEST, SIGNIFICANT, DiffTree, prune_diff, significance
from web.flamegraph.names import viewer_tree, visible
from web.flamegraph.svg import MOST_NODES, Caption, Look, document

WIDTHS: Final = ("after", "before", "union")


def write_diff_svg(
    tree: DiffTree,
    caption: Caption,
    *,
    absolute: bool = False,
    width: str = "after",
    script_href: str | None = None,
) -> bytes:
    """The SVG in UTF-8, as svg.write_svg; shares are compared, or counts where `absolute`.

    Frames are as wide as `width` says, one of WIDTHS.
    """
    tree = prune_diff(tree, MOST_NODES)
    change = changes(tree, absolute=absolute)
    data: dict[str, Any] = {
        "beforeOwn": tree.before_own.tolist(),
        "absolute": absolute,
        "width": width,
        "significant": SIGNIFICANT,
        "fewest": FEWEST,
        "perSample": tree.per_sample,
        "steps": layout.STEPS,
        "grew": layout.GREW,
        "shrank": layout.SHRANK,
        "unchanged": layout.UNCHANGED,
    }
    unit = ("weighed " if max(tree.per_sample) > 1 else "") + caption.unit
    look = Look(
        lambda node: _colour(int(change[node])),
        lambda node: _weight(tree, node, bool(change[node]), unit, absolute=absolute),
        [
            (layout.GREW[2], "grew"),
            (layout.SHRANK[2], "shrank"),
            (layout.UNCHANGED, "no significant change"),
        ],
        {"own": tree.after_own.tolist(), "diff": data, "lighter": tree.lighter},
    )
    return document(as_wide_as(tree, width, absolute=absolute), caption, look, script_href=script_href)


def viewer_diff(tree: DiffTree) -> dict[str, Any]:
    """A tree of two profiles as static/flamegraph/below.js reads it: names.viewer_tree, with what was before beside."""
    return viewer_tree(as_wide_as(tree, "after")) | {"beforeOwn": tree.before_own.tolist(), "lighter": tree.lighter}


def as_wide_as(tree: DiffTree, width: str, *, absolute: bool = False) -> CallTree:
    """The tree with the totals that its frames are as wide as, for one of WIDTHS."""
    if width == "before":
        total, own, start = tree.before, tree.before_own, tree.before_start
    elif width == "union":
        total = _union(tree, absolute=absolute)
        own, start = weighed(tree.parent, tree.level, total)
    else:
        total, own, start = tree.after, tree.after_own, tree.after_start
    return CallTree(
        tree.parent,
        tree.level,
        tree.frame,
        total,
        own,
        start,
        tree.frames,
        tree.binaries,
        tree.other_lines,
        tree.elided,
    )


def _union(tree: DiffTree, *, absolute: bool) -> NDArray[np.int64]:
    """Totals of what there is after and, beside it, of what vanished, whose shares of before stay shares.

    In parts of a count: how many, is the same for all.
    """
    before, after = int(tree.before[0]), int(tree.after[0])
    weight = after / before if not absolute and before and after else 1.0
    parts = max(1, (1 << 52) // (after + round(weight * before) + 1))
    total = np.where(tree.after == 0, np.round(tree.before_own * (weight * parts)), 0).astype(np.int64)
    bounds = np.searchsorted(tree.level, np.arange(int(tree.level[-1]) + 2)).tolist()
    for first, stop in zip(bounds[-2:0:-1], bounds[:1:-1], strict=True):  # deepest level first
        np.add.at(total, tree.parent[first:stop], total[first:stop])
    return total + parts * tree.after


def changes(tree: DiffTree, *, absolute: bool = False) -> NDArray[np.int64]:
    """How each node changed: 0 not significantly, from 1 (a little) to 4 (more than doubled) grew, below 0 shrank.

    The shades are of the change against the larger side, see layout.STEPS.
    """
    before, after = tree.before.astype(np.float64), tree.after.astype(np.float64)
    if not absolute:
        before, after = before / max(before[0], 1), after / max(after[0], 1)
    largest = np.maximum(before, after)
    relative = np.divide(np.abs(after - before), largest, out=np.zeros(len(tree)), where=largest > 0)
    step = 1 + np.searchsorted(layout.STEPS, relative, side="right")
    z = significance(tree, absolute=absolute)
    return np.where(np.abs(z) >= SIGNIFICANT, np.sign(z) * step, 0).astype(np.int64)


def _colour(change: int) -> str:
    if not change:
        return layout.UNCHANGED
    return layout.GREW[change - 1] if change > 0 else layout.SHRANK[-change - 1]


def _weight(tree: DiffTree, node: int, significant: bool, unit: str, *, absolute: bool) -> str:
    before, after = int(tree.before[node]), int(tree.after[node])
    told = "" if significant or node == 0 else ", no significant change"
    if absolute:
        share = f", {_signed(after - before, f'{100 * abs(after - before) / before:.1f}')} %" if before else ""
        difference = _signed(after - before, f"{abs(after - before):,}")
        return f"before {before:,}, after {after:,} {visible(unit)}, {difference}{share}{told}"
    old = 100 * before / max(int(tree.before[0]), 1)
    new = 100 * after / max(int(tree.after[0]), 1)
    return (
        f"before {old:.2f} %, after {new:.2f} %, {_signed(new - old, f'{abs(new - old):.2f}')} points; "
        f"{before:,} and {after:,} {visible(unit)}{told}"
    )


def _signed(number: float, text: str) -> str:
    return ("\u2212" if number < 0 else "+") + text
