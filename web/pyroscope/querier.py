"""querier.v1.QuerierService, Pyroscope's query service: what Grafana's data source and its Profiles Drilldown call.

Connect, in protobuf or JSON; times are milliseconds. Source:
https://github.com/grafana/pyroscope/blob/main/api/querier/v1/querier.proto
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from profiler.formats.pprof import Message as PprofMessage
from profiler.formats.pprof import write_pprof
from web.ingest import Refused
from web.pyroscope import answers
from web.pyroscope.answers import DEFAULT_NODES, MAX_NODES, Chosen
from web.pyroscope.connect import JSON, OPENAPI, answer, media_type, parse_message, read_message
from web.pyroscope.flamebearer import Flame
from web.pyroscope.messages import MESSAGES
from web.pyroscope.selectors import Term, parse_selector
from web.pyroscope.types import parse_profile_type
from web.store.queries import Queries
from web.store.selection import LAST_S
from web.store.store import BadQuery

MAX_REQUEST: Final = 1 << 18  # bytes
_SERVICE: Final = "/querier.v1.QuerierService"
_DEFAULT_SECONDS: Final = 3600
_FLAMEGRAPH: Final = (0, 1)  # of ProfileFormat: unspecified, flame graph
_SUM: Final = 0
_MAX_PATH: Final = 4096

router = APIRouter()

Work = Callable[[Queries, Any], Any]


def _profile_types(queries: Queries, asked: Any) -> Any:
    found = MESSAGES["ProfileTypesResponse"]()
    for kind in answers.profile_types(queries, *_range(asked)):
        found.profile_types.add(
            ID=kind.id,
            name=kind.name,
            sample_type=kind.sample_type,
            sample_unit=kind.sample_unit,
            period_type=kind.period_type,
            period_unit=kind.period_unit,
        )
    return found


def _label_names(queries: Queries, asked: Any) -> Any:
    names = answers.label_names(queries, _terms(asked.matchers), *_range(asked))
    return MESSAGES["LabelNamesResponse"](names=names)


def _label_values(queries: Queries, asked: Any) -> Any:
    if not asked.name:
        raise BadQuery("`name` is missing: it names the label whose values are asked for")
    values = answers.label_values(queries, asked.name, _terms(asked.matchers), *_range(asked))
    return MESSAGES["LabelValuesResponse"](names=values)


def _series(queries: Queries, asked: Any) -> Any:
    found = MESSAGES["SeriesResponse"]()
    for labels in answers.label_sets(queries, _terms(asked.matchers), list(asked.label_names), *_range(asked)):
        added = found.labels_set.add()
        for name, value in labels.items():
            added.labels.add(name=name, value=value)
    return found


def _merge_stacktraces(queries: Queries, asked: Any) -> Any:
    if asked.format not in _FLAMEGRAPH:
        raise Refused(400, 3, "query", "profiles are answered as flame graphs here: leave `format` out")
    chosen = _chosen(queries, asked)
    path = [location.name for location in asked.stack_trace_selector.call_site[:_MAX_PATH]]
    flame = answers.flame(queries, chosen, _nodes(asked), path)
    return MESSAGES["SelectMergeStacktracesResponse"](flamegraph=_flame_graph("FlameGraph", flame))


def _merge_profile(queries: Queries, asked: Any) -> Any:
    if asked.stack_trace_selector.call_site:
        raise Refused(400, 3, "query", "a whole profile cannot be narrowed to a call site here: leave it out")
    profile = answers.profile(queries, _chosen(queries, asked))
    return PprofMessage() if profile is None else PprofMessage.FromString(gzip.decompress(write_pprof(profile)))


def _select_series(queries: Queries, asked: Any) -> Any:
    if asked.stack_trace_selector.call_site:
        raise Refused(400, 3, "query", "series cannot be narrowed to a call site here: leave it out")
    if asked.aggregation != _SUM:
        raise Refused(400, 3, "query", "series are sums here: leave `aggregation` out")
    if not 0 <= asked.step <= LAST_S:
        raise BadQuery("`step` must be a number of seconds above 0")
    if not 0 <= asked.limit <= MAX_NODES:
        raise BadQuery(f"`limit` must be from 0, for all, to {MAX_NODES:,}")
    chosen = _chosen(queries, asked)
    step = max(1, round(asked.step))
    lines = answers.lines(queries, chosen, step, list(asked.group_by), asked.limit or answers.MAX_SERIES)
    found = MESSAGES["SelectSeriesResponse"]()
    for line in lines:
        added = found.series.add()
        for name, text in line.labels.items():
            if text:
                added.labels.add(name=name, value=text)
        for at, value in sorted(line.points.items()):
            added.points.add(value=value, timestamp=at * 1000)
    return found


def _diff(queries: Queries, asked: Any) -> Any:
    left, right = _chosen(queries, asked.left), _chosen(queries, asked.right)
    flame = answers.difference(queries, left, right, max(_nodes(asked.left), _nodes(asked.right)))
    graph = _flame_graph("FlameGraphDiff", flame)
    graph.leftTicks, graph.rightTicks = flame.left, flame.right
    return MESSAGES["DiffResponse"](flamegraph=graph)


def _profile_stats(queries: Queries, asked: Any) -> Any:
    stored = answers.stored(queries)
    if stored is None:
        return MESSAGES["GetProfileStatsResponse"]()
    return MESSAGES["GetProfileStatsResponse"](
        data_ingested=True, oldest_profile_time=stored[0] * 1000, newest_profile_time=stored[1] * 1000
    )


_METHODS: Final[dict[str, Work]] = {
    "ProfileTypes": _profile_types,
    "LabelNames": _label_names,
    "LabelValues": _label_values,
    "Series": _series,
    "SelectMergeStacktraces": _merge_stacktraces,
    "SelectMergeProfile": _merge_profile,
    "SelectSeries": _select_series,
    "Diff": _diff,
    "GetProfileStats": _profile_stats,
}


def _add(method: str, work: Work) -> None:
    async def call(request: Request) -> Response:
        return await answer(request, lambda: _asked(request, method, work))

    router.add_api_route(
        f"{_SERVICE}/{method}",
        call,
        methods=["POST"],
        tags=["pyroscope"],
        response_class=Response,
        openapi_extra=OPENAPI,
        summary=method,
        description=f"{method} of querier.v1.QuerierService (connect: protobuf or JSON).",
        operation_id=method,
    )


for _method, _work in _METHODS.items():
    _add(_method, _work)


@router.post(f"{_SERVICE}/{{method}}", include_in_schema=False)
async def other(request: Request, method: str) -> Response:
    async def refuse() -> Any:
        raise Refused(404, 12, "query", f"there is no {method[:60]!r} here; there are {', '.join(_METHODS)}")

    return await answer(request, refuse)


async def _asked(request: Request, method: str, work: Work) -> Any:
    body = await read_message(request, MAX_REQUEST)
    encoding, is_json = request.headers.get("content-encoding", ""), media_type(request) == JSON
    asked, _ = parse_message(f"{method}Request", body, encoding, is_json, MAX_REQUEST)
    return await asyncio.to_thread(work, request.app.state.queries, asked)


def _chosen(queries: Queries, asked: Any) -> Chosen:
    kind = parse_profile_type(asked.profile_typeID)
    return answers.choose(queries, kind, parse_selector(asked.label_selector), *_range(asked))


def _terms(matchers: Iterable[str]) -> list[Term]:
    """The terms of all selectors, each of which Grafana writes as one text."""
    return [term for text in matchers for term in parse_selector(text)]


def _range(asked: Any) -> tuple[int, int]:
    """Whole seconds, rounded up; the last hour where none is given. Raises BadQuery."""
    end = asked.end or int(time.time() * 1000) + 1
    start = asked.start or end - _DEFAULT_SECONDS * 1000
    if not (0 <= start <= LAST_S * 1000 and 0 <= end <= LAST_S * 1000):
        raise BadQuery("`start` and `end` must be milliseconds since 1970")
    return answers.whole_range(-(-start // 1000), -(-end // 1000))


def _nodes(asked: Any) -> int:
    if not 0 <= asked.max_nodes <= MAX_NODES:
        raise BadQuery(f"`max_nodes` must be from 1 to {MAX_NODES:,}")
    return asked.max_nodes or DEFAULT_NODES


def _flame_graph(message: str, flame: Flame) -> Any:
    graph = MESSAGES[message](names=flame.names, total=flame.total, max_self=flame.max_self)
    for values in flame.levels:
        graph.levels.add(values=values)
    return graph
