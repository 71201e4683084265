"""The pages in real Chromium, against a server with real data: no complaints, and the picture is alive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import Frame as FrameOfPage

from profiler.model import Accounting, Cost, Passage, Profile, Sample, Unwinding, Window
from symbolizer.types import Binary, Frame, Kind, Location

from .served import push, serving

HOSTILE = "<img src=x onerror=alert(1)>"
SLOWED = "db-1"  # its agent lowers its rate, and says how it walked its stacks


def profile(start: int, host: str) -> Profile:
    def location(number: int, name: str, kind: Kind = Kind.NATIVE) -> Location:
        return Location(number, Binary(f"/usr/bin/{kind}"), (Frame(name, kind),))

    main, parse, evil = location(1, "main"), location(2, "parse_request"), location(3, HOSTILE)
    read = location(4, "vfs_read", Kind.KERNEL)
    samples = (
        Sample((parse, main), 10, "nginx", "nginx", 60),
        Sample((read, parse, main), 10, "nginx", "worker", 30),
        Sample((evil, main), 11, HOSTILE, HOSTILE, 10),
    )
    window = Window(start * 10**9, (start + 10) * 10**9)
    return Profile(host, "cpu-clock", 99, window, samples, Accounting(1980, 1100, 1000, 0, 100, {}, 240))


def slowed(start: int, number: int) -> Profile:
    """Window `number` of a host whose agent went from 99 to 33 Hz after six."""
    unwinding = Unwinding(
        90,
        1,
        {"no unwind information": 7, "stack memory unreadable": 2},
        {
            "/usr/lib/x86_64-linux-gnu/libc.so.6": Passage(300, 0, {"stack memory unreadable": 2}),
            f"/opt/vendor/lib/{HOSTILE}/" + "a-very-long-directory-name/" * 5 + "libfast.so": Passage(
                0, 20, {"no unwind information": 7}
            ),
            "/usr/sbin/mariadbd": Passage(800),
        },
    )
    made = profile(start, SLOWED)
    hz = 99 if number < 6 else 33
    ticks = 20 * hz
    cost = Cost(ticks * (2500 + 100 * number), ticks, 9_000_000 + 10**6 * number, 41 << 20, 12 << 20)
    account = replace(made.accounting, expected=ticks, ticks=ticks, idle=ticks - 100, cost=cost, unwinding=unwinding)
    return replace(made, hz=hz, accounting=account, labels={"env": "prod", "rack": HOSTILE})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    now = int(time.time()) // 10 * 10
    with serving(tmp_path_factory.mktemp("pages")) as server:
        for sequence in range(12):
            for host in ("web-1", HOSTILE):
                push(server.url, profile(now - 10 * (12 - sequence), host), sequence)
            push(server.url, slowed(now - 10 * (12 - sequence), sequence), sequence)
        yield server.url


def picture_of(page: Page) -> FrameOfPage:
    """The document in the page's frame."""
    page.wait_for_selector("iframe")
    for _ in range(100):
        for frame in page.frames:
            if "/flamegraph.svg" in frame.url:
                frame.wait_for_selector("svg")
                return frame
        page.wait_for_timeout(50)
    raise AssertionError("the page shows no picture")


def test_from_the_hosts_to_a_living_picture(server: str, page: Page) -> None:
    page.goto(server)
    row = page.get_by_role("row").filter(has_text="web-1")
    expect(row).to_contain_text("1,200")
    expect(page.get_by_role("row").filter(has_text=HOSTILE)).to_be_visible()
    row.get_by_role("link", name="Flame graph").click()
    expect(page).to_have_url(f"{server}flamegraph?from=now-15m&host=web-1&event=cpu-clock")
    expect(page.locator(".summary")).to_contain_text("1,200 samples")
    picture = picture_of(page)
    expect(picture.locator("svg").first).to_be_visible()
    frame = picture.get_by_role("treeitem", name="parse_request (").first
    frame.hover()
    expect(picture.locator("#fg-details-name")).to_contain_text("parse_request (720 samples")
    narrow = frame.get_attribute("width")
    frame.click()
    expect(picture.get_by_role("treeitem", name="parse_request (").first).not_to_have_attribute("width", narrow or "")


