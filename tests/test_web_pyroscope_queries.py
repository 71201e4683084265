"""Pyroscope's queries, as Grafana and Pyroscope's own tools ask them: exact totals, and clear answers to bad ones."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.formats.pprof import Message
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.app import ServerOptions, create_app
from web.pyroscope.messages import MESSAGES
from web.pyroscope.selectors import parse_query, parse_selector, public_names
from web.store.store import BadQuery, Store

SERVICE = "/querier.v1.QuerierService/"
CPU = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
START = int(time.time()) // 60 * 60 - 600
RANGE = {"from": str(START), "until": str(START + 300)}
MS = {"start": START * 1000, "end": (START + 300) * 1000}
HOSTILE = "'; DROP TABLE samples; --<script>\""


def location(name: str, address: int) -> Location:
    return Location(address, Binary("/usr/bin/shop", "ab"), (Frame(name, Kind.NATIVE),))


MAIN, PARSE, READ = location("main", 1), location("parse", 2), location("read", 3)


def profile(
    start: int = START,
    host: str = "web-1",
    service: str = "checkout",
    hz: int = 99,
    labels: dict[str, str] | None = None,
) -> Profile:
    count = 70
    samples = (
        Sample((PARSE, MAIN), 7, "shop", "shop", count, service),
        Sample((READ, MAIN), 8, "shop", "io", 30, service),
    )
    total = count + 30
    accounting = Accounting(1980, total + 1000, 1000, 0, total, {}, 2 * total)
    return Profile(
        host, "cpu-clock", hz, Window(start * 10**9, (start + 10) * 10**9), samples, accounting, labels or {}
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with 400 samples of two services on two hosts, at two rates, and pushed bytes."""
    store = Store(f"chdb://{tmp_path_factory.mktemp('queries')}/store")
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1") as client:
        for number, each in enumerate(
            (
                profile(labels={"region": "eu", "otel.scope.name": "go"}),
                profile(START + 60, labels={"region": "eu"}),
                profile(START + 10, "db-1", "store", labels={"region": "us"}),
                profile(START + 20, "db-1", "", hz=33),
            )
        ):
            body = write_otlp(each, PushIdentity("agent", 1, number))
            answer = client.post(
                "/v1development/profiles", content=body, headers={"content-type": "application/x-protobuf"}
            )
            assert answer.status_code == 200
        query = f"/ingest?name=shop.alloc_space%7Bregion%3Deu%7D&from={START + 100}&until={START + 110}"
        assert client.post(query, content=b"main;parse 4096\nmain;read 1024\n").status_code == 200
        yield client
    store.close()


def nanoseconds(samples: int, hz: int = 99) -> int:
    return round(samples * 10**9 / hz)


def call(client: TestClient, method: str, asked: dict[str, Any], status: int = 200) -> Any:
    answer = client.post(SERVICE + method, json=asked)
    assert answer.status_code == status, answer.text
    return answer.json()


