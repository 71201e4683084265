"""Where things stand in a flame graph, and in which colours: what the static picture and the viewer share.

Lengths are in CSS pixels, colours in hex.
"""

from __future__ import annotations

from colorsys import hls_to_rgb
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Kind
from web.flamegraph.calltree import CallTree

WIDTH = 1200  # of the static picture; the viewer fills what it is shown in
SIDE = 14  # left and right of the frames
TOP = 92  # title, subtitle, legend
ROW = 16
DETAILS = 68  # the panel that says what is hovered over
NOTE = 16  # one line of the accounting
CHARACTER = 6.62  # advance of a monospace character at FONT
FONT = 11
NARROWEST = 0.5  # a frame narrower than this is not drawn
MOST_FRAMES = 1000  # in the markup, nor more of them than this
MOST_ELEMENTS = 2000  # frames and their labels in the viewer: a browser gets slow at about 10,000 elements

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

ELIDED = "folded away"  # the kind of the nodes that calltree.prune() makes, beside those of Kind
LABELS: dict[str, str] = {
    Kind.KERNEL: "kernel",
    Kind.MODULE: "kernel module",
    Kind.BPF: "BPF",
    Kind.NATIVE: "native",
    Kind.INLINED: "inlined",
    Kind.VDSO: "vDSO",
    Kind.JIT: "JIT",
    Kind.PYTHON: "Python",
    Kind.UNKNOWN: "unknown",
    Kind.PROCESS: "process",
    Kind.THREAD: "thread",
    ELIDED: ELIDED,
}

# kind: hue from, to (degrees); saturation; lightness from, to (per cent)
_COLOURS: dict[str, tuple[float, float, float, float, float]] = {
    Kind.KERNEL: (22, 29, 92, 60, 69),
    Kind.MODULE: (9, 14, 72, 61, 69),
    Kind.BPF: (338, 348, 70, 68, 76),
    Kind.NATIVE: (43, 55, 92, 59, 73),
    Kind.INLINED: (174, 184, 50, 60, 71),
    Kind.VDSO: (262, 272, 55, 74, 81),
    Kind.JIT: (98, 124, 48, 60, 71),
    Kind.PYTHON: (205, 216, 74, 68, 77),
    Kind.UNKNOWN: (210, 210, 6, 72, 79),
    Kind.PROCESS: (40, 40, 14, 80, 84),
    Kind.THREAD: (40, 40, 22, 86, 89),
    ELIDED: (210, 210, 8, 87, 87),
}
SHADES = 16

# What changed: from a little to a lot. Blue and red are told apart by the colour-blind as well, and black is legible on
# all of them. After ColorBrewer's diverging scheme RdBu (colorbrewer2.org).
UNCHANGED = "#ded9cc"
GREW = ("#fde3d6", "#f9bfa3", "#f09578", "#e46f57")
SHRANK = ("#dceaf4", "#b0d3e8", "#80b5da", "#5b99cb")
STEPS = (0.1, 0.25, 0.5)  # of the larger side: where one shade ends and the next begins

BACKGROUNDS = {
    "cpu": ("#fffefa", "#fbf3d5"),
    "off-cpu": ("#fbfdff", "#dfeafa"),
    "io": ("#fbfdff", "#dfeafa"),
    "memory": ("#fbfffb", "#def3de"),
    "other": ("#fdfdfd", "#ececee"),
}


def shades(kind: str) -> list[str]:
    """The SHADES colours that functions of one kind come in."""
    hue, hue_to, saturation, lightness, lightness_to = _COLOURS[kind]
    steps = 4
    colours = []
    for i in range(SHADES):
        h = hue + (hue_to - hue) * (i % steps) / (steps - 1)
        li = lightness + (lightness_to - lightness) * (i // steps) / (steps - 1)
        red, green, blue = hls_to_rgb(h / 360, li / 100, saturation / 100)
        colours.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return colours


@dataclass(frozen=True, slots=True)
class Picture:
    """The frames to draw, in level order: `node`s of the tree with left edge `x` and `width`."""

    node: NDArray[np.intp]
    x: NDArray[np.float64]
    width: NDArray[np.float64]
    rows: int


def place(tree: CallTree, width: float) -> Picture:
    """The frames that are to be seen in a picture of the whole tree, `width` wide with its margins.

    Wherever a frame is in the picture, so are its callers.
    """
    if not tree.total[0]:
        root = np.zeros(1, np.intp)
        return Picture(root, np.array([float(SIDE)]), np.array([width - 2 * SIDE]), 1)
    scale = (width - 2 * SIDE) / float(tree.total[0])
    node = np.flatnonzero(tree.total * scale >= NARROWEST)
    if len(node) > MOST_FRAMES:
        # Of frames that weigh the same, the stable sort takes the callers first.
        node = np.sort(node[np.argsort(-tree.total[node], kind="stable")[:MOST_FRAMES]])
    x = np.asarray(SIDE + tree.start[node] * scale, np.float64)
    wide = np.asarray(tree.total[node] * scale, np.float64)
    return Picture(node, x, wide, int(tree.level[node].max()) + 1)


def cells(text: str) -> int:
    """The number of character cells that text takes in a monospace font."""
    return len(text) if text.isascii() else sum(2 if ord(c) >= 0x2E80 else 1 for c in text)


def fit(text: str, width: float, character: float = CHARACTER) -> str:
    """As much of `text` as is not wider than `width`; "…" stands for what had to go."""
    room = int(width / character)
    if len(text) <= room and cells(text) <= room:
        return text
    if room < 3:
        return ""
    used, end = 1, 0
    while end < len(text) and used + cells(text[end]) <= room:
        used += cells(text[end])
        end += 1
    return text[:end] + "…"
