"""How names look in pictures, and trees in the viewer's columns. What goes into a picture goes through visible()."""

from __future__ import annotations

import unicodedata
from typing import Any
from zlib import crc32

import numpy as np

from symbolizer.naming.short_names import short_name
from symbolizer.types import Frame, Kind
from web.flamegraph import layout
from web.flamegraph.calltree import CallTree, tree_to_json

LONGEST_NAME = 1000  # characters
_SHORTENED = frozenset({Kind.NATIVE, Kind.INLINED, Kind.KERNEL, Kind.MODULE})  # names of compilers, not of runtimes


def visible(text: str) -> str:
    """`text` with every character that is not seen, or not allowed in XML, replaced by one that is.

    Also cuts off what is over LONGEST_NAME.
    """
    if len(text) > LONGEST_NAME:
        text = text[: LONGEST_NAME - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(c)
    if category == "Cs" or code & 0xFFFE == 0xFFFE:
        return "\ufffd"
    if category in ("Cc", "Cf", "Zl", "Zp"):  # Cf holds the bidirectional and the zero-width ones
        return f"\u27e8U+{code:04X}\u27e9"
    return c


def shade(function: str) -> int:
    """Which of its kind's shades a function has: the same in every picture, and from the whole name."""
    return crc32(function.encode("utf-8", "surrogatepass")) % layout.SHADES


def shown_name(frame: Frame) -> str:
    """What stands in a frame's box: the name with arguments and parameters folded."""
    return visible(short_name(frame.function) if frame.kind in _SHORTENED else frame.function)


def kind_of(tree: CallTree, frame: int) -> str:
    """One of the kinds that layout.LABELS has."""
    return layout.ELIDED if frame >= tree.elided else tree.frames[frame].kind.value


def viewer_tree(tree: CallTree) -> dict[str, Any]:
    """A tree as static/flamegraph/model.js reads it: tree_to_json, with what frames look like.

    `kinds` have labels and shades; the last is that of what is folded away, and `kindsInOrder` says in which order
    they are listed. What weighs less than `lighter` is folded away.
    """
    data: dict[str, Any] = tree_to_json(tree)
    frames = data["frames"]
    kinds = [*data["kinds"], layout.ELIDED]
    frames["shade"] = [shade(name) for name in frames["name"]]
    frames["name"] = [visible(name) for name in frames["name"]]
    # As in tree_to_json, the frames that are used, in their order; "" where the name is short already.
    used = (tree.frames[i] for i in np.unique(tree.frame).tolist())
    shown = [shown_name(frame) for frame in used]
    frames["shown"] = ["" if s == name else s for s, name in zip(shown, frames["name"], strict=True)]
    frames["kind"][data["elided"] :] = [len(data["kinds"])] * (len(frames["name"]) - data["elided"])
    order = list(layout.LABELS)
    return data | {
        "strings": [visible(string) for string in data["strings"]],
        "kinds": [{"label": layout.LABELS[kind], "shades": layout.shades(kind)} for kind in kinds],
        "kindsInOrder": sorted(range(len(kinds)), key=lambda i: order.index(kinds[i])),
        "lighter": tree.lighter,
    }
