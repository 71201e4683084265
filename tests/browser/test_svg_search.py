"""Searching in the flame graph, in real Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from symbolizer.types import Frame, Kind
from tests.browser.pictures import (
    CAPTION,
    LINES,
    MAIN,
    ZEBRA,
    frame,
    names,
    table_of,
)
from web.flamegraph import layout
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import write_svg


@pytest.mark.parametrize("pattern", ["std::allocator", r"push_back\(int&&\)$", "^std::vector<.>::push_back$"])
def test_search_finds_whole_names_and_what_stands_in_the_boxes(page: Page, tmp_path: Path, pattern: str) -> None:
    path = tmp_path / "x.svg"
    path.write_bytes(write_svg(build_tree(table_of(LINES)), CAPTION))
    page.goto(path.as_uri())
    page.keyboard.press("/")
    page.keyboard.type(pattern)
    expect(page.get_by_role("status")).to_have_text("Matched: 75.00 %")


@pytest.mark.parametrize("key", ["/", "F3", "Control+f"])
def test_search_counts_nested_matches_once(graph: Page, key: str) -> None:
    graph.keyboard.press(key)
    graph.keyboard.type("^parse$")
    expect(graph.get_by_role("status")).to_have_text("Matched: 30.00 %")
    matched = graph.locator('[role=treeitem][fill="#c026d3"]')
    assert matched.count() == 2  # parse, and parse within parse_header within parse


def test_search_share_within_the_zoomed_frame(graph: Page) -> None:
    frame(graph, "main").click()
    graph.keyboard.press("/")
    graph.keyboard.type("vfs|tin")
    expect(graph.get_by_role("status")).to_have_text("Matched: 20.00 % of all, 33.33 % of the zoomed frame")


def test_search_ignores_case_until_a_capital_is_typed(graph: Page) -> None:
    graph.keyboard.press("/")
    graph.keyboard.type("zebra")
    expect(graph.get_by_role("status")).to_have_text("Matched: 40.00 %")
    graph.keyboard.press("Control+a")
    graph.keyboard.type("Zebra")
    expect(graph.get_by_role("status")).to_have_text("Matched: 0.00 %")


def test_bad_regular_expression_is_explained_and_clears_up(graph: Page) -> None:
    graph.keyboard.press("/")
    graph.keyboard.type("(")
    expect(graph.get_by_role("status")).to_have_text("Not a regular expression: Unterminated group")
    assert graph.locator("[role=treeitem][opacity]").count() == 0  # nothing is dimmed for a slip
    graph.keyboard.press("Backspace")
    expect(graph.get_by_role("status")).to_have_text("")


def test_search_box_is_edited_like_an_input(graph: Page) -> None:
    graph.keyboard.press("/")
    graph.keyboard.type("zsbra")
    for key in ["Home", "ArrowRight", "Delete", "e", "End", "Backspace", "a"]:
        graph.keyboard.press(key)
    expect(graph.get_by_role("searchbox")).to_have_attribute("aria-description", "zebra")
    expect(graph.get_by_role("status")).to_have_text("Matched: 40.00 %")
    graph.keyboard.press("Escape")
    expect(graph.get_by_role("status")).to_have_text("")


def test_frames_too_narrow_to_draw_are_hinted_at_and_found_by_search(page: Page, tmp_path: Path) -> None:
    crumbs = [([MAIN, Frame(f"crumb{i}", Kind.NATIVE)], 1) for i in range(200)]
    (tmp_path / "x.svg").write_bytes(write_svg(build_tree(table_of([*crumbs, ([ZEBRA], 99_800)])), CAPTION))
    page.goto((tmp_path / "x.svg").as_uri())
    band = "200 frames too narrow to draw: 200 samples, 0.20 %"
    assert names(page) == ["all", "main", "zebra", band]
    hints = page.locator(f'[role=treeitem][aria-label="{band}"]')
    assert hints.get_attribute("fill") == "url(#fg-hatch)"
    page.keyboard.press("/")
    page.keyboard.type("crumb")
    expect(page.get_by_role("status")).to_have_text("Matched: 0.20 %")
    assert hints.get_attribute("fill") == "#c026d3"
    box = hints.bounding_box()
    assert box is not None and box["width"] == pytest.approx(0.002 * (1200 - 2 * layout.SIDE), abs=0.2)
