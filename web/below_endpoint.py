"""What a picture folded away below one of its nodes: the viewer loads it when someone goes there.

Each picture names the address that has it (Caption.source), which is asked with `below`, the node's key, and `lighter`,
what children of the node that were folded away weigh less than: see flamegraph/below.py. The answer is a tree with that
node at its root.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from profiler.model import stack_table
from web.captured import profile_of
from web.comparison import compare, parse_comparison
from web.flamegraph.below import find_node, folded_below, folded_below_in_diff
from web.flamegraph.calltree import CallTree, build_tree, prune
from web.flamegraph.diff import build_diff, prune_diff
from web.flamegraph.diff_svg import as_wide_as, viewer_diff
from web.flamegraph.names import viewer_tree
from web.pages import FLAMEGRAPH_SINCE
from web.selected import Selected, as_json, conditional
from web.store.queries import Empty, Queries
from web.store.selection import check_groups, parse_group_by

_MOST_NODES: Final = 20_000  # in one answer; what is lighter is folded away once more

Below = Annotated[str, Query(max_length=100)]
Lighter = Annotated[int, Query(ge=1)]
LighterShare = Annotated[float, Query(gt=0, allow_inf_nan=False)]
GroupBy = Annotated[str, Query(alias="groupBy", max_length=1000)]

router = APIRouter(include_in_schema=False)


@router.get("/flamegraph/below.json")
def below(request: Request, selection: Selected, below: Below, lighter: Lighter, group_by: GroupBy = "") -> Response:
    """Of a picture of the history."""
    queries: Queries = request.app.state.queries
    labels = parse_group_by(group_by)

    def answer() -> Response:
        tree, _ = queries.tree(queries.resolve(selection), labels)
        return _loaded(tree, below, lighter)

    return conditional(request, [selection], answer)


@router.get("/captures/{id}/below.json")
def below_in_capture(request: Request, id: str, below: Below, lighter: Lighter, group_by: GroupBy = "") -> Response:
    """Of a capture's picture."""
    labels = parse_group_by(group_by)
    profile = profile_of(request, id)
    check_groups(profile, labels)
    return _loaded(build_tree(stack_table(profile, labels)), below, lighter)


@router.get("/diff/below.json")
def below_in_diff(request: Request, below: Below, lighter: LighterShare) -> Response:
    """Of the picture of a comparison; `lighter` is a share of either side."""
    queries: Queries = request.app.state.queries
    comparison = parse_comparison(request.query_params.multi_items(), default_since=FLAMEGRAPH_SINCE)

    def answer() -> Response:
        before, after = compare(queries, comparison)
        tree = build_diff(before.table, after.table)
        node = _node(as_wide_as(tree, "after"), below)
        whole = int(tree.before[0]), int(tree.after[0])
        return as_json({"tree": viewer_diff(prune_diff(folded_below_in_diff(tree, node, lighter), _MOST_NODES, whole))})

    return conditional(request, [comparison.before, comparison.after], answer)


def _loaded(tree: CallTree, key: str, lighter: int) -> Response:
    """What was folded away of a tree that has everything."""
    part = folded_below(tree, _node(tree, key), lighter)
    return as_json({"tree": viewer_tree(prune(part, _MOST_NODES, int(tree.total[0])))})


def _node(tree: CallTree, key: str) -> int:
    """The node of a key. Raises Empty."""
    node = find_node(tree, key)
    if node is None:
        raise Empty("This frame is not there any more: reload the picture.")
    return node
