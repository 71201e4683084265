"""Readers published on npm take our files: speedscope's schema and its own page, and pprof-format."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from playwright.sync_api import sync_playwright

from profiler.formats.by_extension import WRITERS
from profiler.formats.pprof import write_pprof
from profiler.formats.speedscope import write_speedscope
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from tests.clients.npm import unpacked

SPEEDSCOPE = (
    "speedscope@1.25.0",
    "sha512-cpf9HWTZf1ijLXBJrk87Ve/54tnYx6rlf0gUThvn3ook6h63hLXVOQiMf44PT+XoV503cPfvfiT5gP5vojp6Ag==",
)
PPROF_FORMAT = (
    "pprof-format@2.3.2",
    "sha512-fcMM+sgKMOveSurz7i0BMHfy1hHNnI9+VWjd4kdclqQjSTuiHWaP69DGwvkw3zcLkM/F76LhVIKvPyrxmp6iiw==",
)
NASTY = "<script>alert(1)</script>;\n\x00\u202e\udcff 12"
WINDOW = Window(1_763_683_200_000_000_000, 1_763_683_210_000_000_000)


def location(name: str, kind: Kind, path: str, file: str = "", line: int = 0) -> Location:
    return Location(line + 1, Binary(path, "00ff"), (Frame(name, kind, "", file, line),))


@pytest.fixture(scope="module")
def profile() -> Profile:
    main = location("main", Kind.NATIVE, "/opt/shop", "shop.c", 7)
    read = location("ksys_read", Kind.KERNEL, "[kernel]")
    unknown = Location(9, None, (Frame(NASTY, Kind.INLINED), Frame("[?]", Kind.UNKNOWN, reason=Reason.NO_MAPPING)))
    samples = (
        Sample((main,), 1, "shop", "shop", 30, "checkout", "c" * 64),
        Sample((read, main), 1, "shop", "io", 12),
        Sample((unknown, main), 2, NASTY, NASTY, 5),
        Sample((read, main), 3, "shop", "io", 1),
        Sample((), 4, "idle", "idle", 2),
    )
    return Profile("web-1", "cpu-clock", 99, WINDOW, samples, Accounting(60, 58, 8, 0, 50), {"env": NASTY})


EMPTY = Profile("web-1", "cpu-clock", 99, WINDOW, (), Accounting())


def test_speedscope_files_match_the_published_schema(profile: Profile) -> None:
    path = unpacked(*SPEEDSCOPE) / "dist" / "release" / "file-format-schema.json"
    schema = json.loads(path.read_bytes())
    for written in (profile, EMPTY):
        document = json.loads(write_speedscope(written))
        jsonschema.validate(document, schema)
        (sampled,) = document["profiles"]
        assert len(sampled["samples"]) == len(sampled["weights"])
        assert sum(sampled["weights"]) == sampled["endValue"] == written.accounting.sampled
        assert document["pilotlight"]["accounting"]["sampled"] == written.accounting.sampled
        frames = len(document["shared"]["frames"])
        assert all(0 <= frame < frames for stack in sampled["samples"] for frame in stack)


def test_speedscope_stacks_are_merged_and_in_the_order_of_their_names(profile: Profile) -> None:
    document = json.loads(write_speedscope(profile))
    names = [frame["name"] for frame in document["shared"]["frames"]]
    (sampled,) = document["profiles"]
    stacks = [[names[frame] for frame in stack] for stack in sampled["samples"]]
    assert stacks == sorted(stacks)
    assert dict(zip(map(tuple, stacks), sampled["weights"], strict=True)) == {
        ("shop", "main"): 30,
        ("shop", "io", "main", "ksys_read"): 13,
        (NASTY, "main", "[?]", NASTY): 5,
        ("idle",): 2,
    }
    assert {"name": "main", "file": "shop.c", "line": 7} in document["shared"]["frames"]


@pytest.fixture
def site(tmp_path: Path, profile: Profile) -> Iterator[str]:
    """speedscope's own viewer, and the profile in each format, on an HTTP server."""
    viewer = unpacked(*SPEEDSCOPE) / "dist" / "release"
    for extension, write in WRITERS.items():
        (tmp_path / f"x{extension}").write_bytes(write(profile))

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            name = path.partition("?")[0].lstrip("/") or "index.html"
            return str(tmp_path / name if name.startswith("x.") else viewer / name)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("extension", "main", "read"),
    [
        (".speedscope.json", ["48 (96%)", "30 (60%)", "main"], ["13 (26%)", "13 (26%)", "ksys_read"]),
        (".folded", ["48 (96%)", "30 (60%)", "main"], ["13 (26%)", "13 (26%)", "ksys_read_[k]"]),
        (
            ".pb.gz",
            ["484.85ms (96%)", "303.03ms (60%)", "main"],
            ["131.31ms (26%)", "131.31ms (26%)", "ksys_read"],
        ),
    ],
)
def test_speedscope_itself_opens_the_file_and_counts_the_same(
    site: str, extension: str, main: list[str], read: list[str]
) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[object] = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"{site}/#profileURL={site}/x{extension}")
        page.get_by_text("Sandwich").click()
        page.get_by_text("ksys_read").first.wait_for()
        rows = [row.inner_text().split("\n\t") for row in page.locator("tr").all()]
        browser.close()
    assert main in rows
    assert read in rows
    assert not errors


def test_pprof_format_decodes_the_same_numbers_and_names(profile: Profile, tmp_path: Path) -> None:
    module = unpacked(*PPROF_FORMAT) / "dist" / "commonjs" / "index.js"
    file = tmp_path / "x.pb.gz"
    file.write_bytes(write_pprof(profile))
    script = """
        const {Profile} = require(process.argv[1]);
        const data = require("zlib").gunzipSync(require("fs").readFileSync(process.argv[2]));
        const profile = Profile.decode(data);
        const text = index => profile.stringTable.strings[Number(index)];
        console.log(JSON.stringify({
            types: profile.sampleType.map(type => [text(type.type), text(type.unit)]),
            values: profile.sample.map(sample => sample.value.map(Number)),
            labels: profile.sample.map(sample => sample.label.map(
                label => [text(label.key), text(label.str) || Number(label.num)])),
            functions: profile.function.map(f => text(f.name)),
            mappings: profile.mapping.map(m => [text(m.filename), text(m.buildId), m.hasFunctions]),
            duration: Number(profile.durationNanos),
            time: String(profile.timeNanos),
            comments: profile.comment.map(text),
        }));
    """
    ran = subprocess.run(
        ["node", "-e", script, str(module), str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(ran.stdout)
    assert found["types"] == [["samples", "count"], ["cpu", "nanoseconds"]]
    assert sum(count for count, _ in found["values"]) == profile.accounting.sampled
    assert sum(nanoseconds for _, nanoseconds in found["values"]) == round(50 * 1e9 / 99)
    assert ["service", "checkout"] in found["labels"][0]
    assert ["pid", 4] in found["labels"][4]
    nasty = NASTY.replace("\udcff", "\\udcff")
    assert found["functions"] == ["main", "ksys_read", nasty, "[?]", "[no stack]"]
    assert found["mappings"] == [["/opt/shop", "00ff", True], ["[kernel]", "00ff", True]]
    assert (found["time"], found["duration"]) == (str(WINDOW.start_ns), 10**10)
    assert "50 shown" in found["comments"][1]
