"""Profiles as the store's rows: what is written for a window, and the ids of what many windows share."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import blake2b
from typing import Any, Final

from profiler.better_names import Quality, key_of, quality
from profiler.formats.names import encodable
from profiler.model import Profile
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from web.store.renamed import Key

MAX_NAME: Final = 512  # characters of a host, event, service, container, kind of CPU, process or thread


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns by name, with their types, in the order in which they are written."""

    name: str
    types: dict[str, str]

    def columns(self) -> dict[str, list[Any]]:
        return {column: [] for column in self.types}


_STRING: Final = "LowCardinality(String)"
_COUNTS: Final = "Map(LowCardinality(String), UInt64)"
_LABELS: Final = "Map(LowCardinality(String), String)"

SAMPLES: Final = Table(
    "samples",
    {
        "ts": "DateTime('UTC')",
        "host": _STRING,
        "event": _STRING,
        "hz": "UInt32",
        "label_set": "UInt64",
        "service": _STRING,
        "container": _STRING,
        "cpu_kind": _STRING,
        "pid": "UInt32",
        "process": _STRING,
        "thread": _STRING,
        "stack": "UInt64",
        "value": "UInt64",
        "batch": "UInt32",
    },
)
STACKS: Final = Table("stacks", {"id": "UInt64", "locations": "Array(UInt64)", "seen": "Date"})
LABEL_SETS: Final = Table("label_sets", {"id": "UInt64", "labels": _LABELS, "seen": "Date"})
_FRAME_COLUMNS: Final = {
    "functions": "Array(String)",
    "system_names": "Array(String)",
    "files": "Array(String)",
    "lines": "Array(UInt32)",
    "kinds": "Array(LowCardinality(String))",
    "reasons": "Array(LowCardinality(String))",
}
FRAMES: Final = Table(
    "frames",
    {
        "id": "UInt64",
        "address": "UInt64",
        "binary": _STRING,
        "build_id": _STRING,
        "mapped": "Bool",
        **_FRAME_COLUMNS,
        "nameable": "Bool",
        "seen": "Date",
    },
)
NAMES: Final = Table(
    "names",
    {
        "id": "UInt64",
        "build_id": _STRING,
        "address": "UInt64",
        **_FRAME_COLUMNS,
        "version": "UInt64",
        "seen": "Date",
    },
)
ACCOUNTING: Final = ("expected", "ticks", "idle", "filtered", "sampled", "frames_named")
COST: Final = ("bpf_ns", "bpf_runs", "agent_cpu_ns", "rss_bytes", "locked_bytes")
WINDOWS: Final = Table(
    "windows",
    {
        "ts": "DateTime('UTC')",
        "start_ns": "UInt64",
        "end_ns": "UInt64",
        "host": _STRING,
        "event": _STRING,
        "hz": "UInt32",
        "label_set": "UInt64",
        "labels": _LABELS,
        "received": "DateTime('UTC')",
        "agent": _STRING,
        "epoch": "String",
        "sequence": "UInt64",
        "sha256": "String",
        **{name: "UInt64" for name in (*ACCOUNTING, *COST)},
        "lost": _COUNTS,
        "frames_unknown": _COUNTS,
        "unwinding": _COUNTS,
        "batch": "UInt32",
    },
)
PUSHES: Final = Table(
    "pushes",
    {
        "agent": "String",
        "epoch": "String",
        "sequence": "UInt64",
        "sha256": "String",
        "received": "DateTime('UTC')",
        "batch": "UInt32",
    },
)


FUNCTIONS: Final = Table(
    "functions",
    {"id": "UInt64", "name": "String", "file": "String", "binary": _STRING, "kind": _STRING, "seen": "Date"},
)
FUNCTIONS_1H: Final = Table(
    "functions_1h",
    {
        "t": "DateTime('UTC')",
        "host": _STRING,
        "event": _STRING,
        "hz": "UInt32",
        "label_set": "UInt64",
        "service": _STRING,
        "function": "UInt64",
        "self": "UInt64",
        "total": "UInt64",
        "made": "UInt64",
    },
)
FUNCTION_HOURS: Final = Table("function_hours", {"t": "DateTime('UTC')", "made": "UInt64", "samples": "UInt64"})


