"""Windows of different rates are added up as what they stand for: time; stacks stand on what they are grouped by."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.model import (
    MAX_HZ,
    Accounting,
    Cost,
    Passage,
    Profile,
    Sample,
    Unwinding,
    Window,
    common_rate,
    merge,
    stack_table,
)
from symbolizer.types import Frame, Kind, Location

PLACES = tuple(Location(number, None, (Frame(f"f{number}", Kind.NATIVE),)) for number in range(4))
counts = st.integers(0, 10**6)
reasons = st.dictionaries(st.sampled_from(["no mapping", "stack memory unreadable"]), st.integers(1, 10**6))
passages = st.builds(Passage, counts, counts, reasons)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    stacks = st.lists(st.sampled_from(PLACES), max_size=3).map(tuple)
    pids = st.integers(1, 3)
    samples = tuple(draw(st.lists(st.builds(Sample, stacks, pids, st.just("p"), st.just("t"), counts), max_size=6)))
    sampled = sum(sample.count for sample in samples)
    idle, filtered, lost = draw(counts), draw(counts), draw(reasons)
    accounting = Accounting(
        expected=draw(counts),
        ticks=idle + filtered + sampled + sum(lost.values()),
        idle=idle,
        filtered=filtered,
        sampled=sampled,
        lost=lost,
        frames_named=draw(counts),
        frames_unknown=draw(reasons),
        cost=draw(st.builds(Cost, counts, counts, counts, counts, counts)),
        unwinding=Unwinding(
            draw(counts),
            draw(counts),
            draw(reasons),
            draw(st.dictionaries(st.sampled_from(["/bin/a", "/lib/b\t.so"]), passages)),
        ),
    )
    return Profile("h", "cpu-clock", draw(st.sampled_from([99, 33, 11])), Window(0, 10), samples, accounting)


def seconds(profile: Profile) -> Counter[tuple[object, ...]]:
    """Time by thread and stack."""
    found: Counter[tuple[object, ...]] = Counter()
    for sample in profile.samples:
        found[(sample.stack, sample.pid)] += Fraction(sample.count, profile.hz)  # type: ignore[assignment]
    return found


def test_a_stack_that_is_grouped_by_its_process_stands_on_it_once() -> None:
    location = Location(1, None, (Frame("f", Kind.NATIVE),))
    samples = (Sample((location,), 7, "app", "app", 2), Sample((location,), 8, "app", "pool", 3))
    profile = Profile("h", "cpu-clock", 99, Window(0, 1), samples, Accounting(sampled=5, ticks=5))

    def stacks(*group_by: str) -> list[list[str]]:
        table = stack_table(profile, group_by)
        names = [table.frames[i].function for i in table.index.tolist()]
        return [names[a:b] for a, b in zip(table.offsets[:-1].tolist(), table.offsets[1:].tolist(), strict=True)]

    assert stacks() == stacks("process") == [["app", "f"], ["app", "pool", "f"]]
    assert stacks("process", "pid") == [["app", "7", "f"], ["app", "8", "pool", "f"]]
    assert stacks("pid") == [["7", "app", "f"], ["8", "app", "pool", "f"]]
    assert stacks("cpu_kind") == [["(none)", "app", "f"], ["(none)", "app", "pool", "f"]]


@given(st.lists(profiles(), min_size=1, max_size=5))
def test_windows_of_different_rates_keep_the_time_they_stand_for_exactly(windows: list[Profile]) -> None:
    merged = merge(windows)
    assert merged.hz == max(window.hz for window in windows)
    expected: Counter[tuple[object, ...]] = Counter()
    for window in windows:
        expected.update(seconds(window))
    assert seconds(merged) == expected
    account = merged.accounting
    assert account.closes and account.sampled == sum(sample.count for sample in merged.samples)
    for name in ("expected", "ticks", "idle", "filtered", "sampled", "frames_named"):
        whole = sum(Fraction(getattr(window.accounting, name), window.hz) for window in windows)
        assert Fraction(getattr(account, name), merged.hz) == whole
    for window_counts, merged_counts in (
        ([w.accounting.lost for w in windows], account.lost),
        ([w.accounting.frames_unknown for w in windows], account.frames_unknown),
        ([w.accounting.unwinding.counts() for w in windows], account.unwinding.counts()),
    ):
        for key in {key for each in window_counts for key in each} | merged_counts.keys():
            pairs = zip(window_counts, windows, strict=True)
            whole = sum(Fraction(each.get(key, 0), window.hz) for each, window in pairs)
            assert Fraction(merged_counts[key], merged.hz) == whole
    assert account.cost.bpf_ns == sum(window.accounting.cost.bpf_ns for window in windows)


@given(st.lists(profiles(), min_size=2, max_size=5), st.integers(1, 4))
def test_merging_bit_by_bit_gives_the_same_as_at_once(windows: list[Profile], first: int) -> None:
    again = merge([merge(windows[:first]), *windows[first:]])
    whole = merge(windows)
    assert (again.hz, again.accounting.ticks) == (whole.hz, whole.accounting.ticks)
    assert seconds(again) == seconds(whole)
    assert again.accounting.unwinding.counts() == whole.accounting.unwinding.counts()


def test_windows_of_one_rate_are_added_as_they_are() -> None:
    one = Profile("h", "cpu-clock", 99, Window(0, 1), (Sample((), 1, "p", "p", 3),), Accounting(ticks=3, sampled=3))
    two = merge([one, one])
    assert (two.hz, two.samples[0].count, two.accounting.ticks) == (99, 6, 6)


def test_the_common_rate_is_the_base_rate_of_its_divisors() -> None:
    assert common_rate([99, 33, 11]) == 99
    assert common_rate([49, 99]) == 4851
    assert common_rate([MAX_HZ + 1]) == MAX_HZ + 1
    assert common_rate([997, 1009]) is None


def test_rates_without_a_common_one_and_nothing_at_all_are_not_merged() -> None:
    fast, odd = (Profile("h", "cpu-clock", hz, Window(0, 1), (), Accounting()) for hz in (997, 1009))
    with pytest.raises(ValueError, match="997 and 1009 Hz have no common rate"):
        merge([fast, odd])
    with pytest.raises(ValueError, match="no profiles"):
        merge([])


@given(st.builds(Unwinding, counts, counts, reasons, st.dictionaries(st.sampled_from(["/a", "x\ty"]), passages)))
def test_unwinding_is_the_same_after_its_plain_counts(unwinding: Unwinding) -> None:
    again = Unwinding.from_counts(unwinding.counts())
    assert again.counts() == unwinding.counts()
    assert (again.whole, again.unchecked, again.cut) == (unwinding.whole, unwinding.unchecked, unwinding.cut)
