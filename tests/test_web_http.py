"""The server over HTTP: pages and their twins, the API, and what it refuses."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from profiler.formats.json import read_json
from profiler.formats.pprof_read import read_pprof
from profiler.model import Cost, Passage, Profile, Unwinding
from profiler.stacks import WALK_ENDS
from symbolizer.types import Binary, Frame, Kind, Location
from web import urls
from web.app import ServerOptions, create_app
from web.store.store import Store
from web.unwinding import ADVICE

from .sent_profiles import INGEST, PROTOBUF, body, push
from .sent_profiles import profile as sent_profile

START = int(time.time()) // 10 * 10 - 120
HOSTILE = "<script>alert('x')</script>\"&;\0"


@pytest.fixture(scope="module", autouse=True)
def recent() -> None:
    """Pages show the last 15 minutes, and pytest imports a module long before its tests have their turn."""
    global START
    START = int(time.time()) // 10 * 10 - 120


def profile(start: int | None = None, host: str = "web-1", comm: str = "nginx", count: int = 70) -> Profile:
    return sent_profile(START if start is None else start, host, comm, count)


PAGES = ["/", "/hosts.json", "/flamegraph", "/hosts/web-1", "/hosts/web-1.json", "/docs", "/openapi.json"]
PAGES += [f"/flamegraph.{extension}" for extension in urls.TWINS]
PAGES += ["/api/v1/hosts", "/api/v1/labels", "/api/v1/labels?label=comm", "/api/v1/series?by=process"]
PAGES += ["/api/v1/profile?format=folded", "/healthz", "/readyz", "/metrics", "/login", "/static/style.css"]
PAGES += ["/captures", "/api/v1/captures", "/static/captures.js"]


@pytest.mark.parametrize("path", PAGES)
def test_every_address_answers_with_strict_headers(client: TestClient, path: str) -> None:
    push(client, profile())
    answer = client.get(path)
    assert answer.status_code == 200 and answer.content
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'self'" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"]
    if answer.headers["content-type"].startswith("text/html"):
        assert "<style" not in answer.text and " style=" not in answer.text and "onclick" not in answer.text
        # A page may lead elsewhere, but has nothing from there.
        assert not re.search(r"(?i)(?:\ssrc|\saction|<link[^>]*\shref)\s*=\s*[\"']?(?:https?:)?//", answer.text)


def test_pages_without_data_say_so(client: TestClient) -> None:
    assert "Waiting for the first profile" in client.get("/").text
    page = client.get("/flamegraph")
    assert page.status_code == 200 and "There are no profiles yet" in page.text
    missing = client.get("/flamegraph.svg")
    assert missing.status_code == 404 and "no profiles yet" in missing.json()["error"]


def test_all_twins_have_the_same_total(client: TestClient) -> None:
    push(client, profile(), profile(START + 10), profile(START, "db-1"))
    query = "?host=web-1&comm=nginx"
    whole = read_json(client.get("/flamegraph.json" + query).content)
    assert sum(sample.count for sample in whole.samples) == 200 and whole.accounting.closes
    folded = client.get("/flamegraph.folded" + query).text
    assert sum(int(line.rpartition(" ")[2]) for line in folded.splitlines()) == 200
    speedscope = client.get("/flamegraph.speedscope.json" + query).json()
    assert sum(weight for profile in speedscope["profiles"] for weight in profile["weights"]) > 0
    svg = client.get("/flamegraph.svg" + query)
    assert b"200" in svg.content and ElementTree.fromstring(svg.content).tag.endswith("svg")
    assert client.get("/flamegraph.pb.gz" + query).content[:2] == b"\x1f\x8b"
    assert "<b>200</b> samples" in client.get("/flamegraph" + query).text
    assert (
        client.get("/api/v1/profile" + query + "&format=json").content == client.get("/flamegraph.json" + query).content
    )


def test_all_twins_of_windows_of_different_rates_have_one_total(client: TestClient) -> None:
    push(client, profile(), replace(profile(START + 10), hz=33), replace(profile(START + 20), hz=11))
    total = 100 + 3 * 100 + 9 * 100
    whole = read_json(client.get("/flamegraph.json").content)
    assert whole.hz == 99 and whole.accounting.closes
    assert sum(sample.count for sample in whole.samples) == whole.accounting.sampled == total
    folded = client.get("/flamegraph.folded").text
    assert sum(int(line.rpartition(" ")[2]) for line in folded.splitlines()) == total
    speedscope = client.get("/flamegraph.speedscope.json").json()
    assert sum(speedscope["profiles"][0]["weights"]) == total and speedscope["pilotlight"]["hz"] == 99
    assert read_pprof(client.get("/flamegraph.pb.gz").content).profiles[0].accounting.sampled == total
    svg = ElementTree.fromstring(client.get("/flamegraph.svg").content)
    texts = [text for text in svg.itertext() if text]
    assert any(text.startswith("all (1,300 samples, 100.00 %, 13.1 s CPU)") for text in texts)
    how = "99 Hz, partly weighed: 11 Hz × 9 and 33 Hz × 3"
    assert any(text.endswith(how) for text in texts)
    page = client.get("/flamegraph").text
    assert "<b>1,300</b> samples, <b>13.1</b> CPU seconds" in page and how in page
    shares = client.get("/api/v1/labels?label=comm").json()["values"]
    assert shares == [{"name": "nginx", "samples": total}]
    assert sum(point["samples"] for point in client.get("/api/v1/series").json()["points"]) == total
    row = client.get("/api/v1/hosts").json()[0]
    assert (row["samples"], row["hz"], row["rates"]) == (total, 11, [11, 33, 99])
    host = client.get("/hosts/web-1")
    assert how in host.text and "11 Hz now, 11, 33 and 99 Hz in the range" in host.text


def test_rates_without_a_common_one_are_said_where_sums_would_be(client: TestClient) -> None:
    push(client, replace(profile(), hz=997), replace(profile(START + 10), hz=1009))
    choose = "choose one with q=hz=997"
    assert choose in client.get("/flamegraph").text and client.get("/flamegraph?q=hz=997").status_code == 200
    for extension in urls.TWINS:
        refused = client.get(f"/flamegraph.{extension}")
        assert refused.status_code == 400 and choose in refused.json()["error"]
    host = client.get("/hosts/web-1")
    assert host.status_code == 200 and choose in host.text
    assert client.get("/").status_code == 200
    assert len(client.get("/api/v1/series").json()["points"]) > 0


def walked(start: int, host: str = "web-1") -> Profile:
    made = profile(start, host)
    unwinding = Unwinding(
        80,
        6,
        {"no unwind information": 10, "stack memory unreadable": 3, "of a newer agent": 1},
        {
            "/usr/lib/libc.so.6": Passage(500, 0, {"stack memory unreadable": 3}),
            "/opt/<b>app": Passage(20, 40, {"no unwind information": 10, "of a newer agent": 1}),
            "/usr/bin/whole": Passage(700),
        },
    )
    cost = Cost(3_000_000, 1000, 20_000_000, 50 << 20, 9 << 20)
    return replace(made, accounting=replace(made.accounting, unwinding=unwinding, cost=cost))


def test_a_host_says_which_file_to_fix_and_how(client: TestClient) -> None:
    push(client, walked(START), walked(START + 10), walked(START, "other"))
    found = client.get("/hosts/web-1.json").json()
    unwinding = found["unwinding"]
    assert (unwinding["stacks"], unwinding["whole"], unwinding["cut"], unwinding["unchecked"]) == (200, 160, 28, 12)
    assert [(cut["reason"], cut["stacks"]) for cut in unwinding["reasons"]] == [
        ("no unwind information", 20),
        ("stack memory unreadable", 6),
        ("of a newer agent", 2),
    ]
    assert all(cut["advice"].endswith(".") for cut in unwinding["reasons"])
    assert "-fno-asynchronous-unwind-tables" in unwinding["reasons"][0]["advice"]
    assert [(row["binary"], row["stacks_ended"]) for row in unwinding["binaries"]] == [
        ("/opt/<b>app", 22),
        ("/usr/lib/libc.so.6", 6),
        ("/usr/bin/whole", 0),
    ]
    assert unwinding["binaries"][0]["by_table"] == 40 and unwinding["binaries"][0]["by_frame_pointer"] == 80
    assert found["accounting"]["unwinding"]["binaries"]["/usr/bin/whole"]["by_table"] == 1400
    trends = {trend["name"]: trend for trend in found["trends"]}
    assert trends["BPF a tick"]["now"] == 3000 and trends["Rate"]["now"] == 99
    assert trends["Agent CPU"]["highest"] == pytest.approx(0.002)
    assert trends["Locked in BPF maps"]["points"][0][1] == 9 << 20
    page = client.get("/hosts/web-1").text
    for text in ("/opt/&lt;b&gt;app", "no unwind information", "0.20 %", "3,000 ns", "9 MB", "85.11 %"):
        assert text in page, text
    assert "<b>app" not in page
    assert f'href="{urls.host("web-1")}"' in client.get("/").text


def test_every_reason_for_a_cut_stack_has_advice() -> None:
    reasons = [reason for reason in WALK_ENDS if reason is not None]
    assert set(reasons) <= ADVICE.keys()


def test_more_binaries_than_a_page_shows_are_counted(client: TestClient) -> None:
    made = walked(START)
    binaries = {f"/lib/{i}": Passage(1, 0, {"truncated": i + 1}) for i in range(90)}
    push(client, replace(made, accounting=replace(made.accounting, unwinding=Unwinding(1, 0, {}, binaries))))
    page = client.get("/hosts/web-1").text
    assert "75 more binaries" in page and "/lib/89<" in page and "/lib/74<" not in page
    assert len(client.get("/hosts/web-1.json").json()["unwinding"]["binaries"]) == 90


def test_a_host_has_the_range_that_is_asked_for(client: TestClient) -> None:
    push(client, walked(START), walked(START + 10), walked(START + 20))
    found = client.get(f"/hosts/web-1.json?from={START}&until={START + 20}").json()
    assert found["accounting"]["sampled"] == found["rows"][0]["samples"] == 200
    assert found["rows"][0]["windows"] == 2 and f"until={START + 20}" in found["processes"][0]["href"]
    assert "data-refresh" not in client.get(f"/hosts/web-1?from={START}&until={START + 20}").text
    assert "data-refresh" in client.get("/hosts/web-1").text
    earlier = client.get(f"/hosts/web-1?from={START - 600}&until={START}")
    assert earlier.status_code == 200 and "No samples" in earlier.text
    assert client.get("/hosts/web-1?from=now&until=now-1h").status_code == 400


def test_a_picture_of_everything_says_how_many_stacks_are_whole_and_a_filtered_one_does_not(client: TestClient) -> None:
    push(client, walked(START))
    assert "85.1% whole" in client.get("/flamegraph.svg").text
    assert "whole" not in client.get("/flamegraph.svg?comm=nginx").text


def test_a_hostile_name_is_shown_escaped_everywhere(client: TestClient) -> None:
    frame = Location(1, Binary(HOSTILE), (Frame(HOSTILE, Kind.NATIVE),))
    base = profile(host=HOSTILE, comm=HOSTILE)
    push(client, replace(base, samples=tuple(replace(s, stack=(frame,)) for s in base.samples), labels={"l": HOSTILE}))
    name = quote(HOSTILE, safe="")
    for path in ("/", f"/flamegraph?host={name}&comm={name}&q=process={name}", f"/hosts/{name}", "/flamegraph.svg"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text and "alert" in answer.text
        assert "\0" not in answer.text
    refused = client.get(f"/flamegraph?q={name}")
    assert refused.status_code == 400 and "<script>alert" not in refused.text
    unknown = client.get(f"/hosts/x{name}")
    assert unknown.status_code == 404 and "<script>alert" not in unknown.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/flamegraph?from=x", 400),
        ("/flamegraph?q=comm=~(", 400),
        ("/flamegraph?q=comm", 400),
        ("/?from=x", 400),
        ("/hosts/none", 404),
        ("/none", 404),
        ("/flamegraph.svg?from=x", 400),
        ("/flamegraph.exe", 404),
        ("/hosts.json?from=x", 400),
        ("/hosts/none.json", 404),
        ("/api/v1/hosts?from=x", 400),
        ("/api/v1/labels?label=x", 400),
        ("/api/v1/labels?label=comm&limit=x", 400),
        ("/api/v1/series?by=comm", 400),
        ("/api/v1/series?step=7", 400),
        ("/api/v1/profile?format=exe", 400),
        ("/api/v1/none", 404),
        (INGEST, 405),
        ("/static/none.css", 404),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(client: TestClient, path: str, status: int) -> None:
    push(client, profile())
    answer = client.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    if answer.headers["content-type"].startswith("text/html"):
        assert not path.startswith("/api/")
        assert '<a class="button" href="/">' in answer.text or 'role="alert">' in answer.text  # with the form again
    else:
        assert 5 < len(answer.json()["error"]) < 300


def test_a_mistake_of_the_server_shows_no_traceback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        monkeypatch.setattr(app.state.queries, "hosts", None)
        for path in ("/", "/api/v1/hosts"):
            answer = client.get(path)
            assert answer.status_code == 500 and "its log says which" in answer.text
            assert answer.headers["content-security-policy"]


def test_metrics_count_what_came_and_what_was_refused(client: TestClient) -> None:
    push(client, profile(), profile(START + 10))
    client.post(INGEST, content=body(profile(), 0), headers=PROTOBUF)
    client.post(INGEST, content=b"\xff", headers=PROTOBUF)
    values = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert values['pilotlight_pushes_total{result="stored"}'] == "2"
    assert values['pilotlight_pushes_total{result="duplicate"}'] == "1"
    assert values['pilotlight_rejected_total{reason="malformed"}'] == "1"
    assert values['pilotlight_rows_total{table="samples"}'] == "4"
    assert float(values["pilotlight_resident_memory_bytes"]) > 10 << 20
    assert float(values["pilotlight_store_bytes"]) > 0


def test_openapi_describes_what_there_is(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {INGEST, "/api/v1/profile", "/api/v1/hosts", "/metrics"} <= document["paths"].keys()
    names = {parameter["name"] for parameter in document["paths"]["/api/v1/profile"]["get"]["parameters"]}
    assert names == {"from", "until", "host", "event", "comm", "q", "format", "groupBy"}
