"""Functions of a selection: what each weighs by itself and with what it calls, and who runs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Frame
from web.store.ragged import Integers, Ragged
from web.store.stackcache import Ids, Stacks
from web.store.store import BadQuery, Store
from web.store.sums import Sums
from web.store.ticks import weights

MAX_FUNCTIONS: Final = 200_000  # that one expression may match
MAX_TEXT: Final = 1000
_AT_A_TIME: Final = 50_000  # stacks


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions of some stacks: frame number j of the stacks belongs to number of[j] (-1 where it is in none).

    `frames` and `binaries` tell them apart by name, kind and binary; the file and line are those of one frame of each.
    """

    frames: list[Frame]
    binaries: list[str]
    of: Integers


@dataclass(frozen=True, slots=True)
class FunctionFilter:
    """Functions with `text` in their name, whatever its case, or (`is_regex`) those whose name it matches somewhere."""

    text: str
    is_regex: bool


def parse_function(text: str) -> FunctionFilter:
    """`text`, or `~regex`. Raises BadQuery."""
    if len(text) > MAX_TEXT:
        raise BadQuery(f"`function` is longer than {MAX_TEXT:,} characters")
    found = FunctionFilter(text[1:], True) if text.startswith("~") else FunctionFilter(text, False)
    if not found.text.strip():
        raise BadQuery("`function` is empty: give a part of a function's name, or ~ and a regular expression")
    return found


def functions_of_stacks(stacks: Stacks) -> Functions:
    flat, _ = stacks.frames.packed()
    is_used = np.zeros(len(stacks.frame_list), bool)
    is_used[flat] = True
    used = np.flatnonzero(is_used)
    _, first, number = np.unique(stacks.of[used], return_index=True, return_inverse=True)
    of = np.full(len(is_used), -1, np.int64)
    of[used] = number
    chosen = used[first].tolist()
    return Functions([stacks.frame_list[j] for j in chosen], [stacks.binaries[j] for j in chosen], of)


def matching(store: Store, functions: Functions, wanted: FunctionFilter) -> Integers:
    """The numbers of the functions that a filter lets through. Raises BadQuery."""
    if wanted.is_regex:
        # By the engine, whose expressions take linear time; it has every name that is shown in one of two tables.
        rows = store.rows(
            "SELECT DISTINCT name FROM (SELECT arrayJoin(functions) AS name FROM frames"
            " UNION ALL SELECT arrayJoin(functions) FROM names) WHERE match(name, {regex:String})"
            f" LIMIT {MAX_FUNCTIONS + 1}",
            {"regex": wanted.text},
        ).rows
        if len(rows) > MAX_FUNCTIONS:
            raise BadQuery(f"more than {MAX_FUNCTIONS:,} functions match: make the expression narrower")
        names = {row[0] for row in rows}
    else:
        names = names_matching(store, {frame.function for frame in functions.frames}, wanted)
    return np.array([i for i, frame in enumerate(functions.frames) if frame.function in names], np.int64)


def names_matching(store: Store, names: Iterable[str], wanted: FunctionFilter) -> set[str]:
    """Those of `names`, stored or not, that a filter lets through. Raises BadQuery."""
    if wanted.is_regex:
        return store.matching(sorted(names), wanted.text)
    text = wanted.text.casefold()
    return {name for name in names if text in name.casefold()}


def self_and_total(sums: Sums, stacks: Stacks, functions: Functions) -> tuple[Integers, Integers]:
    """Of each function, the counts of stacks that it is the leaf of, and of those that it is anywhere in."""
    return counted(stacks.frames, weights(sums, stacks), functions)


def counted(frames: Ragged, weight: NDArray[np.float64], functions: Functions) -> tuple[Integers, Integers]:
    """self_and_total() of stacks from anywhere: their frames, root first, and the count of each (whole numbers)."""
    count = len(functions.frames)
    total = np.zeros(count)
    for at in range(0, len(frames), _AT_A_TIME):
        rows = np.arange(at, min(at + _AT_A_TIME, len(frames)))
        row, function = _distinct(frames, functions, rows)
        total += np.bincount(function, weight[at + row], count)
    deep = np.flatnonzero(frames.length)
    leaves = frames.flat[frames.start[deep] + frames.length[deep] - 1]
    own = np.bincount(functions.of[leaves], weight[deep], count)
    return own.astype(np.int64), total.astype(np.int64)


def _distinct(frames: Ragged, functions: Functions, rows: Integers) -> tuple[Integers, Integers]:
    """Each function once for each stack of `rows` (as places in it) that it is in, however often that is."""
    of = frames.take(rows)
    flat, _ = of.packed()
    key = np.repeat(np.arange(len(rows)), of.length) * max(len(functions.frames), 1) + functions.of[flat]
    key.sort()
    key = key[np.concatenate(([True], key[1:] != key[:-1]))] if len(key) else key
    return np.divmod(key, max(len(functions.frames), 1))


def stacks_with(stacks: Stacks, functions: Functions, chosen: Integers) -> Ids:
    """The ids of stacks that have any of the `chosen` functions, ascending."""
    within, _ = _has(stacks, functions, chosen)
    return stacks.ids[within]


def _has(stacks: Stacks, functions: Functions, chosen: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each stack has any of the `chosen` functions, and whether its leaf is one."""
    marked = np.zeros(len(functions.frames) + 1, bool)  # the last stands for no function
    marked[chosen] = True
    has = marked[functions.of]
    flat, offsets = stacks.frames.packed()
    hits = np.concatenate(([0], np.cumsum(has[flat])))
    leaf = np.zeros(len(stacks.ids), bool)
    deep = np.flatnonzero(stacks.frames.length)
    leaf[deep] = has[flat[offsets[1:][deep] - 1]]
    return hits[offsets[1:]] > hits[offsets[:-1]], leaf


def by_key(sums: Sums, stacks: Stacks, functions: Functions, chosen: Integers) -> list[tuple[int, int, int, int]]:
    """(key, at, self, total) of what runs any of the `chosen` functions, by key and step of the sums."""
    within, leaf = _has(stacks, functions, chosen)
    rows = stacks.rows
    places = np.flatnonzero(within[rows])
    groups, place = np.unique(np.stack((sums.key[places], sums.at[places]), 1), axis=0, return_inverse=True)
    own, total = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64)
    np.add.at(total, place.reshape(-1), sums.counts[places])
    np.add.at(own, place.reshape(-1), sums.counts[places] * leaf[rows[places]])
    return list(zip(*groups.T.tolist(), own.tolist(), total.tolist(), strict=True)) if len(groups) else []


def heaviest(
    functions: Functions, own: Integers, total: Integers, chosen: Integers, sort: str, limit: int
) -> list[dict[str, Any]]:
    """as_rows() of those of `chosen` that weigh most, by `self` or by `total`."""
    heavy = (own, total) if sort == "self" else (total, own)
    names = [functions.frames[i].function for i in chosen.tolist()]
    order = np.lexsort((np.array(names, object).astype(str), -heavy[1][chosen], -heavy[0][chosen]))
    return as_rows(functions, own, total, chosen[order][:limit])


def as_rows(functions: Functions, own: Integers, total: Integers, numbers: Integers) -> list[dict[str, Any]]:
    return [
        {
            "function": functions.frames[i].function,
            "kind": str(functions.frames[i].kind),
            "binary": functions.binaries[i],
            "file": functions.frames[i].file,
            "self": int(own[i]),
            "total": int(total[i]),
        }
        for i in numbers.tolist()
    ]
