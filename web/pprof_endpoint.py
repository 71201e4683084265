"""/debug/pprof/: what Go's tools expect of a program, of a host: `go tool pprof http://host:port` works.

A profile is a capture (captures.py) that the answer waits for. Source: net/http/pprof of Go, whose errors are text with
X-Go-Pprof: 1 and then shown by the tool, and cmd/pprof's fetcher, which waits for 1.5 times the seconds it asks for and
5 s more, 65 s where it does not say.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from profiler.capture_protocol import MOST_SECONDS
from profiler.formats.pprof import write_pprof
from web.assets import render
from web.captures import Captures, TooMany
from web.captures_api import start, wanted_of
from web.contexts import PprofPage
from web.ingest import Refused
from web.store import captures as stored
from web.store.captures import Capture, State
from web.store.store import Store

_DEFAULT_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.25
_NAME: Final = "go tool pprof"

router = APIRouter(include_in_schema=False)


def error(status: int, message: str) -> Response:
    """An error as Go's tool shows it."""
    return PlainTextResponse(message + "\n", status, {"x-go-pprof": "1", "x-content-type-options": "nosniff"})


@router.get("/debug/pprof")
async def index_without_slash() -> Response:
    return RedirectResponse("/debug/pprof/", 308)


@router.get("/debug/pprof/")
async def index(request: Request) -> Response:
    captures: Captures = request.app.state.captures
    page = PprofPage(str(request.base_url).rstrip("/"), sorted(captures.listening()))
    return HTMLResponse(render("pprof.html", page))


@router.get("/debug/pprof/profile")
async def profile(request: Request) -> Response:
    """A profile of the host from now on. `seconds` as Go's; `host`, `hz` and `pid` are ours."""
    captures: Captures = request.app.state.captures
    seconds = seconds_of(request.query_params.get("seconds", ""))
    # A name of no host is said to be none before anybody waits.
    document: dict[str, Any] = {"seconds": seconds, "host": request.query_params.get("host", ""), "name": _NAME}
    if seconds > MOST_SECONDS:
        return error(400, f"profile duration exceeds what is captured at a time, {MOST_SECONDS} s")
    if request.query_params.get("hz"):
        document["hz"] = request.query_params["hz"]
    if request.query_params.get("pid"):
        document["pid"] = request.query_params.getlist("pid")
    try:
        capture = (await start(captures, wanted_of(document)))[0]
    except Refused as refusal:
        return error(refusal.status, str(refusal))
    except TooMany as refusal:
        return error(429, str(refusal))
    ended = await _wait_for(request, captures, capture)
    if ended is None:
        return error(503, "the client has gone, or the server stops: the capture was cancelled")
    if ended.state is not State.DONE:
        silent = "its agent does not answer: is it running, and of this version?"
        return error(503, f"{ended.host[:60]}: {ended.problem or silent}")
    body = await asyncio.to_thread(_pprof, request.app.state.store, ended.id)
    headers = {"content-disposition": 'attachment; filename="profile"'}
    return Response(body, media_type="application/octet-stream", headers=headers)


def seconds_of(text: str) -> float:
    """As net/http/pprof reads it: what is no number above 0 is 30."""
    try:
        seconds = float(text)
    except ValueError:
        return _DEFAULT_SECONDS
    return seconds if seconds > 0 else _DEFAULT_SECONDS


async def _wait_for(request: Request, captures: Captures, capture: Capture) -> Capture | None:
    """The capture once it is over, or is not in time for Go's tool; None where nobody waits for it any more."""
    end = time.monotonic() + 1.5 * capture.seconds + 4.0
    try:
        while not captures.closed and not await request.is_disconnected():
            found = await captures.find(capture.id)
            if found is None or found.state.over:
                return found
            if time.monotonic() > end:
                await captures.cancel(capture.id)
                return found
            await captures.changed(_LOOK_SECONDS)
        await captures.cancel(capture.id)
    except asyncio.CancelledError:
        await asyncio.shield(captures.cancel(capture.id))
        raise
    return None


def _pprof(store: Store, id: str) -> bytes:
    found = stored.find_profile(store, id)
    assert found is not None, "a capture that is done has its profile"
    return write_pprof(found)
