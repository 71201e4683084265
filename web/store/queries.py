"""What is asked of the store, one method per question, with what they keep between them. Selections: selection.py.

Every question is bounded in time and memory: by the engine's limits, and where arrays or objects are made of an answer,
by a number of them. What goes beyond is refused with BadQuery, which says what to narrow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from profiler.model import Accounting, Profile, StackTable, Window
from web.flamegraph.calltree import CallTree
from web.store import functions as by_hour
from web.store import hosts as host_rows
from web.store import stacks as st
from web.store import top as functions_of
from web.store.coverage import Coverage, Nearby, coverage_of, nearby
from web.store.heatmap import HeatMap, heat_map, step_of
from web.store.lines import FunctionLines, FunctionName, lines_of
from web.store.ragged import Integers
from web.store.selection import LABELS, SAMPLE_LABELS, Matcher, Selection, rfc3339
from web.store.series import MAX_VALUES, check_step, series_of, values_of
from web.store.stackcache import StackCache, Stacks
from web.store.store import BadQuery, Store, StoreUnavailable
from web.store.sums import HOUR_S, Summing, Sums, source_of, whole_hours
from web.store.ticks import weights
from web.store.top import FunctionFilter, Functions
from web.store.tree import tree_of
from web.store.windows import (
    Empty,
    MixedRates,
    Overview,
    host_title,
    overview_of,
    rates_of,
    rates_title,
    user_labels,
    why_empty,
)

__all__ = ("Empty", "MixedRates", "Overview", "Queries", "Top", "host_title", "rates_title")

MISSING: Final = "missing from the store"
WHO: Final = ("host", "service", "process")

log = logging.getLogger("pilotlight.queries")


@dataclass(frozen=True, slots=True)
class Top:
    """Functions with what they weigh: `rows` of top.as_rows, the heaviest first, out of `functions` that match."""

    overview: Overview
    functions: int
    rows: list[dict[str, Any]]


class Queries:
    """All questions. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cache = StackCache(store)
        self._summing = Summing(store)

    # ------------------------------------------------------------------ what is chosen

    def resolve(self, selection: Selection) -> Selection:
        """The selection with one event: where none is asked for, the one with most samples.

        Where a part of the range is older than samples are kept, it is of the whole hours that hold it. Raises Empty
        where there is no window at all, or no sample that matches, and says which; BadQuery.
        """
        store = self.store
        for matcher in selection.matchers:
            if matcher.is_regex:  # where there is nothing to match, a bad one would not be noticed
                store.rows("SELECT match(materialize(''), {regex:String})", {"regex": matcher.regex})
        selection = self._by_hour(selection)
        where, parameters = selection.where(store.horizon, samples=False)
        found = store.rows(
            f"SELECT event, count() FROM windows WHERE {where}"
            " GROUP BY event ORDER BY sum(sampled) DESC, event LIMIT 1",
            parameters,
        ).rows
        if not found:
            raise Empty(why_empty(store, selection))
        if selection.value("event") is None:
            selection = selection.also("event", found[0][0])
        if selection.filters_samples:
            source, parameters = source_of(selection, store.horizon, whole_hours(selection, ()), ("stack",))
            if not store.rows(f"SELECT 1 FROM ({source}) LIMIT 1", parameters).rows:
                filters = ", ".join(str(m)[:80] for m in selection.matchers if m.label in SAMPLE_LABELS)
                raise Empty(f"There are profiles in this range, but no sample in them matches {filters}.")
        return selection

    def _by_hour(self, selection: Selection) -> Selection:
        """The selection, of whole hours where a part of it has windows so old that their samples have expired."""
        oldest = self.store.rows("SELECT count() > 0, toUnixTimestamp(min(ts)) FROM samples").rows[0]
        kept_since = oldest[1] // HOUR_S * HOUR_S if oldest[0] else _up(int(time.time()))
        if selection.since >= kept_since:
            return selection
        expired = replace(selection, until=min(selection.until, kept_since))
        where, parameters = expired.where(self.store.horizon, samples=False)
        if not self.store.rows(f"SELECT 1 FROM windows WHERE {where} AND sampled > 0 LIMIT 1", parameters).rows:
            return selection
        if any(matcher.label == "pid" for matcher in selection.matchers):
            raise BadQuery(f"pids are kept since {rfc3339(kept_since)}: choose a later `from`, or leave out pid")
        until = selection.until if selection.until > kept_since else _up(selection.until)
        return replace(selection, since=selection.since // HOUR_S * HOUR_S, until=until, by_hour=True)

    def overview(self, selection: Selection, horizon: int) -> Overview:
        """See windows.overview_of."""
        return overview_of(self.store, selection, horizon)

    # ------------------------------------------------------------------ stacks

    def stack_table(self, selection: Selection, group_by: Sequence[str] = ()) -> tuple[StackTable, Overview]:
        """The stacks of a resolved selection, and its windows with the accounting that belongs to them.

        The stacks stand on the values of the labels of `group_by`, if any. Raises MixedRates, BadQuery.
        """
        sums, stacks, overview = self._summed(selection, group_by)
        return replace(st.table_of(sums, stacks), per_sample=overview.per_sample), overview

    def tree(
        self, selection: Selection, group_by: Sequence[str] = (), limit: int | None = None
    ) -> tuple[CallTree, Overview]:
        """The call tree of stack_table(), of about `limit` nodes at most, see calltree.prune."""
        sums, stacks, overview = self._summed(selection, group_by)
        tree = tree_of(sums, stacks, limit)
        if int(tree.total[0]) != overview.accounting.sampled:
            raise StoreUnavailable("the call tree does not have all samples of this range: this is a mistake of ours")
        return tree, overview

    def _summed(self, selection: Selection, group_by: Sequence[str] = ()) -> tuple[Sums, Stacks, Overview]:
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        whole = None if selection.filters_samples else overview.accounting.sampled
        sums = self._summing.fetch(selection, horizon, overview.rates, (*group_by, *st.BASES), whole=whole)
        stacks = st.stacks_of(self._cache, sums)
        return sums, stacks, _accounted(overview, selection, sums, stacks)

    def profile(self, selection: Selection) -> Profile:
        """A resolved selection as one profile, at the common rate of its windows. Raises MixedRates, BadQuery."""
        horizon = self.store.horizon
        _, _, overview = self._summed(selection)
        samples = st.fetch_samples(
            self.store, self._cache, selection, horizon, overview.rates, pids=not selection.by_hour
        )
        return Profile(
            host=host_title(overview.hosts),
            event=overview.event,
            hz=overview.hz,
            window=Window(overview.start_ns, overview.end_ns),
            samples=samples,
            accounting=overview.accounting,
            labels=overview.labels,
        )

    def accounted(self, selection: Selection) -> Overview:
        """The windows of a resolved selection, samples that its filters leave out counted as filtered.

        Raises MixedRates.
        """
        if not selection.filters_samples:
            return self.overview(selection, self.store.horizon)
        return self._summed(selection)[2]

    # ------------------------------------------------------------------ functions

    def top(
        self, selection: Selection, *, sort: str = "self", limit: int = 50, wanted: FunctionFilter | None = None
    ) -> Top:
        """The functions of a resolved selection that weigh most, by `self` or by `total`. Raises MixedRates.

        Of ranges of days, whole hours are from functions_1h, with the names that were known when each was over.
        """
        functions, own, total, overview = self._by_function(selection)
        chosen = np.arange(len(functions.frames))
        if wanted is not None:
            chosen = functions_of.matching(self.store, functions, wanted)
        return Top(overview, len(chosen), functions_of.heaviest(functions, own, total, chosen, sort, limit))

    def _by_function(self, selection: Selection) -> tuple[Functions, Integers, Integers, Overview]:
        horizon = self.store.horizon
        first, last = by_hour.hours_of(self.store, selection, horizon)
        if first < last:
            overview = self.overview(selection, horizon)
            hours = replace(selection, since=first, until=last)
            functions, own, total, samples = by_hour.read(self.store, hours, overview.rates)
            parts = [(functions, own, total)]
            for since, until in ((selection.since, first), (last, selection.until)):
                if since < until:
                    rest = replace(selection, since=since, until=until)
                    sums = self._summing.fetch(rest, horizon, overview.rates, ())
                    stacks = st.stacks_of(self._cache, sums)
                    functions = functions_of.functions_of_stacks(stacks)
                    parts.append((functions, *functions_of.self_and_total(sums, stacks, functions)))
                    samples += sums.total
            if samples == overview.accounting.sampled:  # else it changed meanwhile
                return *by_hour.merged(parts), overview
        sums, stacks, overview = self._summed(selection)
        functions = functions_of.functions_of_stacks(stacks)
        return functions, *functions_of.self_and_total(sums, stacks, functions), overview

    def who(
        self,
        selection: Selection,
        wanted: FunctionFilter,
        by: Sequence[str] = WHO,
        *,
        step: int = 0,
        limit: int = MAX_VALUES,
    ) -> tuple[Overview, list[str], list[dict[str, Any]]]:
        """Who runs a function, in a resolved selection: each value of the labels `by` with its samples that have a
        matching function on their stacks (`total`) or at the leaf (`self`), heaviest first; the functions that match;
        by steps `at` of so many seconds where `step` is given. Raises Empty where no function matches, MixedRates.
        """
        if step:
            check_step(step)
        horizon = self.store.horizon
        overview = self.overview(selection, horizon)
        sums = self._summing.fetch(selection, horizon, overview.rates, ())
        stacks = st.stacks_of(self._cache, sums)
        functions = functions_of.functions_of_stacks(stacks)
        chosen = functions_of.matching(self.store, functions, wanted)
        if not len(chosen):
            raise Empty("No function in this range has that name.")
        has = functions_of.stacks_with(stacks, functions, chosen)
        found = self._summing.fetch(selection, horizon, overview.rates, by, step=step, stacks=has)
        own_stacks = st.stacks_of(self._cache, found)
        functions = functions_of.functions_of_stacks(own_stacks)
        chosen = functions_of.matching(self.store, functions, wanted)
        counts: dict[tuple[Any, ...], list[int]] = {}
        for key, at, own, total in functions_of.by_key(found, own_stacks, functions, chosen):
            count = counts.setdefault((at, *found.keys[key]), [0, 0])
            count[0] += own
            count[1] += total
        rows = [
            {**({"at": at} if step else {}), **dict(zip(by, values, strict=True)), "self": own, "total": total}
            for (at, *values), (own, total) in counts.items()
        ]
        rows.sort(key=lambda row: (row.get("at", 0), -row["total"], *(row[label] for label in by)))
        names = sorted({functions.frames[i].function for i in chosen.tolist()})
        return overview, names, rows[:limit]

    def lines(self, selection: Selection, wanted: FunctionName) -> tuple[FunctionLines, Overview]:
        """The lines of one function of a resolved selection. Raises Empty where it is on no stack, MixedRates."""
        sums, stacks, overview = self._summed(selection)
        found = lines_of(stacks.frame_list, stacks.binaries, stacks.frames, weights(sums, stacks), wanted)
        if found is None:
            raise Empty("No function in this range has that name, kind and binary.")
        return found, overview

    # ------------------------------------------------------------------ hosts, labels and time

    def hosts(
        self,
        since: int,
        now: float | None = None,
        until: int | None = None,
        matchers: tuple[Matcher, ...] = (),
    ) -> list[dict[str, Any]]:
        """See hosts.hosts."""
        return host_rows.hosts(self.store, since, now, until, matchers)

    def loads(self, selection: Selection, step: int) -> dict[tuple[str, str], dict[int, float]]:
        """See hosts.loads."""
        return host_rows.loads(self.store, selection, step)

    def at_once(self, since: int, until: int) -> dict[tuple[str, str], host_rows.Agents]:
        """See hosts.at_once."""
        return host_rows.at_once(self.store, since, until)

    def coverage(self, selection: Selection) -> list[Coverage]:
        """See coverage.coverage_of."""
        return coverage_of(self.store, selection)

    def nearby(self, selection: Selection) -> Nearby:
        """See coverage.nearby."""
        return nearby(self.store, selection)

    def costs(self, selection: Selection, step: int) -> list[dict[str, Any]]:
        """See hosts.costs."""
        return host_rows.costs(self.store, selection, step)

    def series(self, selection: Selection, by: str | Sequence[str] = "", step: int = 60) -> list[dict[str, Any]]:
        """See series.series_of."""
        labels = (by,) if isinstance(by, str) and by else tuple(by)
        return series_of(self.store, selection, self.store.horizon, labels, step)

    def heat_map(self, selection: Selection, by: str, columns: int) -> HeatMap:
        """Of a resolved selection, see heatmap.heat_map. `columns` is the most that it may have; its steps are as short
        as that allows."""
        return heat_map(self.store, selection, self.store.horizon, by, step_of(selection, by, columns))

    def online(self, selection: Selection, step: int) -> dict[int, float]:
        """CPU-seconds that were online in a selection's windows, by steps `at` of so many seconds."""
        where, parameters = selection.where(self.store.horizon, samples=False)
        return dict(
            self.store.rows(
                "SELECT intDiv(toUnixTimestamp(ts), {step:UInt32}) * {step:UInt32} AS at, sum(expected / hz)"
                f" FROM windows WHERE {where} GROUP BY at",
                {**parameters, "step": step},
            ).rows
        )

    def labels(self, selection: Selection, label: str, limit: int = MAX_VALUES) -> list[dict[str, Any]]:
        """The values of a label in a selection with their samples, heaviest first.

        Samples are at the common rate of the selection's windows. Raises MixedRates where there is none, BadQuery for
        a label that no profile has.
        """
        if label not in LABELS and label not in (added := user_labels(self.store)):
            raise BadQuery(f"unknown label; known are {', '.join((*LABELS, *added))}")
        selection = self._by_hour(selection)
        horizon = self.store.horizon
        rates = rates_of(self.store, selection, horizon)
        plan = self._summing.plan(selection, horizon, () if label == "comm" else (label,))
        return values_of(self.store, selection, horizon, plan, rates, label, limit)

    def label_names(self) -> list[str]:
        """The names of all labels: those of every profile, and those that users added."""
        return [*LABELS, *(name for name in user_labels(self.store) if name not in LABELS)]

    def version(self, selection: Selection) -> str:
        """A text that changes whenever the answers that were given to questions about a selection might."""
        where, parameters = selection.of_windows.where(self.store.horizon, samples=False)
        found = self.store.rows(f"SELECT count(), max(batch), sum(sampled) FROM windows WHERE {where}", parameters)
        return f"{found.rows[0]} {self._cache.names_version()} {selection.by_hour}"


def _up(seconds: int) -> int:
    return -(-seconds // HOUR_S) * HOUR_S


def _accounted(overview: Overview, selection: Selection, sums: Sums, stacks: Stacks) -> Overview:
    """The overview with the accounting of the samples that are shown.

    Raises StoreUnavailable where there are more samples than there were; where some are missing it says so as a loss.
    """
    whole, shown = overview.accounting, sums.total
    if shown > whole.sampled:
        log.error("%s: %d samples where the windows have %d", selection, shown, whole.sampled)
        raise StoreUnavailable(
            f"the store has {shown - whole.sampled:,} more samples of this range than its windows account for"
        )
    if not selection.filters_samples:
        if shown == whole.sampled:
            return overview
        log.error("%s: %d samples where the windows have %d", selection, shown, whole.sampled)
        lost = {**whole.lost, MISSING: whole.sampled - shown}
        accounting = replace(whole, lost=lost, sampled=shown)
    else:
        accounting = replace(whole, filtered=whole.filtered + whole.sampled - shown, sampled=shown)
    return replace(overview, accounting=_with_frames(accounting, st.count_frames(sums, stacks)))


def _with_frames(accounting: Accounting, frames: st.FrameCounts) -> Accounting:
    return replace(accounting, frames_named=frames.named, frames_unknown=frames.unknown)
