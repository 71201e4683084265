"""Functions by hour: made of stacks_1h once an hour is over, and read for ranges of days.

An hour is made again, as a whole, when the windows stored for it have another number of samples than it was made
from: late windows came, or a commit of it was undone. What is made carries its time, and counts once function_hours
says so: readers see one making of an hour or another, never parts of two, and nothing of one that was cut off. A
function is its name, kind and binary as they were known then; the last hours are made again when better names came,
older ones keep the names that they had.

A reader takes an hour only if it was made from just as many samples as the windows under the horizon have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from symbolizer.types import Frame, Kind
from web.store.ragged import Integers
from web.store.rows import FUNCTION_HOURS, FUNCTIONS, FUNCTIONS_1H, Table
from web.store.selection import Selection
from web.store.stackcache import StackCache
from web.store.store import Store
from web.store.sums import Sums, weighed
from web.store.top import Functions, functions_of_stacks, self_and_total

HOUR_S: Final = 3600
LEAST_HOURS: Final = 24  # of a range that is read from here
_AT_ONCE: Final = 24
_ROWS_AT_ONCE: Final = 100_000
_SETTLED_S: Final = 120  # after an hour's end, until its windows have arrived
_RENAMED_HOURS: Final = 3
_DUE: Final = (
    "SELECT toStartOfHour(ts) AS t, sum(sampled) AS samples FROM windows"
    " WHERE batch <= {horizon:UInt32} AND ts >= toDateTime({since:UInt32}, 'UTC')"
    " AND ts < toDateTime({until:UInt32}, 'UTC') GROUP BY t"
)
_MADE: Final = "SELECT t, argMax(samples, made) AS samples, max(made) AS newest FROM function_hours GROUP BY t"


def catch_up(
    store: Store, cache: StackCache, kept_since: float, *, renamed: bool, stopped: Callable[[], bool]
) -> list[int]:
    """Make hours that are over and not as they should be, newest first, up to a day of them; returns which.

    `kept_since` is when the oldest samples are of: of hours before it nothing changes any more. `renamed` says that
    better names have come since the last time.
    """
    now = time.time()
    over = int(now - _SETTLED_S) // HOUR_S * HOUR_S
    stale = store.rows(
        f"SELECT toUnixTimestamp(t) AS at, due.samples, newest FROM ({_DUE}) AS due"
        f" LEFT JOIN ({_MADE}) AS made USING (t)"
        " WHERE (newest = 0 AND due.samples > 0)"
        " OR (newest > 0 AND due.samples != made.samples AND at >= {kept:UInt32})"
        " OR (newest > 0 AND {renamed:UInt8} AND at >= {lately:UInt32}) ORDER BY at DESC LIMIT {most:UInt32}",
        {
            "horizon": store.horizon,
            "since": 0,
            "until": over,
            "kept": max(0, int(kept_since)),
            "renamed": int(renamed),
            "lately": over - _RENAMED_HOURS * HOUR_S,
            "most": _AT_ONCE,
        },
    ).rows
    done: list[int] = []
    replaced: list[tuple[int, int]] = []  # hour and time of making
    known: set[int] = set()
    for at, due, newest in stale:
        if stopped():
            break
        made = max(time.time_ns() // 1_000_000, newest + 1)
        samples = _make(store, cache, at, made, known)
        if samples != due and at >= kept_since:
            replaced.append((at, made))  # a commit is under way, or being undone
            continue
        _insert(store, FUNCTION_HOURS, [(at, made, samples)])
        done.append(at)
        if newest:
            replaced.append((at, newest))
    if replaced:
        store.alter(
            "functions_1h",
            "DELETE WHERE (toUnixTimestamp(t), made) IN arrayZip({hours:Array(UInt32)}, {made:Array(UInt64)})",
            {"hours": [at for at, _ in replaced], "made": [made for _, made in replaced]},
        )
    return done


def _make(store: Store, cache: StackCache, at: int, made: int, known: set[int]) -> int:
    """Insert the functions of an hour; returns its samples. `known` are ids of functions that were inserted already."""
    hosts = store.rows(
        "SELECT DISTINCT host FROM stacks_1h WHERE t = toDateTime({at:UInt32}, 'UTC') ORDER BY host", {"at": at}
    )
    rows: list[tuple[Any, ...]] = []
    named: list[tuple[Any, ...]] = []
    samples = 0
    for (host,) in hosts.rows:
        samples += _add_host(store, cache, at, host, made, known, named, rows)
        if len(rows) > _ROWS_AT_ONCE:
            _insert(store, FUNCTIONS, named)
            _insert(store, FUNCTIONS_1H, rows)
            named, rows = [], []
    _insert(store, FUNCTIONS, named)
    _insert(store, FUNCTIONS_1H, rows)
    return samples


def _add_host(
    store: Store,
    cache: StackCache,
    at: int,
    host: str,
    made: int,
    known: set[int],
    named: list[tuple[Any, ...]],
    rows: list[tuple[Any, ...]],
) -> int:
    """Append the rows of a host to `named` and `rows`; returns its samples."""
    answer = store.raw(
        "SELECT toString(event), toString(service), [toUInt64(hz), label_set], groupArray(stack), groupArray(number)"
        " FROM (SELECT event, service, hz, label_set, stack, sum(value) AS number FROM stacks_1h"
        " WHERE t = toDateTime({at:UInt32}, 'UTC') AND host = {host:String}"
        " GROUP BY event, service, hz, label_set, stack) GROUP BY event, service, hz, label_set",
        {"at": at, "host": host},
    )
    samples = 0
    today = datetime.now(UTC).date()
    while answer.more:
        event, service = answer.string(), answer.string()
        hz, label_set = answer.array(np.uint64).tolist()
        ids, counts = answer.array(np.uint64), answer.array(np.uint64).astype(np.int64)
        zeros = np.zeros(len(ids), np.int64)
        stacks = cache.get(ids)
        functions = functions_of_stacks(stacks)
        own, total = self_and_total(Sums([()], zeros, zeros, ids, counts), stacks, functions)
        key = (at, host, event, hz, label_set, service)
        for i, (frame, binary) in enumerate(zip(functions.frames, functions.binaries, strict=True)):
            number = _id_of(frame, binary)
            if number not in known:
                known.add(number)
                named.append((number, frame.function, frame.file, binary, str(frame.kind), today))
            rows.append((*key, number, int(own[i]), int(total[i]), made))
        everything = int(counts.sum())
        without = everything - int(own.sum())
        if without:
            rows.append((*key, 0, without, without, made))
        samples += everything
    return samples


def _id_of(frame: Frame, binary: str) -> int:
    text = json.dumps((frame.function, frame.kind, binary), ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def _insert(store: Store, table: Table, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        store.insert(table.name, list(table.types), list(table.types.values()), list(zip(*rows, strict=True)))


def hours_of(store: Store, selection: Selection, horizon: int) -> tuple[int, int]:
    """The longest run of whole hours of a selection that can be read from here, as [first, last) in seconds; (0, 0)
    where it is shorter than LEAST_HOURS, or the selection is by what is not kept here."""
    first, last = -(-selection.since // HOUR_S) * HOUR_S, selection.until // HOUR_S * HOUR_S
    if selection.filters_samples or last - first < LEAST_HOURS * HOUR_S:
        return 0, 0
    rows = store.rows(
        f"SELECT toUnixTimestamp(t) AS at, due.samples = made.samples AND newest > 0 FROM ({_DUE}) AS due"
        f" LEFT JOIN ({_MADE}) AS made USING (t) WHERE due.samples > 0 ORDER BY at",
        {"horizon": horizon, "since": first, "until": last},
    ).rows
    best = (0, 0)
    begin = first
    for at, usable in [*rows, (last, False)]:
        if not usable:
            best = max(best, (begin, at), key=lambda run: run[1] - run[0])
            begin = at + HOUR_S
    return best if best[1] - best[0] >= LEAST_HOURS * HOUR_S else (0, 0)


def read(store: Store, selection: Selection, rates: tuple[int, ...]) -> tuple[Functions, Integers, Integers, int]:
    """The functions of a selection of whole hours, each with its self and total, and the samples of all, at the common
    rate of `rates`."""
    where, parameters = selection.where(None, samples=True, time="t")
    rows = store.rows(
        "SELECT name, kind, binary, file, own, whole FROM"
        f" (SELECT function, sum({weighed('self', rates)}) AS own, sum({weighed('total', rates)}) AS whole"
        f" FROM functions_1h WHERE {where} AND (t, made) IN (SELECT t, max(made) FROM function_hours GROUP BY t)"
        " GROUP BY function) AS counted LEFT JOIN"
        " (SELECT id AS function, any(name) AS name, toString(any(kind)) AS kind, toString(any(binary)) AS binary,"
        " any(file) AS file FROM functions GROUP BY id) AS known USING (function)",
        parameters,
    ).rows
    shown = [row for row in rows if row[1]]  # without the frameless
    frames = [Frame(name, Kind(kind), file=file) for name, kind, _, file, _, _ in shown]
    functions = Functions(frames, [row[2] for row in shown], np.empty(0, np.int64))
    own, total = (np.array([row[column] for row in shown], np.int64) for column in (4, 5))
    return functions, own, total, sum(row[4] for row in rows)


def merged(parts: list[tuple[Functions, Integers, Integers]]) -> tuple[Functions, Integers, Integers]:
    """The functions of several parts of a range as one."""
    numbers: dict[tuple[str, str, str], int] = {}
    frames: list[Frame] = []
    binaries: list[str] = []
    own: list[int] = []
    total: list[int] = []
    for functions, of_self, of_total in parts:
        each = zip(functions.frames, functions.binaries, of_self.tolist(), of_total.tolist(), strict=True)
        for frame, binary, leaf, anywhere in each:
            number = numbers.setdefault((frame.function, frame.kind, binary), len(frames))
            if number == len(frames):
                frames.append(frame)
                binaries.append(binary)
                own.append(0)
                total.append(0)
            own[number] += leaf
            total[number] += anywhere
    return Functions(frames, binaries, np.empty(0, np.int64)), np.array(own, np.int64), np.array(total, np.int64)
