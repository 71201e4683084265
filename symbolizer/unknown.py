"""Frames without a name: what they are called, and the error that carries one."""

from __future__ import annotations

from symbolizer.names import clean_name
from symbolizer.types import Frame, Kind, Reason

DELETED = " (deleted)"


class UnknownError(Exception):
    """Something that was to be named cannot be; `frame` says so."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame.function)
        self.frame = frame


def unknown(reason: Reason, where: str = "", detail: str = "") -> Frame:
    """The frame "[where: reason]", with `detail` in place of the reason where that says it better."""
    what = detail or reason.value
    return Frame(f"[{where}: {what}]" if where else f"[{what}]", Kind.UNKNOWN, reason=reason)


def unknown_function(where: str, start: int, reason: Reason) -> Frame:
    """The frame "[libfoo.so+0x1a30: no symbols]" for code of a function that has no name and begins at `start`, a
    virtual address in the file: so one such function is told from another, today's and any other machine's alike."""
    return unknown(reason, f"{where}+{start:#x}")


def shown_path(path: str) -> str:
    """The path of a mapping, fit to show."""
    return clean_name(path.removesuffix(DELETED))


def file_name(path: str) -> str:
    """The last part of a mapping's path, fit to show."""
    path = path.removesuffix(DELETED)
    return clean_name(path.rstrip("/").rpartition("/")[2] or path)
