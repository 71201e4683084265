"""Unwind tables: how functions become pages of rows, and which bytes are a table."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.unwind.table import (
    END,
    MAX_PAGE_ROWS,
    RULE,
    VERSION,
    CfaKind,
    Programs,
    RegisterKind,
    TableError,
    UnwindTable,
    empty_table,
    make_table,
)

RULES = np.zeros(8, RULE)
RULES["cfa"] = [CfaKind.NONE, CfaKind.UNSUPPORTED, *[CfaKind.REGISTER] * 6]
RULES["cfa_register"][2:] = 7
RULES["cfa_offset"] = [0, 0, 8, 16, 24, 32, 40, 48]

Function = tuple[int, int, list[tuple[int, int]]]
"""Begin, size, and rows of offset and rule."""


def make(functions: list[Function], skipped: int = 0) -> UnwindTable:
    starts, offsets, rules = [0], list[int](), list[int]()
    for _, _, rows in functions:
        offsets += [offset for offset, _ in rows] + [END]
        rules += [number for _, number in rows] + [0]
        starts.append(len(offsets))
    programs = Programs(
        np.array(starts, np.uint32), np.array(offsets, np.uint32), np.array(rules, np.uint16), RULES.copy()
    )
    table = make_table(
        np.array([function[0] for function in functions], np.uint64),
        np.array([function[1] for function in functions], np.uint64),
        np.arange(len(functions), dtype=np.uint32),
        programs,
        skipped,
    )
    assert UnwindTable.from_bytes(table.to_bytes()).to_bytes() == table.to_bytes()
    return table


def number(table: UnwindTable, address: int) -> int:
    """The rule in force, by its number."""
    found = table.find(address)
    return RULES.tolist().index(found.tolist())


def expected(functions: list[Function], address: int) -> int:
    """What a search among functions finds, without any table."""
    last = None
    for begin, size, rows in functions:
        if size and begin <= address and (last is None or begin >= last[0]):
            last = begin, size, rows
    if last is None or address - last[0] >= last[1]:
        return 0
    return [rule for offset, rule in last[2] if offset <= address - last[0]][-1]


def program(draw: st.DrawFn) -> list[tuple[int, int]]:
    offsets = sorted(draw(st.sets(st.integers(1, 3000), max_size=6)))
    rows = [(0, draw(st.integers(1, 7)))]
    for offset in offsets:
        rows.append((offset, draw(st.sampled_from([n for n in range(1, 8) if n != rows[-1][1]]))))
    return rows


@st.composite
def functions(draw: st.DrawFn) -> list[Function]:
    near = st.integers(0xFC00, 0x10400) | st.integers(0x2_F000, 0x3_1000) | st.integers(0x7_0000, 0x7_0010)
    sizes = st.integers(0, 64) | st.integers(0, 3000) | st.integers(0, 0x4_0000) | st.just(0x1_0000)
    return [(draw(near), draw(sizes), program(draw)) for _ in range(draw(st.integers(0, 8)))]


@settings(max_examples=300, deadline=None)
@given(functions())
def test_each_address_has_the_rule_of_the_function_that_begins_last_before_it(of: list[Function]) -> None:
    table = make(of)
    places = {0, 0xFFFF, 0x10000, 0x20000, 0x2FFFF, 0x30000, 0x40000, 0x80000, 2**64 - 1}
    for begin, size, rows in of:
        places |= {begin + offset for offset, _ in rows} | {begin, begin + size}
    for place in places | {max(place - 1, 0) for place in places}:
        assert number(table, place) == expected(of, place), hex(place)


@settings(max_examples=300, deadline=None)
@given(functions())
def test_no_row_says_what_the_one_before_it_does(of: list[Function]) -> None:
    table = make(of)
    for page in range(len(table.page_starts) - 1):
        rows = table.rows[table.page_starts[page] : table.page_starts[page + 1]]
        assert rows[0] & 0xFFFF == 0
        assert np.all(np.diff((rows >> 16).astype(np.int64)) != 0)
    if len(table.rows):
        assert table.rows[table.page_starts[-2] :].max() >> 16, "the last page says nothing"


def test_rows_are_addresses_and_rules_in_pages_of_64_kb() -> None:
    table = make([(0x1FFF0, 0x20, [(0, 2), (8, 3)]), (0x10000, 0x10, [(0, 4)])])
    assert table.first_page == 1
    assert table.page_starts.tolist() == [0, 4, 6]
    assert [(row & 0xFFFF, row >> 16) for row in table.rows.tolist()] == [
        (0, 4), (0x10, 0), (0xFFF0, 2), (0xFFF8, 3), (0, 3), (0x10, 0)
    ]  # fmt: skip
    assert table.nbytes == 4 * 3 + 4 * 6 + 16 * len(RULES)


def test_a_rule_is_laid_out_as_the_kernel_side_has_it() -> None:
    assert RULE.itemsize == 16
    rule = np.array([(CfaKind.DEREF, 7, RegisterKind.AT_CFA, RegisterKind.AT_RBP, -8, -16, 24, 1 << 20)], RULE)
    assert rule.tobytes() == struct.pack("<BBBBihhi", 2, 7, 1, 2, -8, -16, 24, 1 << 20)
    assert [kind.value for kind in CfaKind] == list(range(7)) and [kind.value for kind in RegisterKind] == list(
        range(5)
    )


def test_a_function_that_ends_with_its_page_needs_no_further_one() -> None:
    table = make([(0x10000, 0x10000, [(0, 2)])])
    assert table.page_starts.tolist() == [0, 1]
    assert number(table, 0x1FFFF) == 2 and number(table, 0x20000) == 0


def test_a_page_with_too_many_rows_is_one_that_is_unsupported() -> None:
    rows = [(2 * i, 2 + i % 2) for i in range(MAX_PAGE_ROWS + 1)]
    table = make([(0x10000, 0x10000, rows), (0x20000, 0x100, [(0, 4)])])
    assert table.dense_pages == 1 and table.page_starts.tolist() == [0, 1, 3]
    assert table.find(0x10000)["cfa"] == table.find(0x1FFFF)["cfa"] == CfaKind.UNSUPPORTED
    assert number(table, 0x20000) == 4
    table = make([(0x10000, 0x10000, rows[:-1]), (0x20000, 0x100, [(0, 4)])])
    assert table.dense_pages == 0 and table.page_starts.tolist() == [0, MAX_PAGE_ROWS, MAX_PAGE_ROWS + 2]


def test_functions_more_than_4_gb_apart_are_counted_as_skipped() -> None:
    first, last = (0x10000, 16, [(0, 2)]), (0x10000 + 2**32 - 16, 2**40, [(0, 3)])
    table = make([first, last, (0x10000 + 2**32, 16, [(0, 4)]), (2**64 - 16, 2**64 - 1, [(0, 5)])], skipped=3)
    assert table.skipped == 5 and len(table.page_starts) == 2**16 + 1
    assert number(table, 0x10000) == 2 and number(table, 0x10000 + 2**32 - 1) == 3
    assert number(table, 0x10000 + 2**32) == 0


def test_a_function_that_claims_to_go_on_beyond_the_address_space_ends_with_it() -> None:
    table = make([(2**64 - 16, 2**64 - 1, [(0, 2), (8, 3)])])
    assert number(table, 2**64 - 16) == 2 and number(table, 2**64 - 2) == 3 and number(table, 2**64 - 17) == 0


def test_an_empty_table_is_one_too() -> None:
    table = UnwindTable.from_bytes(empty_table(7).to_bytes())
    assert len(table.rows) == 0 and table.skipped == 7 and table.find(0)["cfa"] == CfaKind.NONE
    assert make([]).to_bytes() == make([(5, 0, [(0, 2)])]).to_bytes()[: 40 + 4] + RULES[:1].tobytes()


def pack(
    page_starts: list[int],
    rows: list[int],
    rules: list[tuple[int, ...]],
    first_page: int = 1,
    claims: tuple[int, int, int] | None = None,
) -> bytes:
    """The bytes of a table, written without to_bytes."""
    counts = claims or (len(page_starts) - 1, len(rows), len(rules))
    data = struct.pack("<8sIIIIQII", b"pl-unwnd", VERSION, *counts, first_page, 0, 0)
    data += struct.pack(f"<{len(page_starts)}I", *page_starts) + struct.pack(f"<{len(rows)}I", *rows)
    return data + b"".join(struct.pack("<BBBBihhi", *rule) for rule in rules)


ZERO, SOME = (0,) * 8, (1, 7, 1, 0, 16, -16, 0, 0)
GOOD = dict(page_starts=[0, 2, 3], rows=[1 << 16, 5, 1 << 16], rules=[ZERO, SOME])


def test_bytes_that_keep_every_promise_are_a_table() -> None:
    table = UnwindTable.from_bytes(pack(**GOOD))  # type: ignore[arg-type]
    assert table.find(0x10004)["cfa_offset"] == 16 and table.find(0x10005)["cfa"] == CfaKind.NONE


@pytest.mark.parametrize(
    "change",
    [
        {"page_starts": [0, 2, 2]},  # a page without rows
        {"page_starts": [0, 2, 1]},
        {"page_starts": [0, 2, 4]},
        {"page_starts": [1, 2, 3]},
        {"page_starts": [0, 2**32 - 1, 3]},
        {"rows": [1 << 16 | 1, 5, 1 << 16]},  # a page that does not begin at its beginning
        {"rows": [1 << 16, 5, 1 << 16 | 1]},
        {"rows": [1 << 16, 0, 1 << 16]},  # twice the same address
        {"page_starts": [0, 3], "rows": [1 << 16, 7, 6]},  # descending
        {"rows": [2 << 16, 5, 1 << 16]},  # a rule that is not there
        {"rows": [1 << 16, 5, 0xFFFF << 16]},
        {"rules": [SOME, SOME]},
        {"rules": [(0, 1, 0, 0, 0, 0, 0, 0), SOME]},
        {"rules": [ZERO, (7, 7, 0, 0, 0, 0, 0, 0)]},
        {"rules": [ZERO, (1, 16, 0, 0, 0, 0, 0, 0)]},
        {"rules": [ZERO, (1, 7, 5, 0, 0, 0, 0, 0)]},
        {"rules": [ZERO, (1, 7, 0, 255, 0, 0, 0, 0)]},
        {"rules": [], "page_starts": [0], "rows": []},
        {"claims": (2, 3, 1)},
        {"claims": (2, 2**32 - 1, 2)},
        {"claims": (2**32 - 1, 3, 2)},
        {"claims": (2, 3, 2**32 - 1)},
        {"first_page": 2**48 - 1},
        {"first_page": 2**64 - 1},
        {"page_starts": [0, MAX_PAGE_ROWS + 1], "rows": list(range(MAX_PAGE_ROWS + 1))},
    ],
)
def test_bytes_that_break_a_promise_are_no_table(change: dict[str, object]) -> None:
    with pytest.raises(TableError) as raised:
        UnwindTable.from_bytes(pack(**{**GOOD, **change}))  # type: ignore[arg-type]
    assert len(str(raised.value).splitlines()) == 1


def test_bytes_of_another_length_are_no_table() -> None:
    data = pack(**GOOD)  # type: ignore[arg-type]
    for wrong in (
        *(data[:length] for length in range(len(data))),
        data + b"\0",
        b"x" + data[1:],
        data[:8] + bytes([VERSION - 1]) + data[9:],
    ):
        with pytest.raises(TableError):
            UnwindTable.from_bytes(wrong)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_damage_to_the_bytes_is_noticed_or_leaves_a_table_that_can_be_searched(data: st.DataObject) -> None:
    damaged = bytearray(make([(0x1FFF0, 0x20, [(0, 2), (8, 3)]), (0x10000, 0x10, [(0, 4)])]).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        table = UnwindTable.from_bytes(bytes(damaged))
    except TableError:
        return
    starts = table.page_starts.tolist()
    assert starts[-1] == len(table.rows)
    for begin, end in zip(starts, starts[1:], strict=False):
        addresses = (table.rows[begin:end] & 0xFFFF).tolist()
        assert addresses[0] == 0 and addresses == sorted(set(addresses))
    assert (table.rows >> 16).max() < len(table.rules) and not any(table.rules[0].tobytes())
    assert table.rules["cfa"].max() <= 6 and table.rules["cfa_register"].max() < 16
