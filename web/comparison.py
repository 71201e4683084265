"""Two selections that are compared: as an address asks for them, and their stacks."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.model import StackTable, common_rate
from web.flamegraph.changes import Changes, changes_of
from web.flamegraph.diff import at_rate, build_diff, diff_to_json, prune_diff
from web.selected import overview_dict
from web.store.queries import Empty, MixedRates, Overview, Queries
from web.store.selection import UNIT_S, Selection, as_mapping, parse, parse_time
from web.store.store import BadQuery

MOST_FUNCTIONS: Final = 100  # of those whose own change is largest, and as many by their total
_AS_AFTER: Final = re.compile(r"(from|until)(?:-(\d{1,6})([smhdw]))?")
_YES: Final = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `after` is compared with; by shares of either side, or by counts where `absolute`."""

    before: Selection
    after: Selection
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: the selection, with its event, its stacks, and its windows."""

    selection: Selection
    table: StackTable
    overview: Overview


def parse_comparison(
    query: Sequence[tuple[str, str]], *, default_since: str = "now-1h", now: float | None = None
) -> Comparison:
    """What a URL's query string asks for: `after` as selection.parse, `before` by baseFrom, baseUntil and baseQ.

    Times of `before` may also be `from` or `until`, those of `after`, and so much earlier: from-1h. By default it is
    the span just before `after`. It has the selectors of `after`, or those of baseQ alone. Raises BadQuery.
    """
    now = time.time() if now is None else now
    first = {key: value for key, value in reversed(query)}
    after = parse(query, default_since=default_since, now=now)
    until = _base_time(first.get("baseUntil") or "from", "baseUntil", after, now)
    default = str(max(until - (after.until - after.since), 0))
    since = _base_time(first.get("baseFrom") or default, "baseFrom", after, now)
    if since >= until:
        raise BadQuery("`baseFrom` must be earlier than `baseUntil`")
    own = [value for key, value in query if key == "baseQ" and value.strip()]
    matchers = parse([*(("q", value) for value in own)], now=now).matchers if own else after.matchers
    absolute = first.get("absolute", "").lower() or "false"
    if absolute not in _YES:
        raise BadQuery(f"`absolute` is true or false, not {absolute[:40]!r}")
    return Comparison(replace(after, since=since, until=until, matchers=matchers), after, _YES[absolute])


def _base_time(text: str, name: str, after: Selection, now: float) -> int:
    if relative := _AS_AFTER.fullmatch(text.strip()):
        edge, amount, unit = relative.groups()
        seconds = after.since if edge == "from" else after.until
        return max(seconds - (int(amount) * UNIT_S[unit] if amount else 0), 0)
    try:
        return parse_time(text, name, now)
    except BadQuery as error:
        raise BadQuery(f"{error}; or from-1h, until-1d: as much earlier than the other side") from error


def compare(queries: Queries, comparison: Comparison) -> tuple[Side, Side]:
    """Before and after, of one event. Counts that are compared as such are brought to one rate.

    Raises Empty where one of them has nothing, and says which; MixedRates, BadQuery.
    """
    after = resolved(queries, comparison.after, "After")
    before = resolved(queries, of_event(comparison.before, after.value("event")), "Before")
    sides = Side(before, *queries.stack_table(before)), Side(after, *queries.stack_table(after))
    if not comparison.absolute:
        return sides
    rates = sorted({side.overview.hz for side in sides})
    hz = common_rate(rates)
    if hz is None:
        raise MixedRates(rates)
    old, new = (replace(side, table=at_rate(side.table, hz // side.overview.hz)) for side in sides)
    return old, new


def of_event(selection: Selection, event: str | None) -> Selection:
    """The selection, of the other side's event where it asks for none."""
    return selection.also("event", event) if event and selection.value("event") is None else selection


def resolved(queries: Queries, selection: Selection, side: str) -> Selection:
    """As Queries.resolve; what it raises says which `side` holds nothing."""
    try:
        return queries.resolve(selection)
    except Empty as error:
        raise Empty(f"{side}, there is nothing to compare: {str(error)[:1].lower()}{str(error)[1:]}") from error


def difference(queries: Queries, comparison: Comparison, max_nodes: int) -> dict[str, Any]:
    """Both sides as JSON: their windows, the tree of both, and the functions that changed most. Raises as compare."""
    before, after = compare(queries, comparison)
    merged = prune_diff(build_diff(before.table, after.table), max_nodes)
    changes = changes_of(before.table, after.table, absolute=comparison.absolute)
    return {
        **{
            name: {**as_mapping(side.selection), **overview_dict(side.overview)}
            for name, side in (("before", before), ("after", after))
        },
        "absolute": comparison.absolute,
        "tree": diff_to_json(merged, absolute=comparison.absolute),
        "functions": [
            {
                "function": changes.frames[i].function,
                "kind": str(changes.frames[i].kind),
                "binary": changes.binaries[i],
                **{
                    name: {"before": int(counts[0, i]), "after": int(counts[1, i]), "z": round(float(z[i]), 2)}
                    for name, counts, z in (
                        ("self", changes.own, changes.own_z),
                        ("total", changes.total, changes.total_z),
                    )
                },
            }
            for i in most_changed(changes)
        ],
    }


def most_changed(changes: Changes, *, by_total: bool = False) -> list[int]:
    """The functions that changed most, by what they ran themselves and by their totals; in the order of the one."""
    by_own, by_all = changes.largest(), changes.largest(by_total=True)
    chosen = {*by_own[:MOST_FUNCTIONS], *by_all[:MOST_FUNCTIONS]}
    return [i for i in (by_all if by_total else by_own) if i in chosen]
