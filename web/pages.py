"""The pages for people. Each builds its context (contexts.py) and renders it; .json twins give the same data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from profiler.formats.json import accounting_object
from profiler.model import Accounting
from web import auth, urls
from web.assets import STATIC, render
from web.contexts import (
    Chart,
    Chip,
    Choice,
    DocsPage,
    FlamegraphPage,
    HostPage,
    HostRow,
    HostsPage,
    LoginPage,
    Picture,
    Share,
)
from web.exports import export
from web.store.queries import Empty, Queries
from web.store.selection import Matcher, Selection, parse, parse_time, rfc3339

LIVE_S: Final = 45  # a host whose last window ended longer ago is shown as silent
RANGES: Final = (
    ("now-5m", "5 min"),
    ("now-15m", "15 min"),
    ("now-1h", "1 h"),
    ("now-6h", "6 h"),
    ("now-1d", "24 h"),
    ("now-7d", "7 days"),
)
_HOSTS_SINCE: Final = "now-15m"
_FLAMEGRAPH_SINCE: Final = "now-15m"
_SPARK: Final = (120, 24)
_CHART: Final = (720, 120)

router = APIRouter(include_in_schema=False)


@router.get("/")
def hosts_page(request: Request) -> Response:
    return HTMLResponse(render("hosts.html", _hosts(request)))


@router.get("/hosts.json")
def hosts_json(request: Request) -> Response:
    return JSONResponse(dataclasses.asdict(_hosts(request)))


def _hosts(request: Request) -> HostsPage:
    queries: Queries = request.app.state.queries
    since = request.query_params.get("from") or _HOSTS_SINCE
    return HostsPage(
        hosts=_rows(queries, since, time.time()),
        ranges=[Choice(text, urls.home((("from", value),)), value == since) for value, text in RANGES],
        since=_named(since),
        address=str(request.base_url).rstrip("/"),
        twin="/hosts.json" + (f"?{request.url.query}" if request.url.query else ""),
    )


def _rows(queries: Queries, since: str, now: float, host: str | None = None) -> list[HostRow]:
    start = parse_time(since, "from", now)
    found = [row for row in queries.hosts(start, now) if host is None or row["host"] == host]
    busy: dict[tuple[str, str], dict[int, float]] = {}
    minutes = Selection(int(now) // 60 * 60 - 3600, int(now) + 1)
    for event in sorted({row["event"] for row in found}):
        for point in queries.series(minutes.also("event", event), by="host"):
            busy.setdefault((point["host"], event), {})[point["at"]] = point["busy"]
    rows = []
    for row in found:
        known = {field.name: row[field.name] for field in dataclasses.fields(HostRow) if field.name in row}
        query: urls.Query = (("from", since), ("host", row["host"]), ("event", row["event"]))
        if not row["windows"]:
            last = row["last_seen"]
            query = urls.replaced(query, from_=rfc3339(last - 900), until=rfc3339(last + 1))
        points = busy.get((row["host"], row["event"]), {})
        rows.append(
            HostRow(
                **known,
                live=row["last_seen_s"] < LIVE_S,
                sparkline=_chart(points, minutes, _SPARK, max([*points.values(), row["cpus"] or 0.0])),
                flamegraph=urls.flamegraph(query),
                page=urls.host(row["host"]),
            )
        )
    return rows


@router.get("/hosts/{name:path}")
def host_page(request: Request, name: str) -> Response:
    queries: Queries = request.app.state.queries
    now = time.time()
    since = request.query_params.get("from") or "now-1h"
    rows = _rows(queries, since, now, name)
    as_json = False
    if not rows and name.endswith(".json"):
        name, as_json = name.removesuffix(".json"), True
        rows = _rows(queries, since, now, name)
    if not rows:
        raise Empty(f"No profile of a host named {name[:80]!r} is stored.")
    selection = Selection(parse_time(since, "from", now), int(now) + 1, (Matcher("host", "=", name),))
    whole, seconds = Accounting(), 0.0
    processes: list[Share] = []
    if rows[0].windows:
        selection = queries.resolve(selection)
        overview = queries.overview(selection, queries.store.horizon)
        whole, seconds = overview.accounting, overview.accounting.sampled / min(overview.hz)
        query: urls.Query = (("from", since), ("host", name), ("event", overview.event))
        processes = [
            Share(
                value["name"],
                value["samples"],
                value["samples"] / max(whole.sampled, 1),
                urls.flamegraph(urls.plus(query, f"process={value['name']}")),
            )
            for value in queries.labels(selection, "process", 15)
        ]
    step = max(60, -(-(selection.until - selection.since) // 240) // 60 * 60)
    series: dict[int, float] = {}
    for point in queries.series(selection):
        at = point["at"] // step * step
        series[at] = series.get(at, 0.0) + point["busy"] * 60 / step
    peak = max([*series.values(), rows[0].cpus or 0.0, 0.01])
    page = HostPage(
        host=name,
        rows=rows,
        accounting=whole,
        seconds=seconds,
        processes=processes,
        chart=_chart(series, selection, _CHART, peak, step),
        peak=peak,
        ranges=[Choice(text, urls.host(name, "", (("from", v),)), v == since) for v, text in RANGES],
        since=_named(since),
        twin=urls.host(name, "json", (("from", since),)),
    )
    if as_json:
        return JSONResponse({**dataclasses.asdict(page), "accounting": accounting_dict(page.accounting)})
    return HTMLResponse(render("host.html", page))


@router.get("/flamegraph")
def flamegraph_page(request: Request) -> Response:
    return HTMLResponse(render("flamegraph.html", _flamegraph(request)))


@router.get("/flamegraph.{extension}")
def flamegraph_twin(request: Request, extension: str) -> Response:
    if extension not in urls.TWINS:
        known = ", ".join("." + twin for twin in urls.TWINS)
        return JSONResponse({"error": f"no format .{extension[:40]}; there are {known}"}, 404)
    selection = parse(request.query_params.multi_items(), default_since=_FLAMEGRAPH_SINCE)
    return export(request.app.state.queries, selection, extension)


def _flamegraph(request: Request) -> FlamegraphPage:
    queries: Queries = request.app.state.queries
    now = time.time()
    query = tuple((key, value) for key, value in request.query_params.multi_items() if value)
    selection = parse(query, default_since=_FLAMEGRAPH_SINCE, now=now)
    typed = {key: value for key, value in reversed(query)}
    known = queries.hosts(selection.since, now)
    picture, empty = None, ""
    try:
        picture = _picture(queries, selection, query)
    except Empty as error:
        empty = str(error)
    host, event = typed.get("host", ""), typed.get("event", "")
    since = typed.get("from", _FLAMEGRAPH_SINCE)
    return FlamegraphPage(
        picture=picture,
        empty=empty,
        title=" · ".join(part for part in (host, typed.get("comm", "")) if part) or "all hosts",
        from_=since,
        until=typed.get("until", "now"),
        host=host,
        event=event,
        comm=typed.get("comm", ""),
        kept=tuple((key, value) for key, value in query if key == "q"),
        chips=[Chip(value, urls.flamegraph(urls.minus(query, value))) for key, value in query if key == "q"],
        hosts=_choices([row["host"] for row in known], host),
        events=_choices([row["event"] for row in known if host in ("", row["host"])], event),
        presets=[
            Choice(
                text,
                urls.flamegraph(urls.replaced(query, from_=value, until=None)),
                value == since and "until" not in typed,
            )
            for value, text in RANGES
        ],
    )


def _picture(queries: Queries, selection: Selection, query: urls.Query) -> Picture:
    selection = queries.resolve(selection)
    horizon = queries.store.horizon
    overview = queries.overview(selection, horizon)
    accounting = queries.accounting(selection)
    fixed = urls.replaced(query, from_=rfc3339(selection.since), until=rfc3339(selection.until))
    chosen = selection.value("comm")
    shares = queries.labels(selection, "comm", 12)
    return Picture(
        svg=urls.flamegraph(fixed, "svg"),
        event=overview.event,
        hosts=overview.hosts,
        hz=overview.hz,
        windows=overview.windows,
        start=overview.start_ns / 1e9,
        end=overview.end_ns / 1e9,
        accounting=accounting,
        cpu_seconds=accounting.sampled / overview.hz[0] if len(overview.hz) == 1 else None,
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
        twins=[(f".{twin}", urls.flamegraph(fixed, twin)) for twin in urls.TWINS],
        permalink=urls.flamegraph(fixed),
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


def accounting_dict(accounting: Accounting) -> dict[str, Any]:
    """The accounting as JSON, with what follows from it."""
    return {
        **accounting_object(accounting),
        "lost_total": accounting.lost_total,
        "missed": accounting.missed,
    }


def _named(since: str) -> str:
    names = dict(RANGES)
    return f"last {names[since]}" if since in names else f"since {since[:40]}"


def _choices(values: Sequence[str], chosen: str) -> list[str]:
    return sorted({*values, chosen} - {""})


def _chart(points: dict[int, float], over: Selection, box: tuple[int, int], peak: float, step: int = 60) -> Chart:
    """Values at times as SVG paths in a box of that width and height; times without a value are gaps."""
    width, height = box
    first, last = over.since // step * step, (over.until - 1) // step * step
    count = (last - first) // step  # without the step that has just begun, which would look like a fall
    runs: list[list[tuple[float, float]]] = [[]]
    for i in range(count):
        value = points.get(first + i * step)
        if value is None:
            runs.append([])
        else:
            y = height - 1 - min(value / peak, 1) * (height - 3) if peak > 0 else height - 1
            runs[-1].append((i * width / max(count - 1, 1), y))
    runs = [run if len(run) > 1 else [*run, (run[0][0] + 1, run[0][1])] for run in runs if run]
    lines = ["M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in run) for run in runs]
    areas = [
        f"{line}L{run[-1][0]:.1f},{height}L{run[0][0]:.1f},{height}Z" for line, run in zip(lines, runs, strict=True)
    ]
    return Chart("".join(lines), "".join(areas))
