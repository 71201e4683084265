"""Captures and comparisons in real Chromium as the history is: what they folded away loads, exactly; captures are
grouped, and have the table of their functions."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import FrameLocator, Locator, Page, expect

from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from tests.browser.served import push
from web.store import captures as stored
from web.store.captures import Capture, State
from web.store.store import Store

CHECKOUT = Path(__file__).parent.parent.parent
# Pictures, and what is loaded into them, hold few nodes here, so that a profile that people can count in is too large.
PROGRAM = """
import sys
from web import below_endpoint, exports
from web.app import ServerOptions, serve
from web.flamegraph import diff_svg, svg
exports.MOST_NODES = svg.MOST_NODES = diff_svg.MOST_NODES = 30
below_endpoint._MOST_NODES = 40
options = ServerOptions(sys.argv[1], port=0, commit_seconds=0)
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""
CAPTURE = "0123456789abcdef"
FEW = 60  # functions that are called once, each with a callee of its own
HOSTILE = "<img src=x onerror=alert(1)>"


def location(number: int, name: str, line: int = 0) -> Location:
    return Location(number, Binary("/usr/bin/app"), (Frame(name, Kind.NATIVE, "", "app.c" if line else "", line),))


MAIN, BUSY = location(1, "main", 3), location(2, "busy", 7)


def called(name: str, i: int, count: int) -> Sample:
    number = 100 * len(name) + 2 * i
    few, deep = location(number, f"{name}_{i:02}"), location(number + 1, f"{name}_callee_{i:02}")
    return Sample((deep, few, MAIN), 1, "app", "app", count)


def profile(start: int, samples: tuple[Sample, ...]) -> Profile:
    sampled = sum(sample.count for sample in samples)
    window = Window(start * 10**9, (start + 10) * 10**9)
    return Profile("web-1", "cpu-clock", 1999, window, samples, Accounting(sampled, sampled, 0, 0, sampled, {}, 240))


BEFORE = (
    Sample((BUSY, MAIN), 1, "app", "app", 10_000),
    *(called("seldom", i, 1 + i) for i in range(FEW)),
    *(called("gone", i, 1 + i % 7) for i in range(20)),
)
AFTER = (
    Sample((BUSY, MAIN), 1, "app", "app", 9_000),
    *(called("seldom", i, FEW - i) for i in range(FEW)),
    *(called("born", i, 1 + i % 5) for i in range(20)),
    Sample((BUSY, *(location(10 + i, f"layer_{i}") for i in range(6)), MAIN), 2, HOSTILE, HOSTILE, 500),
)


def totals(samples: tuple[Sample, ...]) -> dict[str, int]:
    """What each function weighs, of those that stacks are made of."""
    found: dict[str, int] = {}
    for sample in samples:
        for name in {frame.function for place in sample.stack for frame in place.frames}:
            found[name] = found.get(name, 0) + sample.count
    return found


@dataclass(frozen=True, slots=True)
class World:
    """A server whose history has BEFORE, then AFTER from `start` on, which is a capture as well."""

    url: str
    start: int

    @property
    def capture(self) -> str:
        return f"{self.url}captures/{CAPTURE}"

    def diff(self, extension: str = "", **query: str) -> str:
        times = f"from={self.start}&until={self.start + 10}&baseFrom={self.start - 10}&baseUntil={self.start}"
        return f"{self.url}diff{extension}?{times}" + "".join(f"&{name}={value}" for name, value in query.items())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = f"chdb://{tmp_path_factory.mktemp('captured')}/store"
    start = int(time.time()) // 10 * 10 - 300
    store = Store(url)
    stored.save_profile(store, CAPTURE, profile(start, AFTER))
    done = Capture(CAPTURE, "", "web-1", "cpu-clock", 10, 0, (), (), time.time(), State.DONE, profiled=True)
    stored.save(store, done)
    store.close()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, url], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address
    push(address, profile(start - 10, BEFORE), 0)
    push(address, profile(start, AFTER), 1)
    yield World(address, start)
    process.terminate()
    assert process.wait(60) == 0


def folded(page: Page) -> Locator:
    return page.locator('[role=treeitem][fill="url(#fg-hatch)"]:not([aria-label*="to draw:"])')


def weights(page: Page, column: str = "total") -> dict[str, int]:
    rows = page.evaluate("document.documentElement.pilotlight.functions()")
    assert len({row["name"] for row in rows}) == len(rows)
    kinds = {"process", "thread", "folded away"}
    return {row["name"]: row[column] for row in rows if row["kind"] not in kinds and row[column]}


def load_all(page: Page) -> None:
    """Goes to what is folded away until nothing is; each time there is more, and the totals stay."""
    whole = page.evaluate("document.documentElement.pilotlight.total()")
    page.evaluate("document.documentElement.pilotlight.change({ zoom: '' })")
    for _ in range(20):
        if not folded(page).count():
            break
        known = page.evaluate("document.documentElement.pilotlight.functions().map((row) => row.name).join()")
        folded(page).first.focus()
        page.keyboard.press("Enter")
        page.wait_for_function(
            "known => document.documentElement.pilotlight.functions().map((row) => row.name).join() !== known",
            arg=known,
        )
        assert page.evaluate("document.documentElement.pilotlight.total()") == whole
        page.evaluate("document.documentElement.pilotlight.change({ zoom: '' })")
    assert folded(page).count() == 0


