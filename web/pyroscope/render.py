"""GET /pyroscope/render and its like: flame graphs as JSON for Grafana and Pyroscope's own tools.

Source: https://grafana.com/docs/pyroscope/latest/reference-server-api/
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from web.flamegraph.calltree import build_tree, prune
from web.pyroscope import answers
from web.pyroscope.answers import DEFAULT_NODES, MAX_NODES, Chosen, Line
from web.pyroscope.dot import write_dot
from web.pyroscope.flamebearer import Flame
from web.pyroscope.selectors import parse_query, parse_selector
from web.pyroscope.times import parse_moment
from web.pyroscope.types import CPU_EVENT, ProfileType, profile_type
from web.store.queries import Queries
from web.store.store import BadQuery

_STEPS: Final = (10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_TIMELINE_POINTS: Final = 1500
_GROUPS: Final = 100
_DOT_NODES: Final = 2048  # beyond, a graph is not readable, and slow to lay out
_SECOND: Final = 1_000_000_000
_UNITS: Final = {
    "bytes": "bytes",
    "contentions": "lock_samples",
    "delay": "lock_nanoseconds",
    "goroutine": "goroutines",
    "goroutines": "goroutines",
    "exceptions": "exceptions",
}

router = APIRouter()
Text = str | None
_FROM: Final = "Start: s, ms, µs or ns since 1970, or now-1h (the default)"
_QUERY: Final = 'The profile type and labels: process_cpu:cpu:nanoseconds:cpu:nanoseconds{service_name="shop"}'


@router.get("/pyroscope/render", tags=["pyroscope"], response_class=JSONResponse)
def render(
    request: Request,
    query: Annotated[str, Query(description=_QUERY)] = "",
    from_: Annotated[Text, Query(alias="from", description=_FROM)] = None,
    until: Annotated[Text, Query(description="End, likewise; now by default")] = None,
    format: Annotated[str, Query(description="json or dot")] = "json",
    max_nodes: Annotated[
        Text, Query(alias="maxNodes", description=f"So many nodes at most; {DEFAULT_NODES} by default")
    ] = None,
    also_max_nodes: Annotated[Text, Query(alias="max-nodes", include_in_schema=False)] = None,
    group_by: Annotated[
        list[str] | None, Query(alias="groupBy", description="A label: its values' timelines are `groups`")
    ] = None,
    aggregation: Annotated[str, Query(description="sum")] = "sum",
) -> Response:
    """The flame graph of a selection, and its values over time; values of CPU time are nanoseconds."""
    queries: Queries = request.app.state.queries
    if format not in ("json", "dot"):
        raise BadQuery(f"no format {format[:40]!r}; there are json and dot")
    if aggregation not in ("sum", ""):
        raise BadQuery(f"no aggregation {aggregation[:40]!r} of profiles; there is sum")
    chosen = _chosen(queries, query, from_, until, "", time.time())
    nodes = _nodes(max_nodes or also_max_nodes)
    if format == "dot":
        table, hz = answers.table(queries, chosen)
        is_time = chosen.kind is not None and chosen.kind.is_time
        return Response(
            write_dot(prune(build_tree(table), min(nodes, _DOT_NODES)), hz, is_time), media_type="text/vnd.graphviz"
        )
    selection = chosen.selection
    step = next((s for s in _STEPS if (selection.until - selection.since) / s <= _TIMELINE_POINTS), _STEPS[-1])
    (whole,) = answers.lines(queries, chosen, step, (), 1) or [Line({}, {})]
    groups = {}
    labels = [label for text in group_by or [] for label in text.split(",") if label]
    if labels:
        groups = {
            ",".join(f"{name}={value}" for name, value in line.labels.items()): _timeline(line, chosen, step)
            for line in answers.lines(queries, chosen, step, labels, _GROUPS)
        }
    body = _flamebearer(answers.flame(queries, chosen, nodes), chosen.kind, "single")
    body["metadata"] |= {"query": query, "maxNodes": nodes, "startTime": selection.since, "endTime": selection.until}
    return JSONResponse({**body, "timeline": _timeline(whole, chosen, step), "groups": groups, "heatmap": None})


@router.get("/pyroscope/render-diff", tags=["pyroscope"], response_class=JSONResponse)
def render_diff(
    request: Request,
    left_query: Annotated[str, Query(alias="leftQuery", description=_QUERY)] = "",
    left_from: Annotated[Text, Query(alias="leftFrom", description=_FROM)] = None,
    left_until: Annotated[Text, Query(alias="leftUntil")] = None,
    right_query: Annotated[str, Query(alias="rightQuery", description=_QUERY)] = "",
    right_from: Annotated[Text, Query(alias="rightFrom", description=_FROM)] = None,
    right_until: Annotated[Text, Query(alias="rightUntil")] = None,
    max_nodes: Annotated[Text, Query(alias="maxNodes")] = None,
    also_max_nodes: Annotated[Text, Query(alias="max-nodes", include_in_schema=False)] = None,
) -> Response:
    """Two selections in one flame graph, each node with its values on the left and on the right."""
    queries: Queries = request.app.state.queries
    now = time.time()
    left = _chosen(queries, left_query, left_from, left_until, "left", now)
    right = _chosen(queries, right_query, right_from, right_until, "right", now)
    flame = answers.difference(queries, left, right, _nodes(max_nodes or also_max_nodes))
    body = _flamebearer(flame, left.kind or right.kind, "double")
    return JSONResponse(
        {**body, "timeline": None, "groups": None, "heatmap": None, "leftTicks": flame.left, "rightTicks": flame.right}
    )


@router.get("/pyroscope/label-values", tags=["pyroscope"])
def label_values(
    request: Request,
    label: Annotated[
        str, Query(description="The label; __name__ and __profile_type__ are those of profile types")
    ] = "",
    query: Annotated[Text, Query(description='Of profiles that match: {host="web-1"}')] = None,
    from_: Annotated[Text, Query(alias="from", description=_FROM)] = None,
    until: Annotated[Text, Query()] = None,
) -> list[str]:
    """The values of a label."""
    if not label:
        raise BadQuery("`label` is missing: it names the label whose values are asked for")
    queries: Queries = request.app.state.queries
    now = time.time()
    since, end = _range(from_, until, "", now)
    if label == "__name__" and not query:
        return [kind.id for kind in answers.profile_types(queries, since, end)]
    return answers.label_values(queries, label, parse_selector(query or ""), since, end)


@router.get("/pyroscope/labels", tags=["pyroscope"])
def labels(
    request: Request,
    query: Annotated[Text, Query(description='Of profiles that match: {host="web-1"}')] = None,
    from_: Annotated[Text, Query(alias="from", description=_FROM)] = None,
    until: Annotated[Text, Query()] = None,
) -> list[str]:
    """The names of labels."""
    since, end = _range(from_, until, "", time.time())
    return answers.label_names(request.app.state.queries, parse_selector(query or ""), since, end)


def _chosen(queries: Queries, query: str, since: Text, until: Text, side: str, now: float) -> Chosen:
    if not query:
        raise BadQuery(f"`{side}{'Query' if side else 'query'}` is missing: it names the profile type and labels")
    kind, terms = parse_query(query)
    return answers.choose(queries, kind, terms, *_range(since, until, side, now))


def _range(since: Text, until: Text, side: str, now: float) -> tuple[int, int]:
    """Whole seconds, rounded up: a window belongs to a range if it starts in it."""
    names = (f"{side}From", f"{side}Until") if side else ("from", "until")
    start = parse_moment(since or "now-1h", names[0], now)
    end = parse_moment(until or "now", names[1], now)
    return answers.whole_range(-(-start // _SECOND), -(-end // _SECOND))


def _nodes(text: Text) -> int:
    if not text or text == "0":
        return DEFAULT_NODES
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MAX_NODES):
        raise BadQuery(f"maxNodes must be a whole number from 1 to {MAX_NODES:,}, not {text[:40]!r}")
    return int(text[:10])


def _flamebearer(flame: Flame, kind: ProfileType | None, format: str) -> dict[str, Any]:
    of = kind or profile_type(CPU_EVENT)
    units = _UNITS.get(of.sample_type) or _UNITS.get(of.sample_unit) or ("samples" if of.is_time else "objects")
    return {
        "version": 1,
        "flamebearer": {
            "names": flame.names,
            "levels": flame.levels,
            "numTicks": flame.total,
            "maxSelf": flame.max_self,
        },
        "metadata": {
            "format": format,
            "spyName": "unknown",
            "sampleRate": _SECOND if of.is_time else 100,
            "units": units,
            "name": of.sample_type,
        },
    }


def _timeline(line: Line, chosen: Chosen, step: int) -> dict[str, Any]:
    start = chosen.selection.since // step * step
    places = range(start, max(chosen.selection.until, start + step), step)
    return {
        "startTime": start,
        "samples": [round(line.points.get(at, 0.0)) for at in places],
        "durationDelta": step,
        "watermarks": {},
    }
