"""One contract, kept by the embedded engine and by a server over HTTP alike.

With PILOTLIGHT_TEST_CLICKHOUSE=clickhouse://USER:PASSWORD@HOST[:PORT] it is a real server's, in databases of its own
that are dropped afterwards. Without, HTTP is spoken with a stand-in (standin_clickhouse.py): that exercises the
client's path, and says nothing of a server's own behaviour.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from profiler.formats.otlp import PushIdentity, write_otlp
from symbolizer.types import Binary, Frame, Kind, Location
from web.app import ServerOptions, create_app
from web.store import retention
from web.store.migrations import VERSION
from web.store.queries import Queries
from web.store.retention import Retention
from web.store.selection import Selection, parse_matcher
from web.store.store import BadQuery, Store, StoreUnavailable
from web.store.writer import Conflict, Names, Writer, Written

from .test_store_writer import assert_rollups_equal_samples, profile, push, total, written

START = int(time.time()) // 3600 * 3600 - 7200
ALWAYS = Selection(0, 0xFFFFFFFF)
REAL = os.environ.get("PILOTLIGHT_TEST_CLICKHOUSE", "")
PASSWORD = "p@ss/word"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server, without a database."""
    if REAL:
        yield REAL.rstrip("/")
        return
    program = [sys.executable, str(Path(__file__).parent / "standin_clickhouse.py")]
    directory = tmp_path_factory.mktemp("standin")
    with subprocess.Popen(
        [*program, str(directory / "data"), PASSWORD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"clickhouse://default:p%40ss%2Fword@127.0.0.1:{process.stdout.readline().strip()}"


@pytest.fixture(params=["embedded", "http"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "embedded":
        yield f"chdb://{tmp_path}/store"
        return
    database = f"pilotlight_test_{uuid4().hex[:12]}"
    address = f"{request.getfixturevalue('server')}/{database}"
    yield address
    store = Store(address)
    store.command(f"DROP DATABASE {database} SYNC")
    store.close()


@dataclass
class World:
    """A store that can be opened again, as after a restart."""

    url: str

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.store = Store(self.url)
        self.writer = Writer(self.store, interval=0)
        self.queries = Queries(self.store)

    def close(self) -> None:
        self.writer.close()
        self.store.close()


@pytest.fixture
def world(url: str) -> Iterator[World]:
    world = World(url)
    yield world
    world.close()


def test_what_is_acknowledged_is_there_once_also_after_a_restart(world: World) -> None:
    first = push(1, profile(START), profile(START + 10, 20, labels={"region": "eu"}))
    assert [written(world.writer, first), written(world.writer, first)] == [Written.STORED, Written.DUPLICATE]
    with pytest.raises(Conflict):
        written(world.writer, push(1, profile(START, 9)))
    world.close()
    world.open()
    assert world.store.rows("SELECT version FROM versions").rows == [(VERSION,)]
    assert written(world.writer, first) is Written.DUPLICATE
    assert written(world.writer, push(2, profile(START + 4000, 30))) is Written.STORED
    assert total(world.store) == 7 + 22 + 32
    assert_rollups_equal_samples(world.store)


@pytest.mark.parametrize("table", ["windows", "samples", "pushes"])
def test_a_commit_that_fails_is_undone_and_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    written(world.writer, push(1, profile(START)))
    insert: Callable[..., None] = world.store.insert

    def fail(name: str, *arguments: Any) -> None:
        if name == table == "pushes":  # afterwards, it would be whole
            raise OSError("no space left on device")
        insert(name, *arguments)
        if name == table:
            raise OSError("no space left on device")

    monkeypatch.setattr(world.store, "insert", fail)
    again = push(2, profile(START + 10), profile(START + 70), profile(START + 3700))
    with pytest.raises(StoreUnavailable):
        written(world.writer, again)
    assert world.queries.overview(ALWAYS, world.store.horizon).accounting.sampled == 7
    monkeypatch.undo()
    assert written(world.writer, again) is Written.STORED
    assert total(world.store) == 28
    assert_rollups_equal_samples(world.store)


def test_inserts_carry_a_name_by_which_they_can_be_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP an insert may go on after its client is gone: undoing ends such ones before it deletes."""
    said: list[str] = []
    command = world.store.command

    def watch(sql: str, *arguments: Any) -> None:
        said.append(sql)
        command(sql, *arguments)

    monkeypatch.setattr(world.store, "command", watch)
    world.store.end_inserts()
    if world.store.directory is not None:
        assert said == []  # they run within this process, and end before insert() does
        return
    prefix = f"insert into {urlsplit(world.url).path[1:]}: "
    assert said == [f"KILL QUERY WHERE startsWith(initial_query_id, '{prefix}') SYNC"]
    with world.store.client() as client:
        insert = client.insert
        ids: list[str] = []

        def note(*arguments: Any, **named: Any) -> Any:
            ids.append(named["settings"]["query_id"])
            return insert(*arguments, **named)

        monkeypatch.setattr(type(client), "insert", lambda self, *a, **n: note(*a, **n))
    written(world.writer, push(1, profile(START)))
    assert len(set(ids)) == len(ids) >= 5 and all(name.startswith(prefix) for name in ids)


def test_questions_are_answered_alike(world: World) -> None:
    odd = 'O\'Brien\\ "x" {a:b} ünï\n%d'
    written(
        world.writer,
        push(1, profile(START, host=odd), profile(START + 10, 20, host="h2"), profile(START + 60, 30, host="h2")),
    )
    selection = world.queries.resolve(ALWAYS)
    table, overview = world.queries.stack_table(selection)
    assert int(table.counts.sum()) == overview.accounting.sampled == 61
    assert overview.hosts == tuple(sorted((odd, "h2")))
    alone = selection.also("host", odd)
    whole = world.queries.profile(alone)
    assert whole.host == odd and sum(sample.count for sample in whole.samples) == 7
    assert whole.accounting == profile(START).accounting
    assert {row["name"]: row["samples"] for row in world.queries.labels(selection, "thread")} == {
        "app": 55,
        "worker": 6,
    }
    assert sum(point["samples"] for point in world.queries.series(selection)) == 61
    assert {row["host"]: row["samples"] for row in world.queries.hosts(START)} == {odd: 7, "h2": 54}
    matched = Selection(0, 0xFFFFFFFF, (parse_matcher("thread=~w.*r"), *selection.matchers))
    table, _ = world.queries.stack_table(world.queries.resolve(matched))
    assert int(table.counts.sum()) == 6
    with pytest.raises(BadQuery, match="not a regular expression"):
        world.queries.resolve(Selection(0, 0xFFFFFFFF, (parse_matcher("host=~("),)))


def test_better_names_are_shown(world: World) -> None:
    written(world.writer, push(1, profile(START)))
    (address, build_id) = world.store.rows("SELECT address, build_id FROM frames").rows[0]
    lines = (Frame("f_with_lines", Kind.NATIVE, "", "f.c", 12), Frame("caller", Kind.NATIVE, "", "f.c", 40))
    world.store.command("ALTER TABLE frames UPDATE functions = ['[x]'], kinds = ['unknown'], lines = [0] WHERE true")
    world.writer.submit(Names([Location(address, Binary("", build_id), lines)])).result(60)
    found = world.queries.profile(world.queries.resolve(ALWAYS))
    assert {sample.stack[0].frames for sample in found.samples} == {lines}


def test_retention_is_kept_by_the_store(world: World) -> None:
    assert retention.read(world.store) == Retention()
    world.writer.keep({"samples": 3, "rollups": 30})
    world.close()
    world.open()
    assert world.writer.retention == Retention(3, 30)
    assert retention.apply(world.store, Retention(3, 30)) == []


def test_what_it_takes_is_told(world: World) -> None:
    written(world.writer, push(1, profile(START)))
    sizes = {size.name: size for size in world.store.sizes()}
    assert sizes["samples"].rows == 2 and sizes["samples"].bytes > 0 and sizes["windows"].rows == 1
    assert world.store.bytes_on_disk() >= sum(size.bytes for size in sizes.values()) > 0


def test_the_server_works_over_it(url: str) -> None:
    store = Store(url)
    app = create_app(store, ServerOptions("", commit_seconds=0))
    headers = {"content-type": "application/x-protobuf"}
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for number in (1, 2, 2):
            made = replace(profile(START + 10 * number), host="h")
            body = write_otlp(made, PushIdentity("agent", 1, number))
            assert client.post("/v1development/profiles", content=body, headers=headers).status_code == 200
        got = client.get(f"/flamegraph.json?from={START}&until={START + 3600}")
        assert got.status_code == 200 and got.json()["accounting"]["sampled"] == 14
        assert "pilotlight_table_rows" in client.get("/metrics").text
        assert client.get("/settings").status_code == 200
    store.close()


def test_a_server_that_cannot_be_used_is_said_in_a_sentence(server: str) -> None:
    parts = urlsplit(server)
    nobody = "clickhouse://127.0.0.1:1/x"
    with pytest.raises(StoreUnavailable, match="cannot open the store clickhouse://127.0.0.1:1/x: ") as refused:
        Store(nobody)
    assert "\n" not in str(refused.value)
    if parts.password:
        wrong = parts._replace(netloc=f"default:secret@{parts.hostname}:{parts.port}").geturl()
        with pytest.raises(StoreUnavailable) as denied:
            Store(wrong)
        assert "\n" not in str(denied.value) and "secret" not in str(denied.value)


@pytest.mark.parametrize(
    ("scheme", "query", "secure", "port"),
    [
        ("clickhouse", "", False, 8123),
        ("http", "", False, 8123),
        ("clickhouse", "?secure=1", True, 8443),
        ("https", "", True, 8443),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, scheme: str, query: str, secure: bool, port: int) -> None:
    asked: list[dict[str, Any]] = []

    def get_client(**named: Any) -> None:
        asked.append(named)
        raise OSError("nobody is there")

    monkeypatch.setattr("web.store.store.clickhouse_connect.get_client", get_client)
    with pytest.raises(StoreUnavailable, match="nobody is there"):
        Store(f"{scheme}://u%40x:p%3A@db.example/history{query}")
    assert asked[0]["host"] == "db.example" and asked[0]["port"] == port and asked[0]["secure"] is secure
    assert (asked[0]["username"], asked[0]["password"]) == ("u@x", "p:")
    assert "insert_quorum" not in asked[0]["settings"]


def test_names_of_databases_and_clusters_are_no_sql() -> None:
    for bad in ("clickhouse://h/x;y", "clickhouse://h/d?cluster=a'b", "https://h/d?cluster=%20"):
        with pytest.raises(StoreUnavailable, match="is no name for a"):
            Store(bad)
