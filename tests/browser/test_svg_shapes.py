"""The shapes that one call tree can be looked at in, in real Chromium: rectangles and names."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from symbolizer.types import Frame, Kind
from tests.browser.pictures import MAIN, PROCESS, ZEBRA, frame, names, open_file, rows, table_of, texts
from web.flamegraph.calltree import build_tree
from web.flamegraph.layout import shades
from web.flamegraph.svg import Caption, write_svg

# Each frame as its row (the root's is 0), where it begins and ends in thousandths of the width, and its name.
PLAIN = [
    (0, 0, 1000, "all"),
    (1, 0, 1000, "server"),
    (2, 0, 600, "main"),
    (2, 600, 1000, "zebra"),
    (3, 0, 100, "[libz.so: no symbols]"),
    (3, 100, 400, "parse"),
    (3, 400, 600, "vfs_read"),
    (4, 100, 300, "parse_header"),
    (5, 100, 150, "parse"),
]


def test_the_plain_picture_is_as_it_was(graph: Page) -> None:
    assert rows(graph) == PLAIN


def test_leaf_first_merges_stacks_from_where_time_is_spent(graph: Page) -> None:
    graph.get_by_role("button", name="Leaf first").click()
    assert rows(graph)[:6] == [
        (0, 0, 1000, "all"),
        (1, 0, 100, "[libz.so: no symbols]"),
        (1, 100, 250, "parse"),
        (1, 250, 400, "parse_header"),
        (1, 400, 600, "vfs_read"),
        (1, 600, 1000, "zebra"),
    ]
    # 1,000 of parse's own 1,500 samples are called from main, 500 from parse_header
    assert (2, 100, 200, "main") in rows(graph) and (2, 200, 250, "parse_header") in rows(graph)
    graph.keyboard.press("r")
    assert rows(graph) == PLAIN


RECURSIVE = [
    ([MAIN, Frame("fib", Kind.NATIVE), Frame("fib", Kind.NATIVE), Frame("fib", Kind.NATIVE)], 30),
    ([MAIN, Frame("fib", Kind.NATIVE), Frame("add", Kind.NATIVE)], 20),
    ([MAIN, Frame("fib", Kind.NATIVE), Frame("fib", Kind.NATIVE), Frame("add", Kind.NATIVE)], 50),
]


def test_collapse_makes_a_function_that_calls_itself_one_frame(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, table_of(RECURSIVE))
    page.get_by_role("button", name="Collapse").click()
    assert rows(page) == [(0, 0, 1000, "all"), (1, 0, 1000, "main"), (2, 0, 1000, "fib"), (3, 0, 700, "add")]
    expect(page.get_by_role("button", name="Collapse")).to_have_attribute("aria-pressed", "true")
    frame(page, "fib").hover()
    expect(page.locator("#fg-details-shares")).to_contain_text("self 30 samples, 30.00 %")


def test_focus_keeps_stacks_with_a_match_and_says_how_much_that_is(graph: Page) -> None:
    graph.keyboard.press("/")
    graph.keyboard.type("vfs|libz")
    graph.get_by_role("button", name="Focus").click()
    assert rows(graph)[:5] == [
        (0, 0, 1000, "all"),
        (1, 0, 1000, "server"),
        (2, 0, 1000, "main"),
        (3, 0, 333, "[libz.so: no symbols]"),
        (3, 333, 1000, "vfs_read"),
    ]
    # A share is of all samples all the same, and so is its interval (Wilson's, of 2,000 in 10,000).
    frame(graph, "vfs_read").hover()
    expect(graph.locator("#fg-details-name")).to_contain_text("vfs_read (2,000 samples, 20.00 %")
    shares = graph.locator("#fg-details-shares")
    expect(shares).to_contain_text("66.67 % of what is shown · 19.23 to 20.80 % of all with 95 % confidence")
    chip = graph.get_by_role("button", name="focus: vfs|libz (30.00 % of all samples)")
    chip.click()
    assert rows(graph) == PLAIN


def test_hide_takes_frames_out_and_keeps_what_they_called(graph: Page) -> None:
    graph.keyboard.press("/")
    graph.keyboard.type("^main$|^parse_header$")
    graph.get_by_role("button", name="Hide").click()
    assert rows(graph) == [
        (0, 0, 1000, "all"),
        (1, 0, 1000, "server"),
        (2, 0, 100, "[libz.so: no symbols]"),
        (2, 100, 400, "parse"),
        (2, 400, 600, "vfs_read"),
        (2, 600, 1000, "zebra"),
        (3, 100, 150, "parse"),
    ]
    graph.keyboard.press("Escape")
    assert rows(graph) == PLAIN


def test_f_and_h_mean_the_frame_under_the_pointer(graph: Page) -> None:
    frame(graph, "parse_header").hover()
    graph.keyboard.press("f")
    expect(graph.get_by_role("button", name="focus: ^parse_header$ (20.00 % of all samples)")).to_be_visible()
    frame(graph, "server").hover()
    graph.keyboard.press("h")
    assert "server" not in names(graph) and names(graph)[:2] == ["all", "main"]


def test_a_bad_expression_in_the_address_is_told_and_leaves_everything(page: Page, tmp_path: Path) -> None:
    page.goto(open_file(page, tmp_path) + "#focus=(")
    page.reload()
    assert rows(page) == PLAIN
    expect(page.get_by_role("button", name="Not a regular expression: Unterminated group")).to_be_visible()


def test_the_legend_takes_kinds_out_and_brings_them_back(graph: Page) -> None:
    entry = graph.get_by_role("button", name="native: frames of this kind")
    entry.click()
    assert rows(graph) == [
        (0, 0, 1000, "all"),
        (1, 0, 1000, "server"),
        (2, 0, 100, "[libz.so: no symbols]"),
        (2, 100, 300, "parse_header"),
        (2, 300, 500, "vfs_read"),
        (2, 500, 900, "zebra"),
    ]
    expect(entry).to_have_attribute("aria-pressed", "false")
    graph.get_by_role("button", name="JIT: frames of this kind").click()
    assert "zebra" not in names(graph)
    entry.click()
    graph.get_by_role("button", name="JIT: frames of this kind").click()
    assert rows(graph) == PLAIN


def test_a_sandwich_has_callers_on_one_side_and_callees_on_the_other(graph: Page) -> None:
    frame(graph, "parse").first.hover()
    graph.keyboard.press("w")
    # Of the 3,000 stacks with parse: each cut at the first parse from the root.
    assert rows(graph) == [
        (-2, 0, 1000, "server"),
        (-1, 0, 1000, "main"),
        (0, 0, 1000, "parse"),
        (1, 0, 667, "parse_header"),
        (2, 0, 167, "parse"),
    ]
    expect(graph.get_by_role("button", name="callers and callees: parse (30.00 % of all samples)")).to_be_visible()
    graph.keyboard.press("/")
    graph.keyboard.type("main|header")
    expect(graph.get_by_role("status")).to_have_text("Matched: 66.67 % in what it calls, 100.00 % in its callers")
    for _ in range(3):  # the search's text, then the search box, then the sandwich
        graph.keyboard.press("Escape")
    assert rows(graph) == PLAIN


def test_arrow_keys_walk_from_callees_through_the_function_to_its_callers(graph: Page) -> None:
    frame(graph, "parse").first.hover()
    graph.keyboard.press("w")
    frame(graph, "parse").first.focus()
    where = []
    for key in ("ArrowUp", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        graph.keyboard.press(key)
        where.append(graph.evaluate("document.activeElement.getAttribute('aria-label')").split(" (")[0])
    assert where == ["parse_header", "parse", "main", "server", "main"]


def test_colours_tell_kinds_then_modules_then_names(graph: Page) -> None:
    def fill(name: str) -> str | None:
        return frame(graph, name).first.get_attribute("fill")

    assert fill("zebra") in shades(Kind.JIT) and fill("vfs_read") in shades(Kind.KERNEL)
    button = graph.get_by_role("button", name="Colour")
    button.click()
    expect(button).to_have_attribute("aria-label", "Colour: module: What colours tell apart (k)")
    assert fill("main") == fill("parse") and fill("main") not in shades(Kind.NATIVE)  # both of /usr/bin/server
    graph.keyboard.press("k")
    assert fill("main") != fill("parse")
    graph.keyboard.press("k")
    assert fill("zebra") in shades(Kind.JIT)


def test_names_are_shown_whole_when_told_to(page: Page, tmp_path: Path) -> None:
    name = "ns::run(int, char const*)"
    open_file(page, tmp_path, table_of([([Frame(name, Kind.NATIVE)], 3)]))
    assert texts(page) == ["all", "ns::run"]
    page.get_by_role("button", name="Names: short").click()
    assert texts(page) == ["all", name]


def test_shapes_can_be_put_together_and_keep_the_zoom_where_it_is_left(graph: Page) -> None:
    frame(graph, "main").click()
    graph.evaluate("document.documentElement.pilotlight.change({ hide: '^parse_header$', collapse: true })")
    assert rows(graph)[:3] == [(0, 0, 1000, "all"), (1, 0, 1000, "server"), (2, 0, 1000, "main")]
    # parse under parse_header under parse is parse alone once parse_header is out and runs are one frame
    assert [row[3] for row in rows(graph) if row[3] == "parse"] == ["parse"]


@pytest.mark.parametrize(
    "change", ["{reverse: true}", "{collapse: true}", "{focus: 'x'}", "{kinds: ['native']}", "{sandwich: '0'}"]
)
def test_a_picture_of_nothing_stays_one_of_nothing(page: Page, tmp_path: Path, change: str) -> None:
    path = tmp_path / "empty.svg"
    path.write_bytes(write_svg(build_tree(table_of([])), Caption("nothing")))
    page.goto(path.as_uri())
    page.evaluate(f"document.documentElement.pilotlight.change({change})")
    assert names(page) == ["all"]
    page.locator("[role=treeitem]").hover()
    expect(page.locator("#fg-details-name")).to_have_text("all (0 samples, 0.00 %)")


def test_one_sample_is_a_whole_picture(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, table_of([([PROCESS, ZEBRA], 1)]))
    frame(page, "zebra").hover()
    expect(page.locator("#fg-details-shares")).to_have_text(
        "self 1 samples, 100.00 % · 100.00 % of server · 20.65 to 100.00 % of all with 95 % confidence"
    )
