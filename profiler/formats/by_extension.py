"""Profiles as files: the table from file extension to writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from profiler.formats.firefox import write_firefox
from profiler.formats.folded import write_folded
from profiler.formats.json import write_json
from profiler.formats.pprof import write_pprof
from profiler.formats.speedscope import write_speedscope
from profiler.model import Profile
from profiler.report import write_report

Writer = Callable[[Profile], bytes]

WRITERS: Final[Mapping[str, Writer]] = {
    ".folded": write_folded,
    ".pb.gz": write_pprof,
    ".speedscope.json": write_speedscope,
    ".firefox.json": write_firefox,
    ".json": write_json,
    ".txt": write_report,
}


def writer_for(path: str, writers: Mapping[str, Writer] = WRITERS) -> Writer:
    """The writer for the longest of the known extensions that `path` ends in. Raises ValueError as extension_of."""
    return writers[extension_of(path, writers)]


def extension_of(path: str, known: Iterable[str]) -> str:
    """The longest of the known extensions that `path` ends in.

    "-.folded" and the like, for stdout, have an extension too. Raises ValueError, with a sentence
    that lists the extensions, where there is none.
    """
    found = [extension for extension in known if path.endswith(extension)]
    if not found:
        raise ValueError(f"{path!r}: no format has this extension; use one of {', '.join(known)}")
    return max(found, key=len)
