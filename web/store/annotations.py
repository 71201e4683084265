"""Annotations in the store: what happened at a time, such as a deploy, in words and with labels.

An annotation's id is a hash of what it says: sent twice, it is there once. A newer row that says so takes it
back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

from web.store.selection import Selection, holds
from web.store.store import Store

_TYPES: Final = {
    "id": "String",
    "version": "UInt64",
    "t": "DateTime('UTC')",
    "until": "DateTime('UTC')",
    "text": "String",
    "labels": "Map(LowCardinality(String), String)",
    "gone": "Bool",
}


@dataclass(frozen=True, slots=True)
class Annotation:
    """`text` is of the time from `at` until `until`, in seconds since 1970; the two are equal for a moment."""

    at: int
    until: int
    text: str
    labels: Mapping[str, str]

    @property
    def id(self) -> str:
        content = json.dumps([self.at, self.until, self.text, sorted(self.labels.items())])
        return blake2b(content.encode(errors="replace"), digest_size=8).hexdigest()


def save(store: Store, annotation: Annotation, *, gone: bool = False) -> None:
    """The annotation is there from now on, or `gone`. Raises StoreUnavailable."""
    moments = [datetime.fromtimestamp(seconds, UTC) for seconds in (annotation.at, annotation.until)]
    row = [annotation.id, time.time_ns(), *moments, annotation.text, dict(annotation.labels), gone]
    store.insert("annotations", list(_TYPES), list(_TYPES.values()), [[value] for value in row])


def find(store: Store, id: str) -> Annotation | None:
    found = _select(store, "id = {id:String}", {"id": id}, 1)
    return found[0] if found else None


def between(store: Store, selection: Selection, most: int) -> list[Annotation]:
    """The annotations of a time that fit a selection, the oldest first; `most` of them at most, then the newest.

    An annotation fits where its labels are not those of others: without a label it is everyone's.
    """
    terms = ["until >= toDateTime({since:UInt32}, 'UTC')", "t < toDateTime({until:UInt32}, 'UTC')"]
    parameters: dict[str, Any] = {"since": selection.since, "until": selection.until}
    for number, matcher in enumerate(selection.matchers):
        name, value = f"m{number}", f"labels[{{m{number}l:String}}]"
        parameters |= {name: matcher.regex if matcher.is_regex else matcher.value, f"{name}l": matcher.label}
        fits = f"{'NOT ' if matcher.is_negative else ''}{holds(value, matcher, name)}"
        terms.append(f"(NOT mapContains(labels, {{{name}l:String}}) OR {fits})")
    return _select(store, " AND ".join(terms), parameters, most)[::-1]


def _select(store: Store, where: str, parameters: dict[str, Any], most: int) -> list[Annotation]:
    # FINAL, as the engine may not have merged the rows of one that was taken back.
    rows = store.rows(
        "SELECT toUnixTimestamp(t), toUnixTimestamp(until), text, labels FROM (SELECT * FROM annotations FINAL)"
        f" WHERE NOT gone AND {where} ORDER BY t DESC, id LIMIT {{most:UInt32}}",
        {**parameters, "most": most},
    ).rows
    return [Annotation(*row) for row in rows]
