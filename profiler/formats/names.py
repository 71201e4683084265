"""Names on their way into formats and out of them."""

from __future__ import annotations

from symbolizer.types import Frame, Kind, Reason


def encodable(name: str) -> str:
    r"""`name` where it can be written as UTF-8, else with its lone surrogates spelled out as `\udcff`.

    Such surrogates stand for bytes that were not UTF-8 in the first place; spelled out, names that
    differ go on differing.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="backslashreplace").decode()
    return name


def frame_named(name: str, kind: Kind) -> Frame:
    """A frame read from a format that has little more than names: those in [brackets] are unknown.

    What such a name ends in, as in "[libfoo.so: no symbols]", is the reason.
    """
    if not name:
        return Frame("[unnamed]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
    if not (name.startswith("[") and name.endswith("]")):
        return Frame(name, kind)
    for reason in Reason:
        if name.endswith((f": {reason}]", f"[{reason}]")):
            return Frame(name, Kind.UNKNOWN, reason=reason)
    return Frame(name, Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
