"""What a page can ask of the picture that it shows (svg.pilotlight), and what the picture tells it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from symbolizer.types import Frame, Kind
from tests.browser.pictures import CAPTION, STACKS, Serve, frame, names, pictures, table_of
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import write_svg

VIEWER = "document.documentElement.pilotlight"


def function(page: Page, name: str) -> dict[str, object]:
    found: dict[str, object] = page.evaluate(f"name => {VIEWER}.functions().find(row => row.name === name)", name)
    return found


def test_functions_weigh_once_however_often_they_are_on_a_stack(graph: Page) -> None:
    row = function(graph, "parse")
    assert (row["self"], row["total"], row["kind"], row["binary"]) == (1500, 3000, "native", "/usr/bin/server")
    assert graph.evaluate(f"{VIEWER}.total()") == 10_000
    graph.evaluate(f"{VIEWER}.change({{ reverse: true }})")
    assert function(graph, "parse") == row  # drawn another way, it weighs the same
    graph.evaluate(f"{VIEWER}.change({{ focus: 'parse_header' }})")
    assert (function(graph, "parse")["self"], function(graph, "parse")["total"]) == (500, 2000)


def test_a_page_is_told_of_changes_and_of_what_is_pointed_at(graph: Page) -> None:
    graph.evaluate(
        """() => {
          window.told = [];
          for (const name of ['change', 'point']) {
            const listen = event => window.told.push([name, event.detail]);
            document.documentElement.addEventListener(`pilotlight:${name}`, listen);
          }
        }"""
    )
    frame(graph, "vfs_read").hover()
    frame(graph, "vfs_read").click()
    told = graph.evaluate("window.told")
    assert told[0] == ["point", function(graph, "vfs_read")["key"]]
    assert [detail["zoom"] != "" for name, detail in told if name == "change"] == [True]


def test_a_function_is_marked_wherever_it_is(graph: Page) -> None:
    graph.evaluate(f"key => {VIEWER}.highlight(key)", function(graph, "parse")["key"])
    assert graph.locator("[data-marked]").count() == 2
    graph.evaluate(f"{VIEWER}.highlight(null)")
    assert graph.locator("[data-marked]").count() == 0


def test_a_newer_picture_takes_over_and_keeps_what_was_chosen(graph: Page) -> None:
    frame(graph, "main").click()
    graph.keyboard.press("/")
    graph.keyboard.type("vfs")
    graph.keyboard.press("Enter")
    newer = [*STACKS, ([Frame("aardvark", Kind.NATIVE)], 10_000)]
    svg = write_svg(build_tree(table_of(newer)), CAPTION).decode()
    elements = "document.querySelectorAll('#fg-title, [role=toolbar], #fg-frames').length"
    before = graph.evaluate(elements)
    graph.evaluate(f"text => {VIEWER}.update(text)", svg)
    assert graph.evaluate(f"{VIEWER}.total()") == 20_000
    expect(frame(graph, "main")).to_have_attribute("aria-current", "true")
    expect(graph.get_by_role("status")).to_have_text("Matched: 10.00 % of all, 33.33 % of the zoomed frame")
    assert graph.evaluate("document.activeElement.getAttribute('aria-label')").startswith("main (")
    assert graph.evaluate(elements) == before
    graph.keyboard.press("Escape")
    assert "aardvark" in names(graph)


def test_what_is_no_picture_is_refused_and_changes_nothing(graph: Page) -> None:
    before = names(graph)
    attempt = f"try {{ {VIEWER}.update('<svg/>'); }} catch (error) {{ return error.message; }}"
    error = graph.evaluate(f"() => {{ {attempt} }}")
    assert error == "This is no picture of pilotlight's." and names(graph) == before


def test_an_unknown_choice_is_left_alone(graph: Page) -> None:
    before = graph.evaluate(f"{VIEWER}.view()")
    graph.evaluate(f"{VIEWER}.change({{ nonsense: 1, zoom: 'nowhere' }})")
    assert graph.evaluate(f"{VIEWER}.view()") == before


def test_a_page_hears_when_the_picture_is_ready(page: Page, served: Serve) -> None:
    files = pictures(table_of(STACKS), "/flamegraph.js")
    late = files["/flamegraph.svg"]
    files["/flamegraph.svg"] = ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    url = served(files)
    page.goto(url + "/")
    files["/flamegraph.svg"] = late
    page.evaluate(
        """() => new Promise(resolve => {
          const frame = document.getElementById('picture');
          frame.addEventListener('pilotlight:ready', () => {
            window.ready = typeof frame.contentDocument.documentElement.pilotlight.view;
            resolve();
          });
          frame.contentWindow.location.reload();
        })"""
    )
    assert page.evaluate("window.ready") == "function"
