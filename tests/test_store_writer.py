"""The store keeps what it acknowledges exactly once, whole or not at all, also across failures and restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.store.queries import Queries
from web.store.selection import Selection
from web.store.store import Store, StoreUnavailable
from web.store.writer import QUEUE_PUSHES, Busy, Conflict, Push, Writer, Written

ALWAYS = Selection(0, 0xFFFFFFFF)
START = int(time.time()) // 60 * 60 - 3600


def profile(start: int, count: int = 5, host: str = "h", labels: Mapping[str, str] | None = None) -> Profile:
    location = Location(16, Binary("/bin/x", "ab"), (Frame(f"f{start % 7}", Kind.NATIVE, line=1),))
    samples = (
        Sample((location,), 7, "app", "app", count),
        Sample((location, location), 7, "app", "worker", 2),
    )
    total = count + 2
    return Profile(
        host,
        "cpu-clock",
        99,
        Window(start * 10**9, (start + 10) * 10**9),
        samples,
        Accounting(1980, total + 11, 10, 0, total, {"counts map full": 1}, count + 4),
        labels or {},
    )


def push(sequence: int, *profiles: Profile, agent: str = "agent") -> Push:
    body = repr((profiles, agent)).encode()
    return Push(profiles, sha256(body).hexdigest(), agent, "1" if agent else "", sequence)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path}/store")
    yield store
    store.close()


def written(writer: Writer, what: Push) -> Written:
    return writer.submit(what).result(60)


def total(store: Store) -> int:
    sums = store.rows("SELECT (SELECT sum(value) FROM samples), (SELECT sum(sampled) FROM windows)").rows[0]
    assert sums[0] == sums[1]
    return int(sums[0])


def assert_rollups_equal_samples(store: Store) -> None:
    common = "host, event, hz, label_set, service, container, process"
    for rollup, start, keys in (
        ("series_1m", "toStartOfMinute", common),
        ("stacks_1h", "toStartOfHour", f"{common}, thread, stack"),
    ):
        left = f"SELECT t, {keys}, sum(value) FROM {rollup} GROUP BY ALL HAVING sum(value) > 0 ORDER BY ALL"
        right = f"SELECT {start}(ts), {keys}, sum(value) FROM samples GROUP BY ALL ORDER BY ALL"
        assert store.rows(left).rows == store.rows(right).rows


def test_a_push_is_in_the_store_when_it_is_acknowledged(store: Store) -> None:
    writer = Writer(store, interval=0)
    assert written(writer, push(1, profile(START))) is Written.STORED
    assert total(store) == 7
    assert store.rows("SELECT agent, epoch, sequence FROM pushes").rows == [("agent", "1", 1)]
    writer.close()


def test_a_retry_is_acknowledged_and_not_doubled(store: Store) -> None:
    writer = Writer(store, interval=0)
    one = push(1, profile(START))
    assert [written(writer, one), written(writer, one)] == [Written.STORED, Written.DUPLICATE]
    assert total(store) == 7
    writer.close()


def test_a_retry_within_the_same_commit_is_not_doubled(store: Store) -> None:
    writer = Writer(store, interval=0.3)
    written(writer, push(0, profile(START)))  # the next commit waits for its interval
    one, other = push(1, profile(START + 10)), push(2, profile(START + 20), agent="")
    waiting = [writer.submit(what) for what in (one, other, one, other)]
    assert [done.result(60) for done in waiting] == [Written.STORED] * 2 + [Written.DUPLICATE] * 2
    assert total(store) == 21
    writer.close()


def test_a_retry_after_a_restart_is_not_doubled(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        store = Store(f"chdb://{tmp_path}/store")
        writer = Writer(store, interval=0)
        results += [written(writer, push(1, profile(START))), written(writer, push(1, profile(START), agent=""))]
        writer.close()
        assert total(store) == 14
        store.close()
    assert results == [Written.STORED] * 2 + [Written.DUPLICATE] * 2


def test_the_same_sequence_with_another_content_is_refused(store: Store) -> None:
    writer = Writer(store, interval=0)
    written(writer, push(1, profile(START)))
    with pytest.raises(Conflict):
        written(writer, push(1, profile(START, 9)))
    assert written(writer, push(2, profile(START, 9))) is Written.STORED
    assert total(store) == 18
    writer.close()


def test_pushes_that_wait_together_are_one_commit(store: Store) -> None:
    writer = Writer(store, interval=0.5)
    written(writer, push(0, profile(START)))
    waiting = [writer.submit(push(i, profile(START + 10 * i))) for i in range(1, 21)]
    assert {done.result(60) for done in waiting} == {Written.STORED}
    assert writer.figures.commits == 2
    writer.close()


def test_closing_commits_what_waits(store: Store) -> None:
    writer = Writer(store, interval=30)
    written(writer, push(0, profile(START)))
    waiting = writer.submit(push(1, profile(START + 10)))
    writer.close()
    assert waiting.result(0) is Written.STORED
    with pytest.raises(Busy):
        writer.submit(push(2, profile(START)))


def test_a_full_queue_is_said_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(store, interval=0)
    written(writer, push(0, profile(START)))
    held: list[Future[Written]] = []
    release = threading.Event()

    def hold(group: list[Any]) -> None:
        release.wait()
        for waiting in group:
            waiting.done.cancel()

    monkeypatch.setattr(writer, "_commit", hold)
    with pytest.raises(Busy):
        while len(held) < 10 * QUEUE_PUSHES:
            held.append(writer.submit(push(len(held) + 1, profile(START))))
    assert len(held) >= QUEUE_PUSHES
    release.set()
    writer.close()


@pytest.mark.parametrize("table", ["names", "frames", "stacks", "label_sets", "windows", "samples", "pushes"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("restarted", [False, True], ids=["retried", "restarted"])
def test_a_commit_that_fails_at_any_step_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, when: str, restarted: bool
) -> None:
    store = Store(f"chdb://{tmp_path}/store")
    writer = Writer(store, interval=0)
    written(writer, push(1, profile(START)))
    broken: Callable[..., None] = store.insert

    def fail(name: str, *arguments: Any) -> None:
        if name == table and when == "before":
            raise OSError("no space left on device")
        broken(name, *arguments)
        if name == table:
            raise OSError("no space left on device")

    monkeypatch.setattr(store, "insert", fail)
    midnight = START // 86400 * 86400
    # Three windows: of a new minute, of one that has samples already, and of another day's partition.
    again = push(2, profile(START + 61, labels={"region": "eu"}), profile(START + 10), profile(midnight - 86400))
    with pytest.raises(StoreUnavailable):
        written(writer, again)
    whole = table == "pushes" and when == "after"  # then it is in the store, though nobody was told
    shown = Queries(store).overview(ALWAYS, store.horizon).accounting.sampled
    assert shown == 7
    monkeypatch.undo()
    if restarted:
        writer.close()
        store.close()
        store = Store(f"chdb://{tmp_path}/store")
        writer = Writer(store, interval=0)
        assert total(store) == (28 if whole else 7)
        assert_rollups_equal_samples(store)
    assert written(writer, again) is (Written.DUPLICATE if whole else Written.STORED)
    assert total(store) == 28
    assert_rollups_equal_samples(store)
    writer.close()
    store.close()


def test_readers_never_see_half_a_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(store, interval=0)
    written(writer, push(1, profile(START)))
    queries = Queries(store)
    seen = []
    insert: Callable[..., None] = store.insert

    def watch(name: str, *arguments: Any) -> None:
        insert(name, *arguments)
        table, overview = queries.stack_table(ALWAYS)
        seen.append((int(table.counts.sum()), overview.accounting.sampled, overview.windows))

    monkeypatch.setattr(store, "insert", watch)
    written(writer, push(2, profile(START + 10, 100)))
    assert set(seen) == {(7, 7, 1)}
    table, overview = queries.stack_table(ALWAYS)
    assert int(table.counts.sum()) == overview.accounting.sampled == 109
    writer.close()


def test_what_many_windows_share_is_stored_once(store: Store) -> None:
    writer = Writer(store, interval=0)
    for i in range(5):
        written(writer, push(i, profile(START + 70 * i, host=f"h{i}")))
    counted = store.rows("SELECT (SELECT count() FROM stacks), (SELECT count() FROM frames)").rows
    assert counted == [(2, 1)]  # 70 seconds apart: the same function each time
    writer.close()


def test_only_one_server_can_use_a_directory(tmp_path: Path) -> None:
    first = Store(f"chdb://{tmp_path}/one")
    with pytest.raises(StoreUnavailable, match="cannot open the store"):
        Store(f"chdb://{tmp_path}/two")
    first.close()


@pytest.mark.parametrize("url", ["chdb://relative", "chdb:///", "mysql://h/x", "clickhouse://", "x"])
def test_a_store_that_is_none_is_said_in_a_sentence(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="chdb:///"):
        Store(url)


def test_samples_windows_and_rollups_name_the_labels_they_came_with(store: Store) -> None:
    writer = Writer(store, interval=0)
    written(writer, push(1, profile(START), profile(START + 10, 20, labels={"region": "eu", "zone": "b"})))
    written(writer, push(2, profile(START + 20, 30, labels={"zone": "b", "region": "eu"})))
    written(writer, push(3, profile(START + 30, 40, labels={"region": "us"})))
    sets = "SELECT id FROM label_sets WHERE labels['region'] = 'eu'"
    for table, sums in (("samples", "value"), ("windows", "sampled"), ("series_1m", "value"), ("stacks_1h", "value")):
        found = store.rows(f"SELECT sum({sums}) FROM {table} WHERE label_set IN ({sets})").rows
        assert found == [(54,)], table
        assert store.rows(f"SELECT sum({sums}) FROM {table} WHERE label_set = 0").rows == [(7,)], table
    assert store.rows("SELECT count() FROM label_sets").rows == [(2,)]
    writer.close()
