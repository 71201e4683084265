"""POST /v1development/profiles: profiles in OTLP, from our agents and any other OTLP profiler.

Protobuf or JSON; plain, gzip or zstd. An answer of 200 means that what was taken is in the store, for
good: it comes after the commit. Errors have OTLP's form, a google.rpc.Status.
Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import Final

from backports import zstd
from fastapi import APIRouter, Request, Response
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceResponse,
)

from profiler.event_names import type_and_unit
from profiler.formats.otlp import Received, read_otlp, read_otlp_json
from profiler.formats.otlp_read import MAX_BODY
from profiler.model import MAX_HZ, Accounting, Profile
from web.store.retention import Retention
from web.store.store import StoreUnavailable
from web.store.writer import MAX_AHEAD_S, Busy, Conflict, Names, Push, Writer

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
READ_SECONDS: Final = 60
RETRY_SECONDS: Final = 2
PARSING_AT_ONCE: Final = 2
# Of any figure in a window. With MAX_HZ this is 2^50 counts at any common rate: sums of a whole store fit 64 bits.
MAX_SECONDS: Final = 1 << 30
MAX_COST: Final = 1 << 50
MAX_VALUES: Final = 1 << 50  # of an event that is no time

router = APIRouter()


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # of google.rpc.Code
        self.reason = reason  # in /metrics


@router.post("/v1development/profiles", response_class=Response, tags=["ingest"])
async def receive_profiles(request: Request) -> Response:
    """Store OTLP profiles (protobuf or JSON; gzip and zstd are understood)."""
    rejected: Counter[str] = request.app.state.rejected
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    answer_type = JSON if media_type == JSON else PROTOBUF
    try:
        if media_type not in (PROTOBUF, "application/protobuf", JSON):
            raise Refused(415, 3, "content type", f"content type {media_type[:80]!r} is not {PROTOBUF} or {JSON}")
        received = await _receive(request, media_type == JSON)
    except Refused as refusal:
        rejected[refusal.reason] += 1
        headers = {"retry-after": str(RETRY_SECONDS)} if refusal.status in (429, 503) else None
        return Response(_status(refusal.code, str(refusal), answer_type), refusal.status, headers, answer_type)
    if received.rejected:
        rejected["profile"] += received.rejected
    answer = ExportProfilesServiceResponse()
    if received.rejected or received.problem:
        answer.partial_success.rejected_profiles = received.rejected
        answer.partial_success.error_message = received.problem
    body = json_format.MessageToJson(answer) if answer_type == JSON else answer.SerializeToString()
    return Response(body, media_type=answer_type)


async def _receive(request: Request, is_json: bool) -> Received:
    body = await read_body(request, MAX_BODY)
    host = request.client.host if request.client else "unknown"
    async with request.app.state.parsing:
        received, digest = await asyncio.to_thread(
            _parse,
            body,
            request.headers.get("content-encoding", ""),
            is_json,
            host,
            request.app.state.writer.retention,
        )
    if not received.profiles:
        return received
    identity = received.identity
    push = Push(
        received.profiles,
        digest,
        *((identity.agent, str(identity.epoch), identity.sequence) if identity else ()),
    )
    try:
        await committed(request, push)
    except Conflict:
        raise Refused(
            409,
            6,
            "conflict",
            f"push {push.sequence} of agent {push.agent[:80]!r}, epoch {push.epoch}, is stored already"
            " and had another content",
        ) from None
    return received


async def committed(request: Request, what: Push | Names) -> None:
    """Hand it to the writer, and wait for the commit. Raises Refused where it cannot be stored now, and Conflict."""
    writer: Writer = request.app.state.writer
    try:
        await asyncio.wrap_future(writer.submit(what))
    except Busy:
        raise Refused(429, 8, "busy", "more arrives than can be written; try again later") from None
    except StoreUnavailable as error:
        raise Refused(503, 14, "store", f"{error}; try again") from error


async def read_body(request: Request, limit: int) -> bytes:
    """The body as it came. Stops reading at `limit` bytes. Raises Refused."""
    too_large = Refused(413, 8, "too large", f"the body has more than {limit:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise Refused(408, 4, "timeout", f"the body did not arrive within {READ_SECONDS} seconds") from None
    return bytes(body)


def _parse(body: bytes, encoding: str, is_json: bool, host: str, kept: Retention) -> tuple[Received, str]:
    """What a body holds that can be stored, and the sha256 of its decompressed bytes."""
    content = decompress(body, encoding.strip().lower(), MAX_BODY)
    try:
        received = (read_otlp_json if is_json else read_otlp)(content, host)
    except ValueError as error:
        raise Refused(400, 3, "malformed", str(error)) from error
    now = time.time()
    problems = [received.problem] if received.problem else []
    taken = []
    for profile in received.profiles:
        problem = unusable(profile, now, kept)
        if problem:
            problems.append(problem)
        else:
            taken.append(replace(profile, accounting=closed(profile.accounting)))
    left_out = len(received.profiles) - len(taken)
    result = Received(tuple(taken), received.identity, received.rejected + left_out, " ".join(dict.fromkeys(problems)))
    return result, sha256(content).hexdigest()


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its content-encoding, never inflated by more than a byte beyond `limit`. Raises Refused."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "zstd"):
        raise Refused(415, 3, "encoding", f"content-encoding {encoding[:80]!r} is not gzip, zstd or identity")
    out = bytearray()
    rest = body
    try:
        while rest or not out:
            inflate = (
                zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
                if encoding == "zstd"
                else zlib.decompressobj(31)
            )
            # Positional, since the two name it differently; at least 1, since 0 is no limit to zlib.
            out += inflate.decompress(rest, limit + 1 - len(out))
            if len(out) > limit:
                raise Refused(413, 8, "too large", f"the body inflates to more than {limit:,} bytes")
            if not inflate.eof:
                raise Refused(400, 3, "malformed", f"the {encoding} body was cut off")
            rest = inflate.unused_data
            if not rest:
                break
    except (zlib.error, zstd.ZstdError) as error:
        raise Refused(400, 3, "malformed", f"the body is not {encoding}, though it says so") from error
    return bytes(out)


def unusable(profile: Profile, now: float, kept: Retention) -> str:
    """Why a profile cannot be stored, in a sentence; "" if it can. `kept` is how long the store keeps samples."""
    start = profile.window.start_ns / 1e9
    if start < now - kept.max_age_s:
        hours = kept.max_age_s // 3600
        age = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
        return f"A window older than {age} was left out, since it would expire at once."
    if start > now + MAX_AHEAD_S:
        return "A window more than a day in the future was left out: set the clock of its host."
    if not 1 <= profile.hz <= MAX_HZ:
        return "A window of more than a million samples a second was left out: its rate cannot be true."
    a = profile.accounting
    figures = (a.expected, a.ticks, a.idle, a.filtered, a.sampled, a.frames_named, a.lost_total)
    costs = (a.cost.bpf_ns, a.cost.bpf_runs, a.cost.agent_cpu_ns, a.cost.rss_bytes, a.cost.locked_bytes)
    walked = sum(a.unwinding.counts().values())
    is_time = type_and_unit(profile.event) is None
    if not is_time and profile.hz != 1:
        return "A window of values, such as alloc_space:bytes, was left out: its rate must be 1."
    largest = max(*figures, sum(a.frames_unknown.values()), walked)
    if is_time and largest > MAX_SECONDS * profile.hz:
        return f"A window with a figure above {MAX_SECONDS:,} seconds was left out: no machine ticks that often."
    if largest > MAX_VALUES:
        return f"A window with a figure above {MAX_VALUES:,} was left out: many of them could not be added up."
    if max(costs) > MAX_COST:
        return f"A window with a cost above {MAX_COST:,} was left out: it cannot be true."
    return ""


def closed(accounting: Accounting) -> Accounting:
    """The accounting with ticks = idle + filtered + sampled + lost, whatever the agent says."""
    difference = accounting.ticks - accounting.idle - accounting.filtered - accounting.sampled - accounting.lost_total
    if difference > 0:
        lost = {**accounting.lost, "not accounted for": accounting.lost.get("not accounted for", 0) + difference}
        return replace(accounting, lost=lost)
    return replace(accounting, ticks=accounting.ticks - difference) if difference else accounting


def _status(code: int, message: str, media_type: str) -> bytes:
    """google.rpc.Status: int32 code = 1; string message = 2."""
    if media_type == JSON:
        return json.dumps({"code": code, "message": message}).encode()
    text = message.encode("utf-8", "replace")
    return bytes((0x08, code, 0x12)) + _varint(len(text)) + text


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
