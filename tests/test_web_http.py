"""The server over HTTP: ingest, pages and their twins, the API, the login, and what it refuses."""

from __future__ import annotations

import base64
import gzip
import re
import time
import tracemalloc
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from backports import zstd
from fastapi.testclient import TestClient
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
    ExportProfilesServiceResponse,
)

from profiler.better_names import encode
from profiler.formats.json import read_json
from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.formats.otlp_read import MAX_BODY
from profiler.formats.pprof_read import read_pprof
from profiler.model import Accounting, Cost, Passage, Profile, Sample, Unwinding, Window
from profiler.stacks import WALK_ENDS
from symbolizer.types import Binary, Frame, Kind, Location
from web import auth, ingest, urls
from web.app import ServerOptions, create_app
from web.store.store import Store
from web.store.writer import Busy, Writer
from web.unwinding import ADVICE

INGEST = "/v1development/profiles"
PROTOBUF = {"content-type": "application/x-protobuf"}
START = int(time.time()) // 10 * 10 - 120
TOKEN = "a token of some length"
HOSTILE = "<script>alert('x')</script>\"&;\0"


@pytest.fixture(scope="module", autouse=True)
def recent() -> None:
    """Pages show the last 15 minutes, and pytest imports a module long before its tests have their turn."""
    global START
    START = int(time.time()) // 10 * 10 - 120


def profile(start: int | None = None, host: str = "web-1", comm: str = "nginx", count: int = 70) -> Profile:
    start = START if start is None else start
    hot = Location(16, Binary("/usr/bin/nginx", "ab"), (Frame("ngx_parse", Kind.NATIVE),))
    kernel = Location(32, None, (Frame("vfs_read", Kind.KERNEL),))
    samples = (Sample((hot,), 7, comm, comm, count), Sample((kernel, hot), 7, comm, comm, 30))
    total = count + 30
    accounting = Accounting(1980, total + 1000, 995, 0, total, {"counts map full": 5}, count + 60)
    return Profile(host, "cpu-clock", 99, Window(start * 10**9, (start + 10) * 10**9), samples, accounting)


def body(profile: Profile, sequence: int | None = None) -> bytes:
    return write_otlp(profile, PushIdentity("agent", 1, sequence) if sequence is not None else None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path}/store")
    yield store
    store.close()


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as client:
        yield client


def stored(client: TestClient) -> int:
    return sum(int(row["samples"]) for row in client.get("/api/v1/hosts?from=now-1d").json())


def message(body: bytes) -> tuple[int, str]:
    """code and message of a google.rpc.Status."""
    assert body[0] == 0x08 and body[2] == 0x12
    at = 4 if body[3] < 0x80 else 5
    return body[1], body[at:].decode()


