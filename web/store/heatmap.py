"""CPU time by step and row, for a picture over time: what was sampled, and where nobody looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from web.store.selection import LABELS, Selection
from web.store.series import NOT_BY_MINUTE, over_time
from web.store.store import BadQuery, Store
from web.store.sums import HOUR_S, with_labels
from web.store.windows import user_labels

MOST_COLUMNS: Final = 400
MOST_ROWS: Final = 24
SHARE: Final = "share"
STEPS: Final = (10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_TENTHS: Final = 10
_MOST_HOST_POINTS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """`values` by column, None where nobody looked; `others` is how many names a row stands for beside its own."""

    name: str
    values: list[float | None]
    others: int = 0


@dataclass(frozen=True, slots=True)
class HeatMap:
    """`columns` steps of `step` seconds from `start` on, in seconds since 1970.

    `total` are CPU-seconds by column, at the events' own rates, as the values of `rows` are; where the rows are tenths
    of the CPUs that were online, values are numbers of what `counts` says: windows, or, where samples are filtered,
    hosts; else it is "". `covered` are seconds of the column that there are windows of, `online` CPUs. None is where
    there is no window at all.
    """

    start: int
    step: int
    columns: int
    total: list[float | None]
    covered: list[float | None]
    online: list[float | None]
    rows: list[Row]
    counts: str = ""


def step_of(selection: Selection, by: str, columns: int) -> int:
    """The shortest step that needs no more than `columns` and can be told by what the store still has."""
    needed = {by, *(matcher.label for matcher in selection.matchers)}
    least = 10
    if selection.by_hour:
        least = HOUR_S if needed & {*NOT_BY_MINUTE} else 60
    for step in STEPS:
        if step >= least and _columns(selection, step) <= columns:
            return step
    days = -(-(selection.until - selection.since) // (columns - 1) // STEPS[-1])
    return STEPS[-1] * max(days, 1)


def heat_map(store: Store, selection: Selection, horizon: int, by: str, step: int) -> HeatMap:
    """The heat map of a selection of one event, of whole steps, with a row for each value of the label `by`, or tenths
    of the CPUs online where that is SHARE. The rows that weigh least are one. Raises BadQuery."""
    if by == "comm":
        raise BadQuery("comm is the name of a process or of a thread: choose by=process, or by=thread")
    if by not in (*LABELS, SHARE) and by not in (added := user_labels(store)):
        raise BadQuery(f"unknown label; known are {SHARE}, {', '.join((*LABELS, *added))}")
    start, columns = selection.since // step * step, _columns(selection, step)
    if columns > MOST_COLUMNS:
        raise BadQuery(f"more than {MOST_COLUMNS} columns: choose a longer step, or a shorter range")
    aligned = replace(selection, since=start, until=start + columns * step)
    frame = _Frame(start, step, columns)
    looked = _looked(store, aligned, horizon, step)
    covered = frame.column({at: max(s for s, _ in hosts.values()) for at, hosts in looked.items()})
    online = frame.column({at: sum(cpus for _, cpus in hosts.values()) for at, hosts in looked.items()})
    if by == SHARE:
        named, others = _by_value(store, aligned, horizon, "host", step, most=0)
        rows = _shares(store, aligned, horizon, frame, looked)
    else:
        named, others = _by_value(store, aligned, horizon, by, step, most=MOST_ROWS)
        rows = _rows(named, others, frame, looked, by, filtered=selection.filters_samples)
    sums: dict[int, float] = {}
    for points in named.values():
        for at, seconds in points.items():
            sums[at] = sums.get(at, 0.0) + seconds
    counts = "" if by != SHARE else "hosts" if selection.filters_samples else "windows"
    total = frame.column({**dict.fromkeys(looked, 0.0), **sums})
    return HeatMap(start, step, columns, total, covered, online, rows, counts)


@dataclass(frozen=True, slots=True)
class _Frame:
    start: int
    step: int
    columns: int

    def column(self, points: dict[int, float]) -> list[float | None]:
        return [points.get(self.start + i * self.step) for i in range(self.columns)]


def _columns(selection: Selection, step: int) -> int:
    return -(-selection.until // step) - selection.since // step


def _looked(store: Store, selection: Selection, horizon: int, step: int) -> dict[int, dict[str, tuple[float, float]]]:
    """By step and host: seconds that there are windows of, and CPUs online.

    A host may have several windows of the same seconds, of other labels; and one that is longer than a step.
    """
    where, parameters = selection.where(horizon, samples=False)
    rows = store.rows(
        f"SELECT intDiv(toUnixTimestamp(ts), {step:d}) * {step:d} AS at, toString(host) AS name,"
        f" greatest(max((end_ns - start_ns) / 1e9), least(sum((end_ns - start_ns) / 1e9), {step:d})) AS covered,"
        f" max(if(end_ns > start_ns, expected / hz / ((end_ns - start_ns) / 1e9), 0)) AS cpus FROM windows"
        f" WHERE {where} GROUP BY at, name LIMIT {_MOST_HOST_POINTS + 1}",
        parameters,
    ).rows
    if len(rows) > _MOST_HOST_POINTS:
        raise BadQuery("these are too many hosts for so many columns: choose some of them, or a longer step")
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for at, name, seconds, cpus in rows:
        found.setdefault(at, {})[name] = (seconds, cpus)
    return found


def _by_value(
    store: Store, selection: Selection, horizon: int, label: str, step: int, *, most: int
) -> tuple[dict[str | None, dict[int, float]], int]:
    """CPU-seconds by value of a label and step, and how many values beyond the `most` heaviest (0: any number) there
    are; those are together under None."""
    column = label if label in LABELS else "label_set"
    source, parameters = over_time(selection, horizon, (column,), step)
    value = f"toString({column})"
    if column == "label_set":
        parameters["label"] = label
        value = "labels[{label:String}]"
        source = with_labels(source)
    others, chosen = 0, "true"
    if most:
        by_weight = store.rows(
            f"SELECT {value} AS name, count() OVER () AS names FROM ({source}) GROUP BY name"
            f" ORDER BY sum(value / hz) DESC, name LIMIT {most:d}",
            parameters,
        ).rows
        others = by_weight[0][1] - len(by_weight) if by_weight else 0
        if others:
            parameters["heaviest"] = [name for name, _ in by_weight]
            chosen = f"{value} IN {{heaviest:Array(String)}}"
    rows = store.rows(
        f"SELECT {chosen} AS kept, if(kept, {value}, '') AS name, intDiv(toUnixTimestamp(time), {step:d}) * {step:d}"
        f" AS at, sum(value / hz) FROM ({source}) GROUP BY kept, name, at LIMIT {_MOST_HOST_POINTS + 1}",
        parameters,
    ).rows
    if len(rows) > _MOST_HOST_POINTS:
        raise BadQuery("these are too many hosts for so many columns: choose some of them, or a longer step")
    found: dict[str | None, dict[int, float]] = {}
    for kept, name, at, seconds in rows:
        found.setdefault(name if kept else None, {})[at] = seconds
    return found, others


def _rows(
    named: dict[str | None, dict[int, float]],
    others: int,
    frame: _Frame,
    looked: dict[int, dict[str, tuple[float, float]]],
    by: str,
    *,
    filtered: bool,
) -> list[Row]:
    """A row a value, the heaviest first; where that is a host, its own gaps are in it."""
    of_all = dict.fromkeys(looked, 0.0)
    if by == "host" and not filtered and not others:  # a host that did nothing is one all the same
        named = {**{host: {} for hosts in looked.values() for host in hosts}, **named}
    rows = []
    for name, points in sorted(
        named.items(), key=lambda item: (item[0] is None, -sum(item[1].values()), item[0] or "")
    ):
        own = {at: 0.0 for at, hosts in looked.items() if name in hosts} if by == "host" and name else of_all
        rows.append(Row(name or "", frame.column({**own, **points}), others - 1 if name is None else 0))
    return rows


def _shares(
    store: Store,
    selection: Selection,
    horizon: int,
    frame: _Frame,
    looked: dict[int, dict[str, tuple[float, float]]],
) -> list[Row]:
    """How many windows, or hosts, had which tenth of their CPUs busy; the busiest first."""
    counts: list[dict[int, float]] = [dict.fromkeys(looked, 0.0) for _ in range(_TENTHS)]
    for tenth, at, number in _tenths(store, selection, horizon, frame.step, looked):
        counts[tenth][at] = counts[tenth].get(at, 0.0) + number
    names = [f"{100 * i // _TENTHS}–{100 * (i + 1) // _TENTHS} %" for i in range(_TENTHS)]
    return [Row(names[i], frame.column(counts[i])) for i in reversed(range(_TENTHS))]


def _tenths(
    store: Store,
    selection: Selection,
    horizon: int,
    step: int,
    looked: dict[int, dict[str, tuple[float, float]]],
) -> Sequence[tuple[int, int, float]]:
    if not selection.filters_samples:
        where, parameters = selection.where(horizon, samples=False)
        return store.rows(
            f"SELECT least(intDiv(sampled * {_TENTHS}, expected), {_TENTHS - 1}) AS tenth,"
            f" intDiv(toUnixTimestamp(ts), {step:d}) * {step:d} AS at, count()"
            f" FROM windows WHERE {where} AND expected > 0 GROUP BY tenth, at",
            parameters,
        ).rows
    busy, _ = _by_value(store, selection, horizon, "host", step, most=0)
    found: list[Any] = []
    for at, hosts in looked.items():
        for host, (seconds, cpus) in hosts.items():
            if seconds and cpus:
                share = busy.get(host, {}).get(at, 0.0) / seconds / cpus
                found.append((min(int(share * _TENTHS), _TENTHS - 1), at, 1.0))
    return found