@pytest.mark.parametrize("group_by", ["", "?groupBy=pid"])
def test_what_a_captures_picture_folded_away_loads(world: World, page: Page, group_by: str) -> None:
    page.goto(f"{world.capture}.svg{group_by}")
    expect(folded(page)).not_to_have_count(0)
    folded(page).first.hover()
    expect(page.locator("#fg-details-name")).to_contain_text("frames below")
    expect(page.locator("#fg-details-shares")).to_contain_text("click or Enter loads them")
    load_all(page)
    assert weights(page) == totals(AFTER)


@pytest.mark.parametrize("width", ["after", "before", "union"])
def test_what_a_comparison_folded_away_loads_with_both_sides(world: World, page: Page, width: str) -> None:
    page.goto(world.diff(".svg", width=width))
    if width == "after":  # what is no more is to be seen as well
        page.keyboard.press("v")
    expect(folded(page)).not_to_have_count(0)
    assert len(weights(page, "beforeTotal")) < len(totals(BEFORE))
    load_all(page)
    assert weights(page) == totals(AFTER) and weights(page, "beforeTotal") == totals(BEFORE)
    # Turned round, every stack is there with both sides, and nothing stands for what is folded away.
    page.keyboard.press("r")
    first = page.locator('[role=treeitem][aria-level="2"]')
    labels = first.evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert not any("folded" in label or "below" in label for label in labels)
    assert any(label.startswith("busy (") and "10,000 and 9,500 samples" in label for label in labels), labels
    assert weights(page, "beforeTotal") == totals(BEFORE)


def test_turned_round_a_captures_picture_says_where_what_is_folded_away_loads(world: World, page: Page) -> None:
    page.goto(f"{world.capture}.svg#order=leaf-first")
    folded(page).first.hover()
    expect(page.locator("#fg-details-shares")).to_contain_text("they load where stacks are shown from the root")


def picture(page: Page) -> FrameLocator:
    return page.frame_locator("#picture")


def row(page: Page, name: str) -> Locator:
    return page.locator("#functions-table tbody tr").filter(has=page.get_by_role("button", name=name, exact=True))


def test_a_capture_is_grouped_by_what_is_chosen(world: World, page: Page) -> None:
    page.goto(world.capture)
    page.get_by_label("Grouped by").select_option("process id")
    expect(page).to_have_url(f"{world.capture}?groupBy=pid")
    groups = picture(page).locator('[role=treeitem][aria-level="2"]')
    expect(groups.first).to_be_visible()
    labels = groups.evaluate_all("all => all.map(e => e.getAttribute('aria-label').split(' (')[0])")
    assert labels == ["1", "2"]
    page.get_by_label("Grouped by").select_option("nothing")
    expect(page).to_have_url(f"{world.capture}?")
    expect(picture(page).locator('[role=treeitem][aria-label^="app ("]').first).to_be_visible()


def test_a_captures_table_and_picture_show_each_other(world: World, page: Page) -> None:
    page.goto(f"{world.capture}?groupBy=process")
    busy = row(page, "busy")
    expect(busy).to_be_visible()
    assert busy.locator("td").first.inner_text() == "9,500"
    picture(page).locator('[role=treeitem][aria-label^="busy ("]').first.hover()
    expect(busy).to_have_class("pointed")
    row(page, "main").hover()
    expect(picture(page).locator("rect[data-marked]").first).to_be_attached()
    page.get_by_role("button", name="busy", exact=True).click()
    expect(page.locator("#callers tbody")).to_contain_text("main")
    expect(page.locator("#lines tbody tr")).to_have_text(["app.c:79,5009,500100.00 %"])
    expect(page.locator("#function")).to_contain_text("Of all 9,500 samples that have it")


def test_a_comparisons_table_and_picture_show_each_other(world: World, page: Page) -> None:
    page.goto(world.diff())
    line = page.locator("#changes tbody tr").filter(has=page.get_by_role("button", name="busy", exact=True))
    expect(line).to_have_count(1)
    picture(page).locator('[role=treeitem][aria-label^="busy ("]').first.hover()
    expect(line).to_have_class("pointed")
    page.get_by_role("heading", name="Compare").hover()
    line.hover()
    expect(picture(page).locator("rect[data-marked]").first).to_be_attached()


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_a_picture_a_little_too_high_has_no_scrollbar_in_its_frame(world: World, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for address in (f"{world.url}flamegraph?from={world.start}&until={world.start + 10}", world.capture):
        page.goto(address)
        expect(picture(page).locator("[role=treeitem]").first).to_be_visible()
        inner = page.evaluate(
            """() => { const { documentElement } = document.getElementById('picture').contentDocument;
                       return [documentElement.scrollHeight, documentElement.clientHeight]; }"""
        )
        assert inner[0] == inner[1] > 420
        assert page.evaluate("document.documentElement.scrollWidth") <= width
