"""What is beside the frames, in real Chromium: card, path, account, light and dark, touch, and the image."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from profiler.model import Accounting, Unwinding
from symbolizer.types import Frame, Kind
from tests.browser.pictures import STACKS, Serve, frame, names, open_file, pictures, rows, table_of
from web.flamegraph.calltree import build_tree
from web.flamegraph.names import LONGEST_NAME
from web.flamegraph.svg import Caption, write_svg

ACCOUNT = Accounting(
    expected=13_000,
    ticks=12_500,
    idle=2000,
    filtered=400,
    sampled=10_000,
    lost={"stack map full": 100},
    unwinding=Unwinding(whole=900, cut={"no unwind table": 100}),
)


@pytest.fixture
def touch(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A picture on the screen of a telephone."""
    context = browser.new_context(viewport={"width": 390, "height": 760}, has_touch=True)
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    open_file(page, tmp_path)
    yield page
    context.close()


def test_the_card_tells_self_share_of_the_caller_and_how_sure_that_is(graph: Page) -> None:
    frame(graph, "vfs_read").hover()
    expect(graph.locator("#fg-details-shares")).to_have_text(
        "self 1,998 samples, 19.98 % · 33.33 % of main · 19.23 to 20.80 % of all with 95 % confidence"
    )


def test_the_card_grows_for_a_long_name_and_cuts_none_of_it(page: Page, tmp_path: Path) -> None:
    name = "ns::" + "Template<int, std::vector<char>>::" * 20 + "run"
    open_file(page, tmp_path, table_of([([Frame(name, Kind.NATIVE)], 3)]))
    frame(page, name).hover()
    expect(page.locator("#fg-details-name")).to_have_text(f"{name} (3 samples, 100.00 %, 30 ms CPU)")
    box = page.locator("#fg-details").bounding_box()
    assert box is not None and box["height"] > 90 and box["y"] > 0 and box["y"] + box["height"] <= 800
    for line in page.locator("#fg-details-name tspan").all():
        place = line.bounding_box()
        assert place is not None and place["x"] + place["width"] <= 1200 - 14


def test_the_path_to_the_zoomed_frame_is_walked_back_with_keys(graph: Page) -> None:
    frame(graph, "parse_header").click()
    path = graph.get_by_role("navigation", name="Path to the zoomed frame")
    assert path.get_by_role("button").count() == 5
    last = path.get_by_role("button", name="Zoom to parse_header")
    path.get_by_role("button", name="Zoom to all").focus()
    for _ in range(4):
        graph.keyboard.press("ArrowRight")
    expect(last).to_be_focused()
    graph.keyboard.press("ArrowLeft")
    graph.keyboard.press("ArrowLeft")
    graph.keyboard.press("Enter")
    assert "vfs_read" in names(graph) and "zebra" not in names(graph)  # main, two steps back