# ------------------------------------------------------------------------------------ ingest


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("", bytes), ("identity", bytes), ("gzip", gzip.compress), ("zstd", zstd.compress)],
)
def test_protobuf_is_taken_in_every_encoding(client: TestClient, encoding: str, compress: type[bytes]) -> None:
    headers = {**PROTOBUF, **({"content-encoding": encoding} if encoding else {})}
    answer = client.post(INGEST, content=compress(body(profile(), 1)), headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-protobuf"
    assert not ExportProfilesServiceResponse.FromString(answer.content).HasField("partial_success")
    assert stored(client) == 100
    again = client.post(INGEST, content=body(profile(), 1), headers=PROTOBUF)
    assert again.status_code == 200 and stored(client) == 100


def test_json_is_taken(client: TestClient) -> None:
    text = json_format.MessageToJson(ExportProfilesServiceRequest.FromString(body(profile())))
    answer = client.post(INGEST, content=text, headers={"content-type": "application/json; charset=utf-8"})
    assert (answer.status_code, answer.json()) == (200, {})
    assert stored(client) == 100


def test_a_gzip_body_of_several_members_is_taken_whole(client: TestClient) -> None:
    whole = body(profile(), 1)
    halves = gzip.compress(whole[:50]) + gzip.compress(whole[50:])
    headers = {**PROTOBUF, "content-encoding": "gzip"}
    assert client.post(INGEST, content=halves, headers=headers).status_code == 200
    assert stored(client) == 100


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"\xff\xff\xff", PROTOBUF, 400),
        (body(profile())[:-7], PROTOBUF, 400),
        (gzip.compress(body(profile()))[:-9], {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (zstd.compress(body(profile()))[:-9], {**PROTOBUF, "content-encoding": "zstd"}, 400),
        (body(profile()), {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (b"", {**PROTOBUF, "content-encoding": "zstd"}, 400),
        (b"x", {**PROTOBUF, "content-encoding": "br"}, 415),
        (b"x", {"content-type": "text/plain"}, 415),
        (b"x", {}, 415),
        (b"\0" * (MAX_BODY + 1), PROTOBUF, 413),
        (gzip.compress(b"\0" * (MAX_BODY + 1)), {**PROTOBUF, "content-encoding": "gzip"}, 413),
        (zstd.compress(b"\0" * (MAX_BODY + 1)), {**PROTOBUF, "content-encoding": "zstd"}, 413),
    ],
)
def test_a_bad_body_is_refused_in_otlps_own_form(
    client: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post(INGEST, content=content, headers=headers)
    assert answer.status_code == status
    code, text = message(answer.content)
    assert code in (3, 8) and 10 < len(text) < 300
    assert stored(client) == 0
    assert "pilotlight_rejected_total{" in client.get("/metrics").text


def test_bad_json_is_refused_in_json(client: TestClient) -> None:
    answer = client.post(INGEST, content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["code"] == 3 and answer.json()["message"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_not_inflated_beyond_the_bound(encoding: str) -> None:
    block = b"\0" * (1 << 20)
    if encoding == "gzip":
        deflate = zlib.compressobj(9, wbits=31)
        bomb = b"".join(deflate.compress(block) for _ in range(512)) + deflate.flush()
    else:
        squeeze = zstd.ZstdCompressor()
        bomb = b"".join(squeeze.compress(block) for _ in range(512)) + squeeze.flush()
    tracemalloc.start()
    with pytest.raises(ingest.Refused) as refused:
        ingest.decompress(bomb, encoding, 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.status == 413 and peak < 32 << 20


@pytest.mark.parametrize(("start", "why"), [(START - 14 * 86400, "older than"), (START + 2 * 86400, "in the future")])
def test_a_window_at_an_impossible_time_is_left_out_and_said(client: TestClient, start: int, why: str) -> None:
    answer = client.post(INGEST, content=body(profile(start), 1), headers=PROTOBUF)
    partial = ExportProfilesServiceResponse.FromString(answer.content).partial_success
    assert answer.status_code == 200 and partial.rejected_profiles == 1 and why in partial.error_message


def test_figures_that_would_overflow_are_left_out(client: TestClient) -> None:
    huge = replace(profile(), accounting=replace(profile().accounting, idle=1 << 60, ticks=(1 << 60) + 105))
    answer = client.post(INGEST, content=body(huge, 1), headers=PROTOBUF)
    assert ExportProfilesServiceResponse.FromString(answer.content).partial_success.rejected_profiles == 1


@pytest.mark.parametrize(
    "change",
    [
        {"idle": 99 << 31, "ticks": (99 << 31) + 105},
        {"frames_unknown": {"no mapping": 99 << 31}},
        {"unwinding": Unwinding(99 << 31)},
        {"cost": Cost(1 << 60)},
    ],
)
def test_figures_that_no_common_rate_could_hold_are_left_out(client: TestClient, change: dict[str, Any]) -> None:
    huge = replace(profile(), accounting=replace(profile().accounting, **change))
    answer = client.post(INGEST, content=body(huge, 1), headers=PROTOBUF)
    assert ExportProfilesServiceResponse.FromString(answer.content).partial_success.rejected_profiles == 1


def test_accounting_that_does_not_close_is_closed_in_the_open(client: TestClient) -> None:
    base = profile().accounting
    for sequence, ticks in ((1, base.ticks + 9), (2, base.ticks - 9)):
        odd = replace(profile(START + 10 * sequence), accounting=replace(base, ticks=ticks))
        client.post(INGEST, content=body(odd, sequence), headers=PROTOBUF)
    got = read_json(client.get("/flamegraph.json").content).accounting
    assert got.closes and got.lost["not accounted for"] == 9


def test_a_sequence_with_another_content_is_a_conflict(client: TestClient) -> None:
    client.post(INGEST, content=body(profile(), 1), headers=PROTOBUF)
    answer = client.post(INGEST, content=body(profile(count=9), 1), headers=PROTOBUF)
    assert answer.status_code == 409 and message(answer.content)[0] == 6
    assert stored(client) == 100


def test_a_full_queue_asks_to_come_back(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Writer, push: object) -> None:
        raise Busy

    monkeypatch.setattr(Writer, "submit", full)
    answer = client.post(INGEST, content=body(profile(), 1), headers=PROTOBUF)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    assert message(answer.content)[0] == 8


def test_a_store_that_fails_asks_to_come_back_and_is_not_ready(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "insert", fail)
        patch.setattr(store, "command", fail)
        # stacks and frames first: nothing has begun, so the next push is simply tried again
        assert client.post(INGEST, content=body(profile(), 1), headers=PROTOBUF).status_code == 503
    assert client.post(INGEST, content=body(profile(), 1), headers=PROTOBUF).status_code == 200
    assert client.get("/readyz").status_code == 200 and stored(client) == 100


# ------------------------------------------------------------------------------------- names

NAMES = "/api/v1/names"
NAMES_TYPE = {"content-type": "application/json"}


def better(name: str = "ngx_http_parse", build_id: str = "ab") -> bytes:
    """Names for the address of ngx_parse in profile(): a line, and a function inlined there."""
    frames = (Frame("inner", Kind.INLINED, "", "n.h", 3), Frame(name, Kind.NATIVE, "", "n.c", 9))
    (message,) = encode([Location(16, Binary("", build_id), frames)])
    return message.body


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("", bytes), ("gzip", gzip.compress), ("zstd", zstd.compress)],
)
def test_better_names_are_taken_in_every_encoding_and_shown_at_once(
    client: TestClient, encoding: str, compress: type[bytes]
) -> None:
    push(client, profile())
    before = client.get("/flamegraph.folded").text
    headers = {**NAMES_TYPE, **({"content-encoding": encoding} if encoding else {})}
    for _ in range(2):  # the second time as a retry
        answer = client.post(NAMES, content=compress(better()), headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"locations": 1})
        assert client.get("/flamegraph.folded").text == before.replace("ngx_parse", "ngx_http_parse;inner_[i]")
    whole = read_json(client.get("/flamegraph.json").content)
    assert whole.accounting == profile().accounting
    assert {frame.line for sample in whole.samples for frame in sample.stack[-1].frames} == {3, 9}
    assert 'pilotlight_rows_total{table="names"} 2' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", NAMES_TYPE, 400),
        (b"", NAMES_TYPE, 400),
        (b"{}", NAMES_TYPE, 400),
        (better(build_id="ab")[:-9], NAMES_TYPE, 400),
        (better().replace(b'"ab"', b'""'), NAMES_TYPE, 400),
        (better(), {**NAMES_TYPE, "content-encoding": "gzip"}, 400),
        (gzip.compress(better())[:-9], {**NAMES_TYPE, "content-encoding": "gzip"}, 400),
        (b"x", {**NAMES_TYPE, "content-encoding": "br"}, 415),
        (better(), PROTOBUF, 415),
        (better(), {}, 415),
        (b" " * (MAX_BODY + 1), NAMES_TYPE, 413),
        (gzip.compress(b" " * (MAX_BODY + 1)), {**NAMES_TYPE, "content-encoding": "gzip"}, 413),
    ],
)
def test_bad_names_are_refused_in_a_sentence(
    client: TestClient, store: Store, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post(NAMES, content=content, headers=headers)
    assert answer.status_code == status
    said = answer.json()["error"]
    assert 10 < len(said) < 300 and "\n" not in said
    assert store.rows("SELECT count() FROM names").rows == [(0,)]
    assert "pilotlight_rejected_total{" in client.get("/metrics").text


def test_names_ask_to_come_back_when_the_store_cannot_take_them(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    def full(self: Writer, what: object) -> None:
        raise Busy

    for patched, name, broken, status in ((store, "insert", fail, 503), (Writer, "submit", full, 429)):
        with monkeypatch.context() as patch:
            patch.setattr(patched, name, broken)
            answer = client.post(NAMES, content=better(), headers=NAMES_TYPE)
        assert answer.status_code == status and int(answer.headers["retry-after"]) > 0
        assert "try again" in answer.json()["error"]
    assert client.post(NAMES, content=better(), headers=NAMES_TYPE).status_code == 200


def test_names_need_the_token_and_no_other_site_can_send_them(store: Store) -> None:
    app = create_app(store, ServerOptions(store.url, "0.0.0.0", token=TOKEN, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1") as guarded:
        assert guarded.post(NAMES, content=better(), headers=NAMES_TYPE).status_code == 401
        right = {**NAMES_TYPE, "authorization": f"Bearer {TOKEN}"}
        assert guarded.post(NAMES, content=better(), headers=right).status_code == 200
        guarded.post("/login", data={"token": TOKEN})
        assert guarded.post(NAMES, content=better(), headers=NAMES_TYPE).status_code == 401


def test_hostile_names_are_escaped_wherever_they_are_shown(client: TestClient) -> None:
    push(client, profile())
    assert client.post(NAMES, content=better(HOSTILE), headers=NAMES_TYPE).status_code == 200
    svg = client.get("/flamegraph.svg")
    assert svg.status_code == 200 and "alert(" in svg.text and "<script>alert" not in svg.text
    assert not any("alert(" in (script.text or "") for script in ElementTree.fromstring(svg.content).iter("script"))
    assert "<script>alert" not in client.get("/flamegraph").text
    assert read_json(client.get("/flamegraph.json").content).samples[0].stack[-1].frames[-1].function == HOSTILE


# ------------------------------------------------------------------------------------- pages


def push(client: TestClient, *profiles: Profile) -> None:
    for sequence, each in enumerate(profiles):
        assert client.post(INGEST, content=body(each, sequence), headers=PROTOBUF).status_code == 200


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
    assert "50 more binaries" in page and "/lib/89<" in page and "/lib/49<" not in page
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
        assert not path.startswith("/api/") and '<a class="button" href="/">' in answer.text
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


# --------------------------------------------------------------------------------- who may ask


@pytest.fixture
def guarded(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions(store.url, "0.0.0.0", token=TOKEN, commit_seconds=0))
    with TestClient(app, "http://profiles.example.net", follow_redirects=False) as client:
        yield client


def test_without_the_token_nothing_is_told_or_taken(guarded: TestClient) -> None:
    for path in [*PAGES, "/none"]:
        open_to_all = path in ("/healthz", "/readyz", "/login") or path.startswith("/static/")
        assert guarded.get(path).status_code == (200 if open_to_all else 401), path
    assert guarded.post(INGEST, content=body(profile()), headers=PROTOBUF).status_code == 401
    wrong = {"authorization": f"Bearer {TOKEN}x"}
    assert guarded.get("/api/v1/hosts", headers=wrong).status_code == 401
    assert guarded.get("/api/v1/hosts", headers={"authorization": "Bearer"}).status_code == 401


def test_the_token_opens_api_and_ingest(guarded: TestClient) -> None:
    right = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **right}).status_code == 200
    assert guarded.get("/api/v1/hosts", headers=right).json()[0]["host"] == "web-1"


def test_people_log_in_once_and_come_back_to_where_they_were_going(guarded: TestClient) -> None:
    asked = guarded.get("/flamegraph?host=a%26b", headers={"accept": "text/html"})
    assert asked.status_code == 303
    form = guarded.get(asked.headers["location"]).text
    assert 'value="/flamegraph?host=a%26b"' in form
    assert guarded.post("/login", data={"token": "wrong", "next": "/"}).status_code == 403
    done = guarded.post("/login", data={"token": TOKEN, "next": "/flamegraph?host=a%26b"})
    assert done.status_code == 303 and done.headers["location"] == "/flamegraph?host=a%26b"
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and TOKEN not in cookie
    assert guarded.get("/").status_code == 200
    # Another site's page could send the cookie along with a push: that takes proof of who asks.
    assert guarded.post(INGEST, content=body(profile()), headers=PROTOBUF).status_code == 401


OURS = (
    {"sec-fetch-site": "same-origin"},
    {"origin": "http://profiles.example.net"},
    {"origin": "https://profiles.example.net"},
)
FOREIGN = (
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://profiles.example.net"},
    {"origin": "http://evil.example"},
    {"origin": "http://profiles.example.net.evil.example"},
    {"origin": "http://profiles.example.net:81"},
    {"origin": "null"},
)


@pytest.mark.parametrize("headers", OURS)
def test_a_login_may_change_things_from_our_own_pages(guarded: TestClient, headers: dict[str, str]) -> None:
    guarded.post("/login", data={"token": TOKEN})
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers}).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_sites_page_changes_nothing(guarded: TestClient, client: TestClient, headers: dict[str, str]) -> None:
    guarded.post("/login", data={"token": TOKEN})
    answer = guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers})
    assert (answer.status_code, "another site" in answer.json()["error"]) == (403, True)
    # Nor where there is no token, and only this machine can ask: its browser can.
    assert client.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers}).status_code == 403
    assert client.get("/debug/pprof/profile?seconds=1", headers=headers).status_code == 403
    assert guarded.get("/api/v1/hosts", headers=headers).status_code == 200  # which it cannot read: no CORS
    basic = {"authorization": "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()}
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers, **basic}).status_code == 403
    right = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.post(INGEST, content=body(profile()), headers={**PROTOBUF, **headers, **right}).status_code == 200


