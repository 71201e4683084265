"""What a picture folded away, in real Chromium against a real server: drawn exactly, and loaded when asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Accounting, Profile, Sample, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location
from web.flamegraph.calltree import build_tree, prune
from web.flamegraph.svg import Caption, write_svg

CHECKOUT = Path(__file__).parent.parent.parent
# Pictures, and what is loaded into them, hold few nodes here, so that a profile that people can count in is too large.
PROGRAM = """
import sys
from web import below_endpoint, exports
from web.app import ServerOptions, serve
exports.MOST_NODES, below_endpoint._MOST_NODES = 30, 40
options = ServerOptions(sys.argv[1], port=0, commit_seconds=0)
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""


def location(number: int, name: str) -> Location:
    return Location(number, Binary("/usr/bin/app"), (Frame(name, Kind.NATIVE),))


MAIN, BUSY = location(1, "main"), location(2, "busy")
FEW = [location(10 + i, f"seldom_{i:02}") for i in range(60)]  # below main, each with a callee of its own
DEEP = [location(100 + i, f"callee_{i:02}") for i in range(60)]


def profile(start: int) -> Profile:
    samples = (
        Sample((BUSY, MAIN), 1, "app", "app", 10_000),
        *(Sample((DEEP[i], FEW[i], MAIN), 1, "app", "app", 1 + i) for i in range(60)),
    )
    sampled = sum(sample.count for sample in samples)
    window = Window(start * 10**9, (start + 10) * 10**9)
    return Profile("web-1", "cpu-clock", 1999, window, samples, Accounting(sampled, sampled, 0, 0, sampled, {}, 240))


def push(url: str, start: int, sequence: int) -> None:
    answer = httpx.post(
        url + "v1development/profiles",
        content=write_otlp(profile(start), PushIdentity("agent", 1, sequence)),
        headers={"content-type": "application/x-protobuf"},
        timeout=30,
    )
    assert answer.status_code == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    store = f"chdb://{tmp_path_factory.mktemp('below')}/store"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, store], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url
    start = int(time.time()) // 10 * 10 - 300
    push(url, start, 0)
    yield url, start
    process.terminate()
    assert process.wait(60) == 0


def folded(page: Page) -> Locator:
    return page.locator('[role=treeitem][fill="url(#fg-hatch)"]:not([aria-label*="to draw:"])')


def weight(page: Page, name: str) -> int:
    rows = page.evaluate("document.documentElement.pilotlight.functions()")
    return sum(row["total"] for row in rows if row["name"] == name)


def test_what_is_folded_away_is_drawn_hatched_with_its_weight_and_loads_step_by_step(
    server: tuple[str, int], page: Page
) -> None:
    url, start = server
    page.goto(f"{url}flamegraph.svg?from={start}&until={start + 10}")
    expect(folded(page)).to_have_count(1)
    before = page.evaluate("document.documentElement.pilotlight.functions()")
    assert sum(row["self"] for row in before) == sum(1 + i for i in range(60)) + 10_000
    folded(page).hover()
    expect(page.locator("#fg-details-name")).to_contain_text("frames below")
    expect(page.locator("#fg-details-shares")).to_contain_text("click or Enter loads them")
    folded(page).click()
    expect(page.locator('[aria-current=true][aria-label^="main ("]')).to_be_visible()
    # Of 120 frames 40 fit into an answer: the heaviest are there, the rest is folded away once more.
    assert weight(page, "seldom_50") == 51 and weight(page, "callee_50") == 51
    expect(folded(page)).to_have_count(1)
    for _ in range(4):
        if not folded(page).count():
            break
        folded(page).focus()
        count = page.evaluate("document.documentElement.pilotlight.functions().length")
        page.keyboard.press("Enter")
        page.wait_for_function("count => document.documentElement.pilotlight.functions().length > count", arg=count)
    assert all(weight(page, f"seldom_{i:02}") == 1 + i == weight(page, f"callee_{i:02}") for i in range(60))
    assert page.evaluate("document.documentElement.pilotlight.total()") == sum(1 + i for i in range(60)) + 10_000
    # Siblings are in alphabetical order whenever they came.
    siblings = page.evaluate(
        """() => [...document.querySelectorAll('[role=treeitem][aria-level="4"]:not([aria-label*="to draw:"])')].sort(
             (a, b) => a.getAttribute('x') - b.getAttribute('x')).map(e => e.getAttribute('aria-label'))"""
    )
    assert siblings == sorted(siblings) and len(siblings) > 30


