"""Pictures with more frames than can be drawn, in real Chromium: what is in sight is drawn, the rest told of."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Frame as FrameOfPage
from playwright.sync_api import Page, expect

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from tests.browser.pictures import MAIN, ZEBRA, Serve, focused, frame, names, open_file, pictures, table_of, width
from web.flamegraph import layout

SIBLINGS = {f"sibling{weight}": weight for weight in (60, 50, 40, 30, 20)}


def deep_table() -> StackTable:
    """One stack 2,000 levels deep beside its siblings."""
    deep = [MAIN, *(Frame(f"deep{i}", Kind.NATIVE) for i in range(2000))]
    siblings = [([MAIN, Frame(name, Kind.NATIVE)], weight) for name, weight in SIBLINGS.items()]
    return table_of([(deep, 70), *siblings, ([ZEBRA], 33)])


LOOP = Frame("loop", Kind.NATIVE)


def crowd_table() -> StackTable:
    """A function that calls 30,000 others, and `wide`."""
    crowd = [([MAIN, LOOP, Frame(f"crowd{i:05}", Kind.NATIVE)], 1) for i in range(30_000)]
    return table_of([*crowd, ([MAIN, LOOP, Frame("wide", Kind.NATIVE)], 10_000), ([ZEBRA], 60_000)])


def elements(page: Page | FrameOfPage) -> int:
    count: int = page.evaluate("document.querySelectorAll('*').length")
    return count


def scrolled(page: Page | FrameOfPage, to: str) -> None:
    page.evaluate(f"scrollTo(0, {to})")
    for _ in range(3):
        page.evaluate("() => new Promise(requestAnimationFrame)")


def rows_on_screen(page: Page, picture: FrameOfPage) -> tuple[int, int]:
    """How many rows of the deep stack are on the screen, and how many of them are drawn."""
    above, below, holder = (
        picture.evaluate("document.documentElement.getBoundingClientRect().top"),
        page.viewport_size["height"] if page.viewport_size else 0,
        page.evaluate("document.querySelector('iframe')?.getBoundingClientRect().top ?? 0"),
    )
    drawn = picture.evaluate(
        "[...document.querySelectorAll('[role=treeitem][aria-label^=deep]')].map(e => Number(e.getAttribute('y')))"
    )
    on_screen = [y for y in drawn if 0 <= y + above + holder <= below]
    return round((max(on_screen) - min(on_screen)) / layout.ROW) + 1 if on_screen else 0, len(on_screen)


def test_a_deep_stack_takes_no_room_from_what_is_on_the_screen(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, deep_table())
    for name, weight in SIBLINGS.items():
        assert width(frame(page, name)) == pytest.approx(weight / 303 * (1200 - 2 * layout.SIDE) - 0.6, abs=0.02)
    assert elements(page) < 5000
    page.keyboard.press("/")
    page.keyboard.type("sibling40")
    expect(page.get_by_role("status")).to_have_text("Matched: 13.20 %")
    assert frame(page, "sibling40").get_attribute("fill") == "#c026d3"


@pytest.mark.parametrize("shape", ["flame", "icicle"])
def test_what_is_scrolled_to_is_drawn(page: Page, tmp_path: Path, shape: str) -> None:
    open_file(page, tmp_path, deep_table())
    if shape == "icicle":
        page.keyboard.press("i")
    for share in (0.5, 0.1, 0.9):
        scrolled(page, f"{share} * document.documentElement.getBoundingClientRect().height")
        there, drawn = rows_on_screen(page, page.main_frame)
        assert there >= 40 and drawn == there
        assert elements(page) < 5000
    scrolled(page, "1e6" if shape == "flame" else "0")
    assert "sibling20" in names(page)


def test_what_a_page_scrolls_to_is_drawn(page: Page, served: Serve) -> None:
    files = pictures(deep_table(), "/flamegraph.js")
    page.goto(served(files) + "/")
    picture = page.frames[1]
    picture.wait_for_selector("[role=treeitem]")
    expect(picture.locator('[aria-label^="sibling20 ("]')).to_be_attached()
    # In a frame of less than the picture's height, it is the frame that scrolls.
    scrolled(picture, "5000")
    there, drawn = rows_on_screen(page, picture)
    assert there >= 30 and drawn == there
    # In one that is as high as the picture, it is the page.
    page.evaluate(
        """() => {
          const high = new CSSStyleSheet();
          high.replaceSync('iframe { height: 34000px !important }');
          document.adoptedStyleSheets = [high];
        }"""
    )
    picture.wait_for_function("innerHeight === 34000")
    for y in (20_000, 3000):
        scrolled(page, str(y))
        there, drawn = rows_on_screen(page, picture)
        assert there >= 40 and drawn == there
    assert elements(picture) < 5000


def test_the_keyboard_walks_to_what_was_not_drawn(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, deep_table())
    frame(page, "deep3").focus()
    page.keyboard.press("End")
    assert focused(page) == "deep1999"
    assert page.locator('[role=treeitem][tabindex="0"]').count() == 1
    page.keyboard.press("ArrowDown")
    assert focused(page) == "deep1998"
    page.keyboard.press("Home")
    assert focused(page) == "all"
    scrolled(page, "0")
    assert focused(page) == "all"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert focused(page) == "deep0" or focused(page) in SIBLINGS


def test_the_image_has_the_rows_that_the_document_has_not(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, deep_table())
    count = """async () => {
      const image = await createImageBitmap(await document.documentElement.pilotlight.png());
      const paper = new OffscreenCanvas(image.width, image.height).getContext('2d', { willReadFrequently: true });
      paper.drawImage(image, 0, 0);
      const rect = document.querySelector('[role=treeitem][aria-label^="deep0 ("]');
      const height = Number(document.documentElement.getAttribute('height'));
      const scale = image.height / height;
      const x = Number(rect.getAttribute('x')) + 200;
      const y = Number(rect.getAttribute('y')) + 8;
      const at = level => paper.getImageData(scale * x, scale * (y - 16 * level), 1, 1).data;
      const isCode = ([r, g, b]) => r > b + 60 || g > b + 60;
      return [...Array(1990).keys()].filter(level => isCode(at(level))).length;
    }"""
    # The hues of native code are warm, the paper's is not; a label may be where we look.
    assert page.evaluate(count) > 1800


def band(words: str) -> str:
    return f'[role=treeitem][aria-label="{words}"]'


CROWD = "30,000 frames too narrow to draw: 30,000 samples, 30.00 %"


def test_frames_too_narrow_are_a_band_that_tells_exactly_what_it_stands_for(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, crowd_table())
    crowd = page.locator(band(CROWD))
    assert crowd.get_attribute("fill") == "url(#fg-hatch)"
    assert width(crowd) == pytest.approx(0.3 * (1200 - 2 * layout.SIDE), abs=0.02)
    crowd.hover()
    expect(page.locator("#fg-details-name")).to_have_text(CROWD)
    expect(page.locator("#fg-details-origin")).to_have_text("Click or Enter zooms to their caller, loop")
    assert elements(page) < 5000


def test_a_click_on_a_band_zooms_to_its_caller_and_then_tells_the_way_in(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, crowd_table())
    crowd = page.locator(band(CROWD))
    crowd.click()
    expect(frame(page, "loop")).to_have_attribute("aria-current", "true")
    assert width(crowd) == pytest.approx(0.75 * (1200 - 2 * layout.SIDE), abs=0.02)
    crowd.click()
    expect(page.locator("#fg-details-origin")).to_contain_text("search for some of them and keep only these (Focus)")
    page.evaluate("document.documentElement.pilotlight.change({ focus: 'crowd000' })")
    assert "crowd00042" in names(page)


def test_a_band_is_walked_to_and_entered_by_key(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, crowd_table())
    frame(page, "wide").focus()
    page.keyboard.press("ArrowLeft")
    assert focused(page) == CROWD
    expect(page.locator("#fg-details-name")).to_have_text(CROWD)
    assert page.locator('[role=treeitem][tabindex="0"]').count() == 1
    page.keyboard.press("ArrowUp")
    assert focused(page) == CROWD
    page.keyboard.press("ArrowDown")
    assert focused(page) == "loop"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.set_viewport_size({"width": 1000, "height": 800})
    page.wait_for_function("Number(document.querySelector('[role=treeitem]').getAttribute('width')) < 1000")
    assert focused(page) == CROWD
    page.keyboard.press("Enter")
    assert focused(page) == "loop"
    expect(frame(page, "loop")).to_have_attribute("aria-current", "true")
    page.keyboard.press("c")  # and whatever else is done with a frame does no harm to a band
    for key in "hfwvrsik":
        page.locator("[role=treeitem]").last.focus()
        page.keyboard.press(key)
    assert names(page)[0] != ""


def test_bands_do_not_make_the_document_large(page: Page, tmp_path: Path) -> None:
    callers = [Frame(f"caller{i:04}", Kind.NATIVE) for i in range(1800)]
    narrow = [Frame(f"narrow{i}", Kind.NATIVE) for i in range(9)]
    page.set_viewport_size({"width": 3840, "height": 800})
    open_file(page, tmp_path, table_of([([caller, frame], 1) for caller in callers for frame in narrow]))
    assert page.locator('[role=treeitem][aria-label^="9 frames too narrow"]').count() == 200
    assert page.locator("#fg-frames path").count() == 1  # the other 1,600 are seen, and no more
    assert elements(page) < 5000
