"""History is kept as long as it is told, shown and changeable, and what remains stays exact."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from profiler.cli import main
from web.app import ServerOptions, create_app, serve
from web.ingest import unusable
from web.store import retention
from web.store.migrations import SCHEMA
from web.store.retention import BadRetention, Retention
from web.store.store import Store
from web.store.writer import Writer

from .test_store_writer import assert_rollups_equal_samples, profile, push, written

NOW = int(time.time()) // 60 * 60
DAY = 86400


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions("", commit_seconds=0))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def test_the_schemas_own_days_are_the_default(store: Store) -> None:
    tables = set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", SCHEMA))
    assert set(retention.in_force(store)) == tables  # none is kept forever
    assert retention.read(store) == Retention()
    assert retention.apply(store, Retention()) == []


def test_what_others_need_outlives_them(store: Store) -> None:
    for wanted in (Retention(3, 400), Retention(700, 700), Retention(1, 1)):
        retention.apply(store, wanted)
        days = retention.in_force(store)
        assert days.pop("samples") == wanted.samples
        rollups = ("windows", "series_1m", "stacks_1h", "functions_1h", "function_hours", "annotations")
        rolled = {name: days.pop(name) for name in (*rollups, "captures", "capture_profiles")}
        assert set(rolled.values()) == {wanted.rollups}
        assert min(days.values()) == wanted.rollups + 30
        assert retention.read(store) == wanted


def test_what_is_set_stays_until_it_is_set_again(tmp_path: Path) -> None:
    kept = []
    for days in ({}, {"samples": 7}, {}, {"rollups": 30}, {"samples": 20, "rollups": 20}):
        store = Store(f"chdb://{tmp_path}/store")
        writer = Writer(store, keep=days)
        kept.append((writer.retention.samples, writer.retention.rollups))
        writer.close()
        store.close()
    assert kept == [(14, 90), (7, 90), (7, 90), (7, 30), (20, 20)]


def test_what_has_expired_goes_and_its_rollups_stay(store: Store) -> None:
    writer = Writer(store, interval=0)
    old = NOW - 5 * DAY
    written(writer, push(1, profile(old), profile(NOW - 60)))
    writer.keep({"samples": 3})
    store.command("OPTIMIZE TABLE samples FINAL")
    assert store.rows("SELECT count(), min(ts) > now() - INTERVAL 1 DAY FROM samples").rows == [(2, True)]
    for table in ("series_1m", "stacks_1h"):
        assert store.rows(f"SELECT sum(value) FROM {table}").rows == [(14,)]
    assert store.rows("SELECT sum(sampled) FROM windows").rows == [(14,)]
    writer.close()


def test_windows_are_taken_as_long_as_their_samples_would_be_kept() -> None:
    for days, taken, refused in ((14, 12.9, 13.1), (3, 1.9, 2.1), (1, 0.4, 0.6), (400, 398.9, 399.1)):
        kept = Retention(days, 400)
        assert unusable(profile(int(NOW - taken * DAY)), NOW, kept) == ""
        assert "older than" in unusable(profile(int(NOW - refused * DAY)), NOW, kept)
    assert "older than 12 hours" in unusable(profile(NOW - DAY), NOW, Retention(1, 1))


def test_undoing_a_commit_never_empties_rollups_of_samples_that_have_expired(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(store, interval=0)
    old = NOW - 5 * DAY
    written(writer, push(1, profile(old)))
    insert = store.insert

    def fail(name: str, *arguments: Any) -> None:
        if name == "samples":
            raise OSError("no space left on device")
        insert(name, *arguments)

    monkeypatch.setattr(store, "insert", fail)
    with pytest.raises(Exception, match="cannot be written"):
        written(writer, push(2, profile(old + 10), profile(NOW - 60)))
    monkeypatch.undo()
    # The server was away for long: meanwhile the samples of the older window have expired.
    store.command(f"ALTER TABLE samples DELETE WHERE ts = {old}")
    retention.apply(store, Retention(3, 90))
    writer.retention = Retention(3, 90)
    written(writer, push(3, profile(NOW - 30)))
    assert store.rows("SELECT sum(value) FROM stacks_1h").rows == [(14,)]
    assert store.rows("SELECT sum(sampled) FROM windows").rows == [(14,)]
    writer.close()


def test_a_change_while_a_commit_is_unfinished_undoes_it_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(store, interval=0)
    old = NOW - 5 * DAY
    written(writer, push(1, profile(old)))
    insert = store.insert

    def fail(name: str, *arguments: Any) -> None:
        insert(name, *arguments)
        if name == "samples":
            raise OSError("no space left on device")

    monkeypatch.setattr(store, "insert", fail)
    with pytest.raises(Exception, match="cannot be written"):
        written(writer, push(2, profile(old + 10)))
    monkeypatch.undo()
    writer.keep({"rollups": 60})
    assert_rollups_equal_samples(store)
    assert store.rows("SELECT sum(value) FROM stacks_1h").rows == [(7,)]
    writer.close()


@pytest.mark.parametrize(
    ("days", "why"),
    [
        ({"samples": 0}, "from 1 to 3650"),
        ({"samples": 3651}, "from 1 to 3650"),
        ({"samples": -5}, "a whole number of days"),
        ({"samples": 1.5}, "a whole number of days"),
        ({"samples": True}, "a whole number of days"),
        ({"samples": None}, "a whole number of days"),
        ({"samples": "14 DAY; DROP TABLE samples"}, "a whole number of days"),
        ({"samples": "9" * 5000}, "a whole number of days"),
        ({"samples": "٣"}, "a whole number of days"),
        ({"samples": [14]}, "a whole number of days"),
        ({"samples": 100}, "rollups are kept at least as long"),
        ({"rollups": 5}, "rollups are kept at least as long"),
        ({"windows": 5}, "no retention of its own"),
        ({"x" * 5000: 5}, "no retention of its own"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    client: TestClient, store: Store, days: dict[str, Any], why: str
) -> None:
    answer = client.put("/api/v1/retention", json=days)
    assert answer.status_code == 400 and why in answer.json()["error"] and len(answer.json()["error"]) < 300
    with pytest.raises(BadRetention):
        retention.changed(Retention(), days)
    assert retention.read(store) == Retention()
    answer = client.post("/settings", data={name: str(value) for name, value in days.items()})
    assert answer.status_code == 400 and 'role="alert"' in answer.text
    assert retention.read(store) == Retention()


@pytest.mark.parametrize("body", ["", "[]", "14", '{"samples":', "\xff"])
def test_a_body_that_is_no_object_is_refused(client: TestClient, body: str) -> None:
    answer = client.put("/api/v1/retention", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


def test_the_page_shows_what_history_takes_and_changes_it(client: TestClient, store: Store) -> None:
    writer: Writer = client.app.state.writer  # type: ignore[attr-defined]
    written(writer, push(1, profile(NOW - 3600), profile(NOW - 60)))
    text = client.get("/settings").text
    assert 'name="samples" type="number" min="1" max="3650" value="14"' in text
    assert '<a href="/settings" aria-current="page">History</a>' in text
    answer = client.post("/settings", data={"samples": "21", "rollups": "365"})
    assert answer.history[0].status_code == 303 and 'value="21"' in answer.text and 'value="365"' in answer.text
    assert retention.read(store) == Retention(21, 365)
    told = client.get("/api/v1/retention").json()
    assert (told["samples"], told["rollups"], told["fixed"]) == (21, 365, [])
    assert told == client.get("/settings.json").json()
    tables = {table["name"]: table for table in told["tables"]}
    assert tables["samples"]["rows"] == 4 and tables["windows"]["rows"] == 2
    assert told["bytes_a_sample"] == tables["samples"]["bytes"] / 4
    assert told["oldest_sample"][:16] == time.strftime("%Y-%m-%dT%H:%M", time.gmtime(NOW - 3600))
    metrics = client.get("/metrics").text
    assert 'pilotlight_retention_days{what="samples"} 21' in metrics
    assert 'pilotlight_table_rows{table="samples"} 4' in metrics


def test_only_who_may_write_can_change_it(store: Store) -> None:
    app = create_app(store, ServerOptions("", token="secret", commit_seconds=0))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.put("/api/v1/retention", json={"samples": 5}).status_code == 401
        client.post("/login", data={"token": "secret"})
        assert client.get("/settings").status_code == 200
        form = {"samples": "5", "rollups": "90"}
        for foreign in ({}, {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            assert client.post("/settings", data=form, headers=foreign).status_code in (401, 403)
        assert retention.read(store) == Retention()
        ours = client.post("/settings", data=form, headers={"sec-fetch-site": "same-origin"})
        assert ours.status_code == 200 and retention.read(store).samples == 5
        bearer = {"authorization": "Bearer secret"}
        assert client.put("/api/v1/retention", json={"samples": 6}, headers=bearer).json()["samples"] == 6


def test_the_command_line_is_told_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("samples", "samples=14", "windows=3d", "samples=-1d", "samples=1.5d", "=3d"):
        with pytest.raises(SystemExit) as ended:
            main(["server", "--store", f"chdb://{tmp_path}/x", "--retention", text])
        assert ended.value.code == 2 and "no retention such as samples=14d" in capsys.readouterr().err
    options = ServerOptions(f"chdb://{tmp_path}/store", port=0, retention={"samples": 50, "rollups": 20})
    assert serve(options) == 1
    assert "rollups are kept at least as long as samples" in capsys.readouterr().err
