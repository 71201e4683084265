"""/api/v1: the same questions as the pages ask, as JSON; and the server's health and metrics."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from web import metrics, urls
from web.exports import export
from web.store.queries import Queries
from web.store.selection import LABELS, Selection, as_mapping, parse, parse_time
from web.store.store import BadQuery

router = APIRouter()

Text = str | None


def _selection(
    request: Request,
    from_: Annotated[
        Text, Query(alias="from", description="Start: RFC 3339, s or ms since 1970, or now-1h (the default)")
    ] = None,
    until: Annotated[Text, Query(description="End, exclusive; now by default")] = None,
    host: Annotated[Text, Query(description="Short for q=host=…")] = None,
    event: Annotated[Text, Query(description="Short for q=event=…; by default the one with most samples")] = None,
    comm: Annotated[Text, Query(description="Short for q=comm=…: the name of the process or thread")] = None,
    q: Annotated[
        list[str] | None,
        Query(description=f"label=value, with =, !=, =~ or !~; labels: {', '.join(LABELS)}; may be repeated"),
    ] = None,
) -> Selection:
    # What the parameters are is declared above, for /openapi.json; what they mean, parse() says.
    return parse(request.query_params.multi_items())


Selected = Annotated[Selection, Depends(_selection)]


@router.get("/api/v1/hosts", tags=["query"])
def hosts(
    request: Request,
    from_: Annotated[Text, Query(alias="from", description="Sums begin here; now-1h by default")] = None,
) -> list[dict[str, Any]]:
    """Every host and event with when it was last seen, its load, losses, and what profiling it costs."""
    queries: Queries = request.app.state.queries
    now = time.time()
    return queries.hosts(parse_time(from_ or "now-1h", "from", now), now)


@router.get("/api/v1/labels", tags=["query"])
def labels(
    request: Request,
    selection: Selected,
    label: Annotated[Text, Query(description="The label whose values are asked for")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """The names of all labels, or the values of one with their samples, heaviest first."""
    if label is None:
        return {"labels": list(LABELS)}
    queries: Queries = request.app.state.queries
    return {**as_mapping(selection), "label": label, "values": queries.labels(selection, label, limit)}


@router.get("/api/v1/series", tags=["query"])
def series(
    request: Request,
    selection: Selected,
    by: Annotated[str, Query(description="host, event, service, container or process")] = "",
) -> dict[str, Any]:
    """CPUs busy by minute, as far as they were sampled. Where no event is chosen, all are added up."""
    queries: Queries = request.app.state.queries
    return {**as_mapping(selection), "points": queries.series(selection, by)}


@router.get("/api/v1/profile", tags=["query"], response_class=Response)
def profile(
    request: Request,
    selection: Selected,
    format: Annotated[str, Query(description=", ".join(urls.TWINS))] = "json",
) -> Response:
    """All samples of a selection as one profile."""
    if format not in urls.TWINS:
        raise BadQuery(f"no format {format[:40]!r}; there are {', '.join(urls.TWINS)}")
    return export(request.app.state.queries, selection, format)


@router.get("/healthz", tags=["server"], response_class=PlainTextResponse)
async def healthz() -> str:
    """The process answers."""
    return "ok\n"


@router.get("/readyz", tags=["server"], response_class=PlainTextResponse)
def readyz(request: Request) -> Response:
    """The store can be read and written to."""
    state = request.app.state
    if not state.writer.healthy:
        return PlainTextResponse("the last commit failed; it is tried again with the next push\n", 503)
    state.store.rows("SELECT 1")
    return PlainTextResponse("ok\n")


@router.get("/metrics", tags=["server"], response_class=PlainTextResponse)
def server_metrics(request: Request) -> Response:
    """The server's own figures for Prometheus."""
    state = request.app.state
    text = metrics.exposition(state.store, state.writer, state.rejected)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    return JSONResponse(request.app.openapi())