@dataclass(slots=True)
class Known:
    """Ids of stacks, locations and label sets that the store was given today, so that they are not sent again.

    Forgetting one costs a row that a later merge drops again. Their rows carry the day, by which the
    store forgets what no sample refers to any more: so everything is sent anew each day.
    """

    limit: int = 200_000
    day: date = date.min
    stacks: set[int] = field(default_factory=set)
    locations: set[int] = field(default_factory=set)
    label_sets: set[int] = field(default_factory=set)

    def start(self, day: date) -> None:
        changed, self.day = day != self.day, day
        for ids in (self.stacks, self.locations, self.label_sets):
            if changed or len(ids) > self.limit:
                ids.clear()


@dataclass(slots=True)
class Batch:
    """The rows of one commit, table by table; `received` is when, in UTC."""

    number: int
    received: datetime
    known: Known
    samples: dict[str, list[Any]] = field(default_factory=SAMPLES.columns)
    stacks: dict[str, list[Any]] = field(default_factory=STACKS.columns)
    frames: dict[str, list[Any]] = field(default_factory=FRAMES.columns)
    label_sets: dict[str, list[Any]] = field(default_factory=LABEL_SETS.columns)
    windows: dict[str, list[Any]] = field(default_factory=WINDOWS.columns)
    names: dict[Key, Location] = field(default_factory=dict)
    new_stacks: set[int] = field(default_factory=set)
    new_locations: set[int] = field(default_factory=set)
    new_label_sets: set[int] = field(default_factory=set)

    @property
    def day(self) -> date:
        return self.received.date()

    def add(self, profile: Profile, push: tuple[str, str, int, str]) -> None:
        """The rows of one window. `push` is agent, epoch, sequence and sha256 of what brought it.

        Only agents of our own name themselves. What an address means that came from another profiler is not known:
        it may count from where the code was mapped or linked to, and is neither named by others nor names them.
        """
        ours = bool(push[0])
        start = profile.window.start_ns // 1_000_000_000
        host, event, hz = bounded(profile.host), bounded(profile.event), max(profile.hz, 1)
        labels = {bounded(key): bounded(value) for key, value in profile.labels.items()}
        label_set = self._label_set(labels)
        location_ids: dict[int, int] = {}  # by id(): one profile shares the objects
        stack_ids: dict[int, int] = {}
        columns = tuple(self.samples.values())
        for sample in profile.samples:
            if not sample.count:
                continue
            stack = stack_ids.get(id(sample.stack))
            if stack is None:
                stack = stack_ids[id(sample.stack)] = self._stack(sample.stack, location_ids, ours)
            values = (
                start,
                host,
                event,
                hz,
                label_set,
                bounded(sample.service),
                bounded(sample.container),
                bounded(sample.cpu_kind),
                sample.pid & 0xFFFFFFFF,
                bounded(sample.process),
                bounded(sample.thread),
                stack,
                sample.count,
                self.number,
            )
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        accounting = profile.accounting
        row = {
            "ts": start,
            "start_ns": profile.window.start_ns,
            "end_ns": profile.window.end_ns,
            "host": host,
            "event": event,
            "hz": hz,
            "label_set": label_set,
            "labels": labels,
            "received": self.received,
            **dict(zip(("agent", "epoch", "sequence", "sha256"), push, strict=True)),
            **{name: getattr(accounting, name) for name in ACCOUNTING},
            **{name: getattr(accounting.cost, name) for name in COST},
            "lost": {bounded(key): value for key, value in accounting.lost.items()},
            "frames_unknown": {bounded(key): value for key, value in accounting.frames_unknown.items()},
            "unwinding": {bounded(key): value for key, value in accounting.unwinding.counts().items()},
            "batch": self.number,
        }
        for name, value in row.items():
            self.windows[name].append(value)

    def rename(self, location: Location) -> None:
        """Shows the names of `location` wherever the same build id and address has poorer ones."""
        key = key_of(location)
        if key is None:
            return
        key = encodable(key[0]), key[1]
        other = self.names.get(key)
        if other is None or quality(location.frames) >= quality(other.frames):
            self.names[key] = location

    def name_rows(self, milliseconds: int) -> dict[str, list[Any]]:
        """The rows of `names`, as of so many milliseconds since the epoch: of two rows the better one wins, or else
        the later one."""
        columns = NAMES.columns()
        for key, location in self.names.items():
            version = quality(location.frames) << 56 | milliseconds
            row = (key_id(key), *key, *_frame_columns(location.frames), version, self.day)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        return columns

    def _stack(self, stack: tuple[Location, ...], location_ids: dict[int, int], ours: bool) -> int:
        ids = array("Q")
        for location in stack:
            known = location_ids.get(id(location))
            if known is None:
                known = location_ids[id(location)] = self._location(location, ours)
            ids.append(known)
        found = int.from_bytes(blake2b(ids.tobytes(), digest_size=8).digest(), "little")
        if found not in self.known.stacks and found not in self.new_stacks:
            self.new_stacks.add(found)
            for name, value in zip(self.stacks, (found, ids.tolist(), self.day), strict=True):
                self.stacks[name].append(value)
        return found

    def _location(self, location: Location, ours: bool) -> int:
        row = _location_row(location)
        # JSON in ASCII: distinct content gives distinct text, and the text is the same in every Python.
        text = json.dumps(row if ours else (*row, "theirs"), ensure_ascii=True, separators=(",", ":"))
        found = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        if found not in self.known.locations and found not in self.new_locations:
            self.new_locations.add(found)
            for name, value in zip(self.frames, (found, *row, ours, self.day), strict=True):
                self.frames[name].append(value)
            if ours and quality(location.frames) is Quality.DETAILED:
                self.rename(location)
        return found

    def _label_set(self, labels: dict[str, str]) -> int:
        if not labels:
            return 0
        text = json.dumps(sorted(labels.items()), ensure_ascii=True, separators=(",", ":"))
        found = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        if found not in self.known.label_sets and found not in self.new_label_sets:
            self.new_label_sets.add(found)
            for name, value in zip(self.label_sets, (found, labels, self.day), strict=True):
                self.label_sets[name].append(value)
        return found

    def sent(self) -> None:
        """The stacks, frames and label sets are in the store."""
        self.known.stacks |= self.new_stacks
        self.known.locations |= self.new_locations
        self.known.label_sets |= self.new_label_sets


