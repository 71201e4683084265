"""The picture saved as an image, in real Chromium."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

from symbolizer.types import Frame, Kind
from tests.browser.pictures import PROCESS, ZEBRA, frame, open_file, table_of

TALL = [
    ([PROCESS, *(Frame(f"level{i}", Kind.NATIVE) for i in range(120))], 60),
    ([PROCESS, ZEBRA], 40),
]

# Keeps the pixels of the image that would be saved as window.images[name].
KEEP = """async name => {
  const image = await createImageBitmap(await document.documentElement.pilotlight.png());
  const paper = new OffscreenCanvas(image.width, image.height).getContext('2d');
  paper.drawImage(image, 0, 0);
  window.images = { ...window.images, [name]: paper.getImageData(0, 0, image.width, image.height) };
}"""

# How many pixels differ between two of them; -1 if they are not of one size.
DIFFERENCE = """([one, other]) => {
  const [a, b] = [window.images[one], window.images[other]];
  if (a.width !== b.width || a.height !== b.height) return -1;
  const [left, right] = [a, b].map(image => new Uint32Array(image.data.buffer));
  return left.reduce((sum, pixel, i) => sum + (pixel !== right[i]), 0);
}"""

# The colour in a frame of that name, 2 pixels above its lower edge, in an image.
COLOUR = """([name, label]) => {
  const rect = document.querySelector(`[role=treeitem][aria-label^="${label} ("]`);
  const [x, y, width, height] = ['x', 'y', 'width', 'height'].map(key => Number(rect.getAttribute(key)));
  const image = window.images[name];
  const at = 4 * (Math.round(2 * (y + height - 2)) * image.width + Math.round(2 * (x + width / 2)));
  return '#' + [...image.data.slice(at, at + 3)].map(n => n.toString(16).padStart(2, '0')).join('');
}"""


def same(page: Page, one: str, other: str) -> bool:
    difference: int = page.evaluate(DIFFERENCE, [one, other])
    return difference == 0


def test_the_image_of_a_scrolled_picture_is_that_of_all_of_it(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, table_of(TALL))
    assert page.evaluate("scrollY") > 0
    page.evaluate("scrollTo(0, 0)")
    page.evaluate(KEEP, "top")
    for scrolled in (40, 700, 100_000):
        page.evaluate("y => scrollTo(0, y)", scrolled)
        page.evaluate("() => new Promise(requestAnimationFrame)")
        page.evaluate(KEEP, "scrolled")
        assert same(page, "top", "scrolled")
    for function in ("level119", "level60", "zebra"):
        assert page.evaluate(COLOUR, ["scrolled", function]) == frame(page, function).get_attribute("fill")


def test_no_card_covers_frames_in_the_image(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, table_of(TALL))
    page.keyboard.press("i")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate(KEEP, "rest")
    frame(page, "zebra").hover()
    page.evaluate(KEEP, "hovered")
    assert same(page, "rest", "hovered")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.evaluate(KEEP, "focused")
    assert same(page, "rest", "focused")
    for i in range(120):
        function = f"level{i}"
        assert page.evaluate(COLOUR, ["rest", function]) == frame(page, function).get_attribute("fill")


def test_the_picture_is_as_it_was_once_the_image_is_made(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, table_of(TALL))
    frame(page, "level3").hover()
    before = page.evaluate("new XMLSerializer().serializeToString(document)")
    page.evaluate(KEEP, "x")
    assert page.evaluate("new XMLSerializer().serializeToString(document)") == before
