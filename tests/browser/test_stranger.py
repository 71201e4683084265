"""Whoever never saw this before finds what made a past spike on one of several hosts, compares it with the hour before,
and sends a colleague a link and a file that show the same. Each step is one that the page in sight offers."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, FrameLocator, Page, expect

from tests.browser import spike_world as world
from tests.browser.served import serving
from tests.browser.test_timeline import drag, ready


def picture(page: Page) -> FrameLocator:
    frame = page.frame_locator("#picture")
    expect(frame.locator("#fg-frames rect[aria-label]").first).to_be_visible()
    return frame


def test_what_made_the_spike_is_found_compared_and_sent(tmp_path: Path, page: Page, browser: Browser) -> None:
    with serving(tmp_path, "tests.browser.spike_world") as server:
        # Something was slow within the last hours. Which host, nobody knows.
        page.goto(server.url)
        page.get_by_role("link", name="Flame graph", exact=True).first.click()
        page.get_by_role("link", name="6 h").click()
        ready(page)
        for host in world.HOSTS:
            expect(page.locator(".rowlabels")).to_contain_text(host)

        # The heat map has a dark spot: dragging over it shows that time alone, and the table what it was made of.
        page.get_by_role("button", name="Fit").click()
        drag(page, world.SPIKE.start - 2, world.SPIKE.stop + 1)
        first = page.locator("#functions-table tbody tr").first
        expect(first).to_contain_text(world.GUILTY)
        page.get_by_label("Grouped by").select_option("host")
        expect(first).to_contain_text(world.GUILTY)
        first.get_by_role("button", name=world.GUILTY, exact=True).click()
        expect(picture(page).locator("#fg-frames rect[aria-label^='web-2 (']").first).to_be_visible()
        expect(page.locator("#callers")).to_contain_text("parse_headers")

        # What was it like before?
        page.get_by_role("link", name="Compare with the hour before").first.click()
        changed = page.locator("#changes tbody tr").first
        expect(changed).to_contain_text(world.GUILTY)
        share = changed.locator("td").nth(1).inner_text()
        grew = picture(page).locator(f"#fg-frames rect[aria-label^='{world.GUILTY} (']").first
        label = grew.get_attribute("aria-label") or ""
        assert re.search(r"before 0\.00 %, after [1-9]", label)
        grew.click()

        # A link for the colleague, who has another browser,
        page.get_by_text("Export and share").click()
        link = page.get_by_role("textbox", name="Link to this view").input_value()
        colleague = browser.new_context(viewport={"width": 1200, "height": 800}).new_page()
        colleague.goto(link)
        expect(colleague.locator("#changes tbody tr").first.locator("td").nth(1)).to_have_text(share)
        zoomed = picture(colleague).locator("#fg-frames rect[aria-current=true]")
        expect(zoomed).to_have_attribute("aria-label", label)

        # and a file, for when the server is not to be reached.
        with page.expect_download() as download:
            page.locator("#export").get_by_role("link", name="SVG").click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        colleague.context.set_offline(True)
        colleague.goto(file.as_uri())
        expect(colleague.locator("#fg-frames rect[aria-current=true]")).to_have_attribute("aria-label", label)
        colleague.context.close()
