"""POST /push.v1.PusherService/Push: pprof profiles from Pyroscope's present clients and from Alloy."""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from profiler.formats.otlp_read import MAX_BODY
from profiler.formats.pprof_read import inflated
from profiler.model import Profile
from web.ingest import Refused, committed
from web.pyroscope.application import checked_labels
from web.pyroscope.bodies import profiles_of_pprof, window_of
from web.pyroscope.connect import JSON, OPENAPI, answer, media_type, parse_message, read_message
from web.pyroscope.ingest import usable
from web.pyroscope.messages import MESSAGES
from web.pyroscope.pprof import MAX_DECODED, MAX_FRAMES, Pushed, read_pushed
from web.pyroscope.profiles import Source, kind_of
from web.store.writer import Push

MAX_PROFILES: Final = 1000
MAX_INFLATED: Final = 32 << 20  # bytes of all profiles of a push after gunzip
_NAME: Final = "__name__"

router = APIRouter()


@router.post("/push.v1.PusherService/Push", tags=["ingest"], response_class=Response, openapi_extra=OPENAPI)
async def push(request: Request) -> Response:
    """Store pprof profiles, each with its labels (connect: protobuf or JSON; gzip and zstd are understood)."""
    return await answer(request, lambda: _receive(request))


async def _receive(request: Request) -> Any:
    body = await read_message(request, MAX_BODY)
    async with request.app.state.parsing:
        profiles, digest = await asyncio.to_thread(_parse, request, body)
    if profiles:
        await committed(request, Push(profiles, digest))
    return MESSAGES["PushResponse"]()


def _parse(request: Request, body: bytes) -> tuple[tuple[Profile, ...], str]:
    encoding = request.headers.get("content-encoding", "")
    message, content = parse_message("PushRequest", body, encoding, media_type(request) == JSON, MAX_BODY)
    peer = request.client.host if request.client else "unknown"
    count = sum(len(series.samples) for series in message.series) if len(message.series) <= MAX_PROFILES else MAX_BODY
    if count > MAX_PROFILES:
        raise Refused(413, 8, "too large", f"the push has more than {MAX_PROFILES:,} profiles: send smaller ones")
    now = time.time()
    found: list[Profile] = []
    room = MAX_INFLATED
    frames = 0
    for series in message.series:
        for sample in series.samples:
            try:
                raw_profile = inflated(sample.raw_profile, min(room, MAX_DECODED))
                pushed, profiles = _profiles(series.labels, raw_profile, peer, now)
            except ValueError as error:
                raise Refused(400, 3, "malformed", str(error)) from error
            found += profiles
            room -= len(raw_profile)
            frames += pushed.frames
            if frames > MAX_FRAMES:
                raise Refused(413, 8, "too large", f"the push has more than {MAX_FRAMES:,} frames: send smaller ones")
    return usable(found, now, request.app.state.writer.retention), sha256(content).hexdigest()


def _profiles(pairs: Any, raw_profile: bytes, peer: str, now: float) -> tuple[Pushed, list[Profile]]:
    labels = checked_labels({pair.name: pair.value for pair in pairs})
    if not labels.get("service_name") and not labels.get("service"):
        raise ValueError("a series needs the label service_name: it says what was profiled")
    pushed = read_pushed(raw_profile, kind_of(labels.get("otel.scope.name", "") or labels.get("pyroscope_spy", "")))
    source = Source("", labels, peer, window_of(pushed, now))
    return pushed, profiles_of_pprof(source, labels.get(_NAME, ""), pushed)
