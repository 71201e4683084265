"""What commands on files share: reading any number of them, writing one, and saying what went wrong in a sentence."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from profiler.errors import FileError, WriteError
from profiler.formats.read import MAX_UNPACKED, read_file
from profiler.formats.reading import ReadFile
from profiler.model import Profile
from profiler.record import write_file
from profiler.report import DEFAULT_KEYS, report

Say = Callable[[str], None]


def read_files(paths: Sequence[str], say: Say) -> list[ReadFile]:
    """The files at these paths; "-" is stdin. Says what was left out of them. Raises FileError."""
    # All of it is needed to the end: to look through it for what is not, again and again, takes as long as reading.
    gc.disable()
    try:
        return [_read(path, say) for path in paths]
    finally:
        gc.freeze()
        gc.enable()


def _read(path: str, say: Say) -> ReadFile:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_UNPACKED + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_UNPACKED + 1)
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror}).") from error
    if len(data) > MAX_UNPACKED:
        raise FileError(f"{path} has more than {MAX_UNPACKED >> 20:,} MB.")
    try:
        found = read_file(data)
    except ValueError as error:
        raise FileError(f"{path}: {error}.") from error
    for problem in found.problems:
        say(f"{path}: {problem.rstrip('.')}.")
    return found


def write_output(path: str, data: bytes) -> None:
    """Writes a file whole or not at all; a path such as -.folded is stdout. Raises WriteError."""
    try:
        write_file("-" if path == "-" or path.startswith("-.") else path, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WriteError(f"{path} could not be written ({error.strerror}).") from error


def write_table(
    files: Sequence[ReadFile],
    profile: Profile,
    output: str,
    *,
    keys: Sequence[str] | None,
    children: bool,
    percent_limit: float,
) -> None:
    """Writes the table of a profile by `keys`, else by what the files know. Raises WriteError."""
    keys = keys or (("symbol",) if all(file.tables for file in files) else DEFAULT_KEYS)
    text = report(profile, keys, children=children, percent_limit=percent_limit)
    write_output(output, text.encode(errors="backslashreplace"))
