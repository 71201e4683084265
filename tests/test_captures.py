"""Captures over HTTP: what is refused, what agents are told and tell, and what no restart loses."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.testclient import TestClient

from profiler import capture_link
from profiler.capture_protocol import MOST_AT_ONCE
from profiler.formats.json import read_json
from profiler.formats.otlp import write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from profiler.push import parse_target
from symbolizer.types import Frame, Kind, Location
from tests.test_web_server import Server
from web import captures as life
from web.app import ServerOptions, create_app
from web.store import captures as stored
from web.store.store import Store

TOKEN = "a token of some length"
AGENT = "/api/v1/agents/a1/captures"
SUM = Location(7, None, (Frame("sum", Kind.NATIVE),))


def listen(client: TestClient, host: str = "web-1", **query: object) -> list[dict[str, Any]]:
    """What an agent of the host is told, at once."""
    answer = client.get(AGENT, params={"host": host, "epoch": "1", **query})
    assert answer.status_code == 200, answer.text
    captures: list[dict[str, Any]] = answer.json()["captures"]
    return captures


def ask(client: TestClient, **wanted: object) -> dict[str, Any]:
    answer = client.post("/api/v1/captures", json={"host": "web-1", **wanted})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def tell(
    client: TestClient, id: str, state: str, profile: Profile | None = None, *, agent: str = "a1", **query: object
) -> httpx.Response:
    parameters = {"host": "web-1", "epoch": "1", "state": state, **query}
    body = write_otlp(profile) if profile else b""
    answer: httpx.Response = client.post(f"/api/v1/agents/{agent}/captures/{id}", params=parameters, content=body)
    return answer


def state(client: TestClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/captures/{id}").json()
    return found


def profile(count: int = 5, host: str = "web-1") -> Profile:
    start = int(time.time()) * 10**9
    samples = (Sample((SUM,), 3, "shop", "<b>", count),)
    return Profile(
        host, "cpu-clock", 99, Window(start, start + 10**9), samples, Accounting(198, 193 + count, 190, 3, count)
    )


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("wanted", "about"),
    [
        ({"seconds": 0}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 601}, "seconds"),
        ({"seconds": "long"}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"hz": 0}, "hz"),
        ({"hz": 10_001}, "hz"),
        ({"hz": 1.5}, "hz"),
        ({"pid": 0}, "pid"),
        ({"pid": list(range(1, 100))}, "pid"),
        ({"pid": 1 << 40}, "pid"),
        ({"cgroup": ["a"] * 17 + [str(n) for n in range(17)]}, "cgroup"),
        ({"cgroup": "x" * 5000}, "cgroup"),
        ({"event": "cycles"}, "cpu-clock"),
        ({"name": "x" * 201}, "name"),
        ({"host": ["web-1"] * 51}, "host"),
        ({"command": "rm -rf /"}, "command"),
    ],
)
def test_bad_values_are_a_400_that_names_them(client: TestClient, wanted: dict[str, object], about: str) -> None:
    listen(client)
    body = json.dumps({"host": "web-1", **wanted})
    answer = client.post("/api/v1/captures", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and about in answer.json()["error"], answer.text
    assert client.get("/api/v1/captures").json() == [] and listen(client) == []


def test_no_host_is_taken_for_another(client: TestClient) -> None:
    nobody = client.post("/api/v1/captures", json={"host": "web-1"})
    assert nobody.status_code == 404 and "start an agent" in nobody.json()["error"]
    listen(client, "web-1")
    assert client.post("/api/v1/captures", json={}).json()["host"] == "web-1"
    listen(client, "web-2")
    many = client.post("/api/v1/captures", json={})
    assert many.status_code == 400 and many.json()["error"] == "which host? There are web-1, web-2"
    none = client.post("/api/v1/captures", json={"host": "web-3"})
    assert none.status_code == 404 and "'web-3'" in none.json()["error"]
    both = client.post("/api/v1/captures", json={"host": ["web-2", "web-1", "web-2"], "seconds": 1})
    assert [made["host"] for made in both.json()] == ["web-2", "web-1"]
    for path in ("/api/v1/captures/none", "/captures/none.json"):
        assert client.get(path).status_code == 404
    assert client.delete("/api/v1/captures/none").status_code == 404
    assert client.get("/captures/none").status_code == 404


def test_bodies_are_bounded_and_of_json(client: TestClient) -> None:
    listen(client)
    large = json.dumps({"host": "web-1", "cgroup": ["x" * 4000] * 100})
    as_json = {"content-type": "application/json"}
    assert client.post("/api/v1/captures", content=large, headers=as_json).status_code == 413
    assert client.post("/api/v1/captures", content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/api/v1/captures", content="[" * 10_000, headers=as_json).status_code == 400
    assert client.post("/captures", content="x" * 100_000).status_code == 413


def test_there_are_not_more_than_an_agent_takes(client: TestClient) -> None:
    listen(client)
    for _ in range(MOST_AT_ONCE):
        ask(client)
    more = client.post("/api/v1/captures", json={"host": "web-1"})
    assert more.status_code == 429 and more.headers["retry-after"] and "8 captures" in more.json()["error"]
    assert client.delete("/api/v1/captures/" + listen(client)[0]["id"]).json()["state"] == "cancelled"
    ask(client)


def test_hostile_names_are_text_everywhere(client: TestClient) -> None:
    hostile = "<script>alert('x')</script>\"&;\u202e'; DROP TABLE captures"
    listen(client, hostile)
    made = ask(client, host=hostile, name=hostile, cgroup=hostile)
    tell(client, made["id"], "done", profile(host=hostile), host=hostile)
    assert state(client, made["id"])["name"] == hostile
    for path in ("/captures", made["links"]["page"], made["links"]["page"] + ".svg", "/debug/pprof/"):
        answer = client.get(path)
        assert answer.status_code == 200 and "<script>alert" not in answer.text, path
    disposition = client.get(made["links"]["page"] + ".folded").headers["content-disposition"]
    assert disposition.isascii() and "'" not in disposition and disposition.count('"') == 2


def test_the_form_asks_and_says_what_is_wrong(client: TestClient) -> None:
    listen(client)
    made = client.post("/captures", data={"host": "web-1", "seconds": "5", "hz": "", "pid": "1, 2", "name": " a b "})
    assert made.status_code == 303
    found = client.get("/api/v1/captures").json()[0]
    assert (found["name"], found["pids"], found["hz"], found["seconds"]) == ("a b", [1, 2], None, 5.0)
    assert made.headers["location"] == found["links"]["page"]
    bad = client.post("/captures", data={"host": "web-1", "seconds": "5", "pid": "all", "name": "kept"})
    assert bad.status_code == 400 and "pid" in bad.text and 'value="kept"' in bad.text
    assert client.post("/captures", data={"host": "x", "seconds": "5"}).status_code == 404
    ended = client.post(f"/captures/{found['id']}/cancel")
    assert ended.status_code == 303 and state(client, found["id"])["state"] == "cancelled"
    prefilled = client.get("/captures", params={"host": "web-1", "name": "<x>", "other": "1"})
    assert '<option value="web-1" selected>' in prefilled.text and "&lt;x&gt;" in prefilled.text


def test_the_form_offers_a_host_whose_agent_listens(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def offered() -> list[str]:
        return re.findall(r'<option value="([^"]*)" selected>', client.get("/captures").text)

    monkeypatch.setattr(stored, "known_hosts", lambda store, since: ["a silent one", "b <also>", "web-1"])
    assert offered() == ["a silent one"]
    listen(client)
    assert offered() == ["web-1"]
    listen(client, "b <also>")
    assert offered() == ["b &lt;also&gt;"]


def test_a_capture_that_is_not_there_is_said_to_be_no_capture(client: TestClient) -> None:
    page = client.get("/captures/<none>")
    assert page.status_code == 404 and '<a class="button" href="/captures">' in page.text
    twin, api = client.get("/captures/no.svg"), client.get("/api/v1/captures/no")
    for answer in (page, twin, api):
        assert "There is no such capture: its address is wrong, or it is older than what is kept." in answer.text
    assert twin.json().keys() == api.json().keys() == {"error"}
    assert twin.status_code == api.status_code == 404
    listen(client)
    top = client.get(f"/api/v1/captures/{ask(client)['id']}/top")
    assert top.json()["error"] == "There is nothing of this capture yet."


# ------------------------------------------------------------------------ agents and their words


def test_orders_are_the_captures_of_the_agents_host(client: TestClient) -> None:
    listen(client, "web-2")
    assert listen(client) == []
    made = ask(client, seconds=2.5, hz=199, pid=[3], cgroup=["/a"])
    expected = {"seconds": 2.5, "hz": 199, "pids": [3], "cgroups": ["/a"], "event": "cpu-clock"}
    assert listen(client) == [{"id": made["id"], **expected}]
    assert listen(client, "web-2") == []
    # A question that waits is answered as soon as there is something else than it knows of.
    began = time.monotonic()
    assert [order["id"] for order in listen(client, known="", wait=30)] == [made["id"]]
    assert time.monotonic() - began < 20
    assert listen(client, known=made["id"], wait=0.1) == listen(client)


def test_not_more_agents_wait_than_there_is_room_for(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "MOST_WAITING_AGENTS", 0)
    answer = client.get(AGENT, params={"host": "web-1", "epoch": "1", "wait": 30}).json()
    assert answer == {"captures": [], "pause": life.BUSY_PAUSE_S}


def test_a_server_that_stops_answers_the_agents_that_wait(tmp_path: Path) -> None:
    server = Server(f"chdb://{tmp_path}/store")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.get, f"{server.url}{AGENT[1:]}?host=web-1&wait=30", timeout=60)
        while "web-1" not in httpx.get(server.url + "debug/pprof/").text:
            time.sleep(0.05)
        assert server.end(signal.SIGTERM) == 0
        assert waiting.result().json()["captures"] == []


def test_an_agent_asks_a_server_without_captures_seldom() -> None:
    asked: list[str] = []

    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as old:
        Thread(target=old.serve_forever, daemon=True).start()
        link = capture_link.CaptureLink(parse_target(f"http://127.0.0.1:{old.server_port}"), "a", "h", print)
        while not asked:
            time.sleep(0.05)
        time.sleep(2.5)  # two pauses after a failure that would pass
        assert len(asked) == 1 and link.asked() is None
        link.close(5)
        old.shutdown()


def test_a_capture_is_done_by_one_agent_of_its_host_alone(client: TestClient) -> None:
    listen(client)
    made = ask(client)
    assert tell(client, made["id"], "running", host="web-2").status_code == 409
    assert tell(client, made["id"], "done", profile(host="web-2")).status_code == 409
    assert tell(client, "none", "running").status_code == 404
    assert state(client, made["id"])["state"] == "waiting"
    assert tell(client, made["id"], "running").status_code == 200
    for other in ({"agent": "a2"}, {"epoch": "2"}):
        answer = tell(client, made["id"], "done", profile(), **other)
        assert answer.status_code == 409 and "another agent" in answer.json()["error"]
    assert listen(client, epoch="2") == [] and len(listen(client)) == 1
    assert tell(client, made["id"], "done", profile(9)).json()["captures"] == []
    assert state(client, made["id"])["progress"]["samples"] == 9


def test_a_report_that_comes_again_changes_nothing(client: TestClient) -> None:
    listen(client)
    made = ask(client, seconds=3)
    first = profile(5)
    assert tell(client, made["id"], "running", first, seconds=1, samples=5).status_code == 200
    assert tell(client, made["id"], "running", first, seconds=1, samples=5).status_code == 200
    halfway = state(client, made["id"])
    assert (halfway["state"], halfway["progress"]) == ("running", {"seconds": 1.0, "samples": 5})
    assert read_json(client.get(halfway["links"]["json"]).content).accounting.sampled == 5
    for _ in range(2):
        assert tell(client, made["id"], "done", profile(11), seconds=3, samples=11).status_code == 200
    assert tell(client, made["id"], "failed", profile(2), problem="late").status_code == 200
    done = state(client, made["id"])
    assert (done["state"], done["progress"]["samples"], done["problem"]) == ("done", 11, "")
    assert read_json(client.get(done["links"]["json"]).content).accounting.sampled == 11


def test_every_twin_has_every_sample_and_the_history_has_none(client: TestClient) -> None:
    listen(client)
    made = ask(client)
    held = profile(11)
    tell(client, made["id"], "done", held)
    links = state(client, made["id"])["links"]
    assert read_json(client.get(links["json"]).content) == held
    assert client.get(links["folded"]).text.strip().endswith("sum 11")
    assert client.get(links["pb.gz"]).content[:2] == b"\x1f\x8b"
    assert client.get(links["speedscope.json"]).json()["profiles"]
    assert "11 samples" in client.get(links["svg"]).text
    assert client.get(links["page"] + ".exe").status_code == 404
    assert "frame-ancestors 'self'" in client.get(links["page"]).headers["content-security-policy"]
    assert client.get("/api/v1/hosts").json() == []
    assert client.get("/flamegraph.json?from=now-1h").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"nothing", 400), (b"\0" * 100_000, 400), (write_otlp(profile()) + write_otlp(profile(host="b")), 400)],
)
def test_a_delivery_that_is_no_capture_is_refused(client: TestClient, body: bytes, status: int) -> None:
    listen(client)
    made = ask(client)
    query = {"host": "web-1", "epoch": "1", "state": "done"}
    answer = client.post(f"{AGENT}/{made['id']}", params=query, content=body)
    assert answer.status_code == status and answer.json()["error"]
    assert state(client, made["id"])["state"] == "waiting"
    for bad in ({"state": "gone"}, {"seconds": "nan"}, {"samples": "-1"}, {"host": ""}):
        assert client.post(f"{AGENT}/{made['id']}", params={**query, **bad}).status_code == 400


def test_what_no_agent_asks_for_expires(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(client)
    made = ask(client)
    before = client.get("/metrics").text
    assert 'pilotlight_captures{state="waiting"} 1\n' in before and "pilotlight_capture_hosts 1\n" in before
    monkeypatch.setattr(life, "EXPIRES_S", 0.0)
    found = until(lambda: state(client, made["id"]), "expired")
    assert "No agent of this host asked" in found["problem"]
    assert tell(client, made["id"], "running").status_code == 409 and listen(client) == []
    after = client.get("/metrics").text
    assert 'pilotlight_captures{state="waiting"} 0\n' in after
    assert 'pilotlight_captures_ended_total{state="expired"} 1\n' in after


def test_silence_ends_a_capture_and_a_late_word_is_heard(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(client)
    made = ask(client)
    tell(client, made["id"], "running", profile(4))
    monkeypatch.setattr(life, "SILENCE_S", -1.0)
    found = until(lambda: state(client, made["id"]), "failed")
    assert "what it had collected by then is here" in found["problem"]
    assert found["progress"]["samples"] == 4 and "svg" in found["links"]
    monkeypatch.undo()
    assert tell(client, made["id"], "done", profile(7), agent="a2").status_code == 409
    assert tell(client, made["id"], "done", profile(7)).status_code == 200
    found = state(client, made["id"])
    assert (found["state"], found["problem"], found["progress"]["samples"]) == ("done", "", 7)


def test_an_agent_that_asks_but_never_ends_is_given_up(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(client)
    made = ask(client, seconds=1)
    tell(client, made["id"], "running")
    monkeypatch.setattr(life, "OVERDUE_S", -1.0)
    found = until(lambda: listen(client) and None or state(client, made["id"]), "failed")
    assert "there is nothing of it" in found["problem"]
    assert client.get(made["links"]["page"] + ".svg").status_code == 404


def until(look: Callable[[], dict[str, Any]], wanted: str) -> dict[str, Any]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = look()
        if found["state"] == wanted:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_a_store_that_is_opened_again_has_all_captures(store: Store) -> None:
    def app() -> TestClient:
        made = create_app(store, ServerOptions(store.url, commit_seconds=0))
        return TestClient(made, "http://127.0.0.1")

    with app() as client:
        listen(client)
        over, going, cancelled = ask(client), ask(client), ask(client)
        tell(client, over["id"], "done", profile(6))
        tell(client, going["id"], "running", profile(2))
        tell(client, cancelled["id"], "running")
        client.delete(cancelled["links"]["self"])
    with app() as client:
        assert [found["id"] for found in client.get("/api/v1/captures").json()] == [
            cancelled["id"],
            going["id"],
            over["id"],
        ]
        assert [order["id"] for order in listen(client)] == [going["id"]]
        assert "svg" in state(client, going["id"])["links"]
        tell(client, cancelled["id"], "done", profile(1))
        assert state(client, cancelled["id"])["state"] == "cancelled"
        tell(client, going["id"], "done", profile(3))
        assert state(client, going["id"])["progress"]["samples"] == 3
        assert state(client, over["id"])["progress"]["samples"] == 6


def test_without_the_token_nobody_captures_listens_or_delivers(store: Store) -> None:
    app = create_app(store, ServerOptions(store.url, "0.0.0.0", token=TOKEN, commit_seconds=0))
    right = {"authorization": f"Bearer {TOKEN}"}
    with TestClient(app, "http://profiles.example.net", follow_redirects=False) as client:
        for method, path in (
            ("GET", AGENT + "?host=web-1"),
            ("POST", AGENT + "/x?host=web-1&state=done"),
            ("POST", "/api/v1/captures"),
            ("GET", "/api/v1/captures"),
            ("DELETE", "/api/v1/captures/x"),
            ("POST", "/captures"),
            ("GET", "/debug/pprof/profile"),
        ):
            assert client.request(method, path).status_code == 401, path
        assert client.get("/debug/pprof/profile").headers["x-go-pprof"] == "1"
        assert client.get(AGENT + "?host=web-1", headers=right).status_code == 200
        # A person who is logged in may ask from our own page, and from nobody else's.
        client.post("/login", data={"token": TOKEN})
        form = {"host": "web-1", "seconds": "1"}
        assert client.post("/captures", data=form).status_code == 401
        assert client.post("/captures", data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        made = client.post("/captures", data=form, headers={"sec-fetch-site": "same-origin"})
        assert made.status_code == 303
        page = made.headers["location"]
        assert client.post(page + "/cancel", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.post(page + "/cancel", headers={"origin": "http://profiles.example.net"}).status_code == 303


# ---------------------------------------------------------------------------------- Go's endpoint


def test_gos_errors_are_text_that_its_tool_shows(client: TestClient) -> None:
    for query, status in (
        ("", 404),
        ("?host=" + quote("<x>"), 404),
        ("?seconds=601", 400),
        ("?hz=x", 400),
        ("?pid=x", 400),
    ):
        if "host" not in query and query:
            listen(client)
        answer = client.get("/debug/pprof/profile" + query)
        assert answer.status_code == status, answer.text
        assert answer.headers["x-go-pprof"] == "1" and answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/debug/pprof/heap").headers["x-go-pprof"] == "1"
    assert client.get("/debug/pprof").headers["location"] == "/debug/pprof/"
    assert "seconds" in client.get("/debug/pprof/").text


def test_gos_tool_is_not_left_waiting_for_an_agent_that_is_silent(client: TestClient) -> None:
    listen(client)
    answer = client.get("/debug/pprof/profile?seconds=0.5")
    assert answer.status_code == 503 and "does not answer" in answer.text
    assert client.get("/api/v1/captures").json()[0]["state"] == "cancelled"
