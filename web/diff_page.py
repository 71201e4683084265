"""GET /diff: two selections side by side, as a page, a picture, a table of text, folded stacks and JSON."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from profiler.accounting import account_lines
from profiler.event_names import unit_of
from profiler.formats.folded import write_differential
from web import urls
from web.assets import render
from web.comparison import Comparison, Side, compare, difference, most_changed, of_event, parse_comparison, resolved
from web.contexts import DiffPage
from web.exports import MEDIA_TYPES, as_download, asked_view, attachment, base_of, caption, curl, file_name, fixed
from web.flamegraph import layout
from web.flamegraph.changes import Changes, changes_of
from web.flamegraph.diff import FEWEST, SIGNIFICANT, build_diff
from web.flamegraph.diff_report import diff_report
from web.flamegraph.diff_svg import WIDTHS, write_diff_svg
from web.flamegraph.svg import Caption
from web.gaps import gaps_line, gaps_of
from web.pages import FLAMEGRAPH_SINCE, choices
from web.parts import ChangeRow, Chip, Choice, Compared, ComparedSide, DiffLegend, EmptySide, ExportMenu, Measured
from web.selected import as_json, conditional, sent
from web.store.queries import Empty, MixedRates, Queries, rates_title
from web.store.selection import Selection, rfc3339
from web.store.store import BadQuery
from web.timeline import elsewhere

_MAX_NODES: Final = 300_000
_BASES: Final = (
    ("", "", "just before"),
    ("from-1h", "from", "the hour before"),
    ("from-1d", "until-1d", "yesterday"),
    ("from-1w", "until-1w", "a week ago"),
)

_FILES: Final = (
    ("folded", "Folded stacks with two counts, as difffolded.pl writes them"),
    ("json", "JSON: both trees, and what changed"),
    ("txt", "Text: what changed most"),
)

router = APIRouter(include_in_schema=False)


@router.get("/diff")
def diff_page(request: Request) -> Response:
    return HTMLResponse(render("diff.html", _page(request)))


@router.get("/diff.{extension}")
def diff_twin(request: Request, extension: str) -> Response:
    if extension not in urls.DIFF_TWINS:
        known = ", ".join("." + twin for twin in urls.DIFF_TWINS)
        return JSONResponse({"error": f"no format .{extension[:40]} of a difference; there are {known}"}, 404)
    queries: Queries = request.app.state.queries
    query = request.query_params.multi_items()
    comparison = parse_comparison(query, default_since=FLAMEGRAPH_SINCE)
    width = _width(dict(reversed(query)))
    view, download = asked_view(request), bool(request.query_params.get("download"))

    def answer() -> Response:
        if extension == "json":
            return as_json(difference(queries, comparison, _MAX_NODES))
        before, after = compare(queries, comparison)
        if extension == "folded":
            return sent(write_differential(before.table, after.table), MEDIA_TYPES["folded"])
        described = _caption(queries, before, after, comparison)
        source = "" if download else urls.diff_below(_fixed(before, after, tuple(query)))
        if extension == "txt":
            text = diff_report(
                before.table,
                after.table,
                notes=(described.title, described.subtitle, *described.notes),
                unit=described.unit,
                absolute=comparison.absolute,
            )
            return sent(text.encode(errors="backslashreplace"), MEDIA_TYPES["txt"])
        svg = write_diff_svg(
            build_diff(before.table, after.table),
            replace(described, view=view if download else "", source=source),
            absolute=comparison.absolute,
            width=width,
            script_href=None if download else urls.static("flamegraph.js"),
        )
        name = file_name(f"{after.selection.value('host') or 'all'}-diff", after.selection.since, "svg")
        return sent(svg, MEDIA_TYPES["svg"], attachment(name) if download else None)

    return conditional(request, [comparison.before, comparison.after], answer)


def _fixed(before: Side, after: Side, query: urls.Query) -> urls.Query:
    """The query that asks for both sides whenever it is asked."""
    since, until = rfc3339(before.selection.since), rfc3339(before.selection.until)
    return urls.replaced(fixed(after.selection, query), baseFrom=since, baseUntil=until)


def _width(typed: dict[str, str]) -> str:
    width = typed.get("width") or "after"
    if width not in WIDTHS:
        raise BadQuery(f"`width` is {', '.join(WIDTHS[:-1])} or {WIDTHS[-1]}, not {width[:40]!r}")
    return width


def _caption(queries: Queries, before: Side, after: Side, comparison: Comparison) -> Caption:
    """What stands around the picture: both ranges, and where the ticks of both went."""
    described = caption(after.overview, after.selection)
    old, new = (f"{rfc3339(side.selection.since)} to {rfc3339(side.selection.until)}" for side in (before, after))
    others = caption(before.overview, before.selection).title
    gaps = {
        name: gaps_of(queries, side.selection, (), time.time()) for name, side in (("before", before), ("after", after))
    }
    has_gaps = any(one.found for one in gaps.values())
    return Caption(
        described.title if others == described.title else f"{others} → {described.title}",
        f"{new} against {old}, {'counts' if comparison.absolute else 'shares of either side'}",
        tuple(
            f"{name}: {line}"
            for name, side in (("before", before), ("after", after))
            for line in (*account_lines(side.overview.accounting)[:2], gaps_line(gaps[name]))
            if line
        ),
        described.unit,
        described.background,
        accounts=tuple((name, side.overview.accounting) for name, side in (("before", before), ("after", after))),
        rate=" and ".join(dict.fromkeys(rates_title(side.overview.rates) for side in (before, after))),
        gaps=", ".join(f"{name}: {one.title}" for name, one in gaps.items()) if has_gaps else "no gaps",
    )


def _page(request: Request) -> DiffPage:
    queries: Queries = request.app.state.queries
    now = time.time()
    query = tuple((key, value) for key, value in request.query_params.multi_items() if value)
    typed = dict(reversed(query))
    comparison = parse_comparison(query, default_since=FLAMEGRAPH_SINCE, now=now)
    width = _width(typed)
    known = queries.hosts(min(comparison.after.since, comparison.before.since), now)
    compared, empty_sides, problem = None, list[EmptySide](), ""
    try:
        compared = _compared(request, comparison, query)
    except Empty:
        empty_sides = _empty_sides(request, comparison, query, now)
    except MixedRates as error:
        problem = str(error)
    hosts = [value for key, value in query if key == "host"]
    host = hosts[0] if len(hosts) == 1 else ""
    titled = (f"{len(hosts)} hosts" if len(hosts) > 1 else host, typed.get("comm", ""))
    own = (typed.get("baseFrom", ""), typed.get("baseUntil", ""))
    return DiffPage(
        compared=compared,
        empty_sides=empty_sides,
        problem=problem,
        title=" · ".join(filter(None, titled)) or "all hosts",
        from_=typed.get("from", FLAMEGRAPH_SINCE),
        until=typed.get("until", "now"),
        host=host,
        chosen=hosts if len(hosts) > 1 else [],
        event=typed.get("event", ""),
        comm=typed.get("comm", ""),
        base_from=own[0],
        base_until=own[1],
        absolute=comparison.absolute,
        width=width,
        kept=tuple(pair for pair in query if pair[0] in ("q", "baseQ", "sort")),
        chips=[
            Chip(value if key == "q" else f"host={value}", urls.diff(urls.minus(query, value, key)))
            for key, value in query
            if key == "q" or (key == "host" and len(hosts) > 1)
        ],
        base_chips=[
            Chip(value, urls.diff(urls.minus(query, value, "baseQ"))) for key, value in query if key == "baseQ"
        ],
        hosts=choices([row["host"] for row in known], host),
        events=choices([row["event"] for row in known if not hosts or row["host"] in hosts], typed.get("event", "")),
        presets=[
            Choice(
                text,
                urls.diff(urls.replaced(query, baseFrom=since, baseUntil=until)),
                (since, until) == own,
            )
            for since, until, text in _BASES
        ],
    )


def _empty_sides(request: Request, comparison: Comparison, query: urls.Query, now: float) -> list[EmptySide]:
    """The sides of a comparison that hold nothing, each with where it would."""
    queries: Queries = request.app.state.queries
    kept_days = request.app.state.writer.retention.rollups
    found = []
    event = None
    for name, side, ends in (
        ("After", comparison.after, ("from_", "until")),
        ("Before", comparison.before, ("baseFrom", "baseUntil")),
    ):
        asked = of_event(side, event)
        try:
            event = resolved(queries, asked, name).value("event")
        except Empty as error:
            said, near = elsewhere(queries, asked, partial(_moved, query, ends), kept_days, now)
            found.append(EmptySide([str(error), *said], near))
    return found


def _moved(query: urls.Query, ends: tuple[str, str], since: str, until: str) -> str:
    """The page that compares another range, whose ends are these parameters of the address."""
    return urls.diff(urls.replaced(query, **dict(zip(ends, (since, until), strict=True))))


def _menu(request: Request, query: urls.Query) -> ExportMenu:
    return ExportMenu(
        files=[(text, urls.diff(query, extension)) for extension, text in _FILES],
        picture=as_download(urls.diff(query, "svg")),
        elsewhere=[],
        may_be_read=False,
        needs_token=False,
        commands=[("The same table, on the command line", curl(request, urls.diff(query, "txt")))],
        permalink=base_of(request)[0] + urls.diff(query),
    )


def _compared(request: Request, comparison: Comparison, query: urls.Query) -> Compared:
    queries: Queries = request.app.state.queries
    before, after = compare(queries, comparison)
    bare = _fixed(before, after, query)
    by_total = dict(query).get("sort") == "total"
    changes = changes_of(before.table, after.table, absolute=comparison.absolute)
    return Compared(
        event=after.overview.event,
        svg=urls.diff(bare, "svg"),
        sides=(_side(queries, "Before", before), _side(queries, "After", after)),
        rows=_rows(changes, most_changed(changes, by_total=by_total)),
        changed=len(changes.largest()),
        sorts=[
            Choice(text, urls.diff(urls.replaced(query, sort=value)), by_total == (value is not None))
            for value, text in ((None, "Self"), ("total", "Total"))
        ],
        legend=DiffLegend(layout.GREW, layout.SHRANK, layout.UNCHANGED, layout.STEPS, SIGNIFICANT, FEWEST),
        exports=_menu(request, bare),
    )


def _side(queries: Queries, name: str, side: Side) -> ComparedSide:
    selection, overview = side.selection, side.overview
    chosen = _asked(selection)
    return ComparedSide(
        name=name,
        start=selection.since,
        end=selection.until,
        hosts=overview.hosts,
        windows=overview.windows,
        rates=rates_title(overview.rates),
        cpu_seconds=overview.accounting.sampled / overview.hz if unit_of(overview.event) == "samples" else None,
        accounting=overview.accounting,
        gaps=gaps_of(queries, selection, chosen, time.time()),
        href=urls.flamegraph(chosen),
    )


def _asked(selection: Selection) -> urls.Query:
    """The query of a flame graph that asks for a selection."""
    hosts = tuple(("host", host) for matcher in selection.matchers for host in matcher.any_of)
    others = tuple(("q", str(matcher)) for matcher in selection.matchers if not matcher.any_of)
    return ("from", rfc3339(selection.since)), ("until", rfc3339(selection.until)), *hosts, *others


def _rows(changes: Changes, chosen: list[int]) -> list[ChangeRow]:
    own, total = changes.own * changes.scale[:, None], changes.total * changes.scale[:, None]

    def measured(i: int, of_total: bool) -> Measured:
        of, z = (total, changes.total_z) if of_total else (own, changes.own_z)
        return Measured(float(of[0, i]), float(of[1, i]), float(of[1, i] - of[0, i]), bool(abs(z[i]) >= SIGNIFICANT))

    return [
        ChangeRow(
            changes.frames[i].function,
            layout.LABELS[changes.frames[i].kind],
            changes.binaries[i],
            measured(i, False),
            measured(i, True),
        )
        for i in chosen
    ]
