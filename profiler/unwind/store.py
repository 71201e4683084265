"""Unwind tables in the BPF maps of bpf/unwind.h: put in, found room for, taken out.

Rows lie in chunks of 64 KB that are allocated as tables come and kept for the next ones; a table's pages follow each
other in the array of pages. Rules are shared by all tables.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler import maps
from profiler.libbpf import BpfError
from profiler.unwind.table import UnwindTable

ROWS_IN_CHUNK = 16384
CHUNK_BYTES = 4 * ROWS_IN_CHUNK
MOST_FILES, MOST_PAGES, MOST_RULES = 8192, 32768, 32768
_RESERVE = 16
PAGE = np.dtype([("chunk", "<u4"), ("first", "<u2"), ("rows", "<u2")])
_FILE = struct.Struct("=IIII")  # state, first page, base, pages
WITHOUT_TABLE, NOT_LOADED, LOADED, REFUSED = range(4)


@dataclass(slots=True)
class _Loaded:
    """One table in the maps. `chunks` are those that it has rows in."""

    first_page: int
    pages: int
    rows: int
    chunks: list[int]
    used: int = 0


class TableStore:
    """The tables that are loaded, by file number; never more chunks than `budget` bytes."""

    def __init__(self, map_fd: Callable[[str], int], budget: int, wait_for_readers: Callable[[], None]) -> None:
        self._files, self._pages, self._rules, self._chunk_map = (
            map_fd(f"unwind_{name}") for name in ("files", "pages", "rules", "chunks")
        )
        self._wait_for_readers = wait_for_readers
        self._most_chunks = most_chunks(budget)
        self._loaded: dict[int, _Loaded] = {}
        self._chunk_fds: list[int] = []
        self._tables_in: list[int] = []  # for each chunk, how many tables have rows in it
        self._open = -1  # the chunk that still has room, filled up to _open_used
        self._open_rows = np.zeros(ROWS_IN_CHUNK, np.uint32)
        self._open_used = 0
        self._rule_numbers: dict[bytes, int] = {bytes(16): 0}
        self.evictions = 0
        self._make_chunks(min(_RESERVE, self._most_chunks))  # the first samples should not have to wait for some

    def __contains__(self, number: int) -> bool:
        return number in self._loaded

    @property
    def bytes_used(self) -> int:
        """Memory of all chunks."""
        return len(self._chunk_fds) * CHUNK_BYTES

    def add(self, number: int, table: UnwindTable, now: int) -> bool:
        """Loads the table of a file; tables used longest ago, and before `now`, make room.

        False where there is no room, or would be none even then.
        """
        rules = np.unique(table.rules)
        new_rules = {rule.tobytes() for rule in rules} - self._rule_numbers.keys()
        if len(self._rule_numbers) + len(new_rules) > MOST_RULES:
            if len(rules) >= MOST_RULES:
                return False
            self.clear()
        pages = len(table.page_starts) - 1
        room = self._room_for(table, now)
        if room is None:
            return False
        first_page, chunks = room
        self._add_rules(table)
        rows = self._with_shared_rules(table)
        self._write_pages(first_page, table, rows, chunks)
        self._loaded[number] = _Loaded(first_page, pages, len(rows), sorted(set(chunks)), now)
        for chunk in set(chunks):
            self._tables_in[chunk] += 1
        self.set_state(number, LOADED, first_page, table.first_page, pages)
        return True

    def could_fit(self, table: UnwindTable) -> bool:
        """Whether a table has room where nothing else is loaded."""
        used, chunks = ROWS_IN_CHUNK, 0
        for rows in np.diff(table.page_starts.astype(np.int64)).tolist():
            if used + rows > ROWS_IN_CHUNK:
                used, chunks = 0, chunks + 1
            used += rows
        return chunks <= self._most_chunks and len(table.page_starts) - 1 <= MOST_PAGES

    def touch(self, number: int, now: int) -> None:
        """Notes that a file was in use at `now`, any clock that goes up."""
        loaded = self._loaded.get(number)
        if loaded is not None:
            loaded.used = now

    def clear(self) -> None:
        """Takes all tables and rules out."""
        self._take_out(list(self._loaded))
        self._rule_numbers = {bytes(16): 0}

    def set_state(self, number: int, state: int, first_page: int = 0, base: int = 0, pages: int = 0) -> None:
        """Says of a file whether it has a table, and where."""
        value = _FILE.pack(state, first_page, base & 0xFFFFFFFF, pages)
        code = maps.put_bytes(self._files, number.to_bytes(4, "little"), value)
        if code:
            raise BpfError(f"A BPF map could not be written ({os.strerror(code)}).")

    def close(self) -> None:
        for fd in self._chunk_fds:
            os.close(fd)
        self._chunk_fds.clear()

    def _take_out(self, numbers: list[int]) -> None:
        if not numbers:
            return
        for number in numbers:
            self.set_state(number, NOT_LOADED)
        self._wait_for_readers()
        self.evictions += len(numbers)
        for number in numbers:
            for chunk in self._loaded.pop(number).chunks:
                self._tables_in[chunk] -= 1
        if self._open >= 0 and not self._tables_in[self._open]:
            self._open_used = 0

    def _room_for(self, table: UnwindTable, now: int) -> tuple[int, list[int]] | None:
        """Where the pages begin and the chunk of each page, after evictions if need be and if they help."""
        if not self.could_fit(table):
            return None
        while True:
            first_page = self._free_pages(len(table.page_starts) - 1)
            chunks = self._place(table) if first_page is not None else None
            if first_page is not None and chunks is not None:
                return first_page, chunks
            oldest = sorted((n for n, known in self._loaded.items() if known.used < now), key=self._used)
            if not oldest:
                return None
            self._take_out(oldest[: 1 + len(oldest) // 8])  # several, for a wait each time

    def _used(self, number: int) -> int:
        return self._loaded[number].used

    def _free_pages(self, pages: int) -> int | None:
        """The first gap of so many pages between the loaded tables."""
        end = 0
        for table in sorted(self._loaded.values(), key=lambda known: known.first_page):
            if table.first_page - end >= pages:
                return end
            end = table.first_page + table.pages
        return end if end + pages <= MOST_PAGES else None

    def _place(self, table: UnwindTable) -> list[int] | None:
        """The chunk of each page: the open one first, then empty ones. None where there are too few of them.

        Makes the chunks that are missing.
        """
        used, placed, fresh = self._open_used if self._open >= 0 else ROWS_IN_CHUNK, [], 0
        for rows in np.diff(table.page_starts.astype(np.int64)).tolist():
            if used + rows > ROWS_IN_CHUNK:
                used, fresh = 0, fresh + 1
            placed.append(fresh)
            used += rows
        empty = [chunk for chunk, tables in enumerate(self._tables_in) if not tables and chunk != self._open]
        missing = fresh - len(empty)
        if missing > 0:
            if len(self._chunk_fds) + missing > self._most_chunks or not self._make_chunks(missing):
                return None
            empty += range(len(self._chunk_fds) - missing, len(self._chunk_fds))
        order = [self._open, *empty]
        return [order[place] for place in placed]

    def _make_chunks(self, count: int) -> bool:
        fds: list[int] = []
        first = len(self._chunk_fds)
        try:
            for _ in range(count):
                fds.append(maps.create_array(CHUNK_BYTES, b"unwind_chunk"))
            keys = np.arange(first, first + count, dtype="<u4")
            maps.put_many(self._chunk_map, keys, np.array(fds, "<u4"))
        except BpfError:  # no memory: as if the budget were used up
            for fd in fds:
                os.close(fd)
            return False
        self._chunk_fds += fds
        self._tables_in += [0] * count
        return True

    def _add_rules(self, table: UnwindTable) -> None:
        first = len(self._rule_numbers)
        for rule in table.rules:
            self._rule_numbers.setdefault(rule.tobytes(), len(self._rule_numbers))
        new = b"".join(list(self._rule_numbers)[first:])
        maps.put_array(self._rules, first, np.frombuffer(new, table.rules.dtype))

    def _with_shared_rules(self, table: UnwindTable) -> NDArray[np.uint32]:
        numbers = np.array([self._rule_numbers[rule.tobytes()] for rule in table.rules], np.uint32)
        rows, shift = table.rows, np.uint32(16)
        shared: NDArray[np.uint32] = rows & np.uint32(0xFFFF) | numbers[rows >> shift] << shift
        return shared

    def _write_pages(self, first_page: int, table: UnwindTable, rows: NDArray[np.uint32], chunks: list[int]) -> None:
        pages = np.zeros(len(chunks), PAGE)
        starts = table.page_starts.tolist()
        for at, chunk in enumerate(chunks):
            if chunk != self._open:
                self._write_open()
                self._open, self._open_used = chunk, 0
                self._open_rows = np.zeros(ROWS_IN_CHUNK, np.uint32)
            count = starts[at + 1] - starts[at]
            self._open_rows[self._open_used : self._open_used + count] = rows[starts[at] : starts[at + 1]]
            pages[at] = chunk, self._open_used, count
            self._open_used += count
        self._write_open()
        maps.put_array(self._pages, first_page, pages)

    def _write_open(self) -> None:
        if self._open < 0:
            return
        code = maps.put_bytes(self._chunk_fds[self._open], bytes(4), self._open_rows)
        if code:
            raise BpfError(f"A BPF map could not be written ({os.strerror(code)}).")


def most_chunks(budget: int) -> int:
    """How many chunks a budget in bytes is good for."""
    return max(budget // CHUNK_BYTES, 0)
