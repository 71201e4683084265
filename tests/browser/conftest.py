"""Chromium, and what it must not say while a picture is looked at."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from tests.browser.pictures import CAPTION, STACKS, Serve, pictures, table_of
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import write_svg

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail("Chromium is not installed: `make setup-dev` installs it", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page 1,200 wide; the test fails if it logs, throws, or opens a dialog.

    What Content-Security-Policy blocks is logged to the console, so it fails the test as well.
    """
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))

    def refuse(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", refuse)
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="session")  # so that no page outlives its server
def served() -> Iterator[Callable[[dict[str, tuple[str, bytes]]], str]]:
    """Serves given files on 127.0.0.1 as strictly as our server does; gives their address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(files: dict[str, tuple[str, bytes]]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = files.get(self.path.split("?")[0])
                self.send_response(200 if found else 404)
                if found:
                    self.send_header("Content-Type", found[0])
                self.send_header("Content-Security-Policy", "default-src 'self'; img-src 'self' blob:")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(found[1] if found else b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=["file", "served"])
def graph(request: pytest.FixtureRequest, page: Page, served: Serve, tmp_path: Path) -> Page:
    """The same picture opened from a file with no network, and served with the script beside it."""
    if request.param == "file":
        page.context.set_offline(True)
        path = tmp_path / "x.svg"
        path.write_bytes(write_svg(build_tree(table_of(STACKS)), CAPTION))
        page.goto(path.as_uri())
    else:
        page.goto(served(pictures(table_of(STACKS), "/flamegraph.js")) + "/flamegraph.svg")
    return page
