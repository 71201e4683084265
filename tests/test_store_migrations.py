"""A store of any earlier version is opened with all it holds; one of a later version is left alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from clickhouse_connect.driver._chdbclient import ChdbClient
from clickhouse_connect.driver.client import Client

from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.store import migrations
from web.store.ddl import SHARDED_BY, statements
from web.store.queries import Queries
from web.store.rows import FRAMES, PUSHES, SAMPLES, STACKS, WINDOWS, Batch, Known, Table
from web.store.selection import Selection
from web.store.store import Store, StoreUnavailable
from web.store.writer import Push, Writer

START = int(time.time()) // 3600 * 3600 - 86400
DATA = Path(__file__).parent / "data"
# What a store of a version lacks, as schema_VERSION.sql makes it.
LACKS: dict[int, dict[str, tuple[str, ...]]] = {
    0: {"samples": ("label_set", "cpu_kind"), "windows": ("label_set", "received")},
    2: {"samples": ("cpu_kind",)},
}


def profile(start: int, count: int = 5) -> Profile:
    location = Location(16, Binary("/bin/x", "ab"), (Frame("f", Kind.NATIVE, line=1),))
    samples = (Sample((location,), 7, "app", "app", count), Sample((location, location), 7, "app", "worker", 2))
    total = count + 2
    window = Window(start * 10**9, (start + 10) * 10**9)
    return Profile("h", "cpu-clock", 99, window, samples, Accounting(1980, total + 10, 10, 0, total))


@contextmanager
def engine(directory: Path) -> Iterator[Client]:
    client = ChdbClient(path=str(directory / "clickhouse"), settings={"prefer_column_name_to_alias": 1})
    client.command("CREATE DATABASE IF NOT EXISTS pilotlight ENGINE = Atomic")
    client.command("USE pilotlight")
    yield client
    client.close()


def old_store(directory: Path, *older: str, version: int = 0) -> list[int]:
    """A store of an earlier version with three whole windows and half a commit, as a server of then left it; returns
    the counts of the whole windows. `older` are statements that take it further back."""
    with engine(directory) as client:
        for statement in statements((DATA / f"schema_{version}.sql").read_text("utf-8"), "pilotlight"):
            client.command(statement)
        if version:
            client.command(migrations._VERSIONS)
            client.command(migrations._NOTE.format(version))

        def insert(table: Table, columns: dict[str, list[Any]]) -> None:
            names = [name for name in table.types if name not in LACKS[version].get(table.name, ())]
            client.insert(
                table.name,
                [columns[name] for name in names],
                column_names=names,
                column_type_names=[table.types[name] for name in names],
                column_oriented=True,
            )

        for number, start in enumerate((START, START + 70, START + 3700, START + 3800), 1):
            batch = Batch(number, datetime.now(UTC), Known())
            batch.add(profile(start, 10 * number), ("agent", "1", number, "0" * 64))
            insert(FRAMES, batch.frames)
            insert(STACKS, batch.stacks)
            insert(WINDOWS, batch.windows)
            insert(SAMPLES, batch.samples)
            if number < 4:
                marks = (["agent"], ["1"], [number], ["0" * 64], [batch.received], [number])
                insert(PUSHES, dict(zip(PUSHES.types, marks, strict=True)))
        # A minute whose samples have expired, but which the series still has.
        client.command(
            "INSERT INTO series_1m (t, host, event, hz, service, container, process, value)"
            " VALUES (now() - INTERVAL 40 DAY, 'h', 'cpu-clock', 99, '', '', 'app', 1000)"
        )
        for statement in older:
            client.command(statement)
    return [12, 22, 32]


def layout(store: Store) -> dict[str, tuple[str, list[str]]]:
    """How each table would be made: its columns and engine, and its settings in any order."""
    rows = store.rows(
        "SELECT name, create_table_query FROM system.tables"
        " WHERE database = 'pilotlight' AND name NOT LIKE '.inner%' ORDER BY name"
    ).rows
    found = {}
    for name, text in rows:
        columns, _, settings = text.partition(" SETTINGS ")
        found[name] = columns, sorted(settings.split(", "))
    return found


def assert_rollups_equal_samples(store: Store) -> None:
    for rollup, start in (("series_1m", "toStartOfMinute"), ("stacks_1h", "toStartOfHour")):
        recent = "t > now() - INTERVAL 14 DAY"
        left = f"SELECT t, process, sum(value) FROM {rollup} WHERE {recent} GROUP BY ALL ORDER BY ALL"
        right = f"SELECT {start}(ts), process, sum(value) FROM samples GROUP BY ALL ORDER BY ALL"
        assert store.rows(left).rows == store.rows(right).rows, rollup


def assert_whole(store: Store, counts: list[int]) -> None:
    """The store has the windows with `counts` and nothing else, everywhere."""
    found = store.rows("SELECT sampled FROM windows ORDER BY ts").rows
    assert [row[0] for row in found] == counts
    assert_rollups_equal_samples(store)
    queries = Queries(store)
    table, overview = queries.stack_table(queries.resolve(Selection(0, 0xFFFFFFFF)))
    assert int(table.counts.sum()) == overview.accounting.sampled == sum(counts)
    assert store.rows("SELECT sum(value) FROM series_1m WHERE t < now() - INTERVAL 30 DAY").rows == [(1000,)]
    assert store.rows("SELECT countIf(received < now() - INTERVAL 2 DAY) FROM windows").rows == [(0,)]


@pytest.mark.parametrize(
    ("version", "older"),
    [
        (0, ()),
        (0, ("ALTER TABLE windows DROP COLUMN unwinding",)),
        (0, ("DROP TABLE names", "ALTER TABLE frames DROP COLUMN nameable")),
        (2, ()),
    ],
    ids=["before versions", "before the unwinding", "before better names", "before kinds of CPU"],
)
def test_an_older_store_comes_up_with_all_it_holds(tmp_path: Path, version: int, older: tuple[str, ...]) -> None:
    counts = old_store(tmp_path / "store", *older, version=version)
    store = Store(f"chdb://{tmp_path}/store")
    noted = [row[0] for row in store.rows("SELECT version FROM versions ORDER BY version").rows]
    assert noted == list(range(version or 1, migrations.VERSION + 1))
    writer = Writer(store, interval=0)
    assert_whole(store, counts)
    writer.submit(Push((profile(START + 20, 100),), "1" * 64, "agent", "1", 9)).result(60)
    assert_whole(store, [12, 102, 22, 32])
    writer.close()
    migrated = layout(store)
    store.close()
    fresh = Store(f"chdb://{tmp_path}/fresh")
    Writer(fresh).close()
    assert layout(fresh) == migrated
    fresh.close()


@pytest.mark.parametrize("version", [0, 2])
def test_a_migration_that_was_interrupted_is_done_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    directory = tmp_path / "store"
    counts = old_store(directory, version=version)
    steps = len(statements(migrations.MIGRATIONS[version + 1], "pilotlight"))
    command: Callable[..., Any] = ChdbClient.command
    allowed = done = 0

    def limited(self: Client, statement: str, *arguments: Any, **named: Any) -> Any:
        nonlocal done
        if named.get("settings") == migrations._PATIENT:
            if done == allowed:
                raise OSError("killed")
            done += 1
        elif statement.startswith("INSERT INTO versions"):
            raise OSError("killed")
        return command(self, statement, *arguments, **named)

    monkeypatch.setattr(ChdbClient, "command", limited)
    # Each start gets one statement further than the one before, and dies after it.
    for allowed in range(1, steps + 1):
        done = 0
        with pytest.raises(StoreUnavailable, match="killed"):
            Store(f"chdb://{directory}")
        assert done == allowed
    monkeypatch.undo()
    store = Store(f"chdb://{directory}")
    Writer(store).close()
    assert_whole(store, counts)
    store.close()


def test_a_new_store_whose_making_was_interrupted_is_made_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: Callable[..., Any] = ChdbClient.command

    def until_stacks(self: Client, statement: str, *arguments: Any, **named: Any) -> Any:
        if "TABLE IF NOT EXISTS stacks" in statement:
            raise OSError("killed")
        return command(self, statement, *arguments, **named)

    monkeypatch.setattr(ChdbClient, "command", until_stacks)
    with pytest.raises(StoreUnavailable, match="killed"):
        Store(f"chdb://{tmp_path}/store")
    monkeypatch.undo()
    store = Store(f"chdb://{tmp_path}/store")
    writer = Writer(store, interval=0)
    writer.submit(Push((profile(START),), "1" * 64, "agent", "1", 1)).result(60)
    assert store.rows("SELECT version FROM versions").rows == [(migrations.VERSION,)]
    assert_rollups_equal_samples(store)
    writer.close()
    store.close()


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = Store(f"chdb://{tmp_path}/store")
    store.command("INSERT INTO versions (version) VALUES (99)")
    store.command("DROP TABLE names")
    store.close()
    with pytest.raises(
        StoreUnavailable, match=rf"newer pilotlight \(its schema is version 99, this one knows {migrations.VERSION}\)"
    ):
        Store(f"chdb://{tmp_path}/store")
    with engine(tmp_path / "store") as client:
        assert client.query("SELECT count() FROM system.tables WHERE name = 'names'").result_rows == [(0,)]


def test_a_store_of_one_engine_is_not_taken_for_a_clusters(tmp_path: Path) -> None:
    with engine(tmp_path / "store") as client:
        migrations.bring_up(client, "pilotlight")
        with pytest.raises(migrations.CannotBringUp, match=r"made without \?cluster="):
            migrations.bring_up(client, "pilotlight", "fleet")


def test_the_clusters_statements_are_sql_and_leave_no_table_out(tmp_path: Path) -> None:
    text = migrations.SCHEMA + migrations._VERSIONS
    single, spread = statements(text, "pilotlight"), statements(text, "pilotlight", "fleet")
    tables = [statement for statement in single if "ENGINE" in statement]
    assert {statement.split("(")[0].split()[5] for statement in tables} == set(SHARDED_BY)
    assert len(spread) == len(single) + len(tables)
    with engine(tmp_path / "store") as client:
        for statement in spread:
            assert "ON CLUSTER 'fleet'" in statement
            tree = client.query(f"EXPLAIN AST {statement}").result_rows
            assert tree[0][0].startswith("CreateQuery")
            if "Distributed" not in statement and "VIEW" not in statement:
                assert re.search(r"ENGINE = Replicated\w*MergeTree", statement)


def test_what_brings_a_cluster_up_is_sql_for_all_of_it(tmp_path: Path) -> None:
    with engine(tmp_path / "store") as client:
        for version in range(2, migrations.VERSION + 1):
            for statement in statements(migrations.MIGRATIONS[version], "pilotlight", "fleet"):
                assert "ON CLUSTER 'fleet'" in statement
                assert re.match(r"(Create|Alter|Drop)Query", client.query(f"EXPLAIN AST {statement}").result_rows[0][0])


def test_the_script_for_operators_is_what_the_server_would_say() -> None:
    script = Path(__file__).parent.parent / "deploy" / "clickhouse" / "cluster.sql"
    made = script.read_text("utf-8")
    assert made == migrations.cluster_script("pilotlight", "pilotlight")
    assert f"INSERT INTO versions (version) VALUES ({migrations.VERSION})" in made


def test_tables_of_a_cluster_without_a_version_are_not_taken_for_old_ones() -> None:
    """As a script that was cut off leaves them. No engine with a cluster is at hand, so that its answer is made up."""

    class Answers:
        def query(self, sql: str, parameters: dict[str, str]) -> SimpleNamespace:
            return SimpleNamespace(result_rows=[("samples", "Distributed")])

    with pytest.raises(migrations.CannotBringUp, match="its version is not noted"):
        migrations.bring_up(cast(Client, Answers()), "pilotlight", "fleet")


def test_a_clusters_older_tables_are_brought_up_on_all_of_it() -> None:
    """No engine with a cluster is at hand, so that its answers are made up."""
    said: list[str] = []

    class Answers:
        def query(self, sql: str, parameters: dict[str, str] | None = None) -> SimpleNamespace:
            is_version = "max(version)" in sql
            return SimpleNamespace(
                result_rows=[(1,)] if is_version else [("samples", "Distributed"), ("versions", "Distributed")]
            )

        def command(self, sql: str, settings: dict[str, Any] | None = None) -> None:
            said.append(sql)

    migrations.bring_up(cast(Client, Answers()), "pilotlight", "fleet")
    made = [statement for statement in said if statement.startswith("CREATE")]
    assert all("ON CLUSTER 'fleet'" in statement for statement in made)
    annotations = [statement for statement in made if re.match(r"CREATE TABLE IF NOT EXISTS annotations\b", statement)]
    assert annotations and all("Distributed(" in statement for statement in annotations)
    assert "INSERT INTO versions (version) VALUES (2)" in said
    # A table of all shards has its local ones' new columns, which alone are in an order.
    altered = [statement for statement in said if statement.startswith("ALTER") and "series_1m" in statement]
    assert [statement.split()[2] for statement in altered] == ["series_1m_local", "series_1m"]
    assert ["MODIFY ORDER BY" in statement for statement in altered] == [True, False]
    assert all("ON CLUSTER 'fleet' ADD COLUMN IF NOT EXISTS cpu_kind" in statement for statement in altered)
    assert "DROP VIEW IF EXISTS series_1m_of_samples ON CLUSTER 'fleet' SYNC" in said
