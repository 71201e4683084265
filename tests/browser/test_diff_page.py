"""The comparison of two ranges: as a page in real Chromium, its twins, and what is said where a side has nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.browser import spike_world
from tests.browser.served import Server, serving
from web.flamegraph import layout

GUILTY = spike_world.GUILTY
AFTER = f"from={spike_world.at(100)}&until={spike_world.at(112)}&host=web-2"
BEFORE = "baseFrom=from-10m&baseUntil=from"
NEVER = "baseFrom=now-30d&baseUntil=now-29d"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("diff"), "tests.browser.spike_world") as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    return server.url


def get(url: str, twin: str, query: str) -> httpx.Response:
    return httpx.get(f"{url}diff{twin}?{query}", timeout=60)


def picture(page: Page) -> FrameLocator:
    frame = page.frame_locator("#picture")
    expect(frame.locator("#fg-frames rect[aria-label]").first).to_be_visible()
    return frame


def rows(page: Page) -> list[list[str]]:
    return [
        [line.locator("th").inner_text().split("\n")[0].strip(), *line.locator("td").all_inner_texts()]
        for line in page.locator("#changes tbody tr").all()
    ]


def samples(profile: dict[str, Any], name: str) -> tuple[int, int]:
    """Of /flamegraph.folded's lines: what a function runs itself, and with what it calls."""
    own = sum(count for stack, count in profile.items() if stack.split(";")[-1] == name)
    return own, sum(count for stack, count in profile.items() if name in stack.split(";"))


def folded(url: str, since: int, until: int) -> dict[str, int]:
    text = httpx.get(f"{url}flamegraph.folded?from={since}&until={until}&host=web-2", timeout=60).text
    return {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in text.splitlines()}


def test_from_a_spike_to_what_made_it(url: str, page: Page) -> None:
    page.goto(f"{url}flamegraph?{AFTER}")
    page.get_by_role("link", name="Compare with the hour before").first.click()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    expect(page.get_by_role("link", name="the hour before")).to_have_attribute("aria-current", "true")
    assert rows(page)[0][0] == GUILTY
    frame = picture(page)
    guilty = frame.locator(f"#fg-frames rect[aria-label^='{GUILTY} (']").first
    assert guilty.get_attribute("fill") == layout.GREW[3]
    guilty.hover()
    expect(frame.locator("#fg-details-name")).to_contain_text("before 0.00 %")


def test_the_table_is_exact(url: str, page: Page) -> None:
    page.goto(f"{url}diff?{AFTER}&{BEFORE}")
    old = folded(url, spike_world.at(40), spike_world.at(100))
    new = folded(url, spike_world.at(100), spike_world.at(112))
    found = {line[0]: line[1:] for line in rows(page)}
    assert {GUILTY, "memcpy", "vfs_read", "nginx"} <= set(found)
    for name, cells in found.items():
        plain = {"vfs_read": "vfs_read_[k]", "do_syscall_64": "do_syscall_64_[k]"}.get(name, name)
        for at, (before, after) in ((0, (0, 0)), (3, (1, 1))):
            share = [
                100 * samples(side, plain)[which] / sum(side.values()) for side, which in ((old, before), (new, after))
            ]
            assert cells[at : at + 2] == [f"{value:,.2f} %" for value in share], name
            shown = cells[at + 2].replace("~", "").replace("−", "-").strip()
            assert float(shown) == pytest.approx(share[1] - share[0], abs=0.0051)


def test_counts_are_compared_where_asked_for(url: str, page: Page) -> None:
    page.goto(f"{url}diff?{AFTER}&{BEFORE}")
    page.get_by_label("Compared are").select_option("counts")
    expect(page).to_have_url(re.compile("absolute=true"))
    new = folded(url, spike_world.at(100), spike_world.at(112))
    guilty = next(line for line in rows(page) if line[0] == GUILTY)
    assert guilty[1:4] == ["0", f"{samples(new, GUILTY)[0]:,}", f"+{samples(new, GUILTY)[0]:,}"]
    expect(page.locator(".key")).to_contain_text("two Poisson counts of equal exposure")


def test_sorting_stays_on_the_page_and_works_without_a_script(url: str, page: Page) -> None:
    page.goto(f"{url}diff?{AFTER}&{BEFORE}")
    frame = page.evaluate_handle("document.getElementById('picture').contentDocument")
    page.get_by_role("link", name="Total", exact=True).click()
    totals = [abs(float(line[6].replace("~", "").replace("−", "-"))) for line in rows(page)]
    assert totals == sorted(totals, reverse=True)
    expect(page.locator("#changes th[aria-sort]")).to_have_text("Total")
    expect(page).to_have_url(re.compile("sort=total"))
    assert page.evaluate("known => known === document.getElementById('picture').contentDocument", frame)
    text = get(url, "", f"{AFTER}&{BEFORE}&sort=total").text
    names = re.findall(r'<th scope="row" title="([^"]*)"', text)
    assert names == [line[0] for line in rows(page)]


def test_a_function_of_the_table_is_found_in_the_picture(url: str, page: Page) -> None:
    page.goto(f"{url}diff?{AFTER}&{BEFORE}")
    frame = picture(page)
    page.locator("#changes").get_by_role("button", name=GUILTY).click()
    new = folded(url, spike_world.at(100), spike_world.at(112))
    share = 100 * samples(new, GUILTY)[1] / sum(new.values())
    expect(frame.get_by_text(f"Matched: {share:.2f} %")).to_be_visible()


def width_of(frame: FrameLocator, name: str) -> float:
    found = frame.locator(f"#fg-frames rect[aria-label^='{name} (']")
    return sum(float(box.get_attribute("width") or 0) for box in found.all())


