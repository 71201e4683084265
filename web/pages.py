"""The pages for people but those of hosts, see hosts.py. Each builds its context (contexts.py) and renders it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from web import auth, urls
from web.assets import STATIC, render
from web.contexts import DocsPage, FlamegraphPage, LoginPage
from web.exports import export, menu
from web.gaps import gaps_of
from web.hosts import RANGES
from web.parts import Chip, Choice, Picture, Share, Timeline
from web.store.queries import Empty, MixedRates, Queries, rates_title
from web.store.selection import Selection, parse, parse_group_by, parse_matcher, rfc3339
from web.store.store import BadQuery
from web.timeline import PAGES_OWN, base_of, elsewhere, timeline

FLAMEGRAPH_SINCE: Final = "now-15m"

router = APIRouter(include_in_schema=False)


@router.get("/flamegraph")
def flamegraph_page(request: Request) -> Response:
    try:
        return HTMLResponse(render("flamegraph.html", _flamegraph(request)))
    except BadQuery as error:
        return HTMLResponse(render("flamegraph.html", _flamegraph(request, str(error))), 400)


@router.get("/flamegraph.{extension}")
def flamegraph_twin(request: Request, extension: str) -> Response:
    if extension not in urls.TWINS:
        known = ", ".join("." + twin for twin in urls.TWINS)
        return JSONResponse({"error": f"no format .{extension[:40]}; there are {known}"}, 404)
    query = request.query_params.multi_items()
    selection = parse(query, default_since=FLAMEGRAPH_SINCE)
    group_by = parse_group_by(dict(reversed(query)).get("groupBy", ""))
    return export(request, selection, extension, group_by if extension == "svg" else ())


def _flamegraph(request: Request, problem: str = "") -> FlamegraphPage:
    """The page that an address asks for; with a `problem` its form alone, as it was typed. Raises BadQuery."""
    queries: Queries = request.app.state.queries
    now = time.time()
    query = tuple((key, value) for key, value in request.query_params.multi_items() if value)
    typed = {key: value for key, value in reversed(query)}
    # Tried anew: what was typed wrongly stands in the form's own field, instead of being kept beside it.
    wrong = [value for key, value in query if key == "q" and not _is_matcher(value)] if problem else []
    group_by = (typed.get("groupBy", ""),) if problem else parse_group_by(typed.get("groupBy", ""))
    found = _Found(None, None, [problem]) if problem else _found(request, query, group_by, now)
    known = queries.hosts(int(now), now)
    hosts = [value for key, value in query if key == "host"]
    host, event = hosts[0] if len(hosts) == 1 else "", typed.get("event", "")
    since = typed.get("from", FLAMEGRAPH_SINCE)
    title = [f"{len(hosts)} hosts" if len(hosts) > 1 else host, typed.get("comm", "")]
    return FlamegraphPage(
        picture=found.picture,
        timeline=found.timeline,
        is_refused=bool(problem),
        empty=found.empty,
        elsewhere=found.elsewhere,
        title=" · ".join(filter(None, title)) or "all hosts",
        from_=since,
        until=typed.get("until", "now"),
        host=host,
        chosen=hosts if len(hosts) > 1 else [],
        event=event,
        comm=typed.get("comm", ""),
        groups=group_choices([name for name in queries.label_names() if name not in ("event", "hz", "comm")], group_by),
        group_by=",".join(group_by),
        more=wrong[0] if wrong else "",
        kept=tuple(
            (key, value)
            for key, value in urls.only(query, "q", "rows", "values", "viewFrom", "viewUntil")
            if key != "q" or value not in wrong
        ),
        chips=[
            Chip(value if key == "q" else f"host={value}", urls.flamegraph(urls.minus(query, value, key)))
            for key, value in query
            if (key == "q" and value not in wrong) or (key == "host" and len(hosts) > 1)
        ],
        hosts=choices([row["host"] for row in known], host),
        events=choices([row["event"] for row in known if not hosts or row["host"] in hosts], event),
        presets=[
            Choice(
                text,
                urls.flamegraph(urls.replaced(query, from_=value, until=None, viewFrom=None, viewUntil=None)),
                value == since and "until" not in typed,
            )
            for value, text in RANGES
        ],
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of a selection, as FlamegraphPage has it."""

    picture: Picture | None
    timeline: Timeline | None
    empty: list[str]
    elsewhere: list[tuple[str, str]] = field(default_factory=list)


