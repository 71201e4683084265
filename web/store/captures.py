"""Captures in the store: each as it was last, and the profile it ended with.

They have tables of their own, and a profile is kept whole and exact: it counts in no sum of the history.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from profiler.capture_protocol import Request
from profiler.formats.json import read_json, write_json
from profiler.model import Profile
from web.store.store import Store

_TYPES: Final = {
    "id": "String",
    "name": "String",
    "host": "String",
    "event": "LowCardinality(String)",
    "seconds": "Float64",
    "hz": "UInt32",
    "pids": "Array(UInt32)",
    "cgroups": "Array(String)",
    "state": "LowCardinality(String)",
    "cancel": "Bool",
    "problem": "String",
    "created": "Float64",
    "started": "Float64",
    "ended": "Float64",
    "done": "Float64",
    "samples": "UInt64",
    "profiled": "Bool",
    "agent": "String",
    "epoch": "String",
}


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def over(self) -> bool:
        return self not in (State.WAITING, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Capture:
    """What was asked for (`hz` 0: the always-on rate), and what came of it.

    Times are seconds since 1970, 0 for never. `done` is how many of its seconds are over, `samples` how many it has;
    `profiled` says that there is a profile, of what was collected so far. `cancel`: someone wants it to end now.
    `agent` and `epoch` name the agent that does it, once there is one. `problem` is a sentence, or "".
    """

    id: str
    name: str
    host: str
    event: str
    seconds: float
    hz: int
    pids: tuple[int, ...]
    cgroups: tuple[str, ...]
    created: float
    state: State = State.WAITING
    cancel: bool = False
    problem: str = ""
    started: float = 0.0
    ended: float = 0.0
    done: float = 0.0
    samples: int = 0
    profiled: bool = False
    agent: str = ""
    epoch: str = ""

    @property
    def request(self) -> Request:
        return Request(self.id, self.seconds, self.hz, self.pids, self.cgroups, self.event)


_COLUMNS: Final = ", ".join(field.name for field in fields(Capture))


def save(store: Store, capture: Capture) -> None:
    """What holds of the capture from now on. Raises StoreUnavailable."""
    row = asdict(capture)
    columns = [[str(value) if name == "state" else value] for name, value in row.items()]
    store.insert(
        "captures",
        ["version", "taken", *row],
        ["UInt64", "DateTime('UTC')", *(_TYPES[name] for name in row)],
        [[time.time_ns()], [datetime.fromtimestamp(capture.created, UTC)], *columns],
    )


def save_profile(store: Store, id: str, profile: Profile) -> None:
    """What the capture holds from now on. Raises StoreUnavailable."""
    store.insert(
        "capture_profiles",
        ["id", "version", "taken", "profile"],
        ["String", "UInt64", "DateTime('UTC')", "String"],
        [[id], [time.time_ns()], [datetime.now(UTC)], [write_json(profile).decode("ascii")]],
    )


def find(store: Store, id: str) -> Capture | None:
    found = _select(store, "WHERE id = {id:String}", {"id": id})
    return found[0] if found else None


def latest(store: Store, most: int) -> list[Capture]:
    """The captures that were asked for last, the newest first."""
    return _select(store, "ORDER BY created DESC, id LIMIT {most:UInt32}", {"most": most})


def unfinished(store: Store) -> list[Capture]:
    return _select(store, "WHERE state IN ('waiting', 'running') ORDER BY created", {})


def find_profile(store: Store, id: str) -> Profile | None:
    found = store.rows(
        "SELECT profile FROM capture_profiles WHERE id = {id:String} ORDER BY version DESC LIMIT 1", {"id": id}
    )
    return read_json(found.rows[0][0].encode()) if found.rows else None


def known_hosts(store: Store, since: float) -> list[str]:
    """Hosts with windows from `since` on."""
    found = store.rows(
        "SELECT DISTINCT toString(host) AS host FROM windows"
        " WHERE ts >= toDateTime({since:UInt32}, 'UTC') AND batch <= {horizon:UInt32} ORDER BY host",
        {"since": int(since), "horizon": store.horizon},
    )
    return [str(row[0]) for row in found.rows]


def _select(store: Store, rest: str, parameters: dict[str, object]) -> list[Capture]:
    # FINAL, as the engine may not have merged the rows of a capture yet, and filters must not meet older ones.
    found = store.rows(f"SELECT {_COLUMNS} FROM (SELECT * FROM captures FINAL) {rest}", parameters)
    return [
        Capture(
            **{
                **row,
                "pids": tuple(row["pids"]),
                "cgroups": tuple(row["cgroups"]),
                "state": State(row["state"]),
            }
        )
        for row in found.dicts()
    ]
