"""A file that somebody has, shown: the page /open, and POST /api/v1/render for programs. Nothing of it is kept."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from profiler.event_names import unit_of
from profiler.formats.read import read_file
from profiler.formats.reading import FORMATS, ReadFile
from profiler.formats.timed import within
from profiler.grouping import LABELS, labels_of, parse_labels
from web import urls
from web.assets import render
from web.contexts import OpenPage
from web.file_times import file_times
from web.flamegraph.rendering import EXTENSIONS, Options, events_of, merged
from web.flamegraph.rendering import render as render_files
from web.ingest import Refused, decompress, read_body
from web.one_profile import lines_of_profile
from web.pages import group_choices
from web.parts import Opened
from web.questions import Limit, OneFunction
from web.selected import ValuesAs, as_json

MAX_FILE: Final = 32 << 20  # bytes, as sent and without its content-encoding
MAX_UNPACKED: Final = 64 << 20
_MEDIA_TYPES: Final = {
    "svg": "image/svg+xml",
    "html": "text/html; charset=utf-8",
    "folded": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "pb.gz": "application/octet-stream",
    "speedscope.json": "application/json",
    "firefox.json": "application/json",
    "json": "application/json",
}
_TITLE: Final = 200  # characters

Made = TypeVar("Made")

Since = Annotated[
    float | None,
    Query(ge=0, allow_inf_nan=False, description="Only samples from so many seconds after the file's first on"),
]
Until = Annotated[
    float | None, Query(gt=0, allow_inf_nan=False, description="Only samples before so many seconds after the first")
]

GroupBy = Annotated[
    str,
    Query(alias="groupBy", max_length=1000, description=f"label[,label]: below their values; of {', '.join(LABELS)}"),
]

router = APIRouter()


@router.get("/open", include_in_schema=False)
def open_page() -> Response:
    return HTMLResponse(render("open.html", OpenPage(MAX_FILE, FORMATS, "", None)))


@router.post("/open", include_in_schema=False)
async def opened_page(
    request: Request,
    name: str = "",
    event: str = "",
    group_by: GroupBy = "",
    since: Since = None,
    until: Until = None,
) -> Response:
    """The page with a file's picture in it, or that of a part; the file is the body."""

    def make(data: bytes) -> Opened:
        return _opened(data, Options(name[:_TITLE], event, group_by=parse_labels(group_by)), _range(since, until))

    try:
        opened = await _in_thread(request, make)
    except Refused as refusal:
        return HTMLResponse(render("open.html", OpenPage(MAX_FILE, FORMATS, str(refusal), None)), refusal.status)
    return HTMLResponse(render("open.html", OpenPage(MAX_FILE, FORMATS, "", opened)))


@router.post("/api/v1/render", tags=["files"], response_class=Response)
async def rendered(
    request: Request,
    format: Annotated[str, Query(description=", ".join(_MEDIA_TYPES))] = "svg",
    event: Annotated[str, Query(description="Which event of a file that holds several")] = "",
    title: Annotated[str, Query(description="The title of the picture", max_length=_TITLE)] = "",
    reverse: Annotated[bool, Query(description="Stacks from the leaf on, in pictures")] = False,
    group_by: GroupBy = "",
    since: Since = None,
    until: Until = None,
) -> Response:
    """A file (the body: folded stacks, pprof, perf script, speedscope, OTLP profiles or pilotlight's JSON, gzipped or
    not) in another format. Nothing of it is stored."""
    if format not in _MEDIA_TYPES:
        return JSONResponse({"error": f"no format {format[:40]!r}; there are {', '.join(_MEDIA_TYPES)}"}, 400)

    def make(data: bytes) -> bytes:
        how = Options(title, event, reverse, parse_labels(group_by))
        return render_files([_part(_read(data), _range(since, until))], "." + format, how).data

    try:
        body = await _in_thread(request, make)
    except Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status)
    headers = {}
    if format != "svg":
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.")[:60] or "profile"
        headers["content-disposition"] = f'attachment; filename="{stem}.{format}"'
    return Response(body, media_type=_MEDIA_TYPES[format], headers=headers)


@router.post("/api/v1/render/lines", tags=["files"], response_class=Response, responses={404: {}})
async def lines(
    request: Request,
    wanted: OneFunction,
    event: Annotated[str, Query(description="Which event of a file that holds several")] = "",
    since: Since = None,
    until: Until = None,
    limit: Limit = 1000,
    values: ValuesAs = "samples",
) -> Response:
    """One function of a file (the body, as in /api/v1/render) by line of its source, as /api/v1/lines has it of the
    history."""

    def make(data: bytes) -> dict[str, Any]:
        profile, _ = merged([_part(_read(data), _range(since, until))], event)
        return lines_of_profile(profile, wanted, limit, values)

    try:
        return as_json(await _in_thread(request, make))
    except Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status)


async def _in_thread(request: Request, make: Callable[[bytes], Made]) -> Made:
    """What `make` makes of the body, in a thread, as many at a time as may parse. Raises Refused."""
    body = await read_body(request, MAX_FILE)

    def work() -> Made:
        try:
            return make(decompress(body, request.headers.get("content-encoding", "").strip().lower(), MAX_FILE))
        except ValueError as error:
            raise Refused(400, 3, "malformed", f"{error}.") from error

    async with request.app.state.parsing:
        return await asyncio.to_thread(work)


def _read(data: bytes) -> ReadFile:
    return read_file(data, max_unpacked=MAX_UNPACKED)


def _range(since: float | None, until: float | None) -> tuple[float, float] | None:
    return None if since is None and until is None else (since or 0.0, math.inf if until is None else until)


def _part(file: ReadFile, chosen: tuple[float, float] | None) -> ReadFile:
    return within(file, *chosen) if chosen else file


def _opened(data: bytes, how: Options, chosen: tuple[float, float] | None) -> Opened:
    whole = _read(data)
    file = _part(whole, chosen)
    picture = render_files([file], ".svg", how, script_href=urls.static("flamegraph.js"))
    profile = merged([file], how.event)[0]
    is_difference = len(file.tables) == 2
    return Opened(
        name=how.title,
        format=file.format,
        problems=file.problems,
        event=profile.event,
        events=events_of([file]),
        is_difference=is_difference,
        samples=profile.accounting.sampled,
        unit=unit_of(profile.event),
        accounting=profile.accounting,
        extensions=tuple(extension.removeprefix(".") for extension in EXTENSIONS),
        groups=group_choices(() if is_difference else labels_of(profile), how.group_by),
        group_by=",".join(how.group_by),
        picture=picture.data.decode().partition("?>\n")[2],
        times=file_times(whole, profile.event, chosen),
    )
