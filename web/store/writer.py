"""The one thread that writes to the store: group commit, idempotent, whole or not at all.

A commit takes the next batch number N and writes, in this order:

1. names, then frames, stacks and label sets: named by the hash of what they belong to or hold, so writing them twice
   changes nothing;
2. windows, marked N: from here on the batch is known to have begun;
3. samples, marked N, and by materialized views the rollups series_1m and stacks_1h;
4. pushes, marked N, in one block of one partition, which the engine commits atomically: now the batch
   is whole. Only then are its pushes acknowledged, and only then does `Store.horizon` let reads see it.

A process that dies, or an insert that fails, leaves at most one batch that has windows and no pushes: it
was never acknowledged. Batches are written one by one and an unfinished one is undone before the next
begins (at start, or after the failure), so it is the one above the newest batch in `pushes`. Undoing
deletes its samples, makes the minutes and hours of the rollups it may have touched anew from the samples that
remain (rollups.py), and deletes its windows last. Since windows are what says that there is something to undo,
a death in between only means undoing once more. A window of samples older than `Retention.max_age_s` is refused,
so that the samples of those minutes and hours have not expired yet. Where they have, the rollup stays as it is.

A push is known by (agent, epoch, sequence) and the sha256 of its body, looked up in `pushes` before the
batch is written: the stored rows are the only memory there is, so a retry an hour or a restart later is
still not doubled. The same sequence with another hash is refused. A body without an identity is taken
for a retry if the same bytes came within `ANONYMOUS_WINDOW_S`. The engine's own insert deduplication is
off: it would swallow a batch that was undone and comes again with the same content. A server that is still busy
with an insert of a writer that failed or died is told to end it before anything is undone: it would come after.

Better names that come by themselves (`Names`) take part in a commit and need no batch of their own: they have no
samples, and a retry writes the same rows again. So do the names of windows that tell more than a function's name: they
serve the same addresses in windows that are older, or come from hosts without debug information.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from profiler.model import Profile
from symbolizer.types import Location
from web.store import retention
from web.store.retention import Retention
from web.store.rollups import ROLLUPS, remake
from web.store.rows import FRAMES, LABEL_SETS, NAMES, PUSHES, SAMPLES, STACKS, WINDOWS, Batch, Known, Table
from web.store.store import Store, StoreUnavailable

MAX_AHEAD_S: Final = 86400
ANONYMOUS_WINDOW_S: Final = 3600
QUEUE_PUSHES: Final = 256
QUEUE_SAMPLES: Final = 500_000

log = logging.getLogger("pilotlight.writer")


class Written(Enum):
    STORED = "stored"
    DUPLICATE = "duplicate"


class Busy(Exception):
    """The queue is full: come back later."""


class Conflict(Exception):
    """Another body was already stored under this push's identity."""


@dataclass(frozen=True, slots=True)
class Push:
    """What came in one request. `agent`, `epoch` are "" and `sequence` 0 where it has no identity."""

    profiles: Sequence[Profile]
    sha256: str
    agent: str = ""
    epoch: str = ""
    sequence: int = 0

    @property
    def identity(self) -> tuple[str, str, int]:
        return self.agent, self.epoch, self.sequence

    @property
    def rows(self) -> int:
        return sum(len(profile.samples) for profile in self.profiles)


@dataclass(frozen=True, slots=True)
class Names:
    """Better names that came in one request; see profiler/better_names.py."""

    locations: Sequence[Location]

    @property
    def rows(self) -> int:
        return len(self.locations)


@dataclass(slots=True)
class Figures:
    """Counters for /metrics."""

    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    failed: int = 0
    busy: int = 0
    windows: int = 0
    samples: int = 0
    stacks: int = 0
    locations: int = 0
    names: int = 0
    commits: int = 0
    undone: int = 0
    commit_seconds: float = 0.0


@dataclass(slots=True)
class _Waiting:
    what: Push | Names
    done: Future[Written] = field(default_factory=Future)


_Pushed = tuple[_Waiting, Push]


