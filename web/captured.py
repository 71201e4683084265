"""What one capture holds, by function: /api/v1/captures/{id}/top and /lines, in the shape of /api/v1/top and /lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from profiler.model import Profile, StackTable, bases, functions_of, stack_table
from web.questions import Limit, OneFunction, Sort, lines_dict, top_dict
from web.selected import ValuesAs, as_json
from web.store import captures as stored
from web.store.lines import lines_of
from web.store.queries import Empty, Overview, Top
from web.store.ragged import Ragged
from web.store.selection import rfc3339
from web.store.top import Functions, counted, heaviest

router = APIRouter(prefix="/api/v1", tags=["captures"])


@router.get("/captures/{id}/top", response_class=Response, responses={404: {}})
def top(request: Request, id: str, sort: Sort = "self", limit: Limit = 50, values: ValuesAs = "samples") -> Response:
    """The functions of a capture that weigh most: `self` where they are the leaf, `total` where they are anywhere on
    the stack. A sample counts once for a function. `functions` is how many there are."""
    profile = profile_of(request, id)
    table, frames = _stacks(profile)
    known = functions_of(table)
    functions = Functions(known.frames, known.binaries, known.of)
    own, total = counted(frames, table.counts.astype(np.float64), functions)
    chosen = np.flatnonzero(total)
    rows = heaviest(functions, own, total, chosen, sort, limit)
    return as_json({**_range(profile), **top_dict(Top(_overview(profile), len(chosen), rows), values)})


@router.get("/captures/{id}/lines", response_class=Response, responses={404: {}})
def lines(
    request: Request, id: str, wanted: OneFunction, limit: Limit = 1000, values: ValuesAs = "samples"
) -> Response:
    """One function of a capture by line of its source, as /api/v1/lines has it of the history."""
    profile = profile_of(request, id)
    table, frames = _stacks(profile)
    found = lines_of(table.frames, table.binaries, frames, table.counts.astype(np.float64), wanted)
    if found is None:
        raise Empty("No function in this capture has that name, kind and binary.")
    return as_json({**_range(profile), **lines_dict(wanted, found, _overview(profile), values, limit)})


def profile_of(request: Request, id: str) -> Profile:
    """What a capture has so far. Raises Empty where there is nothing, or no such capture."""
    profile = stored.find_profile(request.app.state.store, id)
    if profile is None:
        raise Empty("There is no such capture, or there is nothing of it yet.")
    return profile


def _stacks(profile: Profile) -> tuple[StackTable, Ragged]:
    """The profile's stacks, and their frames without the names of processes and threads that they stand on."""
    table = stack_table(profile)
    names = np.fromiter((len(bases(s.process, s.thread)) for s in profile.samples), np.int64, len(profile.samples))
    return table, Ragged(table.index.astype(np.int32), table.offsets[:-1] + names, np.diff(table.offsets) - names)


def _range(profile: Profile) -> dict[str, Any]:
    return {
        name: rfc3339(ns / 1e9) for name, ns in (("from", profile.window.start_ns), ("until", profile.window.end_ns))
    }


def _overview(profile: Profile) -> Overview:
    """The capture as the one window that it is."""
    return Overview(
        event=profile.event,
        windows=1,
        hosts=(profile.host,),
        rates=(profile.hz,),
        hz=profile.hz,
        start_ns=profile.window.start_ns,
        end_ns=profile.window.end_ns,
        labels=profile.labels,
        accounting=profile.accounting,
    )
