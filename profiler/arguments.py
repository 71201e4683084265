"""What arguments of the command line mean. Each raises ArgumentTypeError for what it cannot be."""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit

from profiler.grouping import LABELS, parse_labels
from profiler.report import KEYS

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def hz(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of samples a second") from None


def size(text: str) -> int:
    """A size such as 64M, 1G or 500000."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not number.isdecimal() or int(number) * _UNITS.get(unit, 1) > 1 << 40:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 64M")
    return int(number) * _UNITS.get(unit, 1)


def share(text: str) -> float:
    """A share such as 1% or 0.01."""
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of one CPU such as 1%")
    return found


def percent(text: str) -> float:
    try:
        found = float(text.removesuffix("%"))
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of per cent from 0 to 100")
    return found


def report_keys(text: str) -> tuple[str, ...]:
    """Columns of a report, with commas between."""
    keys = tuple(dict.fromkeys(key.strip() for key in text.split(",")))
    unknown = [key for key in keys if key not in KEYS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no column; there are {', '.join(KEYS)}")
    return keys


def labels(text: str) -> tuple[str, ...]:
    """Labels of samples to group by, with commas between."""
    try:
        found = parse_labels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    unknown = [label for label in found if label not in LABELS]
    if unknown:
        raise argparse.ArgumentTypeError(f"samples have no label {unknown[0]!r}; there are {', '.join(LABELS)}")
    return found


def address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no ADDRESS:PORT such as 127.0.0.1:4099")
    return host, int(port)


def origin(text: str) -> str:
    """Where pages come from: scheme, host and port, without a path."""
    parts = urlsplit(text.removesuffix("/"))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a site such as https://www.speedscope.app")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e8:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return found


def pid(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no pid")
    return int(text)


def pids(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if any(pid <= 0 or pid >= 1 << 32 for pid in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no pid, nor several with commas between")
    return found


def label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    return key, value


def retention(text: str) -> tuple[str, int]:
    """What is kept, and for how many days, such as samples=14d."""
    name, _, days = text.partition("=")
    number = days.removesuffix("d")
    if name not in ("samples", "rollups") or not (number.isascii() and number.isdigit()) or number == days:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no retention such as samples=14d or rollups=90d")
    return name, int(number[:9])
