"""The call tree against a plain dictionary merge, and its pruning against the tree it was made from."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.model import StackTable
from symbolizer.types import Frame, Kind, Reason
from web.flamegraph.below import folded_below
from web.flamegraph.calltree import CallTree, build_tree, prune, tree_to_json

Stacks = list[tuple[list[str], int]]


def table_of(stacks: Stacks) -> StackTable:
    """Stacks of function names, root first, in the order in which names first occur."""
    ids: dict[str, int] = {}
    index = [ids.setdefault(name, len(ids)) for stack, _ in stacks for name in stack]
    offsets = np.concatenate(([0], np.cumsum([len(stack) for stack, _ in stacks]))).astype(np.int64)
    return StackTable(
        frames=[Frame(name, Kind.NATIVE) for name in ids],
        binaries=["/bin/x"] * len(ids),
        index=np.array(index, np.uint32),
        offsets=offsets,
        counts=np.array([count for _, count in stacks], np.int64),
    )


def path(tree: CallTree, node: int) -> tuple[str, ...]:
    names: list[str] = []
    while node > 0:
        names.append(tree.frames[int(tree.frame[node])].function)
        node = int(tree.parent[node])
    return tuple(reversed(names))


def totals(tree: CallTree) -> dict[tuple[str, ...], int]:
    return {path(tree, i): int(tree.total[i]) for i in range(len(tree))}


def assert_sound(tree: CallTree) -> None:
    """What every call tree promises: level order, siblings side by side, totals that add up."""
    assert tree.parent[0] == -1 and tree.level[0] == 0
    for i in range(1, len(tree)):
        parent = int(tree.parent[i])
        assert parent < i
        assert tree.level[i] == tree.level[parent] + 1
        assert tree.parent[i] >= tree.parent[i - 1]
        if parent == tree.parent[i - 1]:
            assert tree.start[i] == tree.start[i - 1] + tree.total[i - 1]
        else:
            assert tree.start[i] == tree.start[parent]
    below = np.zeros(len(tree), np.int64)
    np.add.at(below, tree.parent[1:], tree.total[1:])
    assert (tree.own == tree.total - below).all()
    assert (tree.own >= 0).all()


stacks_of_names = st.lists(st.tuples(st.lists(st.sampled_from("abcdef"), max_size=8), st.integers(0, 5)), max_size=40)


@given(stacks_of_names)
def test_tree_has_the_totals_of_a_plain_merge(stacks: Stacks) -> None:
    expected: Counter[tuple[str, ...]] = Counter()
    for stack, count in stacks:
        for depth in range(len(stack) + 1):
            expected[tuple(stack[:depth])] += count
    tree = build_tree(table_of(stacks))
    assert_sound(tree)
    assert totals(tree) == {p: n for p, n in expected.items() if n or not p} | {(): expected[()]}


@given(stacks_of_names)
def test_siblings_are_in_alphabetical_order(stacks: Stacks) -> None:
    tree = build_tree(table_of(stacks))
    for i in range(2, len(tree)):
        if tree.parent[i] == tree.parent[i - 1]:
            assert path(tree, i - 1) < path(tree, i)


def test_tree_of_nothing_is_a_root_of_nothing() -> None:
    tree = build_tree(table_of([]))
    assert len(tree) == 1 and tree.total[0] == 0 and tree.frames[0].function == "all"


def test_same_name_of_another_binary_or_kind_stays_apart() -> None:
    table = StackTable(
        [Frame("read", Kind.NATIVE), Frame("read", Kind.NATIVE), Frame("read", Kind.KERNEL)],
        ["/lib/a", "/lib/b", "[kernel]"],
        np.array([0, 1, 2], np.uint32),
        np.array([0, 1, 2, 3], np.int64),
        np.array([1, 2, 4], np.int64),
    )
    tree = build_tree(table)
    assert sorted(tree.total[1:].tolist()) == [1, 2, 4]


def test_counts_beyond_32_bits_stay_exact() -> None:
    tree = build_tree(table_of([(["a"], 2**52), (["a", "b"], 1), (["c"], 3)]))
    assert totals(tree) == {(): 2**52 + 4, ("a",): 2**52 + 1, ("a", "b"): 1, ("c",): 3}


def test_a_negative_count_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="negative count"):
        build_tree(table_of([(["a"], -1)]))


def test_a_very_deep_stack_is_kept_whole() -> None:
    tree = build_tree(table_of([(["a"] * 20_000, 1)]))
    assert len(tree) == 20_001 and tree.level[-1] == 20_000 and tree.own[-1] == 1


@settings(max_examples=200)
@given(stacks_of_names, st.integers(1, 30))
def test_pruning_keeps_every_total_that_stays_and_says_what_went(stacks: Stacks, limit: int) -> None:
    tree = build_tree(table_of(stacks))
    pruned = prune(tree, limit)
    assert_sound(pruned)
    before = totals(tree)
    stayed = 0
    folded = 0
    for i in range(len(pruned)):
        frame = pruned.frames[int(pruned.frame[i])]
        if pruned.frame[i] >= pruned.elided:
            assert "below" in frame.function
            folded += int(frame.function[1:].split()[0].replace(",", ""))
            assert pruned.own[i] == pruned.total[i] > 0
        else:
            stayed += 1
            assert pruned.total[i] == before[path(pruned, i)]
            assert pruned.own[i] == before[path(pruned, i)] - sum(
                n for p, n in before.items() if p[:-1] == path(pruned, i) and p
            )
    assert stayed <= max(limit, 1)
    assert stayed + folded == len(tree)
    assert pruned.own.sum() == tree.own.sum() == tree.total[0]


@given(stacks_of_names, st.integers(1, 40))
def test_a_tree_built_with_a_limit_is_the_pruned_one(stacks: Stacks, limit: int) -> None:
    pruned, built = prune(build_tree(table_of(stacks)), limit), build_tree(table_of(stacks), limit)
    assert tree_to_json(built) == tree_to_json(pruned)
    for column in ("parent", "level", "frame", "total", "own", "start"):
        assert (getattr(built, column) == getattr(pruned, column)).all()
    assert (built.frames, built.elided) == (pruned.frames, pruned.elided)


@settings(max_examples=200, deadline=None)
@given(stacks_of_names, st.integers(1, 30))
def test_what_was_folded_away_is_found_again_exactly(stacks: Stacks, limit: int) -> None:
    tree = build_tree(table_of(stacks))
    pruned = prune(tree, limit)
    nodes = {path(tree, i): i for i in range(len(tree))}
    for i in np.flatnonzero(pruned.frame >= pruned.elided).tolist():
        part = folded_below(tree, nodes[path(pruned, i)[:-1]], pruned.lighter)
        assert_sound(part)
        assert len(part) - 1 == int(pruned.frames[int(pruned.frame[i])].function[1:].split()[0])
        assert part.total[0] == pruned.total[i]


def test_what_is_folded_away_of_a_part_has_a_share_of_all() -> None:
    tree = build_tree(table_of([(["heavy"], 90), *([([f"light{i}"], 1 + i % 2) for i in range(6)])]))
    part = folded_below(tree, 0, 50)
    names = [frame.function for frame in prune(part, 4, int(tree.total[0])).frames]
    assert names[-1] == "(3 frames below 2 %)", names


@settings(max_examples=200, deadline=None)
@given(stacks_of_names, st.integers(1, 5))
def test_whoever_goes_on_asking_comes_to_all_that_was_folded_away(stacks: Stacks, limit: int) -> None:
    tree = build_tree(table_of(stacks))
    whole = int(tree.total[0])
    nodes = {path(tree, i): i for i in range(len(tree))}
    known = set[tuple[str, ...]]()
    asked: list[tuple[tuple[str, ...], int]] = [((), whole + 1)]
    while asked:
        above, lighter = asked.pop()
        part = prune(folded_below(tree, nodes[above], lighter), limit, whole)
        for i in range(1, len(part)):
            here = (*above, *path(part, i))
            if part.frame[i] >= part.elided:
                asked.append((here[:-1], part.lighter))
            else:
                assert here not in known and part.total[i] == tree.total[nodes[here]]
                known.add(here)
    assert known == nodes.keys() - {()}


def test_a_tree_within_the_limit_is_not_pruned() -> None:
    tree = build_tree(table_of([(["a", "b"], 1), (["c"], 5)]))
    assert prune(tree, 4) is tree


def test_pruned_node_says_how_many_frames_and_the_threshold() -> None:
    light = [([f"light{i}", "leaf"], 1) for i in range(1200)]
    tree = prune(build_tree(table_of([(["heavy"], 98_800), *light])), 10)
    assert totals(tree) == {(): 100_000, ("heavy",): 98_800, ("(2,400 frames below 0.002 %)",): 1200}


def test_json_columns_give_the_tree_back() -> None:
    table = table_of([(["main", "b"], 2), (["main"], 1), (["main", "a", "c"], 4), (["other"], 3)])
    table.frames[0] = Frame("main", Kind.NATIVE, "", "main.c", 7)
    table.frames[1] = Frame("[b: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS)
    data = json.loads(json.dumps(tree_to_json(build_tree(table))))
    names = [data["frames"]["name"][f] for f in data["frame"]]
    assert names == ["all", "main", "other", "[b: no symbols]", "a", "c"]
    assert data["children"] == [2, 2, 0, 0, 1, 0]
    assert data["own"] == [0, 1, 3, 2, 0, 4]
    main = data["frames"]["name"].index("main")
    assert data["strings"][data["frames"]["file"][main]] == "main.c"
    assert data["strings"][data["frames"]["binary"][main]] == "/bin/x"
    assert data["frames"]["line"][main] == 7
    unknown = data["frames"]["name"].index("[b: no symbols]")
    assert data["reasons"][data["frames"]["reason"][unknown]] == "no symbols"
    assert data["kinds"][data["frames"]["kind"][unknown]] == "unknown"
