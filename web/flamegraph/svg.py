"""A call tree as one interactive SVG file.

The file holds the whole tree as data and a static first picture as markup, so it also shows where
scripts do not run; the script of static/flamegraph replaces the picture with its own. Whatever comes from outside
goes through `visible` and is then escaped, so the file is well-formed XML and inert whatever the names.
Presentation is by attributes alone, and the data is text in <metadata>: neither needs leave of a
Content-Security-Policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from profiler.model import Accounting
from symbolizer.types import Frame, Kind
from web.flamegraph import layout
from web.flamegraph.calltree import CallTree, prune
from web.flamegraph.names import kind_of, shade, shown_name, viewer_tree, visible
from web.flamegraph.script import viewer_script

MOST_NODES = 500_000  # in one file; a larger tree is pruned, see calltree.prune


@dataclass(frozen=True, slots=True)
class Caption:
    """What stands around the picture.

    `notes` are the lines below it (the accounting). `unit` is what is counted, in the plural.
    `background` is the kind of profile, one of layout.BACKGROUNDS; others look like "other".
    `seconds_per_sample`, where known, has the time shown beside the counts; `per_sample` is StackTable's.
    `accounts` are what the viewer sums up in one line, each with its name where there are several; `rate` says in words
    how often was looked, `gaps` what part of the range nothing came from. `source` is the address of a server that has
    what prune() folds away (see below_endpoint.py), where there is one; `view` what the picture shows at first, as an
    address would say it.
    """

    title: str
    subtitle: str = ""
    notes: tuple[str, ...] = ()
    unit: str = "samples"
    background: str = "cpu"
    seconds_per_sample: float | None = None
    per_sample: int = 1
    accounts: tuple[tuple[str, Accounting], ...] = ()
    rate: str = ""
    gaps: str = ""
    source: str = ""
    view: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """How a tree's nodes are shown: the colour of each, what it weighs in words, and the legend's colours and labels.

    `data` is what the viewer has to know beyond the tree.
    """

    colour: Callable[[int], str]
    weight: Callable[[int], str]
    legend: list[tuple[str, str]]
    data: dict[str, Any]


def write_svg(tree: CallTree, caption: Caption, *, script_href: str | None = None) -> bytes:
    """The SVG in UTF-8. Its script is in the file, or at `script_href` where one is given.

    A page under `default-src 'self'` needs the script at an address of its own. The file can be put
    into an HTML page, too.
    """
    tree = prune(tree, MOST_NODES)
    return document(tree, caption, by_kind(tree, caption), script_href=script_href)


def document(tree: CallTree, caption: Caption, look: Look, *, script_href: str | None = None) -> bytes:
    """The SVG of a tree of MOST_NODES at most, as write_svg has it."""
    caption = replace(
        caption,
        title=visible(caption.title),
        subtitle=visible(caption.subtitle),
        notes=tuple(visible(note) for note in caption.notes),
        unit=visible(caption.unit),
        background=caption.background if caption.background in layout.BACKGROUNDS else "other",
    )
    markup = _markup(tree, caption, look)
    return "\n".join([*markup, _data(tree, caption, look.data), _script(script_href), "</svg>\n"]).encode()


def by_kind(tree: CallTree, caption: Caption) -> Look:
    """The usual look: hues tell kinds of code, shades tell functions."""
    palette = cache(layout.shades)
    whole = int(tree.total[0])

    def colour(node: int) -> str:
        number = int(tree.frame[node])
        return palette(kind_of(tree, number))[shade(tree.frames[number].function)]

    kinds = {kind_of(tree, i) for i in set(tree.frame[1:].tolist())}
    return Look(
        colour,
        lambda node: weigh(int(tree.total[node]), whole, caption),
        [(layout.shades(kind)[5], layout.LABELS[kind]) for kind in layout.LABELS if kind in kinds],
        {},
    )


def describe(frame: Frame, weight: str) -> str:
    """A frame and its weight in one line."""
    return f"{visible(frame.function)} ({weight})"


def weigh(total: int, whole: int, caption: Caption) -> str:
    """A weight in words: what it counts, its share, and how long that is."""
    weighed = "weighed " if caption.per_sample > 1 else ""
    parts = [f"{total:,} {weighed}{visible(caption.unit)}", f"{100 * total / whole if whole else 0:.2f} %"]
    if caption.seconds_per_sample:
        cpu = " CPU" if caption.background == "cpu" else ""
        parts.append(_seconds(total * caption.seconds_per_sample) + cpu)
    return ", ".join(parts)


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def _origin(tree: CallTree, node: int) -> str:
    """Where a node's frame comes from: its kind, binary, source and why it has no name, as far as known."""
    number = int(tree.frame[node])
    frame = tree.frames[number]
    caller = tree.frames[int(tree.frame[tree.parent[node]])] if tree.parent[node] > 0 else frame
    kind = layout.LABELS[frame.kind]
    if frame.kind is Kind.INLINED and caller.kind not in (Kind.PROCESS, Kind.THREAD) and caller is not frame:
        kind += " into " + shown_name(caller)
    parts = [kind, visible(tree.binaries[number])]
    if frame.file:
        line = f":{frame.line}" if frame.line else ""
        others = tree.other_lines[number]
        more = f" and {others:,} other line{'' if others == 1 else 's'}" if others else ""
        parts.append(visible(frame.file) + line + more)
    if frame.reason:
        parts.append(f"no name: {frame.reason.value}")
    return " · ".join(part for part in parts if part)


