"""Profiles pushed by Pyroscope's two ways: what becomes of them in the store, and what is refused."""

from __future__ import annotations

import base64
import gzip
import json
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import pytest
from backports import zstd
from fastapi.testclient import TestClient

from profiler.formats.otlp_read import MAX_BODY
from profiler.formats.pprof import Message
from web.app import ServerOptions, create_app
from web.pyroscope.application import BadName, parse_application
from web.pyroscope.messages import MESSAGES
from web.pyroscope.push import MAX_PROFILES
from web.pyroscope.times import parse_moment
from web.pyroscope.trie import tree_to_folded, trie_to_folded
from web.pyroscope.types import meanings, profile_type, value
from web.store.store import BadQuery, Store

PUSH = "/push.v1.PusherService/Push"
PROTO = {"content-type": "application/proto"}
NOW = int(time.time())
# The examples of the formats' own tests.
TRIE = b"\x00\x00\x01\x02ab\x00\x02\x01c\x01\x00\x01d\x02\x00"
TREE = b"\x00\x00\x01\x01a\x00\x02\x01b\x01\x00\x01c\x02\x00"
HOSTILE = "'; DROP TABLE samples; --<script>"


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1") as client:
        yield client


def ingest(**parameters: object) -> str:
    given = {"name": "shop.cpu{region=eu}", "from_": NOW - 10, "until": NOW, **parameters}
    return "/ingest?" + urlencode({key.rstrip("_"): text for key, text in given.items() if text is not None})


def pprof(
    types: Sequence[tuple[str, str]],
    samples: Sequence[tuple[Sequence[str], Sequence[int], Mapping[str, str | int]]],
    period_type: tuple[str, str] = ("cpu", "nanoseconds"),
    period: int = 10_000_000,
    start: int = NOW - 10,
) -> bytes:
    """profile.proto of stacks, leaf first, their values and labels."""
    message = Message()
    strings = [""]

    def string(text: str) -> int:
        if text not in strings:
            strings.append(text)
        return strings.index(text)

    for name, unit in types:
        message.sample_type.add(type=string(name), unit=string(unit))
    message.period_type.type, message.period_type.unit = string(period_type[0]), string(period_type[1])
    message.period = period
    message.time_nanos, message.duration_nanos = start * 10**9, 10 * 10**9
    functions: dict[str, int] = {}
    for stack, values, labels in samples:
        ids = []
        for name in stack:
            if name not in functions:
                functions[name] = len(functions) + 1
                message.function.add(id=functions[name], name=string(name), filename=string("shop.py"))
                message.location.add(id=functions[name]).line.add(function_id=functions[name], line=7)
            ids.append(functions[name])
        sample = message.sample.add(location_id=ids, value=values)
        for key, label in labels.items():
            if isinstance(label, int):
                sample.label.add(key=string(key), num=label)
            else:
                sample.label.add(key=string(key), str=string(label))
    message.string_table.extend(strings)
    return bytes(message.SerializeToString())


def push_request(labels: dict[str, str], *profiles: bytes) -> Any:
    request = MESSAGES["PushRequest"]()
    series = request.series.add()
    for name, text in labels.items():
        series.labels.add(name=name, value=text)
    for number, profile in enumerate(profiles):
        series.samples.add(raw_profile=profile, ID=f"id-{number}")
    return request


CPU = pprof([("cpu", "nanoseconds")], [(("hot", "main"), (30_000_000,), {"pid": "7", "thread_name": "worker"})])
SERIES = {"__name__": "process_cpu", "service_name": "shop", "hostname": "web-1", "region": "eu"}


def windows(store: Store) -> list[tuple[Any, ...]]:
    """host, event, rate, sampled, ticks and labels of every window."""
    return store.rows("SELECT host, event, hz, sampled, ticks, labels FROM windows ORDER BY event, host, sampled").rows


def stacks(store: Store) -> dict[tuple[str, ...], int]:
    """Samples by service, process, thread and the functions of their stack, root first."""
    found: dict[tuple[str, ...], int] = {}
    for service, process, thread, names, count in store.rows(
        "SELECT service, process, thread, arrayReverse(arrayMap(l -> of[l][1], locations)), sum(value) FROM samples"
        " JOIN (SELECT id, any(locations) AS locations FROM stacks GROUP BY id) AS s ON s.id = samples.stack"
        " CROSS JOIN (SELECT mapFromArrays(groupArray(id), groupArray(functions)) AS of FROM frames) AS f GROUP BY ALL"
    ).rows:
        found[(service, process, thread, *names)] = found.get((service, process, thread, *names), 0) + count
    return found