def nodes(levels: list[list[int]], names: list[str]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Total and own value of each path in a flame graph of fours, found as its readers find them: by where they lie."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    above: list[tuple[int, int, tuple[str, ...]]] = [(0, 1 << 62, ())]
    for level in levels:
        here = []
        at = 0
        for place in range(0, len(level), 4):
            distance, total, own, name = level[place : place + 4]
            start = at + distance
            at = start + total
            path = next(path for first, end, path in above if first <= start and at <= end)
            here.append((start, at, (*path, names[name])))
            seen = found.get(here[-1][2], (0, 0))
            found[here[-1][2]] = (seen[0] + total, seen[1] + own)
        above = here
    return found


# ----------------------------------------------------------------------------- render


def test_render_gives_every_stack_in_nanoseconds_with_a_timeline(client: TestClient) -> None:
    answer = client.get("/pyroscope/render", params={"query": CPU + '{service_name="checkout"}', **RANGE})
    assert answer.status_code == 200
    found = answer.json()
    graph = found["flamebearer"]
    assert found["version"] == 1 and graph["numTicks"] == nanoseconds(200)
    assert found["metadata"]["format"] == "single" and found["metadata"]["sampleRate"] == 10**9
    assert (found["metadata"]["units"], found["metadata"]["name"]) == ("samples", "cpu")
    tree = nodes(graph["levels"], graph["names"])
    assert tree[("total",)] == (nanoseconds(200), 0)
    parse = tree[("total", "shop", "main", "parse")]
    read = tree[("total", "shop", "io", "main", "read")]
    assert parse[0] == parse[1] and abs(parse[0] - nanoseconds(140)) <= 1
    assert parse[0] + read[0] == nanoseconds(200)
    assert graph["maxSelf"] == parse[1]
    timeline = found["timeline"]
    assert timeline["startTime"] == START and timeline["durationDelta"] == 10 and len(timeline["samples"]) == 30
    by_time = {START + 10 * place: value for place, value in enumerate(timeline["samples"]) if value}
    assert by_time == {START: nanoseconds(100), START + 60: nanoseconds(100)}


def test_every_total_is_that_of_its_children_and_its_own(client: TestClient) -> None:
    graph = client.get("/pyroscope/render", params={"query": CPU + "{}", **RANGE}).json()["flamebearer"]
    tree = nodes(graph["levels"], graph["names"])
    for path, (total, own) in tree.items():
        below = sum(value for other, (value, _) in tree.items() if other[:-1] == path)
        assert total == own + below
    assert graph["numTicks"] == sum(own for _, own in tree.values()) == nanoseconds(300 + 300)  # 33 Hz counts thrice


def test_what_is_pruned_is_one_exact_node(client: TestClient) -> None:
    whole = client.get("/pyroscope/render", params={"query": CPU + "{}", **RANGE}).json()["flamebearer"]
    small = client.get("/pyroscope/render", params={"query": CPU + "{}", "maxNodes": "3", **RANGE}).json()[
        "flamebearer"
    ]
    assert small["numTicks"] == whole["numTicks"]
    assert any("below" in name and "%" in name for name in small["names"])
    tree = nodes(small["levels"], small["names"])
    assert sum(own for _, own in tree.values()) == whole["numTicks"]
    same = client.get("/pyroscope/render", params={"query": CPU + "{}", "max-nodes": "3", **RANGE}).json()
    assert same["flamebearer"] == small


@pytest.mark.parametrize(
    ("selector", "samples"),
    [
        ("{}", 600),
        ("", 600),
        ('{service_name="checkout"}', 200),
        ('{service_name!="checkout"}', 400),
        ('{service_name=""}', 300),
        ('{service_name=~"check.*|store"}', 300),
        ('{host!~"web-.*"}', 400),
        ('{host="db-1",thread="io"}', 30 + 90),
        ('{process="shop", pid="7"}', 140 + 70 + 210),
        ('{region="eu"}', 200),
        ('{region=~"eu|us",service_name="store"}', 100),
        ('{region=""}', 300),
        ('{region!=""}', 300),
        ('{otel_scope_name="go"}', 100),
        ('{region="eu",host="web-1",}', 200),
        ("{service_name=`checkout`, host='web-1'}", 200),
        ('{"service_name"="checkout"}', 200),
        (f'{{__profile_type__="{CPU}"}}', 600),
        ('{nothing="x"}', 0),
        (f"{{service_name={json.dumps(HOSTILE)}}}", 0),
    ],
)
def test_selectors_choose_exactly_the_samples_that_match(client: TestClient, selector: str, samples: int) -> None:
    answer = client.get("/pyroscope/render", params={"query": CPU + selector, **RANGE})
    assert answer.status_code == 200, answer.text
    assert answer.json()["flamebearer"]["numTicks"] == nanoseconds(samples)
    asked = {"profileTypeID": CPU, "labelSelector": selector, **MS}
    total = call(client, "SelectMergeStacktraces", asked)["flamegraph"].get("total", "0")
    assert int(total) == nanoseconds(samples)


def test_types_that_are_no_time_have_their_own_values(client: TestClient) -> None:
    query = "memory:alloc_space:bytes:space:bytes{}"
    found = client.get("/pyroscope/render", params={"query": query, **RANGE}).json()
    assert found["flamebearer"]["numTicks"] == 5120 and found["metadata"]["units"] == "bytes"
    assert sum(found["timeline"]["samples"]) == 5120


def test_groups_are_timelines_by_label(client: TestClient) -> None:
    parameters = {"query": CPU + "{}", "groupBy": "host", **RANGE}
    groups = client.get("/pyroscope/render", params=parameters).json()["groups"]
    assert {name: sum(line["samples"]) for name, line in groups.items()} == {
        "host=web-1": 2 * nanoseconds(100),
        "host=db-1": nanoseconds(100) + nanoseconds(100, 33),
    }


def test_a_graph_of_functions_in_dot(client: TestClient) -> None:
    parameters = {"query": CPU + '{service_name="store"}', "format": "dot", **RANGE}
    answer = client.get("/pyroscope/render", params=parameters)
    assert answer.headers["content-type"].startswith("text/vnd.graphviz")
    assert answer.text.startswith("digraph profile {") and answer.text.endswith("}\n")
    main = f'[label="main\\nself 0\\ntotal {nanoseconds(100)}"]'
    assert main in answer.text and answer.text.count("->") == 5


def test_times_may_be_in_any_unit(client: TestClient) -> None:
    answers = []
    for digits in ("", "000", "000000", "000000000"):
        parameters = {"query": CPU + "{}", "from": f"{START}{digits}", "until": f"{START + 300}{digits}"}
        answers.append(client.get("/pyroscope/render", params=parameters).json()["flamebearer"])
    answers.append(
        client.get("/pyroscope/render", params={"query": CPU + "{}", "from": "now-3h"}).json()["flamebearer"]
    )
    assert all(answer == answers[0] for answer in answers) and answers[0]["numTicks"] > 0


def test_nothing_is_an_empty_graph_not_an_error(client: TestClient) -> None:
    query = "mutex:delay:nanoseconds:contentions:count{}"
    found = client.get("/pyroscope/render", params={"query": query, **RANGE}).json()
    assert found["flamebearer"] == {"names": ["total"], "levels": [[0, 0, 0, 0]], "numTicks": 0, "maxSelf": 0}
    assert sum(found["timeline"]["samples"]) == 0


def test_two_selections_are_compared_node_by_node(client: TestClient) -> None:
    sides = {f"{side}From": RANGE["from"] for side in ("left", "right")}
    sides |= {f"{side}Until": RANGE["until"] for side in ("left", "right")}
    queries = {"leftQuery": CPU + '{service_name="checkout"}', "rightQuery": CPU + '{service_name="store"}'}
    answer = client.get("/pyroscope/render-diff", params={**queries, **sides})
    found = answer.json()
    assert found["metadata"]["format"] == "double"
    assert (found["leftTicks"], found["rightTicks"]) == (nanoseconds(200), nanoseconds(100))
    graph = found["flamebearer"]
    assert graph["numTicks"] == nanoseconds(200) + nanoseconds(100)
    assert all(len(level) % 7 == 0 for level in graph["levels"])
    by_name = {}
    for level in graph["levels"]:
        for place in range(0, len(level), 7):
            by_name[graph["names"][level[place + 6]]] = level[place : place + 6]
    assert by_name["parse"][2] + by_name["read"][2] == nanoseconds(200)
    assert by_name["parse"][5] + by_name["read"][5] == nanoseconds(100)
    asked = [
        {"profileTypeID": CPU, "labelSelector": text, **MS}
        for text in ('{service_name="checkout"}', '{service_name="store"}')
    ]
    graph_of_call = call(client, "Diff", {"left": asked[0], "right": asked[1]})["flamegraph"]
    assert [list(map(int, level["values"])) for level in graph_of_call["levels"]] == graph["levels"]
    assert (int(graph_of_call["leftTicks"]), int(graph_of_call["rightTicks"])) == (nanoseconds(200), nanoseconds(100))


def test_different_types_are_not_compared(client: TestClient) -> None:
    queries = {"leftQuery": CPU, "rightQuery": "memory:alloc_space:bytes:space:bytes"}
    answer = client.get("/pyroscope/render-diff", params=queries)
    assert answer.status_code == 400 and "cannot be compared" in answer.json()["error"]


# ----------------------------------------------------------------------------- labels


def test_labels_have_names_that_prometheus_can_write(client: TestClient) -> None:
    names = client.get("/pyroscope/labels", params=RANGE).json()
    assert names == sorted(names)
    assert {"__profile_type__", "service_name", "host", "process", "region", "otel_scope_name"} <= set(names)
    assert call(client, "LabelNames", MS)["names"] == names
    narrowed = call(client, "LabelNames", {"matchers": ['{service_name="store"}'], **MS})["names"]
    assert "region" in narrowed and "otel_scope_name" not in narrowed


@pytest.mark.parametrize(
    ("label", "selector", "values"),
    [
        ("service_name", "", ["checkout", "shop", "store"]),
        ("host", '{service_name="store"}', ["db-1"]),
        ("region", "", ["eu", "us"]),
        ("region", '{host="db-1"}', ["us"]),
        ("thread", "", ["io", "shop"]),
        ("thread", '{region="us",pid="8"}', ["io"]),
        ("otel_scope_name", "", ["go"]),
        ("__profile_type__", '{host="web-1"}', [CPU]),
        ("__name__", '{__profile_type__=~"mem.*"}', ["memory"]),
        ("nothing", "", []),
    ],
)
def test_values_of_labels(client: TestClient, label: str, selector: str, values: list[str]) -> None:
    parameters = {"label": label, "query": selector, **RANGE}
    assert client.get("/pyroscope/label-values", params=parameters).json() == values
    asked = {"name": label, "matchers": [selector] if selector else [], **MS}
    assert call(client, "LabelValues", asked).get("names", []) == values


def test_types_of_profiles(client: TestClient) -> None:
    types = call(client, "ProfileTypes", MS)["profileTypes"]
    assert [kind["ID"] for kind in types] == ["memory:alloc_space:bytes:space:bytes", CPU]
    assert types[1] == {
        "ID": CPU,
        "name": "process_cpu",
        "sampleType": "cpu",
        "sampleUnit": "nanoseconds",
        "periodType": "cpu",
        "periodUnit": "nanoseconds",
    }
    assert client.get("/pyroscope/label-values", params={"label": "__name__", **RANGE}).json() == [
        kind["ID"] for kind in types
    ]


def test_series_are_the_distinct_sets_of_labels(client: TestClient) -> None:
    asked = {"labelNames": ["service_name", "__profile_type__"], "matchers": [], **MS}
    found = [
        {pair["name"]: pair["value"] for pair in labels["labels"]}
        for labels in call(client, "Series", asked)["labelsSet"]
    ]
    assert {(labels.get("service_name", ""), labels["__profile_type__"]) for labels in found} == {
        ("checkout", CPU),
        ("store", CPU),
        ("", CPU),
        ("shop", "memory:alloc_space:bytes:space:bytes"),
    }
    everything = call(client, "Series", {"matchers": ['{service_name="store"}'], **MS})["labelsSet"]
    assert [{pair["name"] for pair in labels["labels"]} for labels in everything] == [
        {"__name__", "__profile_type__", "host", "process", "region", "service_name"}
    ]


# ---------------------------------------------------------------------------- connect


@pytest.mark.parametrize("step", [10, 15, 60, 90])
def test_sums_over_time_by_label(client: TestClient, step: int) -> None:
    asked = {"profileTypeID": CPU, "labelSelector": "{}", "step": step, "groupBy": ["service_name"], **MS}
    series = call(client, "SelectSeries", asked)["series"]
    totals = {
        "".join(pair["value"] for pair in line.get("labels", [])): sum(point["value"] for point in line["points"])
        for line in series
    }
    assert {name: round(value) for name, value in totals.items()} == {
        "": nanoseconds(100, 33),
        "checkout": nanoseconds(200),
        "store": nanoseconds(100),
    }
    times = {int(point["timestamp"]) for line in series for point in line["points"]}
    assert all(at % (step * 1000) == 0 and MS["start"] - step * 1000 < at < MS["end"] for at in times)
    heaviest = call(client, "SelectSeries", {**asked, "limit": 1})["series"]
    assert heaviest == series[:1] and "labels" not in heaviest[0]


def test_protobuf_has_the_same_as_json(client: TestClient) -> None:
    asked = {"profileTypeID": CPU, "labelSelector": '{service_name="checkout"}', "maxNodes": "16384", **MS}
    as_json = call(client, "SelectMergeStacktraces", asked)["flamegraph"]
    # 1 the type, 2 the selector, 3 and 4 the times, 5 the nodes: as the published message has them.
    message = MESSAGES["SelectMergeStacktracesRequest"](
        profile_typeID=CPU, label_selector=asked["labelSelector"], start=MS["start"], end=MS["end"], max_nodes=16384
    )
    body = message.SerializeToString()
    assert body.startswith(b"\x0a" + bytes([len(CPU)]) + CPU.encode() + b"\x12")
    for content, extra in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
        headers = {"content-type": "application/proto", "connect-protocol-version": "1", **extra}
        answer = client.post(SERVICE + "SelectMergeStacktraces", content=content, headers=headers)
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/proto"
        graph = MESSAGES["SelectMergeStacktracesResponse"].FromString(answer.content).flamegraph
        assert list(graph.names) == as_json["names"] and str(graph.total) == as_json["total"]
        assert [[str(value) for value in level.values] for level in graph.levels] == [
            level["values"] for level in as_json["levels"]
        ]


def test_a_call_site_leaves_the_stacks_that_begin_with_it(client: TestClient) -> None:
    asked: dict[str, Any] = {"profileTypeID": CPU, "labelSelector": '{service_name="checkout"}', **MS}
    for path, samples in ((["shop"], 200), (["shop", "io"], 60), (["shop", "main", "parse"], 140), (["parse"], 0)):
        asked["stackTraceSelector"] = {"callSite": [{"name": name} for name in path]}
        graph = call(client, "SelectMergeStacktraces", asked)["flamegraph"]
        assert int(graph.get("total", 0)) == nanoseconds(samples)


def test_a_whole_profile_is_pprof(client: TestClient) -> None:
    message = MESSAGES["SelectMergeProfileRequest"](
        profile_typeID=CPU, label_selector='{service_name="checkout"}', start=MS["start"], end=MS["end"]
    )
    answer = client.post(
        SERVICE + "SelectMergeProfile",
        content=message.SerializeToString(),
        headers={"content-type": "application/proto"},
    )
    found = Message.FromString(answer.content)
    assert sum(sample.value[1] for sample in found.sample) == nanoseconds(200)
    assert {"parse", "read", "main"} <= set(found.string_table)


def test_stats_say_what_there_is(client: TestClient) -> None:
    found = call(client, "GetProfileStats", {})
    assert found["dataIngested"] is True
    assert int(found["oldestProfileTime"]) == START * 1000
    assert int(found["newestProfileTime"]) == (START + 100) * 1000


# ------------------------------------------------------------------------- bad queries

BAD_SELECTORS = [
    "{",
    "}",
    " service_name",
    '{service_name="x"',
    '{service_name="x}',
    '{service_name=="x"}',
    "{service_name=x}",
    '{service_name="x" host="y"}',
    '{,service_name="x"}',
    '{1a="x"}',
    '{service_name="\\ud800"}',
    '{service_name=~"("}',
    '{service_name=~"' + "(a{1000}){1000}" + '"}',
    '{pid="seven"}',
    '{pid="99999999999"}',
    '{service_name="' + "x" * 20_000 + '"}',
    '{service_name=~"' + "x" * 5_000 + '"}',
    "{" + ",".join(f'l{number}="x"' for number in range(33)) + "}",
    '{a="' + "{" * 5_000 + '"} or {b="c"}',
    '{host="x"} OR 1=1 --',
]


@pytest.mark.parametrize("selector", BAD_SELECTORS)
def test_bad_selectors_are_refused_in_a_sentence(client: TestClient, selector: str) -> None:
    answer = client.get("/pyroscope/render", params={"query": CPU + selector, **RANGE})
    assert answer.status_code == 400 and 10 < len(answer.json()["error"]) < 400
    asked = {"profileTypeID": CPU, "labelSelector": selector, **MS}
    refused = call(client, "SelectMergeStacktraces", asked, 400)
    assert refused["code"] == "invalid_argument" and 10 < len(refused["message"]) < 400
    assert client.get("/pyroscope/label-values", params={"label": "host", "query": selector}).status_code == 400


def test_a_catastrophic_regular_expression_takes_no_time(client: TestClient) -> None:
    selector = '{service_name=~"(a+)+$",process=~"(x|x|x)*y",__name__=~"(.*)*z"}'
    began = time.process_time()
    found = call(client, "SelectMergeStacktraces", {"profileTypeID": CPU, "labelSelector": selector, **MS})
    assert "total" not in found["flamegraph"] and time.process_time() - began < 5


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"query": ""}, "`query` is missing"),
        ({"query": '{host="x"}'}, "names no profile type"),
        ({"query": "cpu{}"}, "is no profile type"),
        ({"query": "x" * 600 + ":a:b:c:d"}, "is no profile type"),
        ({"from": "yesterday"}, "`from` is no time"),
        ({"from": str(START + 300), "until": str(START)}, "must be earlier"),
        ({"from": "-1"}, "`from` is no time"),
        ({"until": "9" * 18}, "`until` is no time"),
        ({"format": "xml"}, "no format 'xml'"),
        ({"maxNodes": "many"}, "maxNodes"),
        ({"maxNodes": "-1"}, "maxNodes"),
        ({"maxNodes": str(1 << 40)}, "maxNodes"),
        ({"aggregation": "median"}, "no aggregation"),
        ({"groupBy": "comm"}, "comm"),
    ],
)
def test_bad_parameters_are_refused_in_a_sentence(client: TestClient, parameters: dict[str, str], said: str) -> None:
    answer = client.get("/pyroscope/render", params={"query": CPU + "{}", **RANGE, **parameters})
    assert answer.status_code == 400 and said in answer.json()["error"], answer.text


