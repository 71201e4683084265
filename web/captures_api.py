"""/api/v1/captures for people, and what agents ask and tell, which profiler/capture_protocol.py describes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiler import capture_protocol as protocol
from profiler.events import EVENT
from profiler.formats.otlp import read_otlp
from profiler.formats.otlp_read import MAX_BODY
from profiler.model import Profile
from web import urls
from web.captures import NO_SUCH_CAPTURE, Agent, Captures, NoSuchCapture, NotYours, TooMany
from web.ingest import Refused, closed, decompress, read_body, unusable
from web.store.captures import Capture
from web.store.retention import MAX_DAYS, Retention
from web.store.selection import rfc3339

RETRY_SECONDS: Final = 5
_MOST_LISTED: Final = 200
_MOST_HOSTS: Final = 50
_MOST_NAMED: Final = 20
_MAX_REQUEST: Final = 1 << 18
_ANY_AGE: Final = Retention(MAX_DAYS, MAX_DAYS)  # captures expire by the server's clock, not by the host's

router = APIRouter()


class Wanted(BaseModel):
    """What to capture: of one host, or of several, which makes a capture of each."""

    model_config = ConfigDict(extra="forbid")

    host: Annotated[str, Field(max_length=10_000)] | Annotated[list[str], Field(max_length=_MOST_HOSTS)] = Field(
        "", description="The only one, where there is but one"
    )
    seconds: float = Field(10, gt=0, le=protocol.MOST_SECONDS)
    hz: int | None = Field(None, ge=1, le=10_000, description="The rate at which the host is sampled anyway")
    pid: int | list[int] | None = Field(None, description="Only these processes")
    cgroup: str | list[str] | None = Field(None, description="Only these cgroups, by path below the v2 hierarchy")
    event: str = EVENT
    name: str = Field("", max_length=200)

    @property
    def hosts(self) -> list[str]:
        return [self.host] if isinstance(self.host, str) else list(dict.fromkeys(self.host))

    def request(self) -> protocol.Request:
        """Raises Refused for what no agent does."""
        pids = self.pid if isinstance(self.pid, list) else [] if self.pid is None else [self.pid]
        cgroups = self.cgroup if isinstance(self.cgroup, list) else [self.cgroup] if self.cgroup else []
        wanted = protocol.Request(
            "", self.seconds, self.hz or 0, tuple(dict.fromkeys(pids)), tuple(dict.fromkeys(cgroups)), self.event
        )
        problem = protocol.refusal(wanted)
        if problem:
            raise Refused(400, 3, "malformed", problem)
        return wanted


def wanted_of(document: Mapping[str, Any] | bytes) -> Wanted:
    """Raises Refused, with a sentence that names what is wrong."""
    try:
        if isinstance(document, bytes):
            return Wanted.model_validate_json(document)
        return Wanted.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = next((str(part) for part in first["loc"]), "the request")
        raise Refused(400, 3, "malformed", f"{where[:40]}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


async def start(captures: Captures, wanted: Wanted) -> list[Capture]:
    """A capture of each host. Raises Refused where there is no such host, and TooMany."""
    request = wanted.request()
    hosts = await _hosts(captures, wanted.hosts)
    return [await captures.create(host, request, wanted.name.strip()) for host in hosts]


async def _hosts(captures: Captures, wanted: list[str]) -> list[str]:
    known = await captures.hosts()
    listed = ", ".join(host[:60] for host in known[:_MOST_NAMED]) + (" …" if len(known) > _MOST_NAMED else "")
    if not known:
        raise Refused(404, 5, "host", "no host has been heard of within a day: start an agent")
    if wanted in ([], [""]):
        if len(known) > 1:
            raise Refused(400, 3, "host", f"which host? There are {listed}")
        return known
    for host in wanted:
        if host not in known:
            raise Refused(404, 5, "host", f"there is no host {host[:60]!r}; there are {listed}")
    return wanted


def as_json(capture: Capture) -> dict[str, Any]:
    """A capture for clients: what was asked for, its state and progress, and where to find it."""
    links = {"self": urls.capture_api(capture.id), "page": urls.capture(capture.id)}
    if capture.profiled:
        links |= {twin: urls.capture(capture.id, twin) for twin in urls.TWINS}
    return {
        "id": capture.id,
        "name": capture.name,
        "host": capture.host,
        "event": capture.event,
        "seconds": capture.seconds,
        "hz": capture.hz or None,
        "pids": list(capture.pids),
        "cgroups": list(capture.cgroups),
        "state": capture.state.value,
        "cancelling": capture.cancel and not capture.state.over,
        "problem": capture.problem,
        "created": rfc3339(capture.created),
        "started": rfc3339(capture.started) if capture.started else None,
        "ended": rfc3339(capture.ended) if capture.ended else None,
        "progress": {"seconds": round(capture.done, 3), "samples": capture.samples},
        "links": links,
    }


@router.post(
    "/api/v1/captures",
    tags=["captures"],
    status_code=201,
    response_class=JSONResponse,
    responses={400: {}, 404: {}, 413: {}, 415: {}, 429: {}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": Wanted.model_json_schema()}}}
    },
)
async def create(request: Request) -> Response:
    """Have a host's agent take a profile: a capture, or a list of them where `host` is one."""
    captures: Captures = request.app.state.captures
    try:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refused(415, 3, "content type", f"content type {media_type[:80]!r} is not application/json")
        wanted = wanted_of(await read_body(request, _MAX_REQUEST))
        made = await start(captures, wanted)
    except Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status)
    except TooMany as error:
        return JSONResponse({"error": str(error)}, 429, {"retry-after": str(RETRY_SECONDS)})
    if isinstance(wanted.host, str):
        return JSONResponse(as_json(made[0]), 201, {"location": urls.capture_api(made[0].id)})
    return JSONResponse([as_json(capture) for capture in made], 201)


