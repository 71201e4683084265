"""What a flame graph's page says of time: the heat map above the picture, and where else to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from profiler.event_names import unit_of
from web import urls
from web.comparison import parse_comparison
from web.parts import Timeline
from web.selected import Selected, as_json, conditional
from web.store.heatmap import MOST_COLUMNS
from web.store.queries import Empty, Queries
from web.store.selection import Selection, as_mapping, rfc3339

ROWS: Final = (
    ("host", "hosts"),
    ("process", "processes"),
    ("thread", "threads"),
    ("container", "containers"),
    ("service", "services"),
    ("cpu_kind", "kinds of CPU"),
    ("share", "share of the CPUs"),
)
PAGES_OWN: Final = ("from", "until", "baseFrom", "baseUntil", "follow", "rows", "values", "viewFrom", "viewUntil")

router = APIRouter(prefix="/api/v1", tags=["query"])


@router.get("/heatmap", response_class=Response)
def heatmap(
    request: Request,
    selection: Selected,
    by: Annotated[
        str,
        Query(
            description="A row for each value of a label (host, process, …), or `share`: for each tenth of the CPUs"
            " online, how many windows had that much busy (hosts, where samples are filtered)",
            max_length=200,
        ),
    ] = "host",
    columns: Annotated[int, Query(ge=2, le=MOST_COLUMNS, description="How many steps at most")] = 200,
) -> Response:
    """CPU-seconds that were sampled, by step and row; null is where there is no window.

    Steps are as short as `columns` allows, 10 seconds at the least, and whole: the answer begins with the step that
    `from` is in and ends with the one of `until`. Divided by the seconds `covered` a value is the CPUs that were busy.
    The heaviest 24 rows have names, the last one stands for as many more as `others` says.
    """
    queries: Queries = request.app.state.queries

    def answer() -> Response:
        try:
            resolved = queries.resolve(selection)
        except Empty:
            return as_json({**as_mapping(selection), "event": None, "by": by, "rows": []})
        event = resolved.value("event") or ""
        found = queries.heat_map(resolved, by, columns)
        unit = "CPU-seconds" if unit_of(event) == "samples" else unit_of(event)
        return as_json({**as_mapping(resolved), "event": event, "by": by, "unit": unit, **asdict(found)})

    return conditional(request, [selection], answer)


def timeline(query: urls.Query, selection: Selection, base: Selection | None, event: str, now: float) -> Timeline:
    """What the page of `query` says of time; `event` is the one that is shown, "" for none."""
    typed = dict(reversed(query))
    chosen = tuple(pair for pair in query if pair[0] in ("host", "comm", "q"))
    chosen = urls.replaced(chosen, event=event or typed.get("event"))
    since, until = selection.since, selection.until
    span = until - since

    def page(first: float, last: float) -> str:
        kept = urls.replaced(query, from_=rfc3339(max(first, 0)), until=rfc3339(last), follow=None)
        return urls.flamegraph(kept)

    compared = urls.replaced(chosen, from_=rfc3339(since), until=rfc3339(until))
    if base is not None:
        compared = urls.replaced(compared, baseFrom=rfc3339(base.since), baseUntil=rfc3339(base.until))
    inner = since + span // 40 * 10
    by = typed.get("rows", ROWS[0][0])
    return Timeline(
        since=since,
        until=until,
        live=typed.get("until", "now") == "now",
        heatmap=urls.heatmap(chosen),
        annotations=urls.annotations_api(chosen),
        by=by,
        rows=[*ROWS, *([(by, by)] if by not in dict(ROWS) else [])],
        base=(base.since, base.until) if base else None,
        diff=urls.diff(compared),
        earlier=page(since - span, since),
        later=page(until, until + span),
        wider=page(since - span // 2, min(until + span // 2, max(until, now))),
        narrower=page(inner, inner + max(span // 20 * 10, 10)),
    )


def elsewhere(
    queries: Queries, selection: Selection, page: Callable[[str, str], str], kept_days: int, now: float
) -> tuple[list[str], list[tuple[str, str]]]:
    """Where there is something if a selection holds nothing: sentences on what is gone, and addresses of the nearest
    ranges that hold something, each with its time; `page` gives the address of a range."""
    said = []
    if selection.since < now - kept_days * 86400:
        said.append(f"What is older than {kept_days} days has been dropped.")
    near = queries.nearby(selection)
    span = selection.until - selection.since
    found = []
    for at, name, first in ((near.before, "before", -1), (near.after, "after", 0)):
        if at is not None:
            since = at + 60 - span if first else at
            found.append((f"{name}, at {rfc3339(at)}", page(rfc3339(max(since, 0)), rfc3339(since + span))))
    return said, found


def base_of(query: urls.Query, selection: Selection, now: float) -> Selection | None:
    """The range that the page's address says to compare with."""
    if not {name for name, _ in query} & {"baseFrom", "baseUntil"}:
        return None
    return parse_comparison(query, default_since=str(selection.since), now=now).before
