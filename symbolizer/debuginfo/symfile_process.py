"""What the builder's process does to make symbol files. It imports what is too large for the agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symbolizer.builder import BuildError, in_memory
from symbolizer.cachefolder import SEAL_BYTES
from symbolizer.debuginfo.symfile import SymFileError
from symbolizer.debuginfo.symfiles import MOST_FILE_BYTES, NOTHING_THERE, symbol_folder

if TYPE_CHECKING:
    from symbolizer.debuginfo.debuginfod import Debuginfod

_FETCH_SECONDS = 50.0  # a debug file and its supplement, and time left to build


@dataclass(frozen=True, slots=True)
class Built:
    """The contents of a symbol file; not `lasting` where better debug information may be installed later."""

    contents: bytes
    lasting: bool = True


def answer(question: Mapping[str, Any], files: Sequence[int]) -> int:
    """A descriptor of a symbol file and its seal, on disk if it can be kept there, else in memory.
    Raises BuildError, OSError."""
    folder = symbol_folder(Path(question["folder"]), question["limit_bytes"])
    build_id = str(question["build_id"])
    if question["folder"] and (made_by_another := folder.open(build_id)) is not None:
        return made_by_another
    module, _, name = str(question["build"]).partition(":")
    built = getattr(import_module(module), name)(files[0], question["path"], files[1:], question["debuginfod"])
    contents = built.contents
    if len(contents) + SEAL_BYTES > MOST_FILE_BYTES:
        raise BuildError(f"its symbol file would be larger than {MOST_FILE_BYTES >> 30} GB", final=True)
    if question["folder"] and built.lasting and folder.put(build_id, contents):
        kept = folder.open(build_id)
        if kept is not None:
            return kept
    return in_memory("symbol file", contents, folder.seal(build_id, contents))


def build(binary: int, path: str, roots: Sequence[int], debuginfod: Sequence[str]) -> Built:
    """The symbol file of an open binary. Raises BuildError, OSError."""
    from symbolizer.debuginfo.files import find_debug_info
    from symbolizer.debuginfo.symfile_build import build_symfile
    from symbolizer.files import read_at

    why: list[str] = []
    info = find_debug_info(binary, path, roots, _fetch(tuple(debuginfod), why) if debuginfod else None, why)
    if info is None:
        raise BuildError("; ".join([NOTHING_THERE, *why]), final=False)
    try:
        contents = build_symfile(lambda offset, size: read_at(binary, offset, size), info)
    except SymFileError as error:
        raise BuildError(str(error), final=False) from error
    finally:
        info.close()
    return Built(contents, lasting=info.source != "minidebuginfo")


def _fetch(urls: tuple[str, ...], why: list[str]) -> Callable[[str], int | None]:
    client = _client(urls)

    def fetch(build_id: str) -> int | None:
        file = client.fetch(build_id)
        if file is None:
            why.append(f"debuginfod: {client.reason(build_id)}")
        return file

    return fetch


@cache
def _client(urls: tuple[str, ...]) -> Debuginfod:
    """One for all questions: it remembers which servers are silent."""
    from symbolizer.debuginfo.debuginfod import Debuginfod, limits_of
    from symbolizer.debuginfo.debuginfod_cache import cache_folder

    limits = limits_of(os.environ)
    limits = replace(limits, seconds=min(limits.seconds, _FETCH_SECONDS))
    return Debuginfod(urls, cache_folder(os.environ), limits)
