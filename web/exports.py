"""A selection in the formats it can be had in: the picture, and what profiler/formats writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from profiler.accounting import account_lines
from profiler.event_names import is_cpu, unit_of
from profiler.formats.by_extension import WRITERS
from web import urls
from web.flamegraph.svg import MOST_NODES, Caption, write_svg
from web.selected import conditional, sent
from web.store.queries import Overview, Queries, host_title, rates_title
from web.store.selection import Selection, rfc3339
from web.store.store import BadQuery

MEDIA_TYPES: Final = {
    "svg": "image/svg+xml",
    "json": "application/json",
    "folded": "text/plain; charset=utf-8",
    "pb.gz": "application/octet-stream",
    "speedscope.json": "application/json",
    "firefox.json": "application/json",
}


def export(request: Request, selection: Selection, extension: str, group_by: Sequence[str] = ()) -> Response:
    """A selection in one format. Raises Empty, MixedRates where its windows cannot be added up, BadQuery."""
    queries: Queries = request.app.state.queries
    if group_by and extension != "svg":
        raise BadQuery("only a picture can be grouped: choose format=svg, or ask /api/v1/tree")

    def answer() -> Response:
        resolved = queries.resolve(selection)
        if extension == "svg":
            query = tuple(request.query_params.multi_items())
            return sent(picture(queries, resolved, group_by, query), MEDIA_TYPES[extension])
        host = re.sub(r"[^A-Za-z0-9._-]+", "-", resolved.value("host") or "all")[:60]
        name = f"{host}-{rfc3339(resolved.since).replace(':', '')}.{extension}"
        return sent(
            WRITERS["." + extension](queries.profile(resolved)),
            MEDIA_TYPES[extension],
            {"content-disposition": f'attachment; filename="{name}"'},
        )

    return conditional(request, [selection], answer)


def picture(queries: Queries, selection: Selection, group_by: Sequence[str], query: urls.Query) -> bytes:
    """The picture of a resolved selection that a URL's `query` asked for."""
    tree, overview = queries.tree(selection, group_by, MOST_NODES)
    described = replace(caption(overview, selection), source=urls.below(fixed(selection, query)))
    return write_svg(tree, described, script_href=urls.static("flamegraph.js"))


def fixed(selection: Selection, query: urls.Query) -> urls.Query:
    """The query that asks for a resolved selection whenever it is asked."""
    since, until = rfc3339(selection.since), rfc3339(selection.until)
    return urls.replaced(query, from_=since, until=until, event=selection.value("event"))


def caption(overview: Overview, selection: Selection) -> Caption:
    start, end = overview.start_ns / 1e9, overview.end_ns / 1e9
    filters = ", ".join(str(m) for m in selection.matchers if m.label not in ("host", "event"))
    rates = rates_title(overview.rates)
    notes = account_lines(overview.accounting)
    return Caption(
        title=f"{host_title(overview.hosts)} · {overview.event}" + (f" · {filters}" if filters else ""),
        subtitle=f"{rfc3339(start)} to {rfc3339(end)}, {rates}" + (", by the hour" if selection.by_hour else ""),
        notes=notes if len(overview.rates) == 1 else (*notes, f"rates: counted as {rates}"),
        unit=unit_of(overview.event),
        background="cpu" if is_cpu(overview.event) else "memory" if unit_of(overview.event) == "bytes" else "other",
        seconds_per_sample=1 / overview.hz if unit_of(overview.event) == "samples" else None,
        accounts=(("", overview.accounting),),
        rate=rates,
    )
