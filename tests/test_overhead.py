"""What profiling may cost: the rate it chooses, and how prompt it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.overhead import Pace, RateGovernor

WINDOW = 10.0


def rates(governor: RateGovernor, per_tick: float, windows: int, fixed: float = 0.0) -> list[int]:
    """The rates chosen where a window costs `fixed` CPU seconds and `per_tick` for each tick a second."""
    return [governor.next_hz(per_tick * governor.hz, fixed, WINDOW) for _ in range(windows)]


def test_the_rate_stays_while_profiling_costs_less_than_its_limit() -> None:
    assert set(rates(RateGovernor(99, 0.01), 0.0009, 30)) == {99}


def test_one_expensive_window_such_as_the_first_does_not_lower_the_rate() -> None:
    governor = RateGovernor(99, 0.01)
    assert governor.next_hz(0.5, 0.0, WINDOW) == 99
    assert set(rates(governor, 0.0001, 30)) == {99}


def test_the_rate_is_lowered_to_what_the_limit_allows_and_raised_again_after() -> None:
    governor = RateGovernor(99, 0.01)
    assert rates(governor, 0.002, 30)[-1] == 33
    assert rates(governor, 0.0001, 30)[-1] == 99


def test_a_rate_that_would_cost_too_much_again_is_not_gone_back_to() -> None:
    governor = RateGovernor(99, 0.01)
    rates(governor, 0.002, 30)
    assert set(rates(governor, 0.002, 100)) == {33}


def test_the_rate_stays_where_what_costs_too_much_is_not_the_rate() -> None:
    assert set(rates(RateGovernor(99, 0.01), 0.00025, 60, fixed=0.3)) == {99}


def test_next_to_an_expensive_host_samples_keep_half_of_the_limit() -> None:
    assert rates(RateGovernor(99, 0.01), 0.002, 60, fixed=0.3)[-1] == 11


def test_the_rate_is_raised_again_when_following_processes_has_become_cheap() -> None:
    governor = RateGovernor(99, 0.01)
    rates(governor, 0.0008, 30, fixed=0.3)
    assert governor.hz == 33
    assert rates(governor, 0.0008, 60)[-1] == 99


def test_without_a_limit_the_rate_stays_whatever_it_costs() -> None:
    assert set(rates(RateGovernor(99, 0.0), 1.0, 20)) == {99}


@given(st.integers(1, 10_000), st.lists(st.floats(0, 10), max_size=60))
def test_every_rate_divides_the_full_one_so_that_ticks_weigh_whole_numbers(hz: int, costs: list[float]) -> None:
    governor = RateGovernor(hz, 0.01)
    for cost in costs:
        assert hz % governor.next_hz(cost, cost / 3, WINDOW) == 0


def test_being_prompt_stops_when_its_reserve_is_spent_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("profiler.overhead.time.monotonic", lambda: now)
    pace = Pace(share=0.0025, reserve=0.25)
    assert pace.pause(0.03) == 0
    pauses = [pace.pause(0.04) for _ in range(8)]
    assert pauses == sorted(pauses) and 0 < pauses[0] < pauses[-1] == 0.1
    now += 200
    assert pace.pause(0.001) == 0
