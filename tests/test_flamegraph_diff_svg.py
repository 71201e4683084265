"""The picture of a difference: colours only where significant, words of both sides, inert whatever the names."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from web.flamegraph import layout
from web.flamegraph.diff import build_diff
from web.flamegraph.diff_svg import WIDTHS, changes, write_diff_svg
from web.flamegraph.svg import Caption

SVG = "{http://www.w3.org/2000/svg}"


def table_of(stacks: list[tuple[str, int]]) -> StackTable:
    names = list(dict.fromkeys(name for stack, _ in stacks for name in stack.split(";")))
    index = [names.index(name) for stack, _ in stacks for name in stack.split(";")]
    return StackTable(
        [Frame(name, Kind.NATIVE) for name in names],
        [""] * len(names),
        np.array(index, np.uint32),
        np.concatenate(([0], np.cumsum([stack.count(";") + 1 for stack, _ in stacks]))).astype(np.int64),
        np.array([count for _, count in stacks], np.int64),
    )


BEFORE = table_of([("main;grows", 100), ("main;shrinks", 500), ("main;gone", 200), ("main;same", 1200)])
AFTER = table_of([("main;grows", 600), ("main;shrinks", 150), ("main;new", 50), ("main;same", 1200)])
CAPTION = Caption("before and after")


def boxes(svg: bytes) -> dict[str, tuple[str, str]]:
    """By function, the colour and the words of each frame in the static picture."""
    root = ElementTree.fromstring(svg)
    found = {}
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text:
            name, _, words = title.text.partition("\n")[0].partition(" (")
            found[name] = (rect.get("fill", ""), words.removesuffix(")"))
    return found


def test_what_grew_is_red_what_shrank_blue_and_nothing_else_is_coloured() -> None:
    found = boxes(write_diff_svg(build_diff(BEFORE, AFTER), CAPTION))
    assert found["grows"][0] in layout.GREW and found["new"][0] == layout.GREW[3]
    assert found["shrinks"][0] in layout.SHRANK
    assert found["same"][0] == found["main"][0] == found["all"][0] == layout.UNCHANGED
    assert "gone" not in found  # it has no width after; the viewer shows it when told to


def test_words_are_of_both_sides() -> None:
    found = boxes(write_diff_svg(build_diff(BEFORE, AFTER), CAPTION))
    assert found["grows"][1] == "before 5.00 %, after 30.00 %, +25.00 points; 100 and 600 samples"
    assert found["same"][1].endswith("no significant change")
    found = boxes(write_diff_svg(build_diff(BEFORE, AFTER), CAPTION, absolute=True))
    assert found["shrinks"][1] == "before 500, after 150 samples, \u2212350, \u221270.0 %"
    assert found["new"][1] == "before 0, after 50 samples, +50"


def test_shades_are_steps_of_the_relative_change() -> None:
    before = table_of([("a", 100_000), ("b", 100_000), ("c", 100_000), ("d", 100_000), ("gone", 10_000)])
    after = table_of([("a", 105_000), ("b", 120_000), ("c", 145_000), ("d", 250_000)])
    tree = build_diff(before, after)
    names = [tree.frames[i].function for i in tree.frame.tolist()]
    found = dict(zip(names, changes(tree, absolute=True).tolist(), strict=True))
    assert found == {"all": 3, "a": 1, "b": 2, "c": 3, "d": 4, "gone": -4}


def test_the_data_holds_both_sides_whole() -> None:
    svg = write_diff_svg(build_diff(BEFORE, AFTER), CAPTION)
    match = re.search(rb'<metadata id="fg-data">(.*?)</metadata>', svg, re.S)
    assert match
    data = json.loads(match[1])
    assert sum(data["own"]) == 2000 and sum(data["diff"]["beforeOwn"]) == 2000
    assert len(data["diff"]["beforeOwn"]) == len(data["own"]) == 7


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "]]>", "\x00\x1b[31m", "\u202egnp", "a" * 100_000])
def test_hostile_names_stay_text(name: str) -> None:
    table = table_of([(name, 10)])
    svg = write_diff_svg(build_diff(table, table), CAPTION)
    scripts = ElementTree.fromstring(svg).findall(f".//{SVG}script")
    assert len(scripts) == 1 and b"<script>alert" not in svg
    assert len(svg) < 200_000


def test_two_empty_profiles_make_an_empty_picture() -> None:
    assert list(boxes(write_diff_svg(build_diff(table_of([]), table_of([])), CAPTION))) == ["all"]


def widths(svg: bytes) -> dict[str, float]:
    """By function, the share of the picture's width that the frames of the static picture have."""
    found: dict[str, float] = {}
    for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text:
            name = title.text.partition(" (")[0]
            found[name] = found.get(name, 0.0) + float(rect.get("width", "0"))
    return {name: width / found["all"] for name, width in found.items()}


def test_frames_are_as_wide_as_before_after_or_both() -> None:
    tree = build_diff(BEFORE, AFTER)
    after, before, both = (widths(write_diff_svg(tree, CAPTION, width=width)) for width in WIDTHS)
    assert "gone" not in after and "new" not in before
    assert after["same"] == pytest.approx(0.6, abs=0.002) == before["same"]
    assert before["gone"] == pytest.approx(0.1, abs=0.002)
    # What vanished, a tenth of what was before, is beside all that is after.
    assert both["gone"] == pytest.approx(0.1 / 1.1, abs=0.002)
    assert both["grows"] == pytest.approx(0.3 / 1.1, abs=0.002)
    assert sum(share for name, share in both.items() if name not in ("all", "main")) == pytest.approx(1, abs=0.01)


def test_a_union_of_sides_that_differ_much_in_size_keeps_their_shares() -> None:
    few, many = table_of([("main;kept", 1), ("main;gone", 1)]), table_of([("main;kept", 10**12)])
    for absolute in (False, True):
        forth = widths(write_diff_svg(build_diff(few, many), CAPTION, width="union", absolute=absolute))
        assert forth.get("gone", 0.0) == pytest.approx(0 if absolute else 0.5 / 1.5, abs=0.002)
        back = widths(write_diff_svg(build_diff(many, few), CAPTION, width="union", absolute=absolute))
        assert back["kept"] == pytest.approx(0.5, abs=0.002)
