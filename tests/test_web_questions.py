"""/api/v1 as clients use it: tree, diff, top, who, series, labels; what need not be sent again; and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from profiler.better_names import encode
from profiler.formats.otlp import PushIdentity, write_otlp
from symbolizer.types import Frame, Kind
from tests.test_store_history import END, HOUR, PLACES, START, TOTAL, WINDOWS, profile
from web.app import ServerOptions, create_app
from web.auth import Message, Receive, Scope, Send
from web.gone import EndWhenGone
from web.store.asking import NobodyWaits
from web.store.store import Store

PROTOBUF = {"content-type": "application/x-protobuf"}
RANGE = f"from={START}&until={END}"
PATHS = ("tree", "diff", "top", "functions/who?function=f", "series", "labels?label=service", "profile")


def address(path: str, query: str) -> str:
    return f"/api/v1/{path}{'&' if '?' in path else '?'}{query}"


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as client:
        for number, window in enumerate(WINDOWS):
            push(client, number, window)
        yield client


def push(client: TestClient, number: int, window: Any) -> None:
    body = write_otlp(window, PushIdentity("agent", 1, number))
    assert client.post("/v1development/profiles", content=body, headers=PROTOBUF).status_code == 200


def totals(columns: dict[str, Any], own: str = "own") -> int:
    return int(sum(columns[own]))


def test_a_tree_has_all_samples_however_much_of_it_is_folded(client: TestClient) -> None:
    for query in ("", "&maxNodes=3", "&groupBy=service", "&groupBy=host,service&maxNodes=2"):
        found = client.get(address("tree", RANGE + query)).json()
        assert totals(found["tree"]) == found["samples"] == found["accounting"]["sampled"] == TOTAL
    few = client.get(address("tree", f"{RANGE}&maxNodes=3")).json()["tree"]
    assert any("below" in name for name in few["frames"]["name"]) and len(few["own"]) < 10
    grouped = client.get(address("tree", f"{RANGE}&groupBy=service")).json()["tree"]
    assert {"svc-0", "svc-1", "svc-2"} <= set(grouped["frames"]["name"])


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ("samples", float(TOTAL)),
        ("cpu-seconds", TOTAL / 99),
        ("relative", 1.0),
        ("per-cpu-second", TOTAL / (1980 * len(WINDOWS))),
    ],
)
def test_counts_come_in_other_units(client: TestClient, values: str, whole: float) -> None:
    tree = client.get(address("tree", f"{RANGE}&values={values}")).json()
    assert sum(tree["tree"]["own"]) == pytest.approx(whole) and tree["values"] == values
    top = client.get(address("top", f"{RANGE}&sort=total&values={values}")).json()["top"]
    assert top[0]["function"] == "f0" and top[0]["total"] == pytest.approx(whole)
    who = client.get(address("functions/who", f"{RANGE}&function=f0&by=event&values={values}")).json()["who"]
    assert [row["total"] for row in who] == [pytest.approx(whole)]
    points = client.get(address("series", f"{RANGE}&step=3600&values={values}")).json()["points"]
    shown = [point.get("value", point["samples"]) for point in points]
    if values in ("samples", "cpu-seconds"):
        assert sum(shown) == pytest.approx(whole)
    else:
        assert all(0 < value <= 1 for value in shown)


def test_a_diff_compares_two_ranges_or_two_selections(client: TestClient) -> None:
    later = f"from={START + 2 * HOUR}&until={END}"
    found = client.get(address("diff", later)).json()
    assert (found["before"]["from"], found["before"]["until"]) != (found["after"]["from"], found["after"]["until"])
    assert totals(found["tree"], "before_own") == found["before"]["samples"] == 2 * 45 * 2 * 2
    assert totals(found["tree"], "after_own") == found["after"]["samples"] == 2 * 45 * 2 * 3
    hosts = client.get(
        address("diff", f"{RANGE}&q=host=h1&baseFrom={START}&baseUntil={END}&baseQ=host=h2&absolute=true")
    ).json()
    assert hosts["before"]["hosts"] == ["h2"] and hosts["after"]["hosts"] == ["h1"]
    assert hosts["tree"]["before_own"] == hosts["tree"]["after_own"] and not any(hosts["tree"]["z"])
    refused = client.get(address("diff", f"{RANGE}&baseFrom={END}&baseUntil={START}"))
    assert refused.status_code == 400 and "earlier" in refused.json()["error"]


def test_a_thread_of_a_process_has_a_profile(client: TestClient) -> None:
    found = client.get(address("tree", f"{RANGE}&q=process=app&q=thread=app&q=pid=2")).json()
    assert (
        totals(found["tree"])
        == found["samples"]
        == sum(s.count for window in WINDOWS for s in window.samples if s.pid == 2)
    )
    accounting = found["accounting"]
    assert accounting["filtered"] == TOTAL - found["samples"]


def test_a_series_of_a_function_is_by_label_and_step(client: TestClient) -> None:
    points = client.get(address("series", f"{RANGE}&function=f0&by=host&step=1800")).json()["points"]
    assert sum(point["samples"] for point in points) == TOTAL and {p["host"] for p in points} == {"h1", "h2"}
    assert all(point["at"] % 1800 == 0 and point["busy"] > 0 for point in points)


def test_labels_are_named(client: TestClient) -> None:
    push(client, 100, profile(START + 60, region="eu"))
    assert client.get("/api/v1/labels").json()["labels"][-1] == "region"
    values = client.get(address("labels?label=region", RANGE)).json()["values"]
    assert [value["name"] for value in values] == ["", "eu"]


# ------------------------------------------------------------------------- not sent again


@pytest.mark.parametrize("path", PATHS)
def test_a_range_that_nothing_was_added_to_is_not_sent_again(client: TestClient, path: str) -> None:
    query = f"{RANGE}&baseFrom={START}&baseUntil={END}"
    first = client.get(address(path, query))
    tag = first.headers["etag"]
    assert first.status_code == 200 and "no-store" not in first.headers["cache-control"]
    push(client, 100, profile(END + 60))  # elsewhere
    again = client.get(address(path, query), headers={"if-none-match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(address(path, f"{query}&q=host=h1"), headers={"if-none-match": tag}).status_code == 200
    push(client, 101, profile(START + 20))  # late
    late = client.get(address(path, query), headers={"if-none-match": tag})
    assert late.status_code == 200 and late.headers["etag"] != tag


@pytest.mark.parametrize("twin", ["svg", "json", "folded", "pb.gz", "speedscope.json"])
def test_pictures_and_exports_are_not_sent_again(client: TestClient, twin: str) -> None:
    first = client.get(f"/flamegraph.{twin}?{RANGE}")
    again = client.get(f"/flamegraph.{twin}?{RANGE}", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code) == (200, 304)


def test_better_names_are_sent_at_once(client: TestClient) -> None:
    first = client.get(address("top", RANGE))
    (message,) = encode([replace(PLACES[0], frames=(Frame("found", Kind.NATIVE, "", "found.c", 7),))])
    plain = [replace(place, frames=(replace(place.frames[0], line=0),)) for place in PLACES[:1]]
    window = profile(START + 40)
    samples = tuple(replace(sample, stack=(plain[0],)) for sample in window.samples)
    push(client, 100, replace(window, samples=samples))
    before = client.get(address("top", RANGE))
    assert before.headers["etag"] != first.headers["etag"]
    unchanged = client.get(address("top", RANGE), headers={"if-none-match": before.headers["etag"]})
    assert unchanged.status_code == 304
    sent = client.post("/api/v1/names", content=message.body, headers={"content-type": "application/json"})
    assert sent.status_code == 200
    after = client.get(address("top", RANGE), headers={"if-none-match": before.headers["etag"]})
    assert after.status_code == 200 and "found" in after.text and "found" not in before.text


# -------------------------------------------------------------------------------- refused

HOSTILE = (
    "'; DROP TABLE samples; --",
    "x' OR 1=1 --",
    "{m0:String}",
    "\\' UNION ALL SELECT 1",
    "<script>alert(1)</script>",
    "a\r\nset-cookie: x=1",
    "../../etc/passwd",
    "%s%n\0",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_in_a_parameter_is_run_or_shown_raw(client: TestClient, store: Store, hostile: str) -> None:
    text = quote(hostile, safe="")
    for path in PATHS:
        for query in (
            f"q=host={text}",
            f"q=region={text}",
            f"q=process=~{text}",
            f"q={text}=x",
            f"event={text}",
            f"groupBy={text}",
            f"by={text}",
            f"label={text}",
            f"function={text}",
            f"function=~{text}",
            f"sort={text}",
            f"values={text}",
            f"step={text}",
            f"maxNodes={text}",
            f"format={text}",
            f"from={text}",
            f"baseQ=host={text}",
            f"baseFrom={text}",
        ):
            answer = client.get(address(path, f"{query}&{RANGE}"))
            assert answer.status_code in (200, 400, 404), (path, query, answer.text)
            assert "set-cookie" not in answer.headers
            if answer.status_code != 200:
                assert 5 < len(answer.json()["error"]) < 1500
    assert store.rows("SELECT count() FROM samples").rows[0][0] == 9 * len(WINDOWS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"from={END}&until={START}", 400),
        (f"from={START}&until={START}", 400),
        (f"from={END + 10**8}&until={END + 2 * 10**8}", 404),
        (f"from={END - 10 * 366 * 86400}&until={END}", 200),
        ("from=0&until=4294967295", 200),
        (f"{RANGE}&q=host=none", 404),
        (f"{RANGE}&q=nothing=x", 404),
        (f"{RANGE}&q=process=~(", 400),
        (f"{RANGE}&q=process=~{'(' * 1000}", 400),
        (f"{RANGE}&q=process={'x' * 5000}", 400),
        (f"{RANGE}&q=process=~(a{{1000}}){{1000}}", 400),
    ],
)
def test_ranges_and_selectors_have_clear_answers(client: TestClient, path: str, query: str, status: int) -> None:
    answer = client.get(address(path, query))
    if path in ("series", "labels?label=service") and status == 404:
        assert answer.status_code == 200 and answer.json().get("points", answer.json().get("values")) == []
    elif path == "diff" and "366" not in query and status == 200:
        assert answer.status_code in (200, 400, 404)
    else:
        assert answer.status_code in ((status, 404) if path == "diff" else (status,)), answer.text
    if answer.status_code != 200:
        assert 5 < len(answer.json()["error"]) < 500


@pytest.mark.parametrize(
    "query",
    ["function=", "function=%20", "function=~", f"function={'x' * 1001}", "function=f&by=comm", "function=f&step=3"],
)
def test_a_function_that_cannot_be_asked_for_is_told(client: TestClient, query: str) -> None:
    answer = client.get(address("functions/who", f"{query}&{RANGE}"))
    assert answer.status_code == 400 and len(answer.json()["error"]) > 5


def test_what_takes_too_much_is_refused_with_what_to_narrow(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, limit, path in (
        ("web.store.sums", "MAX_ROWS", "tree"),
        ("web.store.sums", "MAX_GROUPS", "tree?groupBy=service"),
        ("web.store.stackcache", "MAX_STACKS", "top"),
        ("web.store.stacks", "MAX_SAMPLES", "profile"),
        ("web.store.series", "MAX_POINTS", "series"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.{limit}", 1)
            answer = client.get(address(path, RANGE))
        assert answer.status_code == 400 and "choose" in answer.json()["error"], answer.text


# ------------------------------------------------------------------------------ gone away


def test_a_query_ends_when_its_client_goes_away(store: Store) -> None:
    """The engine would need years for it, and is not let go on for longer than a minute: then this were BadQuery."""
    begun, ended = threading.Event(), []

    def question() -> None:
        begun.set()
        try:
            store.rows("SELECT count() FROM numbers(1000000000000000) WHERE sipHash64(number) = 1")
        except Exception as error:
            ended.append(error)
        try:
            store.rows("SELECT 1")  # nor does what would follow begin
        except NobodyWaits as error:
            ended.append(error)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(question)

    async def receive() -> Message:
        await asyncio.to_thread(begun.wait)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    asyncio.run(EndWhenGone(app, lambda: store)({"type": "http", "method": "GET"}, receive, send))
    assert [type(error) for error in ended] == [NobodyWaits, NobodyWaits]
    assert store.rows("SELECT 1").rows == [(1,)]
