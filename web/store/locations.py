"""Locations by id, each under the best names that the store has for its address.

What a location stands for never changes, as its id is a hash of it. Names of the same build id and address may have
come later, from an agent that found debug information or from another host: they are in the table `names`, and shown
where they tell more. A count belongs to the stack, so that no total changes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from profiler.better_names import Quality, key_of, quality
from symbolizer.types import Frame, Location
from web.store.renamed import Key
from web.store.rows import LOCATION_COLUMNS, NAMES_COLUMNS, frames_of, key_id, location_of
from web.store.store import Store

_CACHED: Final = 50_000
_IDS_A_QUERY: Final = 5_000


class Locations:
    """The least recently used are forgotten first, and those that were given new names at once."""

    def __init__(self, store: Store, limit: int = _CACHED) -> None:
        self._store = store
        self._limit = limit
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Location] = OrderedDict()
        self._as_of = 0

    def get(self, ids: list[int]) -> list[Location]:
        """The locations of `ids`, in their order."""
        found: dict[int, Location] = {}
        with self._lock:
            self._forget_renamed()
            as_of = self._as_of
            for key in ids:
                location = self._cache.get(key)
                if location is not None:
                    found[key] = location
                    self._cache.move_to_end(key)
        missing = [key for key in ids if key not in found]
        if missing:
            read = self._read(missing)
            found.update(read)
            with self._lock:
                # Had others forgotten what was renamed in the meantime, this might be what they forgot.
                if self._as_of == as_of:
                    self._cache.update(read)
                while len(self._cache) > self._limit:
                    self._cache.popitem(last=False)
        return [found[key] for key in ids]

    def _forget_renamed(self) -> None:
        if self._as_of == self._store.renamed.number:
            return
        self._as_of, renamed = self._store.renamed.since(self._as_of)
        if renamed is None:
            self._cache.clear()
            return
        for key in [key for key, location in self._cache.items() if key_of(location) in renamed]:
            del self._cache[key]

    def _read(self, ids: list[int]) -> dict[int, Location]:
        found: dict[int, Location] = {}
        poor: dict[int, Key] = {}
        for at in range(0, len(ids), _IDS_A_QUERY):
            rows = self._store.rows(
                f"SELECT {', '.join(LOCATION_COLUMNS)} FROM frames WHERE id IN {{ids:Array(UInt64)}} LIMIT 1 BY id",
                {"ids": ids[at : at + _IDS_A_QUERY]},
            )
            for row in rows.rows:
                location = found[row[0]] = location_of(row)
                key = key_of(location)
                if key is not None and row[-1] and quality(location.frames) < Quality.DETAILED:
                    poor[row[0]] = key
        better = self._names(set(poor.values()))
        for location_id, key in poor.items():
            location, frames = found[location_id], better.get(key, ())
            if quality(frames) > quality(location.frames):
                found[location_id] = Location(location.address, location.binary, frames)
        return found

    def _names(self, keys: set[Key]) -> dict[Key, tuple[Frame, ...]]:
        ids = [key_id(key) for key in keys]
        found = {}
        for at in range(0, len(ids), _IDS_A_QUERY):
            rows = self._store.rows(
                f"SELECT {', '.join(NAMES_COLUMNS)} FROM names WHERE id IN {{ids:Array(UInt64)}}"
                " ORDER BY version DESC LIMIT 1 BY id",
                {"ids": ids[at : at + _IDS_A_QUERY]},
            )
            for build_id, address, *columns in rows.rows:
                found[build_id, address] = frames_of(*columns)
        return found
