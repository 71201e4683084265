"""The flame graph by keyboard alone, in real Chromium."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.pictures import (
    focused,
    frame,
    names,
    width,
)


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