def _markup(tree: CallTree, caption: Caption, look: Look) -> Iterator[str]:
    """The static picture, up to the data."""
    picture = layout.place(tree, layout.WIDTH)
    graph_height = picture.rows * layout.ROW
    height = layout.TOP + graph_height + 12 + layout.DETAILS + len(caption.notes) * layout.NOTE + 14
    light, deep = layout.BACKGROUNDS[caption.background]
    text = f'font-family="{layout.SANS}" fill="#2b2a26"'
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.WIDTH}" height="{height}" '
        f'viewBox="0 0 {layout.WIDTH} {height}" data-pilotlight="flamegraph">\n'
        f"<title>{escape(caption.title)}</title>\n"
        '<defs><linearGradient id="fg-paper" x1="0" y1="0" x2="0" y2="1">'
        f'<stop offset="0" stop-color="{light}"/><stop offset="1" stop-color="{deep}"/></linearGradient></defs>\n'
        f'<rect id="fg-background" width="100%" height="{height}" fill="url(#fg-paper)"/>\n'
        f'<g id="fg-header" {text}>'
        f'<text id="fg-title" x="{layout.SIDE}" y="32" font-size="19" font-weight="600">'
        f"{escape(caption.title)}</text>"
        f'<text id="fg-subtitle" x="{layout.SIDE}" y="53" font-size="12.5" fill="#6b675c">'
        f"{escape(caption.subtitle)}</text>"
        "</g>"
    )
    yield f'<g id="fg-legend" {text} font-size="11" transform="translate({layout.SIDE} 70)">'
    x = 0.0
    for colour, label in look.legend:
        yield (
            f'<rect x="{x:g}" y="0" width="11" height="11" rx="2" fill="{colour}"/>'
            f'<text x="{x + 16:g}" y="9.5" fill="#55524a">{escape(label)}</text>'
        )
        x += 16 + 6.3 * len(label) + 14
    yield "</g>"
    yield (f'<g id="fg-frames" font-family="{layout.MONO}" font-size="{layout.FONT}" fill="#1b1a17">')
    yield from _frames(tree, picture, look)
    yield "</g>"
    below = layout.TOP + graph_height + 12
    yield f'<g id="fg-details" {text} transform="translate(0 {below})"></g>'
    yield f'<g id="fg-notes" {text} font-size="11.5" transform="translate({layout.SIDE} {below + layout.DETAILS})">'
    for i, note in enumerate(caption.notes):
        yield f'<text y="{12 + i * layout.NOTE}" fill="#6b675c">{escape(note)}</text>'
    yield "</g>"


def _frames(tree: CallTree, picture: layout.Picture, look: Look) -> Iterator[str]:
    bottom = layout.TOP + picture.rows * layout.ROW
    for node, x, width in zip(picture.node.tolist(), picture.x.tolist(), picture.width.tolist(), strict=True):
        frame = tree.frames[int(tree.frame[node])]
        y = bottom - (int(tree.level[node]) + 1) * layout.ROW
        colour = look.colour(node)
        line = describe(frame, look.weight(node))
        # The gap that sets neighbours apart would eat narrow frames up.
        drawn = width - 0.6 if width > 2 else width
        yield (
            f'<rect x="{x:.2f}" y="{y}" width="{drawn:.2f}" height="{layout.ROW - 1}" rx="{2 if width > 8 else 0}" '
            f'fill="{colour}"><title>{escape(line)}\n{escape(_origin(tree, node))}</title></rect>'
        )
        label = layout.fit(shown_name(frame), width - 7) if width > 26 else ""
        if label:
            yield f'<text x="{x + 3.5:.2f}" y="{y + 11.2}" pointer-events="none">{escape(label)}</text>'


def _data(tree: CallTree, caption: Caption, more: dict[str, Any]) -> str:
    """Everything the viewer needs to know, as JSON in <metadata>."""
    data: dict[str, Any] = (
        viewer_tree(tree)
        | {
            "source": caption.source,
            "view": caption.view,
            "caption": {
                "title": caption.title,
                "subtitle": caption.subtitle,
                "unit": caption.unit,
                "secondsPerSample": caption.seconds_per_sample,
                "perSample": caption.per_sample,
                "time": "CPU" if caption.background == "cpu" else "",
                "rate": visible(caption.rate),
                "gaps": visible(caption.gaps),
            },
            "accounts": [_account(visible(name), accounting) for name, accounting in caption.accounts],
            "layout": {
                "side": layout.SIDE,
                "top": layout.TOP,
                "row": layout.ROW,
                "details": layout.DETAILS,
                "note": layout.NOTE,
                "character": layout.CHARACTER,
                "narrowest": layout.NARROWEST,
                "mostElements": layout.MOST_ELEMENTS,
                "sans": layout.SANS,
                "mono": layout.MONO,
            },
        }
        | more
    )
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # As JSON's own escapes these mean nothing to any parser of XML or HTML.
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<metadata id="fg-data">{text}</metadata>'


def _account(name: str, accounting: Accounting) -> dict[str, Any]:
    """What the viewer says of an account in one line: counts of ticks, and of user stacks that were looked into."""
    cut = sum(accounting.unwinding.cut.values())
    return {
        "name": name,
        "ticks": accounting.ticks,
        "idle": accounting.idle,
        "filtered": accounting.filtered,
        "shown": accounting.sampled,
        "lost": accounting.lost_total,
        "expected": accounting.expected,
        "missed": accounting.missed,
        "stacks": accounting.unwinding.whole + cut,
        "cut": cut,
    }


def _script(href: str | None) -> str:
    if href is not None:
        return f"<script href={quoteattr(href)}></script>"
    source = viewer_script()
    if "]]>" in source:
        raise ValueError("the viewer's script holds ]]>, which ends a CDATA section; write it some other way")
    return f"<script>//<![CDATA[\n{source}\n//]]></script>"
