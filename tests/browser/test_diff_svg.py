"""A differential flame graph in real Chromium: both sides' words, what vanished, colours, and the address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from web.flamegraph import layout
from web.flamegraph.diff import build_diff
from web.flamegraph.diff_svg import write_diff_svg
from web.flamegraph.svg import Caption


def table_of(stacks: list[tuple[str, int]]) -> StackTable:
    names = list(dict.fromkeys(name for stack, _ in stacks for name in stack.split(";")))
    index = [names.index(name) for stack, _ in stacks for name in stack.split(";")]
    return StackTable(
        [Frame(name, Kind.NATIVE) for name in names],
        [""] * len(names),
        np.array(index, np.uint32),
        np.concatenate(([0], np.cumsum([stack.count(";") + 1 for stack, _ in stacks]))).astype(np.int64),
        np.array([count for _, count in stacks], np.int64),
    )


BEFORE = table_of([("main;grows", 100), ("main;gone;leaf", 300), ("main;same", 1600)])
AFTER = table_of([("main;grows", 1600), ("main;same", 6400)])


@pytest.fixture
def picture(page: Page, tmp_path: Path) -> Page:
    page.context.set_offline(True)
    path = tmp_path / "diff.svg"
    path.write_bytes(write_diff_svg(build_diff(BEFORE, AFTER), Caption("before and after")))
    page.goto(path.as_uri())
    return page


def frame(page: Page, name: str) -> Locator:
    return page.locator(f'#fg-frames rect[aria-label^="{name} ("]')


def share(page: Page, name: str) -> float:
    whole = float(frame(page, "all").get_attribute("width") or 0)
    return float(frame(page, name).get_attribute("width") or 0) / whole


def test_widths_are_after_and_hovering_tells_both_sides(picture: Page) -> None:
    assert share(picture, "grows") == pytest.approx(0.2, abs=0.002)
    expect(frame(picture, "gone")).to_have_count(0)
    frame(picture, "grows").hover()
    expect(picture.locator("#fg-details-name")).to_have_text(
        "grows (before 5.00 %, after 20.00 %, +15.00 points; 100 and 1,600 samples)"
    )
    assert frame(picture, "grows").get_attribute("fill") in layout.GREW
    assert frame(picture, "same").get_attribute("fill") == layout.UNCHANGED


def test_what_vanished_is_shown_when_told_to_and_zoomed_out_of_when_hidden(picture: Page) -> None:
    picture.keyboard.press("v")
    # 15 % of what was before, beside all that is after
    assert share(picture, "gone") == pytest.approx(0.15 / 1.15, abs=0.002)
    assert frame(picture, "gone").get_attribute("fill") == layout.SHRANK[3]
    assert "vanished=shown" in picture.url
    frame(picture, "leaf").click()
    picture.get_by_role("button", name="Vanished: shown").click()
    expect(frame(picture, "gone")).to_have_count(0)
    assert share(picture, "main") == pytest.approx(1, abs=0.002)
    assert "#" not in picture.url


def test_the_address_brings_what_vanished_back(picture: Page) -> None:
    picture.keyboard.press("v")
    picture.reload()
    expect(frame(picture, "gone")).to_have_count(1)


def test_the_legend_says_what_colours_mean(picture: Page) -> None:
    assert picture.locator("#fg-legend text").all_text_contents() == ["grew", "shrank", "no significant change"]


def test_a_search_counts_shares_of_what_is_shown(picture: Page) -> None:
    picture.keyboard.press("/")
    picture.keyboard.type("grows")
    expect(picture.get_by_role("status")).to_have_text("Matched: 20.00 %")
