"""What is asked of the store, one function per question. Selections are made in selection.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from profiler.model import Accounting, Cost, Profile, StackTable, Window
from web.store import stacks as st
from web.store.rows import ACCOUNTING, COST
from web.store.selection import LABELS, SAMPLE_LABELS, WINDOW_LABELS, Selection
from web.store.store import BadQuery, Store

MAX_VALUES: Final = 1000
MAX_POINTS: Final = 100_000


class Empty(Exception):
    """Nothing matches; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The windows of a selection: how many, of which hosts, taken how often a second (`hz`), and labels
    that all of them share. `start_ns` and `end_ns` are the first's and the last's."""

    event: str
    windows: int
    hosts: tuple[str, ...]
    hz: tuple[int, ...]
    start_ns: int
    end_ns: int
    labels: Mapping[str, str]
    accounting: Accounting


class Queries:
    """All questions, with the locations they keep between them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._locations = st.Locations(store)

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
        """The windows of a resolved selection and the sum of their accounting, filters of samples left out."""
        where, parameters = selection.where(horizon, samples=False)
        sums = ", ".join(f"sum({name}) AS {name}" for name in (*ACCOUNTING, *COST[:3]))
        tops = ", ".join(f"max({name}) AS {name}" for name in COST[3:])
        row = self.store.rows(
            f"SELECT any(event) AS the_event, count() AS windows, groupUniqArray(host) AS hosts,"
            f" groupUniqArray(hz) AS rates, min(start_ns) AS first_ns, max(end_ns) AS last_ns,"
            f" groupUniqArray(1000)(labels) AS all_labels, {sums}, {tops},"
            f" sumMap(CAST(lost, 'Map(String, UInt64)')) AS all_lost,"
            f" sumMap(CAST(frames_unknown, 'Map(String, UInt64)')) AS all_unknown"
            f" FROM windows WHERE {where}",
            parameters,
        ).dicts()[0]
        if not row["windows"]:
            raise Empty(self._why_empty(selection))
        return Overview(
            event=row["the_event"],
            windows=row["windows"],
            hosts=tuple(sorted(row["hosts"])),
            hz=tuple(sorted(row["rates"])),
            start_ns=row["first_ns"],
            end_ns=row["last_ns"],
            labels=_shared(row["all_labels"]),
            accounting=Accounting(
                **{name: row[name] for name in ACCOUNTING},
                lost=dict(sorted(row["all_lost"].items())),
                frames_unknown=dict(sorted(row["all_unknown"].items())),
                cost=Cost(**{name: row[name] for name in COST}),
            ),
        )

    def stack_table(self, selection: Selection) -> tuple[StackTable, Overview]:
        """The stacks of a resolved selection, and its windows with the accounting that belongs to them."""
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        groups = st.fetch_groups(self.store, selection, horizon)
        stacks = st.fetch_stacks(self.store, selection, horizon, self._locations)
        return st.table_of(groups, stacks), _accounted(overview, selection, groups, stacks)

    def profile(self, selection: Selection) -> Profile:
        """A resolved selection as one profile.

        Raises BadQuery where its windows were taken at different rates, since a count then has no one
        meaning in seconds.
        """
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        if len(overview.hz) > 1:
            rates = " and ".join(map(str, overview.hz))
            raise BadQuery(f"the windows of this range were taken at {rates} Hz; choose one with q=hz={overview.hz[0]}")
        groups = st.fetch_groups(self.store, selection, horizon)
        stacks = st.fetch_stacks(self.store, selection, horizon, self._locations)
        overview = _accounted(overview, selection, groups, stacks)
        return Profile(
            host=host_title(overview.hosts),
            event=overview.event,
            hz=overview.hz[0],
            window=Window(overview.start_ns, overview.end_ns),
            samples=st.fetch_samples(self.store, selection, horizon, stacks),
            accounting=overview.accounting,
            labels=overview.labels,
        )

    def accounting(self, selection: Selection) -> Accounting:
        """The accounting of a resolved selection; samples that its filters leave out count as filtered."""
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        if not selection.filters_samples:
            return overview.accounting
        groups = st.fetch_groups(self.store, selection, horizon)
        stacks = st.fetch_stacks(self.store, selection, horizon, self._locations)
        return _accounted(overview, selection, groups, stacks).accounting

    def hosts(self, since: int, now: float | None = None) -> list[dict[str, Any]]:
        """Each host and event that the store knows, last seen first, with sums since `since`.

        `busy` is CPUs busy on average, `cpus` those online (None where the agent does not say);
        `agent_cpu` is a share of one CPU, `bpf_ns` a tick's; `lost_by` is by reason.
        """
        now = time.time() if now is None else now
        recent = "ts >= toDateTime({since:UInt32}, 'UTC')"
        rows = self.store.rows(
            "SELECT toString(host) AS host, toString(event) AS event, max(end_ns) / 1e9 AS last_seen,"
            f" argMax(hz, ts) AS hz, countIf({recent}) AS windows,"
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
            " GROUP BY host, event ORDER BY last_seen DESC, samples DESC, host, event",
            {"since": since, "horizon": self.store.horizon},
        ).dicts()
        for row in rows:
            row["cpus"] = row["cpus"] or None
            online = row.pop("online_s")
            # A window that the agent began or ended in is sampled for a part of its ten seconds only.
            seconds = online / row["cpus"] if row["cpus"] else row["seconds"]
            row["last_seen_s"] = max(0.0, now - row["last_seen"])
            row["busy"] = row.pop("busy_s") / seconds if seconds else 0.0
            row["agent_cpu"] = row.pop("cpu_ns") / 1e9 / seconds if seconds else 0.0
            runs, total = row.pop("bpf_runs"), row.pop("bpf_total")
            row["bpf_ns"] = total / runs if runs else None
            row["lost_by"] = {key: value for key, value in row["lost_by"].items() if value}
        return rows

    def series(self, selection: Selection, by: str = "") -> list[dict[str, Any]]:
        """CPUs busy (in what was sampled) by minute: `t` in seconds, `busy`, `samples`, and the label `by`."""
        if by and by not in ("host", "event", "service", "container", "process"):
            raise BadQuery("`by` must be host, event, service, container or process")
        for matcher in selection.matchers:
            if matcher.label in ("pid", "thread", "comm"):
                raise BadQuery(f"series are kept by process and not by {matcher.label}: use q=process=…")
        where, parameters = selection.where(None, samples=True, time="t")
        label = f", toString({by}) AS {by}" if by else ""
        return self.store.rows(
            f"SELECT toUnixTimestamp(t) AS at, sum(value) AS samples, sum(value / hz) / 60 AS busy{label}"
            f" FROM series_1m WHERE {where} GROUP BY at{', ' + by if by else ''}"
            f" ORDER BY at{', ' + by if by else ''} LIMIT {MAX_POINTS}",
            parameters,
        ).dicts()

    def labels(self, selection: Selection, label: str, limit: int = MAX_VALUES) -> list[dict[str, Any]]:
        """The values of a label in a selection with their samples, heaviest first."""
        if label not in LABELS:
            raise BadQuery(f"unknown label; known are {', '.join(LABELS)}")
        where, parameters = selection.where(self.store.horizon, samples=True)
        parameters["limit"] = limit
        if label == "comm":
            value, source = "arrayJoin(arrayDistinct([toString(process), toString(thread)]))", "process, thread"
        else:
            value, source = f"toString({label})", label
        return self.store.rows(
            f"SELECT {value} AS name, sum(value) AS samples FROM"
            f" (SELECT {source}, value FROM samples WHERE {where})"
            " GROUP BY name ORDER BY samples DESC, name LIMIT {limit:UInt32}",
            parameters,
        ).dicts()


def host_title(hosts: tuple[str, ...]) -> str:
    """The host of a selection, as people see it."""
    return ", ".join(hosts) if len(hosts) <= 3 else f"{len(hosts)} hosts"


def _accounted(overview: Overview, selection: Selection, groups: list[st.Group], stacks: st.Stacks) -> Overview:
    if not selection.filters_samples:
        return overview
    whole = overview.accounting
    shown = sum(int(group.counts.sum()) for group in groups)
    frames = st.count_frames(groups, stacks)
    accounting = Accounting(
        expected=whole.expected,
        ticks=whole.ticks,
        idle=whole.idle,
        filtered=whole.filtered + whole.sampled - shown,
        sampled=shown,
        lost=whole.lost,
        frames_named=frames.named,
        frames_unknown=frames.unknown,
        cost=whole.cost,
    )
    return Overview(
        overview.event,
        overview.windows,
        overview.hosts,
        overview.hz,
        overview.start_ns,
        overview.end_ns,
        overview.labels,
        accounting,
    )


def _shared(labels: list[dict[str, str]]) -> dict[str, str]:
    first, *others = labels
    return {key: value for key, value in sorted(first.items()) if all(other.get(key) == value for other in others)}