def test_a_click_on_a_process_shows_it_alone(server: str, page: Page) -> None:
    page.goto(f"{server}flamegraph?host=web-1")
    page.get_by_role("link", name="worker").click()
    expect(page.locator(".summary")).to_contain_text("360 samples")
    expect(page.get_by_label("Process or thread")).to_have_value("worker")
    page.get_by_role("link", name="worker").click()
    expect(page.locator(".summary")).to_contain_text("1,200 samples")


def test_the_form_asks_for_what_is_in_it(server: str, page: Page) -> None:
    page.goto(f"{server}flamegraph")
    page.get_by_label("More filters").fill("process=nginx")
    page.locator("select[name=host]").select_option("web-1")  # submits
    expect(page.locator(".chips")).to_contain_text("process=nginx")
    expect(page.locator(".summary")).to_contain_text("1,080 samples")
    page.get_by_label("More filters").fill("thread=worker")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".chips a")).to_have_count(2)
    expect(page.locator(".summary")).to_contain_text("360 samples")
    page.locator(".chips a").first.click()
    expect(page.locator(".chips a")).to_have_count(1)


def test_a_hostile_name_is_text_on_every_page(server: str, page: Page) -> None:
    for path in ("", "flamegraph", f"flamegraph?comm={HOSTILE}", f"hosts/{HOSTILE}", f"hosts/{SLOWED}", "docs"):
        page.goto(server + path)
        expect(page.locator("main img")).to_have_count(0)
    page.goto(f"{server}flamegraph?comm={HOSTILE}")
    expect(picture_of(page).locator("text", has_text=HOSTILE).first).to_be_visible()


def test_a_host_says_which_file_to_fix(server: str, page: Page) -> None:
    page.goto(server)
    page.get_by_role("link", name=SLOWED, exact=True).click()
    expect(page.get_by_role("heading", name=SLOWED)).to_be_visible()
    table = page.get_by_role("table").filter(has_text="Stacks ended here")
    first = table.get_by_role("row").nth(1)
    expect(first).to_contain_text("libfast.so")
    expect(first).to_contain_text(f"no unwind information: {7 * 24}")
    expect(first).to_contain_text("480")
    expect(table.get_by_role("row").last).to_contain_text("mariadbd")
    expect(page.get_by_text("-fno-asynchronous-unwind-tables")).to_be_visible()
    expect(page.get_by_text("33 Hz now, 33 and 99 Hz in the range")).to_be_visible()
    expect(page.get_by_text("99 Hz, partly weighed: 33 Hz × 3")).to_be_visible()
    costs = page.get_by_role("table").filter(has_text="BPF a tick")
    expect(costs.get_by_role("row").filter(has_text="Locked in BPF maps")).to_contain_text("12 MB")
    expect(costs.locator("svg path").first).to_be_attached()


def test_a_host_refreshes_and_keeps_what_it_says(server: str, page: Page) -> None:
    page.goto(f"{server}hosts/{SLOWED}")
    page.evaluate("window.stayed = true")
    page.locator("main").evaluate("main => { main.querySelector('h1').textContent = 'old'; }")
    expect(page.get_by_role("heading", name=SLOWED)).to_be_visible(timeout=20_000)
    expect(page.get_by_role("table").filter(has_text="Stacks ended here")).to_be_visible()
    assert page.evaluate("window.stayed") is True


