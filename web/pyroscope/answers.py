"""The questions of Pyroscope's interfaces, asked of the store. Values are in the unit of their profile type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.model import Profile, StackTable
from web.pyroscope import flamebearer
from web.pyroscope.flamebearer import Flame
from web.pyroscope.selectors import TYPE_LABELS, Term, matchers_of, public_names
from web.pyroscope.types import ProfileType, profile_type
from web.store.queries import Empty, Queries
from web.store.selection import LABELS, Matcher, Selection
from web.store.store import BadQuery

DEFAULT_NODES: Final = 1024
MAX_NODES: Final = 1 << 20
MAX_SERIES: Final = 10_000
MAX_POINTS: Final = 11_000
_GRID_S: Final = 10  # the finest step that the store has points of
_SECOND: Final = 1_000_000_000
_BY_MINUTE: Final = ("host", "service", "container", "process", "cpu_kind")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A range and labels of one profile type; `kind` is None where no profile has the type."""

    kind: ProfileType | None
    selection: Selection


@dataclass(frozen=True, slots=True)
class Line:
    """A series: its labels by their public names, and its values by the time that their step begins, in seconds."""

    labels: dict[str, str]
    points: dict[int, float]

    @property
    def total(self) -> float:
        return sum(self.points.values())


def choose(queries: Queries, type_id: str, terms: Iterable[Term], since: int, until: int) -> Chosen:
    """`since` and `until` are seconds. Raises BadQuery."""
    terms = list(terms)
    selection = _selected(queries, [term for term in terms if term[0] not in TYPE_LABELS], since, until)
    kinds = _kinds(queries, [("__profile_type__", "=", type_id), *(term for term in terms if term[0] in TYPE_LABELS)])
    event = next(iter(kinds), None)
    if event is None:
        return Chosen(None, selection)
    return Chosen(profile_type(event), selection.also("event", event))


def whole_range(since: int, until: int) -> tuple[int, int]:
    """A range in seconds that holds it. Raises BadQuery where it is reversed or empty."""
    if since >= until:
        raise BadQuery("`from` must be earlier than `until`")
    return since, until


def table(queries: Queries, chosen: Chosen, path: Sequence[str] = ()) -> tuple[StackTable, int]:
    """The stacks that were chosen, and the rate that their counts are at; none where nothing matches."""
    if chosen.kind is None:
        return flamebearer.empty_table(), 1
    try:
        found, overview = queries.stack_table(queries.resolve(chosen.selection))
    except Empty:
        return flamebearer.empty_table(), 1
    return flamebearer.below(found, list(path)) if path else found, overview.hz


def flame(queries: Queries, chosen: Chosen, max_nodes: int, path: Sequence[str] = ()) -> Flame:
    found, hz = table(queries, chosen, path)
    return flamebearer.flame_of(found, max_nodes, hz, chosen.kind is not None and chosen.kind.is_time)


def difference(queries: Queries, left: Chosen, right: Chosen, max_nodes: int) -> Flame:
    """Raises BadQuery where the two are of different types."""
    if left.kind and right.kind and left.kind != right.kind:
        raise BadQuery(f"{left.kind.id} and {right.kind.id} cannot be compared: choose one profile type for both sides")
    (before, left_hz), (after, right_hz) = table(queries, left), table(queries, right)
    kind = left.kind or right.kind
    return flamebearer.diff_of(before, after, max_nodes, (left_hz, right_hz), kind is not None and kind.is_time)


def profile(queries: Queries, chosen: Chosen) -> Profile | None:
    """Everything that was chosen as one profile; None where nothing matches."""
    if chosen.kind is None:
        return None
    try:
        return queries.profile(queries.resolve(chosen.selection))
    except Empty:
        return None


def lines(queries: Queries, chosen: Chosen, step: int, group_by: Sequence[str], limit: int) -> list[Line]:
    """Sums by `step` seconds, one line for each value of the labels `group_by`, the heaviest `limit` of them first."""
    if chosen.kind is None:
        return []
    length = chosen.selection.until - chosen.selection.since
    if length > MAX_POINTS * step:
        raise BadQuery(f"this has more than {MAX_POINTS:,} points: choose a longer step, or a shorter range")
    of_store = {public: name for name, public in public_names(queries.label_names()).items()}
    labels = tuple(of_store.get(name, name) for name in group_by)
    grid = step if step % 60 == 0 else _GRID_S
    unit = _SECOND if chosen.kind.is_time else 1
    found: dict[tuple[str, ...], Line] = {}
    for point in queries.series(chosen.selection, labels, grid):
        values = tuple(str(point[label]) for label in labels)
        line = found.setdefault(values, Line(dict(zip(group_by, values, strict=True)), {}))
        at = point["at"] // step * step
        line.points[at] = line.points.get(at, 0.0) + point["busy"] * grid * unit
    heaviest = sorted(found.values(), key=lambda line: (-line.total, sorted(line.labels.items())))
    return heaviest[:limit]


def profile_types(queries: Queries, since: int, until: int) -> list[ProfileType]:
    found = queries.store.rows(
        "SELECT DISTINCT toString(event) AS event FROM series_1m WHERE t >= toDateTime({since:UInt32}, 'UTC')"
        " AND t < toDateTime({until:UInt32}, 'UTC') ORDER BY event LIMIT 1000",
        {"since": _minute(since), "until": until},
    ).rows
    return sorted((profile_type(row[0]) for row in found), key=lambda kind: kind.id)


