"""/api/v1/annotations: what happened when, such as deploys. They are drawn over time where they fit what is shown."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from web import urls
from web.ingest import Refused, read_body
from web.selected import Selected
from web.store import annotations as stored
from web.store.annotations import Annotation
from web.store.retention import Retention
from web.store.selection import LABELS, parse_time, rfc3339
from web.store.store import BadQuery, Store
from web.store.writer import MAX_AHEAD_S

MOST_LISTED: Final = 1000
_MAX_BODY: Final = 1 << 16
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,199}")

router = APIRouter(prefix="/api/v1/annotations", tags=["annotations"])


class Wanted(BaseModel):
    """What happened, and when."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=500, description="What happened, in a few words")
    at: str | int | float = Field("now", description="RFC 3339, s or ms since 1970, or now-5m")
    until: str | int | float | None = Field(None, description="Its end, where it took a while")
    labels: dict[str, Annotated[str, Field(max_length=1000)]] = Field(
        default_factory=dict, max_length=32, description="host, service, …: whose it is; everyone's without them"
    )


@router.post(
    "",
    status_code=201,
    response_class=JSONResponse,
    responses={400: {}, 413: {}, 415: {}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": Wanted.model_json_schema()}}}
    },
)
async def annotate(request: Request) -> Response:
    """Note what happened at a time. The same sent again changes nothing."""
    store: Store = request.app.state.store
    try:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refused(415, 3, "content type", f"content type {media_type[:80]!r} is not application/json")
        made = _made(await read_body(request, _MAX_BODY), request.app.state.writer.retention)
    except Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status)
    await asyncio.to_thread(stored.save, store, made)
    return JSONResponse(as_json(made), 201, {"location": urls.annotation_api(made.id)})


@router.get("")
def listing(
    request: Request, selection: Selected, limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = MOST_LISTED
) -> list[dict[str, Any]]:
    """What happened in a time, the oldest first: all that has no other host, service, … than is chosen."""
    return [as_json(annotation) for annotation in stored.between(request.app.state.store, selection, limit)]


@router.get("/{id}", response_class=JSONResponse, responses={404: {}})
def look(request: Request, id: str) -> Response:
    """An annotation."""
    found = stored.find(request.app.state.store, id)
    return JSONResponse(as_json(found)) if found else _none()


@router.delete("/{id}", response_class=JSONResponse, responses={404: {}})
def take_back(request: Request, id: str) -> Response:
    """Take an annotation back; the answer has it once more."""
    store: Store = request.app.state.store
    found = stored.find(store, id)
    if found is None:
        return _none()
    stored.save(store, found, gone=True)
    return JSONResponse(as_json(found))


def as_json(annotation: Annotation) -> dict[str, Any]:
    return {
        "id": annotation.id,
        "at": rfc3339(annotation.at),
        "until": rfc3339(annotation.until) if annotation.until > annotation.at else None,
        "text": annotation.text,
        "labels": dict(annotation.labels),
    }


def _none() -> Response:
    return JSONResponse({"error": "there is no such annotation; it may have been taken back, or have expired"}, 404)


def _made(body: bytes, kept: Retention) -> Annotation:
    """Raises Refused, with a sentence that names what is wrong."""
    try:
        wanted = Wanted.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = next((str(part) for part in first["loc"]), "the annotation")
        raise Refused(400, 3, "malformed", f"{where[:40]}: {first['msg'][0].lower()}{first['msg'][1:]}") from error
    if not wanted.text.strip():
        raise Refused(400, 3, "malformed", "text: say in a few words what happened")
    for name in wanted.labels:
        if not _LABEL.fullmatch(name):
            raise Refused(400, 3, "malformed", f"labels: {name[:60]!r} is no name for a label, as {LABELS[0]} is")
    now = time.time()
    try:
        at = parse_time(str(wanted.at), "at", now)
        until = at if wanted.until is None else parse_time(str(wanted.until), "until", now)
    except BadQuery as error:
        raise Refused(400, 3, "malformed", str(error)) from error
    if until < at:
        raise Refused(400, 3, "malformed", "`until` is earlier than `at`")
    if at > now + MAX_AHEAD_S or until > now + MAX_AHEAD_S:
        raise Refused(400, 3, "malformed", "`at` and `until` may be a day ahead at most")
    if at < now - kept.rollups * 86400:
        raise Refused(400, 3, "malformed", f"`at` is older than what is kept here, which is {kept.rollups} days")
    return Annotation(at, until, wanted.text.strip(), wanted.labels)
