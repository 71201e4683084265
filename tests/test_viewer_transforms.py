"""What the viewer makes of a call tree, run in Node.js: the same as is made of the stacks one by one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.model import StackTable
from symbolizer.types import Frame, Kind
from web.flamegraph import layout
from web.flamegraph.diff import FEWEST, SIGNIFICANT, build_diff, significance
from web.flamegraph.diff_svg import changes

Stack = tuple[int, ...]  # frames from the root on, "all" left out
Tree = dict[str, Any]

DRIVER = Path(__file__).parent / "viewer_driver.js"

FRAMES = 6  # 0 is "all"; the last stands for what is folded away
NAMES = [f"f{i}" for i in range(FRAMES)]


class Viewer:
    """The viewer's modules in a Node.js of their own."""

    def __init__(self, folder: Path) -> None:
        for module in (files("web") / "static" / "flamegraph").iterdir():
            (folder / module.name).write_text(module.read_text("utf-8"), "utf-8")
        (folder / "package.json").write_text('{"type": "module"}')
        (folder / "driver.js").write_text(DRIVER.read_text("utf-8"), "utf-8")
        node = shutil.which("node")
        if node is None:
            pytest.fail("Node.js is not installed: `make setup-dev` installs it", pytrace=False)
        self.process = subprocess.Popen(
            [node, str(folder / "driver.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **question: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def make(self, op: str, tree: Tree, argument: Any = None) -> Tree:
        folded = [0] * (FRAMES - 1) + [1]
        made: Tree = self.ask(tree=tree, names=NAMES, isFolded=folded, op=op, argument=argument)
        return made


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    viewer = Viewer(tmp_path_factory.mktemp("viewer"))
    yield viewer
    viewer.process.kill()
    viewer.process.communicate()


def columns(stacks: dict[Stack, int], before: dict[Stack, int] | None = None) -> Tree:
    """A tree in level order, as web/flamegraph writes it."""
    levels: list[list[Stack]] = [[()]]
    paths = {stack[:depth] for stack in [*stacks, *(before or {})] for depth in range(1, len(stack) + 1)}
    while True:
        below = [path for above in levels[-1] for path in sorted(p for p in paths if p[:-1] == above)]
        if not below:
            break
        levels.append(below)
    order = [path for level in levels for path in level]
    tree = {
        "children": [sum(1 for p in paths if p[:-1] == path) for path in order],
        "own": [stacks.get(path, 0) for path in order],
        "frame": [path[-1] if path else 0 for path in order],
    }
    return tree | ({"beforeOwn": [before.get(path, 0) for path in order]} if before is not None else {})


def weights(stacks: dict[Stack, int]) -> dict[Stack, int]:
    """What each path weighs with all that is on it."""
    found: Counter[Stack] = Counter({(): 0})
    for stack, count in stacks.items():
        for depth in range(len(stack) + 1):
            found[stack[:depth]] += count
    return {path: weight for path, weight in found.items() if weight or path == ()}


def paths(tree: Tree, column: str = "total", side: int = 0) -> dict[Stack, int]:
    """The same of a tree that the viewer made; of one side of a sandwich."""
    at: list[Stack] = []
    for node, parent in enumerate(tree["parent"]):
        at.append(at[parent] + (tree["frame"][node],) if node else ())
    return {
        path: tree[column][node]
        for node, path in enumerate(at)
        if (tree[column][node] or node == 0) and (not side or node == 0 or tree["side"][node] == side)
    }


def check(tree: Tree) -> None:
    """Level order, siblings in order, each child within its parent, totals conserved."""
    total, parent, first = tree["total"], tree["parent"], tree["first"]
    assert first[-1] == len(parent) and parent[1:] == sorted(parent[1:])
    for start in tree["placed"]:
        for node in range(len(parent)):
            for side in (-1, 1) if tree["side"] else (0,):
                children = [c for c in range(first[node], first[node + 1]) if not side or tree["side"][c] == side]
                assert all(
                    start[node] <= start[c] and start[c] + total[c] <= start[node] + total[node] for c in children
                )
                spans = sorted((start[c], start[c] + total[c]) for c in children)
                assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    for node in range(len(parent)):
        children = [c for c in range(first[node], first[node + 1]) if not tree["side"] or node or tree["side"][c] > 0]
        frames = [tree["frame"][c] for c in children]
        assert all(parent[c] == node for c in children) and frames == sorted(frames)
        assert total[node] == tree["own"][node] + sum(total[c] for c in children)


counts = st.dictionaries(st.lists(st.integers(1, FRAMES - 2), max_size=7).map(tuple), st.integers(1, 1000), max_size=12)
exactly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def changed(stacks: dict[Stack, int], change: Any) -> dict[Stack, int]:
    found: Counter[Stack] = Counter()
    for stack, count in stacks.items():
        new = change(stack)
        if new is not None:
            found[new] += count
    return dict(found)


def without_runs(stack: Stack) -> Stack:
    return tuple(frame for i, frame in enumerate(stack) if i == 0 or stack[i - 1] != frame)


@exactly
@given(counts, st.sets(st.integers(1, FRAMES - 2)))
def test_trees_are_what_their_stacks_make(viewer: Viewer, stacks: dict[Stack, int], some: set[int]) -> None:
    mask = [int(frame in some) for frame in range(FRAMES)]
    expected = {
        "same": (None, lambda stack: stack),
        "focus": (mask, lambda stack: stack if some & set(stack) else None),
        "hide": (mask, lambda stack: tuple(f for f in stack if f not in some)),
        "collapse": (None, without_runs),
        "reverse": (None, lambda stack: stack[::-1]),
    }
    for op, (argument, change) in expected.items():
        tree = viewer.make(op, columns(stacks), argument)
        check(tree)
        assert paths(tree) == weights(changed(stacks, change)), op
        if op != "focus":
            assert tree["total"][0] == sum(stacks.values())


def test_where_stacks_have_too_many_frames_together_light_leaves_are_folded_exactly(viewer: Viewer) -> None:
    """One stack of 2,900 levels, each of which is a leaf too: four million frames. The last leaf weighs all but 1 in
    300,000; whatever else ends in another function is one group that is lighter than 1 in 200,000."""
    levels, heavy = 2900, 3000 * 300_000
    chain = {
        "children": [1] * levels + [0],
        "own": [0] + [1] * (levels - 1) + [heavy],
        "frame": [0] + [1] * (levels - 1) + [2],
    }
    found = paths(viewer.make("reverse", chain))
    rest = {(1,): levels - 1, (1, FRAMES - 1): levels - 2}
    assert found == {(): levels - 1 + heavy, **rest, **{(2, *[1] * depth): heavy for depth in range(levels)}}


@exactly
@given(counts, counts)
def test_both_sides_of_a_difference_are_kept(viewer: Viewer, after: dict[Stack, int], before: dict[Stack, int]) -> None:
    for op, change in (("reverse", lambda stack: stack[::-1]), ("collapse", without_runs)):
        tree = viewer.make(op, columns(after, before))
        assert paths(tree) == weights(changed(after, change))
        assert paths(tree, "before") == weights(changed(before, change))


@exactly
@given(counts, st.integers(1, FRAMES - 2))
def test_a_sandwich_has_each_stack_once_on_either_side(viewer: Viewer, stacks: dict[Stack, int], frame: int) -> None:
    tree = viewer.make("sandwich", columns(stacks), frame)
    check(tree)
    having = {stack: count for stack, count in stacks.items() if frame in stack}
    callees = weights(changed(having, lambda stack: stack[stack.index(frame) + 1 :]))
    callers = weights(changed(having, lambda stack: stack[: stack.index(frame)][::-1]))
    assert tree["frame"][0] == frame
    assert paths(tree, side=1) == callees
    assert paths(tree, side=-1) == callers


@exactly
@given(counts)
def test_functions_weigh_once_what_their_stacks_weigh(viewer: Viewer, stacks: dict[Stack, int]) -> None:
    functions = viewer.make("same", columns(stacks))["functions"]
    for frame in range(1, FRAMES):
        assert functions["self"][frame] == sum(n for stack, n in stacks.items() if stack and stack[-1] == frame)
        assert functions["total"][frame] == sum(n for stack, n in stacks.items() if frame in stack)


@exactly
@given(counts)
def test_callers_and_callees_share_a_functions_samples_without_doubling_any(
    viewer: Viewer, stacks: dict[Stack, int]
) -> None:
    found = viewer.make("same", columns(stacks))["neighbours"]
    for frame in range(1, FRAMES - 1):
        callers, callees = Counter[int](), Counter[int]()
        for stack, count in stacks.items():
            if frame not in stack or not count:
                continue
            at = stack.index(frame)
            callers[stack[at - 1] if at else 0] += count
            if at + 1 < len(stack):
                callees[stack[at + 1]] += count
        for side, expected in (("callers", callers), ("callees", callees)):
            rows = found[frame][side]
            assert dict(rows) == expected and len(rows) == len(expected)
            assert [weight for _, weight in rows] == sorted((weight for _, weight in rows), reverse=True)


@exactly
@given(counts)
def test_a_search_counts_each_stack_once(viewer: Viewer, stacks: dict[Stack, int]) -> None:
    tree = viewer.make("same", columns(stacks))
    assert tree["matched"][0] == sum(count for stack, count in stacks.items() if 1 in stack)


def test_what_was_folded_away_takes_its_place_in_order(viewer: Viewer) -> None:
    folded = FRAMES - 1
    tree = columns({(1, 3): 50, (1, folded): 7, (2,): 5})
    part = columns({(2, 4): 4, (2,): 1, (4,): 2}) | {"frameOf": list(range(FRAMES))}
    node = next(i for i, frame in enumerate(tree["frame"]) if frame == folded)
    grown = viewer.make("graft", tree, {"node": node, "part": part})
    check(grown)
    assert paths(grown) == weights({(1, 3): 50, (1, 2, 4): 4, (1, 2): 1, (1, 4): 2, (2,): 5})


def test_what_was_folded_away_of_two_profiles_keeps_both_sides(viewer: Viewer) -> None:
    folded = FRAMES - 1
    tree = columns({(1, 3): 50, (1, folded): 7, (2,): 5}, {(1, 3): 10, (1, folded): 3})
    part = columns({(2, 4): 4, (2,): 3}, {(2, 4): 1, (4,): 2}) | {"frameOf": list(range(FRAMES))}
    node = next(i for i, frame in enumerate(tree["frame"]) if frame == folded)
    grown = viewer.make("graft", tree, {"node": node, "part": part})
    assert paths(grown) == weights({(1, 3): 50, (1, 2, 4): 4, (1, 2): 3, (2,): 5})
    assert paths(grown, "before") == weights({(1, 3): 10, (1, 2, 4): 1, (1, 4): 2})


def test_what_is_folded_away_at_several_places_does_not_say_how_much_it_is(viewer: Viewer) -> None:
    # Two frames above their folded children are taken out: the folded nodes meet, and become the general one.
    tree = columns({(1, FRAMES - 1): 3, (2, FRAMES - 1): 4})
    made = viewer.make("hide", tree, [0, 1, 1, 0, 0, 0])
    assert paths(made) == {(): 7, (FRAMES - 1,): 7} and made["origin"] == [0, -1]


@pytest.mark.parametrize(("count", "of"), [(0, 10), (1, 10), (5, 10), (10, 10), (3000, 10_000), (0, 0)])
def test_intervals_hold_the_share_and_stay_within_all(viewer: Viewer, count: int, of: int) -> None:
    least, most = viewer.ask(call="interval", argument=[count, of])
    assert 0 <= least <= (count / of if of else 0) <= most <= 1


def test_an_interval_as_published(viewer: Viewer) -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263, and 15 of 148
    assert viewer.ask(call="interval", argument=[81, 263]) == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert viewer.ask(call="interval", argument=[15, 148]) == pytest.approx([0.0624, 0.1605], abs=1e-4)


def test_an_interval_of_samples_that_count_for_several_is_that_of_the_samples(viewer: Viewer) -> None:
    assert viewer.ask(call="interval", argument=[810, 2630, 10]) == viewer.ask(call="interval", argument=[81, 263])


@exactly
@given(*[st.integers(0, 5000)] * 4, st.booleans(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_changes_are_told_as_the_server_tells_them(
    viewer: Viewer,
    before: int,
    after: int,
    more_before: int,
    more_after: int,
    absolute: bool,
    per_sample: tuple[int, int],
) -> None:
    sides = [
        StackTable([Frame("f", Kind.NATIVE), Frame("g", Kind.NATIVE)], [""] * 2, *stacks_of(f, g), each)
        for f, g, each in ((before, more_before, per_sample[0]), (after, more_after, per_sample[1]))
    ]
    tree = build_diff(*sides)
    node = next((i for i in range(len(tree)) if tree.frames[tree.frame[i]].function == "f"), None)
    if node is None:
        return
    diff = {
        "absolute": absolute,
        "significant": SIGNIFICANT,
        "fewest": FEWEST,
        "steps": layout.STEPS,
        "perSample": per_sample,
    }
    argument = [before, after, before + more_before, after + more_after, diff]
    assert viewer.ask(call="grewBy", argument=argument) == pytest.approx(significance(tree, absolute=absolute)[node])
    assert viewer.ask(call="stepOfChange", argument=argument) == changes(tree, absolute=absolute)[node]


def stacks_of(first: int, second: int) -> tuple[Any, Any, Any]:
    """Two stacks of one frame each, as StackTable has them."""
    return np.array([0, 1], np.uint32), np.array([0, 1, 2]), np.array([first, second])
