"""What the query endpoints share: the selection as parameters, conditional answers, and counts in other units."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from profiler.event_names import unit_of
from profiler.formats.json import accounting_object
from profiler.model import Accounting
from web.store.queries import Overview, Queries, rates_title
from web.store.selection import LABELS, Selection, parse
from web.store.store import BadQuery

Text = str | None
Values = Literal["samples", "cpu-seconds", "relative", "per-cpu-second"]

_PROCESS: Final = secrets.token_hex(8)  # how often names came is counted from this server's start
_CHUNK: Final = 1 << 18


def _selection(
    request: Request,
    from_: Annotated[
        Text, Query(alias="from", description="Start: RFC 3339, s or ms since 1970, or now-1h (the default)")
    ] = None,
    until: Annotated[Text, Query(description="End, exclusive; now by default")] = None,
    host: Annotated[list[str] | None, Query(description="Short for q=host=…; may be repeated: any of them")] = None,
    event: Annotated[Text, Query(description="Short for q=event=…; by default the one with most samples")] = None,
    comm: Annotated[Text, Query(description="Short for q=comm=…: the name of the process or thread")] = None,
    q: Annotated[
        list[str] | None,
        Query(
            description=f"label=value, with =, !=, =~ or !~ (RE2, the whole value); labels: {', '.join(LABELS)},"
            " and those that users gave their agents; may be repeated"
        ),
    ] = None,
) -> Selection:
    # What the parameters are is declared above, for /openapi.json; what they mean, parse() says.
    return parse(request.query_params.multi_items())


Selected = Annotated[Selection, Depends(_selection)]
GroupBy = Annotated[str, Query(description="label[,label]: their values become the first frames", max_length=1000)]
ValuesAs = Annotated[
    Values,
    Query(
        description="samples; cpu-seconds; relative: shares of all samples; per-cpu-second: CPU-seconds by CPU-second"
        " that was online"
    ),
]


def conditional(request: Request, selections: Sequence[Selection], answer: Callable[[], Response]) -> Response:
    """The answer to a question about selections, or 304 where the client has it already.

    Its tag tells which windows and names it is made from, so that a range of the past that nothing was added to since
    need not be sent again.
    """
    queries: Queries = request.app.state.queries
    state = [(selection.since, selection.until, queries.version(selection)) for selection in selections]
    text = json.dumps([_PROCESS, request.url.path, request.query_params.multi_items(), state])
    # Weak, as the same answer may be sent compressed in one way or another.
    tag = f'W/"{blake2b(text.encode(errors="replace"), digest_size=12).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag.removeprefix("W/") in known or "*" in known:
        return Response(status_code=304, headers=headers)
    response = answer()
    response.headers.update(headers)
    return response


def sent(body: bytes, media_type: str, headers: dict[str, str] | None = None) -> Response:
    """A body, a large one piece by piece, so that what is on its way is not held once more."""
    if len(body) <= _CHUNK:
        return Response(body, media_type=media_type, headers=headers)

    def pieces() -> Iterator[bytes]:
        view = memoryview(body)
        for at in range(0, len(view), _CHUNK):
            yield bytes(view[at : at + _CHUNK])

    return StreamingResponse(
        pieces(), media_type=media_type, headers={**(headers or {}), "content-length": str(len(body))}
    )


def as_json(content: dict[str, Any]) -> Response:
    return sent(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), "application/json")


def factor(values: Values, overview: Overview) -> float | None:
    """What to multiply counts with so that they are `values`; None where they are counts. Raises BadQuery."""
    if values == "samples":
        return None
    accounting = overview.accounting
    if values == "relative":
        return 1 / max(accounting.sampled, 1)
    if unit_of(overview.event) != "samples":
        raise BadQuery(f"samples of {overview.event[:80]} are no CPU time: choose values=samples or values=relative")
    if values == "cpu-seconds":
        return 1 / overview.hz
    if not accounting.expected:
        raise BadQuery("nobody says how many CPUs were online in this range: choose values=cpu-seconds")
    return 1 / accounting.expected


def scaled(rows: list[dict[str, Any]], by: float | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows with the counts called `names` in other units."""
    if by is None:
        return rows
    return [{**row, **{name: row[name] * by for name in names}} for row in rows]


def overview_dict(overview: Overview) -> dict[str, Any]:
    """The windows of a selection as JSON."""
    return {
        "event": overview.event,
        "hz": overview.hz,
        "rates": rates_title(overview.rates),
        "windows": overview.windows,
        "hosts": overview.hosts,
        "samples": overview.accounting.sampled,
        "accounting": accounting_dict(overview.accounting),
    }


def accounting_dict(accounting: Accounting) -> dict[str, Any]:
    """The accounting as JSON, with what follows from it."""
    return {
        **accounting_object(accounting),
        "lost_total": accounting.lost_total,
        "missed": accounting.missed,
    }
