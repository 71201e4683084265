"""How long history is kept, and what it takes: a page to see and change it, and the same for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Body, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from web import urls
from web.assets import render
from web.contexts import SettingsPage
from web.ingest import Refused, read_body
from web.store.retention import MAX_DAYS, BadRetention
from web.store.selection import rfc3339
from web.store.store import Store
from web.store.writer import Writer

_MAX_BODY: Final = 8192
_TELLS: Final = {
    "samples": "samples of each window",
    "windows": "the accounting of each window",
    "series_1m": "samples by minute",
    "stacks_1h": "stacks by hour",
    "functions_1h": "functions by hour",
    "stacks": "stacks by id",
    "frames": "frames by id",
    "functions": "functions by id",
    "names": "better names that came later",
    "label_sets": "labels",
    "annotations": "what happened when, such as deploys",
    "pushes": "what was acknowledged",
}

router = APIRouter()


@router.get("/settings", include_in_schema=False)
def settings_page(request: Request) -> Response:
    return HTMLResponse(render("settings.html", _page(request)))


@router.get("/settings.json", include_in_schema=False)
def settings_json(request: Request) -> Response:
    return JSONResponse(asdict(_page(request)))


@router.post("/settings", include_in_schema=False)
async def change_settings(request: Request) -> Response:
    """The page's form."""
    problem = ""
    try:
        form = parse_qs((await read_body(request, _MAX_BODY)).decode("utf-8", "replace"))
        await _change(request, {name: values[0] for name, values in form.items()})
    except Refused as refusal:
        status, problem = refusal.status, str(refusal)
    except BadRetention as error:
        status, problem = 400, str(error)
    if problem:
        page = await asyncio.to_thread(_page, request, problem)
        return HTMLResponse(render("settings.html", page), status)
    return RedirectResponse(urls.settings(), 303)


@router.get("/api/v1/retention", tags=["settings"])
def retention(request: Request) -> dict[str, Any]:
    """How many days samples and rollups are kept, and what the store's tables hold."""
    return asdict(_page(request))


@router.put("/api/v1/retention", tags=["settings"])
async def change_retention(
    request: Request,
    days: Annotated[
        dict[str, Any], Body(examples=[{"samples": 14, "rollups": 90}], description="Days, of either or both")
    ],
) -> dict[str, Any]:
    """Keep samples, or rollups, for another number of days from now on."""
    await _change(request, days)
    return await asyncio.to_thread(retention, request)


async def _change(request: Request, days: Mapping[str, Any]) -> None:
    writer: Writer = request.app.state.writer
    await asyncio.to_thread(writer.keep, days)


def _page(request: Request, problem: str = "") -> SettingsPage:
    store: Store = request.app.state.store
    writer: Writer = request.app.state.writer
    sizes = [size for size in store.sizes() if size.name in _TELLS]
    rows, oldest, newest = store.rows(
        "SELECT count(), toUnixTimestamp(min(ts)), toUnixTimestamp(max(ts)) FROM samples"
    ).rows[0]
    (rolled,) = store.rows("SELECT toUnixTimestamp(min(t)) FROM stacks_1h").rows[0]
    on_disk = {size.name: size for size in sizes}
    samples = on_disk.get("samples")
    return SettingsPage(
        samples=writer.retention.samples,
        rollups=writer.retention.rollups,
        most_days=MAX_DAYS,
        fixed=sorted(request.app.state.options.retention),
        oldest_sample=rfc3339(oldest) if rows else "",
        newest_sample=rfc3339(newest) if rows else "",
        oldest_hour=rfc3339(rolled) if "stacks_1h" in on_disk else "",
        bytes_a_sample=samples.bytes / samples.rows if samples and samples.rows else None,
        bytes=sum(size.bytes for size in sizes),
        tables=[{**asdict(size), "tells": _TELLS[size.name]} for size in sizes],
        problem=problem,
        twin="/settings.json",
    )
