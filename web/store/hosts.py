"""Hosts and their load, and what profiling them costs: all of it known from windows alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from web.store.selection import LAST_S, Matcher, Selection
from web.store.store import Store
from web.store.windows import at_rate, rate_of

MAX_POINTS: Final = 100_000
_MOST_LOADS: Final = 1_000_000
_MOST_AGENTS: Final = 10_000
_AT_ONCE_NS: Final = 20 * 10**9  # an agent that is started anew may share a window's seconds with the one before


def hosts(
    store: Store,
    since: int,
    now: float | None = None,
    until: int | None = None,
    matchers: tuple[Matcher, ...] = (),
) -> list[dict[str, Any]]:
    """Each host and event that the store knows and `matchers` fit, last seen first, with sums of the windows from
    `since` on, up to `until` where that is given.

    `busy` is CPUs busy on average, `cpus` those online (None where the agent does not say);
    `agent_cpu` is a share of one CPU, `bpf_ns` a tick's; `lost_by` is by reason. `hz` is the rate of the
    last window, `rates` are those of the range; counts are at the common one (rounded if there is none).
    `late_s` is the least time from a window's end, by the host's clock, until it was received by the server's: some
    seconds, unless the clocks differ (then it is below 0 where the host's is ahead) or the host was out of reach.
    `unknown` is the share of frames that have no name, None where there are none.
    """
    now = time.time() if now is None else now
    recent = "ts >= toDateTime({since:UInt32}, 'UTC') AND ts < toDateTime({until:UInt32}, 'UTC')"
    chosen, parameters = Selection(0, LAST_S, matchers).where(store.horizon, samples=False, prefix="any_")
    rows = store.rows(
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
        f" sumIf(frames_named, {recent}) AS named,"
        f" sumIf(arraySum(mapValues(frames_unknown)), {recent}) AS unknown,"
        f" sumIf(bpf_ns, {recent}) AS bpf_total, sumIf(bpf_runs, {recent}) AS bpf_runs,"
        f" sumIf(agent_cpu_ns, {recent}) AS cpu_ns, argMax(rss_bytes, ts) AS rss_bytes,"
        " argMax(locked_bytes, ts) AS locked_bytes, argMax(labels, ts) AS labels,"
        f" minOrNullIf((toInt64(received) * 1000000000 - toInt64(end_ns)) / 1e9, {recent} AND toInt64(received) > 0)"
        " AS late_s"
        f" FROM (SELECT * FROM windows WHERE {chosen} AND (({recent}) OR (host, event, ts) IN"
        f" (SELECT host, event, max(ts) FROM windows WHERE {chosen} GROUP BY host, event)))"
        " GROUP BY host, event, hz ORDER BY host, event, last_seen",
        {**parameters, "since": since, "until": LAST_S if until is None else until},
    ).dicts()
    by_host: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_host.setdefault((row["host"], row["event"]), []).append(row)
    found = [_host(of_rates, now) for of_rates in by_host.values()]
    return sorted(found, key=lambda row: (-row["last_seen"], -row["samples"], row["host"], row["event"]))


@dataclass(frozen=True, slots=True)
class Agents:
    """`number` agents sent windows of one host and event at a time; `seconds` is when they last did, since 1970."""

    number: int
    seconds: float


def at_once(store: Store, since: int, until: int) -> dict[tuple[str, str], Agents]:
    """Hosts and events that more than one agent sent at a time: each has an id and an epoch, that of its start."""
    rows = store.rows(
        "SELECT toString(host), toString(event), min(start_ns) AS first, max(end_ns) AS last FROM windows"
        " WHERE ts >= toDateTime({since:UInt32}, 'UTC') AND ts < toDateTime({until:UInt32}, 'UTC')"
        " AND batch <= {horizon:UInt32} AND agent != ''"
        f" GROUP BY host, event, agent, epoch ORDER BY last DESC, first LIMIT {_MOST_AGENTS}",
        {"since": since, "until": until, "horizon": store.horizon},
    ).rows
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for host, event, first, last in rows:
        spans.setdefault((host, event), []).append((first, last))
    found = {}
    for key, of_host in spans.items():
        for first, last in of_host:  # the last seen first
            others = [min(last, end) for start, end in of_host if min(last, end) - max(first, start) > _AT_ONCE_NS]
            if len(others) > 1:  # itself, and another
                found[key] = Agents(len(others), sorted(others)[-2] / 1e9)
                break
    return found


def loads(store: Store, selection: Selection, step: int) -> dict[tuple[str, str], dict[int, float]]:
    """CPUs busy by host and event, and by steps of so many seconds: of the seconds of a step that there are windows
    of. As far as windows know, that is of all ticks that were not idle."""
    where, parameters = selection.where(store.horizon, samples=False)
    rows = store.rows(
        f"SELECT toString(host), toString(event), intDiv(toUnixTimestamp(ts), {step:d}) * {step:d} AS at,"
        " sum((toInt64(ticks) - toInt64(idle)) / hz) / greatest(max((end_ns - start_ns) / 1e9),"
        f" least(sum((end_ns - start_ns) / 1e9), {step:d})) FROM windows"
        f" WHERE {where} AND end_ns > start_ns GROUP BY host, event, at ORDER BY at LIMIT {_MOST_LOADS}",
        parameters,
    ).rows
    found: dict[tuple[str, str], dict[int, float]] = {}
    for host, event, at, busy in rows:
        found.setdefault((host, event), {})[at] = busy
    return found


def costs(store: Store, selection: Selection, step: int) -> list[dict[str, Any]]:
    """What profiling cost in a resolved selection, by steps of so many seconds: `t` in seconds, the rate `hz`
    in force at its end, `bpf_ns` a tick (None where unknown), `bpf_cpu` and `agent_cpu` as shares of one CPU,
    and the most of `rss_bytes` and `locked_bytes`. Of several hosts it is the sum, and the most.
    """
    where, parameters = selection.where(store.horizon, samples=False)
    return store.rows(
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


_COUNTS: Final = ("ticks", "idle", "samples", "filtered", "lost", "missed")


def _host(of_rates: list[dict[str, Any]], now: float) -> dict[str, Any]:
    """One host and event from its rows by rate, the last seen one last."""
    row = dict(of_rates[-1])
    row["rates"] = sorted(part["hz"] for part in of_rates if part["windows"])
    rate = rate_of(row["rates"])
    for name in _COUNTS:
        row[name] = sum(at_rate(part[name], part["hz"], rate) for part in of_rates)
    lost_by: dict[str, int] = {}
    for part in of_rates:
        for reason, count in part["lost_by"].items():
            lost_by[reason] = lost_by.get(reason, 0) + at_rate(count, part["hz"], rate)
    row["lost_by"] = {reason: count for reason, count in sorted(lost_by.items()) if count}
    for name in ("windows", "seconds", "busy_s", "online_s", "bpf_total", "bpf_runs", "cpu_ns"):
        row[name] = sum(part[name] for part in of_rates)
    # Shares of frames do not depend on the rate.
    named, unknown = (sum(part[name] for part in of_rates) for name in ("named", "unknown"))
    del row["named"]
    row["unknown"] = unknown / (named + unknown) if named + unknown else None
    row["late_s"] = min((part["late_s"] for part in of_rates if part["late_s"] is not None), default=None)
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
