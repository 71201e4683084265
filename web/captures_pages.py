"""Captures for people: /captures, where they are asked for and seen at work, and a page of each with its picture."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from profiler.accounting import account_lines
from profiler.formats.by_extension import WRITERS
from profiler.grouping import labels_of
from profiler.model import Profile, stack_table
from web import urls
from web.assets import render
from web.captures import NO_SUCH_CAPTURE, Captures, TooMany
from web.captures_api import start, wanted_of
from web.contexts import CapturePage, CapturesPage, ErrorPage
from web.exports import MEDIA_TYPES, asked_view, attachment, file_name, menu
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import Caption, write_svg
from web.ingest import Refused, read_body
from web.pages import group_choices
from web.parts import CapturedPicture, CaptureForm, CaptureRow
from web.store import captures as stored
from web.store.captures import Capture
from web.store.selection import check_groups, parse_group_by, rfc3339

_SHOWN: Final = 100
_MAX_FORM: Final = 1 << 16

router = APIRouter(include_in_schema=False)


@router.get("/captures")
async def captures_page(request: Request) -> Response:
    given = {name: value for name, value in request.query_params.items() if name in CaptureForm.__slots__}
    return await _listing(request, CaptureForm(**given))


@router.post("/captures")
async def ask(request: Request) -> Response:
    captures: Captures = request.app.state.captures
    form = CaptureForm()
    try:
        fields = parse_qs((await read_body(request, _MAX_FORM)).decode("utf-8", "replace"))
        form = CaptureForm(**{name: fields.get(name, [""])[0].strip() for name in CaptureForm.__slots__})
        made = await start(captures, wanted_of(_document(form)))
    except Refused as refusal:
        return await _listing(request, form, str(refusal), refusal.status)
    except TooMany as error:
        return await _listing(request, form, str(error), 429)
    return RedirectResponse(urls.capture(made[0].id), 303)


@router.post("/captures/{id}/cancel")
async def cancel(request: Request, id: str) -> Response:
    captures: Captures = request.app.state.captures
    await captures.cancel(id)
    return RedirectResponse(urls.capture(id), 303)


@router.get("/captures/{name}")
async def capture_page(request: Request, name: str) -> Response:
    """The page of a capture, and with an extension what it holds in that format."""
    captures: Captures = request.app.state.captures
    id, _, extension = name.partition(".")
    capture = await captures.find(id)
    if capture is None:
        if extension:
            return JSONResponse({"error": NO_SUCH_CAPTURE}, 404)
        page = ErrorPage(404, NO_SUCH_CAPTURE, (("Captures", urls.captures()),))
        return HTMLResponse(render("error.html", page), 404)
    group_by = parse_group_by(request.query_params.get("groupBy", ""))
    if not extension:
        return HTMLResponse(await asyncio.to_thread(_page, request, capture, group_by))
    if extension not in urls.TWINS:
        known = ", ".join("." + twin for twin in urls.TWINS)
        return JSONResponse({"error": f"no format .{extension[:40]}; there are {known}"}, 404)
    return await asyncio.to_thread(_export, request, capture, extension, group_by)


async def _listing(request: Request, form: CaptureForm, problem: str = "", status: int = 200) -> Response:
    captures: Captures = request.app.state.captures
    found = await captures.latest(_SHOWN)
    hosts, listening = await captures.hosts(), captures.listening()
    page = CapturesPage(
        rows=[_row(capture) for capture in found],
        form=form if form.host else replace(form, host=_likely(hosts, listening)),
        hosts=hosts,
        listening=listening,
        problem=problem,
        live=not all(capture.state.over for capture in found),
    )
    return HTMLResponse(render("captures.html", page), status)


def _likely(hosts: list[str], listening: set[str]) -> str:
    """The host to offer at first: one that would begin at once, if there is any."""
    return next((host for host in hosts if host in listening), hosts[0] if hosts else "")


def _document(form: CaptureForm) -> dict[str, Any]:
    """The form as JSON would say it; what was left empty is left out."""
    document: dict[str, Any] = {name: value for name in CaptureForm.__slots__ if (value := getattr(form, name))}
    if form.pid:
        document["pid"] = re.split(r"[\s,]+", form.pid)
    return document


def _page(request: Request, capture: Capture, group_by: tuple[str, ...]) -> str:
    profile = stored.find_profile(request.app.state.store, capture.id) if capture.profiled else None
    picture = _captured(request, capture.id, profile, group_by) if profile else None
    return render("capture.html", CapturePage(_row(capture), _title(capture), picture))


def _captured(request: Request, id: str, profile: Profile, group_by: tuple[str, ...]) -> CapturedPicture:
    """Raises BadQuery for labels that its samples cannot have."""
    check_groups(profile, group_by)
    address = partial(urls.capture, id, query=_grouped(group_by))
    return CapturedPicture(
        profile=replace(profile, samples=()),
        svg=address("svg"),
        groups=group_choices(labels_of(profile), group_by),
        group_by=",".join(group_by),
        exports=menu(request, address(), address, group_by),
        top=urls.capture_api(id, "top"),
        lines=urls.capture_api(id, "lines"),
    )


def _grouped(group_by: tuple[str, ...]) -> urls.Query:
    return (("groupBy", ",".join(group_by)),) if group_by else ()


def _export(request: Request, capture: Capture, extension: str, group_by: tuple[str, ...]) -> Response:
    profile = stored.find_profile(request.app.state.store, capture.id) if capture.profiled else None
    if profile is None:
        return JSONResponse({"error": capture.problem or "nothing has been captured yet"}, 404)
    download = bool(request.query_params.get("download"))
    if extension == "svg" and not download:
        return Response(_picture(capture, profile, group_by), media_type=MEDIA_TYPES["svg"])
    if extension == "svg":
        body = _picture(capture, profile, group_by, asked_view(request), is_file=True)
    else:
        body = WRITERS["." + extension](profile)
    name = file_name(capture.name or capture.host, profile.window.start_ns / 1e9, extension)
    return Response(body, media_type=MEDIA_TYPES[extension], headers=attachment(name))


def _picture(
    capture: Capture, profile: Profile, group_by: tuple[str, ...], view: str = "", *, is_file: bool = False
) -> bytes:
    """The picture for a page, or as a file that needs no server. Raises BadQuery as _captured."""
    check_groups(profile, group_by)
    window = profile.window
    caption = Caption(
        title=" · ".join(filter(None, [capture.name, profile.host, profile.event, filters_of(capture)])),
        subtitle=f"{rfc3339(window.start_ns / 1e9)}, {window.seconds:.1f} s at {profile.hz:,} Hz",
        notes=account_lines(profile.accounting),
        background="cpu",
        seconds_per_sample=1 / profile.hz,
        accounts=(("", profile.accounting),),
        rate=f"{profile.hz:,} Hz",
        source="" if is_file else urls.capture_below(capture.id, _grouped(group_by)),
        view=view,
    )
    tree = build_tree(stack_table(profile, group_by))
    return write_svg(tree, caption, script_href=None if is_file else urls.static("flamegraph.js"))


def filters_of(capture: Capture) -> str:
    """The processes and cgroups a capture is of, in words; "" for everything."""
    pids = ("pid " if len(capture.pids) == 1 else "pids ") + ", ".join(map(str, capture.pids)) if capture.pids else ""
    return ", ".join(filter(None, [pids, *(f"cgroup {path}" for path in capture.cgroups)]))


def _title(capture: Capture) -> str:
    return capture.name or f"{capture.seconds:g} s of {capture.host}"


def _row(capture: Capture) -> CaptureRow:
    share = min(capture.done / capture.seconds, 1.0)
    return CaptureRow(capture, share, filters_of(capture), urls.capture(capture.id))