class Writer:
    """Takes pushes and names from any thread; commits at most every `interval` seconds, or every `rows` samples."""

    def __init__(
        self, store: Store, interval: float = 1.0, rows: int = 15_000, keep: Mapping[str, int] | None = None
    ) -> None:
        """Undoes what an earlier process left unfinished, then starts the thread.

        `keep` are days by name, as retention.changed() takes them: what it does not name is kept as long as before.
        Raises BadRetention.
        """
        self.figures = Figures()
        self.retention = retention.read(store)
        self._store = store
        self._interval = interval
        self._rows = rows
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(QUEUE_PUSHES)
        self._queued_rows = 0
        self._lock = threading.Lock()
        self._known = Known()
        self._unfinished = False
        self._closed = False
        self._committing = threading.Lock()
        self._undo()
        self.keep(keep or {})
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        return self._queue.qsize()

    @property
    def queued_rows(self) -> int:
        return self._queued_rows

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._unfinished

    def submit(self, what: Push | Names) -> Future[Written]:
        """Queue a push, or names. The future's result comes after the commit; it raises Conflict or StoreUnavailable.

        Raises Busy where the queue is full.
        """
        waiting = _Waiting(what)
        with self._lock:
            try:
                if self._closed or self._queued_rows > QUEUE_SAMPLES:
                    raise queue.Full
                self._queue.put_nowait(waiting)
            except queue.Full:
                self.figures.busy += 1
                raise Busy from None
            self._queued_rows += what.rows
        return waiting.done

    def keep(self, days: Mapping[str, Any]) -> Retention:
        """Keep things for other days from now on; see retention.changed(). Raises BadRetention, StoreUnavailable."""
        with self._committing:
            wanted = retention.changed(self.retention, days)
            if self._unfinished:  # while the samples are there that its rollups are made from again
                self._undo()
            for table in retention.apply(self._store, wanted):
                log.info("%s are kept for %d days", table, wanted.days(table))
            self.retention = wanted
        return wanted

    def close(self) -> None:
        """Commit what is queued, and stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = 0.0
        while True:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            rows = first.what.rows
            due = last + self._interval
            closing = False
            while rows < self._rows:
                try:
                    following = self._queue.get(timeout=max(0.0, due - time.monotonic()))
                except queue.Empty:
                    break
                if following is None:
                    closing = True
                    break
                group.append(following)
                rows += following.what.rows
            last = time.monotonic()
            with self._committing:
                self._commit(group)
            with self._lock:
                self._queued_rows -= sum(waiting.what.rows for waiting in group)
            if closing:
                return

    def _commit(self, group: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            if self._unfinished:
                self._undo()
            pushes = [(waiting, waiting.what) for waiting in group if isinstance(waiting.what, Push)]
            names = [(waiting, waiting.what) for waiting in group if isinstance(waiting.what, Names)]
            fresh, repeated = self._sort(pushes)
            if fresh or names:
                self._write([push for _, push in fresh], [named for _, named in names])
        except Exception as error:  # whatever it was, those who wait are told, and the thread goes on
            log.error("commit failed: %s", str(error).split("\n")[0])
            self.figures.failed += sum(isinstance(waiting.what, Push) for waiting in group)
            for waiting in group:
                _fail(waiting, StoreUnavailable("the store cannot be written to at the moment"))
            return
        self.figures.commits += 1
        self.figures.commit_seconds += time.monotonic() - began
        for waiting, _ in (*fresh, *names):
            _tell(waiting, Written.STORED)
        for waiting, _ in repeated:
            _tell(waiting, Written.DUPLICATE)

    def _sort(self, group: list[_Pushed]) -> tuple[list[_Pushed], list[_Pushed]]:
        """What is to be stored, and what is stored already; conflicts are answered here."""
        identified = {push.identity for _, push in group if push.agent}
        anonymous = {push.sha256 for _, push in group if not push.agent}
        hashes: dict[tuple[str, str, int], str] = {}
        bodies: set[str] = set()
        if identified:
            found = self._store.rows(
                "SELECT agent, epoch, sequence, sha256 FROM pushes"
                " WHERE (agent, epoch, sequence) IN"
                " arrayZip({agents:Array(String)}, {epochs:Array(String)}, {sequences:Array(UInt64)})",
                {
                    "agents": [identity[0] for identity in identified],
                    "epochs": [identity[1] for identity in identified],
                    "sequences": [identity[2] for identity in identified],
                },
            )
            hashes = {(row[0], row[1], row[2]): row[3] for row in found.rows}
        if anonymous:
            found = self._store.rows(
                "SELECT sha256 FROM pushes"
                " WHERE agent = '' AND sha256 IN {hashes:Array(String)} AND received > {since:DateTime('UTC')}",
                {
                    "hashes": sorted(anonymous),
                    "since": datetime.fromtimestamp(time.time() - ANONYMOUS_WINDOW_S, UTC),
                },
            )
            bodies = {row[0] for row in found.rows}
        fresh: list[_Pushed] = []
        repeated: list[_Pushed] = []
        for waiting, push in group:
            seen = push.identity in hashes if push.agent else push.sha256 in bodies
            if push.agent and hashes.setdefault(push.identity, push.sha256) != push.sha256:
                self.figures.conflicts += 1
                _fail(waiting, Conflict())
                continue
            bodies.add(push.sha256)
            if seen:
                self.figures.duplicates += 1
                repeated.append((waiting, push))
            else:
                fresh.append((waiting, push))
        return fresh, repeated

    def _write(self, pushes: list[Push], names: list[Names]) -> None:
        now = datetime.now(UTC)
        self._known.start(now.date())
        batch = Batch(self._store.horizon + 1, now, self._known)
        marks = PUSHES.columns()
        for push in pushes:
            for profile in push.profiles:
                batch.add(profile, (*push.identity, push.sha256))
            for name, value in zip(marks, (*push.identity, push.sha256, now, batch.number), strict=True):
                marks[name].append(value)
        for named in names:
            for location in named.locations:
                batch.rename(location)
        if batch.names:
            self._insert(NAMES, batch.name_rows(int(now.timestamp() * 1000)))
            self._store.renamed.add(batch.names)
            self.figures.names += len(batch.names)
        if not pushes:
            return
        self._insert(FRAMES, batch.frames)
        self._insert(STACKS, batch.stacks)
        self._insert(LABEL_SETS, batch.label_sets)
        batch.sent()
        self._unfinished = True
        self._insert(WINDOWS, batch.windows)
        self._insert(SAMPLES, batch.samples)
        self._insert(PUSHES, marks)
        self._store.horizon = batch.number
        self._unfinished = False
        figures = self.figures
        figures.stored += len(pushes)
        figures.windows += len(batch.windows["ts"])
        figures.samples += len(batch.samples["ts"])
        figures.stacks += len(batch.new_stacks)
        figures.locations += len(batch.new_locations)

    def _insert(self, table: Table, columns: dict[str, list[Any]]) -> None:
        if next(iter(columns.values())):
            self._store.insert(table.name, list(columns), list(table.types.values()), list(columns.values()))

    def _undo(self) -> None:
        """Undo the batch that has begun and is not whole, if there is one; set the store's horizon."""
        store = self._store
        store.end_inserts()
        whole = int(store.rows("SELECT max(batch) FROM pushes").rows[0][0])
        above = {"whole": whole}
        begun = store.rows("SELECT 1 FROM windows WHERE batch > {whole:UInt32} LIMIT 1", above).rows
        if begun:
            store.alter("samples", "DELETE WHERE batch > {whole:UInt32}", above)
            for rollup in ROLLUPS:
                times = store.rows(
                    f"SELECT DISTINCT {rollup.start}(ts) AS t FROM windows WHERE batch > {{whole:UInt32}}"
                    " AND t > now() - INTERVAL {days:UInt32} DAY",
                    {**above, "days": self.retention.samples},
                ).rows
                remake(store, rollup, [row[0] for row in times])
            store.alter("windows", "DELETE WHERE batch > {whole:UInt32}", above)
            self.figures.undone += 1
            log.warning("undid an unfinished commit; it was never acknowledged")
        store.horizon = whole
        self._unfinished = False


def _tell(waiting: _Waiting, written: Written) -> None:
    with suppress(InvalidStateError):  # who waited has gone
        waiting.done.set_result(written)


def _fail(waiting: _Waiting, error: Exception) -> None:
    with suppress(InvalidStateError):
        waiting.done.set_exception(error)
