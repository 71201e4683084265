"""The tree of two profiles against two trees of one each, its pruning, and what it says of significance."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from web.flamegraph.below import folded_below_in_diff
from web.flamegraph.changes import changes_of
from web.flamegraph.diff import (
    SIGNIFICANT,
    DiffTree,
    build_diff,
    diff_to_json,
    names_only,
    prune_diff,
    significance,
)

Stacks = list[tuple[list[str], int]]
Path = tuple[str, ...]


def table_of(stacks: Stacks, binary: str = "/bin/x") -> StackTable:
    ids: dict[str, int] = {}
    index = [ids.setdefault(name, len(ids)) for stack, _ in stacks for name in stack]
    offsets = np.concatenate(([0], np.cumsum([len(stack) for stack, _ in stacks]))).astype(np.int64)
    return StackTable(
        frames=[Frame(name, Kind.NATIVE) for name in ids],
        binaries=[binary] * len(ids),
        index=np.array(index, np.uint32),
        offsets=offsets,
        counts=np.array([count for _, count in stacks], np.int64),
    )


def path(tree: DiffTree, node: int) -> Path:
    names: list[str] = []
    while node > 0:
        names.append(tree.frames[int(tree.frame[node])].function)
        node = int(tree.parent[node])
    return tuple(reversed(names))


def totals(tree: DiffTree) -> dict[Path, tuple[int, int]]:
    return {path(tree, i): (int(tree.before[i]), int(tree.after[i])) for i in range(len(tree))}


def merged(stacks: Stacks) -> Counter[Path]:
    found: Counter[Path] = Counter()
    for stack, count in stacks:
        for depth in range(len(stack) + 1):
            found[tuple(stack[:depth])] += count
    return found


def assert_sound(tree: DiffTree) -> None:
    """Level order, siblings side by side, and on both sides totals that add up."""
    for total, own, start in (
        (tree.before, tree.before_own, tree.before_start),
        (tree.after, tree.after_own, tree.after_start),
    ):
        below = np.zeros(len(tree), np.int64)
        np.add.at(below, tree.parent[1:], total[1:])
        assert (own == total - below).all() and (own >= 0).all()
        for i in range(1, len(tree)):
            assert 0 <= tree.parent[i] < i and tree.parent[i] >= tree.parent[i - 1]
            assert tree.level[i] == tree.level[tree.parent[i]] + 1
            first = tree.parent[i] != tree.parent[i - 1]
            assert start[i] == (start[tree.parent[i]] if first else start[i - 1] + total[i - 1])


stacks_of_names = st.lists(st.tuples(st.lists(st.sampled_from("abcdef"), max_size=8), st.integers(0, 5)), max_size=40)


@settings(deadline=None)
@given(stacks_of_names, stacks_of_names)
def test_every_path_of_either_side_has_its_totals_on_both(before: Stacks, after: Stacks) -> None:
    tree = build_diff(table_of(before), table_of(after))
    assert_sound(tree)
    old, new = merged(before), merged(after)
    expected = {p: (old[p], new[p]) for p in old.keys() | new.keys() if old[p] or new[p]}
    assert totals(tree) == {(): (0, 0)} | expected


def test_a_diff_of_nothing_is_a_root_of_nothing() -> None:
    tree = build_diff(table_of([]), table_of([]))
    assert len(tree) == 1 and not tree.before[0] and not tree.after[0]
    assert significance(tree).tolist() == [0]


@settings(max_examples=200, deadline=None)
@given(stacks_of_names, stacks_of_names, st.integers(1, 30))
def test_pruning_folds_what_is_light_on_both_sides_exactly(before: Stacks, after: Stacks, limit: int) -> None:
    tree = build_diff(table_of(before), table_of(after))
    pruned = prune_diff(tree, limit)
    assert_sound(pruned)
    known = totals(tree)
    stayed = folded = 0
    for i in range(len(pruned)):
        frame = pruned.frames[int(pruned.frame[i])]
        if pruned.frame[i] >= pruned.elided:
            folded += int(frame.function[1:].split()[0].replace(",", ""))
        else:
            stayed += 1
            assert (pruned.before[i], pruned.after[i]) == known[path(pruned, i)]
    assert stayed <= max(limit, 1) and stayed + folded == len(tree)
    assert pruned.before_own.sum() == tree.before[0] and pruned.after_own.sum() == tree.after[0]


@settings(max_examples=200, deadline=None)
@given(stacks_of_names, stacks_of_names, st.integers(1, 30), st.integers(1, 5))
def test_what_was_folded_away_is_found_again_exactly(before: Stacks, after: Stacks, limit: int, fewer: int) -> None:
    tree = build_diff(table_of(before), table_of(after))
    whole = int(tree.before[0]), int(tree.after[0])
    pruned = prune_diff(tree, limit)
    nodes = {path(tree, i): i for i in range(len(tree))}
    for i in np.flatnonzero(pruned.frame >= pruned.elided).tolist():
        name = pruned.frames[int(pruned.frame[i])].function
        part = folded_below_in_diff(tree, nodes[path(pruned, i)[:-1]], pruned.lighter)
        assert_sound(part)
        assert len(part) - 1 == int(name[1:].split()[0])
        assert (part.before[0], part.after[0]) == (pruned.before[i], pruned.after[i])
        # What does not fit into one answer either is told by its share of all, and weighs what it did.
        again = prune_diff(part, fewer, whole)
        assert (again.before[0], again.after[0]) == (part.before[0], part.after[0])
        kept = again.frame < again.elided
        assert kept[1:].any()  # whoever goes on asking comes to all of it
        share = np.maximum(again.before / max(whole[0], 1), again.after / max(whole[1], 1))
        assert (share[kept & (again.level > 1)] >= again.lighter).all()


def test_what_only_one_side_has_is_not_pruned_for_being_absent_from_the_other() -> None:
    light = [([f"light{i}"], 1) for i in range(100)]
    tree = prune_diff(
        build_diff(table_of([(["gone"], 900), *light]), table_of([(["new"], 90_000), (["same"], 10_000)])), 5
    )
    assert totals(tree) == {
        (): (1000, 100_000),
        ("gone",): (900, 0),
        ("new",): (0, 90_000),
        ("same",): (0, 10_000),
        ("(100 frames below 10 %)",): (100, 0),
    }


def test_shares_are_compared_by_default_and_counts_where_asked() -> None:
    # Ten times as many samples, in the same proportions, are no change of shares, and much more time.
    tree = build_diff(table_of([(["a"], 400), (["b"], 600)]), table_of([(["a"], 4000), (["b"], 6000)]))
    assert significance(tree).tolist() == [0, 0, 0]
    assert (significance(tree, absolute=True) > SIGNIFICANT).all()


def test_significance_is_that_of_the_two_proportion_test() -> None:
    tree = build_diff(table_of([(["a"], 15), (["b"], 85)]), table_of([(["a"], 30), (["b"], 70)]))
    z = dict(zip([path(tree, i) for i in range(3)], significance(tree).tolist(), strict=True))
    # (0.30 - 0.15) / sqrt(0.225 * 0.775 * (1/100 + 1/100))
    assert z[("a",)] == pytest.approx(2.5400, abs=1e-4) and z[("b",)] == pytest.approx(-2.5400, abs=1e-4)
    assert z[()] == 0


def test_a_handful_of_samples_is_no_significant_change() -> None:
    tree = build_diff(table_of([(["busy"], 100_000)]), table_of([(["busy"], 100_000), (["rare"], 4)]))
    assert significance(tree).tolist()[2] == 0


@pytest.mark.parametrize("absolute", [False, True])
def test_samples_that_count_for_several_make_no_change_significant(absolute: bool) -> None:
    """The same program at 99 Hz and at 11 Hz, each of whose samples counts for nine: of 4,000 functions that did not
    change, one in a thousand may seem to."""
    random = np.random.default_rng(1)
    often, seldom = random.poisson(200, 4000), 9 * random.poisson(200 / 9, 4000)

    def stacks(counts: NDArray[np.int64]) -> Stacks:
        return [([f"f{i}"], int(count)) for i, count in enumerate(counts)]

    before, after = table_of(stacks(often)), table_of(stacks(seldom))

    def significant(after: StackTable) -> int:
        return int((np.abs(significance(build_diff(before, after), absolute=absolute)) >= SIGNIFICANT).sum())

    assert significant(after) > 200
    assert significant(replace(after, per_sample=9)) <= 12
    # What did change is still seen.
    grown = table_of([(["f0"], 9 * 400), *stacks(seldom)[1:]])
    changes = changes_of(before, replace(grown, per_sample=9), absolute=absolute)
    (most,) = (i for i, frame in enumerate(changes.frames) if frame.function == "f0")
    assert changes.own_z[most] > SIGNIFICANT and changes.total_z[most] > SIGNIFICANT


def test_one_empty_side_says_nothing_of_shares() -> None:
    tree = build_diff(table_of([]), table_of([(["a"], 1000)]))
    assert not significance(tree).any()
    assert totals(tree)[("a",)] == (0, 1000)


def test_counts_beyond_64_bits_together_are_refused() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        build_diff(table_of([(["a"], 1 << 62)]), table_of([(["a"], 1 << 62)]))


def test_binaries_tell_functions_apart_unless_only_names_are_compared() -> None:
    before, after = table_of([(["f"], 1)], "/bin/x"), table_of([(["f"], 2)], "")
    assert len(build_diff(before, after)) == 3
    assert totals(build_diff(names_only(before), names_only(after))) == {(): (1, 2), ("f",): (1, 2)}


def test_json_columns_give_the_tree_back() -> None:
    tree = build_diff(table_of([(["main", "b"], 20), (["main"], 10)]), table_of([(["main", "a"], 40)]))
    data = json.loads(json.dumps(diff_to_json(tree)))
    assert [data["frames"]["name"][f] for f in data["frame"]] == ["all", "main", "a", "b"]
    assert data["children"] == [1, 2, 0, 0]
    assert data["before_own"] == [0, 10, 0, 20] and data["after_own"] == [0, 0, 40, 0]
    assert data["z"] == [0, 0, 8.37, -6.11]
