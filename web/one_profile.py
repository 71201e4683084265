"""What one profile holds, by function, in the shape of /api/v1/top and /lines: of a capture, or of somebody's file."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiler.model import Profile, StackTable, bases, functions_of, stack_table
from web.questions import lines_dict, top_dict
from web.selected import ValuesAs
from web.store.lines import FunctionName, lines_of
from web.store.queries import Empty, Overview, Top
from web.store.ragged import Ragged
from web.store.selection import rfc3339
from web.store.store import Store
from web.store.top import FunctionFilter, Functions, counted, heaviest, names_matching


def top_of_profile(
    store: Store, profile: Profile, wanted: FunctionFilter | None, sort: str, limit: int, values: ValuesAs
) -> dict[str, Any]:
    """The heaviest functions, as JSON. Raises BadQuery for an expression that `store`'s engine cannot read."""
    table, frames = _stacks(profile)
    known = functions_of(table)
    functions = Functions(known.frames, known.binaries, known.of)
    own, total = counted(frames, table.counts.astype(np.float64), functions)
    chosen = np.flatnonzero(total)
    if wanted:
        names = names_matching(store, {functions.frames[i].function for i in chosen.tolist()}, wanted)
        chosen = np.array([i for i in chosen.tolist() if functions.frames[i].function in names], np.int64)
    rows = heaviest(functions, own, total, chosen, sort, limit)
    return {**_range(profile), **top_dict(Top(_overview(profile), len(chosen), rows), values)}


def lines_of_profile(profile: Profile, wanted: FunctionName, limit: int, values: ValuesAs) -> dict[str, Any]:
    """One function by line of its source, as JSON. Raises Empty where it is on no stack."""
    table, frames = _stacks(profile)
    found = lines_of(table.frames, table.binaries, frames, table.counts.astype(np.float64), wanted)
    if found is None:
        raise Empty("No function in this profile has that name, kind and binary.")
    return {**_range(profile), **lines_dict(wanted, found, _overview(profile), values, limit)}


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
    """The profile as the one window that it is."""
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
