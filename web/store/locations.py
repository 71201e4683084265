"""Locations by id, each under the best names that the store has for its address.

What a location stands for never changes, as its id is a hash of it. Names of the same build id and address may have
come later, from an agent that found debug information or from another host: they are in the table `names`, and shown
where they tell more. A count belongs to the stack, so that no total changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from profiler.better_names import Quality, key_of, quality
from symbolizer.types import Frame, Location
from web.store.renamed import Key
from web.store.rows import LOCATION_COLUMNS, NAMES_COLUMNS, frames_of, key_id, location_of
from web.store.store import Store, StoreUnavailable

_IDS_A_QUERY: Final = 5_000


def read_locations(store: Store, ids: Sequence[int]) -> dict[int, Location]:
    """The locations of `ids` as the store has them now. Raises StoreUnavailable where it has not all of them."""
    found: dict[int, Location] = {}
    poor: dict[int, Key] = {}
    for at in range(0, len(ids), _IDS_A_QUERY):
        rows = store.rows(
            f"SELECT {', '.join(LOCATION_COLUMNS)} FROM frames WHERE id IN {{ids:Array(UInt64)}} LIMIT 1 BY id",
            {"ids": ids[at : at + _IDS_A_QUERY]},
        )
        for row in rows.rows:
            location = found[row[0]] = location_of(row)
            key = key_of(location)
            if key is not None and row[-1] and quality(location.frames) < Quality.DETAILED:
                poor[row[0]] = key
    if len(found) < len(ids):
        raise StoreUnavailable("the store holds stacks of locations that are missing from it")
    better = _names(store, set(poor.values()))
    for location_id, key in poor.items():
        location, frames = found[location_id], better.get(key, ())
        if quality(frames) > quality(location.frames):
            found[location_id] = Location(location.address, location.binary, frames)
    return found


def _names(store: Store, keys: set[Key]) -> dict[Key, tuple[Frame, ...]]:
    ids = [key_id(key) for key in keys]
    found = {}
    for at in range(0, len(ids), _IDS_A_QUERY):
        rows = store.rows(
            f"SELECT {', '.join(NAMES_COLUMNS)} FROM names WHERE id IN {{ids:Array(UInt64)}}"
            " ORDER BY version DESC LIMIT 1 BY id",
            {"ids": ids[at : at + _IDS_A_QUERY]},
        )
        for build_id, address, *columns in rows.rows:
            found[build_id, address] = frames_of(*columns)
    return found
