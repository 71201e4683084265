"""Who sent a profile: the `name` of /ingest, and the labels of either way in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_NAME: Final = 512  # characters of a name, a label's name or its value
MAX_LABELS: Final = 64
_HOST_LABELS: Final = ("hostname", "host", "instance", "pod")
_SERVICE_LABELS: Final = ("service_name", "service")
_LABEL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]*")
# Names that /ingest gives to what a profile of one value measures: the end of an application's name.
SUFFIXES: Final = {
    "cpu": ("process_cpu", "cpu", "nanoseconds"),
    "itimer": ("process_cpu", "cpu", "nanoseconds"),
    "wall": ("wall", "wall", "nanoseconds"),
    "inuse_objects": ("memory", "inuse_objects", "count"),
    "inuse_space": ("memory", "inuse_space", "bytes"),
    "alloc_objects": ("memory", "alloc_objects", "count"),
    "alloc_space": ("memory", "alloc_space", "bytes"),
    "alloc_in_new_tlab_objects": ("memory", "alloc_in_new_tlab_objects", "count"),
    "alloc_in_new_tlab_bytes": ("memory", "alloc_in_new_tlab_bytes", "bytes"),
    "alloc_outside_tlab_objects": ("memory", "alloc_outside_tlab_objects", "count"),
    "alloc_outside_tlab_bytes": ("memory", "alloc_outside_tlab_bytes", "bytes"),
    "goroutines": ("goroutine", "goroutines", "count"),
    "mutex_count": ("mutex", "contentions", "count"),
    "mutex_duration": ("mutex", "delay", "nanoseconds"),
    "block_count": ("block", "contentions", "count"),
    "block_duration": ("block", "delay", "nanoseconds"),
    "lock_count": ("block", "contentions", "count"),
    "lock_duration": ("block", "delay", "nanoseconds"),
    "live": ("memory", "live", "count"),
    "exceptions": ("exceptions", "exceptions", "count"),
}


class BadName(ValueError):
    """A name or labels that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where samples come from. `labels` are those without a meaning of their own, sorted by name."""

    service: str
    host: str
    labels: tuple[tuple[str, str], ...]


def parse_application(text: str) -> tuple[str, dict[str, str]]:
    """The application and the labels of `app{label=value,other="value"}`. Raises BadName."""
    name, brace, rest = text.strip().partition("{")
    name = _checked(name.strip(), "the application's name (`name`)")
    if not name:
        raise BadName("`name` is missing: it names the application, as in name=shop.cpu{region=eu}")
    if not brace:
        return name, {}
    if not rest.rstrip().endswith("}"):
        raise BadName("the labels of `name` have no end: write name=app{label=value,other=value}")
    pairs = [part for part in rest.rstrip()[:-1].split(",") if part.strip()]
    labels: dict[str, str] = {}
    for part in pairs:
        key, equals, value = part.partition("=")
        if not equals:
            raise BadName(f"{part[:60]!r} in `name` is no label: write label=value")
        labels[key.strip()] = value.strip().strip('"')
    return name, checked_labels(labels)


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, if names, values and their number are sound. Raises BadName."""
    if len(labels) > MAX_LABELS:
        raise BadName(f"there are {len(labels):,} labels, more than {MAX_LABELS}")
    for name, value in labels.items():
        _checked(name, "a label's name")
        if not _LABEL_NAME.fullmatch(name):
            raise BadName(f"{name[:60]!r} is no name for a label: use letters, digits and underscores")
        _checked(value, f"label {name[:60]}")
    return dict(labels)


def measured(name: str) -> tuple[str, tuple[str, str, str] | None]:
    """An application's name without what its end says it measures, and that: name, type and unit, or None."""
    application, _, suffix = name.rpartition(".")
    return (application, SUFFIXES[suffix]) if application and suffix in SUFFIXES else (name, None)


def origin(labels: Mapping[str, str], application: str, peer: str) -> Origin:
    """Service, host and labels, by the labels of a series or a sample.

    The service is the label service_name, or else `application`; the host the first of hostname, host, instance and
    pod, or else the address `peer`. Labels that begin with two underscores are the sender's own affair.
    """
    host = next((name for name in _HOST_LABELS if labels.get(name)), "")
    service = next((name for name in _SERVICE_LABELS if labels.get(name)), "")
    rest = {
        name: value
        for name, value in labels.items()
        if value and name not in (host, service) and not name.startswith("__")
    }
    return Origin(
        labels[service] if service else application, labels[host] if host else peer, tuple(sorted(rest.items()))
    )


def _checked(text: str, what: str) -> str:
    if len(text) > MAX_NAME:
        raise BadName(f"{what} has {len(text):,} characters, more than {MAX_NAME}")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise BadName(f"{what} holds a control character")
    return text
