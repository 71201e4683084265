"""Where lines and inlined functions come from: how much is kept of them, and whom to ask."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symbolizer.debuginfo.symfiles import SymFiles


@dataclass(frozen=True, slots=True)
class Symbols:
    """`cache_bytes` is what symbol files may take on disk (0: none are made); `debuginfod` are the URLs of servers to
    fetch debug information from."""

    cache_bytes: int = 1 << 30
    debuginfod: tuple[str, ...] = ()


def open_symfiles(symbols: Symbols) -> SymFiles | None:
    """The symbol files of this host; None where there are to be none."""
    from symbolizer.debuginfo.symfiles import SymFiles

    return SymFiles(cache_folder(), symbols.cache_bytes, debuginfod=symbols.debuginfod) if symbols.cache_bytes else None


def cache_folder() -> Path | None:
    """Where what is worth keeping between runs is kept: of root for the whole host, else of the user, if at home."""
    if os.geteuid() == 0:
        return Path("/var/cache/pilotlight")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "pilotlight" if os.path.isabs(home) else None
