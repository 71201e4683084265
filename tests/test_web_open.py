"""Files over HTTP: shown on /open, rendered by /api/v1/render, never kept, refused in a sentence if they are none."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from html import unescape
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from profiler.formats.json import read_json, write_json
from profiler.formats.otlp import write_otlp
from profiler.formats.pprof import write_pprof
from profiler.formats.speedscope import write_speedscope
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web import open_file
from web.app import ServerOptions, create_app
from web.flamegraph.rendering import EXTENSIONS
from web.store.store import Store

HOSTILE = "<script>alert('x')</script>\"&;\0"
PERF = b"app 7/7 [000] 1.5: 10101010 cpu-clock:\n\t7f1 leaf+0x1 (/bin/app)\n\t7f2 main+0x2 (/bin/app)\n\n"


def profile(name: str = "leaf") -> Profile:
    stack = (Location(1, Binary("/bin/app", "00ff"), (Frame(name, Kind.NATIVE),)),)
    samples = (Sample(stack, 7, "app", "app", 40),)
    accounting = Accounting(60, 60, 15, 0, 40, {"stack map full": 5}, 40)
    return Profile("web-1", "cpu-clock", 99, Window(10**18, 10**18 + 10**10), samples, accounting)


FILES = {
    "folded": b"app;leaf 40\n",
    "perf script": PERF * 40,
    "pprof": write_pprof(profile()),
    "speedscope": write_speedscope(profile()),
    "JSON": write_json(profile()),
    "OTLP": write_otlp(profile()),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = Store(f"chdb://{tmp_path_factory.mktemp('open')}/store")
    app = create_app(store, ServerOptions(store.url, commit_seconds=0))
    with TestClient(app, "http://127.0.0.1", follow_redirects=False) as client:
        yield client
    store.close()


@pytest.mark.parametrize("name", FILES)
def test_any_file_is_shown_with_its_account_and_picture_and_not_kept(client: TestClient, name: str) -> None:
    answer = client.post("/open", params={"name": f"{name}.x"}, content=FILES[name])
    assert answer.status_code == 200
    assert "<b>40</b> samples" in answer.text and "Where every tick went" in answer.text
    assert '<script href="/static/flamegraph.js"></script>' in answer.text and 'aria-label="Save as"' in answer.text
    assert client.get("/api/v1/hosts").json() == []


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_any_format_is_made_of_a_file(client: TestClient, extension: str) -> None:
    format = extension.removeprefix(".")
    answer = client.post("/api/v1/render", params={"format": format, "title": 'a/b"c'}, content=FILES["JSON"])
    assert answer.status_code == 200 and b"leaf" in (
        gzip.decompress(answer.content) if format == "pb.gz" else answer.content
    )
    if format == "svg":
        ElementTree.fromstring(answer.content)
        assert "content-disposition" not in answer.headers
    else:
        assert answer.headers["content-disposition"] == f'attachment; filename="a-b-c.{format}"'
    if format == "json":
        assert read_json(answer.content) == profile()


def test_a_body_may_be_compressed_twice_over(client: TestClient) -> None:
    body = gzip.compress(gzip.compress(FILES["folded"]))
    answer = client.post("/api/v1/render?format=folded", content=body, headers={"content-encoding": "gzip"})
    assert answer.text == "app;leaf 40\n"


def test_an_event_can_be_chosen_of_several(client: TestClient) -> None:
    text = PERF + PERF.replace(b"cpu-clock", b"page-faults")
    answer = client.post("/open", content=text)
    assert '<option value="cpu-clock" selected>' in answer.text and "page-faults:count" in answer.text
    answer = client.post("/open?event=page-faults:count", content=text)
    assert "<b>10,101,010</b> page-faults" in answer.text
    answer = client.post("/open?event=none", content=text)
    assert answer.status_code == 400 and "there are cpu-clock, page-faults:count." in answer.text


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("folded", []),
        ("perf script", ["pid", "process", "thread"]),
        ("pprof", ["pid", "process", "thread"]),
        ("JSON", ["pid", "process", "thread"]),
        ("OTLP", ["pid", "process", "thread"]),
    ],
)
def test_a_file_is_grouped_by_what_its_samples_have(client: TestClient, name: str, labels: list[str]) -> None:
    page = client.post("/open", content=FILES[name]).text
    offered = re.findall(r'<option value="([^"]*)"', "".join(re.findall(r'<select id="group">.*?</select>', page)))
    assert offered == (["", *labels] if labels else [])
    for path in ("/open", "/api/v1/render"):
        answer = client.post(path, params={"groupBy": "pid"}, content=FILES[name])
        assert answer.status_code == (200 if labels else 400)
        assert ("<title>7 (40 samples, 100.00 %" if labels else "no sample has a label") in unescape(answer.text)
    if labels:
        grouped = client.post("/open", params={"groupBy": "process,pid"}, content=FILES[name]).text
        assert '<option value="process,pid" selected>' in grouped


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("groupBy=host", "no sample has a label 'host' to group by; there are pid, process, thread."),
        ("groupBy=%3Cb%3E", "'<b>' is no label to group by."),
        ("groupBy=pid&format=json", "stacks can be grouped in .svg and .html only."),
    ],
)
def test_what_cannot_be_grouped_is_told(client: TestClient, query: str, said: str) -> None:
    answer = client.post(f"/api/v1/render?{query}", content=FILES["JSON"])
    assert answer.status_code == 400 and answer.json()["error"] == said
    if "format" not in query:
        page = client.post(f"/open?{query}", content=FILES["JSON"])
        assert page.status_code == 400 and said in unescape(page.text) and "<b>" not in page.text


def test_stacks_with_two_counts_are_shown_as_a_difference(client: TestClient) -> None:
    answer = client.post("/api/v1/render", content=b"a;b 100 300\na;c 300 100\n")
    assert b"no significant change" in answer.content and b"before 25.00 %, after 75.00 %" in answer.content
    assert client.post("/open", content=b"a;b 100 300\na;c 300 100\n").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "query", "status", "sentence"),
    [
        (b"", {}, "", 400, "the file is empty."),
        (b"no profile at all\n", {}, "", 400, "no folded stacks found: line 1"),
        (b"PERFILE2" + bytes(50), {}, "", 400, "perf script -i FILE"),
        (write_pprof(profile())[:-9], {}, "", 400, "cut off"),
        (b"no gzip here", {"content-encoding": "gzip"}, "", 400, "not gzip"),
        (b"x", {"content-encoding": "br"}, "", 415, "content-encoding"),
        (b"\x0a" + b"\0" * (open_file.MAX_FILE + 1), {}, "", 413, "more than 33,554,432 bytes"),
        (gzip.compress(bytes(open_file.MAX_FILE + 1)), {"content-encoding": "gzip"}, "", 413, "inflates to more than"),
        (gzip.compress(bytes(open_file.MAX_UNPACKED + 1)), {}, "", 400, "larger than 64 MB when unzipped"),
        (b'{"a":' * 200_000, {}, "", 400, "not JSON"),
        (b"a 1\n", {}, "format=exe", 400, "no format 'exe'; there are svg, html"),
        (b"a 1\n", {}, "format=../../etc/passwd", 400, "no format"),
        (b"a 1\n", {}, "event=x", 400, "there is no event 'x'; there are samples."),
        (b"a 1\n", {}, "format=json&reverse=1", 400, "turned round"),
        (b"a 1\n", {}, "title=" + "x" * 300, 400, "title"),
        (b"a 1\n", {}, "reverse=perhaps", 400, "reverse"),
    ],
)
def test_what_cannot_be_rendered_is_told_in_a_sentence(
    client: TestClient, body: bytes, headers: dict[str, str], query: str, status: int, sentence: str
) -> None:
    answer = client.post(f"/api/v1/render?{query}", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert sentence in answer.json()["error"]
    if not query:
        page = client.post("/open", content=body, headers=headers)
        assert page.status_code == status and sentence in unescape(page.text) and 'role="alert"' in page.text


TIMED = b"".join(b"a 7/7 [000] %d.500000: cpu-clock:\n\t7f f%d+0x1 (/bin/x)\n\n" % (i, i % 2) for i in range(10, 20))


def test_a_part_of_a_files_time_is_shown_and_written_alone(client: TestClient) -> None:
    page = client.post("/open?since=2&until=4.5", content=TIMED)
    assert page.status_code == 200 and "<b>3</b> samples" in page.text and 'id="filemap"' in page.text
    folded = client.post("/api/v1/render?format=folded&since=2&until=4.5", content=TIMED)
    assert sum(int(line.rsplit(" ", 1)[1]) for line in folded.text.splitlines()) == 3
    rest = client.post("/api/v1/render?format=folded&since=4.5", content=TIMED).text
    first = client.post("/api/v1/render?format=folded&until=4.5", content=TIMED).text
    assert sum(int(line.rsplit(" ", 1)[1]) for line in (rest + first).splitlines()) == 10


@pytest.mark.parametrize(
    ("query", "content", "said"),
    [
        ("since=5&until=2", TIMED, "end after its beginning"),
        ("since=500", TIMED, "no sample was taken from 500"),
        ("since=1", b"a;b 3\n", "does not say when its samples were taken"),
    ],
)
def test_a_part_that_is_not_there_is_told(client: TestClient, query: str, content: bytes, said: str) -> None:
    for path in ("/open?", "/api/v1/render?"):
        answer = client.post(path + query, content=content)
        assert answer.status_code == 400 and said in answer.text
    for bad in ("since=-1", "since=x", "until=nan", "until=inf", "until=0"):
        assert 400 <= client.post("/api/v1/render?" + bad, content=TIMED).status_code < 500


@pytest.mark.parametrize("name", FILES)
def test_a_function_of_a_file_is_counted_by_line(client: TestClient, name: str) -> None:
    answer = client.post("/api/v1/render/lines", params={"function": "leaf"}, content=FILES[name])
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["self"], found["total"]) == (40, 40) and [row["total"] for row in found["by_line"]] == [40]


@pytest.mark.parametrize(
    ("query", "content", "status", "said"),
    [
        ({"function": "nobody"}, FILES["folded"], 404, "No function in this profile has that name"),
        ({}, FILES["folded"], 400, "function: "),
        ({"function": "leaf"}, b"", 400, ""),
        ({"function": "leaf", "event": "none"}, FILES["folded"], 400, "none"),
        ({"function": "leaf", "since": 1}, FILES["folded"], 400, ""),
    ],
)
def test_lines_that_a_file_does_not_have_are_told(
    client: TestClient, query: dict[str, str], content: bytes, status: int, said: str
) -> None:
    answer = client.post("/api/v1/render/lines", params=query, content=content)
    assert answer.status_code == status and said in answer.json()["error"], answer.text


def test_names_of_files_and_functions_stay_text(client: TestClient) -> None:
    for body in (write_json(profile(HOSTILE)), write_speedscope(profile(HOSTILE))):
        answer = client.post("/open", params={"name": HOSTILE}, content=body)
        assert answer.status_code == 200 and "<script>alert" not in answer.text and "\0" not in answer.text


def test_bytes_that_are_no_text_are_written_all_the_same(client: TestClient) -> None:
    for extension in EXTENSIONS:
        format = extension.removeprefix(".")
        answer = client.post(f"/api/v1/render?format={format}", content=b"a;\xff\xfe 3\n")
        assert answer.status_code == 200 and answer.content
    assert client.post("/open", content=b"a;\xff\xfe 3\n").status_code == 200


def test_the_page_is_linked_and_says_what_can_be_read(client: TestClient) -> None:
    assert 'href="/open"' in client.get("/").text
    page = client.get("/open").text
    assert "perf script" in page and "32 MB at most" in page


def test_render_is_in_the_api_description(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/api/v1/render"]["post"]
    names = {parameter["name"] for parameter in described["parameters"]}
    assert names == {"format", "event", "title", "reverse", "groupBy", "since", "until"}
    assert json.dumps(described)
