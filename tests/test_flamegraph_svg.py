"""The SVG as a file: well-formed and inert whatever the names, exact, and with a picture in the markup."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.model import StackTable
from symbolizer.types import Frame, Kind, Reason
from web.flamegraph import layout
from web.flamegraph.calltree import build_tree, prune
from web.flamegraph.names import LONGEST_NAME, shade, visible
from web.flamegraph.svg import Caption, write_svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "</metadata></svg><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "&amp;&lt;&#0;",
    "nul\x00 bell\x07 escape\x1b[31m delete\x7f",
    "newline\nreturn\rtab\t",
    "surrogate\ud800 other\udfff",
    "not a character\ufffe\uffff \U0001ffff",
    "bidi\u202egnp.exe\u2066 zero\u200bwidth\ufeff",
    "line\u2028separator\x85next",
    "日本語の関数",
    "",
    " ",
]


def table_of(*stacks: tuple[list[Frame], int]) -> StackTable:
    frames: dict[Frame, int] = {}
    index = [frames.setdefault(frame, len(frames)) for stack, _ in stacks for frame in stack]
    return StackTable(
        list(frames),
        ["/usr/lib/libx.so"] * len(frames),
        np.array(index, np.uint32),
        np.concatenate(([0], np.cumsum([len(stack) for stack, _ in stacks]))).astype(np.int64),
        np.array([count for _, count in stacks], np.int64),
    )


def parse(svg: bytes) -> tuple[ElementTree.Element, dict[str, Any]]:
    root = ElementTree.fromstring(svg)
    data = root.find(f"{SVG}metadata")
    assert data is not None and data.text is not None
    return root, json.loads(data.text)


def native(*names: str) -> list[Frame]:
    return [Frame(name, Kind.NATIVE) for name in names]


def titles(root: ElementTree.Element) -> list[str]:
    frames = root.find(f"{SVG}g[@id='fg-frames']")
    assert frames is not None
    return [title.text or "" for title in frames.iter(f"{SVG}title")]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_and_nothing_else(name: str) -> None:
    table = table_of(([Frame(name, Kind.NATIVE, "", name, 3)], 5))
    table.binaries[0] = name
    caption = Caption(name, name, (name,), name or "samples")
    root, data = parse(write_svg(build_tree(table), caption, script_href="/x.js"))
    assert [s.get("href") for s in root.iter(f"{SVG}script")] == ["/x.js"]
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        "svg", "title", "defs", "linearGradient", "stop", "rect", "g", "text", "metadata", "script"
    }  # fmt: skip
    assert all(not key.startswith("on") and key != "style" for e in root.iter() for key in e.keys())
    assert visible(name) in data["frames"]["name"]


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_name_gives_well_formed_xml_with_only_visible_characters(name: str) -> None:
    shown = visible(name)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    root, data = parse(write_svg(build_tree(table_of((native(name), 1))), Caption(name)))
    assert shown in data["frames"]["name"]
    assert titles(root)[1].startswith(shown)


@pytest.mark.parametrize("character", ["\x00", "\n", "\x7f", "\x85", "\u202e", "\u200b", "\u2028", "\ud800", "\uffff"])
def test_unseen_characters_are_replaced_not_dropped(character: str) -> None:
    shown = visible(f"a{character}b")
    assert shown.startswith("a") and shown.endswith("b") and len(shown) > 2 and character not in shown


def test_a_name_of_100_kilobytes_is_cut_and_says_so() -> None:
    shown = visible("x" * 100_000)
    assert len(shown) == LONGEST_NAME and shown.endswith("…")
    assert len(write_svg(build_tree(table_of((native("x" * 100_000), 1))), Caption("t"), script_href="s")) < 20_000


def test_the_file_names_nothing_outside_itself() -> None:
    svg = write_svg(build_tree(table_of((native("main"), 1))), Caption("t")).decode()
    assert re.findall(r"(?:https?:)?//[\w.-]+", svg.replace("http://www.w3.org/2000/svg", "")) == []
    assert not re.search(r'\s(?:href|src|style|on\w+)=["\']', svg.split("<script>")[0])


def test_data_means_nothing_to_a_parser_of_markup() -> None:
    svg = write_svg(build_tree(table_of((native("a<b>&c"), 1))), Caption("t")).decode()
    data = svg.split('<metadata id="fg-data">')[1].split("</metadata>")[0]
    assert not set("<>&") & set(data)


def test_static_picture_says_count_share_time_and_origin() -> None:
    frames = [Frame("python3", Kind.PROCESS), Frame("work", Kind.NATIVE, "", "work.c", 12)]
    table = table_of((frames, 1234), ([frames[0]], 8766))
    root, _ = parse(write_svg(build_tree(table), Caption("t", seconds_per_sample=0.001)))
    assert "work (1,234 samples, 12.34 %, 1.23 s CPU)\nnative · /usr/lib/libx.so · work.c:12" in titles(root)


def test_unknown_frame_gives_its_reason() -> None:
    frame = Frame("[libx.so: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
    root, _ = parse(write_svg(build_tree(table_of(([frame], 1))), Caption("t")))
    assert "no name: no symbols" in titles(root)[1]


def test_legend_lists_just_the_kinds_that_are_there() -> None:
    table = table_of(([Frame("bash", Kind.PROCESS), Frame("f", Kind.JIT), Frame("k", Kind.KERNEL)], 1))
    root, _ = parse(write_svg(build_tree(table), Caption("t")))
    legend = root.find(f"{SVG}g[@id='fg-legend']")
    assert legend is not None
    assert [t.text for t in legend.iter(f"{SVG}text")] == ["kernel", "JIT", "process"]


def test_accounting_lines_stand_below_the_picture() -> None:
    root, _ = parse(write_svg(build_tree(table_of((native("f"), 1))), Caption("t", "s", ("one & two", "three"))))
    notes = root.find(f"{SVG}g[@id='fg-notes']")
    assert notes is not None
    assert [t.text for t in notes.iter(f"{SVG}text")] == ["one & two", "three"]


def test_narrow_frames_are_left_out_of_the_picture_but_not_out_of_the_data() -> None:
    stacks = [(native("wide"), 1_000_000), *((native(f"narrow{i}"), 1) for i in range(50))]
    root, data = parse(write_svg(build_tree(table_of(*stacks)), Caption("t")))
    assert [t.split(" (")[0] for t in titles(root)] == ["all", "wide"]
    assert len(data["own"]) == 52 and sum(data["own"]) == 1_000_050


def test_static_picture_stays_small_for_a_broad_tree() -> None:
    rng = np.random.default_rng(7)
    index = rng.integers(0, 300, 40_000).astype(np.uint32)
    table = StackTable(
        native(*(f"f{i}" for i in range(300))),
        [""] * 300,
        index,
        np.arange(0, 40_001, 20),
        np.ones(2000, np.int64),
    )
    tree = build_tree(table)
    picture = layout.place(tree, 8000)
    assert len(tree) > 30_000 and len(picture.node) == layout.MOST_FRAMES
    drawn = set(picture.node.tolist())
    assert all(int(tree.parent[node]) in drawn for node in drawn if node)


def test_gigantic_tree_is_pruned_into_nodes_of_a_kind_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.flamegraph.svg.MOST_NODES", 5)
    stacks = [(native("heavy"), 900), *((native(f"light{i}"), 1) for i in range(100))]
    root, data = parse(write_svg(build_tree(table_of(*stacks)), Caption("t")))
    names = [data["frames"]["name"][f] for f in data["frame"]]
    assert names == ["all", "heavy", "(100 frames below 0.2 %)"]
    assert data["own"] == [0, 900, 100]
    kind = data["kinds"][data["frames"]["kind"][data["frame"][2]]]
    assert kind["label"] == layout.ELIDED
    assert prune(build_tree(table_of(*stacks)), 5).total[0] == 1000


def test_empty_profile_is_a_picture_all_the_same() -> None:
    root, data = parse(write_svg(build_tree(table_of()), Caption("t")))
    assert titles(root)[0].startswith("all (0 samples, 0.00 %)") and data["own"] == [0]


def test_shade_comes_from_the_whole_name_and_never_changes() -> None:
    assert [shade(n) for n in ("main", "do_syscall_64", "x" * 5000)] == [4, 10, 6]
    assert len({shade("x" * 2000 + str(i)) for i in range(100)}) == layout.SHADES
    assert 0 <= shade("\ud800") < layout.SHADES


def test_every_kind_has_a_label_and_colours_of_its_own() -> None:
    seen: set[str] = set()
    for kind in [*(k.value for k in Kind), layout.ELIDED]:
        colours = set(layout.shades(kind))
        assert layout.LABELS[kind] and not colours & seen
        seen |= colours


@given(st.text(max_size=30), st.floats(0, 300))
def test_text_is_cut_to_its_width(text: str, width: float) -> None:
    shown = layout.fit(text, width)
    assert layout.cells(shown) * layout.CHARACTER <= width or shown == ""
    assert shown in ("", text) or (shown.endswith("…") and text.startswith(shown[:-1]))
