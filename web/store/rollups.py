"""The rollups that the engine makes of samples by itself, and how one is made right again.

A materialized view adds each block of samples to its rollup as it is inserted. The two are not atomic, and what is
deleted from samples stays in the rollup: so whatever undoes samples makes the times it touched again, from the samples
that remain.

Rollups know nothing of batches, and so nothing of `Store.horizon`. A reader that wants exact sums takes whole hours (or
minutes) of a rollup, and compares their sum with sum(sampled) of `windows` under the horizon for the same hosts, events
and times: where the two differ, a commit is under way or being undone, and the samples themselves give the answer. A
selection by what windows don't have (service, process, …) is exact where the sum over all values of those is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from web.store.store import Store


@dataclass(frozen=True, slots=True)
class Rollup:
    """A table with sums of samples by `keys` and `t`, which is `start` of their time: as its view in schema.sql."""

    name: str
    start: str
    keys: tuple[str, ...]


_COMMON: Final = ("host", "event", "hz", "label_set", "service", "container", "cpu_kind", "process")
ROLLUPS: Final = (
    Rollup("series_1m", "toStartOfMinute", _COMMON),
    Rollup("stacks_1h", "toStartOfHour", (*_COMMON, "thread", "stack")),
)


def remake(store: Store, rollup: Rollup, times: Sequence[datetime]) -> None:
    """Make the rows of `rollup` at `times` (values of `t`) again from the samples there are.

    Nothing may write samples of those times meanwhile, nor may any of them have expired. May be interrupted and
    repeated.
    """
    keys = ", ".join(rollup.keys)
    store.alter(rollup.name, "DELETE WHERE t IN {times:Array(DateTime('UTC'))}", {"times": list(times)})
    for time in times:  # one by one: an hour of many hosts takes some memory
        store.command(
            f"INSERT INTO {rollup.name} (t, {keys}, value)"
            f" SELECT {rollup.start}(ts) AS t, {keys}, sum(value)"
            f" FROM samples WHERE {rollup.start}(ts) = {{time:DateTime('UTC')}} GROUP BY ALL",
            {"time": time},
        )
