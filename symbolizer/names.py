"""Names that other people chose, made fit to show."""

from __future__ import annotations

MAX_NAME = 1024


def clean_name(name: bytes | str, limit: int = MAX_NAME) -> str:
    """The name with everything invisible made visible, at most `limit` characters long.

    Control, format and bidirectional characters, line separators and unassigned code points become
    \\x1b, \\u202e or \\U000e0041; bytes that are not UTF-8 become \\xff. What is cut off leaves "…".
    Letters of every script stay. Markup is left as it is: whoever writes HTML, SVG or SQL escapes.
    """
    if isinstance(name, bytes):
        # Four bytes are the most that one character takes, so nothing that could be shown is cut here.
        name = name[: 4 * limit + 4].decode("utf-8", "backslashreplace")
    if not name.isprintable():
        name = "".join(c if c.isprintable() else _escaped(c) for c in name[: limit + 1])
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that os.fsdecode() could not decode
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
