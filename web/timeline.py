"""/api/v1/heatmap: CPU time by step and row, which the page of a flame graph draws over time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from profiler.event_names import unit_of
from web.selected import Selected, as_json, conditional
from web.store.heatmap import MOST_COLUMNS
from web.store.queries import Empty, Queries
from web.store.selection import as_mapping

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
