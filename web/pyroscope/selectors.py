"""What Pyroscope's queries choose: `{label="value",other=~"regex"}`, before it the profile type where one is asked for.

The syntax is Prometheus', https://prometheus.io/docs/prometheus/latest/querying/basics/#time-series-selectors. Names of
labels are those of the store as Prometheus can write them: service_name for service, and every character that is no
letter or digit as an underscore, so otel_scope_name for otel.scope.name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from web.pyroscope.types import parse_profile_type
from web.store.selection import LABELS, Matcher
from web.store.store import BadQuery

MAX_TEXT: Final = 16_384
MAX_MATCHERS: Final = 32
MAX_LABEL: Final = 200  # characters of a label's name
MAX_VALUE: Final = 4096  # characters of its value, or of a regular expression
TYPE_LABELS: Final = ("__profile_type__", "__name__")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<label>[A-Za-z_][A-Za-z0-9_.]*)|"(?P<quoted>(?:[^"\\\n]|\\.)+)")\s*(?P<operator>=~|!~|!=|=)\s*"""
    r"""(?:"(?P<double>(?:[^"\\\n]|\\.)*)"|'(?P<single>(?:[^'\\\n]|\\.)*)'|`(?P<raw>[^`]*)`)\s*(?P<comma>,?)"""
)
_TYPE: Final = re.compile(r"[^{}\"'`\s]*")
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[0-7]{3}|.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}

Term = tuple[str, str, str]  # label, operator, value


def parse_query(text: str) -> tuple[str, list[Term]]:
    """The profile type and the terms of `TYPE{…}`; the type may be the value of a term __profile_type__ instead.

    Raises BadQuery.
    """
    stripped = text.strip()
    found = _TYPE.match(stripped)
    kind = found[0] if found else ""
    terms = parse_selector(stripped[len(kind) :] or "{}")
    for label in TYPE_LABELS:
        for term in terms:
            if term[0] == label and term[1] == "=" and not kind:
                kind = term[2]
    if not kind:
        raise BadQuery(
            "the query names no profile type: write"
            ' process_cpu:cpu:nanoseconds:cpu:nanoseconds{service_name="shop"}, for example'
        )
    return parse_profile_type(kind), [term for term in terms if term[0] not in TYPE_LABELS]


def parse_selector(text: str) -> list[Term]:
    """The terms of `{…}`, or of nothing. Raises BadQuery."""
    if len(text) > MAX_TEXT:
        raise BadQuery(f"the selector has {len(text):,} characters, more than {MAX_TEXT:,}")
    inner = text.strip()
    if not inner:
        return []
    if not (inner.startswith("{") and inner.endswith("}")):
        raise BadQuery(f'{_short(text)} is no selector: write {{label="value",other=~"regex"}}')
    terms: list[Term] = []
    at, end = 1, len(inner) - 1
    while inner[at:end].strip():
        token = _TOKEN.match(inner, at, end)
        if token is None or (not token["comma"] and inner[token.end() : end].strip()):
            raise BadQuery(f'{_short(inner[at:end])} is no selector: write label="value", with =, !=, =~ or !~')
        if token["raw"] is not None:
            value = token["raw"]
        else:
            value = _unescaped(token["double"] if token["double"] is not None else token["single"])
        label = token["label"] or _unescaped(token["quoted"])
        terms.append((label, token["operator"], value))
        at = token.end()
    if len(terms) > MAX_MATCHERS:
        raise BadQuery(f"more than {MAX_MATCHERS} selectors; combine them with a regular expression (=~)")
    return terms


def matchers_of(terms: Iterable[Term], names: Sequence[str]) -> tuple[Matcher, ...]:
    """Terms as the store's. `names` are all that its labels have. Raises BadQuery."""
    of_store = {public: name for name, public in public_names(names).items()}
    found = []
    for label, operator, value in terms:
        if len(label) > MAX_LABEL or len(value) > MAX_VALUE:
            raise BadQuery(f"{_short(label)} or its value is longer than {MAX_LABEL} and {MAX_VALUE:,} characters")
        name = of_store.get(label, label)
        if name in ("pid", "hz") and not operator.endswith("~"):
            if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= 0xFFFFFFFF):
                raise BadQuery(f"{name} must be a whole number, not {_short(value)}")
        found.append(Matcher(name, operator, value))
    return tuple(dict.fromkeys(found))


def public_names(names: Sequence[str]) -> dict[str, str]:
    """The store's names of labels, each with the name that it has here; of two that would be one, the first has it."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: name not in LABELS):
        public = "service_name" if name == "service" else re.sub(r"[^A-Za-z0-9_]", "_", name)
        if name not in ("event", "comm") and public not in found.values():
            found[name] = public
    return found


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU" and len(code) > 1:
            number = int(code[1:], 16)
        elif code.isdigit() and len(code) == 3:
            number = int(code, 8)
        else:
            return _ESCAPES.get(code, code)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise BadQuery(f"{match[0]} in a selector is no character")
        return chr(number)

    return _ESCAPE.sub(one, text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
