"""Ingest over HTTP: profiles and better names are taken in every form they may have, and refused with a reason."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace
from typing import Any

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
from profiler.formats.otlp_read import MAX_BODY
from profiler.model import Cost, Profile, Unwinding
from symbolizer.types import Binary, Frame, Kind, Location
from web import ingest
from web.app import ServerOptions, create_app
from web.store.store import Store
from web.store.writer import Busy, Writer

from .sent_profiles import INGEST, PROTOBUF, body, push, stored
from .sent_profiles import profile as sent_profile

START = int(time.time()) // 10 * 10 - 120
TOKEN = "a token of some length"
HOSTILE = "<script>alert('x')</script>\"&;\0"


@pytest.fixture(scope="module", autouse=True)
def recent() -> None:
    """Pages show the last 15 minutes, and pytest imports a module long before its tests have their turn."""
    global START
    START = int(time.time()) // 10 * 10 - 120


def profile(start: int | None = None, count: int = 70) -> Profile:
    return sent_profile(START if start is None else start, count=count)


def message(body: bytes) -> tuple[int, str]:
    """code and message of a google.rpc.Status."""
    assert body[0] == 0x08 and body[2] == 0x12
    at = 4 if body[3] < 0x80 else 5
    return body[1], body[at:].decode()


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