def test_ranges_in_the_future_are_empty_and_ten_years_are_answered_or_refused(client: TestClient) -> None:
    future = {"from": str(START + 86400), "until": str(START + 2 * 86400)}
    assert client.get("/pyroscope/render", params={"query": CPU, **future}).json()["flamebearer"]["numTicks"] == 0
    years = {"from": str(START - 10 * 365 * 86400), "until": str(START + 300)}
    answer = client.get("/pyroscope/render", params={"query": CPU, **years})
    assert answer.status_code == 200 and answer.json()["flamebearer"]["numTicks"] == nanoseconds(600)
    asked = {"profileTypeID": CPU, "step": 15, "start": (START - 10 * 365 * 86400) * 1000, "end": MS["end"]}
    assert "points" in call(client, "SelectSeries", asked, 400)["message"]


@pytest.mark.parametrize(
    ("method", "asked", "status", "said"),
    [
        ("SelectMergeStacktraces", {}, 400, "is no profile type"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU, "start": 5, "end": 4}, 400, "must be earlier"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU, "start": -5}, 400, "milliseconds"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU, "maxNodes": -5}, 400, "max_nodes"),
        ("SelectMergeStacktraces", {"profileTypeID": CPU, "format": "PROFILE_FORMAT_TREE"}, 400, "flame graphs"),
        ("SelectMergeStacktraces", {"profileTypeID": 7}, 400, "SelectMergeStacktracesRequest"),
        ("SelectSeries", {"profileTypeID": CPU, "step": -1}, 400, "step"),
        ("SelectSeries", {"profileTypeID": CPU, "step": "NaN"}, 400, "step"),
        ("SelectSeries", {"profileTypeID": CPU, "step": "Infinity"}, 400, "step"),
        ("SelectSeries", {"profileTypeID": CPU, "limit": -1}, 400, "limit"),
        ("SelectSeries", {"profileTypeID": CPU, "aggregation": "TIME_SERIES_AGGREGATION_TYPE_AVERAGE"}, 400, "sums"),
        ("LabelValues", {}, 400, "`name` is missing"),
        ("Diff", {"left": {"profileTypeID": CPU}}, 400, "is no profile type"),
        ("SelectHeatmap", {}, 404, "SelectHeatmap"),
    ],
)
def test_bad_calls_are_refused_in_connects_own_form(
    client: TestClient, method: str, asked: dict[str, Any], status: int, said: str
) -> None:
    refused = call(client, method, asked, status)
    assert said in refused["message"]
    assert refused["code"] == ("unimplemented" if status == 404 else "invalid_argument")


