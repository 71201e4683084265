"""Times as Pyroscope's interfaces write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from web.store.selection import LAST_S
from web.store.store import BadQuery

_SECOND: Final = 1_000_000_000
_OFFSET: Final = re.compile(r"now(?:-(\d{1,6})(s|mon|min|m|M|h|d|w|y)[a-z]{0,8})?")
_UNIT_S: Final = {
    "s": 1,
    "m": 60,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "w": 7 * 86400,
    "M": 30 * 86400,
    "mon": 30 * 86400,
    "y": 365 * 86400,
}


def parse_moment(text: str, name: str, now: float) -> int:
    """Nanoseconds since 1970. Raises BadQuery.

    `text` is a number of seconds, milliseconds (13 digits), microseconds (16) or nanoseconds (19) since 1970, a day
    as 20260131, RFC 3339, `now`, or `now-` and a number of s, m, h, d, w, mon or y.
    """
    text = text.strip()
    found = _number(text) if text.isascii() and text.isdigit() else _words(text, now)
    if found is None or not 0 <= found <= LAST_S * _SECOND:
        shown = repr(text if len(text) <= 60 else text[:60] + "…")
        raise BadQuery(
            f"`{name}` is no time: {shown}; write seconds, milliseconds, microseconds or nanoseconds since 1970,"
            " now, or now-15m (s, m, h, d, w)"
        )
    return found


def _number(text: str) -> int | None:
    if len(text) > 19:
        return None
    if len(text) == 8 and text[:2] in ("19", "20"):
        try:
            return int(datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).timestamp()) * _SECOND
        except ValueError:
            return None
    return int(text) * {13: 1_000_000, 16: 1_000, 19: 1}.get(len(text), _SECOND)


def _words(text: str, now: float) -> int | None:
    if offset := _OFFSET.fullmatch(text):
        amount, unit = offset.groups()
        return int((now - int(amount) * _UNIT_S[unit] if amount else now) * 1e6) * 1000
    try:
        moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6) * 1000
    except (ValueError, OverflowError):
        return None
