"""The flame graph in real Chromium: from a file, and served under a strict Content-Security-Policy."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import Frame as FrameOfPage

from profiler.model import StackTable
from symbolizer.types import Frame, Kind, Reason
from web.flamegraph import layout
from web.flamegraph.calltree import build_tree
from web.flamegraph.script import viewer_script
from web.flamegraph.svg import Caption, write_svg

CAPTION = Caption("CPU profile", "99 Hz", ("1,000 sampled, 0 lost",), background="cpu", seconds_per_sample=0.01)
PROCESS = Frame("server", Kind.PROCESS)
MAIN = Frame("main", Kind.NATIVE, "", "main.c", 10)
PARSE = Frame("parse", Kind.NATIVE)
READ = Frame("vfs_read", Kind.KERNEL)
PARSE_HEADER = Frame("parse_header", Kind.INLINED)
UNKNOWN = Frame("[libz.so: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
ZEBRA = Frame("zebra", Kind.JIT)
TINY = Frame("tiny", Kind.NATIVE)
TINIER = Frame("tinier", Kind.NATIVE)


def table_of(stacks: list[tuple[list[Frame], int]]) -> StackTable:
    frames: dict[Frame, int] = {}
    index = [frames.setdefault(frame, len(frames)) for stack, _ in stacks for frame in stack]
    return StackTable(
        list(frames),
        ["/usr/bin/server" if frame.kind is Kind.NATIVE else "" for frame in frames],
        np.array(index, np.uint32),
        np.concatenate(([0], np.cumsum([len(stack) for stack, _ in stacks]))).astype(np.int64),
        np.array([count for _, count in stacks], np.int64),
    )


# 10,000 samples; `parse` is seen above itself, and `tiny` is narrower than half a pixel until zoomed.
STACKS = [
    ([PROCESS, MAIN, PARSE], 1000),
    ([PROCESS, MAIN, PARSE, PARSE_HEADER], 1500),
    ([PROCESS, MAIN, PARSE, PARSE_HEADER, PARSE], 500),
    ([PROCESS, MAIN, READ], 1998),
    ([PROCESS, MAIN, READ, TINY, TINIER], 2),
    ([PROCESS, MAIN, UNKNOWN], 1000),
    ([PROCESS, ZEBRA], 4000),
]


@pytest.fixture(scope="session")  # so that no page outlives its server
def served() -> Iterator[Callable[[dict[str, tuple[str, bytes]]], str]]:
    """Serves given files on 127.0.0.1 as strictly as our server does; gives their address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(files: dict[str, tuple[str, bytes]]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = files.get(self.path.split("?")[0])
                self.send_response(200 if found else 404)
                if found:
                    self.send_header("Content-Type", found[0])
                self.send_header("Content-Security-Policy", "default-src 'self'; img-src 'self' blob:")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(found[1] if found else b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


Serve = Callable[[dict[str, tuple[str, bytes]]], str]


def pictures(table: StackTable, script: str | None) -> dict[str, tuple[str, bytes]]:
    svg = write_svg(build_tree(table), CAPTION, script_href=script)
    return {
        "/flamegraph.svg": ("image/svg+xml", svg),
        "/flamegraph.js": ("text/javascript", viewer_script().encode()),
        "/favicon.ico": ("image/png", b""),
        "/": (
            "text/html",
            b"<!doctype html><title>t</title><input id=other>"
            b"<iframe src='/flamegraph.svg' width=900 id=picture></iframe>",
        ),
    }


@pytest.fixture(params=["file", "served"])
def graph(request: pytest.FixtureRequest, page: Page, served: Serve, tmp_path: Path) -> Page:
    """The same picture opened from a file with no network, and served with the script beside it."""
    if request.param == "file":
        page.context.set_offline(True)
        path = tmp_path / "x.svg"
        path.write_bytes(write_svg(build_tree(table_of(STACKS)), CAPTION))
        page.goto(path.as_uri())
    else:
        page.goto(served(pictures(table_of(STACKS), "/flamegraph.js")) + "/flamegraph.svg")
    return page


def frame(page: Page, function: str) -> Locator:
    return page.locator(f'[role=treeitem][aria-label^="{function} ("]')


def names(page: Page) -> list[str]:
    labels: list[str] = page.evaluate(
        "[...document.querySelectorAll('[role=treeitem]')].map(e => e.getAttribute('aria-label'))"
    )
    return [label.rsplit(" (", 1)[0] for label in labels]


def width(locator: Locator) -> float:
    return float(locator.get_attribute("width") or 0)


def x(locator: Locator) -> float:
    return float(locator.get_attribute("x") or 0)


def y(locator: Locator) -> float:
    return float(locator.get_attribute("y") or 0)


def focused(page: Page) -> str:
    label: str | None = page.evaluate("document.activeElement.getAttribute('aria-label')")
    return (label or "").rsplit(" (", 1)[0]


def test_hover_says_what_the_frame_is(graph: Page) -> None:
    frame(graph, "vfs_read").hover()
    expect(graph.locator("#fg-details-name")).to_have_text("vfs_read (2,000 samples, 20.00 %, 20 s CPU)")
    expect(graph.locator("#fg-details-origin")).to_have_text("kernel")
    assert frame(graph, "vfs_read").locator("title").text_content() == (
        "vfs_read (2,000 samples, 20.00 %, 20 s CPU)\nkernel"
    )
    frame(graph, "main").hover()
    expect(graph.locator("#fg-details-origin")).to_have_text("native · /usr/bin/server · main.c:10")


# `fill` on three lines; push_back() inlined into it on two.
PUSH_BACK = "std::vector<int, std::allocator<int>>::push_back(int&&)"
LINES = [
    ([PROCESS, Frame("fill(int)", Kind.NATIVE, "", "fill.cc", line), *inlined], count)
    for line, count, inlined in [
        (10, 300, []),
        (20, 500, [Frame(PUSH_BACK, Kind.INLINED, "", "stl_vector.h", 95)]),
        (30, 100, []),
        (20, 700, [Frame(PUSH_BACK, Kind.INLINED, "", "stl_vector.h", 96)]),
    ]
]


def texts(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...document.querySelectorAll('#fg-frames text')].map(e => e.textContent)")
    return found


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


@pytest.mark.parametrize("pattern", ["std::allocator", r"push_back\(int&&\)$", "^std::vector<.>::push_back$"])
def test_search_finds_whole_names_and_what_stands_in_the_boxes(page: Page, tmp_path: Path, pattern: str) -> None:
    path = tmp_path / "x.svg"
    path.write_bytes(write_svg(build_tree(table_of(LINES)), CAPTION))
    page.goto(path.as_uri())
    page.keyboard.press("/")
    page.keyboard.type(pattern)
    expect(page.get_by_role("status")).to_have_text("Matched: 75.00 %")


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
    expect(graph.get_by_role("searchbox")).to_have_attribute("aria-valuetext", "zebra")
    expect(graph.get_by_role("status")).to_have_text("Matched: 40.00 %")
    graph.keyboard.press("Escape")
    expect(graph.get_by_role("status")).to_have_text("")


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


def test_arrow_keys_walk_the_tree_and_enter_zooms(graph: Page) -> None:
    frame(graph, "all").focus()
    for key, there in [
        ("ArrowUp", "server"),
        ("ArrowUp", "main"),
        ("ArrowRight", "zebra"),
        ("ArrowRight", "zebra"),
        ("ArrowLeft", "main"),
        ("ArrowUp", "parse"),
        ("ArrowDown", "main"),
        ("End", "parse"),
        ("Home", "all"),
    ]:
        graph.keyboard.press(key)
        assert focused(graph) == there, key
    graph.keyboard.press("ArrowUp")
    graph.keyboard.press("ArrowUp")
    expect(graph.locator("#fg-details-name")).to_contain_text("main (6,000 samples")
    graph.keyboard.press("Enter")
    assert focused(graph) == "main" and "zebra" not in names(graph)


def test_focus_is_seen_and_the_tree_is_one_stop_of_the_tab_key(graph: Page) -> None:
    stops = []
    for _ in range(5):
        graph.keyboard.press("Tab")
        stops.append(graph.evaluate("document.activeElement.getAttribute('aria-label').split(/[:(]/)[0].trim()"))
    assert stops[:4] == ["Search functions by regular expression", "Focus", "kernel", "all"]
    assert "without a name" in stops[4]  # what the picture is worth
    graph.keyboard.press("Shift+Tab")
    ring = graph.locator("#fg-ring")
    assert ring.get_attribute("display") == "inline" and width(ring) == width(frame(graph, "all"))


def test_tree_roles_levels_and_expansion(graph: Page) -> None:
    expect(graph.get_by_role("tree")).to_have_attribute("aria-label", "CPU profile")
    main = frame(graph, "main")
    assert main.get_attribute("aria-level") == "3"
    assert main.get_attribute("aria-expanded") == "true"
    assert frame(graph, "zebra").get_attribute("aria-expanded") is None  # a leaf
    assert frame(graph, "vfs_read").get_attribute("aria-expanded") == "false"  # its children are too narrow


def test_reload_restores_zoom_search_order_and_orientation(graph: Page) -> None:
    frame(graph, "main").click()
    graph.keyboard.press("s")
    graph.keyboard.press("i")
    graph.keyboard.press("/")
    graph.keyboard.type("vfs")
    before = (names(graph), x(frame(graph, "vfs_read")), y(frame(graph, "all")))
    graph.reload()
    assert (names(graph), x(frame(graph, "vfs_read")), y(frame(graph, "all"))) == before
    expect(graph.get_by_role("status")).to_contain_text("Matched: 20.00 % of all")


def test_address_without_state_is_clean_again(graph: Page) -> None:
    plain = graph.url
    frame(graph, "main").click()
    expect(graph).to_have_url(re.compile("zoom="))
    graph.keyboard.press("Escape")
    expect(graph).to_have_url(plain)


def test_permalink_finds_the_frame_in_newer_data(page: Page, served: Serve) -> None:
    files = pictures(table_of(STACKS), "/flamegraph.js")
    url = served(files) + "/flamegraph.svg"
    page.goto(url)
    frame(page, "vfs_read").click()
    newer = [([PROCESS, Frame("aardvark", Kind.NATIVE), MAIN], 77), *STACKS]
    files["/flamegraph.svg"] = pictures(table_of(newer), "/flamegraph.js")["/flamegraph.svg"]
    page.reload()
    assert names(page)[:4] == ["all", "server", "main", "vfs_read"]


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


def test_details_stay_in_the_window_while_a_tall_picture_is_scrolled(page: Page, tmp_path: Path) -> None:
    tall = [Frame(f"a::rather::long::name::of::level{i}", Kind.NATIVE) for i in range(150)]
    (tmp_path / "x.svg").write_bytes(write_svg(build_tree(table_of([(tall, 3)])), CAPTION))
    page.set_viewport_size({"width": 320, "height": 600})
    page.goto((tmp_path / "x.svg").as_uri())
    for scrolled in (0, 900, 100_000):
        page.evaluate("y => window.scrollTo(0, y)", scrolled)
        page.mouse.move(100, 300 + scrolled % 7)
        expect(page.locator("#fg-details-name")).to_contain_text("(3 samples, 100.00 %, 30 ms CPU)")
        box = page.locator("#fg-details").bounding_box()
        assert box is not None and 0 < box["y"] and box["y"] + box["height"] <= 601


TALL = [
    ([PROCESS, *(Frame(f"level{i}", Kind.NATIVE) for i in range(120))], 60),
    ([PROCESS, ZEBRA], 40),
]


@pytest.fixture(params=["file", "page"])
def tall(request: pytest.FixtureRequest, page: Page, served: Serve, tmp_path: Path) -> tuple[Page, FrameOfPage]:
    """A picture of three windows' height, on its own and shown by a page, and the document it is in."""
    if request.param == "file":
        (tmp_path / "x.svg").write_bytes(write_svg(build_tree(table_of(TALL)), CAPTION))
        page.goto((tmp_path / "x.svg").as_uri())
        return page, page.main_frame
    page.goto(served(pictures(table_of(TALL), "/flamegraph.js")) + "/")
    page.wait_for_function("document.querySelector('iframe').clientHeight > 400")
    return page, page.frames[1]


def seen(page: Page, locator: Locator) -> bool:
    """Whether all of an element is between the rows that stay at the top and the bottom of the window."""
    box = locator.bounding_box()
    assert box is not None and page.viewport_size is not None
    return box["y"] >= 40 and box["y"] + box["height"] <= page.viewport_size["height"] - 40


def inside(page: Page, locator: Locator) -> bool:
    box = locator.bounding_box()
    assert box is not None and page.viewport_size is not None
    return box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


def of(picture: FrameOfPage, function: str) -> Locator:
    return picture.locator(f'[role=treeitem][aria-label^="{function} ("]')


def test_tall_picture_opens_at_its_root_with_the_toolbar_in_sight(tall: tuple[Page, FrameOfPage]) -> None:
    page, picture = tall
    for function in ("all", "server", "zebra", "level10"):
        assert seen(page, of(picture, function))
    assert not inside(page, of(picture, "level119"))
    assert inside(page, picture.get_by_role("searchbox")) and inside(page, picture.locator("#fg-details"))


def test_tall_picture_stays_where_it_is_scrolled_to(tall: tuple[Page, FrameOfPage]) -> None:
    page, picture = tall
    for y in (700, 30, 5, 1000, 0, 400):
        picture.evaluate("y => scrollTo(0, y)", y)
        for _ in range(5):  # the answers to scrolling, and the answers to these
            picture.evaluate("() => new Promise(requestAnimationFrame)")
        assert picture.evaluate("scrollY") == y
        assert inside(page, picture.get_by_role("searchbox"))


def test_search_leaves_a_tall_picture_where_it_is(tall: tuple[Page, FrameOfPage]) -> None:
    page, picture = tall
    before = picture.evaluate("scrollY")
    page.keyboard.press("/")
    page.keyboard.type("zebra")
    status = picture.get_by_role("status")
    expect(status).to_have_text("Matched: 40.00 %")
    assert inside(page, status) and picture.evaluate("scrollY") == before > 0
    picture.get_by_role("button", name="Sort").click()
    expect(picture.get_by_role("button", name="Sort")).to_have_attribute("aria-pressed", "true")


def test_root_is_in_sight_whichever_way_a_tall_picture_grows(tall: tuple[Page, FrameOfPage]) -> None:
    page, picture = tall
    for _ in range(3):
        picture.get_by_role("button", name="Root at the").click()
        assert seen(page, of(picture, "all"))


def test_keyboard_walks_through_a_tall_picture_without_leaving_the_window(tall: tuple[Page, FrameOfPage]) -> None:
    page, picture = tall
    of(picture, "server").focus()
    for key, function in (("End", "level119"), ("Home", "all"), ("ArrowUp", "server")):
        page.keyboard.press(key)
        assert picture.evaluate("document.activeElement.getAttribute('aria-label')").startswith(f"{function} (")
        assert seen(page, of(picture, function))


def test_address_of_a_zoom_far_up_a_tall_picture_opens_there(tall: tuple[Page, FrameOfPage]) -> None:
    page, picture = tall
    of(picture, "level60").focus()
    page.keyboard.press("Enter")
    again = page.context.new_page()
    again.goto(page.evaluate("location.href"))
    if page.frames[1:]:
        again.wait_for_function("document.querySelector('iframe').clientHeight > 400")
    shown = again.frames[-1]
    expect(of(shown, "level60")).to_have_attribute("aria-current", "true")
    for function in ("level60", "level75"):
        assert seen(again, of(shown, function))


def test_picture_that_fits_is_not_scrolled(graph: Page) -> None:
    assert graph.evaluate("scrollY") == 0
    frame(graph, "parse_header").click()
    graph.keyboard.press("i")
    assert graph.evaluate("scrollY") == 0


def test_frames_too_narrow_to_draw_are_hinted_at_and_found_by_search(page: Page, tmp_path: Path) -> None:
    crumbs = [([MAIN, Frame(f"crumb{i}", Kind.NATIVE)], 1) for i in range(200)]
    (tmp_path / "x.svg").write_bytes(write_svg(build_tree(table_of([*crumbs, ([ZEBRA], 99_800)])), CAPTION))
    page.goto((tmp_path / "x.svg").as_uri())
    assert names(page) == ["all", "main", "zebra"]
    hints = page.locator("#fg-frames path")
    assert hints.count() == 1 and hints.get_attribute("fill") != "#c026d3"
    page.keyboard.press("/")
    page.keyboard.type("crumb")
    expect(page.get_by_role("status")).to_have_text("Matched: 0.20 %")
    assert hints.get_attribute("fill") == "#c026d3"
    box = hints.bounding_box()
    assert box is not None and box["width"] == pytest.approx(0.002 * (1200 - 2 * layout.SIDE), abs=0.2)


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


def picture_in(page: Page) -> FrameOfPage:
    inner = next(found for found in page.frames if found.url.endswith(".svg"))
    inner.wait_for_selector("[role=treeitem]")
    return inner


def test_inside_a_page_state_lives_in_its_address_and_search_opens_from_it(page: Page, served: Serve) -> None:
    url = served(pictures(table_of(STACKS), "/flamegraph.js"))
    page.goto(url + "/")
    inner = picture_in(page)
    inner.locator('[aria-label^="vfs_read ("]').click()
    expect(page).to_have_url(re.compile("#zoom="))
    height = page.evaluate("document.querySelector('#picture').clientHeight")
    assert str(height) == inner.locator("svg").first.get_attribute("height")
    page.locator("#other").focus()
    page.keyboard.press("/")
    assert page.locator("#other").input_value() == "/"
    page.mouse.click(5, 700)
    page.keyboard.press("/")
    page.keyboard.type("parse")
    expect(inner.get_by_role("status")).to_contain_text("Matched: 30.00 % of all")
    page.reload()
    inner = picture_in(page)
    assert inner.get_by_role("treeitem").count() == 6


def test_put_into_an_html_page_it_works_as_well(page: Page, served: Serve) -> None:
    files = pictures(table_of(STACKS), "/flamegraph.js")
    svg = files["/flamegraph.svg"][1].split(b"?>", 1)[1]
    files["/inline"] = ("text/html", b"<!doctype html><meta charset=utf-8><div>" + svg + b"</div>")
    page.goto(served(files) + "/inline")
    frame(page, "vfs_read").click()
    assert names(page) == ["all", "server", "main", "vfs_read", "tiny", "tinier"]