def test_a_long_path_says_how_many_steps_it_leaves_out(page: Page, tmp_path: Path) -> None:
    deep = [Frame(f"a_rather_long_name_of_level{i}", Kind.NATIVE) for i in range(80)]
    open_file(page, tmp_path, table_of([(deep, 3)]))
    page.evaluate(
        "document.querySelectorAll('[role=treeitem]')[70].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    path = page.get_by_role("navigation", name="Path to the zoomed frame")
    steps = path.locator("text").all_text_contents()
    assert steps[0] == "all" and any(re.fullmatch(r"… \d+ more", step) for step in steps)
    assert steps[-1] == "a_rather_long_name_of_level…"
    boxes = [step.bounding_box() for step in path.locator("text").all()]
    for left, right in pairwise(boxes):
        assert left is not None and right is not None and left["x"] + left["width"] <= right["x"]
    assert boxes[-1] is not None and boxes[-1]["x"] + boxes[-1]["width"] <= 1200


@pytest.fixture(params=["file", "served"])
def accounted(request: pytest.FixtureRequest, page: Page, served: Serve, tmp_path: Path) -> Page:
    caption = Caption("t", notes=("ticks: all of them", "frames: some"), accounts=(("", ACCOUNT),), rate="99 Hz")
    href = "/flamegraph.js" if request.param == "served" else None
    svg = write_svg(build_tree(table_of(STACKS)), caption, script_href=href)
    if href:
        page.goto(served(pictures(table_of(STACKS), href) | {"/x.svg": ("image/svg+xml", svg)}) + "/x.svg")
    else:
        (tmp_path / "x.svg").write_bytes(svg)
        page.goto((tmp_path / "x.svg").as_uri())
    return page


def test_one_line_says_what_the_picture_is_worth_and_opens_by_key(accounted: Page) -> None:
    strip = accounted.get_by_role("button", name="12,500 ticks")
    expect(strip).to_have_attribute(
        "aria-label",
        "12,500 ticks = 2,000 idle + 400 filtered + 10,000 shown + 100 lost, 3.85 % missed, "
        "5.40 % of frames without a name (no symbols 5.40 %), 10.00 % of user stacks cut short, 99 Hz",
    )
    lines = accounted.locator("#fg-account text")
    expect(lines).to_have_count(0)
    strip.focus()
    accounted.keyboard.press("Enter")
    expect(strip).to_have_attribute("aria-expanded", "true")
    assert lines.all_text_contents() == ["ticks: all of them", "frames: some"]
    expect(lines.last).to_be_visible()
    accounted.keyboard.press("Enter")
    expect(lines).to_have_count(0)
    # It is of all samples, as the ticks are, whatever is left out of the picture.
    accounted.evaluate("document.documentElement.pilotlight.change({ focus: 'zebra' })")
    expect(strip).to_have_attribute("aria-label", re.compile("5.40 % of frames without a name"))


def test_a_small_screen_has_the_whole_account_in_lines_that_fit(touch: Page) -> None:
    svg = write_svg(build_tree(table_of(STACKS)), Caption("t", notes=("a line " * 20,), accounts=(("", ACCOUNT),)))
    touch.evaluate("text => document.documentElement.pilotlight.update(text)", svg.decode())
    touch.get_by_role("button", name="12,500 ticks").tap()
    lines = touch.locator("#fg-account text")
    told = " ".join(lines.all_text_contents())
    assert "12,500 ticks = 2,000 idle + 400 filtered + 10,000 shown + 100 lost" in told and told.count("a line") == 20
    for line in lines.all():
        box = line.bounding_box()
        assert box is not None and box["x"] + box["width"] <= 390 - 14


def luminance(colour: str) -> float:
    """Of "rgb(r, g, b)" or "#rrggbb", relative, as WCAG 2 has it."""
    numbers = (
        [int(n) for n in re.findall(r"\d+", colour)[:3]]
        if colour.startswith("rgb")
        else list(bytes.fromhex(colour[1:]))
    )
    linear = [n / 255 / 12.92 if n / 255 <= 0.04045 else ((n / 255 + 0.055) / 1.055) ** 2.4 for n in numbers]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_legible_in_light_and_in_dark(page: Page, tmp_path: Path, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    open_file(page, tmp_path)
    for colour in ("kind", "module", "hash"):
        page.evaluate("colour => document.documentElement.pilotlight.change({ colour })", colour)
        found = page.evaluate(
            """() => {
              const fill = (element) => getComputedStyle(element).fill;
              const stops = [...document.querySelectorAll('#fg-paper stop')];
              const papers = stops.map(stop => getComputedStyle(stop).stopColor);
              const labels = [...document.querySelectorAll('#fg-frames text')];
              const pairs = labels.map(text => [fill(text), fill(text.previousElementSibling)]);
              for (const text of document.querySelectorAll('#fg-title, #fg-subtitle, #fg-legend text')) {
                for (const paper of papers) pairs.push([fill(text), paper]);
              }
              for (const text of document.querySelectorAll('[role=toolbar] [role=button] text, #fg-details > text')) {
                const box = text.parentElement.querySelector('rect');
                pairs.push([fill(text), fill(box)]);
              }
              return { pairs, paper: papers[0] };
            }"""
        )
        assert len(found["pairs"]) > 25
        assert (luminance(found["paper"]) < 0.1) == (scheme == "dark")
        for words, behind in found["pairs"]:
            assert contrast(words, behind) >= 4.5, (colour, words, behind)


def test_the_picture_follows_when_the_screen_turns_dark(graph: Page) -> None:
    before = frame(graph, "zebra").get_attribute("fill")
    graph.emulate_media(color_scheme="dark")
    expect(frame(graph, "zebra")).not_to_have_attribute("fill", before or "")


def test_nothing_moves_by_itself_for_those_who_want_it_still(page: Page, tmp_path: Path) -> None:
    page.emulate_media(reduced_motion="reduce")
    open_file(page, tmp_path)
    frame(page, "main").click()
    assert page.evaluate("document.getAnimations().length") == 0
    animated = "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).transitionDuration !== '0s').length"
    assert page.evaluate(animated) == 0


def test_a_tap_tells_and_a_second_one_zooms(touch: Page) -> None:
    frame(touch, "vfs_read").tap()
    expect(touch.locator("#fg-details-name")).to_contain_text("vfs_read (2,000 samples")
    assert "zebra" in names(touch)
    frame(touch, "vfs_read").tap()
    assert names(touch)[:4] == ["all", "server", "main", "vfs_read"] and "zebra" not in names(touch)
    touch.get_by_role("button", name="Reset zoom").tap()
    assert "zebra" in names(touch)


def test_a_small_screen_has_all_buttons_when_asked(touch: Page) -> None:
    expect(touch.get_by_role("button", name="Leaf first")).to_be_hidden()
    touch.get_by_role("button", name="More").tap()
    touch.get_by_role("button", name="Leaf first").tap()
    assert rows(touch)[1][3] == "[libz.so: no symbols]"
    for button in touch.locator("[role=toolbar] [role=button]").all():
        box = button.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 390)


def pixels(png: bytes) -> tuple[int, int]:
    """The size of a PNG whose parts are all as their checksums say."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        checksum = struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        assert zlib.crc32(png[at + 4 : at + 8 + length]) == checksum
        at += 12 + length
    assert kind == b"IEND"
    wide, high = struct.unpack(">II", png[16:24])
    return wide, high


def test_what_is_seen_is_saved_as_an_image(graph: Page) -> None:
    frame(graph, "main").click()
    with graph.expect_download() as download:
        graph.get_by_role("button", name="PNG").click()
    assert download.value.suggested_filename == "CPU-profile.png"
    png = Path(download.value.path()).read_bytes()
    height = float(graph.locator("svg").first.get_attribute("height") or 0)
    assert pixels(png) == (2400, round(2 * height))
    # The frame's own colour is in it, where the frame is.
    colour = graph.evaluate(
        """async () => {
          const blob = await document.documentElement.pilotlight.png();
          const image = await createImageBitmap(blob);
          const paper = new OffscreenCanvas(image.width, image.height).getContext('2d');
          paper.drawImage(image, 0, 0);
          const rect = document.querySelector('[aria-current=true]');
          const [x, y] = ['x', 'y'].map(name => Number(rect.getAttribute(name)));
          const [r, g, b] = paper.getImageData(2 * (x + 600), 2 * (y + 2), 1, 1).data;
          return '#' + [r, g, b].map(n => n.toString(16).padStart(2, '0')).join('');
        }"""
    )
    assert colour == frame(graph, "main").get_attribute("fill")


NAMES = {
    "10 kB": "x" * 10_000,
    "right to left": "\u05e4\u05d5\u05e0\u05e7\u05e6\u05d9\u05d4\u202e\u202d()",
    "combining": "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d" * 40,
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466" * 30,
    "markup": "</script></metadata><b onclick=alert(1)>&amp;",
}


@pytest.mark.parametrize("kind", NAMES)
def test_any_name_is_shown_found_copied_and_zoomed_into(page: Page, tmp_path: Path, kind: str) -> None:
    open_file(
        page,
        tmp_path,
        table_of([([Frame(NAMES[kind], Kind.NATIVE), Frame("leaf", Kind.NATIVE)], 7), ([Frame("z", Kind.NATIVE)], 3)]),
    )
    strange = page.locator("[role=treeitem]").nth(1) if kind != "10 kB" else page.locator('[aria-label^="xxxx"]')
    whole = strange.get_attribute("aria-label") or ""
    if "70.00" not in whole:
        strange = page.locator("[role=treeitem]").nth(2)
        whole = strange.get_attribute("aria-label") or ""
    strange.hover()
    expect(page.locator("#fg-details-name")).to_contain_text("(7 samples, 70.00 %, 70 ms CPU)")
    assert len(whole) <= LONGEST_NAME + 40
    strange.click()
    assert len(names(page)) == 3
    for mode in ("module", "hash"):
        page.evaluate("colour => document.documentElement.pilotlight.change({ colour })", mode)
    key = page.evaluate("document.documentElement.pilotlight.functions().find(f => f.total === 7 && f.self === 0).key")
    page.evaluate("sandwich => document.documentElement.pilotlight.change({ sandwich })", key)
    assert len(names(page)) == 2 and page.locator("parsererror, b").count() == 0
    page.reload()
    assert len(names(page)) == 2


def test_a_hundred_thousand_siblings_are_drawn_as_far_as_they_can_be(page: Page, tmp_path: Path) -> None:
    siblings = [([Frame(f"sibling_{i:06}", Kind.NATIVE)], 1 + i % 3) for i in range(100_000)]
    open_file(page, tmp_path, table_of(siblings))
    assert names(page) == ["all", "100,000 frames too narrow to draw: 199,999 samples, 100.00 %"]
    page.keyboard.press("/")
    page.keyboard.type("sibling_0777..$")
    expect(page.get_by_role("status")).to_have_text("Matched: 0.10 %")
    page.evaluate("document.documentElement.pilotlight.change({ search: '', focus: 'sibling_0777..$' })")
    assert len(names(page)) == 101
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


def test_two_thousand_levels_are_walked_from_end_to_end(page: Page, tmp_path: Path) -> None:
    deep = [Frame(f"level_{i:04}", Kind.NATIVE) for i in range(2000)]
    open_file(page, tmp_path, table_of([(deep, 5)]))
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    page.locator("[role=treeitem]").first.focus()
    page.keyboard.press("End")
    deepest = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == deepest
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    for change in ("{ reverse: true }", "{ reverse: false, collapse: true }"):
        page.evaluate(f"document.documentElement.pilotlight.change({change})")
        assert page.evaluate("document.documentElement.pilotlight.total()") == 5


def test_the_card_at_rest_is_whole_on_a_small_screen_and_covers_no_frame(touch: Page) -> None:
    frame(touch, "vfs_read").tap()
    frame(touch, "vfs_read").tap()
    touch.evaluate("document.querySelector('#fg-frames').dispatchEvent(new PointerEvent('pointerleave'))")
    name, hint = touch.locator("#fg-details-name"), touch.locator("#fg-details-origin")
    expect(name).to_have_text("Zoomed: vfs_read (2,000 samples, 20.00 %, 20 s CPU)")
    expect(hint).to_have_text("Tap a frame for details, tap it again to zoom · tap its caller to zoom out")
    for line in [*name.locator("tspan").all(), *hint.locator("tspan").all()]:
        box = line.bounding_box()
        assert box is not None and box["x"] + box["width"] <= 390 - 14
    root, card = frame(touch, "all").bounding_box(), touch.locator("#fg-details rect").first.bounding_box()
    last = hint.bounding_box()
    assert root is not None and card is not None and last is not None
    assert root["y"] + root["height"] <= card["y"] and last["y"] + last["height"] <= card["y"] + card["height"]


def test_of_a_long_name_that_is_zoomed_to_the_weight_is_seen(page: Page, tmp_path: Path) -> None:
    name = "ns::" + "Template<int, std::vector<char>>::" * 20 + "run"
    open_file(page, tmp_path, table_of([([Frame(name, Kind.NATIVE)], 3)]))
    frame(page, name).click()
    page.mouse.move(5, 5)
    expect(page.locator("#fg-details-name")).to_contain_text(
        re.compile(r"^Zoomed: ns::.*… \(3 samples, 100.00 %, 30 ms CPU\)$")
    )
    box = page.locator("#fg-details").bounding_box()
    root = frame(page, "all").bounding_box()
    assert box is not None and root is not None and root["y"] + root["height"] <= box["y"]
