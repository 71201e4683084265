"""Which build id the file of a mapping has, read once for each file.

The kernel can put build ids into its records (attr.build_id). But then it also marks the records that it gives to other
programs' events, which carry none (perf_event_mmap_output() in kernel/events/core.c leaves its flag in the header they
share, up to Linux 6.18 at least), and perf 6.1 crashes over them. So they are read here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from symbolizer.elf import ElfError, read_elf
from symbolizer.files import read_at
from symbolizer.locate import is_file, open_mapped
from symbolizer.process import Process
from symbolizer.types import Mapping
from symbolizer.unknown import UnknownError

MOST_FILES = 20_000
LOOK_AGAIN_SECONDS = 1.0


@dataclass(slots=True)
class _Known:
    """`build_id` is "" where there is none or the file could not be read; size and mtime are of when it was read."""

    build_id: str
    size: int
    mtime_ns: int
    looked: float
    owner: int = -1


class BuildIds:
    """Build ids by device, inode and path. A file that is written anew in its place is noticed within a second."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, str], _Known] = {}

    def of(self, mapping: Mapping, pid: int, relatives: Callable[[int], Sequence[int]] = lambda pid: ()) -> str:
        """The hex build id of the file that process `pid` maps, "" where it has none or is not to be read.

        `relatives` names other processes that likely see the same files.
        """
        if not is_file(mapping.path):
            return ""
        key = mapping.device, mapping.inode, mapping.path
        now = time.monotonic()
        known = self._known.get(key)
        if known is not None and now - known.looked < LOOK_AGAIN_SECONDS:
            return known.build_id
        if known is not None and self._is_unchanged(known, mapping, pid):
            known.looked = now
            return known.build_id
        if len(self._known) >= MOST_FILES:
            self._known.clear()
        known = self._known[key] = _read(mapping, pid, relatives(pid), now)
        return known.build_id

    def is_trusted(self, path: str, device: int, inode: int) -> bool:
        """Whether a file whose build id was read is of root or of this process's user: nobody else gave it that id."""
        known = self._known.get((device, inode, path))
        return known is not None and known.owner in (0, os.geteuid())

    @staticmethod
    def _is_unchanged(known: _Known, mapping: Mapping, pid: int) -> bool:
        """Also where the process is gone, or another file has its path by now: what was mapped stays what it was."""
        try:
            status = os.stat(f"/proc/{pid}/root{mapping.path}", follow_symlinks=False)
        except OSError:
            return bool(known.build_id)
        if status.st_ino != mapping.inode:
            return bool(known.build_id)
        return (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)


def _read(mapping: Mapping, pid: int, relatives: Sequence[int], now: float) -> _Known:
    try:
        with Process(pid, relatives) as process:
            file = open_mapped(process, mapping)
    except (UnknownError, OSError):
        return _Known("", 0, 0, now)
    try:
        status = os.fstat(file)
        build_id = read_elf(lambda offset, size: read_at(file, offset, size)).build_id()
        return _Known(build_id, status.st_size, status.st_mtime_ns, now, status.st_uid)
    except (ElfError, OSError):
        return _Known("", 0, 0, now)
    finally:
        os.close(file)
