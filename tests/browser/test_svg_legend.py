"""What colours mean, beside the picture, in real Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from tests.browser.pictures import PROCESS, READ, frame, open_file, table_of

MODULES = 30


def modules_table() -> StackTable:
    """Functions of 30 modules, each with more samples than the one after it; the kernel has none."""
    functions = [Frame(f"function{i:02}", Kind.NATIVE) for i in range(MODULES)]
    table = table_of([*(([PROCESS, f], 2 * MODULES - i) for i, f in enumerate(functions)), ([PROCESS, READ], 9)])
    for i, f in enumerate(functions):
        table.binaries[table.frames.index(f)] = f"/usr/lib/module{i:02}.so"
    return table


def words(page: Page) -> list[str]:
    return page.locator("#fg-legend text").all_text_contents()


def by(page: Page, colour: str) -> None:
    page.evaluate("colour => document.documentElement.pilotlight.change({ colour })", colour)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [390, 1200])
def test_the_key_of_modules_names_those_with_most_samples(page: Page, tmp_path: Path, size: int, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": size, "height": 800})
    open_file(page, tmp_path, modules_table())
    by(page, "module")
    told = words(page)
    named = [word for word in told if word.startswith("module")]
    assert told == ["kernel", "process", *named, "others"]
    assert named == [f"module{i:02}.so" for i in range(len(named))] and len(named) >= (3 if size == 390 else 8)
    for i, name in enumerate(named):
        entry = page.locator("#fg-legend g", has_text=name)
        assert entry.locator("rect").get_attribute("fill") == frame(page, f"function{i:02}").get_attribute("fill")
        assert (entry.locator("title").text_content() or "") == f"/usr/lib/{name}"
    for text in page.locator("#fg-legend text").all():
        box = text.bounding_box()
        assert box is not None and box["x"] + box["width"] <= size - 10


def test_the_key_of_modules_takes_out_kinds_that_have_none(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, modules_table())
    by(page, "module")
    page.get_by_role("button", name="kernel:").click()
    expect(frame(page, "vfs_read")).to_have_count(0)
    by(page, "hash")
    page.get_by_role("button", name="kernel:").click()
    expect(frame(page, "vfs_read")).to_have_count(1)


def test_colours_by_name_are_said_to_mean_nothing(page: Page, tmp_path: Path) -> None:
    open_file(page, tmp_path, modules_table())
    by(page, "hash")
    assert words(page) == ["Colours tell names apart; they mean nothing else."]
    assert page.locator("#fg-legend rect").count() == 0
    by(page, "kind")
    assert words(page) == ["kernel", "native", "process"]
