"""Where ticks went: what does not agree is shown as lost, never evened out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.accounting import TickCounts, account, account_lines
from profiler.model import Accounting, Cost


def test_an_agreeing_window_closes_without_loss() -> None:
    counted = TickCounts(ticks=100, idle=60, filtered=10, sampled=29, lost={"stack map full": 1})
    accounting = account(counted, expected=102, drained=29)
    assert accounting.closes
    assert accounting.lost == {"stack map full": 1}
    assert (accounting.sampled, accounting.missed) == (29, 2)


def test_counts_that_did_not_come_out_are_lost_as_drained_short() -> None:
    accounting = account(TickCounts(ticks=10, sampled=10), expected=10, drained=7)
    assert accounting.lost == {"drained short": 3}
    assert accounting.sampled == 7 and accounting.closes


def test_samples_without_their_stack_are_lost() -> None:
    accounting = account(TickCounts(ticks=10, sampled=10), expected=10, drained=10, without_stack=4)
    assert accounting.lost == {"stack missing": 4}
    assert accounting.sampled == 6 and accounting.closes


def test_a_tick_that_nothing_else_was_counted_for_is_unaccounted() -> None:
    accounting = account(TickCounts(ticks=11, idle=2, sampled=8), expected=11, drained=8)
    assert accounting.lost == {"unaccounted": 1}
    assert accounting.closes


def test_more_samples_than_ticks_raise_the_ticks() -> None:
    accounting = account(TickCounts(ticks=5, sampled=5), expected=5, drained=6)
    assert (accounting.ticks, accounting.sampled) == (6, 6) and accounting.closes


counts = st.integers(0, 10**9)


@given(counts, counts, counts, counts, counts, counts, counts)
def test_every_account_closes_whatever_the_kernel_said(
    ticks: int, idle: int, filtered: int, sampled: int, lost: int, drained: int, missing: int
) -> None:
    counted = TickCounts(ticks, idle, filtered, sampled, {"no memory": lost})
    accounting = account(counted, expected=0, drained=drained, without_stack=min(missing, drained))
    assert accounting.closes
    assert accounting.sampled == drained - min(missing, drained)


def test_accounts_of_windows_add_up() -> None:
    one = Accounting(10, 10, 5, 1, 3, {"a": 1}, 7, {"no mapping": 2}, Cost(100, 10, 5, 1000, 50))
    two = Accounting(20, 19, 9, 0, 9, {"b": 1}, 1, {"no mapping": 1}, Cost(50, 19, 5, 900, 60))
    both = one + two
    assert both.closes and both.lost == {"a": 1, "b": 1} and both.frames_unknown == {"no mapping": 3}
    assert both.cost == Cost(150, 29, 10, 1000, 60)
    assert both.missed == 1


def test_people_read_every_term_of_the_account() -> None:
    lines = "\n".join(account_lines(Accounting(1100, 1000, 600, 50, 348, {"no memory": 2}, 90, {"no symbols": 10})))
    for part in ("1,000 = 600 idle + 50 filtered + 348 shown + 2 lost (2 no memory)", "100 of 1,100", "90.0% named"):
        assert part in lines
    assert "10 no symbols" in lines


@pytest.mark.parametrize("accounting", [Accounting(), Accounting(ticks=1, idle=1)])
def test_an_empty_account_has_lines_too(accounting: Accounting) -> None:
    assert account_lines(accounting)
