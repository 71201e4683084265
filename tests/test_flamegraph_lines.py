"""Source lines on their way from locations into pictures and exports: one box a function, its heaviest line kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.formats.pprof import write_pprof
from profiler.formats.pprof_read import read_pprof
from profiler.formats.speedscope import write_speedscope
from profiler.model import Accounting, NumberedFrames, Profile, Sample, StackTable, Window, functions_of, stack_table
from symbolizer.types import Binary, Frame, Kind, Location
from web.flamegraph.calltree import build_tree, prune
from web.flamegraph.svg import Caption, write_svg
from web.store.ragged import Ragged, csr
from web.store.stackcache import Stacks
from web.store.stacks import table_of
from web.store.sums import Sums

APP = Binary("/opt/shop", "00ff")
PUSH = "std::vector<int, std::allocator<int>>::push_back(int&&)"


def at(line: int, inlined_line: int = 0, binary: Binary = APP) -> Location:
    """An address in fill(), on one of its lines, with push_back() inlined there or not."""
    fill = Frame("fill(int)", Kind.NATIVE, "_Z4filli", "fill.cc", line)
    inlined = (Frame(PUSH, Kind.INLINED, "", "stl_vector.h", inlined_line),) if inlined_line else ()
    return Location(1000 * line + inlined_line, binary, (*inlined, fill))


MAIN = Location(1, APP, (Frame("main", Kind.NATIVE, "", "main.cc", 7),))
SAMPLES = (
    Sample((at(10), MAIN), 1, "shop", "shop", 3),
    Sample((at(20, 95), MAIN), 1, "shop", "shop", 4),
    Sample((at(20, 96), MAIN), 1, "shop", "shop", 5),
    Sample((at(30), MAIN), 1, "shop", "shop", 6),
    Sample((at(0), MAIN), 1, "shop", "shop", 100),
)
PROFILE = Profile("h", "cpu-clock", 99, Window(0, 10**10), SAMPLES, Accounting(118, 118, 0, 0, 118))


def stored(profile: Profile) -> StackTable:
    """The same table as the store makes it, of arrays."""
    locations = list(dict.fromkeys(location for sample in profile.samples for location in sample.stack))
    numbered = NumberedFrames()
    numbers = [[numbered.number(frame, APP.path) for frame in reversed(place.frames)] for place in locations]
    of = [
        [number for place in reversed(sample.stack) for number in numbers[locations.index(place)]]
        for sample in profile.samples
    ]
    ids = np.arange(len(profile.samples), dtype=np.uint64)
    stacks = Stacks(
        ids,
        np.arange(len(ids)),
        rows([[locations.index(place) for place in sample.stack] for sample in profile.samples]),
        rows(of),
        locations,
        numbered.frames,
        numbered.binaries,
        NONE,
        [],
        [],
        NONE.astype(np.int8),
        NONE,
        NONE.astype(np.uint64),
    )
    counts = np.array([sample.count for sample in profile.samples])
    none = np.zeros(len(ids), np.int64)
    return table_of(Sums([("shop", "shop")], none, none, ids, counts), stacks)


NONE = np.empty(0, np.int32)


def rows(numbers: list[list[int]]) -> Ragged:
    lengths = np.array([len(row) for row in numbers])
    return Ragged(np.array([n for row in numbers for n in row], np.int32), csr(lengths)[:-1], lengths)


def from_pprof(profile: Profile) -> StackTable:
    return stack_table(read_pprof(write_pprof(profile)).profiles[0])


SOURCES = [stack_table, stored, from_pprof]


@pytest.mark.parametrize("source", SOURCES)
def test_a_function_is_one_box_with_the_line_that_most_ticks_were_on(source: Callable[[Profile], StackTable]) -> None:
    tree = build_tree(source(PROFILE))
    found = {
        tree.frames[i].function: (tree.frames[i].file, tree.frames[i].line, tree.other_lines[i], total)
        for i, total in zip(tree.frame.tolist(), tree.total.tolist(), strict=True)
    }
    assert len(tree) == len(found) == 5
    assert found == {
        "all": ("", 0, 0, 118),
        "shop": ("", 0, 0, 118),
        "main": ("main.cc", 7, 0, 118),
        "fill(int)": ("fill.cc", 20, 2, 118),  # 9 ticks; no line is known for 100
        PUSH: ("stl_vector.h", 96, 1, 9),
    }


@pytest.mark.parametrize("source", SOURCES)
def test_a_table_keeps_every_line(source: Callable[[Profile], StackTable]) -> None:
    table = source(PROFILE)
    lines = {(frame.function, frame.line) for frame in table.frames if frame.file}
    assert lines >= {("main", 7), ("fill(int)", 10), ("fill(int)", 20), ("fill(int)", 30), (PUSH, 95), (PUSH, 96)}


def test_lines_of_another_binary_or_kind_count_apart() -> None:
    other = Binary("/opt/other", "11")
    samples = (Sample((at(10), at(20, binary=other)), 1, "p", "p", 1), Sample((at(30),), 1, "p", "p", 5))
    functions = functions_of(stack_table(Profile("h", "e", 1, Window(0, 1), samples, Accounting())))
    found = {
        (path, frame.line, others)
        for frame, path, others in zip(functions.frames, functions.binaries, functions.other_lines, strict=True)
        if frame.line
    }
    assert found == {("/opt/shop", 30, 1), ("/opt/other", 20, 0)}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=30))
def test_the_line_kept_is_the_heaviest_whatever_the_order(ticks: list[tuple[int, int]]) -> None:
    samples = tuple(Sample((at(line),), 1, "p", "p", count) for line, count in ticks)
    functions = functions_of(stack_table(Profile("h", "e", 1, Window(0, 1), samples, Accounting())))
    weights = {line: sum(n for other, n in ticks if other == line) for line, _ in ticks if line}
    (kept,) = (i for i, frame in enumerate(functions.frames) if frame.function == "fill(int)")
    line = functions.frames[kept].line
    assert weights.get(line, 0) == max(weights.values(), default=0)
    assert functions.other_lines[kept] == max(len(weights) - 1, 0)


def test_pruned_frames_keep_their_lines_apart() -> None:
    tree = build_tree(stack_table(PROFILE))
    pruned = prune(tree, 4)
    assert len(pruned.other_lines) == len(pruned.frames) == len(pruned.binaries)
    assert pruned.other_lines[: pruned.elided] == tree.other_lines


def picture(profile: Profile) -> tuple[dict[str, str], list[str], dict[str, Any]]:
    """(origins by full name, labels in boxes, data) of a static picture."""
    root = ElementTree.fromstring(write_svg(build_tree(stack_table(profile)), Caption("t"), script_href="x.js"))
    svg = "{http://www.w3.org/2000/svg}"
    frames = root.find(f"{svg}g[@id='fg-frames']")
    assert frames is not None
    titles = [(title.text or "").split("\n") for title in frames.iter(f"{svg}title")]
    labels = [text.text or "" for text in frames.iter(f"{svg}text")]
    return {name.rsplit(" (", 1)[0]: origin for name, origin in titles}, labels, json.loads(root[-2].text or "")


def test_the_static_picture_shows_short_names_and_tells_full_ones_with_their_lines() -> None:
    origins, labels, data = picture(PROFILE)
    assert origins[PUSH] == "inlined into fill · /opt/shop · stl_vector.h:96 and 1 other line"
    assert origins["fill(int)"] == "native · /opt/shop · fill.cc:20 and 2 other lines"
    assert origins["main"] == "native · /opt/shop · main.cc:7"
    assert origins["shop"] == "process"
    assert labels == ["all", "shop", "main", "fill", "std::vector…"]  # the last box is narrow
    shown = dict(zip(data["frames"]["name"], data["frames"]["shown"], strict=True))
    assert shown == {"all": "", "shop": "", "main": "", "fill(int)": "fill", PUSH: "std::vector<…>::push_back"}


def test_names_of_processes_and_of_runtimes_are_not_shortened() -> None:
    name = "f<a>(b)"
    kinds = (Kind.JIT, Kind.PYTHON, Kind.BPF)
    stack = tuple(Location(i, None, (Frame(name, kind),)) for i, kind in enumerate(kinds))
    profile = Profile("h", "e", 1, Window(0, 1), (Sample(stack, 1, name, name, 1),), Accounting())
    _, labels, data = picture(profile)
    assert labels == ["all", name, name, name, name]
    assert set(data["frames"]["shown"]) == {""}


def test_an_inlined_frame_that_stands_on_no_function_says_no_more_than_that() -> None:
    stack = (Location(1, None, (Frame("f", Kind.INLINED),)),)
    origins, _, _ = picture(Profile("h", "e", 1, Window(0, 1), (Sample(stack, 1, "p", "p", 1),), Accounting()))
    assert origins["f"] == "inlined"


def test_speedscope_has_a_frame_for_each_function_with_its_file_and_line() -> None:
    document = json.loads(write_speedscope(PROFILE))
    frames = document["shared"]["frames"]
    assert sorted(frames, key=lambda frame: str(frame["name"])) == [
        {"name": "fill(int)", "file": "fill.cc", "line": 20},
        {"name": "main", "file": "main.cc", "line": 7},
        {"name": "shop"},
        {"name": PUSH, "file": "stl_vector.h", "line": 96},
    ]
    (sampled,) = document["profiles"]
    stacks = {
        tuple(frames[i]["name"] for i in stack): n
        for stack, n in zip(sampled["samples"], sampled["weights"], strict=True)
    }
    assert stacks == {("shop", "main", "fill(int)"): 109, ("shop", "main", "fill(int)", PUSH): 9}
