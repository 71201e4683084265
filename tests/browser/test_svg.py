"""The flame graph in real Chromium: from a file, and served under a strict Content-Security-Policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from tests.browser.pictures import (
    CAPTION,
    LINES,
    PUSH_BACK,
    STACKS,
    Serve,
    frame,
    names,
    pictures,
    table_of,
    texts,
    width,
    x,
    y,
)
from web.flamegraph import layout
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import Caption, write_svg


def test_hover_says_what_the_frame_is(graph: Page) -> None:
    frame(graph, "vfs_read").hover()
    expect(graph.locator("#fg-details-name")).to_have_text("vfs_read (2,000 samples, 20.00 %, 20 s CPU)")
    expect(graph.locator("#fg-details-origin")).to_have_text("kernel")
    assert frame(graph, "vfs_read").locator("title").text_content() == (
        "vfs_read (2,000 samples, 20.00 %, 20 s CPU)\nkernel"
    )
    frame(graph, "main").hover()
    expect(graph.locator("#fg-details-origin")).to_have_text("native · /usr/bin/server · main.c:10")


def test_boxes_have_short_names_and_hover_tells_the_whole_name_and_the_line(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    path.write_bytes(write_svg(build_tree(table_of(LINES)), CAPTION))
    page.goto(path.as_uri())
    assert texts(page) == ["all", "server", "fill", "std::vector<…>::push_back"]
    frame(page, "fill(int)").hover()
    expect(page.locator("#fg-details-name")).to_have_text("fill(int) (1,600 samples, 100.00 %, 16 s CPU)")
    expect(page.locator("#fg-details-origin")).to_have_text("native · /usr/bin/server · fill.cc:20 and 2 other lines")
    frame(page, PUSH_BACK).hover()
    expect(page.locator("#fg-details-name")).to_have_text(f"{PUSH_BACK} (1,200 samples, 75.00 %, 12 s CPU)")
    expect(page.locator("#fg-details-origin")).to_have_text("inlined into fill · stl_vector.h:96 and 1 other line")
    assert frame(page, PUSH_BACK).locator("title").text_content() == (
        f"{PUSH_BACK} (1,200 samples, 75.00 %, 12 s CPU)\ninlined into fill · stl_vector.h:96 and 1 other line"
    )


def test_the_picture_with_scripts_off_tells_the_same(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    path.write_bytes(write_svg(build_tree(table_of(LINES)), CAPTION))
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    titles = page.locator("#fg-frames title").all_text_contents()
    assert titles[2].endswith("\nnative · /usr/bin/server · fill.cc:20 and 2 other lines")
    assert titles[3].endswith("\ninlined into fill · stl_vector.h:96 and 1 other line")
    assert page.locator("#fg-frames text").all_text_contents()[2:] == ["fill", "std::vector<…>::push_back"]
    context.close()


def test_hover_over_an_unknown_frame_gives_its_reason(graph: Page) -> None:
    frame(graph, "[libz.so: no symbols]").hover()
    expect(graph.locator("#fg-details-origin")).to_have_text("unknown · no name: no symbols")


def test_clicking_an_ancestor_or_escape_zooms_out(graph: Page) -> None:
    frame(graph, "vfs_read").click()
    frame(graph, "main").click()
    assert "parse" in names(graph) and "zebra" not in names(graph)
    graph.keyboard.press("Escape")
    assert "zebra" in names(graph)


def test_widths_are_in_proportion_to_samples(graph: Page) -> None:
    whole = 1200 - 2 * layout.SIDE
    for function, share in [("main", 0.6), ("zebra", 0.4), ("vfs_read", 0.2), ("parse_header", 0.2)]:
        assert width(frame(graph, function)) == pytest.approx(share * whole - 0.6, abs=0.02)


def test_weight_order_puts_the_heaviest_first_and_back(graph: Page) -> None:
    def order(*functions: str) -> list[str]:
        return sorted(functions, key=lambda f: x(frame(graph, f).first))

    siblings = ("[libz.so: no symbols]", "parse", "vfs_read")
    assert order(*siblings) == ["[libz.so: no symbols]", "parse", "vfs_read"]
    graph.get_by_role("button", name="Sort").click()
    assert order(*siblings) == ["parse", "vfs_read", "[libz.so: no symbols]"]
    graph.keyboard.press("s")
    assert order(*siblings) == ["[libz.so: no symbols]", "parse", "vfs_read"]


def test_root_is_at_the_bottom_and_at_the_top_of_an_icicle(graph: Page) -> None:
    assert y(frame(graph, "all")) - y(frame(graph, "main")) == 2 * layout.ROW
    graph.get_by_role("button", name="Flame").click()
    assert y(frame(graph, "main")) - y(frame(graph, "all")) == 2 * layout.ROW


def test_picture_fills_the_window_and_follows_it(graph: Page) -> None:
    graph.set_viewport_size({"width": 1600, "height": 900})
    expect(frame(graph, "all")).to_have_attribute("width", f"{1600 - 2 * layout.SIDE - 0.6:.2f}")
    graph.set_viewport_size({"width": 700, "height": 900})
    expect(frame(graph, "all")).to_have_attribute("width", f"{700 - 2 * layout.SIDE - 0.6:.2f}")


@pytest.mark.parametrize("size", [450, 900, 1200])
def test_header_does_not_run_into_itself(page: Page, tmp_path: Path, size: int) -> None:
    caption = Caption("A title of some length " * 8, "and a subtitle " * 20)
    (tmp_path / "x.svg").write_bytes(write_svg(build_tree(table_of(STACKS)), caption))
    page.set_viewport_size({"width": size, "height": 700})
    page.goto((tmp_path / "x.svg").as_uri() + "#search=vfs")
    boxes = {
        name: page.locator(selector).bounding_box()
        for name, selector in {
            "title": "#fg-title",
            "subtitle": "#fg-subtitle",
            "toolbar": "[role=toolbar]",
            "status": "[role=status]",
            "legend": "#fg-legend",
            "root": '[aria-label^="all ("]',
        }.items()
        if page.locator(selector).is_visible()
    }
    assert {"title", "toolbar", "status", "root"} <= set(boxes)
    for line in ("#fg-details-name", "#fg-details-origin"):
        box = page.locator(line).bounding_box()
        assert box is not None and box["x"] + box["width"] < size - layout.SIDE
    for first, a in boxes.items():
        assert a is not None and a["x"] >= 0 and a["x"] + a["width"] <= size
        for second, b in boxes.items():
            assert b is not None
            apart = (
                a["x"] + a["width"] <= b["x"]
                or b["x"] + b["width"] <= a["x"]
                or a["y"] + a["height"] <= b["y"] + 1  # the line below may begin in a descender's room
                or b["y"] + b["height"] <= a["y"] + 1
            )
            assert first == second or apart, (first, second)


def test_labels_stay_within_their_frames(graph: Page) -> None:
    frame(graph, "parse_header").click()
    overflow = graph.evaluate(
        """[...document.querySelectorAll('#fg-frames text')].filter(text => {
             const frame = text.previousElementSibling.getBoundingClientRect();
             const label = text.getBoundingClientRect();
             return label.left < frame.left || label.right > frame.right + 0.5;
           }).map(text => text.textContent)"""
    )
    assert overflow == []


def test_copy_takes_the_name_under_the_pointer(graph: Page) -> None:
    frame(graph, "vfs_read").hover()
    graph.context.grant_permissions(["clipboard-read", "clipboard-write"])
    graph.keyboard.press("c")
    expect(graph.locator("#fg-details-origin")).to_have_text("Copied: vfs_read")
    assert graph.evaluate("navigator.clipboard.readText()") == "vfs_read"


@pytest.mark.parametrize("script", [None, "/flamegraph.js"])
def test_hostile_names_are_inert(page: Page, served: Serve, tmp_path: Path, script: str | None) -> None:
    evil = [
        "<script>window.hacked=1;alert(1)</script>",
        "]]></script><script>window.hacked=1;alert(1)</script>",
        "</metadata><script>window.hacked=1;alert(1)</script>",
        "<img src=x onerror='window.hacked=1'>",
        "\"><set attributeName=onload to='window.hacked=1'/>",
        "nul\x00 and \x1b[31m\u202egnp",
        "lone \ud800 surrogate",
        "x" * 100_000,
    ]
    table = table_of([([Frame(name, Kind.NATIVE, "", name)], 10) for name in evil])
    table.binaries[:] = evil
    files = pictures(table, script)
    if script:
        page.goto(served(files) + "/flamegraph.svg")
    else:
        (tmp_path / "x.svg").write_bytes(files["/flamegraph.svg"][1])
        page.goto((tmp_path / "x.svg").as_uri())
    items = page.get_by_role("treeitem")
    assert items.count() == len(evil) + 1
    for i in range(items.count()):
        items.nth(i).hover()
        items.nth(i).click()
        page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("<script>")
    expect(page.get_by_role("status")).to_have_text("Matched: 37.50 %")
    assert page.evaluate("window.hacked") is None
    assert page.locator("script").count() == 1
    assert page.locator("img, set, parsererror").count() == 0


def test_embedded_script_does_not_run_under_the_policy_but_the_picture_shows(browser: Browser, served: Serve) -> None:
    files = pictures(table_of(STACKS), None)
    with browser.new_context(viewport={"width": 1200, "height": 800}) as context:
        page = context.new_page()
        page.goto(served(files) + "/flamegraph.svg")
        assert page.get_by_role("treeitem").count() == 0
        assert page.locator("#fg-frames rect").count() > 5


def test_static_picture_is_there_without_scripts(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "x.svg").write_bytes(write_svg(build_tree(table_of(STACKS)), CAPTION))
    with browser.new_context(java_script_enabled=False, viewport={"width": 1200, "height": 800}) as context:
        page = context.new_page()
        page.goto((tmp_path / "x.svg").as_uri())
        rect = page.locator("#fg-frames rect", has=page.locator("title", has_text="vfs_read (2,000"))
        assert width(rect) == pytest.approx(0.2 * (1200 - 2 * layout.SIDE) - 0.6, abs=0.02)
        shown = page.locator("#fg-frames text").all_text_contents()
        assert {"all", "server", "main", "vfs_read", "zebra"} <= set(shown)


def test_static_and_live_picture_agree(graph: Page) -> None:
    geometry = """root => [...root.querySelectorAll('#fg-frames rect')].map(
        r => ['x', 'width', 'fill'].map(key => r.getAttribute(key)).join(' '))"""
    live = graph.evaluate(f"({geometry})(document)")
    source = write_svg(build_tree(table_of(STACKS)), CAPTION).decode()
    static = graph.evaluate(f"source => ({geometry})(new DOMParser().parseFromString(source, 'image/svg+xml'))", source)
    assert live == static


def broad_table() -> StackTable:
    """Some 100,000 frames, 2,000 stacks wide, most of them alike in weight."""
    rng = np.random.default_rng(5)
    depth = 60
    index = rng.integers(0, 400, (2000, depth)).astype(np.uint32)
    index[:, :8] = np.sort(rng.integers(0, 3, (2000, 8)), axis=1)
    return StackTable(
        [Frame(f"function_{i}", Kind.NATIVE) for i in range(400)],
        [""] * 400,
        index.reshape(-1),
        np.arange(0, 2000 * depth + 1, depth),
        rng.integers(1, 4, 2000),
    )


def test_document_stays_small_for_a_hundred_thousand_frames(page: Page, served: Serve) -> None:
    table = broad_table()
    assert len(build_tree(table)) > 100_000
    page.set_viewport_size({"width": 3840, "height": 1000})
    page.goto(served(pictures(table, "/flamegraph.js")) + "/flamegraph.svg")
    for _ in range(3):
        assert page.evaluate("document.querySelectorAll('*').length") < 5000
        level = page.get_by_role("treeitem").nth(5)
        level.dispatch_event("click")
    page.keyboard.press("/")
    page.keyboard.type("function_7$")
    expect(page.get_by_role("status")).to_contain_text("Matched: ")


def test_put_into_an_html_page_it_works_as_well(page: Page, served: Serve) -> None:
    files = pictures(table_of(STACKS), "/flamegraph.js")
    svg = files["/flamegraph.svg"][1].split(b"?>", 1)[1]
    files["/inline"] = ("text/html", b"<!doctype html><meta charset=utf-8><div>" + svg + b"</div>")
    page.goto(served(files) + "/inline")
    frame(page, "vfs_read").click()
    assert names(page) == ["all", "server", "main", "vfs_read", "tiny", "tinier"]


def test_zoom_shows_what_was_too_narrow_and_reset_brings_everything_back(graph: Page) -> None:
    before = names(graph)
    assert "tiny" not in before
    frame(graph, "vfs_read").click()
    assert names(graph) == ["all", "server", "main", "vfs_read", "tiny", "tinier"]
    assert width(frame(graph, "all")) == width(frame(graph, "vfs_read")) == 1200 - 2 * layout.SIDE - 0.6
    assert float(frame(graph, "main").get_attribute("opacity") or 1) < 1
    frame(graph, "tiny").click()
    assert width(frame(graph, "tinier")) == width(frame(graph, "all"))
    graph.get_by_role("button", name="Reset zoom").click()
    assert names(graph) == before
