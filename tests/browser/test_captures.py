"""The pages of captures in real Chromium: asked for by the form, watched while it runs, and what comes of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.played_agent import PlayedAgent, playing
from tests.test_web_server import Server

HOST = "<b>web</b> 1"
PICTURE = "document.getElementById('picture').contentDocument?.documentElement?.pilotlight"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Server(f"chdb://{tmp_path_factory.mktemp('captures')}/store")
    yield server.url.rstrip("/")
    server.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def agent(server: str) -> Iterator[PlayedAgent]:
    with playing(server, host=HOST) as agent:
        yield agent


def open_form(page: Page, server: str) -> None:
    page.goto(f"{server}/captures")
    while page.get_by_role("button", name="Capture").is_disabled():
        page.reload()  # until the agent has asked for the first time


def test_a_capture_is_asked_for_watched_and_looked_at(page: Page, server: str, agent: PlayedAgent) -> None:
    open_form(page, server)
    page.get_by_label("Seconds").fill("8")
    page.get_by_label("Name").fill("<i>slow</i> checkout")
    page.get_by_role("button", name="Capture").click()
    expect(page.get_by_role("heading", name="<i>slow</i> checkout")).to_be_visible()
    address = page.url
    expect(page.locator(".state.running")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#state")).to_contain_text(re.compile(r"[1-7]\.\d of 8 s"), timeout=30_000)
    picture = page.frame_locator("iframe")
    expect(picture.locator("svg").first).to_be_visible(timeout=30_000)
    expect(page.locator(".state.running")).to_be_visible()  # what there is so far is looked at
    page.wait_for_function(f"() => {PICTURE}?.total() > 0")
    page.evaluate(f"window.mark = 1; {PICTURE}.change({{search: 'sum'}})")
    so_far = page.evaluate(f"{PICTURE}.total()")
    page.wait_for_function(f"() => {PICTURE}.total() > {so_far}", timeout=30_000)
    expect(page.locator(".state.done")).to_be_visible(timeout=60_000)
    whole = re.search(r"([\d,]+) samples", page.locator("#state").inner_text())
    assert whole
    expect(page.locator(".summary")).to_contain_text(f"{whole[1]} samples")
    page.wait_for_function(f"() => {PICTURE}.total() === {whole[1].replace(',', '')}")
    assert page.evaluate("window.mark") == 1  # since it has a picture, the page was not loaded again
    assert page.evaluate(f"{PICTURE}.view().search") == "sum" and "so far" not in page.locator(".summary").inner_text()
    expect(picture.locator("text", has_text="checkout").first).to_be_visible()
    expect(page.locator(".accounting")).to_contain_text("shown")
    assert page.url.split("#")[0] == address and page.get_by_role("button", name="Cancel").count() == 0
    page.get_by_text("Export and share").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Folded stacks").click()
    assert "main;sum " in download.value.path().read_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="SVG").click()
    page.goto(download.value.path().rename(download.value.path().with_suffix(".svg")).as_uri())
    expect(page.locator("#fg-frames rect[aria-label^='sum (']").first).to_be_visible()


def test_the_list_follows_and_a_capture_is_cancelled(page: Page, server: str, agent: PlayedAgent) -> None:
    open_form(page, server)
    page.get_by_label("Seconds").fill("500")
    page.get_by_label("Rate").fill("199")
    page.get_by_role("button", name="Capture").click()
    expect(page.locator("#state")).to_contain_text("by a sampler of its own")
    one = page.url
    page.get_by_role("link", name="Captures").click()
    page.get_by_label("Name").fill("half typed")
    expect(page.locator("tr .state.running")).to_be_visible(timeout=30_000)
    before = page.locator("tbody tr").first.inner_text()
    expect(page.locator("tbody tr").first).not_to_have_text(before, timeout=30_000)
    assert page.get_by_label("Name").input_value() == "half typed"
    page.goto(one)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".state.cancelled")).to_be_visible(timeout=30_000)
    expect(page.locator("iframe")).to_be_visible()


def test_what_is_wrong_with_the_form_is_said_and_what_was_typed_stays(
    browser: Browser, server: str, agent: PlayedAgent
) -> None:
    page = browser.new_page()
    open_form(page, server)
    page.get_by_label("Seconds").fill("9000")
    page.get_by_label("Name").fill("kept")
    page.get_by_role("button", name="Capture").click()
    expect(page.get_by_role("alert")).to_contain_text("seconds: input should be less than or equal to 600")
    assert page.get_by_label("Name").input_value() == "kept"
    page.close()


def test_without_scripts_the_pages_work_by_themselves(browser: Browser, server: str, agent: PlayedAgent) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = context.new_page()
    open_form(page, server)
    page.get_by_label("Seconds").fill("2")
    page.get_by_role("button", name="Capture").click()
    expect(page.locator(".state.done")).to_be_visible(timeout=60_000)
    expect(page.locator("iframe")).to_be_visible()
    context.close()


def test_pages_fit_a_narrow_screen(browser: Browser, server: str, agent: PlayedAgent) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    for path in ("/captures", "/debug/pprof/"):
        page.goto(server + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    page.close()
