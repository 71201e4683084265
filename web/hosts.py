"""The pages of hosts: all of them, and one with its load, its stacks and what profiling it costs; as JSON likewise."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from profiler.model import Accounting
from web import unwinding, urls
from web.assets import render
from web.charts import chart
from web.contexts import Choice, HostPage, HostRow, HostsPage, Share, Trend
from web.selected import accounting_dict
from web.store.queries import Empty, MixedRates, Overview, Queries, rates_title
from web.store.selection import Selection, parse, parse_time, rfc3339

LIVE_S: Final = 45  # a host whose last window ended longer ago is shown as silent
OTHER_CLOCK_S: Final = 30  # a window arrives some seconds after it has ended
RANGES: Final = (
    ("now-5m", "5 min"),
    ("now-15m", "15 min"),
    ("now-1h", "1 h"),
    ("now-6h", "6 h"),
    ("now-1d", "24 h"),
    ("now-7d", "7 days"),
)
_HOSTS_SINCE: Final = "now-15m"
_HOST_SINCE: Final = "now-1h"
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
    now = time.time()
    query: urls.Query = (("from", since),)
    return HostsPage(
        hosts=_rows(queries, queries.hosts(parse_time(since, "from", now), now), query, now),
        ranges=[Choice(text, urls.home((("from", value),)), value == since) for value, text in RANGES],
        since=_named(since, ""),
        address=str(request.base_url).rstrip("/"),
        twin="/hosts.json" + (f"?{request.url.query}" if request.url.query else ""),
    )


def _rows(queries: Queries, found: list[dict[str, Any]], query: urls.Query, now: float) -> list[HostRow]:
    """Rows of Queries.hosts as the pages show them. `query` is the range they are of."""
    busy: dict[tuple[str, str], dict[int, float]] = {}
    minutes = Selection(int(now) // 60 * 60 - 3600, int(now) + 1)
    for event in sorted({row["event"] for row in found}):
        for point in queries.series(minutes.also("event", event), by="host"):
            busy.setdefault((point["host"], event), {})[point["at"]] = point["busy"]
    rows = []
    for row in found:
        known = {field.name: row[field.name] for field in dataclasses.fields(HostRow) if field.name in row}
        own: urls.Query = (*query, ("host", row["host"]), ("event", row["event"]))
        if not row["windows"]:
            last = row["last_seen"]
            own = urls.replaced(own, from_=rfc3339(last - 900), until=rfc3339(last + 1))
        points = busy.get((row["host"], row["event"]), {})
        rows.append(
            HostRow(
                **known,
                live=row["last_seen_s"] < LIVE_S,
                clock=_clock(row["late_s"]),
                sparkline=chart(points, minutes, _SPARK, max([*points.values(), row["cpus"] or 0.0])),
                flamegraph=urls.flamegraph(own),
                page=urls.host(row["host"]),
            )
        )
    return rows


@router.get("/hosts/{name:path}")
def host_page(request: Request, name: str) -> Response:
    since = request.query_params.get("from") or _HOST_SINCE
    until = request.query_params.get("until") or ""
    queries: Queries = request.app.state.queries
    now = time.time()
    range_ = parse((("from", since), ("until", until)), now=now)
    found = queries.hosts(range_.since, now, range_.until)
    as_json = name.endswith(".json") and all(row["host"] != name for row in found)
    name = name.removesuffix(".json") if as_json else name
    found = [row for row in found if row["host"] == name]
    if not found:
        raise Empty(f"No profile of a host named {name[:80]!r} is stored.")
    page = _host(queries, found, range_.also("host", name), (("from", since), *((("until", until),) if until else ())))
    if as_json:
        return JSONResponse({**dataclasses.asdict(page), "accounting": accounting_dict(page.accounting)})
    return HTMLResponse(render("host.html", page))


def _host(queries: Queries, found: list[dict[str, Any]], selection: Selection, query: urls.Query) -> HostPage:
    """The page of one host, of which `found` are the rows of Queries.hosts and `selection` the windows."""
    name = found[0]["host"]
    rows = _rows(queries, found, query, time.time())
    overview: Overview | None = None
    processes: list[Share] = []
    problem = ""
    step = max(60, -(-(selection.until - selection.since) // 240) // 60 * 60)
    if any(row.windows for row in rows):
        selection = queries.resolve(selection)
        try:
            overview = queries.overview(selection, queries.store.horizon)
            processes = _processes(queries, selection, overview, query)
        except MixedRates as error:
            problem = f"There are no sums of this range: {error}."
    busy: dict[int, float] = {}
    for point in queries.series(selection):
        at = point["at"] // step * step
        busy[at] = busy.get(at, 0.0) + point["busy"] * 60 / step
    peak = max([*busy.values(), rows[0].cpus or 0.0, 0.01])
    accounting = overview.accounting if overview else Accounting()
    typed = dict(query)
    since, until = typed["from"], typed.get("until", "")
    return HostPage(
        host=name,
        rows=rows,
        accounting=accounting,
        seconds=accounting.sampled / overview.hz if overview else 0.0,
        processes=processes,
        chart=chart(busy, selection, _CHART, peak, step),
        peak=peak,
        rates=rates_title(overview.rates) if overview else "",
        trends=_trends(queries, selection, step),
        unwinding=unwinding.report(accounting.unwinding),
        problem=problem,
        live=not until,
        ranges=[Choice(text, urls.host(name, "", (("from", v),)), v == since and not until) for v, text in RANGES],
        since=_named(since, until),
        twin=urls.host(name, "json", query),
    )


def _processes(queries: Queries, selection: Selection, overview: Overview, query: urls.Query) -> list[Share]:
    own: urls.Query = (*query, ("host", selection.value("host") or ""), ("event", overview.event))
    return [
        Share(
            value["name"],
            value["samples"],
            value["samples"] / max(overview.accounting.sampled, 1),
            urls.flamegraph(urls.plus(own, f"process={value['name']}")),
        )
        for value in queries.labels(selection, "process", 15)
    ]


def _trends(queries: Queries, selection: Selection, step: int) -> list[Trend]:
    costs = queries.costs(selection, step)
    trends = []
    for name, unit, column in (
        ("BPF a tick", "ns", "bpf_ns"),
        ("BPF CPU", "share", "bpf_cpu"),
        ("Agent CPU", "share", "agent_cpu"),
        ("Resident memory", "bytes", "rss_bytes"),
        ("Locked in BPF maps", "bytes", "locked_bytes"),
        ("Rate", "Hz", "hz"),
    ):
        points = [(cost["t"], cost[column]) for cost in costs if cost[column] is not None]
        if any(value for _, value in points):
            highest = max(value for _, value in points)
            picture = chart(dict(points), selection, _SPARK, highest, step)
            trends.append(Trend(name, unit, points[-1][1], highest, picture, points))
    return trends


def _clock(late_s: float | None) -> str:
    """What to say of windows that arrive long after they ended, or before."""
    if late_s is None or -OTHER_CLOCK_S <= late_s <= OTHER_CLOCK_S:
        return ""
    if late_s < 0:
        return f"its clock is {-late_s:,.0f} s ahead"
    return f"its windows are {late_s:,.0f} s late: its clock is behind, or it was out of reach"


def _named(since: str, until: str) -> str:
    """A range in words that can follow "in the"."""
    names = dict(RANGES)
    if until:
        return f"time from {since[:40]} until {until[:40]}"
    return f"last {names[since]}" if since in names else f"time since {since[:40]}"
