"""POST /ingest: profiles from Pyroscope's agents of either generation, and from whatever can make folded stacks.

What is sent is said by the query string, see `receive`; an answer of 200 comes after the commit. Sources:
https://grafana.com/docs/pyroscope/latest/reference-server-api/ and
https://github.com/grafana/pyroscope/blob/main/pkg/ingester/pyroscope/ingest_handler.go
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from profiler.formats.otlp_read import MAX_BODY
from profiler.model import MAX_HZ, Profile, Window
from web.ingest import RETRY_SECONDS, Refused, closed, committed, decompress, read_body, unusable
from web.pyroscope.application import BadName, measured, parse_application
from web.pyroscope.bodies import DEFAULT_SECONDS, Asked, checked_window, read
from web.pyroscope.profiles import Source, kind_of
from web.pyroscope.times import parse_moment
from web.store.retention import Retention
from web.store.store import BadQuery
from web.store.writer import Push

FORMATS: Final = ("folded", "groups", "lines", "trie", "tree", "pprof", "speedscope")
_SECOND: Final = 1_000_000_000
_BY_CONTENT_TYPE: Final = {"binary/octet-stream+trie": "trie", "binary/octet-stream+tree": "tree"}
# What `units` says of a profile of one value, where the application's name does not.
_UNITS: Final = {
    "": None,
    "samples": None,
    "objects": ("memory", "objects", "count"),
    "bytes": ("memory", "space", "bytes"),
    "goroutines": ("goroutine", "goroutines", "count"),
    "lock_samples": ("mutex", "contentions", "count"),
    "lock_nanoseconds": ("mutex", "delay", "nanoseconds"),
    "exceptions": ("exceptions", "exceptions", "count"),
}

router = APIRouter()
Text = str | None


@router.post("/ingest", tags=["ingest"], response_class=Response)
@router.post("/pyroscope/ingest", include_in_schema=False, response_class=Response)
async def receive(
    request: Request,
    name: Annotated[Text, Query(description="The application and its labels: app.cpu{region=eu}")] = None,
    from_: Annotated[
        Text, Query(alias="from", description="Start: s, ms, µs or ns since 1970; 10 s before `until` by default")
    ] = None,
    until: Annotated[Text, Query(description="End, likewise; now by default")] = None,
    sampleRate: Annotated[Text, Query(description="Samples a second; 100 by default")] = None,
    spyName: Annotated[Text, Query(description="The profiler")] = None,
    units: Annotated[Text, Query(description=", ".join(filter(None, _UNITS)))] = None,
    aggregationType: Annotated[Text, Query(description="sum or average; values are kept as they are")] = None,
    format: Annotated[Text, Query(description=f"{', '.join(FORMATS)}; folded by default")] = None,
) -> Response:
    """Store a profile in one of Pyroscope's formats: the body itself, or a form with `profile` (pprof)."""
    rejected: Counter[str] = request.app.state.rejected
    try:
        problems = await _receive(request)
    except Refused as refusal:
        rejected[refusal.reason] += 1
        headers = {"retry-after": str(RETRY_SECONDS)} if refusal.status in (429, 503) else None
        return JSONResponse({"error": str(refusal)}, refusal.status, headers)
    return PlainTextResponse("".join(f"{problem}\n" for problem in problems))


async def _receive(request: Request) -> list[str]:
    now = time.time()
    try:
        asked = _asked(request, now)
    except (BadName, BadQuery) as error:
        raise Refused(400, 3, "malformed", str(error)) from error
    body = await read_body(request, MAX_BODY)
    async with request.app.state.parsing:
        profiles, digest, problems = await asyncio.to_thread(_parse, request, asked, body, now)
    if profiles:
        await committed(request, Push(profiles, digest))
    return problems


def _asked(request: Request, now: float) -> Asked:
    """Raises BadName, BadQuery and Refused."""
    query = request.query_params
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    format = query.get("format", "").lower()
    if not format:
        format = "pprof" if media_type == "multipart/form-data" else _BY_CONTENT_TYPE.get(media_type, "folded")
    if format == "jfr":
        raise Refused(
            422, 3, "format", "JFR recordings are not read here: convert them to pprof, and send format=pprof"
        )
    if format not in FORMATS:
        raise BadQuery(f"no format {format[:40]!r}; there are {', '.join(FORMATS)}")
    whole, labels = parse_application(query.get("name", ""))
    application, named = measured(whole)
    units = query.get("units", "").lower()
    if units not in _UNITS:
        raise BadQuery(f"no units {units[:40]!r}; there are {', '.join(filter(None, _UNITS))}")
    aggregation = query.get("aggregationType", "").lower()
    if aggregation not in ("", "sum", "average", "avg"):
        raise BadQuery(f"no aggregationType {aggregation[:40]!r}; there are sum and average")
    window = _window(query.get("from", ""), query.get("until", ""), now)
    return Asked(
        Source(
            application,
            labels,
            request.client.host if request.client else "unknown",
            window or Window(int((now - DEFAULT_SECONDS) * 1e6) * 1000, int(now * 1e6) * 1000),
        ),
        named or _UNITS[units],
        window,
        _rate(query.get("sampleRate", "")),
        kind_of(query.get("spyName", "").lower()),
        format,
    )


def _rate(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MAX_HZ):
        raise BadQuery(f"sampleRate must be a whole number from 1 to {MAX_HZ:,}, not {text[:40]!r}")
    return int(text[:10])


def _window(since: str, until: str, now: float) -> Window | None:
    """Raises BadQuery."""
    if not since and not until:
        return None
    end = parse_moment(until, "until", now) if until else int(now * 1e6) * 1000
    start = parse_moment(since, "from", now) if since else end - DEFAULT_SECONDS * _SECOND
    return checked_window(start, end, now)


def _parse(request: Request, asked: Asked, body: bytes, now: float) -> tuple[tuple[Profile, ...], str, list[str]]:
    content = decompress(body, request.headers.get("content-encoding", "").strip().lower(), MAX_BODY)
    # Without times, equal bodies are not the same profile, only of one shape.
    moment = "" if asked.window or asked.format == "pprof" else str(now)
    digest = sha256(f"{request.url.query}\n{asked.source.peer}\n{moment}\n".encode() + content).hexdigest()
    try:
        found, problems = read(asked, content, request.headers.get("content-type", ""), now)
    except (BadName, ValueError) as error:
        raise Refused(422, 3, "malformed", str(error)) from error
    return usable(found, now, request.app.state.writer.retention), digest, problems


def usable(profiles: list[Profile], now: float, kept: Retention) -> tuple[Profile, ...]:
    """The profiles with accounting that closes. Raises Refused where one of them cannot be stored."""
    for profile in profiles:
        if problem := unusable(profile, now, kept):
            raise Refused(422, 3, "profile", problem)
    return tuple(replace(profile, accounting=closed(profile.accounting)) for profile in profiles)
