"""Addresses of pages and of their twins in other formats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode

TWINS: Final = ("svg", "json", "folded", "pb.gz", "speedscope.json", "firefox.json")
DIFF_TWINS: Final = ("svg", "json", "folded", "txt")

Query = tuple[tuple[str, str], ...]


def home(query: Query = ()) -> str:
    return _with("/", query)


def host(name: str, extension: str = "", query: Query = ()) -> str:
    return _with(f"/hosts/{quote(name, safe='')}{'.' + extension if extension else ''}", query)


def flamegraph(query: Query = (), extension: str = "") -> str:
    return _with(f"/flamegraph{'.' + extension if extension else ''}", query)


def diff(query: Query = (), extension: str = "") -> str:
    return _with(f"/diff{'.' + extension if extension else ''}", query)


def api(question: str, query: Query = ()) -> str:
    return _with(f"/api/v1/{question}", query)


def below(query: Query) -> str:
    return _with("/flamegraph/below.json", query)


def diff_below(query: Query) -> str:
    return _with("/diff/below.json", query)


def capture_below(id: str, query: Query) -> str:
    return _with(f"/captures/{quote(id, safe='')}/below.json", query)


def captures(query: Query = ()) -> str:
    return _with("/captures", query)


def capture(id: str, extension: str = "", query: Query = ()) -> str:
    return _with(f"/captures/{quote(id, safe='')}{'.' + extension if extension else ''}", query)


def capture_api(id: str, question: str = "") -> str:
    return f"/api/v1/captures/{quote(id, safe='')}{'/' + question if question else ''}"


def annotation_api(id: str) -> str:
    return f"/api/v1/annotations/{quote(id, safe='')}"


def annotations_api(query: Query = ()) -> str:
    return _with("/api/v1/annotations", query)


def heatmap(query: Query = ()) -> str:
    return _with("/api/v1/heatmap", query)


def settings() -> str:
    return "/settings"


def open_file() -> str:
    return "/open"


def static(name: str) -> str:
    return f"/static/{name}"


def replaced(query: Query, **values: str | None) -> Query:
    """`query` with each name set to one value, or without it where that is None or empty.

    Names that are Python keywords are written with an underscore after them: from_="now-1h".
    """
    new = {name.rstrip("_"): value for name, value in values.items()}
    kept = [(name, value) for name, value in query if name not in new]
    return tuple(kept + [(name, value) for name, value in new.items() if value])


def only(query: Query, *names: str) -> Query:
    return tuple(pair for pair in query if pair[0] in names)


def plus(query: Query, selector: str) -> Query:
    """`query` with one more selector, such as process=nginx."""
    return (*query, ("q", selector))


def minus(query: Query, selector: str, name: str = "q") -> Query:
    return tuple(pair for pair in query if pair != (name, selector))


def _with(path: str, query: Iterable[tuple[str, str]]) -> str:
    text = urlencode(list(query), safe=":=~!,")
    return f"{path}?{text}" if text else path
