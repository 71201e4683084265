"""The windows of a selection: how many, of whom, at which rates, and the sum of their accounting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.model import Accounting, Cost, Unwinding, common_rate
from web.store.rows import ACCOUNTING, COST
from web.store.selection import LABELS, LAST_S, SAMPLE_LABELS, Selection
from web.store.store import BadQuery, Store
from web.store.sums import weighed

_MAX_RATES: Final = 240  # no number up to model.MAX_HZ has more divisors, so more rates have no common one
_MAX_NAMES: Final = 1000


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

    @property
    def per_sample(self) -> int:
        """The most that one sample counts for: those of the lowest rate."""
        return self.hz // self.rates[0]


def overview_of(store: Store, selection: Selection, horizon: int) -> Overview:
    """The windows of a resolved selection and the sum of their accounting, filters of samples left out.

    How stacks were walked is known of whole windows alone, and not told where samples are filtered. Raises
    MixedRates where counts of the windows cannot be added up.
    """
    where, parameters = selection.where(horizon, samples=False)
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*ACCOUNTING, *COST[:3]))
    tops = ", ".join(f"max({name}) AS {name}" for name in COST[3:])
    of_rates = store.rows(
        f"SELECT hz, any(event) AS the_event, count() AS windows, groupUniqArray(host) AS hosts,"
        f" min(start_ns) AS first_ns, max(end_ns) AS last_ns,"
        f" groupUniqArray(1000)(labels) AS all_labels, {sums}, {tops},"
        f" sumMap(CAST(lost, 'Map(String, UInt64)')) AS all_lost,"
        f" sumMap(CAST(frames_unknown, 'Map(String, UInt64)')) AS all_unknown"
        f" FROM windows WHERE {where} GROUP BY hz ORDER BY hz LIMIT {_MAX_RATES + 1}",
        parameters,
    ).dicts()
    if not of_rates:
        raise Empty(why_empty(store, selection))
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
        else replace(accounting, unwinding=_unwinding(store, where, parameters, rates)),
    )


def _unwinding(store: Store, where: str, parameters: dict[str, Any], rates: Sequence[int]) -> Unwinding:
    return Unwinding.from_counts(
        dict(
            store.rows(
                # The map's columns as they are: of mapKeys() the engine makes one of its own first.
                f"SELECT toString(fate), sum({weighed('number', rates)}) FROM windows"
                f" ARRAY JOIN unwinding.keys AS fate, unwinding.values AS number WHERE {where}"
                " GROUP BY fate ORDER BY fate",
                parameters,
            ).rows
        )
    )


def why_empty(store: Store, selection: Selection) -> str:
    """One sentence that says why a selection has no window."""
    horizon = {"horizon": store.horizon}
    (any_windows,) = store.rows("SELECT count() FROM windows WHERE batch <= {horizon:UInt32}", horizon).rows[0]
    if not any_windows:
        return "There are no profiles yet; the first arrives some ten seconds after an agent starts."
    anywhere = replace(selection, since=0, until=LAST_S)
    where, parameters = anywhere.where(store.horizon, samples=False)
    count, first, last = store.rows(f"SELECT count(), min(ts), max(ts) FROM windows WHERE {where}", parameters).rows[0]
    if count:
        times = f"{first:%Y-%m-%d %H:%M:%S}", f"{last:%Y-%m-%d %H:%M:%S}"
        return f"No profile starts in this range; the oldest is of {times[0]} UTC, the newest of {times[1]} UTC."
    added = user_labels(store)
    unknown = [m.label for m in selection.matchers if m.label not in LABELS and m.label not in added]
    if unknown:
        return f"No profile has a label {unknown[0]!r}; there are {', '.join((*LABELS, *added))}."
    filters = ", ".join(str(m)[:80] for m in selection.matchers if m.label not in SAMPLE_LABELS)
    return f"No profile has {filters}, at any time."


def rates_of(store: Store, selection: Selection, horizon: int) -> list[int]:
    """The rates of a selection's windows, ascending. Raises MixedRates."""
    where, parameters = selection.where(horizon, samples=False)
    rates = [
        row[0]
        for row in store.rows(
            f"SELECT DISTINCT hz FROM windows WHERE {where} ORDER BY hz LIMIT {_MAX_RATES + 1}", parameters
        ).rows
    ]
    if common_rate(rates) is None:
        raise MixedRates(rates)
    return rates


def user_labels(store: Store) -> list[str]:
    """The names of all labels that users gave their agents."""
    rows = store.rows(
        f"SELECT DISTINCT arrayJoin(mapKeys(labels)) AS name FROM label_sets ORDER BY name LIMIT {_MAX_NAMES}"
    ).rows
    return [row[0] for row in rows]


def rate_of(rates: Iterable[int]) -> int:
    """The common rate, or where there is none the highest."""
    distinct = set(rates) or {1}
    return common_rate(distinct) or max(distinct)


def at_rate(count: int, hz: int, rate: int) -> int:
    """A count taken at `hz`, at `rate`."""
    return (count * rate + hz // 2) // hz


def host_title(hosts: tuple[str, ...]) -> str:
    """The host of a selection, as people see it."""
    return ", ".join(hosts) if len(hosts) <= 3 else f"{len(hosts)} hosts"


def rates_title(rates: Sequence[int]) -> str:
    """The rates of a selection, ascending, and how they are counted together, as people read it."""
    hz = rate_of(rates)
    weighed = [f"{rate:,} Hz × {hz // rate}" for rate in rates if rate != hz]
    if not weighed:
        return f"{hz:,} Hz"
    if len(weighed) > 4:
        weighed[3:] = [f"{len(weighed) - 3} other rates"]
    named = " and ".join(filter(None, (", ".join(weighed[:-1]), weighed[-1])))
    return f"{hz:,} Hz, partly weighed: {named}" if hz in rates else f"{hz:,} Hz, weighed: {named}"


def _shared(labels: list[dict[str, str]]) -> dict[str, str]:
    first, *others = labels
    return {key: value for key, value in sorted(first.items()) if all(other.get(key) == value for other in others)}