def label_names(queries: Queries, terms: Iterable[Term], since: int, until: int) -> list[str]:
    return sorted({name for labels in label_sets(queries, terms, (), since, until) for name in labels})


def label_values(queries: Queries, name: str, terms: Iterable[Term], since: int, until: int) -> list[str]:
    found = label_sets(queries, terms, (name,), since, until)
    return sorted({labels[name] for labels in found if labels.get(name)})


def label_sets(
    queries: Queries, terms: Iterable[Term], wanted: Sequence[str], since: int, until: int
) -> list[dict[str, str]]:
    """The distinct sets of the labels `wanted`, or of all that series are kept by, of profiles that match.

    An empty label is one that is not there. Raises BadQuery where there are more than MAX_SERIES.
    """
    terms = list(terms)
    names = public_names(queries.label_names())
    of_store = {public: name for name, public in names.items()}
    columns = [of_store[name] for name in wanted if of_store.get(name) in LABELS]
    if not wanted:
        columns = list(_BY_MINUTE)
    kinds = _kinds(queries, [term for term in terms if term[0] in TYPE_LABELS])
    selection = _selected(queries, [term for term in terms if term[0] not in TYPE_LABELS], since, until)
    added = not wanted or any(of_store.get(name, name) not in LABELS for name in wanted)
    chosen_by = {matcher.label for matcher in selection.matchers}
    by_minute = not ({*columns, *chosen_by} & {"pid", "thread", "comm", "hz"})
    store = queries.store
    if by_minute:
        selection = replace(selection, since=_minute(selection.since))
        where, parameters = selection.where(None, samples=True, time="t")
    else:
        where, parameters = selection.where(store.horizon, samples=True)
    listed = "".join(f"toString({column}) AS v_{column}, " for column in columns)
    number = "toString(label_set)" if added else "'0'"
    rows = store.rows(
        f"SELECT DISTINCT {listed}toString(event) AS v_event, {number} AS v_set"
        f" FROM {'series_1m' if by_minute else 'samples'} WHERE {where} LIMIT {10 * MAX_SERIES}",
        parameters,
    ).rows
    sets = _sets(queries, {row[-1] for row in rows} - {"0"})
    found: dict[tuple[tuple[str, str], ...], None] = {}
    for *values, event, set_id in rows:
        kind = kinds.get(event)
        if kind is None:
            continue
        of_type = {"__profile_type__": kind.id, "__name__": kind.name}
        labels = {names[column]: value for column, value in zip(columns, values, strict=True)}
        labels |= {names[name]: value for name, value in sets.get(set_id, {}).items() if name in names} | of_type
        kept = {name: value for name, value in labels.items() if value and (not wanted or name in wanted)}
        found[tuple(sorted(kept.items()))] = None
        if len(found) > MAX_SERIES:
            raise BadQuery(f"there are more than {MAX_SERIES:,} sets of labels: choose some, or fewer labels")
    return [dict(labels) for labels in sorted(found)]


def stored(queries: Queries) -> tuple[int, int] | None:
    """When the first and the last window began, in seconds; None where there is none."""
    count, first, last = queries.store.rows(
        "SELECT count(), toUnixTimestamp(min(ts)), toUnixTimestamp(max(ts)) FROM windows WHERE batch <= {batch:UInt32}",
        {"batch": queries.store.horizon},
    ).rows[0]
    return (first, last) if count else None


def _selected(queries: Queries, terms: Iterable[Term], since: int, until: int) -> Selection:
    since, until = whole_range(since, until)
    matchers = matchers_of(terms, queries.label_names())
    _check_regexes(queries, matchers)
    return Selection(since, until, matchers)


def _check_regexes(queries: Queries, matchers: Iterable[Matcher]) -> None:
    """Raises BadQuery for a bad one, also where there is nothing that it could match."""
    for matcher in matchers:
        if matcher.is_regex:
            queries.store.rows("SELECT match(materialize(''), {regex:String})", {"regex": matcher.regex})


def _kinds(queries: Queries, terms: Iterable[Term]) -> dict[str, ProfileType]:
    """The types of profiles that match terms of TYPE_LABELS, by their event."""
    rows = queries.store.rows(
        "SELECT DISTINCT toString(event) FROM windows WHERE batch <= {batch:UInt32} LIMIT 10000",
        {"batch": queries.store.horizon},
    ).rows
    kinds = {row[0]: profile_type(row[0]) for row in rows}
    for label, operator, value in terms:
        names = {event: kind.id if label == "__profile_type__" else kind.name for event, kind in kinds.items()}
        fitting = {value}
        if operator.endswith("~"):
            fitting = queries.store.matching(sorted(set(names.values())), Matcher(label, operator, value).regex)
        kinds = {
            event: kind for event, kind in kinds.items() if (names[event] in fitting) is not operator.startswith("!")
        }
    return kinds


def _sets(queries: Queries, ids: set[str]) -> dict[str, dict[str, str]]:
    if not ids:
        return {}
    rows: Any = queries.store.rows(
        "SELECT toString(id), labels FROM label_sets WHERE id IN {ids:Array(UInt64)} LIMIT 1 BY id",
        {"ids": sorted(map(int, ids))},
    ).rows
    return dict(rows)


def _minute(seconds: int) -> int:
    return seconds // 60 * 60