def test_the_token_may_be_the_password_of_an_address(guarded: TestClient) -> None:
    def ask(credentials: bytes) -> int:
        given = "Basic " + base64.b64encode(credentials).decode()
        return int(guarded.get("/api/v1/hosts", headers={"authorization": given}).status_code)

    assert ask(f"any:{TOKEN}".encode()) == ask(f":{TOKEN}".encode()) == 200
    for wrong in (TOKEN.encode(), f"any:{TOKEN}x".encode(), f"{TOKEN}:".encode(), b"", b"\xff:\xff"):
        assert ask(wrong) == 401
    assert guarded.get("/api/v1/hosts", headers={"authorization": "Basic ?"}).status_code == 401
    pushed = {**PROTOBUF, "authorization": "Basic " + base64.b64encode(f"go:{TOKEN}".encode()).decode()}
    assert guarded.post(INGEST, content=body(profile()), headers=pushed).status_code == 200


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example/", "/\\evil.example", "x", "/\n/x"])
def test_a_login_leads_nowhere_else(path: str) -> None:
    assert auth.local_path(path) == "/"


def test_a_session_expires_and_dies_with_its_token() -> None:
    value = auth.session(TOKEN, now=1000)
    assert auth.valid_session(value, TOKEN, now=1000 + auth.SESSION_S - 1)
    assert not auth.valid_session(value, TOKEN, now=1000 + auth.SESSION_S + 1)
    assert not auth.valid_session(value, "another", now=1000)
    assert not auth.valid_session(f"9{value}", TOKEN, now=1000)
    for forged in ("", ".", "1e9.x", "٣.x", value[:-1], f"{'9' * 400}.x"):
        assert not auth.valid_session(forged, TOKEN, now=1000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:4099", "localhost:4099", "[::1]:4099"])
def test_a_local_server_answers_to_local_names(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/hosts", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4099", "127.0.0.1.evil.example", "", "[::2]"])
def test_a_local_server_refuses_names_that_only_lead_to_it(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/hosts", headers={"host": host}).status_code == 421
