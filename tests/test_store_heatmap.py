"""The heat map: its sums are those of the series, its gaps are where no window is, and it stays small."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.app import ServerOptions, create_app
from web.store.heatmap import MOST_ROWS, step_of
from web.store.queries import Queries
from web.store.selection import Selection, parse_matcher
from web.store.store import Store
from web.store.writer import Push, Writer

START = int(time.time()) // 3600 * 3600 - 7200
SPAN = 600
WINDOWS = {
    "web-1": range(0, SPAN, 10),
    "web-2": [*range(0, 200, 10), *range(300, SPAN, 10)],
    "idle": range(100, 300, 10),
}


def profile(host: str, at: int) -> Profile:
    """Windows of two CPUs whose processes are many, and change; web-1 was busy for a while."""
    location = Location(16, Binary("/bin/x", "ab"), (Frame("f", Kind.NATIVE, line=1),))
    busy = 1900 if host == "web-1" and 240 <= at < 300 else 30 + at % 7
    counts = {} if host == "idle" else {"app": busy, f"job-{at % 320 // 10}": 11, "it's": 3}
    hz = 99 if host != "web-2" or at < 400 else 33
    samples = tuple(Sample((location,), 7, name, name, count) for name, count in counts.items())
    total, ticks = sum(counts.values()), 20 * hz
    window = Window((START + at) * 10**9, (START + at + 10) * 10**9)
    accounting = Accounting(ticks, max(ticks, total), max(ticks, total) - total, 0, total)
    return Profile(host, "cpu-clock", hz, window, samples, accounting, {"zone": "a" if host == "web-1" else "b"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('heatmap')}/store")
    writer = Writer(store, interval=0)
    pushed = [profile(host, at) for host, times in WINDOWS.items() for at in times]
    writer.submit(Push(tuple(pushed), "1" * 64, "agent", "1", 1)).result(60)
    writer.close()
    yield store
    store.close()


@pytest.fixture
def queries(store: Store) -> Queries:
    return Queries(store)


ALL = Selection(START, START + SPAN, (parse_matcher("event=cpu-clock"),))


@pytest.mark.parametrize("columns", [60, 30, 20, 10, 2])
@pytest.mark.parametrize("filters", [(), ("process=app",), ("host=~web-.*", "thread!=app"), ("zone=b",)])
@pytest.mark.parametrize("by", ["host", "process", "zone"])
def test_each_column_has_what_the_series_has(queries: Queries, by: str, filters: tuple[str, ...], columns: int) -> None:
    selection = replace(ALL, matchers=(*ALL.matchers, *map(parse_matcher, filters)))
    found = queries.heat_map(selection, by, columns)
    assert (
        found.columns <= columns and found.start <= START and found.start + found.columns * found.step >= START + SPAN
    )
    series = {point["at"]: point["busy"] * found.step for point in queries.series(selection, "", found.step)}
    assert sum(series.values()) > 5
    for i in range(found.columns):
        due = pytest.approx(series.get(found.start + i * found.step, 0))
        assert (found.total[i] or 0) == due
        assert sum(row.values[i] or 0 for row in found.rows) == due


def test_a_gap_is_not_idleness(queries: Queries) -> None:
    rows = {row.name: row.values for row in queries.heat_map(ALL, "host", 60).rows}
    assert [i for i, value in enumerate(rows["web-2"]) if value is None] == list(range(20, 30))
    assert rows["idle"] == [0.0 if 10 <= i < 30 else None for i in range(60)]
    of_web_2 = replace(ALL, matchers=(*ALL.matchers, parse_matcher("host=web-2")))
    found = queries.heat_map(of_web_2, "process", 60)
    for values in (found.total, found.covered, found.online, *(row.values for row in found.rows)):
        assert [i for i, value in enumerate(values) if value is None] == list(range(20, 30))


def test_what_is_covered_and_online_is_said_by_column(queries: Queries) -> None:
    found = queries.heat_map(ALL, "host", 20)
    assert found.step == 30 and found.covered == [30.0] * 20
    assert found.online == pytest.approx([4.0] * 3 + [6.0] * 4 + [4.0] * 3 + [4.0] * 10)


def test_the_heaviest_rows_have_names_and_the_others_are_one(queries: Queries) -> None:
    rows = queries.heat_map(ALL, "process", 60).rows
    assert len(rows) == MOST_ROWS + 1 and rows[0].name == "app"
    assert [row.others for row in rows] == [0] * MOST_ROWS + [34 - MOST_ROWS - 1]
    weights = [sum(value or 0 for value in row.values) for row in rows[:-1]]
    assert weights == sorted(weights, reverse=True)


def test_shares_count_every_window_once(queries: Queries) -> None:
    found = queries.heat_map(ALL, "share", 20)
    assert found.counts == "windows"
    assert [row.name for row in found.rows][::9] == ["90–100 %", "0–10 %"]
    assert sum(value or 0 for row in found.rows for value in row.values) == sum(map(len, WINDOWS.values()))
    assert [i for i, value in enumerate(found.rows[0].values) if value] == [8, 9]  # 240 s to 300 s
    of_app = replace(ALL, matchers=(*ALL.matchers, parse_matcher("process=app")))
    hosts = queries.heat_map(of_app, "share", 20)
    assert [i for i, value in enumerate(hosts.rows[0].values) if value] == [8, 9] and hosts.counts == "hosts"


def test_steps_are_as_short_as_the_store_can_tell() -> None:
    def step(span: int, columns: int, *filters: str, by_hour: bool = False, by: str = "host") -> int:
        return step_of(Selection(0, span, tuple(map(parse_matcher, filters)), by_hour), by, columns)

    assert [step(600, 60), step(601, 60), step(3600, 200), step(7 * 86400, 400)] == [10, 20, 20, 1800]
    assert step(600, 60, by_hour=True) == 60
    assert step(600, 60, "thread=x", by_hour=True) == step(600, 60, by_hour=True, by="thread") == 3600
    years = step(3650 * 86400, 400)
    assert years % 86400 == 0 and 300 < 3650 * 86400 / years <= 400


def test_it_is_answered_over_http_and_says_what_is_wrong(store: Store) -> None:
    with TestClient(create_app(store, ServerOptions(store.url)), "http://127.0.0.1") as client:
        query = f"from={START}&until={START + SPAN}"
        answer = client.get(f"/api/v1/heatmap?{query}&by=host&columns=60")
        found = answer.json()
        assert (found["event"], found["step"], found["columns"], found["unit"]) == ("cpu-clock", 10, 60, "CPU-seconds")
        assert {row["name"] for row in found["rows"]} == set(WINDOWS)
        again = client.get(
            f"/api/v1/heatmap?{query}&by=host&columns=60", headers={"if-none-match": answer.headers["etag"]}
        )
        assert again.status_code == 304
        assert client.get(f"/api/v1/heatmap?from={START - 90_000}&until={START - 80_000}").json()["rows"] == []
        for wrong, said in (
            ("by=colour", "unknown label"),
            ("by=comm", "by=process"),
            ("columns=401", "columns"),
            ("columns=1", "columns"),
            ("q=host=~(", "regular expression"),
            (f"from={START + SPAN}", "earlier"),
        ):
            bad = client.get(f"/api/v1/heatmap?{wrong}&{query}")
            assert bad.status_code == 400 and said in bad.json()["error"], wrong
