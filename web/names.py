"""POST /api/v1/names: better names for addresses that stored profiles hold, found after their windows were sent.

JSON as in profiler/better_names.py; plain, gzip or zstd. An answer of 200 means that the names are in the store: it
comes after the commit, and every picture drawn from then on shows them. Sending them again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from profiler.better_names import MAX_BODY, decode
from symbolizer.types import Location
from web.ingest import JSON, RETRY_SECONDS, Refused, committed, decompress, read_body
from web.store.writer import Names

router = APIRouter()


@router.post("/api/v1/names", response_class=JSONResponse, tags=["ingest"])
async def receive_names(request: Request) -> Response:
    """Store better names for build ids and addresses (JSON; gzip and zstd are understood); totals never change."""
    rejected: Counter[str] = request.app.state.rejected
    try:
        taken = await _receive(request)
    except Refused as refusal:
        rejected[refusal.reason] += 1
        headers = {"retry-after": str(RETRY_SECONDS)} if refusal.status in (429, 503) else None
        return JSONResponse({"error": str(refusal)}, refusal.status, headers)
    return JSONResponse({"locations": taken})


async def _receive(request: Request) -> int:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise Refused(415, 3, "content type", f"content type {media_type[:80]!r} is not {JSON}")
    body = await read_body(request, MAX_BODY)
    async with request.app.state.parsing:
        locations = await asyncio.to_thread(_parse, body, request.headers.get("content-encoding", ""))
    if locations:
        await committed(request, Names(locations))
    return len(locations)


def _parse(body: bytes, encoding: str) -> list[Location]:
    content = decompress(body, encoding.strip().lower(), MAX_BODY)
    try:
        return decode(content)
    except ValueError as error:
        raise Refused(400, 3, "malformed", str(error)) from error
