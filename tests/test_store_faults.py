"""What is not the store's fault: a full disk, clocks that differ, endless names and names that two machines share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from profiler.formats.otlp import PushIdentity, write_otlp
from web.app import ServerOptions, create_app
from web.store.queries import Queries
from web.store.rows import MAX_NAME
from web.store.selection import Selection
from web.store.store import Store
from web.store.writer import Push, Writer, Written

from .test_store_writer import assert_rollups_equal_samples, profile, push, written
from .test_web_server import CHECKOUT, PROGRAM

START = int(time.time()) // 60 * 60 - 3600
INGEST = "/v1development/profiles"
PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 16))


def test_a_full_disk_stops_writes_alone_and_only_while_it_is_full(small_disk: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"chdb://{small_disk}/store", "0", ""],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=CHECKOUT,
    )
    try:
        assert server.stdout is not None
        client = httpx.Client(base_url=server.stdout.readline().strip(), timeout=60)

        def send(number: int) -> httpx.Response:
            body = write_otlp(profile(START + 10 * number), PushIdentity("agent", 1, number))
            return client.post(INGEST, content=body, headers=PROTOBUF)

        def seen() -> int:
            answer = client.get(f"/api/v1/series?from={START}&until={START + 86400}")
            assert answer.status_code == 200
            tree = client.get(f"/flamegraph.json?from={START}&until={START + 86400}")
            assert tree.status_code == 200
            return int(tree.json()["accounting"]["sampled"])

        assert [send(number).status_code for number in (1, 2)] == [200, 200]
        for full in range(2):
            taken = 2 + full
            fill(small_disk / "other")
            for number in (taken + 1, taken + 1):
                answer = send(number)
                assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            assert seen() == 7 * taken  # reads go on
            assert client.get("/readyz").status_code in (200, 503)
            (small_disk / "other").unlink()
            assert send(taken + 1).status_code == 200  # by itself
            assert seen() == 7 * (taken + 1)
        assert client.get("/readyz").status_code == 200
        client.close()
    finally:
        server.terminate()
        assert server.wait(60) == 0
    store = Store(f"chdb://{small_disk}/store")
    Writer(store).close()
    assert_rollups_equal_samples(store)
    assert store.rows("SELECT sum(value) FROM samples").rows == [(28,)]
    store.close()


def test_a_difference_of_clocks_is_kept_and_the_window_too(store: Store) -> None:
    writer = Writer(store, interval=0)
    behind, ahead = START - 7200, START + 3600 + 7200
    written(writer, push(1, profile(behind, host="behind"), profile(ahead, host="ahead")))
    late = store.rows(
        "SELECT host, toInt64(toUnixTimestamp(received)) - toInt64(end_ns / 1000000000) FROM windows ORDER BY host"
    ).rows
    now = time.time()
    assert [host for host, _ in late] == ["ahead", "behind"]
    assert late[0][1] == pytest.approx(now - ahead - 10, abs=60)
    assert late[1][1] == pytest.approx(now - behind - 10, abs=60)
    assert store.rows("SELECT sum(value) FROM samples").rows == [(14,)]
    writer.close()


def test_a_host_name_of_ten_kilobytes_is_shortened_and_no_other_has_the_same(store: Store) -> None:
    app = create_app(store, ServerOptions("", commit_seconds=0))
    names = ["h" * 10_000 + end for end in ("a", "b")]
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for number, name in enumerate(names, 1):
            body = write_otlp(profile(START, host=name), PushIdentity(f"agent {number}", 1, 1))
            assert client.post(INGEST, content=body, headers=PROTOBUF).status_code == 200
        hosts = [row["host"] for row in client.get(f"/api/v1/hosts?from={START}").json()]
        assert len(set(hosts)) == 2 and all(len(host) == MAX_NAME and host.startswith("hhh") for host in hosts)
        for host in hosts:
            query = {"from": str(START), "host": host}
            assert client.get("/flamegraph.json", params=query).json()["accounting"]["sampled"] == 7
            assert client.get(f"/hosts/{host}").status_code == 200
        assert client.get("/").status_code == 200


def test_two_agents_with_one_host_name_lose_nothing_to_each_other(store: Store) -> None:
    """Both count from 1, in the same second: what tells their windows apart is the agent. Readers see one host, with
    all that both saw."""
    writer = Writer(store, interval=0)
    one = push(1, profile(START, 5), agent="machine-1")
    other = push(1, profile(START, 50), agent="machine-2")
    assert [written(writer, each) for each in (one, other, one, other)] == [
        Written.STORED,
        Written.STORED,
        Written.DUPLICATE,
        Written.DUPLICATE,
    ]
    same = replace(one, agent="machine-3")  # even with the very same content
    assert isinstance(same, Push) and written(writer, same) is Written.STORED
    rows = store.rows(
        "SELECT host, groupArray(agent), sum(sampled) FROM (SELECT * FROM windows ORDER BY agent) GROUP BY host"
    )
    assert rows.rows == [("h", ["machine-1", "machine-2", "machine-3"], 66)]
    queries = Queries(store)
    table, overview = queries.stack_table(queries.resolve(Selection(0, 0xFFFFFFFF)))
    accounting = overview.accounting
    assert int(table.counts.sum()) == accounting.sampled == 66 and overview.hosts == ("h",)
    assert accounting.ticks == accounting.idle + accounting.filtered + accounting.sampled + accounting.lost_total
    writer.close()