def test_bodies_that_are_too_large_deep_or_of_another_type_are_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    for content, kind, status in (
        (b" " * (1 << 19), headers, 413),
        (gzip.compress(b" " * (1 << 20)), {**headers, "content-encoding": "gzip"}, 413),
        (b"[" * 100_000, headers, 400),
        (b"\xff\xff", {"content-type": "application/proto"}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {**headers, "content-encoding": "br"}, 415),
    ):
        answer = client.post(SERVICE + "LabelNames", content=content, headers=kind)
        assert answer.status_code == status and answer.json()["message"], answer.text


# ------------------------------------------------------------------------------- parts


def test_the_syntax_of_selectors() -> None:
    assert parse_selector("") == parse_selector("{}") == parse_selector(" { } ") == []
    assert parse_selector('{a="x",b!=\'y\',c=~`z\\d`,d!~"",}') == [
        ("a", "=", "x"),
        ("b", "!=", "y"),
        ("c", "=~", "z\\d"),
        ("d", "!~", ""),
    ]
    assert parse_selector(r'{a="\"\\\n\t\x41\u00e9\101"}') == [("a", "=", '"\\\n\tA\u00e9A')]
    assert parse_selector('{a="~x"}') == [("a", "=", "~x")]
    assert parse_query(CPU + '{a="b{}"}') == (CPU, [("a", "=", "b{}")])
    assert parse_query(f'{{__profile_type__="{CPU}",a="b"}}') == (CPU, [("a", "=", "b")])
    with pytest.raises(BadQuery):
        parse_query('{a="b"}')


def test_two_labels_that_would_have_one_name_are_told_apart() -> None:
    names = public_names(["service", "host", "a.b", "a_b", "service_name"])
    assert names["service"] == "service_name" and "service_name" not in names
    assert sorted(names.values()) == ["a_b", "host", "service_name"]