def test_the_picture_is_as_wide_as_after_before_or_both(url: str, page: Page) -> None:
    # What is seldom there before the spike is not there in it: the sides are turned round.
    turned = f"from={spike_world.at(88)}&until={spike_world.at(100)}&host=web-2"
    turned += f"&baseFrom={spike_world.at(100)}&baseUntil={spike_world.at(112)}"
    page.goto(f"{url}diff?{turned}")
    frame = picture(page)
    assert width_of(frame, GUILTY) == 0
    page.get_by_label("As wide as").select_option("before")
    expect(page).to_have_url(re.compile("width=before"))
    frame = picture(page)
    new = folded(url, spike_world.at(100), spike_world.at(112))
    share = samples(new, GUILTY)[1] / sum(new.values())
    assert width_of(frame, GUILTY) / width_of(frame, "all") == pytest.approx(share, abs=0.005)
    assert frame.locator(f"#fg-frames rect[aria-label^='{GUILTY} (']").first.get_attribute("fill") == layout.SHRANK[3]
    page.get_by_label("As wide as").select_option("union")
    expect(page).to_have_url(re.compile("width=union"))
    frame = picture(page)
    assert width_of(frame, GUILTY) / width_of(frame, "all") == pytest.approx(share / (1 + share), abs=0.005)
    frame.get_by_role("button", name="Vanished: shown").click()
    expect(frame.locator(f"#fg-frames rect[aria-label^='{GUILTY} (']")).to_have_count(0)
    page.reload()
    expect(picture(page).get_by_role("button", name="Vanished: hidden")).to_be_visible()


def test_a_side_without_anything_is_named(url: str, page: Page) -> None:
    page.goto(f"{url}diff?{AFTER}&{NEVER}")
    expect(page.locator(".empty")).to_contain_text(
        "Before, there is nothing to compare: no profile starts in this range"
    )
    page.goto(f"{url}diff?from=now-30d&until=now-29d&baseFrom={spike_world.at(1)}&baseUntil={spike_world.at(9)}")
    expect(page.locator(".empty")).to_contain_text(
        "After, there is nothing to compare: no profile starts in this range"
    )
    for twin in (".svg", ".json", ".folded", ".txt"):
        answer = get(url, twin, f"{AFTER}&{NEVER}")
        assert answer.status_code == 404 and answer.json()["error"].startswith("Before, there is nothing")


def test_twins_have_the_same_samples(url: str) -> None:
    query = f"{AFTER}&{BEFORE}"
    document = get(url, ".json", query).json()
    old, new = document["before"]["samples"], document["after"]["samples"]
    assert sum(document["tree"]["before_own"]) == old and sum(document["tree"]["after_own"]) == new
    assert document["functions"][0]["function"] == GUILTY and document["functions"][0]["self"]["z"] > 3.29
    counts = [line.rsplit(" ", 2)[1:] for line in get(url, ".folded", query).text.splitlines()]
    assert [sum(int(count[side]) for count in counts) for side in (0, 1)] == [old, new]
    text = get(url, ".txt", query).text
    assert f"before: {old:,} samples, after: {new:,} samples" in text and GUILTY in text
    assert "before: ticks" in text and "after: ticks" in text
    svg = get(url, ".svg", query).text
    assert "before: ticks" in svg and "after: ticks" in svg
    assert get(url, ".pb.gz", query).status_code == 404


def test_what_has_not_changed_is_not_sent_again(url: str) -> None:
    for twin in (".svg", ".json", ".folded", ".txt"):
        query = f"{AFTER}&baseFrom={spike_world.at(40)}&baseUntil={spike_world.at(100)}"
        tag = get(url, twin, query).headers["etag"]
        again = httpx.get(f"{url}diff{twin}?{query}", headers={"if-none-match": tag}, timeout=60)
        assert again.status_code == 304 and not again.content


def test_a_saved_comparison_needs_no_server(url: str, page: Page, tmp_path: Path) -> None:
    page.goto(f"{url}diff?{AFTER}&{BEFORE}")
    picture(page)
    page.get_by_text("Export and share").click()
    with page.expect_download() as download:
        page.locator("#export").get_by_role("link", name="SVG").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    page.context.set_offline(True)
    page.goto(path.as_uri())
    expect(page.locator(f"#fg-frames rect[aria-label^='{GUILTY} (']").first).to_be_visible()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("absolute=maybe", "`absolute` is true or false"),
        ("width=sideways", "`width` is after, before or union"),
        (f"baseFrom={spike_world.at(50)}&baseUntil={spike_world.at(40)}", "`baseFrom` must be earlier"),
        ("baseFrom=yesterday", "or from-1h, until-1d"),
        ("baseQ=nonsense", "is no selector"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(url: str, query: str, said: str) -> None:
    for twin in ("", ".svg"):
        answer = get(url, twin, f"{AFTER}&{query}")
        assert answer.status_code == 400 and said in answer.text.replace("&#39;", "'")


def test_a_side_has_selectors_of_its_own(url: str, page: Page) -> None:
    page.goto(f"{url}diff?{AFTER}&baseFrom=from&baseUntil=until&baseQ=host=web-1")
    expect(page.locator("section", has=page.get_by_role("heading", name="Before"))).to_contain_text("of web-1")
    expect(page.locator("section", has=page.get_by_role("heading", name="After"))).to_contain_text("of web-2")
    page.get_by_role("link", name="host=web-1").click()
    expect(page.locator("section", has=page.get_by_role("heading", name="Before"))).to_contain_text("of web-2")
