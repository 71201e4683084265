"""Unwind tables in real BPF maps: what is put in can be read out, and the budget is kept."""

from __future__ import annotations

import ctypes as c
import random
from collections.abc import Iterator

import numpy as np
import pytest

from profiler.libbpf import library
from profiler.sampler import Sampler, wait_for_programs_in_flight
from profiler.unwind import store
from profiler.unwind.store import CHUNK_BYTES, LOADED, NOT_LOADED, PAGE, TableStore
from profiler.unwind.table import RULE, CfaKind, UnwindTable

BUDGET = 8 * CHUNK_BYTES


@pytest.fixture
def sampler() -> Iterator[Sampler]:
    started = Sampler(1, unwind_bytes=BUDGET)
    yield started
    started.close()


@pytest.fixture
def tables(sampler: Sampler) -> Iterator[TableStore]:
    opened = TableStore(sampler.map_fd, BUDGET, wait_for_programs_in_flight)
    yield opened
    opened.close()


def table(seed: int, pages: int = 3, rows_a_page: int = 1000, rules: int = 20) -> UnwindTable:
    """A table of random rows and rules, of which some are the same in every table."""
    chance = random.Random(seed)
    found = np.zeros(rules, RULE)
    for number in range(1, rules):
        found[number]["cfa"] = CfaKind.REGISTER
        found[number]["cfa_register"] = 7
        found[number]["cfa_offset"] = 8 * number if number < 5 else chance.randrange(1 << 20)
    rows: list[int] = []
    starts = [0]
    for _ in range(pages):
        addresses = [0, *sorted(chance.sample(range(1, 1 << 16), rows_a_page - 1))]
        rows += [address | chance.randrange(rules) << 16 for address in addresses]
        starts.append(len(rows))
    return UnwindTable(chance.randrange(100), np.array(starts, np.uint32), np.array(rows, np.uint32), found)


def element(sampler: Sampler, name: str, index: int, size: int) -> bytes:
    value = c.create_string_buffer(size)
    assert library().bpf_map_lookup_elem(sampler.map_fd(name), c.byref(c.c_uint32(index)), value) == 0
    return value.raw


def rule_in_maps(sampler: Sampler, tables: TableStore, number: int, offset: int) -> bytes:
    """The rule that the kernel finds for an offset in a file, by the maps alone."""
    state, first_page, base, pages = np.frombuffer(element(sampler, "unwind_files", number, 16), "<u4").tolist()
    assert state == LOADED and 0 <= (offset >> 16) - base < pages
    page = np.frombuffer(element(sampler, "unwind_pages", first_page + (offset >> 16) - base, 8), PAGE)[0]
    chunk = c.create_string_buffer(CHUNK_BYTES)
    assert library().bpf_map_lookup_elem(tables._chunk_fds[page["chunk"]], c.byref(c.c_uint32(0)), chunk) == 0
    rows = np.frombuffer(chunk.raw, "<u4")[page["first"] : page["first"] + page["rows"]]
    row = int(rows[np.searchsorted(rows & 0xFFFF, offset & 0xFFFF, side="right") - 1])
    return element(sampler, "unwind_rules", row >> 16, 16)


def assert_all_there(sampler: Sampler, tables: TableStore, number: int, loaded: UnwindTable) -> None:
    begin, pages = loaded.first_page << 16, len(loaded.page_starts) - 1
    for offset in random.Random(1).sample(range(begin, begin + (pages << 16)), 50):
        assert rule_in_maps(sampler, tables, number, offset) == loaded.find(offset).tobytes()


def test_the_maps_say_of_every_address_what_its_table_says(sampler: Sampler, tables: TableStore) -> None:
    loaded = {number: table(number, pages=1 + number) for number in range(1, 6)}
    for number, each in loaded.items():
        assert tables.add(number, each, 1)
    for number, each in loaded.items():
        assert_all_there(sampler, tables, number, each)


def test_the_budget_is_kept_and_what_was_used_longest_ago_makes_room(sampler: Sampler, tables: TableStore) -> None:
    loaded = {number: table(number, pages=8, rows_a_page=4000) for number in range(1, 9)}  # two chunks each
    for window, (number, each) in enumerate(loaded.items(), 1):
        if 1 in tables:
            tables.touch(1, window)
        assert tables.add(number, each, window)
        assert tables.bytes_used <= BUDGET
    assert 1 in tables and 8 in tables and 2 not in tables
    assert tables.evictions == sum(number not in tables for number in loaded)
    assert np.frombuffer(element(sampler, "unwind_files", 2, 16), "<u4")[0] == NOT_LOADED
    for number, each in loaded.items():
        if number in tables:
            assert_all_there(sampler, tables, number, each)


def test_tables_in_use_are_not_thrown_out_for_one_more(tables: TableStore) -> None:
    for number in range(1, 5):
        assert tables.add(number, table(number, pages=8, rows_a_page=4000), 1)
    assert not tables.add(5, table(5, pages=8, rows_a_page=4000), 1)
    assert all(number in tables for number in range(1, 5)) and tables.evictions == 0
    assert tables.add(5, table(5, pages=8, rows_a_page=4000), 2)


def test_a_table_larger_than_the_budget_is_refused_and_the_others_stay_usable(
    sampler: Sampler, tables: TableStore
) -> None:
    small = table(1)
    assert tables.add(1, small, 1)
    assert not tables.add(2, table(2, pages=40, rows_a_page=16000), 2)
    again = table(3)
    assert tables.add(3, again, 3)
    assert_all_there(sampler, tables, 3, again)


def test_when_rules_run_out_all_tables_go_and_the_new_one_is_right(
    sampler: Sampler, tables: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_RULES", 60)
    for number in range(1, 4):
        each = table(number, rules=30)
        assert tables.add(number, each, number)
        assert_all_there(sampler, tables, number, each)
    assert tables.evictions > 0
    assert not tables.add(9, table(9, rules=100), 9)


def test_pages_of_tables_that_went_are_used_again(
    sampler: Sampler, tables: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_PAGES", 10)
    for number in range(1, 20):
        each = table(number, pages=4)
        assert tables.add(number, each, number)
        assert_all_there(sampler, tables, number, each)
    assert not tables.add(30, table(30, pages=11), 30)
