"""Pictures to look at in Chromium, and how their frames are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from playwright.sync_api import Frame as FrameOfPage
from playwright.sync_api import Locator, Page

from profiler.model import StackTable
from symbolizer.types import Frame, Kind, Reason
from web.flamegraph import layout
from web.flamegraph.calltree import build_tree
from web.flamegraph.script import viewer_script
from web.flamegraph.svg import Caption, write_svg

CAPTION = Caption("CPU profile", "99 Hz", ("1,000 sampled, 0 lost",), background="cpu", seconds_per_sample=0.01)
PROCESS = Frame("server", Kind.PROCESS)
MAIN = Frame("main", Kind.NATIVE, "", "main.c", 10)
PARSE = Frame("parse", Kind.NATIVE)
READ = Frame("vfs_read", Kind.KERNEL)
PARSE_HEADER = Frame("parse_header", Kind.INLINED)
UNKNOWN = Frame("[libz.so: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
ZEBRA = Frame("zebra", Kind.JIT)
TINY = Frame("tiny", Kind.NATIVE)
TINIER = Frame("tinier", Kind.NATIVE)


def table_of(stacks: list[tuple[list[Frame], int]]) -> StackTable:
    frames: dict[Frame, int] = {}
    index = [frames.setdefault(frame, len(frames)) for stack, _ in stacks for frame in stack]
    return StackTable(
        list(frames),
        ["/usr/bin/server" if frame.kind is Kind.NATIVE else "" for frame in frames],
        np.array(index, np.uint32),
        np.concatenate(([0], np.cumsum([len(stack) for stack, _ in stacks]))).astype(np.int64),
        np.array([count for _, count in stacks], np.int64),
    )


# 10,000 samples; `parse` is seen above itself, and `tiny` is narrower than half a pixel until zoomed.
STACKS = [
    ([PROCESS, MAIN, PARSE], 1000),
    ([PROCESS, MAIN, PARSE, PARSE_HEADER], 1500),
    ([PROCESS, MAIN, PARSE, PARSE_HEADER, PARSE], 500),
    ([PROCESS, MAIN, READ], 1998),
    ([PROCESS, MAIN, READ, TINY, TINIER], 2),
    ([PROCESS, MAIN, UNKNOWN], 1000),
    ([PROCESS, ZEBRA], 4000),
]


# `fill` on three lines; push_back() inlined into it on two.
PUSH_BACK = "std::vector<int, std::allocator<int>>::push_back(int&&)"
LINES = [
    ([PROCESS, Frame("fill(int)", Kind.NATIVE, "", "fill.cc", line), *inlined], count)
    for line, count, inlined in [
        (10, 300, []),
        (20, 500, [Frame(PUSH_BACK, Kind.INLINED, "", "stl_vector.h", 95)]),
        (30, 100, []),
        (20, 700, [Frame(PUSH_BACK, Kind.INLINED, "", "stl_vector.h", 96)]),
    ]
]


Serve = Callable[[dict[str, tuple[str, bytes]]], str]


def pictures(table: StackTable, script: str | None) -> dict[str, tuple[str, bytes]]:
    svg = write_svg(build_tree(table), CAPTION, script_href=script)
    return {
        "/flamegraph.svg": ("image/svg+xml", svg),
        "/flamegraph.js": ("text/javascript", viewer_script().encode()),
        "/favicon.ico": ("image/png", b""),
        "/": (
            "text/html",
            b"<!doctype html><title>t</title><input id=other>"
            b"<iframe src='/flamegraph.svg' width=900 id=picture></iframe>",
        ),
    }


def frame(page: Page, function: str) -> Locator:
    return page.locator(f'[role=treeitem][aria-label^="{function} ("]')


def names(page: Page) -> list[str]:
    labels: list[str] = page.evaluate(
        "[...document.querySelectorAll('[role=treeitem]')].map(e => e.getAttribute('aria-label'))"
    )
    return [label.rsplit(" (", 1)[0] for label in labels]


def width(locator: Locator) -> float:
    return float(locator.get_attribute("width") or 0)


def x(locator: Locator) -> float:
    return float(locator.get_attribute("x") or 0)


def y(locator: Locator) -> float:
    return float(locator.get_attribute("y") or 0)


def focused(page: Page) -> str:
    label: str | None = page.evaluate("document.activeElement.getAttribute('aria-label')")
    return (label or "").rsplit(" (", 1)[0]


def texts(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...document.querySelectorAll('#fg-frames text')].map(e => e.textContent)")
    return found


def picture_in(page: Page) -> FrameOfPage:
    inner = next(found for found in page.frames if found.url.endswith(".svg"))
    inner.wait_for_selector("[role=treeitem]")
    return inner


def open_file(page: Page, folder: Path, table: StackTable | None = None) -> str:
    """Writes a picture, that of STACKS by default, and opens it from the file without a network; gives its address."""
    page.context.set_offline(True)
    path = folder / "picture.svg"
    path.write_bytes(write_svg(build_tree(table_of(STACKS) if table is None else table), CAPTION))
    page.goto(path.as_uri())
    return path.as_uri()


def rows(page: Page) -> list[tuple[int, int, int, str]]:
    """Each frame as its row, the root's is 0, where it begins and ends in thousandths of the width, and its name."""
    found: list[tuple[float, float, float, str]] = page.evaluate(
        """() => [...document.querySelectorAll('#fg-frames [role=treeitem]')].map(rect => [
             ...['x', 'y', 'width'].map(name => Number(rect.getAttribute(name))), rect.getAttribute('aria-label')])"""
    )
    left, root, whole, _ = found[0]
    whole += 0.6  # the gap between neighbours
    return sorted(
        (
            round((root - y) / layout.ROW),
            round(1000 * (x - left) / whole),
            round(1000 * (x - left + wide + 0.6) / whole),
            label.rsplit(" (", 1)[0],
        )
        for x, y, wide, label in found
    )