def test_a_sandwich_of_what_was_loaded_is_exact(server: tuple[str, int], page: Page) -> None:
    url, start = server
    page.goto(f"{url}flamegraph.svg?from={start}&until={start + 10}")
    folded(page).click()
    expect(
        page.locator('[aria-current=true][aria-label^="main ("]')
    ).to_be_visible()  # else frames move under the pointer
    page.locator('[aria-label^="seldom_55 ("]').hover()
    page.keyboard.press("w")
    shown = page.locator("[role=treeitem]")
    labels = shown.evaluate_all("all => all.map(e => e.getAttribute('aria-label').split(',')[0])")
    assert sorted(labels) == ["app (56 samples", "callee_55 (56 samples", "main (56 samples", "seldom_55 (56 samples"]


def test_a_file_says_where_what_it_does_not_have_is(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    path.write_bytes(write_svg(prune(build_tree(stack_table(profile(10**9))), 30), Caption("a file")))
    page.goto(path.as_uri())
    folded(page).hover()
    expect(page.locator("#fg-details-shares")).to_contain_text("the server's page of a shorter range")
    folded(page).click()
    expect(page.locator("[aria-current=true]")).to_have_attribute(
        "aria-label", re.compile(r"^\(\d+ frames below .* %\)")
    )


@pytest.fixture
def tolerant(browser: Browser) -> Iterator[Page]:
    """A page where the browser may log that an answer was no success."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    yield context.new_page()
    context.close()


def test_the_account_says_which_hosts_have_gaps(server: tuple[str, int], page: Page) -> None:
    url, start = server
    page.goto(f"{url}flamegraph.svg?from={start}&until={start + 10}")
    expect(page.get_by_role("button", name="Hz, no gaps")).to_be_visible()
    page.goto(f"{url}flamegraph.svg?from={start}&until={start + 60}")
    strip = page.get_by_role("button", name="1 of 1 host with gaps")
    strip.click()
    expect(page.locator("#fg-account text").last).to_have_text(
        re.compile(r"gaps: nothing came from web-1 [45]0 s \(.*%\)")
    )


def test_a_server_that_is_gone_or_has_newer_samples_is_told(server: tuple[str, int], tolerant: Page) -> None:
    (url, start), page = server, tolerant
    page.goto(f"{url}flamegraph.svg?from={start}&until={start + 30}")
    page.context.set_offline(True)
    folded(page).click()
    expect(page.locator("#fg-details-origin")).to_have_text("The server does not answer: try again when it is back.")
    page.context.set_offline(False)
    push(url, start + 10, 1)
    folded(page).click()
    expect(page.locator("#fg-details-origin")).to_have_text("The server has other samples by now: reload the picture.")
    page.reload()
    folded(page).click()
    expect(page.locator('[aria-current=true][aria-label^="main ("]')).to_be_visible()


def test_questions_about_nothing_get_a_sentence(server: tuple[str, int]) -> None:
    url, start = server
    ask: dict[str, str | int] = {"from": start, "until": start + 10, "lighter": 5, "below": "2-0123456789abcdef"}

    def answer(**other: str | int) -> httpx.Response:
        return httpx.get(f"{url}flamegraph/below.json", params={**ask, **other}, timeout=30)

    assert answer().status_code == 404 and "reload the picture" in answer().json()["error"]
    hashes = "0123456789abcdef"
    for key in ("", "2", "2-", f"x-{hashes}", f"99999999-{hashes}", f"2-{hashes[:-1]}g", f"²-{hashes}"):
        assert answer(below=key).status_code == 404, key
    assert answer(lighter=0).status_code == 400 and answer(below="2" * 101).status_code == 400
