"""Sums by label and over time, from the smallest table that knows enough: series_1m, stacks_1h or samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from web.store.selection import LABELS, Selection
from web.store.store import BadQuery, Store
from web.store.sums import HOUR_S, Plan, label_sets, source_of, weighed, with_labels
from web.store.windows import at_rate, rate_of

MAX_POINTS: Final = 100_000
MAX_VALUES: Final = 1000
STEPS: Final = (10, 86_400)  # seconds
NOT_BY_MINUTE: Final = ("pid", "thread", "comm")


def check_step(step: int) -> None:
    """Raises BadQuery."""
    if not STEPS[0] <= step <= STEPS[1] or step % 10:
        raise BadQuery(f"`step` must be a multiple of 10 from {STEPS[0]} to {STEPS[1]:,} seconds")


def series_of(store: Store, selection: Selection, horizon: int, by: Sequence[str], step: int) -> list[dict[str, Any]]:
    """CPUs busy (in what was sampled) by step: `at` in seconds, `samples`, `busy`, and each label of `by`.

    Samples are at the common rate of all points (rounded if there is none). Steps of whole minutes have the minutes
    that start in the range. Raises BadQuery.
    """
    check_step(step)
    columns = tuple(dict.fromkeys(label if label in LABELS else "label_set" for label in by))
    if "comm" in columns:
        raise BadQuery("comm is the name of a process or of a thread: choose by=process, or by=thread")
    source, parameters = over_time(selection, horizon, columns, step)
    named = "".join(f", toString({column}) AS v_{column}" for column in columns)
    keys = "".join(f", v_{column}" for column in columns)
    rows = store.rows(
        f"SELECT at{keys}, mapFromArrays(groupArray(hz), groupArray(samples)) AS by_rate FROM"
        f" (SELECT intDiv(toUnixTimestamp(time), {step:d}) * {step:d} AS at, hz{named}, sum(value) AS samples"
        f" FROM ({source}) GROUP BY at, hz{keys}) GROUP BY at{keys} ORDER BY at{keys} LIMIT {MAX_POINTS + 1}",
        parameters,
    ).rows
    if len(rows) > MAX_POINTS:
        raise BadQuery(f"this has more than {MAX_POINTS:,} points: choose a longer `step`, or a shorter range")
    sets = label_sets(store, {row[1 + columns.index("label_set")] for row in rows}) if "label_set" in columns else {}
    rate = rate_of({hz for row in rows for hz in row[-1]})
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for at, *values, by_rate in rows:
        named_values = dict(zip(columns, values, strict=True))
        labels = {
            label: named_values[label] if label in LABELS else sets[named_values["label_set"]].get(label, "")
            for label in by
        }
        point = points.setdefault((at, *labels.values()), {"at": at, "samples": 0, "busy": 0.0, **labels})
        point["samples"] += sum(at_rate(value, hz, rate) for hz, value in by_rate.items())
        point["busy"] += sum(value / hz for hz, value in by_rate.items()) / step
    return list(points.values())


def over_time(selection: Selection, horizon: int, columns: Sequence[str], step: int) -> tuple[str, dict[str, Any]]:
    """SQL that gives `columns`, `hz`, `value` and `time` of a selection, near enough for steps of so many seconds, and
    its parameters."""
    needed = {*columns, *(matcher.label for matcher in selection.matchers)}
    if step % 60 == 0 and not needed & {*NOT_BY_MINUTE}:
        where, parameters = selection.where(None, samples=True, time="t")
        named = ", ".join(dict.fromkeys((*columns, "hz", "value")))
        return f"SELECT {named}, t AS time FROM series_1m WHERE {where}", parameters
    hours = -(-selection.since // HOUR_S) * HOUR_S, selection.until // HOUR_S * HOUR_S
    by_hour = step % HOUR_S == 0 and "pid" not in needed and hours[0] < hours[1]
    plan = Plan(*hours) if by_hour else Plan(0, 0)
    return source_of(selection, horizon, plan, dict.fromkeys((*columns, "hz")))


def values_of(
    store: Store, selection: Selection, horizon: int, plan: Plan, rates: Sequence[int], label: str, limit: int
) -> list[dict[str, Any]]:
    """The values of a label in a selection with their samples, heaviest first, at the common rate of `rates`."""
    column = label if label in LABELS else "label_set"
    columns = ("process", "thread") if label == "comm" else (column,)
    source, parameters = source_of(selection, horizon, plan, dict.fromkeys((*columns, "hz")))
    value = "arrayJoin(arrayDistinct([toString(process), toString(thread)]))" if label == "comm" else column
    if column == "label_set":
        parameters["label"] = label
        value = "labels[{label:String}]"
        source = with_labels(source)
    parameters["limit"] = limit
    return store.rows(
        f"SELECT toString({value}) AS name, sum({weighed('value', rates)}) AS samples FROM ({source})"
        " GROUP BY name ORDER BY samples DESC, name LIMIT {limit:UInt32}",
        parameters,
    ).dicts()
