"""A selection in the formats it can be had in: the picture, and what profiler/formats writes."""

from __future__ import annotations

import re
from typing import Final

from fastapi.responses import Response

from profiler.accounting import account_lines
from profiler.event_names import is_cpu, unit_of
from profiler.formats.by_extension import WRITERS
from web import urls
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import Caption, write_svg
from web.store.queries import Overview, Queries, host_title, rates_title
from web.store.selection import Selection, rfc3339

MEDIA_TYPES: Final = {
    "svg": "image/svg+xml",
    "json": "application/json",
    "folded": "text/plain; charset=utf-8",
    "pb.gz": "application/octet-stream",
    "speedscope.json": "application/json",
    "firefox.json": "application/json",
}


def export(queries: Queries, selection: Selection, extension: str) -> Response:
    """A selection in one format. Raises Empty, and MixedRates where its windows cannot be added up."""
    selection = queries.resolve(selection)
    if extension == "svg":
        body = picture(queries, selection)
    else:
        body = WRITERS["." + extension](queries.profile(selection))
    headers = {}
    if extension != "svg":
        host = re.sub(r"[^A-Za-z0-9._-]+", "-", selection.value("host") or "all")[:60]
        name = f"{host}-{rfc3339(selection.since).replace(':', '')}.{extension}"
        headers["content-disposition"] = f'attachment; filename="{name}"'
    return Response(body, media_type=MEDIA_TYPES[extension], headers=headers)


def picture(queries: Queries, selection: Selection) -> bytes:
    table, overview = queries.stack_table(selection)
    return write_svg(build_tree(table), caption(overview, selection), script_href=urls.static("flamegraph.js"))


def caption(overview: Overview, selection: Selection) -> Caption:
    start, end = overview.start_ns / 1e9, overview.end_ns / 1e9
    filters = ", ".join(str(m) for m in selection.matchers if m.label not in ("host", "event"))
    rates = rates_title(overview.rates)
    notes = account_lines(overview.accounting)
    return Caption(
        title=f"{host_title(overview.hosts)} · {overview.event}" + (f" · {filters}" if filters else ""),
        subtitle=f"{rfc3339(start)} to {rfc3339(end)}, {rates}",
        notes=notes if len(overview.rates) == 1 else (*notes, f"rates: counted as {rates}"),
        unit=unit_of(overview.event),
        background="cpu" if is_cpu(overview.event) else "memory" if unit_of(overview.event) == "bytes" else "other",
        seconds_per_sample=1 / overview.hz if unit_of(overview.event) == "samples" else None,
    )