def _found(request: Request, query: urls.Query, group_by: Sequence[str], now: float) -> _Found:
    """Raises BadQuery."""
    queries: Queries = request.app.state.queries
    selection = parse(query, default_since=FLAMEGRAPH_SINCE, now=now)
    base = base_of(query, selection, now)
    try:
        picture = _picture(request, selection, query, group_by, now)
    except MixedRates as error:
        return _Found(None, timeline(query, selection, base, "", now), [str(error)])
    except Empty as error:
        said, near = elsewhere(
            queries,
            selection,
            lambda since, until: urls.flamegraph(urls.replaced(query, from_=since, until=until, follow=None)),
            request.app.state.writer.retention.rollups,
            now,
        )
        return _Found(None, timeline(query, selection, base, "", now), [str(error), *said], near)
    return _Found(picture, timeline(query, selection, base, picture.event, now), [])


def _is_matcher(text: str) -> bool:
    try:
        parse_matcher(text)
    except BadQuery:
        return False
    return True


def group_choices(names: Sequence[str], chosen: Sequence[str]) -> list[tuple[str, str]]:
    """What a picture can be grouped by: labels, with the words for them, and what is chosen."""
    words, now = {"pid": "process id", "cpu_kind": "CPU kind"}, ",".join(chosen)
    groups = [("", "nothing"), *((name, words.get(name, name)) for name in names)]
    several = ", ".join(words.get(name, name) for name in chosen)
    return [*groups, *([(now, several)] if now not in dict(groups) else [])]


def _picture(request: Request, selection: Selection, query: urls.Query, group_by: Sequence[str], now: float) -> Picture:
    queries: Queries = request.app.state.queries
    selection = queries.resolve(selection)
    overview = queries.accounted(selection)
    accounting = overview.accounting
    bare = urls.replaced(
        tuple(pair for pair in query if pair[0] not in PAGES_OWN),
        from_=rfc3339(selection.since),
        until=rfc3339(selection.until),
    )
    chosen = selection.value("comm")
    shares = queries.labels(selection, "comm", 12)
    cut, whole = sum(accounting.unwinding.cut.values()), accounting.unwinding.whole
    return Picture(
        svg=urls.flamegraph(bare, "svg"),
        event=overview.event,
        hosts=overview.hosts,
        rates=rates_title(overview.rates),
        per_sample=overview.per_sample,
        windows=overview.windows,
        start=overview.start_ns / 1e9,
        end=overview.end_ns / 1e9,
        accounting=accounting,
        gaps=gaps_of(queries, selection, query, now),
        truncated=cut if cut or whole else None,
        cpu_seconds=accounting.sampled / overview.hz,
        comms=[
            Share(
                value["name"],
                value["samples"],
                value["samples"] / max(accounting.sampled, 1),
                urls.flamegraph(urls.replaced(query, comm=None if value["name"] == chosen else value["name"])),
                value["name"] == chosen,
            )
            for value in shares
            if value["name"]
        ],
        exports=menu(request, urls.flamegraph(bare), partial(urls.flamegraph, bare), group_by),
        compare=urls.diff((*bare, ("baseFrom", "from-1h"), ("baseUntil", "from"))),
        top=urls.api("top", bare),
        lines=urls.api("lines", bare),
    )


@router.get("/login")
def login_page(request: Request) -> Response:
    wanted = auth.local_path(request.query_params.get("next", "/"))
    return HTMLResponse(render("login.html", LoginPage(wanted, "")))


@router.post("/login")
async def login(request: Request) -> Response:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > 8192:
            return HTMLResponse(render("login.html", LoginPage("/", "That is too long for a token.")), 413)
    form = parse_qs(body.decode("utf-8", "replace"))
    token: str | None = request.app.state.options.token
    wanted = auth.local_path(form.get("next", ["/"])[0])
    if token is None:
        return RedirectResponse(wanted, 303)
    if not auth.same(form.get("token", [""])[0].strip(), token):
        page = LoginPage(wanted, "This is not the server's token.")
        return HTMLResponse(render("login.html", page), 403)
    response = RedirectResponse(wanted, 303)
    response.set_cookie(
        auth.COOKIE,
        auth.session(token),
        max_age=auth.SESSION_S,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.get("/static/{name}")
async def static_file(request: Request, name: str) -> Response:
    found = STATIC.get(name)
    if found is None:
        return JSONResponse({"error": "there is no such file"}, 404)
    headers = {"etag": found.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    return Response(found.body, media_type=found.media_type, headers=headers)


@router.get("/favicon.ico")
async def favicon() -> Response:
    return RedirectResponse(urls.static("flame.svg"), 308)


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    operations = [
        (method.upper(), path, operation)
        for path, methods in request.app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    return HTMLResponse(render("docs.html", DocsPage(operations)))


def choices(values: Sequence[str], chosen: str) -> list[str]:
    return sorted({*values, chosen} - {""})