@router.get("/api/v1/captures", tags=["captures"])
async def listing(
    request: Request, limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = _MOST_LISTED
) -> list[dict[str, Any]]:
    """The newest captures, newest first."""
    captures: Captures = request.app.state.captures
    return [as_json(capture) for capture in await captures.latest(limit)]


@router.get("/api/v1/captures/{id}", tags=["captures"], response_class=JSONResponse, responses={404: {}})
async def look(request: Request, id: str) -> Response:
    """A capture, and how far it is."""
    captures: Captures = request.app.state.captures
    return _answer(await captures.find(id))


@router.delete("/api/v1/captures/{id}", tags=["captures"], response_class=JSONResponse, responses={404: {}})
async def cancel(request: Request, id: str) -> Response:
    """End a capture now; what was collected is kept. One that is over stays as it is."""
    captures: Captures = request.app.state.captures
    return _answer(await captures.cancel(id))


def _answer(capture: Capture | None) -> Response:
    if capture is None:
        return JSONResponse({"error": NO_SUCH_CAPTURE}, 404)
    return JSONResponse(as_json(capture))


@router.get("/api/v1/agents/{agent}/captures", tags=["agents"], response_class=JSONResponse)
async def orders(
    request: Request,
    agent: str,
    host: Annotated[str, Query(min_length=1, max_length=10_000)],
    epoch: Annotated[str, Query(max_length=100)] = "",
    known: Annotated[str, Query(max_length=4096, description="Captures at work, with commas between")] = "",
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds, for something else than those")] = 0,
) -> Response:
    """What an agent is to capture; answered once that is not what it knows."""
    captures: Captures = request.app.state.captures
    who = Agent(agent[:200], epoch, host)
    return _orders(*await captures.wait_for_orders(who, set(filter(None, known.split(","))), wait))


@router.post(
    "/api/v1/agents/{agent}/captures/{id}",
    tags=["agents"],
    response_class=JSONResponse,
    responses={400: {}, 403: {}, 404: {}, 409: {}, 413: {}, 415: {}},
)
async def report(
    request: Request,
    agent: str,
    id: str,
    host: Annotated[str, Query(min_length=1, max_length=10_000)],
    state: Annotated[str, Query(pattern=f"^({'|'.join(protocol.STATES)})$")],
    epoch: Annotated[str, Query(max_length=100)] = "",
    seconds: Annotated[float, Query(ge=0, le=1e6, allow_inf_nan=False)] = 0,
    samples: Annotated[int, Query(ge=0, le=1 << 50)] = 0,
    problem: Annotated[str, Query(max_length=2000)] = "",
) -> Response:
    """How far an agent is with a capture, with all it has of it so far, if that is new (OTLP protobuf; gzip, zstd)."""
    captures: Captures = request.app.state.captures
    who = Agent(agent[:200], epoch, host)
    try:
        body = await read_body(request, MAX_BODY)
        profile = None
        if body:
            async with request.app.state.parsing:
                profile = await asyncio.to_thread(_profile, body, request.headers.get("content-encoding", ""))
        await captures.report(who, protocol.Report(id, state, seconds, samples, profile, problem))
    except Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status)
    except (NoSuchCapture, NotYours) as error:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, NoSuchCapture) else 409)
    return _orders(captures.orders(who), 0.0)


def _orders(requests: list[protocol.Request], pause: float) -> Response:
    return JSONResponse({"captures": [request.as_json() for request in requests], "pause": pause})


def _profile(body: bytes, encoding: str) -> Profile:
    """The one profile of a body. Raises Refused."""
    content = decompress(body, encoding.strip().lower(), MAX_BODY)
    try:
        received = read_otlp(content)
    except ValueError as error:
        raise Refused(400, 3, "malformed", str(error)) from error
    if len(received.profiles) != 1 or received.rejected:
        raise Refused(400, 3, "malformed", received.problem or "a capture is one profile")
    profile = received.profiles[0]
    problem = unusable(profile, time.time(), _ANY_AGE)
    if problem:
        raise Refused(400, 3, "malformed", problem)
    return replace(profile, accounting=closed(profile.accounting))
