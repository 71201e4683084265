"""What a picture folded away below one of its nodes: the viewer loads it when someone goes there."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from web.flamegraph.below import find_node, folded_below
from web.flamegraph.calltree import prune
from web.flamegraph.names import viewer_tree
from web.selected import Selected, as_json, conditional
from web.store.queries import Empty, Queries
from web.store.selection import parse_group_by

_MOST_NODES: Final = 20_000  # in one answer; what is lighter is folded away once more

router = APIRouter(include_in_schema=False)


@router.get("/flamegraph/below.json")
def below(
    request: Request,
    selection: Selected,
    below: Annotated[str, Query(max_length=100)],
    lighter: Annotated[int, Query(ge=1)],
    group_by: Annotated[str, Query(alias="groupBy", max_length=1000)] = "",
) -> Response:
    """The children of a node that weigh less than `lighter`, with all below them, as a tree with that node at its root.

    `below` is the node's key, see flamegraph/below.py.
    """
    queries: Queries = request.app.state.queries
    labels = parse_group_by(group_by)

    def answer() -> Response:
        tree, _ = queries.tree(queries.resolve(selection), labels)
        node = find_node(tree, below)
        if node is None:
            raise Empty("This range does not have the frame any more: reload the picture.")
        return as_json({"tree": viewer_tree(prune(folded_below(tree, node, lighter), _MOST_NODES))})

    return conditional(request, [selection], answer)