def test_history_is_kept_as_long_as_the_page_is_told(server: str, page: Page) -> None:
    page.goto(server)
    page.get_by_role("link", name="History").click()
    page.get_by_label("Keep samples, days").fill("20")
    page.get_by_role("button", name="Change").click()
    expect(page).to_have_url(f"{server}settings")
    expect(page.get_by_label("Keep samples, days")).to_have_value("20")
    expect(page.get_by_role("row").filter(has_text="stacks by hour")).to_be_visible()


@pytest.mark.parametrize(
    "path", ["", f"hosts/{SLOWED}", f"flamegraph?host={SLOWED}", "settings", "docs", "open", "diff"]
)
def test_a_page_fits_a_telephone(server: str, page: Page, path: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(server + path)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    last = page.get_by_role("navigation", name="Main").get_by_role("link").last.bounding_box()
    assert last and last["x"] + last["width"] <= 390  # all of the header is to be seen


def test_a_picture_of_different_rates_says_so_and_weighs_them(server: str, page: Page) -> None:
    page.goto(f"{server}flamegraph?host={SLOWED}")
    expect(page.locator(".summary")).to_contain_text("24.2 CPU seconds, 2,400 weighed samples")
    expect(page.locator(".summary")).to_contain_text("at 99 Hz, partly weighed: 33 Hz × 3")
    picture = picture_of(page)
    expect(picture.locator("#fg-subtitle")).to_contain_text("99 Hz, partly weighed: 33 Hz × 3")
    picture.get_by_role("treeitem", name="parse_request (").first.hover()
    expect(picture.locator("#fg-details-name")).to_contain_text("parse_request (1,440 weighed samples")


def test_the_hosts_refresh_without_a_reload(server: str, page: Page) -> None:
    page.goto(server)
    page.evaluate("window.stayed = true")
    push(server, profile(int(time.time()) // 10 * 10, "late-comer"), 0)
    expect(page.get_by_role("row").filter(has_text="late-comer")).to_be_visible(timeout=20_000)
    assert page.evaluate("window.stayed") is True


def test_ticked_hosts_stay_ticked_while_the_page_refreshes(server: str, page: Page) -> None:
    page.goto(server)
    page.get_by_role("checkbox", name="web-1").check()
    expect(page.get_by_role("button", name="Flame graph of 1 host")).to_be_visible()
    page.locator("main").evaluate("main => { main.querySelector('h1').textContent = 'old'; }")
    expect(page.get_by_role("heading", name="Hosts")).to_be_visible(timeout=20_000)
    expect(page.get_by_role("checkbox", name="web-1")).to_be_checked()
    page.get_by_role("button", name="Flame graph of 1 host").click()
    expect(page).to_have_url(f"{server}flamegraph?from=now-15m&host=web-1")


def test_everything_can_be_read_without_scripts(server: str, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server)
    page.get_by_role("row").filter(has_text="web-1").get_by_role("link", name="Flame graph").click()
    expect(page.locator(".summary")).to_contain_text("1,200 samples")
    expect(picture_of(page).locator("text", has_text="parse_request").first).to_be_visible()
    page.get_by_label("Process or thread").fill("worker")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".summary")).to_contain_text("360 samples")
    context.close()


def test_a_long_name_and_a_warning_leave_room_for_what_the_hosts_do(server: str, page: Page) -> None:
    name = "checkout-frontend-7c9f8b6d5-x2x9q.prod.example.com"
    push(server, profile(int(time.time()) // 10 * 10 - 1800, name), 0)
    page.set_viewport_size({"width": 1440, "height": 800})
    page.goto(f"{server}?from=now-1h")
    expect(page.get_by_text("its clock is behind")).to_be_visible()
    assert page.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('.scroll'))"
    )
    row = page.get_by_role("row").filter(has_text="checkout-frontend")
    link = row.locator("th a").bounding_box()
    assert link and link["height"] <= 50  # two lines
    page.set_viewport_size({"width": 390, "height": 844})
    button = row.get_by_role("link", name="Flame graph").bounding_box()
    assert button and button["x"] + button["width"] <= 380  # without scrolling
