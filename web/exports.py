"""A selection in the formats it can be had in: the picture, and what profiler/formats writes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response

from profiler.accounting import account_lines
from profiler.event_names import is_cpu, unit_of
from profiler.formats.by_extension import WRITERS
from profiler.grouping import LABELS
from web import urls
from web.flamegraph.svg import MOST_NODES, Caption, write_svg
from web.gaps import gaps_line, gaps_of
from web.parts import ExportMenu
from web.selected import conditional, sent
from web.store.queries import Overview, Queries, host_title, rates_title
from web.store.selection import Selection, rfc3339
from web.store.store import BadQuery

_FILES: Final = (
    ("folded", "Folded stacks, as flamegraph.pl reads them"),
    ("pb.gz", "pprof"),
    ("speedscope.json", "speedscope"),
    ("firefox.json", "Firefox Profiler"),
    ("json", "JSON, with all that is known"),
)
_ELSEWHERE: Final = (  # with the profile's address in place of {}
    ("speedscope.app", "https://www.speedscope.app/#profileURL={}", "speedscope.json"),
    ("profiler.firefox.com", "https://profiler.firefox.com/from-url/{}", "firefox.json"),
)
MEDIA_TYPES: Final = {
    "svg": "image/svg+xml",
    "json": "application/json",
    "folded": "text/plain; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "pb.gz": "application/octet-stream",
    "speedscope.json": "application/json",
    "firefox.json": "application/json",
}


_LONGEST_VIEW: Final = 4000


def export(request: Request, selection: Selection, extension: str, group_by: Sequence[str] = ()) -> Response:
    """A selection in one format. Raises Empty, MixedRates where its windows cannot be added up, BadQuery.

    Asked for with `download`, a picture is a file that needs no server, and shows at first what `view` says.
    """
    queries: Queries = request.app.state.queries
    if group_by and extension != "svg":
        raise BadQuery("only a picture can be grouped: choose format=svg, or ask /api/v1/tree")

    def answer() -> Response:
        resolved = queries.resolve(selection)
        if extension == "svg" and not request.query_params.get("download"):
            query = tuple(request.query_params.multi_items())
            return sent(picture(queries, resolved, group_by, query), MEDIA_TYPES[extension])
        if extension == "svg":
            body = _picture_file(queries, resolved, group_by, asked_view(request))
        else:
            body = WRITERS["." + extension](queries.profile(resolved))
        name = file_name(resolved.value("host") or "all", resolved.since, extension)
        return sent(body, MEDIA_TYPES[extension], attachment(name))

    return conditional(request, [selection], answer)


def file_name(of: str, since: float, extension: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', of)[:60]}-{rfc3339(since).replace(':', '')}.{extension}"


def attachment(name: str) -> dict[str, str]:
    """The header of an answer that is to be saved, under a name of file_name()."""
    return {"content-disposition": f'attachment; filename="{name}"'}


def asked_view(request: Request) -> str:
    """What a saved picture is to show at first, as the fragment of a page's address has it. Raises BadQuery."""
    view = request.query_params.get("view", "")
    if len(view) > _LONGEST_VIEW:
        raise BadQuery(f"`view` is longer than {_LONGEST_VIEW:,} characters")
    return view


def _picture_file(queries: Queries, selection: Selection, group_by: Sequence[str], view: str) -> bytes:
    tree, overview = queries.tree(selection, group_by, MOST_NODES)
    return write_svg(tree, replace(_described(queries, overview, selection), view=view))


def menu(request: Request, page: str, twin: Callable[[str], str], group_by: Sequence[str] = ()) -> ExportMenu:
    """What a flame graph can be had as, and how others come to see it; `page` is its own, and `twin` the address of it
    in a format. What it is grouped by is asked for on the command line too, where samples know it themselves."""
    base, needs_token = base_of(request)
    options = request.app.state.options
    grouped = f"--group-by {','.join(group_by)} " if group_by and set(group_by) <= set(LABELS) else ""
    with_token = base.replace("://", "://:TOKEN@", 1) if needs_token else base
    return ExportMenu(
        files=[(text, twin(extension)) for extension, text in _FILES],
        picture=as_download(twin("svg")),
        elsewhere=[
            (text, address.format(quote(base + twin(extension), safe=""))) for text, address, extension in _ELSEWHERE
        ],
        may_be_read=bool(options.allow_origins) and not needs_token,
        needs_token=needs_token,
        commands=[
            ("In pprof", f"go tool pprof '{with_token}{twin('pb.gz')}'"),
            (
                "The same profile, on the command line",
                f"{curl(request, twin('json'))} | pilotlight render - {grouped}-o flamegraph.svg",
            ),
        ],
        permalink=base + page,
    )


def base_of(request: Request) -> tuple[str, bool]:
    """This server's address as the client knows it, and whether it wants a token."""
    return str(request.base_url).rstrip("/"), request.app.state.options.token is not None


def curl(request: Request, address: str) -> str:
    """The command that fetches an address, with TOKEN in place of a token."""
    base, needs_token = base_of(request)
    login = "-H 'Authorization: Bearer TOKEN' " if needs_token else ""
    return f"curl -fsS {login}'{base}{address}'"


def as_download(address: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}download=1"


def picture(queries: Queries, selection: Selection, group_by: Sequence[str], query: urls.Query) -> bytes:
    """The picture of a resolved selection that a URL's `query` asked for."""
    tree, overview = queries.tree(selection, group_by, MOST_NODES)
    described = replace(_described(queries, overview, selection), source=urls.below(fixed(selection, query)))
    return write_svg(tree, described, script_href=urls.static("flamegraph.js"))


def fixed(selection: Selection, query: urls.Query) -> urls.Query:
    """The query that asks for a resolved selection whenever it is asked."""
    since, until = rfc3339(selection.since), rfc3339(selection.until)
    return urls.replaced(query, from_=since, until=until, event=selection.value("event"))


def _described(queries: Queries, overview: Overview, selection: Selection) -> Caption:
    """The caption of a selection's picture, with the hosts that have no windows for a part of the range."""
    described = caption(overview, selection)
    gaps = gaps_of(queries, selection, (), time.time())
    line = gaps_line(gaps)
    return replace(described, gaps=gaps.title, notes=(*described.notes, line) if line else described.notes)


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
        per_sample=overview.per_sample,
        accounts=(("", overview.accounting),),
        rate=rates,
    )
