"""/api/v1: questions about stacks and functions, as JSON: tree, diff, top, who runs a function, series, labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from web.comparison import difference, parse_comparison
from web.flamegraph.calltree import tree_to_json
from web.selected import (
    GroupBy,
    Selected,
    Text,
    ValuesAs,
    as_json,
    conditional,
    factor,
    overview_dict,
    scaled,
)
from web.store.lines import FunctionLines, FunctionName
from web.store.queries import Overview, Queries, Top
from web.store.selection import Selection, as_mapping, parse_group_by
from web.store.store import BadQuery
from web.store.top import FunctionFilter, parse_function

router = APIRouter(prefix="/api/v1", tags=["query"])

MaxNodes = Annotated[
    int,
    Query(
        alias="maxNodes",
        ge=1,
        le=300_000,
        description='Lighter nodes are folded, exactly, into "(N frames below x %)"',
    ),
]
Function = Annotated[
    str, Query(description="A part of the function's name in any case, or ~ and a regular expression (RE2)")
]
Limit = Annotated[int, Query(ge=1, le=10_000)]
Sort = Annotated[Literal["self", "total"], Query(description="What they are ordered by")]


def _one_function(
    function: Annotated[str, Query(description="The function's whole name", max_length=10_000)],
    kind: Annotated[Text, Query(description="Its kind; any by default", max_length=40)] = None,
    binary: Annotated[Text, Query(description="The path of its binary; any by default", max_length=4096)] = None,
) -> FunctionName:
    return FunctionName(function, kind, binary)


OneFunction = Annotated[FunctionName, Depends(_one_function)]


@router.get("/tree", response_class=Response)
def tree(
    request: Request,
    selection: Selected,
    max_nodes: MaxNodes = 10_000,
    group_by: Annotated[GroupBy, Query(alias="groupBy")] = "",
    values: ValuesAs = "samples",
) -> Response:
    """The call tree of a selection as columns, in level order: `children`, `own` and `frame` of each node.

    A node's total is its own and its children's; the root's is all samples of the selection.
    """
    queries: Queries = request.app.state.queries
    labels = parse_group_by(group_by)

    def answer() -> Response:
        resolved = queries.resolve(selection)
        merged, overview = queries.tree(resolved, labels, max_nodes)
        columns = tree_to_json(merged)
        by = factor(values, overview)
        if by is not None:
            columns["own"] = (merged.own * by).tolist()
        return as_json({**as_mapping(resolved), **overview_dict(overview), "values": values, "tree": columns})

    return conditional(request, [selection], answer)


@router.get("/diff", response_class=Response)
def diff(
    request: Request,
    selection: Selected,
    base_from: Annotated[
        Text,
        Query(
            alias="baseFrom",
            description="Start of what is compared with, a time or from-1h, until-1d; by default just as long",
        ),
    ] = None,
    base_until: Annotated[Text, Query(alias="baseUntil", description="Its end; `from` by default")] = None,
    base_q: Annotated[
        list[str] | None,
        Query(alias="baseQ", description="Its selectors; those of the other side where there are none"),
    ] = None,
    absolute: Annotated[bool, Query(description="Compare counts; shares of all samples by default")] = False,
    max_nodes: MaxNodes = 10_000,
) -> Response:
    """Two selections in one call tree: `before` is the base, `after` what the other parameters choose.

    Each node has its own counts of both, and `z`: by how many standard errors it grew. `functions` are those that
    changed most, by `self` and by `total`, with a `z` of either.
    """
    # What the parameters are is declared above, for /openapi.json; what they mean, parse_comparison() says.
    queries: Queries = request.app.state.queries
    comparison = parse_comparison(request.query_params.multi_items())
    return conditional(
        request, [comparison.before, comparison.after], lambda: as_json(difference(queries, comparison, max_nodes))
    )


@router.get("/top", response_class=Response)
def top(
    request: Request,
    selection: Selected,
    sort: Sort = "self",
    limit: Limit = 50,
    function: Function = "",
    values: ValuesAs = "samples",
) -> Response:
    """The functions that weigh most: `self` where they are the leaf, `total` where they are anywhere on the stack.

    A sample counts once for a function, however often that is on its stack. `functions` is how many there are.
    """
    queries: Queries = request.app.state.queries
    wanted = parse_function(function) if function else None

    def answer() -> Response:
        resolved = queries.resolve(selection)
        found = queries.top(resolved, sort=sort, limit=limit, wanted=wanted)
        return as_json({**as_mapping(resolved), **top_dict(found, values)})

    return conditional(request, [selection], answer)


def top_dict(found: Top, values: ValuesAs) -> dict[str, Any]:
    """Functions as JSON, with the windows that they are of."""
    return {
        **overview_dict(found.overview),
        "values": values,
        "functions": found.functions,
        "top": scaled(found.rows, factor(values, found.overview), ("self", "total")),
    }


@router.get("/lines", response_class=Response)
def lines(
    request: Request,
    selection: Selected,
    wanted: OneFunction,
    limit: Limit = 1000,
    values: ValuesAs = "samples",
) -> Response:
    """One function by line of its source: `self` where a line of it is the leaf, `total` where it is anywhere.

    A sample counts once for a line; where the function is on the stack more than once, it may count for several. A
    line 0 stands for what has none. `lines` is how many there are.
    """
    queries: Queries = request.app.state.queries

    def answer() -> Response:
        resolved = queries.resolve(selection)
        found, overview = queries.lines(resolved, wanted)
        return as_json({**as_mapping(resolved), **lines_dict(wanted, found, overview, values, limit)})

    return conditional(request, [selection], answer)


def lines_dict(
    wanted: FunctionName, found: FunctionLines, overview: Overview, values: ValuesAs, limit: int
) -> dict[str, Any]:
    """A function by line as JSON, with the windows that it is of."""
    by = factor(values, overview)
    (whole,) = scaled([{"self": found.own, "total": found.total}], by, ("self", "total"))
    return {
        **overview_dict(overview),
        "values": values,
        "function": wanted.name,
        **whole,
        "lines": len(found.rows),
        "by_line": scaled(found.rows[:limit], by, ("self", "total")),
    }


@router.get("/functions/who", response_class=Response)
def who(
    request: Request,
    selection: Selected,
    function: Function,
    by: Annotated[str, Query(description="label[,label]", max_length=1000)] = "host,service,process",
    step: Annotated[int, Query(description="By steps of so many seconds; 0: all of the range")] = 0,
    limit: Limit = 1000,
    values: ValuesAs = "samples",
) -> Response:
    """Who runs a function: every value of the labels `by` with the samples that have it on their stack (`total`) or at
    the leaf (`self`), heaviest first, and the names that match."""
    queries: Queries = request.app.state.queries
    wanted, labels = parse_function(function), parse_group_by(by)

    def answer() -> Response:
        resolved = queries.resolve(selection)
        return as_json(
            {
                **as_mapping(resolved),
                **_who(queries, resolved, wanted, labels, step, limit, values),
            }
        )

    return conditional(request, [selection], answer)


def _who(
    queries: Queries,
    selection: Selection,
    wanted: FunctionFilter,
    labels: tuple[str, ...],
    step: int,
    limit: int,
    values: ValuesAs,
) -> dict[str, Any]:
    overview, names, rows = queries.who(selection, wanted, labels, step=step, limit=limit)
    return {
        **overview_dict(overview),
        "values": values,
        "functions": names[:1000],
        "matches": len(names),
        "who": scaled(rows, factor(values, overview), ("self", "total")),
    }


@router.get("/series", response_class=Response)
def series(
    request: Request,
    selection: Selected,
    by: Annotated[str, Query(description="label[,label]", max_length=1000)] = "",
    step: Annotated[int, Query(description="Seconds, a multiple of 10; below 60 only while samples are kept")] = 60,
    function: Function = "",
    values: ValuesAs = "samples",
) -> Response:
    """CPUs busy by step, as far as they were sampled. Where no event is chosen, all are added up.

    With `function`, of the samples that have it on their stack. `value` is what `values` asks for: shares are of all
    points of the same step.
    """
    queries: Queries = request.app.state.queries
    labels = parse_group_by(by)
    wanted = parse_function(function) if function else None

    def answer() -> Response:
        if wanted is None:
            chosen, points = selection, queries.series(selection, labels, step)
            hz = 0.0
        else:
            chosen = queries.resolve(selection)
            overview, _, rows = queries.who(chosen, wanted, labels, step=step, limit=100_000)
            hz = float(overview.hz)
            points = [
                {
                    **{name: value for name, value in row.items() if name not in ("self", "total")},
                    "samples": row["total"],
                    "self": row["self"],
                    "busy": row["total"] / hz / step,
                }
                for row in rows
            ]
        return as_json(
            {**as_mapping(chosen), "values": values, "points": _valued(queries, chosen, points, step, values)}
        )

    return conditional(request, [selection], answer)


def _valued(
    queries: Queries, selection: Selection, points: list[dict[str, Any]], step: int, values: ValuesAs
) -> list[dict[str, Any]]:
    """Points with their `value`, unless that is their samples."""
    if values == "samples":
        return points
    if values == "cpu-seconds":
        return [{**point, "value": point["busy"] * step} for point in points]
    whole: dict[int, float] = {}
    if values == "relative":
        for point in points:
            whole[point["at"]] = whole.get(point["at"], 0.0) + point["busy"] * step
    else:
        whole = queries.online(selection, step)
        if not any(whole.values()):
            raise BadQuery("nobody says how many CPUs were online in this range: choose values=cpu-seconds")
    return [
        {**point, "value": point["busy"] * step / whole[point["at"]] if whole.get(point["at"]) else None}
        for point in points
    ]


@router.get("/labels", response_class=Response)
def labels(
    request: Request,
    selection: Selected,
    label: Annotated[Text, Query(description="The label whose values are asked for", max_length=1000)] = None,
    limit: Limit = 1000,
) -> Response:
    """The names of all labels, or the values of one with their samples, heaviest first."""
    queries: Queries = request.app.state.queries
    if label is None:
        return as_json({"labels": queries.label_names()})
    return conditional(
        request,
        [selection],
        lambda: as_json({**as_mapping(selection), "label": label, "values": queries.labels(selection, label, limit)}),
    )
