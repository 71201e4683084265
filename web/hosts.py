"""The pages of hosts: all of them, and one with its load, its stacks and what profiling it costs; as JSON likewise."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from profiler.model import Accounting
from web import unwinding, urls
from web.assets import render
from web.charts import chart
from web.contexts import HostPage, HostsPage
from web.parts import Chip, Choice, HostRow, Share, Sort, Trend
from web.selected import accounting_dict
from web.store.heatmap import STEPS
from web.store.hosts import Agents
from web.store.queries import Empty, MixedRates, Overview, Queries, rates_title
from web.store.selection import Selection, parse, rfc3339
from web.store.store import BadQuery

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
_SORT: Final = "-busy"
_SORTS: Final[dict[str, tuple[str, Callable[[HostRow], Any]]]] = {
    "host": ("Host", lambda row: row.host),
    "seen": ("Last seen", lambda row: -row.last_seen),
    "busy": ("CPUs busy", lambda row: row.busy),
    "samples": ("Samples", lambda row: row.samples),
    "lost": ("Lost", lambda row: row.lost / max(row.ticks, 1)),
    "unknown": ("Unknown", lambda row: row.unknown or 0.0),
    "agent": ("Agent CPU", lambda row: row.agent_cpu),
    "memory": ("Agent memory", lambda row: row.rss_bytes + row.locked_bytes),
}
_ASCENDING: Final = ("host", "seen")
_HOSTS_SINCE: Final = "now-15m"
_DEFAULT: Final[urls.Query] = (("from", _HOSTS_SINCE),)
_HOST_SINCE: Final = "now-1h"
_RELATIVE: Final = re.compile(r"now-([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "s", "m": "min", "h": "h", "d": "days", "w": "weeks"}
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
    query = tuple((key, value) for key, value in request.query_params.multi_items() if value)
    typed = dict(reversed(query))
    since, until, sort = typed.get("from", _HOSTS_SINCE), typed.get("until", ""), typed.get("sort", _SORT)
    now = time.time()
    range_ = parse(query, default_since=_HOSTS_SINCE, now=now)
    if range_.filters_samples:
        raise BadQuery(
            "hosts are chosen by host, event, hz and the labels of their agents; choose samples in a picture"
        )
    column = sort.removeprefix("-")
    if column not in _SORTS:
        raise BadQuery(f"no column {column[:40]!r} to sort by; there are {', '.join(_SORTS)}")
    found = queries.hosts(range_.since, now, range_.until, range_.matchers)
    key = _SORTS[column][1]
    rows = _rows(queries, found, range_, urls.only(query, "from", "until"), now)
    rows.sort(key=lambda row: (row.host, row.event))
    rows.sort(key=key, reverse=sort.startswith("-"))
    rows.sort(key=lambda row: not row.windows)  # of what has no figures there is nothing to compare
    return HostsPage(
        hosts=rows,
        ranges=[
            Choice(text, urls.home(urls.replaced(query, from_=value, until=None)), value == since and not until)
            for value, text in RANGES
        ],
        sorts={name: _sort(name, label, query, sort) for name, (label, _) in _SORTS.items()},
        chips=[Chip(value, urls.home(urls.minus(query, value))) for key, value in query if key == "q"],
        kept=urls.only(query, "from", "until", "sort", "q", "event"),
        chosen_with=urls.only(query, "from", "until") or _DEFAULT,
        since=_named(since, until),
        live=not until,
        address=str(request.base_url).rstrip("/"),
        twin="/hosts.json" + (f"?{request.url.query}" if request.url.query else ""),
    )


def _sort(name: str, label: str, query: urls.Query, sort: str) -> Sort:
    """The heading of a column: pressed once it sorts by it as most want to see it, once more the other way round."""
    first = name if name in _ASCENDING else f"-{name}"
    other = f"-{name}" if name in _ASCENDING else name
    order = {name: "ascending", f"-{name}": "descending"}.get(sort, "")
    return Sort(label, urls.home(urls.replaced(query, sort=other if sort == first else first)), order)


def _rows(
    queries: Queries, found: list[dict[str, Any]], range_: Selection, query: urls.Query, now: float
) -> list[HostRow]:
    """Rows of Queries.hosts as the pages show them, whose figures are of `range_`, which `query` asks for."""
    step = next((step for step in STEPS if (range_.until - range_.since) / step <= _SPARK[0]), STEPS[-1])
    loads = queries.loads(range_, step)
    twins = queries.at_once(range_.since, range_.until)
    rows = []
    for row in found:
        known = {field.name: row[field.name] for field in dataclasses.fields(HostRow) if field.name in row}
        own = query
        if not row["windows"]:
            last = row["last_seen"]
            own = urls.replaced(own, from_=rfc3339(last - 900), until=rfc3339(last + 1))
        points = loads.get((row["host"], row["event"]), {})
        rows.append(
            HostRow(
                **known,
                live=row["last_seen_s"] < LIVE_S,
                clock=_clock(row["late_s"]),
                twins=_twins(twins.get((row["host"], row["event"]))),
                peak=max(points.values(), default=0.0),
                sparkline=chart(points, range_, _SPARK, max([*points.values(), row["cpus"] or 0.0]), step),
                flamegraph=urls.flamegraph((*(own or _DEFAULT), ("host", row["host"]), ("event", row["event"]))),
                page=urls.host(row["host"], "", own),
            )
        )
    return rows


def _twins(agents: Agents | None) -> str:
    if agents is None:
        return ""
    return (
        f"{agents.number} agents push under this name at the same time: its figures are their sums; give each a name of"
        " its own with --host"
    )


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
    rows = _rows(queries, found, selection, query, time.time())
    overview: Overview | None = None
    processes: list[Share] = []
    cpu_kinds: list[Share] = []
    problem = ""
    step = max(60, -(-(selection.until - selection.since) // 240) // 60 * 60)
    if any(row.windows for row in rows):
        selection = queries.resolve(selection)
        try:
            overview = queries.overview(selection, queries.store.horizon)
            processes = _shares(queries, selection, overview, query, "process")
            cpu_kinds = _shares(queries, selection, overview, query, "cpu_kind")
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
        cpu_kinds=[kind for kind in cpu_kinds if kind.name],
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


def _shares(queries: Queries, selection: Selection, overview: Overview, query: urls.Query, label: str) -> list[Share]:
    own: urls.Query = (*query, ("host", selection.value("host") or ""), ("event", overview.event))
    return [
        Share(
            value["name"],
            value["samples"],
            value["samples"] / max(overview.accounting.sampled, 1),
            urls.flamegraph(urls.plus(own, f"{label}={value['name']}")),
        )
        for value in queries.labels(selection, label, 15)
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
    if since in names:
        return f"last {names[since]}"
    relative = _RELATIVE.fullmatch(since)
    return f"last {relative[1]} {_UNITS[relative[2]]}" if relative else f"time since {since[:40]}"
