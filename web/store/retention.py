"""How long the store keeps what, as the TTLs of its tables: they are the one place where it is written down.

Samples are kept for so many days, rollups at least as long. Windows, whose accounting belongs to both, go with the
rollups, and so do captures and annotations. Pushes, and what samples and rollups refer to by id, outlive those by a
month: rows of content carry the day on which they were last sent, pushes tell which batch is the newest that is whole.
The engine drops a day's part once all of it has expired, some hours after it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from web.store.store import Store

MAX_DAYS: Final = 3650
_OUTLIVES: Final = 30
_CAPTURES: Final = ("captures", "capture_profiles")
_SETTABLE: Final = ("samples", "rollups")
_ROLLUPS: Final = ("windows", "series_1m", "stacks_1h", "functions_1h", "function_hours", "annotations", *_CAPTURES)
_CONTENT: Final = ("stacks", "frames", "label_sets", "names", "functions", "pushes")
_TIME: Final = {
    **dict.fromkeys(("samples", "windows"), "ts"),
    **dict.fromkeys(_ROLLUPS[1:], "t"),
    **dict.fromkeys(_CONTENT, "seen"),
    **dict.fromkeys(_CAPTURES, "taken"),
    "pushes": "received",
}
_DAYS: Final = re.compile(r"(?P<time>\w+) \+ toIntervalDay\((?P<days>\d+)\)")


class BadRetention(ValueError):
    """What is asked for makes no sense; the message is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Days that samples, and rollups with windows, are kept."""

    samples: int = 14
    rollups: int = 90

    @property
    def max_age_s(self) -> int:
        """The age from which on a window is not taken any more: it would expire before a failed commit is undone."""
        return self.samples * 86400 - (86400 if self.samples > 1 else 43200)

    def days(self, table: str) -> int:
        if table == "samples":
            return self.samples
        return self.rollups + (0 if table in _ROLLUPS else _OUTLIVES)


def changed(retention: Retention, days: Mapping[str, Any]) -> Retention:
    """`retention` with other days, by name, as numbers or texts like "14d". Raises BadRetention."""
    for name in days:
        if name not in _SETTABLE:
            raise BadRetention(f"{name[:80]!r} has no retention of its own: there are samples and rollups")
    found = replace(retention, **{name: _days(value, name) for name, value in days.items()})
    if found.rollups < found.samples:
        raise BadRetention(
            f"rollups are kept at least as long as samples: {found.rollups} days are fewer than {found.samples}"
        )
    return found


def _days(value: Any, name: str) -> int:
    text = str(value).strip().lower().removesuffix("d") if isinstance(value, int | str) else ""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_DAYS) or isinstance(value, bool):
        raise BadRetention(f"{name} are kept for a whole number of days, from 1 to {MAX_DAYS}: not {str(value)[:40]!r}")
    return int(text)


def in_force(store: Store) -> dict[str, int]:
    """Days by table, as the store has them."""
    found: dict[str, int] = {}
    for table, text in store.create_statements().items():
        match = _DAYS.search(text)
        if table in _TIME and match:
            found[table] = int(match["days"])
    return found


def read(store: Store) -> Retention:
    """What the store was last told."""
    days = in_force(store)
    return Retention(days["samples"], days["stacks_1h"])


def apply(store: Store, retention: Retention) -> list[str]:
    """Have the store keep things that long; returns the tables that were told otherwise before.

    Samples come last, so that what they need is never kept shorter.
    """
    days = in_force(store)
    tables = [table for table in (*_CONTENT, *_ROLLUPS, "samples") if days.get(table) != retention.days(table)]
    for table in tables:
        # Rows that are there get their new time in the background; this may be read again from a cold disk.
        store.alter(
            table,
            f"MODIFY TTL {_TIME[table]} + INTERVAL {retention.days(table):d} DAY",
            settings={"mutations_sync": 0},
        )
    return tables
