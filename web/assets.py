"""Templates and static files, read and compiled when this is imported.

The server gives up its rights before it answers anything, and may not be able to read its own files then.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined

from web import urls
from web.flamegraph.script import viewer_script
from web.store.selection import rfc3339

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


@dataclass(frozen=True, slots=True)
class Static:
    body: bytes
    media_type: str
    etag: str


def _read_static() -> dict[str, Static]:
    bodies = {file.name: file.read_bytes() for file in (files("web") / "static").iterdir() if file.is_file()}
    bodies["flamegraph.js"] = viewer_script().encode()
    found = {}
    for name, body in bodies.items():
        suffix = "." + name.rpartition(".")[2]
        if suffix in _TYPES:
            found[name] = Static(body, _TYPES[suffix], f'"{blake2b(body, digest_size=12).hexdigest()}"')
    return found


def count(number: float | None) -> str:
    """1234567 → "1,234,567"."""
    return "–" if number is None else f"{number:,.0f}"


def word(number: float, plural: str) -> str:
    """What is counted, in the number that it has: 1, "hosts" → "host"."""
    return plural.removesuffix("s") if number == 1 else plural


def decimal(number: float | None, digits: int = 2) -> str:
    return "–" if number is None else f"{number:,.{digits}f}"


def percent(part: float, whole: float, digits: int = 1) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "–"


def share(part: float, whole: float) -> str:
    """As percent(), but a little is not nothing, nor almost all everything."""
    if not 0 < part < whole or 0.0005 <= part / whole < 0.9995:
        return percent(part, whole)
    return "< 0.1 %" if part / whole < 0.5 else "> 99.9 %"


def size(number: int) -> str:
    """Bytes as people read them."""
    value = float(number)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.1f} TB"


def ago(seconds: float) -> str:
    """An age in words."""
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def rates(hz: list[int]) -> str:
    """Sampling rates in words."""
    if len(hz) > 6:
        return f"{len(hz)} rates from {hz[0]:,} to {hz[-1]:,} Hz"
    words = [f"{rate:,}" for rate in hz]
    return f"{', '.join(words[:-1])}{' and ' if len(words) > 1 else ''}{words[-1]} Hz" if words else ""


def shown(name: object, limit: int = 80) -> str:
    """A name that someone else chose, fit to be seen: no control or bidirectional characters, not endless."""
    text = str(name)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _visible(c) for c in text)


def _visible(c: str) -> str:
    if ord(c) < 0x20:
        return chr(0x2400 + ord(c))
    return f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c)[0] == "C" else c


STATIC: Final = _read_static()


def _environment() -> Environment:
    sources = {
        file.name: file.read_text("utf-8")
        for file in (files("web") / "templates").iterdir()
        if file.name.endswith(".html")
    }
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        count=count,
        word=word,
        decimal=decimal,
        percent=percent,
        share=share,
        size=size,
        ago=ago,
        rates=rates,
        shown=shown,
        rfc3339=rfc3339,
    )
    environment.globals.update(urls=urls)
    for name in sources:
        environment.get_template(name)
    return environment


_ENVIRONMENT: Final = _environment()


def render(template: str, context: Any) -> str:
    """The page of a context (see contexts.py), which templates know as `page`.

    HTML cannot hold U+0000: it is replaced, as browsers would.
    """
    return _ENVIRONMENT.get_template(template).render(page=context).replace("\0", "\ufffd")