# ---------------------------------------------------------------------------- /ingest


@pytest.mark.parametrize(
    ("format", "body"),
    [
        (None, b"main;hot 3\nmain;cold 4\n"),
        ("folded", b"main;hot 3\r\nmain;cold 4"),
        ("groups", b"main;hot 1\nmain;hot 2\nmain;cold 4\n"),
        ("lines", b"main;hot\nmain;cold\nmain;hot\nmain;cold\nmain;cold\nmain;cold\nmain;hot"),
        ("trie", b"\x00\x00\x01\x05main;\x00\x02\x03hot\x03\x00\x04cold\x04\x00"),
        ("tree", b"\x00\x00\x01\x04main\x00\x02\x03hot\x03\x00\x04cold\x04\x00"),
    ],
)
def test_every_format_of_stacks_keeps_every_count(
    client: TestClient, store: Store, format: str | None, body: bytes
) -> None:
    answer = client.post(ingest(format=format, spyName="pyspy"), content=body)
    assert (answer.status_code, answer.text) == (200, "")
    assert windows(store) == [("testclient", "cpu-clock", 100, 7, 7, {"region": "eu"})]
    assert stacks(store) == {("shop", "shop", "shop", "main", "hot"): 3, ("shop", "shop", "shop", "main", "cold"): 4}
    assert store.rows("SELECT DISTINCT arrayJoin(kinds) FROM frames").rows == [("python",)]


def test_a_stack_that_begins_with_a_hash_sign_is_a_stack_here(client: TestClient, store: Store) -> None:
    client.post(ingest(), content=b"#<Class:Shop>#buy;hot 5\n")
    assert stacks(store) == {("shop", "shop", "shop", "#<Class:Shop>#buy", "hot"): 5}


def test_lines_that_are_no_stacks_are_told_and_the_others_kept(client: TestClient, store: Store) -> None:
    answer = client.post(ingest(), content=b"main;hot 3\nnonsense\n")
    assert answer.status_code == 200 and "line 2 left out" in answer.text
    assert windows(store)[0][3] == 3


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_bodies_may_be_compressed(client: TestClient, store: Store, compress: Any) -> None:
    encoding = "gzip" if compress is gzip.compress else "zstd"
    body = compress(b"main;hot 3\n")
    assert client.post(ingest(), content=body, headers={"content-encoding": encoding}).status_code == 200
    assert windows(store)[0][3] == 3


def test_a_retry_is_recognised_and_the_next_profile_of_the_same_shape_is_not(client: TestClient, store: Store) -> None:
    for _ in range(2):
        assert client.post(ingest(), content=b"main 3\n").status_code == 200
    assert len(windows(store)) == 1
    assert client.post(ingest(until=NOW + 10), content=b"main 3\n").status_code == 200
    assert len(windows(store)) == 2
    for _ in range(2):  # without times, every push is of its own moment
        assert client.post("/pyroscope/ingest?name=shop", content=b"main 3\n").status_code == 200
    assert len(windows(store)) == 4


def test_rate_host_and_other_labels_are_taken_from_the_query(client: TestClient, store: Store) -> None:
    name = 'shop{hostname=web-1, region="eu",service_name=checkout,__session_id__=1}'
    client.post(ingest(name=name, sampleRate=49), content=b"main 3\n", headers={"X-Scope-OrgID": "tenant"})
    assert windows(store) == [("web-1", "cpu-clock", 49, 3, 3, {"region": "eu"})]
    assert stacks(store) == {("checkout", "checkout", "checkout", "main"): 3}


