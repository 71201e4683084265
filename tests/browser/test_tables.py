"""The tables below a flame graph and the menu of exports in real Chromium, against a server with real data."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect

from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from tests.clients.npm import unpacked
from tests.clients.test_npm_readers import SPEEDSCOPE

CHECKOUT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from web.app import ServerOptions, serve
options = ServerOptions(sys.argv[1], port=0, commit_seconds=0, allow_origins=tuple(sys.argv[2:]))
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""
HOSTILE = "</script><img src=x onerror=alert(1)>"
SHORT = "</script><…>"  # as pictures shorten it, whose angles hold parameters elsewhere
MANY = 450  # functions that are called once
START = int(time.time()) // 10 * 10 - 600


def place(number: int, name: str, kind: Kind = Kind.NATIVE, line: int = 0) -> Location:
    return Location(number, Binary(f"/opt/{kind}"), (Frame(name, kind, "", "shop.c" if line else "", line),))


MAIN, WORK, AGAIN = place(1, "main", line=5), place(2, "work", line=10), place(3, "work", line=12)
READ, EVIL = place(4, "vfs_read", Kind.KERNEL), place(5, HOSTILE)


def samples() -> list[Sample]:
    few = [
        Sample((WORK, MAIN), 1, "shop", "shop", 600),
        Sample((READ, WORK, MAIN), 1, "shop", "shop", 300),
        Sample((READ, AGAIN, WORK, MAIN), 1, "shop", "shop", 200),  # work calls itself
        Sample((EVIL, MAIN), 1, "shop", "shop", 100),
    ]
    many = [Sample((place(100 + i, f"rare_{i:03}"), MAIN), 1, "shop", "shop", 1) for i in range(MANY)]
    return few + many


WHOLE = 1200 + MANY


def push(url: str) -> None:
    made = Profile(
        "web-1",
        "cpu-clock",
        99,
        Window(START * 10**9, (START + 10) * 10**9),
        tuple(samples()),
        Accounting(WHOLE + 50, WHOLE + 50, 50, 0, WHOLE),
    )
    answer = httpx.post(
        url + "v1development/profiles",
        content=write_otlp(made, PushIdentity("agent", 1, 1)),
        headers={"content-type": "application/x-protobuf"},
        timeout=30,
    )
    assert answer.status_code == 200


def serving(directory: Path, *origins: str) -> Iterator[str]:
    command = [sys.executable, "-c", PROGRAM, f"chdb://{directory}/store", *origins]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url
    push(url)
    yield url
    process.terminate()
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serving(tmp_path_factory.mktemp("tables"))


@pytest.fixture
def graph(server: str, page: Page) -> Page:
    page.goto(f"{server}flamegraph?from={START - 60}&until={START + 60}&host=web-1")
    expect(page.locator("#functions-told")).to_contain_text("functions")
    return page


def picture(page: Page) -> FrameLocator:
    return page.frame_locator("#picture")


def change(page: Page, view: dict[str, Any]) -> None:
    """Has the picture show something else, as its buttons would."""
    page.evaluate(
        "view => document.getElementById('picture').contentDocument.documentElement.pilotlight.change(view)", view
    )


def row(page: Page, name: str) -> Locator:
    return page.locator("#functions-table tbody tr").filter(has=page.get_by_role("button", name=name, exact=True))


def cells(line: Locator) -> list[str]:
    return [text.strip() for text in line.locator("td").all_inner_texts()]


def percent(count: int) -> str:
    return f"{100 * count / WHOLE:.2f} %"


def first_names(page: Page, count: int) -> list[str]:
    return [text.split("\n")[0] for text in page.locator("#functions-table tbody th .link").all_inner_texts()[:count]]


def test_functions_have_the_samples_of_the_profile_and_recursion_counts_once(graph: Page) -> None:
    assert cells(row(graph, "work"))[:4] == ["600", percent(600), "1,100", percent(1100)]
    graph.fill("#functions-filter", "^main$")
    expect(graph.locator("#functions-told")).to_contain_text("1 function of")
    assert cells(row(graph, "main"))[:3:2] == ["0", f"{WHOLE:,}"]
    graph.fill("#functions-filter", "")
    expect(graph.locator("#functions-more")).to_be_visible()
    assert first_names(graph, 3) == ["work", "vfs_read", SHORT]
    expect(graph.locator("#functions-table th[data-by=self]")).to_have_attribute("aria-sort", "descending")


def test_at_most_two_hundred_rows_are_in_the_document_and_all_are_reached(graph: Page) -> None:
    rows = graph.locator("#functions-table tbody tr")
    seen: list[str] = []
    while True:
        assert rows.count() <= 200
        seen += first_names(graph, 200)
        if not graph.locator("#functions-more").is_visible():
            break
        graph.locator("#functions-more").click()
    assert len(seen) == len(set(seen)) == MANY + 4
    graph.locator("#functions-back").click()
    expect(graph.locator("#functions-told")).to_contain_text(f"201 to 400 of {MANY + 4}")


def test_headings_sort_and_say_so(graph: Page) -> None:
    graph.get_by_role("button", name="Total", exact=True).click()
    assert first_names(graph, 3) == ["main", "work", "vfs_read"]
    expect(graph.locator("#functions-table th[data-by=total]")).to_have_attribute("aria-sort", "descending")
    assert graph.locator("#functions-table th[aria-sort]").count() == 1
    graph.get_by_role("button", name="Function", exact=True).press("Enter")
    assert first_names(graph, 2) == [SHORT, "main"]
    expect(graph.locator("#functions-table th[data-by=name]")).to_have_attribute("aria-sort", "ascending")


def test_a_filter_is_an_expression_and_a_bad_one_is_said(graph: Page) -> None:
    graph.fill("#functions-filter", "^rare_00[0-4]|^work$")
    expect(graph.locator("#functions-told")).to_have_text(f"6 functions of {MANY + 4} match")
    graph.fill("#functions-filter", "rare_(")
    expect(graph.locator("#functions-told")).to_contain_text("Not a regular expression")
    expect(graph.locator("#functions-filter")).to_have_attribute("aria-invalid", "true")


def test_pointing_at_a_row_marks_the_frames_and_pointing_at_a_frame_marks_the_row(graph: Page) -> None:
    frames = picture(graph).locator("#fg-frames rect[data-marked]")
    row(graph, "vfs_read").hover()
    expect(frames).to_have_count(2)
    graph.locator("h1").hover()
    expect(frames).to_have_count(0)
    row(graph, "vfs_read").get_by_role("button").first.focus()
    expect(frames).to_have_count(2)
    picture(graph).locator("#fg-frames rect[aria-label^='work (']").first.hover()
    expect(row(graph, "work")).to_have_class(re.compile("pointed"))


def test_a_chosen_function_has_its_callers_callees_and_lines(graph: Page) -> None:
    row(graph, "work").get_by_role("button").first.click()
    expect(graph.locator("#function-title")).to_have_text("work")
    expect(graph.locator("#function-told")).to_contain_text("itself 600 samples")

    def listed(table: str) -> list[list[str]]:
        lines = graph.locator(f"#{table} tbody tr")
        expect(lines.first).to_be_visible()
        return [
            [line.locator("th").inner_text().split("\n")[0].split("  ")[0].strip(), *cells(line)]
            for line in lines.all()
        ]

    callers, callees = listed("callers"), listed("callees")
    assert [line[1] for line in callers] == ["1,100"] and callers[0][0].startswith("main")
    assert [line[1] for line in callees] == ["600", "300", "200"]  # itself, what it calls, and itself called by itself
    assert callees[0][0] == "(itself)" and callees[1][0].startswith("vfs_read") and callees[2][0].startswith("work")
    assert listed("lines") == [["shop.c:10", "600", "1,100", "100.00 %"], ["shop.c:12", "0", "200", "18.18 %"]]
    expect(picture(graph).get_by_role("button", name="callers and callees: work")).to_be_visible()
    assert "sandwich=" in graph.url
    graph.locator("#callers").get_by_role("button", name="main").click()
    expect(graph.locator("#function-title")).to_have_text("main")
    graph.go_back()
    expect(graph.locator("#function-title")).to_have_text("work")
    graph.reload()
    expect(graph.locator("#function-title")).to_have_text("work")
    graph.locator("#function-close").click()
    expect(graph.locator("#function")).to_be_hidden()


def test_a_function_without_lines_says_so_and_a_hostile_name_is_only_text(graph: Page) -> None:
    row(graph, SHORT).get_by_role("button").first.click()
    expect(graph.locator("#function-title")).to_have_attribute("title", HOSTILE)
    expect(graph.locator("#function")).to_contain_text("No lines are known")
    expect(graph.locator("#function")).to_contain_text("It calls nothing.")
    assert graph.locator("img[src=x]").count() == 0


def test_the_table_finds_in_the_picture_and_follows_its_filters(graph: Page) -> None:
    row(graph, "vfs_read").get_by_role("button", name="Find").click()
    expect(picture(graph).get_by_text(re.compile(r"Matched: 30\.30"))).to_be_visible()
    change(graph, {"hide": "^rare_"})
    expect(graph.locator("#functions-told")).to_have_text("4 functions")


# ---------------------------------------------------------------------- exports


def open_menu(page: Page) -> Locator:
    page.get_by_text("Export and share").click()
    sheet = page.locator("#export .sheet")
    expect(sheet).to_be_visible()
    return sheet


def saved(page: Page, act: Callable[[], None], directory: Path) -> Path:
    with page.expect_download() as download:
        act()
    path = directory / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_saved_picture_shows_the_same_without_the_server(graph: Page, tmp_path: Path) -> None:
    change(graph, {"search": "vfs", "icicle": True})
    sheet = open_menu(graph)
    path = saved(graph, sheet.get_by_role("link", name="SVG").click, tmp_path)
    assert re.fullmatch(r"web-1-.*\.svg", path.name)
    graph.context.set_offline(True)
    graph.goto(path.as_uri())
    expect(graph.get_by_text(re.compile(r"Matched: 30\.30"))).to_be_visible()
    expect(graph.get_by_role("button", name="Icicle ↓")).to_be_visible()
    rects = graph.locator("#fg-frames rect[aria-label]")
    assert rects.count() > 4
    graph.keyboard.press("i")
    expect(graph.get_by_role("button", name="Flame ↑")).to_be_visible()
    assert graph.evaluate("performance.getEntriesByType('resource').length") == 0


def test_a_png_is_what_is_to_be_seen(graph: Page, tmp_path: Path) -> None:
    sheet = open_menu(graph)
    path = saved(graph, sheet.get_by_role("button", name="PNG").click, tmp_path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") and path.suffix == ".png"
    assert int.from_bytes(data[16:20]) >= 1000  # pixels wide
    expect(sheet.get_by_role("status")).to_have_text("Saved as PNG.")


def test_files_have_all_samples(graph: Page, tmp_path: Path) -> None:
    sheet = open_menu(graph)
    folded = saved(graph, sheet.get_by_role("link", name="Folded").click, tmp_path)
    assert sum(int(line.rsplit(" ", 1)[1]) for line in folded.read_text().splitlines()) == WHOLE
    speedscope = json.loads(
        saved(graph, sheet.get_by_role("link", name="speedscope", exact=True).click, tmp_path).read_text()
    )
    assert sum(speedscope["profiles"][0]["weights"]) == WHOLE


def test_the_link_is_copied_by_keyboard_and_shows_the_same_to_another(graph: Page, page: Page) -> None:
    graph.context.grant_permissions(["clipboard-read", "clipboard-write"])
    graph.get_by_text("Export and share").focus()
    graph.keyboard.press("Enter")
    change(graph, {"search": "vfs"})
    graph.get_by_role("button", name="Copy: Link to this view").press("Enter")
    expect(graph.locator("#export").get_by_role("status")).to_have_text("Copied: link to this view.")
    link = graph.evaluate("navigator.clipboard.readText()")
    asked = parse_qs(urlsplit(link).query)
    assert not any(value.startswith("now") for values in asked.values() for value in values)
    other = graph.context.new_page()
    other.goto(link)
    expect(picture(other).get_by_text(re.compile(r"Matched: 30\.30"))).to_be_visible()
    graph.bring_to_front()
    graph.get_by_role("button", name="Copy: Link to this view").press("Escape")
    expect(graph.locator("#export .sheet")).to_be_hidden()
    expect(graph.get_by_text("Export and share")).to_be_focused()


def test_the_command_makes_the_same_profile(graph: Page, tmp_path: Path) -> None:
    command = open_menu(graph).get_by_role("textbox", name="The same profile").input_value()
    script = command.replace("pilotlight render", f"{Path(sys.executable).with_name('pilotlight')} render")
    ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert f"{WHOLE:,} shown" in (tmp_path / "flamegraph.svg").read_text()


def test_links_elsewhere_name_the_profile_and_ask_nobody_by_themselves(graph: Page, server: str) -> None:
    sheet = open_menu(graph)
    links = {
        name: sheet.get_by_role("link", name=name).get_attribute("href") or ""
        for name in ("speedscope.app", "profiler.firefox.com")
    }
    assert links["speedscope.app"].startswith("https://www.speedscope.app/#profileURL=" + quote(server, safe=""))
    assert links["profiler.firefox.com"].startswith("https://profiler.firefox.com/from-url/" + quote(server, safe=""))
    expect(sheet).to_contain_text("--allow-origin")
    asked = graph.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked and {urlsplit(address).netloc for address in asked} == {urlsplit(server).netloc}


def test_speedscope_opens_the_link_where_its_site_is_let_in(browser: Browser, tmp_path: Path) -> None:
    viewer = unpacked(*SPEEDSCOPE) / "dist" / "release"

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(viewer)))
    threading.Thread(target=site.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{site.server_port}"
    page = browser.new_page()
    for url in serving(tmp_path, origin):
        page.goto(f"{url}flamegraph?from={START - 60}&until={START + 60}")
        link = open_menu(page).get_by_role("link", name="speedscope.app").get_attribute("href") or ""
        page.goto(link.replace("https://www.speedscope.app", origin))
        page.get_by_text("Sandwich").click()
        expect(page.get_by_text("vfs_read").first).to_be_visible()
        mine = {"origin": origin}
        address = f"{url}flamegraph.json?from={START - 60}&until={START + 60}"
        assert httpx.get(address, headers=mine).headers["access-control-allow-origin"] == origin
        assert "access-control-allow-origin" not in httpx.get(address, headers={"origin": "https://x.org"}).headers
        assert "access-control-allow-origin" not in httpx.get(url + "hosts.json", headers=mine).headers
    page.close()
    site.shutdown()
    site.server_close()
