"""Someone who has never seen these pages finds what made a past spike on one of several hosts, compares it with the
hour before, and sends a colleague a link and a file that show the same. Every step uses what is to be seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from .served import Server, serving
from .spike_world import GUILTY, SPIKE, at

PICTURE = "document.getElementById('picture').contentDocument?.documentElement?.pilotlight"
HOTTEST = """() => {
  // Where the heat map has its hottest colour, as the eye would find it: its ends, in pixels of the page.
  const canvas = document.querySelector(".plot canvas"), copy = new OffscreenCanvas(canvas.width, 1);
  const scale = canvas.width / canvas.clientWidth, box = canvas.getBoundingClientRect();
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, -Math.round((46 + 9) * scale));
  const row = context.getImageData(0, 0, canvas.width, 1).data;
  const hot = [...Array(canvas.width).keys()].filter((x) => row[4 * x + 3] === 255 && row[4 * x + 1] < 90);
  return hot.length ? [box.left + hot[0] / scale, box.left + hot.at(-1) / scale, box.top + 46 + 9] : null;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("stranger"), "tests.browser.two_hours_world") as server:
        yield server


def drag_over_the_spike(page: Page) -> None:
    page.wait_for_function(f"() => document.querySelector('.rowlabels li') && ({HOTTEST})()")
    page.locator(".plot").scroll_into_view_if_needed()
    first, last, y = page.evaluate(HOTTEST)
    address = page.url
    page.mouse.move(first + 1, y)
    page.mouse.down()
    page.mouse.move(last, y, steps=4)
    page.mouse.up()
    expect(page).not_to_have_url(address)
    expect(page.get_by_label("From")).to_have_value(parse_qs(urlsplit(page.url).query)["from"][0])
    page.wait_for_function(
        f"() => document.querySelector('.summary b').textContent.replaceAll(',', '') === String({PICTURE}.total())"
    )


def test_a_stranger_finds_the_spike_compares_it_and_sends_it_on(
    server: Server, page: Page, browser: Browser, tmp_path: Path
) -> None:
    # Which host was it? The one with the peak.
    page.goto(server.url)
    page.get_by_role("link", name="6 h", exact=True).click()
    expect(page.locator("tbody tr").first).to_contain_text("web-2")
    expect(page.locator("tbody tr").first.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"[1-3]\.\d\d at most")
    )
    page.locator("tbody tr").first.get_by_role("link", name="Flame graph").click()

    # When was it? Dragged over roughly, looked at closely, and dragged over again.
    drag_over_the_spike(page)
    page.get_by_role("button", name="Fit").click()
    page.wait_for_timeout(500)  # the nearer look takes the place of the far one
    drag_over_the_spike(page)
    chosen = page.locator("#timeline")
    since, until = (int(chosen.get_attribute(f"data-{end}") or 0) for end in ("since", "until"))
    assert at(SPIKE.start) - 60 <= since < at(SPIKE.start + 3) and at(SPIKE.stop - 3) < until <= at(SPIKE.stop) + 60

    # What was it? The heaviest function.
    heaviest = page.locator("#functions-table tbody tr").first
    expect(heaviest).to_contain_text(GUILTY)
    heaviest.get_by_role("button", name="Find").click()
    expect(page).to_have_url(re.compile("#search="))
    total = page.evaluate(f"{PICTURE}.total()")

    # Was it always so? No.
    page.get_by_role("link", name="Compare with the hour before").click()
    expect(page.locator("#changes tbody tr").first).to_contain_text(GUILTY)
    page.go_back()
    page.wait_for_function(f"() => {PICTURE}?.total() === {total}")

    # A link for a colleague …
    page.get_by_text("Export and share").click()
    link = page.get_by_role("textbox", name="Link to this view").input_value()
    colleague = browser.new_context().new_page()
    colleague.goto(link)
    colleague.wait_for_function(f"() => {PICTURE}?.total() === {total}")
    assert GUILTY in colleague.evaluate(f"{PICTURE}.view().search")
    colleague.context.close()

    # … and a file, which needs no server.
    with page.expect_download() as download:
        page.get_by_role("link", name="SVG, as it is to be seen").click()
    file = tmp_path / "sent.svg"
    download.value.save_as(file)
    offline = browser.new_context(offline=True).new_page()
    offline.goto(file.as_uri())
    offline.wait_for_function("() => document.documentElement.pilotlight")
    assert offline.evaluate("document.documentElement.pilotlight.total()") == total
    assert GUILTY in offline.evaluate("document.documentElement.pilotlight.view().search")
    offline.context.close()