@pytest.mark.parametrize(
    ("name", "units", "event", "kind"),
    [
        ("shop", None, "cpu-clock", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"),
        ("shop.wall", "samples", "wall", "wall:wall:nanoseconds:wall:nanoseconds"),
        ("shop.alloc_space", "bytes", "alloc_space:bytes", "memory:alloc_space:bytes:space:bytes"),
        ("shop.inuse_objects", "objects", "inuse_objects:count", "memory:inuse_objects:count:space:bytes"),
        ("shop.block_count", None, "block/contentions:count", "block:contentions:count:contentions:count"),
        ("shop.mutex_duration", None, "delay", "mutex:delay:nanoseconds:contentions:count"),
        ("shop", "goroutines", "goroutines:count", "goroutine:goroutines:count:goroutine:count"),
    ],
)
def test_what_is_measured_is_told_by_the_name_or_the_units(
    client: TestClient, store: Store, name: str, units: str | None, event: str, kind: str
) -> None:
    assert client.post(ingest(name=name, units=units), content=b"main 3000\n").status_code == 200
    assert windows(store)[0][1] == event
    assert profile_type(event).id == kind


@pytest.mark.parametrize("as_form", [False, True])
def test_pprof_has_an_event_for_each_type_and_a_window_for_each_set_of_labels(
    client: TestClient, store: Store, as_form: bool
) -> None:
    body = pprof(
        [("samples", "count"), ("cpu", "nanoseconds"), ("alloc_space", "bytes")],
        [
            (("hot", "main"), (2, 20_000_000, 4096), {"pid": 7, "endpoint": "/buy", "bytes": 64}),
            (("cold", "main"), (1, 10_000_000, 0), {"span_id": "5", "thread name": "io"}),
        ],
    )
    files = {"profile": gzip.compress(body), "sample_type_config": b'{"cpu": {"sampled": true}}'}
    if as_form:
        answer = client.post(ingest(), files=files)
        expected = {"cpu-clock"}
    else:
        answer = client.post(ingest(format="pprof"), content=gzip.compress(body))
        expected = {"cpu-clock", "alloc_space:bytes"}
    assert (answer.status_code, answer.text) == (200, "")
    found = windows(store)
    assert {row[1] for row in found} == expected
    cpu = [(row[2], row[3], row[5]) for row in found if row[1] == "cpu-clock"]
    assert cpu == [(100, 1, {"region": "eu"}), (100, 2, {"region": "eu", "endpoint": "/buy"})]
    assert {key[2] for key in stacks(store)} == {"shop", "io"}
    if not as_form:
        assert [(row[2], row[3]) for row in found if row[1] == "alloc_space:bytes"] == [(1, 4096)]


def speedscope(unit: str, *weights: float) -> bytes:
    profile = {"type": "sampled", "name": "io", "unit": unit, "startValue": 0, "endValue": 9}
    sampled = {**profile, "samples": [[0, 1]] * len(weights), "weights": weights}
    frames = [{"name": "main"}, {"name": "hot"}]
    return json.dumps({"shared": {"frames": frames}, "profiles": [sampled]}).encode()


@pytest.mark.parametrize(
    ("name", "unit", "weights", "window"),
    [
        ("shop", "none", (3, 4), ("cpu-clock", 50, 7)),
        ("shop.wall", "none", (3, 4), ("wall", 50, 7)),
        ("shop", "milliseconds", (30, 40), ("wall", 990_000, 69_300)),
        ("shop.cpu", "seconds", (0.03, 0.04), ("cpu-clock", 990_000, 69_300)),
        ("shop", "bytes", (4096, 1), ("memory:bytes", 1, 4097)),
    ],
)
def test_speedscope_files_are_taken_by_their_unit(
    client: TestClient, store: Store, name: str, unit: str, weights: tuple[float, ...], window: tuple[str, int, int]
) -> None:
    answer = client.post(ingest(name=name, format="speedscope", sampleRate=50), content=speedscope(unit, *weights))
    assert answer.status_code == 200, answer.text
    assert windows(store)[0][1:4] == window
    assert stacks(store) == {("shop", "shop", "shop", "main", "hot"): window[2]}


def test_values_that_only_grow_need_the_profile_before(client: TestClient, store: Store) -> None:
    config = json.dumps({"alloc_objects": {"units": "objects", "cumulative": True}})

    def form(count: int, before: int | None) -> dict[str, bytes]:
        parts = {"profile": pprof([("alloc_objects", "count")], [(("main",), (count,), {})])}
        if before is not None:
            parts["prev_profile"] = pprof([("alloc_objects", "count")], [(("main",), (before,), {})])
        return {**parts, "sample_type_config": config.encode()}

    answer = client.post(ingest(), files=form(900, None))
    assert answer.status_code == 200 and "left out" in answer.text and not windows(store)
    assert client.post(ingest(), files=form(1000, 900)).status_code == 200
    assert [row[1:4] for row in windows(store)] == [("alloc_objects:count", 1, 100)]


def test_times_that_are_no_periods_keep_their_total_and_can_be_merged_with_agents(store: Store) -> None:
    (meaning, cpu) = meanings(
        "", [("wall", "nanoseconds"), ("cpu", "nanoseconds")], ("wall", "nanoseconds"), 13_619, None
    )
    assert meaning is not None and cpu is not None and cpu.hz % 99 == 0 and cpu.hz % 100 == 0
    values = [2_756_061, 6_057_305, 476_150, 1]
    assert abs(sum(cpu.counts(values)) - sum(values) * cpu.hz / 1e9) <= 0.5


def test_samples_that_are_told_as_time_as_well_are_not_counted_twice() -> None:
    types = [("samples", "count"), ("cpu", "nanoseconds")]
    samples, cpu = meanings("process_cpu", types, ("cpu", "nanoseconds"), 10_000_000, None)
    assert samples is None and cpu is not None and (cpu.event, cpu.hz) == ("cpu-clock", 100)
    (assumed,) = meanings("", types[:1], ("", ""), 0, None)
    assert assumed is not None and (assumed.event, assumed.hz) == ("cpu-clock", 100)


@pytest.mark.parametrize(
    ("parameters", "body", "status", "said"),
    [
        ({"name": None}, b"main 1", 400, "`name` is missing"),
        ({"name": "shop{region"}, b"main 1", 400, "have no end"),
        ({"name": "shop{region}"}, b"main 1", 400, "is no label"),
        ({"name": "shop{a b=c}"}, b"main 1", 400, "no name for a label"),
        ({"name": "shop{region=e\nu}"}, b"main 1", 400, "control character"),
        ({"name": "x" * 10_000}, b"main 1", 400, "10,000 characters"),
        ({"name": "shop{hostname=" + "x" * 10_000 + "}"}, b"main 1", 400, "10,000 characters"),
        ({"name": "shop{" + ",".join(f"l{n}=1" for n in range(65)) + "}"}, b"main 1", 400, "65 labels"),
        ({"format": "jfr"}, b"FLR\0", 422, "pprof"),
        ({"format": "svg"}, b"main 1", 400, "no format 'svg'"),
        ({"units": "parsecs"}, b"main 1", 400, "no units 'parsecs'"),
        ({"aggregationType": "median"}, b"main 1", 400, "no aggregationType"),
        ({"sampleRate": "fast"}, b"main 1", 400, "sampleRate"),
        ({"sampleRate": "0"}, b"main 1", 400, "sampleRate"),
        ({"from_": "yesterday"}, b"main 1", 400, "`from` is no time"),
        ({"from_": NOW, "until": NOW - 60}, b"main 1", 400, "must not be later"),
        ({"from_": NOW - 10 * 365 * 86400}, b"main 1", 400, "too long"),
        ({"from_": NOW + 3 * 86400, "until": NOW + 3 * 86400 + 10}, b"main 1", 400, "in the future"),
        ({"from_": NOW - 100 * 86400, "until": NOW - 100 * 86400 + 10}, b"main 1", 422, "older than"),
        ({}, b"nonsense\n", 422, "no folded stacks"),
        ({"format": "trie"}, TRIE[:-1], 422, "cut off"),
        ({"format": "trie"}, TRIE + b"x", 422, "after the end"),
        ({"format": "tree"}, b"\x00\x05\x00", 422, "at its root"),
        ({"format": "tree"}, b"\xff" * 20, 422, "no end"),
        ({"format": "speedscope"}, b"{", 422, "not JSON"),
        ({"format": "speedscope"}, b"[" * 100_000, 422, "not JSON"),
        ({"format": "speedscope"}, b"[" * 600_000, 422, "objects and lists"),
        ({"format": "speedscope"}, b"{}", 422, "damaged"),
        ({"format": "pprof"}, b"\xff\xff\xff", 422, "pprof"),
        ({"format": "pprof"}, gzip.compress(CPU)[:-8], 422, "cut off"),
        ({"format": "pprof"}, b"\x0a\x00", 422, "pprof"),
        ({}, b"x" * (MAX_BODY + 1), 413, "more than"),
    ],
)
def test_bad_pushes_are_refused_in_a_sentence(
    client: TestClient, store: Store, parameters: dict[str, object], body: bytes, status: int, said: str
) -> None:
    answer = client.post(ingest(**parameters), content=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"] and len(answer.json()["error"]) < 400
    assert windows(store) == []
    assert "pilotlight_rejected_total{" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"", "multipart/form-data", "no boundary"),
        (b"--x\r\n", "multipart/form-data; boundary=x", "cut off"),
        (b"nonsense", "multipart/form-data; boundary=x", "malformed"),
        (
            b"--x\r\nContent-Disposition: form-data; name=y\r\n\r\nz\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
            "profile",
        ),
        (b"--x\r\na: b\r\n\r\n\r\n" * 17 + b"--x--\r\n", "multipart/form-data; boundary=x", "16 parts"),
        (b"--x\r\n" + b"a: b\r\n" * 99 + b"\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x", "malformed"),
        (b"--x\r\na: " + b"b" * 9999 + b"\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x", "malformed"),
        (b"x", "multipart/form-data; boundary=" + "x" * 999, "malformed"),
    ],
)
def test_forms_that_are_malformed_or_too_many_parts_are_refused(
    client: TestClient, body: bytes, content_type: str, said: str
) -> None:
    answer = client.post(ingest(), content=body, headers={"content-type": content_type})
    assert answer.status_code == 422 and said in answer.json()["error"], answer.text


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"cpu": 1}', b"[" * 50_000, b"{" + b" " * 70_000 + b"}"])
def test_a_bad_sample_type_config_is_refused(client: TestClient, config: bytes) -> None:
    answer = client.post(ingest(), files={"profile": CPU, "sample_type_config": config})
    assert answer.status_code == 422 and "sample_type_config" in answer.json()["error"]


