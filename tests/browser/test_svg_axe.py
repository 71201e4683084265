"""The picture for those who do not see it, or not well: axe-core finds nothing serious in any of its states."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.browser.axe import complaints
from tests.browser.pictures import frame

STATES = {
    "as it opens": "{}",
    "searched": "{ search: 'parse' }",
    "searched in vain": "{ search: '(' }",
    "filtered": "{ focus: 'main', hide: 'header', kinds: ['kernel'] }",
    "leaf first, by module": "{ reverse: true, colour: 'module' }",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_in_any_state(graph: Page, scheme: str) -> None:
    graph.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for name, change in STATES.items():
        graph.evaluate(f"document.documentElement.pilotlight.change({change})")
        assert complaints(graph) == [], name
    graph.evaluate("document.documentElement.pilotlight.change({ search: '', focus: '', hide: '', kinds: [] })")
    frame(graph, "main").first.click()
    graph.keyboard.press("Tab")
    graph.evaluate("document.querySelector('#fg-notes [role=button]').dispatchEvent(new MouseEvent('click'))")
    assert complaints(graph) == []


def test_what_would_be_serious_is_found(graph: Page) -> None:
    graph.evaluate("document.querySelector('[role=searchbox]').setAttribute('aria-checked', 'perhaps')")
    assert any("aria-allowed-attr" in complaint for complaint in complaints(graph))
