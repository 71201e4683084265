"""/api/v1: profiles and hosts; and the server's health and metrics. What else can be asked is in questions.py."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from web import metrics, urls
from web.exports import export
from web.selected import GroupBy, Selected, Text
from web.store.queries import Queries
from web.store.selection import parse_group_by, parse_time
from web.store.store import BadQuery

router = APIRouter()


@router.get("/api/v1/hosts", tags=["query"])
def hosts(
    request: Request,
    from_: Annotated[Text, Query(alias="from", description="Sums begin here; now-1h by default")] = None,
) -> list[dict[str, Any]]:
    """Every host and event with when it was last seen, its load, losses, and what profiling it costs."""
    queries: Queries = request.app.state.queries
    now = time.time()
    return queries.hosts(parse_time(from_ or "now-1h", "from", now), now)


@router.get("/api/v1/profile", tags=["query"], response_class=Response)
def profile(
    request: Request,
    selection: Selected,
    format: Annotated[str, Query(description=", ".join(urls.TWINS))] = "json",
    group_by: Annotated[GroupBy, Query(alias="groupBy")] = "",
) -> Response:
    """All samples of a selection as one profile; grouped by labels as a picture only."""
    if format not in urls.TWINS:
        raise BadQuery(f"no format {format[:40]!r}; there are {', '.join(urls.TWINS)}")
    return export(request, selection, format, parse_group_by(group_by))


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
    text = metrics.exposition(state.store, state.writer, state.rejected, state.captures)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    return JSONResponse(request.app.openapi())
