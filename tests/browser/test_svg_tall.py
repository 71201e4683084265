"""Pictures taller than the window, in real Chromium: on their own, and shown by a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Frame as FrameOfPage
from playwright.sync_api import Locator, Page, expect

from symbolizer.types import Frame, Kind
from tests.browser.pictures import (
    CAPTION,
    PROCESS,
    ZEBRA,
    Serve,
    frame,
    pictures,
    table_of,
)
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import write_svg

TALL = [
    ([PROCESS, *(Frame(f"level{i}", Kind.NATIVE) for i in range(120))], 60),
    ([PROCESS, ZEBRA], 40),
]


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
    assert inside(page, picture.get_by_role("navigation").get_by_text("CPU profile"))


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


def test_frame_of_a_tall_picture_follows_the_height_of_the_window(page: Page, served: Serve) -> None:
    page.set_viewport_size({"width": 1440, "height": 600})
    page.goto(served(pictures(table_of(TALL), "/flamegraph.js")) + "/")
    page.wait_for_function("document.querySelector('iframe').clientHeight > 400")
    for height in (1400, 700):
        page.set_viewport_size({"width": 1440, "height": height})
        page.wait_for_function(
            """height => {
              const { top, bottom } = document.querySelector('iframe').getBoundingClientRect();
              return top + scrollY < 100 && Math.abs(bottom + scrollY - height) < 40;
            }""",
            arg=height,
        )
