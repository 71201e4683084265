"""Sums of samples by stack: of whole hours from the rollup stacks_1h, of the ragged ends from samples, exactly.

The rollup knows nothing of `Store.horizon`, and is not written atomically with samples. So what it gives is compared
with the number of samples that the windows of the same hours say they have, under the horizon: an hour where the two
differ is read from samples instead. Where an hour's samples have expired, the rollup is all there is.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profiler.model import common_rate
from web.store.ragged import Integers
from web.store.selection import LABELS, Selection
from web.store.stackcache import Ids
from web.store.store import BadQuery, Store

HOUR_S: Final = 3600
MAX_GROUPS: Final = 20_000
MAX_ROWS: Final = 6_000_000
_KEPT_NAMES: Final = 200_000
_CHOSEN: Final = 5_000  # more ids than that are no parameter any more


@dataclass(frozen=True, slots=True)
class Sums:
    """Counts of stacks: counts[i] (int64) of the stack with the id stacks[i], below keys[key[i]], in the step at[i].

    A key has the values of `labels`, those that were asked for. `at` is in seconds since 1970; all 0 where there are no
    steps. The same stack may occur twice below one key.
    """

    keys: list[tuple[str, ...]]
    key: Integers
    at: Integers
    stacks: Ids
    counts: Integers
    labels: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a selection is read from: hours of [first, last) but those of `raw` from stacks_1h, all else from samples.

    In seconds since 1970.
    """

    first: int
    last: int
    raw: tuple[int, ...] = ()

    @property
    def has_hours(self) -> bool:
        return self.first < self.last


NO_HOURS: Final = Plan(0, 0)


def weighed(column: str, rates: Sequence[int]) -> str:
    """SQL for a count in `column`, taken at its row's `hz`, at the common rate of all `rates` (see common_rate)."""
    rate = common_rate(rates)
    if rate is None:
        raise ValueError(f"no common rate of {rates}")
    return column if set(rates) == {rate} else f"{column} * intDiv({rate}, hz)"


