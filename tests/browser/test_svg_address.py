"""What people chose, in the address: kept, restored, sent around and taken back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from symbolizer.types import Frame, Kind
from tests.browser.pictures import (
    MAIN,
    PROCESS,
    STACKS,
    Serve,
    frame,
    names,
    open_file,
    picture_in,
    pictures,
    table_of,
    x,
    y,
)


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


@pytest.mark.parametrize("shown", ["file", "page"])
def test_the_back_button_undoes_zooms_and_shapes(page: Page, served: Serve, tmp_path: Path, shown: str) -> None:
    if shown == "file":
        open_file(page, tmp_path)
        inner = page.main_frame
    else:
        page.goto(served(pictures(table_of(STACKS), "/flamegraph.js")) + "/")
        inner = picture_in(page)

    def there() -> list[str]:
        labels: list[str] = inner.evaluate(
            "[...document.querySelectorAll('[role=treeitem]')].map(e => e.getAttribute('aria-label').split(' (')[0])"
        )
        return labels

    whole = there()
    inner.locator('[aria-label^="main ("]').click()
    zoomed = there()
    inner.locator('[aria-label^="vfs_read ("]').click()
    inner.get_by_role("button", name="Leaf first").click()
    turned = there()
    page.go_back()
    inner.wait_for_selector('[aria-current=true][aria-label^="vfs_read ("]')
    page.go_back()
    inner.wait_for_selector('[aria-current=true][aria-label^="main ("]')
    assert there() == zoomed
    page.go_back()
    inner.wait_for_selector('[aria-label^="zebra ("]')
    assert there() == whole
    for _ in range(3):
        page.go_forward()
    inner.wait_for_selector('[aria-pressed=true][aria-label^="Leaf first"]')
    assert there() == turned


def test_typing_a_search_leaves_no_trail_of_letters_behind(graph: Page) -> None:
    before = graph.evaluate("history.length")
    graph.keyboard.press("/")
    graph.keyboard.type("parse")
    graph.keyboard.press("Enter")
    graph.keyboard.press("s")
    assert graph.evaluate("history.length") == before


def test_the_address_brings_every_choice_back(graph: Page) -> None:
    choices = {
        "search": "vfs & more?",
        "icicle": True,
        "byWeight": True,
        "reverse": True,
        "collapse": True,
        "focus": "main",
        "hide": "^server$",
        "colour": "module",
        "names": "full",
        "kinds": ["JIT"],
    }
    graph.evaluate("choices => document.documentElement.pilotlight.change(choices)", choices)
    frame(graph, "parse_header").first.click()
    before = graph.evaluate("document.documentElement.pilotlight.view()")
    assert choices.items() <= before.items() and before["zoom"]
    graph.reload()
    assert graph.evaluate("document.documentElement.pilotlight.view()") == before
    graph.evaluate("location.hash = '#kinds=nonsense&colour=rainbow&zoom=9-zz&sandwich=x&order=leaf-first'")
    graph.wait_for_function("document.documentElement.pilotlight.view().sandwich === 'x'")
    view = graph.evaluate("document.documentElement.pilotlight.view()")
    assert view["kinds"] == [] and view["colour"] == "kind" and view["zoom"] == ""


@pytest.mark.parametrize("shown", ["file", "page"])
def test_a_zoom_that_the_picture_has_not_is_told_of_once_and_dropped(
    page: Page, served: Serve, tmp_path: Path, shown: str
) -> None:
    gone = "#search=vfs&zoom=3-0123456789abcdef"
    if shown == "file":
        address = open_file(page, tmp_path)
        page.goto("about:blank")  # else it would be the same document
        page.goto(address + gone)
        inner = page.main_frame
    else:
        page.goto(served(pictures(table_of(STACKS), "/flamegraph.js")) + "/" + gone)
        inner = picture_in(page)
    said = inner.locator("#fg-details-origin")
    expect(said).to_have_text("The frame that the link zooms to is not in this picture")
    expect(page).to_have_url(re.compile("#search=vfs$"))
    expect(inner.get_by_role("status")).to_have_text("Matched: 20.00 %")
    inner.locator('[aria-label^="main ("]').hover()
    expect(said).to_contain_text("native")
    page.mouse.move(5, 5)
    expect(said).to_contain_text("Hover for details")
