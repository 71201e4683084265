"""Pictures of captures: grouped by labels of samples, what they fold away, and their functions and lines; each exactly
as the history has it of the same profile."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from profiler.formats.json import write_json
from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.app import ServerOptions, create_app
from web.store import captures as stored
from web.store.captures import Capture, State
from web.store.store import Store

HOSTILE = "<i>&'\"\0"
BINARY = Binary("/opt/shop", "00ff")


def at(number: int, name: str, line: int = 0) -> Location:
    return Location(number, BINARY, (Frame(name, Kind.NATIVE, "", "shop.c" if line else "", line),))


MAIN, SUM, SUM_AGAIN, READ = at(1, "main", 5), at(2, "sum", 10), at(3, "sum", 12), at(4, "read")
SAMPLES = (
    Sample((SUM, MAIN), 11, "shop", "shop", 50, "checkout", "c1", "big"),
    Sample((READ, SUM_AGAIN, SUM, MAIN), 11, "shop", "worker", 30, "checkout", "c1"),
    Sample((READ, MAIN), 12, "shop", "shop", 20, "checkout", cpu_kind="little <i>"),
    Sample((SUM_AGAIN,), 13, HOSTILE, HOSTILE, 7),
    Sample((), 14, "idler", "idler", 3),
)
WHOLE = sum(sample.count for sample in SAMPLES)


def profile_at(start: int, samples: tuple[Sample, ...] = SAMPLES) -> Profile:
    whole = sum(sample.count for sample in samples)
    accounting = Accounting(whole + 5, whole + 5, 5, 0, whole, {}, 2 * whole)
    return Profile("web-1", "cpu-clock", 99, Window(start * 10**9, (start + 10) * 10**9), samples, accounting)


@dataclass(slots=True)
class World:
    """A server with one profile twice: as a capture, and as the one window of the history, from `start` on."""

    client: TestClient
    store: Store
    start: int
    capture: str = ""

    def keep(self, held: Profile, id: str) -> str:
        stored.save_profile(self.store, id, held)
        capture = Capture(id, "", "web-1", "cpu-clock", 10, 0, (), (), time.time(), State.DONE, profiled=True)
        stored.save(self.store, capture)
        return id

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        answer = self.client.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer

    def of_history(self, path: str, **query: Any) -> Any:
        return self.get(path, **{"from": self.start, "until": self.start + 10, **query})

    def of_capture(self, extension: str = "", status: int = 200, **query: Any) -> Any:
        return self.get(f"/captures/{self.capture}{extension}", status, **query)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('pictures')}/store")
    with TestClient(create_app(store, ServerOptions(store.url, commit_seconds=0)), "http://127.0.0.1") as client:
        world = World(client, store, int(time.time()) // 10 * 10 - 300)
        held = profile_at(world.start)
        headers = {"content-type": "application/x-protobuf"}
        body = write_otlp(held, PushIdentity("agent", 1, 1))
        assert client.post("/v1development/profiles", content=body, headers=headers).status_code == 200
        world.capture = world.keep(held, "0123456789abcdef")
        yield world
    store.close()


def data_of(svg: str) -> dict[str, Any]:
    (data,) = (e.text for e in ElementTree.fromstring(svg).iter() if e.get("id") == "fg-data")
    found: dict[str, Any] = json.loads(data or "")
    return found


def drawn(svg: str) -> dict[str, Any]:
    """What a picture draws: its tree, with what its frames look like."""
    return {name: data_of(svg)[name] for name in ("children", "own", "frame", "frames", "kinds", "strings", "elided")}


def below_root(svg: str) -> dict[str, int]:
    """The weights of the frames at the root."""
    data = data_of(svg)
    parents, total = [-1], list(data["own"])
    for node, count in enumerate(data["children"]):
        parents += [node] * count
    for node in range(len(total) - 1, 0, -1):
        total[parents[node]] += total[node]
    names = data["frames"]["name"]
    return {names[data["frame"][node]]: total[node] for node, parent in enumerate(parents) if parent == 0}


@pytest.mark.parametrize(
    "group_by", ["", "process", "thread", "pid", "service", "container", "cpu_kind", "service,pid"]
)
def test_a_capture_is_drawn_and_grouped_as_the_history_is(world: World, group_by: str) -> None:
    captured = world.of_capture(".svg", groupBy=group_by).text
    history = world.of_history("/flamegraph.svg", host="web-1", groupBy=group_by).text
    assert drawn(captured) == drawn(history)


@pytest.mark.parametrize("label", ["pid", "process", "service", "container", "thread", "cpu_kind"])
def test_stacks_stand_on_the_values_of_the_label(world: World, label: str) -> None:
    weights = Counter[str]()
    for sample in SAMPLES:
        weights[str(getattr(sample, label)) or "(none)"] += sample.count
    found = below_root(world.of_capture(".svg", groupBy=label).text)
    assert found == {name.replace("\0", "\u2400"): count for name, count in weights.items()}


@pytest.mark.parametrize(
    ("group_by", "sentence"),
    [
        (
            "nothing",
            "no sample has a label 'nothing' to group by; there are service, container, pid, process, thread, cpu_kind",
        ),
        ("comm", "comm is the name of a process or of a thread: group by process, or by thread"),
        ("host", "no sample has a label 'host'"),
        ("a,b,c,d,e", "more than 4 labels to group by"),
        ("<b>", "'<b>' is no label to group by"),
    ],
)
def test_a_label_that_samples_do_not_have_is_a_400_with_one_sentence(
    world: World, group_by: str, sentence: str
) -> None:
    assert world.of_capture(".svg", 400, groupBy=group_by).json()["error"].startswith(sentence)
    asked = {"below": "0-0123456789abcdef", "lighter": 5, "groupBy": group_by}
    assert world.of_capture("/below.json", 400, **asked).json()["error"].startswith(sentence)
    page = world.of_capture("", 400, groupBy=group_by).text
    assert sentence in unescape(page) and "<b>" not in page


def test_only_labels_that_its_samples_have_are_offered(world: World) -> None:
    def offered(page: str) -> list[str]:
        select = re.findall(r'<select name="groupBy">(.*?)</select>', page, re.DOTALL)[0]
        return [value + ("*" if more else "") for value, more in re.findall(r'value="([^"]*)"( selected)?', select)]

    labels = ["service", "container", "pid", "process", "thread", "cpu_kind"]
    assert offered(world.of_capture().text) == ["*", *labels]
    page = world.of_capture("", groupBy="pid,thread").text
    assert offered(page) == ["", *labels, "pid,thread*"]
    plain = world.keep(profile_at(world.start, (Sample((SUM,), 3, "shop", "shop", 5),)), "00000000deadbeef")
    assert offered(world.get(f"/captures/{plain}").text) == ["*", "pid", "process", "thread"]
    assert below_root(world.get(f"/captures/{plain}.svg", groupBy="service").text) == {"(none)": 5}  # as of the history


def test_what_a_page_leads_to_is_grouped_as_it_is(world: World) -> None:
    page = unescape(world.of_capture("", groupBy="service,pid").text)
    address = f"/captures/{world.capture}"
    for href in (
        f'src="{address}.svg?groupBy=service,pid"',
        f'href="{address}.svg?groupBy=service,pid&download=1"',
        f'value="http://127.0.0.1{address}?groupBy=service,pid"',
        f"{address}.json?groupBy=service,pid' | pilotlight render - --group-by service,pid -o flamegraph.svg",
    ):
        assert href in page, href
    saved = world.of_capture(".svg", groupBy="service,pid", download=1)
    assert drawn(saved.text) == drawn(world.of_capture(".svg", groupBy="service,pid").text)
    assert "attachment" in saved.headers["content-disposition"] and data_of(saved.text)["source"] == ""
    # What is no picture has all labels of every sample anyway.
    assert world.of_capture(".json", groupBy="service").content == write_json(profile_at(world.start))
    history = unescape(world.of_history("/flamegraph", groupBy="process").text)
    assert "pilotlight render - --group-by process -o" in history
    assert "pilotlight render - -o" in unescape(world.of_history("/flamegraph", groupBy="host").text)


def test_names_that_samples_bring_are_text(world: World) -> None:
    for group_by in ("", "process"):
        assert "<i>" not in world.of_capture(".svg", groupBy=group_by).text
        assert "<i>" not in world.of_capture("", groupBy=group_by).text


@pytest.mark.parametrize("query", [{}, {"sort": "total"}, {"limit": 2}, {"values": "cpu-seconds"}])
def test_functions_are_those_that_the_history_has(world: World, query: dict[str, Any]) -> None:
    captured = world.get(f"/api/v1/captures/{world.capture}/top", **query).json()
    history = world.of_history("/api/v1/top", **query).json()
    assert captured["functions"] == 3 and {**captured, "q": history["q"]} == history
    if not query:
        assert [(row["function"], row["self"], row["total"]) for row in captured["top"]] == [
            ("sum", 57, 87),
            ("read", 50, 50),
            ("main", 0, 100),
        ]


@pytest.mark.parametrize(("function", "names"), [("A", ["read", "main"]), ("~^[rs]", ["sum", "read"]), ("zzz", [])])
def test_functions_are_filtered_as_those_of_the_history_are(world: World, function: str, names: list[str]) -> None:
    captured = world.get(f"/api/v1/captures/{world.capture}/top", function=function).json()
    history = world.of_history("/api/v1/top", function=function).json()
    assert {**captured, "q": history["q"]} == history
    assert [row["function"] for row in captured["top"]] == names and captured["functions"] == len(names)


@pytest.mark.parametrize(("function", "said"), [("~(", "not a regular expression"), (" ", "`function` is empty")])
def test_an_expression_that_is_none_is_told(world: World, function: str, said: str) -> None:
    answer = world.get(f"/api/v1/captures/{world.capture}/top", 400, function=function).json()
    assert said in answer["error"]


@pytest.mark.parametrize("query", [{"function": "sum"}, {"function": "read", "kind": "native", "binary": "/opt/shop"}])
def test_lines_are_those_that_the_history_has(world: World, query: dict[str, Any]) -> None:
    captured = world.get(f"/api/v1/captures/{world.capture}/lines", **query).json()
    history = world.of_history("/api/v1/lines", **query).json()
    assert {**captured, "q": history["q"]} == history and captured["by_line"]


def test_what_is_not_there_is_said(world: World) -> None:
    for question in ("top", "lines"):
        answer = world.get(f"/api/v1/captures/none/{question}", 404, function="sum").json()
        assert "no such capture" in answer["error"]
    lines = f"/api/v1/captures/{world.capture}/lines"
    assert "No function in this profile" in world.get(lines, 404, function="nobody").json()["error"]
    assert world.get(lines, 400).json()["error"].startswith("function: ")
    asked: dict[str, Any] = {"below": "2-0123456789abcdef", "lighter": 5}
    assert "reload the picture" in world.of_capture("/below.json", 404, **asked).json()["error"]
    assert "no such capture" in world.get("/captures/none/below.json", 404, **asked).json()["error"]
    world.of_capture("/below.json", 400, **asked | {"lighter": 0})
    world.get("/diff/below.json", 400, **asked | {"lighter": "nan"})


def test_the_page_of_a_capture_without_anything_has_no_tables(world: World) -> None:
    capture = Capture("00000000000000aa", "", "web-1", "cpu-clock", 10, 0, (), (), time.time(), State.EXPIRED)
    stored.save(world.store, capture)
    page = world.get(f"/captures/{capture.id}", groupBy="process").text
    assert "functions-table" not in page and "groupBy" not in page
    assert 'id="functions-table"' in world.of_capture().text
    assert f'data-lines="/api/v1/captures/{world.capture}/lines"' in world.of_capture().text
