"""Builds unwind tables in a process of its own, so that neither its time nor its memory are the sampler's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from profiler.unwind.cache import TableCache
from profiler.unwind.table import TableError, UnwindTable
from symbolizer.builder import Builder, BuildError, Failure, in_memory
from symbolizer.elf import ElfError
from symbolizer.files import read_at

__all__ = ["Failure", "TableWorker", "build"]

_LONGEST_SECONDS = 30.0


class TableWorker:
    """Tables of files, built one at a time, in the order they were asked for."""

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._builder = Builder[int]("profiler.unwind.worker:build", "unwind information")

    def submit(self, number: int, build_id: str, file: int) -> bool:
        """Takes the file's descriptor over. False, and the file closed, while too many wait already."""
        question = {"build_id": build_id, "cache": str(self._cache or "")}
        return self._builder.submit(number, question, [file], _LONGEST_SECONDS)

    def finished(self) -> list[tuple[int, UnwindTable | Failure]]:
        """What has been built since the last call: number and table, or why there is none."""
        return [
            (number, answer if isinstance(answer, Failure) else _read(answer))
            for number, answer in self._builder.finished()
        ]

    def fileno(self) -> int:
        """A descriptor that is readable when finished() has something; -1 while nothing is being built."""
        return self._builder.fileno()

    def cpu_ns(self) -> int:
        """CPU time the builders have used in all."""
        return self._builder.cpu_ns()

    def memory_bytes(self) -> int:
        """Memory of the builder, see Builder; 0 while there is none."""
        return self._builder.memory_bytes()

    def close(self) -> None:
        """Ends the process and forgets what was asked for; what is asked for next starts anew."""
        self._builder.close()


def _read(file: int) -> UnwindTable | Failure:
    try:
        return UnwindTable.from_bytes(read_at(file, 0, os.fstat(file).st_size))
    except (TableError, OSError) as error:
        return Failure(str(error), final=True)
    finally:
        os.close(file)


def build(question: Mapping[str, str], files: Sequence[int]) -> int:
    """Runs in the builder's process: a table in memory, kept also in the cache. Raises BuildError."""
    from profiler.unwind.cfi import build_table

    try:
        table = build_table(lambda offset, size: read_at(files[0], offset, size))
    except (ElfError, OSError) as error:
        raise BuildError(str(error), final=True) from error
    if question["cache"] and question["build_id"]:
        TableCache(Path(question["cache"])).put(question["build_id"], table)
    return in_memory("unwind table", table.to_bytes())
