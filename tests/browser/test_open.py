"""The page that opens a file, in real Chromium: chosen, dropped, saved, refused; one picture after another."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from profiler.formats.json import read_json, write_json
from profiler.formats.pprof import write_pprof
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Frame, Kind, Location

CHECKOUT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from web.app import ServerOptions, serve
options = ServerOptions(sys.argv[1], port=0, commit_seconds=0)
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = f"chdb://{tmp_path_factory.mktemp('open')}/store"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, store], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url
    yield url
    process.terminate()
    assert process.wait(60) == 0


@pytest.fixture
def pprof(tmp_path: Path) -> Path:
    leaf, main = (Location(i, None, (Frame(name, Kind.NATIVE),)) for i, name in enumerate(("leaf", HOSTILE), 1))
    samples = (Sample((leaf, main), 7, "app", "app", 30), Sample((main,), 7, "app", "app", 10))
    account = Accounting(60, 60, 15, 0, 40, {"stack map full": 5}, 70)
    path = tmp_path / "x.pb.gz"
    path.write_bytes(write_pprof(Profile("web-1", "cpu-clock", 99, Window(10**18, 10**18 + 10**10), samples, account)))
    return path


def frame(page: Page, name: str) -> Locator:
    return page.get_by_role("treeitem", name=f"{name} (").first


def test_a_chosen_file_becomes_a_living_picture_with_its_account(server: str, page: Page, pprof: Path) -> None:
    page.goto(server)
    page.get_by_role("link", name="Open a file").click()
    page.get_by_label("A profile").set_input_files(pprof)
    expect(page.locator(".summary")).to_contain_text("40 samples from x.pb.gz · pprof")
    expect(page.locator(".accounting")).to_contain_text("15")
    frame(page, "leaf").hover()
    expect(page.locator("#fg-details-name")).to_have_text("leaf (30 samples, 75.00 %, 303 ms CPU)")
    frame(page, "leaf").click()
    expect(page).to_have_url(re.compile("#zoom="))
    expect(page.get_by_role("treeitem", name=f"{HOSTILE} (").first).to_be_visible()


def test_another_file_takes_the_place_of_the_first_and_its_keys(server: str, page: Page, pprof: Path) -> None:
    page.goto(server + "open")
    page.get_by_label("A profile").set_input_files(pprof)
    frame(page, "leaf").click()
    other = pprof.with_name("y.folded")
    other.write_text("a;b 3\na;c 1\n")
    page.get_by_label("A profile").set_input_files(other)
    expect(page.locator(".summary")).to_contain_text("4 samples from y.folded · folded stacks")
    expect(page.locator("#fg-frames")).to_have_count(1)
    page.locator("h1").click()
    page.keyboard.press("s")
    expect(page.get_by_role("button", name="Sort: weight")).to_be_visible()
    assert page.url.endswith("#sort=weight")  # one picture answers, and not the one that is gone


def test_a_dropped_file_is_shown(server: str, page: Page) -> None:
    page.goto(server + "open")
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["main;f 5\\nmain 2\\n"], "dropped.txt"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.locator(".summary")).to_contain_text("7 samples from dropped.txt")


def test_what_is_shown_can_be_saved_in_other_formats(server: str, page: Page, pprof: Path) -> None:
    page.goto(server + "open")
    page.get_by_label("A profile").set_input_files(pprof)
    with page.expect_download() as download:
        page.get_by_role("button", name=".json", exact=True).click()
    assert download.value.suggested_filename == "x.json"
    assert read_json(Path(download.value.path()).read_bytes()).accounting.sampled == 40


def test_an_event_is_chosen(server: str, page: Page, tmp_path: Path) -> None:
    sample = "x 1/1 1.0: 10101010 cpu-clock:\n\t7f f (/a)\n\n"
    path = tmp_path / "perf.txt"
    path.write_text(sample * 3 + sample.replace("10101010 cpu-clock", "2 page-faults"))
    page.goto(server + "open")
    page.get_by_label("A profile").set_input_files(path)
    expect(page.locator(".summary")).to_contain_text("3 samples")
    page.get_by_label("event").select_option("page-faults:count")
    expect(page.locator(".summary")).to_contain_text("2 page-faults")


def test_a_grouping_is_chosen_and_saved(server: str, page: Page, pprof: Path) -> None:
    page.goto(server + "open")
    page.get_by_label("A profile").set_input_files(pprof)
    page.get_by_label("grouped by").select_option("process id")
    expect(frame(page, "7")).to_have_attribute("aria-level", "2")
    with page.expect_download() as download:
        page.get_by_role("button", name=".svg", exact=True).click()
    assert "<title>7 (40 samples" in download.value.path().read_text()
    with page.expect_download() as download:
        page.get_by_role("button", name=".json", exact=True).click()
    assert read_json(download.value.path().read_bytes()).accounting.sampled == 40
    # Another file may not have the label: it is shown as it is.
    other = pprof.with_name("y.folded")
    other.write_text("a;b 3\n")
    page.get_by_label("A profile").set_input_files(other)
    expect(frame(page, "b")).to_be_visible()
    expect(page.get_by_label("grouped by")).to_have_count(0)


def test_functions_of_a_file_are_listed_with_callers_callees_and_lines(server: str, page: Page, tmp_path: Path) -> None:
    def frame_of(name: str, line: int) -> Location:
        return Location(line, None, (Frame(name, Kind.NATIVE, file="shop.c", line=line),))

    main, work, again = frame_of("main", 1), frame_of("work", 10), frame_of("work", 12)
    leaf = Location(9, None, (Frame(HOSTILE, Kind.NATIVE),))
    samples = tuple(
        Sample(stack, 7, "app", "app", count)
        for stack, count in (((work, main), 20), ((leaf, work, main), 15), ((work, again, main), 5))
    )
    window = Window(10**18, 10**18 + 10**10)
    path = tmp_path / "x.json"
    path.write_bytes(write_json(Profile("web-1", "cpu-clock", 99, window, samples, Accounting(40, 40, 0, 0, 40))))
    page.goto(server + "open")
    expect(page.locator("#functions")).to_be_hidden()
    page.get_by_label("A profile").set_input_files(path)
    expect(page.locator("#functions-told")).to_have_text("3 functions")
    expect(page.locator("#functions .tall")).to_have_css("overflow-y", "auto")  # its styles are on this page, too
    rows = page.locator("#functions-table tbody tr")
    assert [row.locator("td").all_inner_texts()[:4] for row in rows.all()] == [
        ["25", "62.50 %", "40", "100.00 %"],
        ["15", "37.50 %", "15", "37.50 %"],
        ["0", "0.00 %", "40", "100.00 %"],
    ]
    rows.nth(0).get_by_role("button", name="work", exact=True).click()
    expect(page.locator("#callers tbody")).to_contain_text("main")
    expect(page.locator("#callees button").first).to_have_attribute("title", HOSTILE)
    lines = page.locator("#lines tbody tr")
    expect(lines).to_have_count(2)
    assert [line.inner_text().split("\t") for line in lines.all()] == [
        ["shop.c:10", "25", "40", "100.00 %"],
        ["shop.c:12", "0", "5", "12.50 %"],
    ]
    page.get_by_role("button", name="Find in the picture").click()
    expect(page.locator("#functions")).to_be_visible()
    expect(page.locator("#function")).to_be_hidden()
    # A difference has two counts of each: its functions are not those of one profile.
    other = tmp_path / "y.folded"
    other.write_text("a;b 3 4\na;c 1 1\n")
    page.get_by_label("A profile").set_input_files(other)
    expect(page.locator(".summary")).to_contain_text("y.folded")
    expect(page.locator("#functions")).to_be_hidden()


def test_a_part_of_the_time_is_dragged_over_and_shown_alone(server: str, page: Page, tmp_path: Path) -> None:
    """A burst of a tenth of a second within a minute: found by eye in the map, then looked at in finer steps."""
    path = tmp_path / "perf.txt"
    lines = []
    for i in range(6000):
        comm, pid, name = ("burst", 8, "hot") if 3000 <= i < 3010 else ("calm", 7, "cold")
        lines.append(f"{comm} {pid}/{pid} [000] {100 + i / 100:.6f}: cpu-clock:\n\t7f {name}+0x1 (/bin/x)\n")
    path.write_text("\n".join(lines) + "\n")
    page.goto(server + "open")
    page.get_by_label("A profile").set_input_files(path)
    expect(page.locator(".summary")).to_contain_text("6,000 samples")
    expect(page.locator("#times-title")).to_contain_text("in steps of 200 ms")
    rows = page.locator(".filetimes ol li")
    expect(rows).to_have_count(3)
    row = rows.filter(has_text="burst").bounding_box()
    mark = page.locator("#filemap g").nth(2).bounding_box()  # all, calm, burst: of which the last is short
    assert row and mark and abs(row["y"] - mark["y"]) < 4 and mark["width"] < 8
    page.mouse.move(mark["x"] + 1, row["y"] + 8)
    page.mouse.down()
    page.mouse.move(mark["x"] + mark["width"] - 1, row["y"] + 8, steps=3)
    page.mouse.up()
    expect(page.locator("#times-title")).to_contain_text("in steps of 1 ms")
    expect(frame(page, "hot")).to_have_attribute("aria-label", re.compile("10 samples"))
    since, until = page.get_by_role("spinbutton", name="From"), page.get_by_role("spinbutton", name="Until")
    assert 29.8 <= float(since.input_value()) <= 30.0 and 30.1 <= float(until.input_value()) <= 30.4
    with page.expect_download() as download:
        page.get_by_role("button", name=".json", exact=True).click()
    saved = read_json(Path(download.value.path()).read_bytes())
    assert saved.accounting.closes and 10 <= saved.accounting.sampled <= 60

    # By keyboard: seconds are written.
    since.fill("30.05")
    until.fill("30.08")
    page.keyboard.press("Enter")
    expect(page.locator(".summary")).to_contain_text("3 samples")
    page.get_by_role("button", name="All of it").click()
    expect(page.locator(".summary")).to_contain_text("6,000 samples")


def test_a_part_that_holds_nothing_is_told_and_another_can_be_chosen(
    server: str, browser_page: Page, tmp_path: Path
) -> None:
    page, path = browser_page, tmp_path / "perf.txt"
    path.write_text("".join(f"a 7/7 [000] {10 + i}.5: cpu-clock:\n\t7f f+0x1 (/bin/x)\n\n" for i in range(9)))
    page.goto(server + "open")
    page.get_by_label("A profile").set_input_files(path)
    since, until = page.get_by_role("spinbutton", name="From"), page.get_by_role("spinbutton", name="Until")
    since.fill("99")
    until.fill("100")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no sample was taken from 99 to 100 s")
    since.fill("2")
    until.fill("4")
    page.keyboard.press("Enter")
    expect(page.locator(".summary")).to_contain_text("2 samples")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_is_no_profile_is_told_on_the_page(server: str, browser_page: Page, tmp_path: Path) -> None:
    path = tmp_path / "no.txt"
    path.write_text("no profile at all\n")
    browser_page.goto(server + "open")
    browser_page.get_by_label("A profile").set_input_files(path)
    expect(browser_page.get_by_role("alert")).to_contain_text("no folded stacks found: line 1")


@pytest.fixture
def browser_page(page: Page) -> Iterator[Page]:
    """A page where the browser may log that an answer was no success."""
    context = page.context.browser
    assert context is not None
    own = context.new_context()
    yield own.new_page()
    own.close()
