"""Of which parts of a time there are windows: by host, and where the nearest ones are if there are none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from web.store.selection import LAST_S, Selection
from web.store.series import over_time
from web.store.store import Store

_MOST_HOSTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Coverage:
    """A host, and the seconds of a range that it has windows of, the first and the last of them in seconds since 1970.

    Windows of the same seconds, of other labels, are counted once.
    """

    host: str
    seconds: float
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Nearby:
    """The windows next to a range that has none: when the last before it begins, and the first after it; in seconds
    since 1970, None where there is none."""

    before: int | None
    after: int | None


def coverage_of(store: Store, selection: Selection) -> list[Coverage]:
    """What a selection's hosts have windows of, those with the least first."""
    where, parameters = selection.where(store.horizon, samples=False)
    rows = store.rows(
        "SELECT toString(host) AS name, sum(seconds) AS covered, min(first) / 1e9, max(last) / 1e9 FROM"
        " (SELECT host, start_ns AS first, max(end_ns) AS last, (last - first) / 1e9 AS seconds FROM windows"
        f" WHERE {where} GROUP BY host, start_ns) GROUP BY name ORDER BY covered, name LIMIT {_MOST_HOSTS}",
        parameters,
    ).rows
    return [Coverage(*row) for row in rows]


def nearby(store: Store, selection: Selection) -> Nearby:
    """Where the samples that a selection asks for are nearest, to the minute where a rollup tells."""
    sides = replace(selection, since=0, until=selection.since), replace(selection, since=selection.until, until=LAST_S)
    found: list[int | None] = []
    for side, edge in zip(sides, ("max", "min"), strict=True):
        if selection.filters_samples:
            source, parameters = over_time(side, store.horizon, (), 60)
        else:
            where, parameters = side.where(store.horizon, samples=False)
            source = f"SELECT ts AS time FROM windows WHERE {where}"
        count, at = store.rows(f"SELECT count(), toUnixTimestamp({edge}(time)) FROM ({source})", parameters).rows[0]
        found.append(at if count else None)
    return Nearby(*found)
