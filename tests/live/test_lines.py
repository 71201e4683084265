"""Lines and inlined functions of programs with debug information, all the way into what people look at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

import profiler.symbols
from profiler.better_names import renamed
from profiler.collector import Collector, Sampling
from profiler.formats.json import read_json
from profiler.model import Profile, Sample
from profiler.sampler import Filters
from profiler.symbols import Symbols
from symbolizer.naming.short_names import short_name
from symbolizer.types import Kind, Location
from tests.live.support import PILOTLIGHT, WORKLOADS, Build, samples_of, total

CHAIN = ["mix", "fold", "work"]


def lines_of(source: Path) -> dict[str, int]:
    """The line of each function that its ticks are on, as a comment there says."""
    found = {}
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if match := re.search(r"the line of (\w+)\(\)", line):
            found[match[1]] = number
    return found


def chains(samples: list[Sample]) -> list[tuple[Sample, list[tuple[str, Kind, str, int]]]]:
    """Samples in mix(), with the frames that it, fold() and work() have: function, kind, file name, line."""
    found = []
    for sample in samples:
        frames = sample.stack[0].frames[-len(CHAIN) :] if sample.stack else ()  # below them, what the library inlines
        shown = [(short_name(f.function).rpartition("::")[2], f.kind, os.path.basename(f.file), f.line) for f in frames]
        if [name for name, *_ in shown] == CHAIN:
            found.append((sample, shown))
    return found


@pytest.fixture(scope="module", params=["c++", "rust"])
def program(request: pytest.FixtureRequest, build: Build) -> Path:
    if request.param == "rust":
        return build("rustc", "inlined.rs", "-O", "-g", to="inlined-rs")
    return build("g++", "inlined.cc", "-O2", "-g", to="inlined-cc")


def test_inlined_functions_have_their_lines_in_every_format(program: Path, tmp_path: Path) -> None:
    source = WORKLOADS / program.name.replace("-", ".")
    names = ("x.json", "x.speedscope.json", "x.pb.gz", "x.svg", "x.folded")
    outputs = [argument for name in names for argument in ("-o", name)]
    done = subprocess.run(
        [PILOTLIGHT, "record", "-F", "499", *outputs, "--", str(program), "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    samples = samples_of(read_json((tmp_path / "x.json").read_bytes()), program.name)
    inlined = chains(samples)
    assert total(sample for sample, _ in inlined) > 0.5 * total(samples) > 12
    expected = lines_of(source)
    for _, frames in inlined:
        assert [kind for _, kind, *_ in frames] == [Kind.INLINED, Kind.INLINED, Kind.NATIVE]
        assert all(file == source.name and line > 0 for *_, file, line in frames)
    # Where a loop's head or its end is, compilers have views of their own: so most, not all.
    for position, name in enumerate(CHAIN):
        on_line = total(sample for sample, frames in inlined if frames[position][3] == expected[name])
        assert on_line > 0.3 * total(sample for sample, _ in inlined), (name, expected)

    speedscope = json.loads((tmp_path / "x.speedscope.json").read_bytes())["shared"]["frames"]
    of_fold = [frame for frame in speedscope if short_name(frame["name"]).rpartition("::")[2] == "fold"]
    assert [(os.path.basename(frame["file"]), frame["line"]) for frame in of_fold] == [(source.name, expected["fold"])]
    top = subprocess.run(
        ["go", "tool", "pprof", "-top", "-lines", "-nodecount=2000", "x.pb.gz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert re.search(rf"\bmix\b.*{re.escape(source.name)}:{expected['mix']}\b", top.stdout), top.stdout[:2000]
    assert re.search(r"fold[^;]*_\[i\];[^;]*mix[^;]*_\[i\] \d+", (tmp_path / "x.folded").read_text())
    assert f"{source.name}:{expected['fold']}" in (tmp_path / "x.svg").read_text()


def test_what_was_collected_before_gets_lines_and_keeps_its_totals(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler.symbols, "cache_folder", lambda: tmp_path / "cache")
    program = build("g++", "inlined.cc", "-O2", "-g", to="inlined-cc")
    process = subprocess.Popen([str(program), "120"], stdout=subprocess.DEVNULL)
    collector = Collector(Sampling(hz=199), Symbols(), filters=Filters(frozenset([process.pid])))
    try:
        collector.attend(1)
        before = collector.collect()
        better: list[Location] = []
        deadline = time.monotonic() + 60
        while not better and time.monotonic() < deadline:
            collector.attend(0.5)
            better += collector.better_names()
        collector.attend(1)
        after = collector.collect()
    finally:
        collector.close()
        process.kill()
        process.wait()

    def in_chain(profile: Profile) -> int:
        return total(sample for sample, _ in chains(list(profile.samples)))

    assert in_chain(before) == 0 < before.accounting.sampled
    assert in_chain(after) > 0
    improved = renamed(before, better)
    assert in_chain(improved) > 0.5 * before.accounting.sampled
    assert [sample.count for sample in improved.samples] == [sample.count for sample in before.samples]
    assert improved.accounting.sampled == before.accounting.sampled and improved.accounting.closes
