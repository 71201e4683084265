"""Profiles as files: the table from file extension to writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from profiler.formats.folded import write_folded
from profiler.formats.json import write_json
from profiler.formats.pprof import write_pprof
from profiler.formats.speedscope import write_speedscope
from profiler.model import Profile

Writer = Callable[[Profile], bytes]

WRITERS: Final[Mapping[str, Writer]] = {
    ".folded": write_folded,
    ".pb.gz": write_pprof,
    ".speedscope.json": write_speedscope,
    ".json": write_json,
}


def writer_for(path: str, writers: Mapping[str, Writer] = WRITERS) -> Writer:
    """The writer for the longest of the known extensions that `path` ends in.

    "-.folded" and the like, for stdout, have an extension too. Raises ValueError, with a sentence
    that lists the extensions, where there is none.
    """
    found = [extension for extension in writers if path.endswith(extension)]
    if not found:
        known = ", ".join(writers)
        raise ValueError(f"{path!r}: no format has this extension; use one of {known}")
    return writers[max(found, key=len)]