def _location_row(location: Location) -> tuple[Any, ...]:
    binary = location.binary
    return (
        location.address & (1 << 64) - 1,
        encodable(binary.path) if binary else "",
        encodable(binary.build_id) if binary else "",
        binary is not None,
        *_frame_columns(location.frames),
    )


def _frame_columns(frames: tuple[Frame, ...]) -> tuple[list[Any], ...]:
    return (
        [encodable(frame.function) for frame in frames],
        [encodable(frame.system_name) for frame in frames],
        [encodable(frame.file) for frame in frames],
        [min(frame.line, 0xFFFFFFFF) for frame in frames],
        [str(frame.kind) for frame in frames],
        [str(frame.reason) if frame.reason else "" for frame in frames],
    )


LOCATION_COLUMNS: Final = tuple(FRAMES.types)[:-1]
NAMES_COLUMNS: Final = ("build_id", "address", *_FRAME_COLUMNS)


def location_of(row: tuple[Any, ...]) -> Location:
    """The location that the values of LOCATION_COLUMNS stand for."""
    _, address, path, build_id, mapped, *columns, _ = row
    return Location(address, Binary(path, build_id) if mapped else None, frames_of(*columns))


def frames_of(
    functions: list[str],
    system_names: list[str],
    files: list[str],
    lines: list[int],
    kinds: list[str],
    reasons: list[str],
) -> tuple[Frame, ...]:
    """Frames from their columns, as they are in `frames` and `names`."""
    return tuple(
        Frame(function, Kind(kind), system_name, file, line, Reason(reason) if reason else None)
        for function, system_name, file, line, kind, reason in zip(
            functions, system_names, files, lines, kinds, reasons, strict=True
        )
    )


def key_id(key: Key) -> int:
    """The id of a row of `names`."""
    text = f"{key[1]:x} {encodable(key[0])}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def bounded(name: str) -> str:
    """`name` as it can be stored and asked for: UTF-8, and where overlong, its beginning and a hash of it all."""
    name = encodable(name)
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 17]}…{blake2b(name.encode(), digest_size=8).hexdigest()}"
