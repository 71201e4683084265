"""Of which parts of a time there are windows: by host, and where the nearest ones are if there are none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from web.store.selection import LAST_S, Matcher, Selection, holds
from web.store.series import over_time
from web.store.store import Store

_MOST_HOSTS: Final = 10_000
NEVER_SEEN: Final = "never seen"
NOTHING_IN_RANGE: Final = "nothing in this range"
NOTHING_THAT_FITS: Final = "nothing in this range that fits"


@dataclass(frozen=True, slots=True)
class Coverage:
    """A host, and the seconds of a range that it has windows of, the first and the last of them in seconds since 1970.

    Windows of the same seconds, of other labels, are counted once. Where there are none, `nothing` says so, and `first`
    and `last` are None.
    """

    host: str
    seconds: float
    first: float | None = None
    last: float | None = None
    nothing: str = ""


@dataclass(frozen=True, slots=True)
class Nearby:
    """The windows next to a range that has none: when the last before it begins, and the first after it; in seconds
    since 1970, None where there is none."""

    before: int | None
    after: int | None


def coverage_of(store: Store, selection: Selection) -> list[Coverage]:
    """What a selection's hosts have windows of, those with the least first.

    Hosts that are asked for by name are among them even if they have none: left out, nobody would notice.
    """
    where, parameters = selection.where(store.horizon, samples=False)
    rows = store.rows(
        "SELECT toString(host) AS name, sum(seconds) AS covered, min(first) / 1e9, max(last) / 1e9 FROM"
        " (SELECT host, start_ns AS first, max(end_ns) AS last, (last - first) / 1e9 AS seconds FROM windows"
        f" WHERE {where} GROUP BY host, start_ns) GROUP BY name ORDER BY covered, name LIMIT {_MOST_HOSTS}",
        parameters,
    ).rows
    found = [Coverage(*row) for row in rows]
    return [*_without(store, selection, {host.host for host in found}), *found]


def _without(store: Store, selection: Selection, known: set[str]) -> list[Coverage]:
    """The hosts that a selection names and that are not `known` to have windows in it."""
    missing = [host for host in _named_hosts(store, selection) if host not in known]
    if not missing:
        return []
    rows = store.rows(
        "SELECT toString(host), countIf(ts >= toDateTime({since:UInt32}, 'UTC') AND ts < toDateTime({until:UInt32},"
        " 'UTC')) FROM windows WHERE host IN {hosts:Array(String)} AND batch <= {horizon:UInt32} GROUP BY host",
        {"since": selection.since, "until": selection.until, "hosts": missing, "horizon": store.horizon},
    ).rows
    others = {host: NOTHING_THAT_FITS if windows else NOTHING_IN_RANGE for host, windows in rows}
    return [Coverage(host, 0.0, nothing=others.get(host, NEVER_SEEN)) for host in sorted(missing)]


def _named_hosts(store: Store, selection: Selection) -> list[str]:
    """The hosts that a selection asks for by name, less those that its other matchers leave out."""
    of_hosts = [matcher for matcher in selection.matchers if matcher.label == "host"]
    named = next((matcher.named for matcher in of_hosts if matcher.named), ())
    if not named or len(of_hosts) == 1:
        return list(named)
    terms = [_term(matcher, f"m{number}") for number, matcher in enumerate(of_hosts)]
    values = {f"m{number}": m.regex if m.is_regex else m.value for number, m in enumerate(of_hosts)}
    rows = store.rows(
        "SELECT name FROM (SELECT arrayJoin({named:Array(String)}) AS name) WHERE " + " AND ".join(terms),
        {"named": list(named), **values},
    ).rows
    return [name for (name,) in rows]


def _term(matcher: Matcher, name: str) -> str:
    return f"{'NOT ' if matcher.is_negative else ''}{holds('name', matcher, name)}"


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
