"""Unwind tables on disk, one file for each build id, so that a file is taken apart once in the life of a machine.

What is read here steers code in the kernel: so the seal of a file covers all of it, and the table it holds is checked
like any other bytes.
"""

from __future__ import annotations

from pathlib import Path

from profiler.unwind.table import VERSION, TableError, UnwindTable
from symbolizer.cachefolder import CacheFolder

_MOST_FILE_BYTES = 64 << 20


class TableCache:
    """The tables in `folder`, of which those used longest ago go when all take more than `limit_bytes`.

    Nothing here raises for what is on disk (CacheFolder).
    """

    def __init__(self, folder: Path, limit_bytes: int = 256 << 20) -> None:
        self.folder = folder
        self._files = CacheFolder(folder, "unwind", VERSION, limit_bytes, most_bytes=_MOST_FILE_BYTES)

    def get(self, build_id: str) -> UnwindTable | None:
        """The table of a file by its build id (hex, or "content:" and hex), None if it is not there."""
        data = self._files.read(build_id)
        if data is None:
            return None
        try:
            return UnwindTable.from_bytes(data)
        except TableError:
            self._files.delete(build_id)
            return None

    def put(self, build_id: str, table: UnwindTable) -> bool:
        """Keeps a table; False if that was not possible."""
        return self._files.put(build_id, table.to_bytes())