def test_a_trie_that_unfolds_into_much_more_is_refused_before_it_has() -> None:
    name = b"\x80\x80\x04" + b"x" * (1 << 16)  # 64 KB, and a million children of a byte
    bomb = b"\x00\x00\x01" + name + b"\x00\xc0\x84\x3d" + b"\x01y\x01\x00" * 1_000_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="unfolds into more than 64 MB"):
        trie_to_folded(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_tries_and_trees_are_what_their_own_examples_say() -> None:
    assert trie_to_folded(TRIE) == b"abc 1\nabd 2\n"
    assert tree_to_folded(TREE) == b"a;b 1\na;c 2\n"
    assert tree_to_folded(b"\x00\x00\x01\x03a;b\x02\x00") == b"a\\x3bb 2\n"


# ------------------------------------------------------------------------------- push


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("encoding", ["", "gzip", "zstd"])
def test_connect_push_is_taken_in_protobuf_and_json(
    client: TestClient, store: Store, as_json: bool, encoding: str
) -> None:
    if as_json:
        labels = [{"name": name, "value": text} for name, text in SERIES.items()]
        sample = {"rawProfile": base64.b64encode(CPU).decode(), "ID": "id-0"}
        body = json.dumps({"series": [{"labels": labels, "samples": [sample], "unknown": 1}]}).encode()
        headers = {"content-type": "application/json; charset=utf-8", "connect-protocol-version": "1"}
    else:
        body, headers = push_request(SERIES, gzip.compress(CPU)).SerializeToString(), dict(PROTO)
    if encoding:
        body = gzip.compress(body) if encoding == "gzip" else zstd.compress(body)
        headers["content-encoding"] = encoding
    for _ in range(2):  # the second time as a retry
        answer = client.post(PUSH, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (answer.content, answer.headers["content-type"]) == (
            (b"{}", "application/json") if as_json else (b"", "application/proto")
        )
    assert windows(store) == [("web-1", "cpu-clock", 100, 3, 3, {"region": "eu"})]
    assert stacks(store) == {("shop", "shop", "worker", "main", "hot"): 3}
    assert store.rows("SELECT DISTINCT pid FROM samples").rows == [(7,)]


def test_the_bytes_of_a_push_are_those_of_the_published_messages() -> None:
    expected = b"\x0a\x0e\x0a\x06\x0a\x01a\x12\x01b\x12\x04\x0a\x02pp"  # series 1: labels 1 {1, 2}, samples 2 {1}
    request = MESSAGES["PushRequest"].FromString(expected)
    assert request.series[0].labels[0].name == "a" and request.series[0].labels[0].value == "b"
    assert request.series[0].samples[0].raw_profile == b"pp"


def test_mutex_and_block_profiles_are_kept_apart(client: TestClient, store: Store) -> None:
    types = [("contentions", "count"), ("delay", "nanoseconds")]
    body = pprof(types, [(("lock",), (3, 3_000_000), {})], ("contentions", "count"), 1)
    for name in ("mutex", "block"):
        request = push_request({**SERIES, "__name__": name}, body)
        assert client.post(PUSH, content=request.SerializeToString(), headers=PROTO).status_code == 200
    events = {row[1] for row in windows(store)}
    assert events == {"contentions:count", "delay", "block/contentions:count", "block/delay"}
    assert {profile_type(event).id for event in events} == {
        f"{name}:{kind}:contentions:count"
        for name in ("mutex", "block")
        for kind in ("contentions:count", "delay:nanoseconds")
    }


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "said"),
    [
        (b"\xff\xff", PROTO, 400, "invalid_argument", "PushRequest"),
        (b"{", {"content-type": "application/json"}, 400, "invalid_argument", "JSON"),
        (b"[]", {"content-type": "application/json"}, 400, "invalid_argument", "not a JSON object"),
        (b'{"series":' + b"[" * 100_000, {"content-type": "application/json"}, 400, "invalid_argument", ""),
        (b'{"a":' * 900 + b"1" + b"}" * 900, {"content-type": "application/json"}, 200, "", ""),
        (b'{"a":{}}' * 70_000, {"content-type": "application/json"}, 400, "invalid_argument", "JSON objects"),
        (b'{"series": 5}', {"content-type": "application/json"}, 400, "invalid_argument", "PushRequest"),
        (b"", {"content-type": "application/grpc"}, 415, "unimplemented", "application/grpc"),
        (b"", {}, 415, "unimplemented", "content type"),
        (b"x", {**PROTO, "content-encoding": "br"}, 415, "invalid_argument", "br"),
        (b"x", {**PROTO, "content-encoding": "gzip"}, 400, "invalid_argument", "gzip"),
        (gzip.compress(b"\0" * (MAX_BODY + 1)), {**PROTO, "content-encoding": "gzip"}, 413, "resource_exhausted", ""),
        (push_request({"region": "eu"}, CPU).SerializeToString(), PROTO, 400, "invalid_argument", "service_name"),
        (push_request(SERIES, b"junk").SerializeToString(), PROTO, 400, "invalid_argument", "pprof"),
        (
            push_request({**SERIES, "host": "x" * 10_000}, CPU).SerializeToString(),
            PROTO,
            400,
            "invalid_argument",
            "10,000",
        ),
        (
            push_request(SERIES, *[b""] * (MAX_PROFILES + 1)).SerializeToString(),
            PROTO,
            413,
            "resource_exhausted",
            "1,000",
        ),
        (b"\x0a\x00" * 2_000, PROTO, 413, "resource_exhausted", "1,000"),
    ],
)
def test_bad_pushes_are_refused_in_connects_own_form(
    client: TestClient, store: Store, body: bytes, headers: dict[str, str], status: int, code: str, said: str
) -> None:
    answer = client.post(PUSH, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    if code:
        assert answer.json()["code"] == code and said in answer.json()["message"]
        assert answer.headers["content-type"] == "application/json"
    assert windows(store) == []


def test_gzip_bombs_inside_a_push_are_not_inflated(client: TestClient) -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    tracemalloc.start()
    answer = client.post(PUSH, content=push_request(SERIES, *[bomb] * 50).SerializeToString(), headers=PROTO)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answer.status_code == 400 and "larger than 16 MB" in answer.json()["message"]
    assert peak < 128 << 20


def test_more_sets_of_labels_than_can_be_series_are_refused(client: TestClient, store: Store) -> None:
    samples = [(("main",), (10_000_000,), {"user": f"u{number}"}) for number in range(1001)]
    body = push_request(SERIES, pprof([("cpu", "nanoseconds")], samples)).SerializeToString()
    answer = client.post(PUSH, content=body, headers=PROTO)
    assert answer.status_code == 400 and "sets of labels" in answer.json()["message"]
    assert windows(store) == []


def test_damaged_indices_are_refused(client: TestClient) -> None:
    for change in ("location", "function", "string", "values"):
        message = Message.FromString(CPU)
        if change == "location":
            message.sample[0].location_id[0] = 99
        elif change == "function":
            message.location[0].line[0].function_id = 99
        elif change == "string":
            message.function[0].name = 99
        else:
            message.sample[0].value.append(1)
        body = push_request(SERIES, message.SerializeToString()).SerializeToString()
        answer = client.post(PUSH, content=body, headers=PROTO)
        assert answer.status_code == 400 and "damaged" in answer.json()["message"]


def test_hostile_names_are_only_ever_data(client: TestClient, store: Store) -> None:
    labels = {**SERIES, "service_name": HOSTILE, "region": HOSTILE, "hostname": HOSTILE}
    body = pprof(
        [("cpu", "nanoseconds")], [((HOSTILE, "main"), (10_000_000,), {"x'; DROP": HOSTILE, "thread": HOSTILE})]
    )
    answer = client.post(PUSH, content=push_request(labels, body).SerializeToString(), headers=PROTO)
    assert answer.status_code == 200, answer.text
    (host, _, _, sampled, _, kept) = windows(store)[0]
    assert (host, sampled) == (HOSTILE, 1) and kept == {"region": HOSTILE, "x___DROP": HOSTILE}
    assert stacks(store) == {(HOSTILE, HOSTILE, HOSTILE, "main", HOSTILE): 1}
    page = client.get("/flamegraph")
    assert page.status_code == 200 and "<script>" not in page.text.replace("<script type", "")


def test_a_store_without_profiles_answers_every_query(client: TestClient) -> None:
    kind = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
    graph = client.get("/pyroscope/render", params={"query": kind}).json()["flamebearer"]
    assert graph == {"names": ["total"], "levels": [[0, 0, 0, 0]], "numTicks": 0, "maxSelf": 0}
    both = client.get("/pyroscope/render-diff", params={"leftQuery": kind, "rightQuery": kind}).json()
    assert both["flamebearer"]["levels"] == [[0] * 7] and both["leftTicks"] == both["rightTicks"] == 0
    assert client.get("/pyroscope/label-values?label=service_name").json() == []
    for method in ("ProfileTypes", "LabelNames", "Series", "GetProfileStats"):
        assert client.post(f"/querier.v1.QuerierService/{method}", json={}).json() == {}


# ------------------------------------------------------------------------------- parts


def test_names_of_applications() -> None:
    assert parse_application("shop") == ("shop", {})
    assert parse_application(" shop.cpu { a = b , c=d=e, } ") == ("shop.cpu", {"a": "b", "c": "d=e"})
    assert parse_application('app{x="y"}') == ("app", {"x": "y"})
    for bad in ("", "{a=b}", "app{", "app{a=b", "app{=b}", "app{1a=b}"):
        with pytest.raises(BadName):
            parse_application(bad)


def test_times_in_every_unit() -> None:
    at = 1_763_683_200
    for text in (str(at), f"{at}000", f"{at}000000", f"{at}000000000", "2025-11-21T00:00:00Z", "20251121"):
        assert parse_moment(text, "from", 0) == at * 10**9
    assert parse_moment("now-3h", "from", at) == (at - 10_800) * 10**9
    assert parse_moment("now", "from", at + 0.5) == at * 10**9 + 500_000_000
    for bad in ("", "then", "now+1h", "1" * 30, "-5", "99999999999", "20259999", "now-" + "9" * 30 + "s"):
        with pytest.raises(BadQuery, match="`from` is no time"):
            parse_moment(bad, "from", at)


def test_events_and_profile_types_are_each_others_names() -> None:
    for event in ("cpu-clock", "wall", "off-cpu", "cycles", "delay", "block/delay", "alloc_space:bytes", "x/y:count"):
        kind = profile_type(event)
        assert kind.id.count(":") == 4 and kind.is_time == (":" not in event)
    assert value("memory", "alloc_space", "bytes").event == "alloc_space:bytes"
    assert profile_type(value("block", "contentions", "count").event).name == "block"
