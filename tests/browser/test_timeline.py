"""Time on the page of a flame graph, in real Chromium: ranges and baselines by mouse, touch and keyboard, what happened
when, the newest windows, and a server that goes away in between."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from web.store.selection import rfc3339

from . import spike_world as world
from .served import Server, push, serving
from .spike_world import at

TOTAL = "document.getElementById('picture').contentDocument?.documentElement?.pilotlight?.total()"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("timeline"), "tests.browser.spike_world") as server:
        for text, start, end in (("shop 2.4.1 deployed", 96, 96), ("backup \u202e<b>", 130, 150)):
            annotation = {"text": text, "at": at(start), "until": at(end), "labels": {"service": "shop"}}
            assert httpx.post(f"{server.url}api/v1/annotations", json=annotation).status_code == 201
        yield server


def open_page(page: Page, server: Server, more: str = "", first: int = 0, last: int = world.WINDOWS) -> None:
    page.goto(f"{server.url}flamegraph?from={rfc3339(at(first))}&until={rfc3339(at(last))}{more}")
    ready(page)


def ready(page: Page) -> None:
    """The heat map is drawn, and the picture is alive."""
    expect(page.locator(".rowlabels li").first).to_be_visible()
    page.wait_for_function(f"() => {TOTAL} > 0")


def place(page: Page, seconds: float) -> float:
    """Where a time is on the page, in pixels from the left."""
    found: float = page.evaluate(
        """(at) => {
          const query = new URLSearchParams(location.search);
          const edge = document.querySelector(".edge");
          const [since, until] = [Number(edge.ariaValueMin), Number(edge.ariaValueMax)];
          const box = document.querySelector(".plot").getBoundingClientRect();
          return box.left + ((at - since) / (until - since)) * box.width;
        }""",
        seconds,
    )
    return found


def middle(page: Page) -> float:
    box = page.locator(".plot").bounding_box()
    assert box
    return box["y"] + box["height"] / 2


def drag(page: Page, first: float, last: float) -> None:
    """From the middle of one window to the middle of another."""
    page.locator(".plot").scroll_into_view_if_needed()
    page.mouse.move(place(page, at(0) + 10 * first + 5), middle(page))
    page.mouse.down()
    page.mouse.move(place(page, at(0) + 10 * last + 5), middle(page), steps=4)
    page.mouse.up()


def asked(page: Page, *names: str) -> list[str]:
    query = parse_qs(urlsplit(page.url).query)
    return [query[name][0] for name in names]


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def samples(server: Server, since: int, until: int) -> int:
    found = httpx.get(f"{server.url}api/v1/tree?from={since}&until={until}&maxNodes=1", timeout=60).json()
    return int(found["samples"])


def shows(page: Page, server: Server) -> int:
    """The picture has exactly the samples of the range that the address asks for; their number."""
    since, until = map(seconds, asked(page, "from", "until"))
    due = samples(server, since, until)
    page.wait_for_function(f"() => {TOTAL} === {due}")
    expect(page.locator(".summary")).to_contain_text(f"{due:,} samples")
    return due


def test_a_dragged_range_is_shown_without_a_reload_and_zoom_stays(server: Server, page: Page) -> None:
    open_page(page, server)
    page.evaluate("window.stayed = true")
    page.evaluate(
        "document.getElementById('picture').contentDocument.documentElement.pilotlight.change({search: 'regex'})"
    )
    before = page.url
    drag(page, 96, 114)
    expect(page).to_have_url(re.compile("from=" + rfc3339(at(96))[:17]))
    assert shows(page, server) < samples(server, at(0), at(world.WINDOWS))
    since, until = map(seconds, asked(page, "from", "until"))
    assert abs(since - at(96)) <= 20 and abs(until - at(115)) <= 20
    assert page.evaluate("window.stayed") is True
    view = page.evaluate("document.getElementById('picture').contentDocument.documentElement.pilotlight.view()")
    assert view["search"] == "regex"
    expect(page.get_by_label("From")).to_have_value(asked(page, "from")[0])
    alone = page.locator(".rowlabels a").first.get_attribute("href") or ""  # one host, in the range that is chosen now
    assert parse_qs(urlsplit(alone).query)["from"] == asked(page, "from")
    page.go_back()
    expect(page).to_have_url(before.split("#")[0] + "#search=regex")
    shows(page, server)
    assert page.evaluate("window.stayed") is True


def test_a_chosen_range_is_loading_until_its_picture_is_there(server: Server, page: Page) -> None:
    open_page(page, server)
    page.mouse.move(0, 0)
    reading, status, busy = page.locator("#reading"), page.locator("#status"), page.locator(".picture.busy")
    shown = reading.inner_text()
    held: list[Route] = []
    page.route(re.compile(r"/flamegraph\?"), lambda route: held.append(route))
    drag(page, 96, 114)
    for where in (reading, status):
        expect(where).to_have_text(re.compile(r"^Loading: .*…$"))
    expect(page.locator("#picture")).to_have_attribute("aria-busy", "true")
    expect(busy).to_have_count(1)
    page.mouse.move(0, 0)
    expect(reading).to_contain_text("Loading: ")
    held[0].continue_()
    page.unroute_all()
    expect(busy).to_have_count(0)
    expect(status).to_have_text("")
    expect(reading).to_contain_text("Shown: ")
    shows(page, server)
    assert reading.inner_text() != shown and page.locator("#picture[aria-busy]").count() == 0


def test_going_back_from_a_range_that_does_not_come_shows_what_was_there(server: Server, page: Page) -> None:
    open_page(page, server)
    page.mouse.move(0, 0)
    shown = page.locator("#reading").inner_text()
    page.route(re.compile(r"/flamegraph\?"), lambda route: None)
    drag(page, 96, 114)
    expect(page.locator("#reading")).to_contain_text("Loading: ")
    page.unroute_all()
    page.go_back()
    page.mouse.move(0, 0)
    expect(page.locator("#reading")).to_have_text(shown)
    expect(page.locator(".picture.busy")).to_have_count(0)


def test_a_range_can_be_opened_from_its_address_alone(server: Server, page: Page, browser: Browser) -> None:
    open_page(page, server)
    drag(page, 96, 114)
    expect(page).to_have_url(re.compile("viewFrom="))
    due = shows(page, server)
    colleague = browser.new_context().new_page()
    colleague.goto(page.url)
    ready(colleague)
    assert colleague.evaluate(TOTAL) == due
    assert (
        abs(
            place(colleague, at(96))
            - colleague.evaluate("document.querySelector('.chosen').getBoundingClientRect().left")
        )
        < 30
    )
    colleague.context.close()


@pytest.mark.parametrize("how", ["shift", "button"])
def test_a_second_drag_chooses_what_to_compare_with(server: Server, page: Page, how: str) -> None:
    open_page(page, server, first=96, last=114)
    if how == "shift":
        page.keyboard.down("Shift")
    else:
        page.get_by_role("button", name="Choose a baseline").click()
        expect(page.locator("#reading")).to_contain_text("Drag over the time to compare with")
    drag(page, 88, 94)
    page.keyboard.up("Shift")
    link = page.get_by_role("link", name="Compare with the baseline")
    expect(link).to_be_visible()
    base_since, base_until = map(seconds, asked(page, "baseFrom", "baseUntil"))
    assert abs(base_since - at(88)) <= 10 and abs(base_until - at(95)) <= 10
    assert asked(page, "from", "until") == [rfc3339(at(96)), rfc3339(at(114))]
    link.click()
    expect(page).to_have_url(re.compile(r"/diff\?.*baseFrom="))
    expect(page.get_by_label("From").nth(1)).to_have_value(rfc3339(base_since))
    page.go_back()
    ready(page)
    page.get_by_role("button", name="No baseline").click()
    expect(page.get_by_role("link", name="Compare with just before")).to_be_visible()
    assert "baseFrom" not in page.url


def test_the_keyboard_alone_finds_the_spike(server: Server, page: Page) -> None:
    open_page(page, server, f"&viewFrom={at(60)}&viewUntil={at(140)}", 60, 140)
    page.locator(".plot").focus()
    reading = page.locator("#reading")
    page.keyboard.press("Home")
    expect(reading).to_contain_text("all: ")
    page.keyboard.press("ArrowDown")
    expect(reading).to_contain_text("web-2: ")
    figures = []
    for _ in range(200):
        figures.append(float((re.search(r"web-2: ([\d.]+) CPUs", reading.inner_text()) or ["", "0"])[1]))
        if figures[-1] > 2.5:
            break
        page.keyboard.press("ArrowRight")
    assert len(figures) > 10 and figures[-1] > 2.5
    page.keyboard.press("Enter")
    expect(reading).to_contain_text("The range begins")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"from={rfc3339(at(100))[:16]}"))
    shows(page, server)
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Choose a baseline")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Choose a baseline")).to_have_attribute("aria-pressed", "false")


def test_the_ends_of_the_range_are_sliders(server: Server, page: Page) -> None:
    open_page(page, server, first=60, last=120)
    end = page.get_by_role("slider", name="End of the range")
    end.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert int(end.get_attribute("aria-valuenow") or 0) < at(120)
    expect(page).not_to_have_url(re.compile(f"until={rfc3339(at(120))}"))
    shows(page, server)
    page.mouse.move(place(page, at(60)), middle(page))
    page.mouse.down()
    page.mouse.move(place(page, at(80)), middle(page), steps=3)
    page.mouse.up()
    expect(page).to_have_url(re.compile(f"from={rfc3339(at(80))[:16]}"))
    shows(page, server)


def test_time_can_be_zoomed_and_the_address_keeps_it(server: Server, page: Page) -> None:
    open_page(page, server, first=60, last=120)

    def view() -> int:
        edge = page.locator(".edge").first
        return int(edge.get_attribute("aria-valuemax") or 0) - int(edge.get_attribute("aria-valuemin") or 0)

    whole = view()
    page.get_by_role("button", name="+", exact=True).click()
    assert view() == pytest.approx(whole / 2, abs=3)
    page.mouse.move(place(page, at(90)), middle(page))
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_function(f"() => location.search.includes('viewFrom') && {TOTAL} > 0")
    zoomed = view()
    assert zoomed < whole / 2
    page.reload()
    ready(page)
    assert view() == zoomed
    page.get_by_role("button", name="→").click()
    page.get_by_role("button", name="Fit").click()
    assert view() == whole and "viewFrom" not in page.url
    assert asked(page, "from", "until") == [rfc3339(at(60)), rfc3339(at(120))]


def test_rows_are_hosts_processes_or_shares(server: Server, page: Page) -> None:
    open_page(page, server)
    labels = page.locator(".rowlabels")
    expect(labels.get_by_role("link")).to_have_count(len(world.HOSTS))
    expect(labels.get_by_role("link").first).to_have_text("web-2")  # the busiest
    page.locator("#rows").select_option("process")
    expect(labels.get_by_role("link", name="nginx")).to_be_visible()
    expect(page).to_have_url(re.compile("rows=process"))
    page.locator("#rows").select_option("share")
    expect(labels.locator("li")).to_have_count(10)
    expect(labels.locator("li").first).to_have_text("90–100 %")
    page.locator("#rows").select_option("host")
    labels.get_by_role("link", name="web-3").click()
    expect(page).to_have_url(re.compile("host=web-3"))
    expect(page.locator(".quality summary")).to_contain_text("1 of 1 host with gaps")


def test_what_happened_is_drawn_and_said(server: Server, page: Page) -> None:
    open_page(page, server)
    marks = page.locator(".marks button")
    expect(marks).to_have_count(2)
    deploy = page.get_by_role("button", name="shop 2.4.1 deployed (service=shop)")
    box = deploy.bounding_box()
    assert box and abs(box["x"] - place(page, at(96))) < 3
    deploy.focus()
    expect(page.locator("#reading")).to_contain_text("shop 2.4.1 deployed (service=shop)")
    backup = page.get_by_role("button", name="backup ⟨U+202E⟩<b>")
    band = float(backup.evaluate("(flag) => parseFloat(getComputedStyle(flag, '::after').width)"))
    assert abs(band - (place(page, at(150)) - place(page, at(130)))) < 3
    for flag in (deploy, backup):
        hit = flag.bounding_box()
        assert hit and hit["width"] >= 12 and hit["height"] >= 12
        flag.hover()  # nothing lies over it
    expect(page.locator("#reading")).to_contain_text("backup ⟨U+202E⟩<b>")
    page.goto(page.url + "&q=service=cart")
    expect(page.get_by_text("Nothing to show")).to_be_visible()
    expect(page.locator("#reading")).to_contain_text("There are no windows in this time")
    expect(marks).to_have_count(0)
    expect(page.locator(".heatkey")).to_be_hidden()  # there is nothing that its colours could mean
    chosen, canvas = page.locator(".span.chosen").bounding_box(), page.locator(".plot canvas").bounding_box()
    assert (
        chosen and canvas and chosen["y"] + chosen["height"] <= canvas["y"] + canvas["height"] - 20
    )  # above the times


def touch_drag(page: Page, first: float, last: float) -> None:
    session = page.context.new_cdp_session(page)
    y = middle(page)

    def touch(kind: str, *points: float) -> None:
        session.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y, "id": 1} for x in points]}
        )

    ends = place(page, at(0) + 10 * first + 5), place(page, at(0) + 10 * last + 5)
    touch("touchStart", ends[0])
    for i in range(1, 6):
        touch("touchMove", ends[0] + (ends[1] - ends[0]) * i / 5)
    touch("touchEnd")


def test_a_finger_chooses_a_range(server: Server, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_page(page, server)
    page.locator(".plot").scroll_into_view_if_needed()
    touch_drag(page, 90, 130)
    expect(page).to_have_url(re.compile("viewFrom="))
    shows(page, server)
    since, until = map(seconds, asked(page, "from", "until"))
    assert abs(since - at(90)) <= 60 and abs(until - at(130)) <= 60
    context.close()


def test_the_heat_map_is_drawn_in_the_colours_of_day_and_night(server: Server, browser: Browser) -> None:
    means = {}
    for scheme in ("light", "dark"):
        context: BrowserContext = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        open_page(page, server)
        means[scheme] = page.evaluate(
            """() => {
              const canvas = document.querySelector(".plot canvas");
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              const seen = new Set();
              for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.add(data.slice(i, i + 3).join());
              return [...seen];
            }"""
        )
        context.close()
    assert "127,29,10" in means["light"] and "255,237,194" in means["dark"]  # the hottest cell
    assert not {"127,29,10"} & set(means["dark"])


def test_following_shows_new_windows_and_keeps_zoom_until_it_is_paused(server: Server, page: Page) -> None:
    now = int(time.time()) // 10 * 10
    push(server.url, world.profile("live", 0, now - 20), 1)
    page.clock.install()
    page.goto(f"{server.url}flamegraph?from=now-5m&host=live")
    ready(page)
    first = page.evaluate(TOTAL)
    page.evaluate("window.stayed = true")
    page.evaluate(
        "document.getElementById('picture').contentDocument.documentElement.pilotlight.change({search: 'memcpy'})"
    )
    page.get_by_role("button", name="Follow").click()
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(re.compile("follow=1"))
    push(server.url, world.profile("live", 0, now - 10), 2)
    page.clock.run_for(11_000)
    page.wait_for_function(f"() => {TOTAL} > {first}")
    view = page.evaluate("document.getElementById('picture').contentDocument.documentElement.pilotlight.view()")
    assert view["search"] == "memcpy" and page.evaluate("window.stayed") is True
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Follow")).to_be_visible()
    page.wait_for_load_state("networkidle")
    second = page.evaluate(TOTAL)
    push(server.url, world.profile("live", 1, now - 10), 3)
    page.clock.run_for(30_000)
    assert page.evaluate(TOTAL) == second


def test_a_server_that_goes_away_in_the_middle_of_a_drag_loses_nothing(tmp_path: Path, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()  # it logs that it cannot connect, and may
    with serving(tmp_path, "tests.browser.spike_world") as server:
        open_page(page, server)
        page.evaluate("window.stayed = true")
        whole = page.evaluate(TOTAL)
        page.mouse.move(place(page, at(96)), middle(page))
        page.mouse.down()
        page.mouse.move(place(page, at(105)), middle(page), steps=3)
        server.stop()
        page.mouse.move(place(page, at(114)), middle(page), steps=3)
        page.mouse.up()
        expect(page.locator("#status")).to_contain_text("The server does not answer")
        assert page.evaluate(TOTAL) == whole  # what was there is there
        expect(page.locator("#reading")).to_contain_text("The server does not answer; shown is still ")
        server.start()
        expect(page.locator("#status")).to_have_text("", timeout=30_000)
        assert shows(page, server) < whole
        assert page.evaluate("window.stayed") is True
    context.close()


def test_a_range_without_data_leads_to_the_nearest_that_has_some(server: Server, page: Page) -> None:
    page.goto(f"{server.url}flamegraph?from={rfc3339(at(60))}&until={rfc3339(at(90))}&host=web-3")
    expect(page.get_by_text("No profile starts in this range")).to_be_visible()
    before, after = page.get_by_role("link", name="before, at"), page.get_by_role("link", name="after, at")
    expect(after).to_contain_text(rfc3339(at(90)))
    before.click()
    ready(page)
    assert page.evaluate(TOTAL) > 0
    page.goto(f"{server.url}flamegraph?from=2001-01-01T00:00:00Z&until=2001-01-02T00:00:00Z")
    expect(page.get_by_text("What is older than 90 days has been dropped")).to_be_visible()
    page.goto(f"{server.url}flamegraph?host=gone")
    expect(page.get_by_text("No profile has host=gone, at any time")).to_be_visible()


def test_the_quality_of_a_picture_is_one_line_with_all_behind_it(server: Server, page: Page) -> None:
    open_page(page, server)
    strip = page.locator(".quality summary")
    figures = [
        int(text.replace(",", ""))
        for text in re.findall(r"[\d,]+(?= (?:ticks|idle|filtered|shown|lost))", strip.inner_text())
    ]
    assert figures[0] == sum(figures[1:]) and figures[3] == page.evaluate(TOTAL) and figures[4] == 12
    expect(strip).to_contain_text("of frames unknown")
    expect(strip).to_contain_text("1 of 4 hosts with gaps")
    strip.click()
    expect(page.get_by_role("row").filter(has_text="web-3")).to_contain_text("5 min")
    expect(page.get_by_text("stacks cut short, no unwind information")).to_be_visible()
    drag(page, 96, 114)
    expect(strip).to_contain_text("no gaps")
    expect(page.get_by_text("stacks cut short, no unwind information")).to_be_visible()  # it stays open


def test_a_picture_is_grouped_by_host(server: Server, page: Page) -> None:
    open_page(page, server)
    page.get_by_label("Grouped by").select_option("host")
    expect(page).to_have_url(re.compile("groupBy=host"))
    ready(page)
    frame = page.frame_locator("#picture")
    expect(frame.get_by_role("treeitem", name="web-2 (").first).to_be_attached()


def test_without_a_script_time_is_walked_by_links(server: Server, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server.url}flamegraph?from={rfc3339(at(60))}&until={rfc3339(at(90))}")
    page.get_by_role("link", name="Later").click()
    expect(page.get_by_label("From")).to_have_value(rfc3339(at(90)))
    page.get_by_role("link", name="Narrower").click()
    assert 0 < seconds(asked(page, "until")[0]) - seconds(asked(page, "from")[0]) <= 150
    page.get_by_role("link", name="Compare with just before").click()
    expect(page).to_have_url(re.compile("/diff"))
    expect(page.locator(".plot")).to_have_count(0)
    context.close()


def test_hosts_are_sorted_filtered_and_looked_at_together(server: Server, page: Page) -> None:
    page.goto(f"{server.url}?from={rfc3339(at(0))}&until={rfc3339(at(world.WINDOWS))}")

    def hosts() -> list[str]:
        return [host for host in page.locator("tbody th a").all_inner_texts() if host != "live"]

    def row(host: str) -> Any:
        return page.get_by_role("row").filter(has=page.get_by_role("link", name=host, exact=True))

    assert hosts()[0] == "web-2"
    expect(row("web-2").locator(".spark path").first).to_be_attached()
    expect(row("db-1")).to_contain_text("< 0.1 %")
    page.get_by_role("link", name="Host", exact=True).click()
    expect(page.get_by_role("columnheader", name="Host", exact=True)).to_have_attribute("aria-sort", "ascending")
    assert hosts() == ["db-1", "web-1", "web-2", "web-3"]
    page.get_by_role("link", name="Host", exact=True).click()
    expect(page.get_by_role("columnheader", name="Host", exact=True)).to_have_attribute("aria-sort", "descending")
    assert hosts() == ["web-3", "web-2", "web-1", "db-1"]
    page.get_by_label("Only hosts with").fill("role=web")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    row("web-1").get_by_role("checkbox").check()
    row("web-3").get_by_role("checkbox").check()
    page.get_by_role("button", name="Flame graph of 2 hosts").click()
    ready(page)
    expect(page.locator("h1")).to_contain_text("2 hosts")
    expect(page.locator(".rowlabels li")).to_have_count(2)
    page.get_by_role("link", name="host=web-1").click()
    ready(page)
    expect(page.locator(".rowlabels li")).to_have_text(["web-3"], use_inner_text=True)
