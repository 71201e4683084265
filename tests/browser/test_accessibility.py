"""Every page, light and dark, as axe-core judges it in real Chromium: nothing serious, nothing critical."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Frame, Page

from tests.browser import spike_world
from tests.browser.served import Server, serving
from tests.clients.npm import unpacked

AXE = (
    "axe-core@4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)
SPIKE = f"from={spike_world.at(100)}&until={spike_world.at(112)}&host=web-2"
PATHS = {
    "hosts": "?from=now-2h",
    "host": "hosts/web-2?from=now-2h",
    "flame graph": f"flamegraph?{SPIKE}",
    "flame graph of nothing": "flamegraph?from=now-30d&until=now-29d",
    "comparison": f"diff?{SPIKE}&baseFrom=from-10m&baseUntil=from",
    "comparison with nothing": f"diff?{SPIKE}&baseFrom=now-30d&baseUntil=now-29d",
    "captures": "captures",
    "capture": "captures/{capture}",
    "history": "settings",
    "open a file": "open",
    "API": "docs",
    "pprof": "debug/pprof/",
    "login": "login",
    "no such page": "nothing-here",
}
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("axe"), "tests.browser.spike_world") as server:
        yield server


def judged(frame: Frame | Page) -> list[str]:
    """What axe-core finds serious or critical in a document, one line for each element."""
    frame.evaluate((unpacked(*AXE) / "axe.min.js").read_text())
    found: list[dict[str, Any]] = frame.evaluate(
        """async () => {
          const { violations } = await axe.run(document, { iframes: false, resultTypes: ["violations"] });
          return violations.filter(({ impact }) => impact === "serious" || impact === "critical");
        }"""
    )
    return [
        f"{rule['impact']}: {rule['id']}: {node['html'][:160]} ({node.get('failureSummary', '')[:200]})"
        for rule in found
        for node in rule["nodes"]
    ]


def opened(browser: Browser, url: str, scheme: Literal["light", "dark"], width: int = 1200) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url)
    return page


def pictures(page: Page) -> list[Frame]:
    """The documents in the page's frames, once their scripts have run."""
    found = [frame for frame in page.frames if frame is not page.main_frame]
    for frame in found:
        frame.wait_for_function("document.documentElement.pilotlight !== undefined")
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PATHS)
def test_a_page_has_no_serious_problem(
    server: Server, browser: Browser, name: str, scheme: Literal["light", "dark"]
) -> None:
    path = PATHS[name]
    if "{capture}" in path:
        asked = httpx.post(server.url + "api/v1/captures", json={"host": "web-1", "seconds": 60}, timeout=30)
        path = path.format(capture=asked.json()["id"])
    page = opened(browser, server.url + path, scheme)
    assert judged(page) == []
    for frame in pictures(page):
        assert judged(frame) == []
    page.context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_opens_on_a_flame_graphs_page_has_none_either(
    server: Server, browser: Browser, scheme: Literal["light", "dark"]
) -> None:
    page = opened(browser, f"{server.url}flamegraph?{SPIKE}", scheme, 1000)
    page.get_by_text("Export and share").click()
    assert judged(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name=spike_world.GUILTY, exact=True).first.click()
    page.get_by_text("Lines of its source").wait_for()
    page.locator("#lines tbody tr").first.wait_for()
    assert judged(page) == []
    for frame in pictures(page):
        frame.evaluate("document.documentElement.pilotlight.change({ sandwich: '', search: 'regex' })")
        assert judged(frame) == []
    page.context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_opened_file_has_none_either(
    server: Server, browser: Browser, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """With the heat map of its time, its picture in the page itself, and one of its functions chosen."""
    samples = (f"app 7/7 {i / 99:.6f}: 10101010 cpu-clock:\n\t7f1 leaf (/app)\n\t7f2 main (/app)\n" for i in range(400))
    path = tmp_path / "perf.txt"
    path.write_text("\n".join(samples))
    page = opened(browser, server.url + "open", scheme)
    page.get_by_label("A profile").set_input_files(path)
    page.locator("#functions-table").get_by_role("button", name="leaf", exact=True).click()
    page.get_by_text("No lines are known").wait_for()
    page.locator("#filemap").wait_for()
    assert judged(page) == []
    page.context.close()


def test_axe_finds_what_is_wrong(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<html><body><button></button><p style='color: #bbb'>hardly legible</p></body></html>")
    rules = {line.split(": ")[1] for line in judged(page)}
    assert {"button-name", "color-contrast", "html-has-lang"} <= rules
    page.close()


def test_the_pictures_page_is_the_spikes(server: Server) -> None:
    """The world is as the tests above take it to be: recent, and with something in the range."""
    assert time.time() - spike_world.at(112) < 7200
    assert httpx.get(f"{server.url}flamegraph.json?{SPIKE}", timeout=30).status_code == 200


def test_axe_is_what_it_should_be() -> None:
    assert Path(unpacked(*AXE) / "axe.min.js").stat().st_size > 100_000