def whole_hours(selection: Selection, labels: Sequence[str]) -> Plan:
    """The hours that the rollup can give, for a selection whose sums are asked for by `labels`."""
    needed = {*labels, *(matcher.label for matcher in selection.matchers)}
    if "pid" in needed:
        return NO_HOURS
    first = -(-selection.since // HOUR_S) * HOUR_S
    last = selection.until // HOUR_S * HOUR_S
    return Plan(first, last) if first < last else NO_HOURS


class Summing:
    """Reads sums. It keeps the names of the groups that it met; safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Rows are grouped by a hash of their names, which takes a third of the time that the names themselves would.
        # Nobody who chooses names knows what it is made with, and so cannot make two of them meet.
        self._salt = secrets.randbits(63), secrets.randbits(63)
        self._factors = [secrets.randbits(63) | 1 for _ in range(16)]
        self._names: dict[tuple[str, ...], dict[int, tuple[str, ...]]] = {}

    def fetch(
        self,
        selection: Selection,
        horizon: int,
        rates: Sequence[int],
        labels: Sequence[str],
        *,
        whole: int | None = None,
        step: int = 0,
        stacks: Ids | None = None,
    ) -> Sums:
        """The sums of a resolved selection by stack and `labels`, at the common rate of its windows' `rates`.

        `whole` is what they must add up to, if that is known: all samples of the windows, where nothing filters them.
        By steps of so many seconds where `step` is given; only of some `stacks` (ascending) where those are.
        Raises BadQuery where it is too much.
        """
        plan = whole_hours(selection, labels)
        if step % HOUR_S:
            plan = NO_HOURS
        found = self._read(selection, horizon, rates, labels, plan, step, stacks)
        if plan.has_hours and (whole is None or stacks is not None or found.total != whole):
            checked = replace(plan, raw=self._differing(selection, horizon, plan))
            if checked.raw:
                found = self._read(selection, horizon, rates, labels, checked, step, stacks)
        return found

    def plan(self, selection: Selection, horizon: int, labels: Sequence[str]) -> Plan:
        """Where the sums of a selection by `labels` can be read from, exactly."""
        plan = whole_hours(selection, labels)
        return replace(plan, raw=self._differing(selection, horizon, plan)) if plan.has_hours else plan

    def _differing(self, selection: Selection, horizon: int, plan: Plan) -> tuple[int, ...]:
        """The hours of which samples tell more nearly than the rollup how many samples there were."""
        windows = replace(selection.of_windows, since=plan.first, until=plan.last)

        def by_hour(time: str, column: str, table: str, horizon: int | None, of: Selection = windows) -> dict[int, int]:
            where, parameters = of.where(horizon, samples=table != "windows", time=time)
            sql = f"SELECT toUnixTimestamp(toStartOfHour({time})) AS at, sum({column}) FROM {table} WHERE {where}"
            return dict(self._store.rows(f"{sql} GROUP BY at", parameters).rows)

        due = by_hour("ts", "sampled", "windows", horizon)
        rollup = by_hour("t", "value", "stacks_1h", None)
        differing = [at for at in sorted({*due, *rollup}) if due.get(at, 0) != rollup.get(at, 0)]
        if not differing:
            return ()
        between = replace(windows, since=differing[0], until=differing[-1] + HOUR_S)
        samples = by_hour("ts", "value", "samples", horizon, between)
        return tuple(
            at
            for at in differing
            if abs(samples.get(at, 0) - due.get(at, 0)) <= abs(rollup.get(at, 0) - due.get(at, 0))
        )

    def _read(
        self,
        selection: Selection,
        horizon: int,
        rates: Sequence[int],
        labels: Sequence[str],
        plan: Plan,
        step: int,
        stacks: Ids | None,
    ) -> Sums:
        columns = tuple(dict.fromkeys(label if label in LABELS else "label_set" for label in labels))
        numbers = ("pid", "hz", "label_set")
        texts = [f"toString({name})" if name in numbers else name for name in columns]
        salt = f"(toUInt64({self._salt[0]}), toUInt64({self._salt[1]}))"
        hashes = [
            f"{factor} * sipHash64Keyed({salt}, {text})" for factor, text in zip(self._factors, texts, strict=False)
        ]
        base = " + ".join(hashes) or "toUInt64(0)"
        source, parameters = source_of(
            selection, horizon, plan, dict.fromkeys((*columns, "stack", "hz")), _chosen(stacks)
        )
        if stacks is not None and len(stacks) <= _CHOSEN:
            parameters["stacks"] = stacks.tolist()
        at = f"toUInt32(intDiv(toUnixTimestamp(time), {step:d}) * {step:d})" if step else "toUInt32(0)"
        answer = self._store.raw(
            "SELECT groupArray(base), groupArray(at), groupArray(stack), groupArray(count) FROM"
            f" (SELECT {base} AS base, {at} AS at, stack, sum({weighed('value', rates)}) AS count"
            f" FROM ({source}) GROUP BY base, at, stack LIMIT {MAX_ROWS + 1})",
            parameters,
        )
        bases: Ids = answer.array(np.uint64)
        times = answer.array(np.uint32).astype(np.int64)
        ids: Ids = answer.array(np.uint64)
        counts = answer.array(np.uint64).astype(np.int64)
        if len(ids) > MAX_ROWS:
            raise BadQuery(
                f"this has more than {MAX_ROWS:,} sums of stacks: choose a shorter range, one host, or fewer labels to"
                " group by"
            )
        distinct, key = np.unique(bases, return_inverse=True)
        if len(distinct) > MAX_GROUPS:
            raise BadQuery(
                f"this has more than {MAX_GROUPS:,} groups: group by fewer labels, or choose a shorter range"
            )
        names = self._named(columns, distinct.tolist(), base, texts, source, parameters)
        place = columns.index("label_set") if "label_set" in columns else None
        sets = label_sets(self._store, {named[place] for named in names}) if place is not None else {}
        keys = [
            tuple(
                named[columns.index(label)] if label in LABELS else sets[named[place or 0]].get(label, "")
                for label in labels
            )
            for named in names
        ]
        sums = Sums(keys, key.astype(np.int64), times, ids, counts, tuple(labels))
        return sums if stacks is None or len(stacks) <= _CHOSEN else _only(sums, stacks)

    def _named(
        self,
        columns: tuple[str, ...],
        bases: list[int],
        base: str,
        texts: list[str],
        source: str,
        parameters: dict[str, Any],
    ) -> list[tuple[str, ...]]:
        """The values of `columns` that each of `bases` is the hash of."""
        if not columns:
            return [()] * len(bases)
        known = self._names.get(columns, {})
        if any(number not in known for number in bases):
            values = ", ".join(f"toString(any({text})) AS v{i}" for i, text in enumerate(texts))
            rows = self._store.rows(f"SELECT {base} AS base, {values} FROM ({source}) GROUP BY base", parameters).rows
            read = {row[0]: row[1:] for row in rows}
            # Never changed in place: another thread may be reading it.
            kept = known if len(known) + len(read) <= _KEPT_NAMES else {}
            known = {**kept, **read}
            self._names = {**self._names, columns: known}
        return [known[number] for number in bases]


def label_sets(store: Store, ids: set[str]) -> dict[str, dict[str, str]]:
    """The labels of sets by id, which is a number in text."""
    rows = store.rows(
        "SELECT toString(id), labels FROM label_sets WHERE id IN {ids:Array(UInt64)} LIMIT 1 BY id",
        {"ids": sorted(map(int, ids))},
    ).rows
    return {**{number: {} for number in ids}, **dict(rows)}


def with_labels(source: str) -> str:
    """SQL that gives the `labels` that users added beside `hz`, `value` and `time` of a source with its `label_set`."""
    return (
        f"SELECT labels, hz, value, time FROM ({source}) AS s LEFT ANY JOIN"
        " (SELECT id, labels FROM label_sets LIMIT 1 BY id) AS l ON s.label_set = l.id"
    )


def _chosen(stacks: Ids | None) -> str:
    return "stack IN {stacks:Array(UInt64)}" if stacks is not None and len(stacks) <= _CHOSEN else ""


def _only(sums: Sums, stacks: Ids) -> Sums:
    chosen: NDArray[np.bool_] = np.isin(sums.stacks, stacks)
    return replace(
        sums, key=sums.key[chosen], at=sums.at[chosen], stacks=sums.stacks[chosen], counts=sums.counts[chosen]
    )


def source_of(
    selection: Selection, horizon: int, plan: Plan, columns: Sequence[str] | dict[str, None], only: str = ""
) -> tuple[str, dict[str, Any]]:
    """SQL that gives `columns`, `value` and `time` of the samples of a selection, and its parameters.

    `value` is at the rate of its row; `only` is one more condition.
    """
    named = ", ".join((*columns, "value"))
    parts = []
    where, parameters = selection.where(horizon, samples=True)
    terms = [where, *([only] if only else [])]
    if plan.has_hours:
        ends = ["ts < toDateTime({h_since:UInt32}, 'UTC')", "ts >= toDateTime({h_until:UInt32}, 'UTC')"]
        if plan.raw:
            ends.append("toStartOfHour(ts) IN {raw:Array(DateTime('UTC'))}")
            parameters["raw"] = list(plan.raw)
        terms.append(f"({' OR '.join(ends)})")
    if plan.raw or (plan.first, plan.last) != (selection.since, selection.until):
        parts.append(f"SELECT {named}, ts AS time FROM samples WHERE {' AND '.join(terms)}")
    if plan.has_hours:
        hours = replace(selection, since=plan.first, until=plan.last)
        where, more = hours.where(None, samples=True, time="t", prefix="h_")
        parameters |= more
        terms = [where, *([only] if only else [])]
        if plan.raw:
            terms.append("t NOT IN {raw:Array(DateTime('UTC'))}")
        parts.append(f"SELECT {named}, t AS time FROM stacks_1h WHERE {' AND '.join(terms)}")
    return " UNION ALL ".join(parts), parameters
