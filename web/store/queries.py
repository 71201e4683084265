"""What is asked of the store, one function per question. Selections are made in selection.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.model import Accounting, Cost, Profile, StackTable, Unwinding, Window, common_rate
from web.store import stacks as st
from web.store.locations import Locations
from web.store.rows import ACCOUNTING, COST
from web.store.selection import LABELS, LAST_S, SAMPLE_LABELS, WINDOW_LABELS, Selection
from web.store.store import BadQuery, Store

MAX_VALUES: Final = 1000
MAX_POINTS: Final = 100_000
_MAX_RATES: Final = 240  # no number up to model.MAX_HZ has more divisors, so more rates have no common one


class Empty(Exception):
    """Nothing matches; the message is one sentence that says why."""


class MixedRates(BadQuery):
    """The windows of a selection were taken at rates that have no common one; the message names one to choose."""

    def __init__(self, rates: Sequence[int]) -> None:
        named = [str(rate) for rate in rates[:8]] + ["other rates"] * (len(rates) > 8)
        super().__init__(
            f"the windows of this range were taken at {' and '.join(named)} Hz; choose one with q=hz={rates[0]}"
        )


@dataclass(frozen=True, slots=True)
class Overview:
    """The windows of a selection: how many, of which hosts, taken how often a second (`rates`, ascending), and
    labels that all of them share. `start_ns` and `end_ns` are the first's and the last's.

    `hz` is the common rate of all: the accounting, and every count of a selection's stacks, is at that.
    """

    event: str
    windows: int
    hosts: tuple[str, ...]
    rates: tuple[int, ...]
    hz: int
    start_ns: int
    end_ns: int
    labels: Mapping[str, str]
    accounting: Accounting


class Queries:
    """All questions, with the locations they keep between them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._locations = Locations(store)

    def resolve(self, selection: Selection) -> Selection:
        """The selection with one event: where none is asked for, the one with most samples.

        Raises Empty where there is no window at all, or no sample that matches, and says which; BadQuery.
        """
        store = self.store
        for matcher in selection.matchers:
            if matcher.operator.endswith("~"):  # where there is nothing to match, a bad one would not be noticed
                store.rows("SELECT match(materialize(''), {regex:String})", {"regex": matcher.regex})
        where, parameters = selection.where(store.horizon, samples=False)
        found = store.rows(
            f"SELECT event, count() FROM windows WHERE {where}"
            " GROUP BY event ORDER BY sum(sampled) DESC, event LIMIT 1",
            parameters,
        ).rows
        if not found:
            raise Empty(self._why_empty(selection))
        if selection.value("event") is None:
            selection = selection.also("event", found[0][0])
        if selection.filters_samples:
            where, parameters = selection.where(store.horizon, samples=True)
            if not store.rows(f"SELECT 1 FROM samples WHERE {where} LIMIT 1", parameters).rows:
                filters = ", ".join(str(m)[:80] for m in selection.matchers if m.label in SAMPLE_LABELS)
                raise Empty(f"There are profiles in this range, but no sample in them matches {filters}.")
        return selection

    def _why_empty(self, selection: Selection) -> str:
        horizon = {"horizon": self.store.horizon}
        newest = self.store.rows("SELECT count(), max(ts) FROM windows WHERE batch <= {horizon:UInt32}", horizon).rows[
            0
        ]
        if not newest[0]:
            return "There are no profiles yet; the first arrives some ten seconds after an agent starts."
        anywhere = Selection(0, 0xFFFFFFFF, selection.matchers)
        where, parameters = anywhere.where(self.store.horizon, samples=False)
        count, first, last = self.store.rows(
            f"SELECT count(), min(ts), max(ts) FROM windows WHERE {where}", parameters
        ).rows[0]
        if not count:
            filters = ", ".join(str(m)[:80] for m in selection.matchers if m.label in WINDOW_LABELS)
            return f"No profile has {filters}, at any time."
        times = f"{first:%Y-%m-%d %H:%M:%S}", f"{last:%Y-%m-%d %H:%M:%S}"
        return f"No profile starts in this range; the oldest is of {times[0]} UTC, the newest of {times[1]} UTC."

    def overview(self, selection: Selection, horizon: int) -> Overview:
        """The windows of a resolved selection and the sum of their accounting, filters of samples left out.

        How stacks were walked is known of whole windows alone, and not told where samples are filtered. Raises
        MixedRates where counts of the windows cannot be added up.
        """
        where, parameters = selection.where(horizon, samples=False)
        sums = ", ".join(f"sum({name}) AS {name}" for name in (*ACCOUNTING, *COST[:3]))
        tops = ", ".join(f"max({name}) AS {name}" for name in COST[3:])
        of_rates = self.store.rows(
            f"SELECT hz, any(event) AS the_event, count() AS windows, groupUniqArray(host) AS hosts,"
            f" min(start_ns) AS first_ns, max(end_ns) AS last_ns,"
            f" groupUniqArray(1000)(labels) AS all_labels, {sums}, {tops},"
            f" sumMap(CAST(lost, 'Map(String, UInt64)')) AS all_lost,"
            f" sumMap(CAST(frames_unknown, 'Map(String, UInt64)')) AS all_unknown"
            f" FROM windows WHERE {where} GROUP BY hz ORDER BY hz LIMIT {_MAX_RATES + 1}",
            parameters,
        ).dicts()
        if not of_rates:
            raise Empty(self._why_empty(selection))
        rates = tuple(row["hz"] for row in of_rates)
        hz = common_rate(rates)
        if hz is None:
            raise MixedRates(rates)
        accounting = Accounting()
        for row in of_rates:
            accounting += Accounting(
                **{name: row[name] for name in ACCOUNTING},
                lost=row["all_lost"],
                frames_unknown=row["all_unknown"],
                cost=Cost(**{name: row[name] for name in COST}),
            ).scaled(hz // row["hz"])
        return Overview(
            event=of_rates[0]["the_event"],
            windows=sum(row["windows"] for row in of_rates),
            hosts=tuple(sorted({host for row in of_rates for host in row["hosts"]})),
            rates=rates,
            hz=hz,
            start_ns=min(row["first_ns"] for row in of_rates),
            end_ns=max(row["last_ns"] for row in of_rates),
            labels=_shared([labels for row in of_rates for labels in row["all_labels"]]),
            accounting=accounting
            if selection.filters_samples
            else replace(accounting, unwinding=self._unwinding(where, parameters, rates)),
        )

    def _unwinding(self, where: str, parameters: dict[str, Any], rates: Sequence[int]) -> Unwinding:
        return Unwinding.from_counts(
            dict(
                self.store.rows(
                    f"SELECT toString(fate) AS fate, sum(weight) AS weight FROM"
                    f" (SELECT fate, {st.weighed('number', rates)} AS weight FROM windows"
                    f" ARRAY JOIN mapKeys(unwinding) AS fate, mapValues(unwinding) AS number WHERE {where})"
                    " GROUP BY fate ORDER BY fate",
                    parameters,
                ).rows
            )
        )

    def stack_table(self, selection: Selection) -> tuple[StackTable, Overview]:
        """The stacks of a resolved selection, and its windows with the accounting that belongs to them.

        Raises MixedRates.
        """
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        groups = st.fetch_groups(self.store, selection, horizon, overview.rates)
        stacks = st.fetch_stacks(self.store, selection, horizon, self._locations)
        return st.table_of(groups, stacks), _accounted(overview, selection, groups, stacks)

    def profile(self, selection: Selection) -> Profile:
        """A resolved selection as one profile, at the common rate of its windows. Raises MixedRates."""
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        groups = st.fetch_groups(self.store, selection, horizon, overview.rates)
        stacks = st.fetch_stacks(self.store, selection, horizon, self._locations)
        overview = _accounted(overview, selection, groups, stacks)
        return Profile(
            host=host_title(overview.hosts),
            event=overview.event,
            hz=overview.hz,
            window=Window(overview.start_ns, overview.end_ns),
            samples=st.fetch_samples(self.store, selection, horizon, stacks, overview.rates),
            accounting=overview.accounting,
            labels=overview.labels,
        )

    def accounted(self, selection: Selection) -> Overview:
        """The windows of a resolved selection, samples that its filters leave out counted as filtered.

        Raises MixedRates.
        """
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        if not selection.filters_samples:
            return overview
        groups = st.fetch_groups(self.store, selection, horizon, overview.rates)
        stacks = st.fetch_stacks(self.store, selection, horizon, self._locations)
        return _accounted(overview, selection, groups, stacks)

    def hosts(self, since: int, now: float | None = None, until: int | None = None) -> list[dict[str, Any]]:
        """Each host and event that the store knows, last seen first, with sums of the windows from `since` on,
        up to `until` where that is given.

        `busy` is CPUs busy on average, `cpus` those online (None where the agent does not say);
        `agent_cpu` is a share of one CPU, `bpf_ns` a tick's; `lost_by` is by reason. `hz` is the rate of the
        last window, `rates` are those of the range; counts are at the common one (rounded if there is none).
        """
        now = time.time() if now is None else now
        recent = "ts >= toDateTime({since:UInt32}, 'UTC') AND ts < toDateTime({until:UInt32}, 'UTC')"
        rows = self.store.rows(
            "SELECT toString(host) AS host, toString(event) AS event, hz, max(end_ns) / 1e9 AS last_seen,"
            f" countIf({recent}) AS windows,"
            f" sumIf((end_ns - start_ns) / 1e9, {recent}) AS seconds,"
            f" sumIf((toInt64(ticks) - toInt64(idle)) / hz, {recent}) AS busy_s,"
            f" sumIf(expected / hz, {recent}) AS online_s,"
            f" maxIf(expected / hz / ((end_ns - start_ns) / 1e9), {recent}) AS cpus,"
            f" sumIf(ticks, {recent}) AS ticks, sumIf(idle, {recent}) AS idle,"
            f" sumIf(sampled, {recent}) AS samples, sumIf(filtered, {recent}) AS filtered,"
            f" sumIf(arraySum(mapValues(lost)), {recent}) AS lost,"
            f" sumMapIf(CAST(lost, 'Map(String, UInt64)'), {recent}) AS lost_by,"
            f" sumIf(toInt64(expected) - toInt64(ticks), {recent} AND expected > 0) AS missed,"
            f" sumIf(bpf_ns, {recent}) AS bpf_total, sumIf(bpf_runs, {recent}) AS bpf_runs,"
            f" sumIf(agent_cpu_ns, {recent}) AS cpu_ns, argMax(rss_bytes, ts) AS rss_bytes,"
            " argMax(locked_bytes, ts) AS locked_bytes, argMax(labels, ts) AS labels"
            " FROM (SELECT * FROM windows WHERE batch <= {horizon:UInt32})"
            " GROUP BY host, event, hz ORDER BY host, event, last_seen",
            {"since": since, "until": LAST_S if until is None else until, "horizon": self.store.horizon},
        ).dicts()
        by_host: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            by_host.setdefault((row["host"], row["event"]), []).append(row)
        found = [_host(of_rates, now) for of_rates in by_host.values()]
        return sorted(found, key=lambda row: (-row["last_seen"], -row["samples"], row["host"], row["event"]))

    def costs(self, selection: Selection, step: int) -> list[dict[str, Any]]:
        """What profiling cost in a resolved selection, by steps of so many seconds: `t` in seconds, the rate `hz`
        in force at its end, `bpf_ns` a tick (None where unknown), `bpf_cpu` and `agent_cpu` as shares of one CPU,
        and the most of `rss_bytes` and `locked_bytes`. Of several hosts it is the sum, and the most.
        """
        where, parameters = selection.where(self.store.horizon, samples=False)
        return self.store.rows(
            "SELECT intDiv(toUnixTimestamp(ts), {step:UInt32}) * {step:UInt32} AS t, argMax(hz, ts) AS hz,"
            " if(sum(bpf_runs) > 0, sum(bpf_ns) / sum(bpf_runs), NULL) AS bpf_ns,"
            " max(expected / hz / ((end_ns - start_ns) / 1e9)) AS cpus,"
            # As in hosts(): of a window that was sampled in part, that part.
            " if(cpus > 0, sum(expected / hz) / cpus, sum((end_ns - start_ns) / 1e9)) AS seconds,"
            " sum(bpf_ns) / 1e9 / seconds AS bpf_cpu, sum(agent_cpu_ns) / 1e9 / seconds AS agent_cpu,"
            " max(rss_bytes) AS rss_bytes, max(locked_bytes) AS locked_bytes"
            f" FROM windows WHERE {where} AND end_ns > start_ns GROUP BY t ORDER BY t LIMIT {MAX_POINTS}",
            {**parameters, "step": step},
        ).dicts()

    def series(self, selection: Selection, by: str = "") -> list[dict[str, Any]]:
        """CPUs busy (in what was sampled) by minute: `at` in seconds, `busy`, `samples`, and the label `by`.

        Samples are at the common rate of all points (rounded if there is none).
        """
        if by and by not in ("host", "event", "service", "container", "process"):
            raise BadQuery("`by` must be host, event, service, container or process")
        for matcher in selection.matchers:
            if matcher.label in ("pid", "thread", "comm"):
                raise BadQuery(f"series are kept by process and not by {matcher.label}: use q=process=…")
        where, parameters = selection.where(None, samples=True, time="t")
        label = f"toString({by}) AS {by}, " if by else ""
        order = f"at, {by}" if by else "at"
        rows = self.store.rows(
            f"SELECT {order}, mapFromArrays(groupArray(hz), groupArray(samples)) AS by_rate FROM"
            f" (SELECT toUnixTimestamp(t) AS at, {label}hz, sum(value) AS samples FROM series_1m WHERE {where}"
            f" GROUP BY {order}, hz) GROUP BY {order} ORDER BY {order} LIMIT {MAX_POINTS}",
            parameters,
        ).dicts()
        rate = _rate_of({hz for row in rows for hz in row["by_rate"]})
        points = []
        for row in rows:
            by_rate = row.pop("by_rate")
            busy = sum(value / hz for hz, value in by_rate.items()) / 60
            samples = sum(_at_rate(value, hz, rate) for hz, value in by_rate.items())
            points.append({"at": row["at"], "samples": samples, "busy": busy, **row})
        return points

    def labels(self, selection: Selection, label: str, limit: int = MAX_VALUES) -> list[dict[str, Any]]:
        """The values of a label in a selection with their samples, heaviest first.

        Samples are at the common rate of the selection's windows. Raises MixedRates where there is none.
        """
        if label not in LABELS:
            raise BadQuery(f"unknown label; known are {', '.join(LABELS)}")
        horizon = self.store.horizon
        rates = self._rates(selection, horizon)
        where, parameters = selection.where(horizon, samples=True)
        parameters["limit"] = limit
        if label == "comm":
            value, source = "arrayJoin(arrayDistinct([toString(process), toString(thread)]))", "process, thread"
        else:
            value, source = f"toString({label})", label
        return self.store.rows(
            f"SELECT {value} AS name, sum(weight) AS samples FROM"
            f" (SELECT {source}, {st.weighed('value', rates)} AS weight FROM samples WHERE {where})"
            " GROUP BY name ORDER BY samples DESC, name LIMIT {limit:UInt32}",
            parameters,
        ).dicts()

    def _rates(self, selection: Selection, horizon: int) -> list[int]:
        where, parameters = selection.where(horizon, samples=False)
        rates = [
            row[0]
            for row in self.store.rows(
                f"SELECT DISTINCT hz FROM windows WHERE {where} ORDER BY hz LIMIT {_MAX_RATES + 1}", parameters
            ).rows
        ]
        if common_rate(rates) is None:
            raise MixedRates(rates)
        return rates


def _rate_of(rates: Iterable[int]) -> int:
    """The common rate, or where there is none the highest."""
    distinct = set(rates) or {1}
    return common_rate(distinct) or max(distinct)


def _at_rate(count: int, hz: int, rate: int) -> int:
    """A count taken at `hz`, at `rate`."""
    return (count * rate + hz // 2) // hz


_COUNTS: Final = ("ticks", "idle", "samples", "filtered", "lost", "missed")


def _host(of_rates: list[dict[str, Any]], now: float) -> dict[str, Any]:
    """One host and event from its rows by rate, the last seen one last."""
    row = dict(of_rates[-1])
    row["rates"] = sorted(part["hz"] for part in of_rates if part["windows"])
    rate = _rate_of(row["rates"])
    for name in _COUNTS:
        row[name] = sum(_at_rate(part[name], part["hz"], rate) for part in of_rates)
    lost_by: dict[str, int] = {}
    for part in of_rates:
        for reason, count in part["lost_by"].items():
            lost_by[reason] = lost_by.get(reason, 0) + _at_rate(count, part["hz"], rate)
    row["lost_by"] = {reason: count for reason, count in sorted(lost_by.items()) if count}
    for name in ("windows", "seconds", "busy_s", "online_s", "bpf_total", "bpf_runs", "cpu_ns"):
        row[name] = sum(part[name] for part in of_rates)
    row["cpus"] = max(part["cpus"] for part in of_rates) or None
    online = row.pop("online_s")
    # A window that the agent began or ended in is sampled for a part of its ten seconds only.
    seconds = online / row["cpus"] if row["cpus"] else row["seconds"]
    row["last_seen_s"] = max(0.0, now - row["last_seen"])
    row["busy"] = row.pop("busy_s") / seconds if seconds else 0.0
    row["agent_cpu"] = row.pop("cpu_ns") / 1e9 / seconds if seconds else 0.0
    runs, total = row.pop("bpf_runs"), row.pop("bpf_total")
    row["bpf_ns"] = total / runs if runs else None
    return row


def host_title(hosts: tuple[str, ...]) -> str:
    """The host of a selection, as people see it."""
    return ", ".join(hosts) if len(hosts) <= 3 else f"{len(hosts)} hosts"


def rates_title(rates: Sequence[int]) -> str:
    """The rates of a selection, ascending, and how they are counted together, as people read it."""
    hz = _rate_of(rates)
    weighed = [f"{rate:,} Hz × {hz // rate}" for rate in rates if rate != hz]
    if not weighed:
        return f"{hz:,} Hz"
    if len(weighed) > 4:
        weighed[3:] = [f"{len(weighed) - 3} other rates"]
    named = " and ".join(filter(None, (", ".join(weighed[:-1]), weighed[-1])))
    return f"{hz:,} Hz, partly weighed: {named}" if hz in rates else f"{hz:,} Hz, weighed: {named}"


def _accounted(overview: Overview, selection: Selection, groups: list[st.Group], stacks: st.Stacks) -> Overview:
    if not selection.filters_samples:
        return overview
    whole = overview.accounting
    shown = sum(int(group.counts.sum()) for group in groups)
    frames = st.count_frames(groups, stacks)
    accounting = replace(
        whole,
        filtered=whole.filtered + whole.sampled - shown,
        sampled=shown,
        frames_named=frames.named,
        frames_unknown=frames.unknown,
    )
    return replace(overview, accounting=accounting)


def _shared(labels: list[dict[str, str]]) -> dict[str, str]:
    first, *others = labels
    return {key: value for key, value in sorted(first.items()) if all(other.get(key) == value for other in others)}
