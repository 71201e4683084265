"""Long ranges: whole hours from the rollup, checked against the windows; what is left of samples that have expired;
labels that users gave; stacks kept between questions; functions and who runs them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler.model import Accounting, Profile, Sample, StackTable, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location
from web.hosts import _clock
from web.store.queries import MISSING, Empty, Queries
from web.store.rowbinary import RowBinary
from web.store.selection import Selection, parse_group_by, parse_matcher
from web.store.stackcache import StackCache
from web.store.store import BadQuery, Store, StoreUnavailable
from web.store.top import parse_function
from web.store.writer import Push, Writer

HOUR = 3600
START = int(time.time()) // HOUR * HOUR - 4 * HOUR  # of three whole hours
END = START + 3 * HOUR
PLACES = [
    Location(i, Binary(f"/lib/{i % 3}.so", f"{i % 3:x}"), (Frame(f"f{i}", Kind.NATIVE, "", "f.c", i),))
    for i in range(9)
]


def profile(start: int, host: str = "h1", count: int = 1, region: str = "", process: str = "app") -> Profile:
    samples = tuple(
        Sample(
            (PLACES[i], PLACES[(i + 1) % 9], PLACES[0]), i % 2 + 1, process, process, count * (i + 1), f"svc-{i % 3}"
        )
        for i in range(9)
    )
    total = sum(sample.count for sample in samples)
    accounting = Accounting(1980, total + 500, 500, 0, total, {}, 3 * total)
    labels = {"region": region} if region else {}
    return Profile(host, "cpu-clock", 99, Window(start * 10**9, (start + 10) * 10**9), samples, accounting, labels)


WINDOWS = [profile(START + at, host, 1 + at // HOUR) for at in range(600, 3 * HOUR, 1800) for host in ("h1", "h2")]
TOTAL = sum(window.accounting.sampled for window in WINDOWS)


def merged(table: StackTable) -> Counter[tuple[str, ...]]:
    stacks: Counter[tuple[str, ...]] = Counter()
    for i, count in enumerate(table.counts.tolist()):
        stacks[tuple(table.frames[j].function for j in table.index[table.offsets[i] : table.offsets[i + 1]])] += count
    return stacks


def expected(windows: list[Profile]) -> Counter[tuple[str, ...]]:
    return sum((merged(stack_table(window)) for window in windows), Counter())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"chdb://{tmp_path}/store")
    yield store
    store.close()


Keep = Callable[..., Queries]


@pytest.fixture
def keep(store: Store) -> Iterator[Keep]:
    writer = Writer(store, interval=0)

    def keep(*profiles: Profile) -> Queries:
        writer.submit(Push(profiles, "0" * 64, "agent", "1", store.horizon)).result(60)
        return Queries(store)

    yield keep
    writer.close()


def select(*matchers: str, since: int = START, until: int = END) -> Selection:
    return Selection(since, until, tuple(parse_matcher(text) for text in matchers))


def watched(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that sums of stacks are read from, from now on."""
    read: list[str] = []
    raw = store.raw

    def watch(sql: str, parameters: dict[str, Any] | None = None) -> RowBinary:
        read.extend(name for name in ("stacks_1h", "samples") if f"FROM {name} " in sql)
        return raw(sql, parameters)

    monkeypatch.setattr(store, "raw", watch)
    return read


@pytest.mark.parametrize(
    ("since", "until", "tables"),
    [
        (START, END, {"stacks_1h"}),
        (START + 900, END - 900, {"stacks_1h", "samples"}),
        (START + 900, START + 3000, {"samples"}),
    ],
)
def test_whole_hours_come_from_the_rollup_and_ends_from_samples(
    store: Store, keep: Keep, monkeypatch: pytest.MonkeyPatch, since: int, until: int, tables: set[str]
) -> None:
    queries = keep(*WINDOWS)
    chosen = [window for window in WINDOWS if since <= window.window.start_ns // 10**9 < until]
    for matchers, keeps in (((), lambda s: True), (("service=svc-1",), lambda s: s.service == "svc-1")):
        selection = queries.resolve(select(*matchers, since=since, until=until))
        with monkeypatch.context() as patch:
            read = watched(store, patch)
            table, overview = queries.stack_table(selection)
        assert set(read) == tables
        kept = [replace(window, samples=tuple(s for s in window.samples if keeps(s))) for window in chosen]
        assert merged(table) == expected(kept)
        assert overview.accounting.closes and overview.accounting.sampled == int(table.counts.sum())
        assert MISSING not in overview.accounting.lost


@pytest.mark.parametrize("matchers", [(), ("service=svc-1",), ("host=h1",)])
@pytest.mark.parametrize("change", ["DELETE WHERE t = {hour:DateTime('UTC')}", "UPDATE value = value + 1 WHERE t > 0"])
def test_an_hour_of_the_rollup_that_does_not_add_up_is_read_from_samples(
    store: Store, keep: Keep, matchers: tuple[str, ...], change: str
) -> None:
    queries = keep(*WINDOWS)
    selection = queries.resolve(select(*matchers))
    before = merged(queries.stack_table(selection)[0])
    if change.startswith("DELETE"):
        store.command(f"ALTER TABLE stacks_1h {change}", {"hour": START + HOUR})
    else:  # what a commit under way has added already
        store.command("INSERT INTO stacks_1h SELECT * EXCEPT value, 5 AS value FROM stacks_1h")
    table, overview = queries.stack_table(selection)
    assert merged(table) == before and overview.accounting.lost == {}
    assert sum(row["samples"] for row in queries.labels(selection, "service")) == overview.accounting.sampled


def test_samples_that_are_missing_are_told_and_ones_too_many_are_refused(store: Store, keep: Keep) -> None:
    queries = keep(*WINDOWS)
    selection = queries.resolve(select())
    for name in ("samples", "stacks_1h"):
        store.command(f"ALTER TABLE {name} DELETE WHERE host = 'h2'")
    table, overview = queries.stack_table(selection)
    assert overview.accounting.closes
    assert overview.accounting.lost == {MISSING: TOTAL // 2}
    assert overview.accounting.sampled == int(table.counts.sum()) == TOTAL // 2
    store.command("ALTER TABLE windows DELETE WHERE host = 'h1'")
    store.command("ALTER TABLE windows UPDATE sampled = 1 WHERE 1")
    with pytest.raises(StoreUnavailable, match="more samples of this range than its windows account for"):
        queries.stack_table(selection)


def test_of_expired_samples_whole_hours_are_left(store: Store, keep: Keep) -> None:
    queries = keep(*WINDOWS)
    store.command(f"ALTER TABLE samples DELETE WHERE ts < toDateTime({START + 2 * HOUR}, 'UTC')")
    selection = queries.resolve(select(since=START + 1200, until=START + HOUR + 1200))
    assert (selection.since, selection.until, selection.by_hour) == (START, START + 2 * HOUR, True)
    old = [window for window in WINDOWS if window.window.start_ns // 10**9 < START + 2 * HOUR]
    table, overview = queries.stack_table(selection)
    assert merged(table) == expected(old) and overview.accounting.lost == {}
    got = queries.profile(selection)
    assert {sample.pid for sample in got.samples} == {0}
    assert sum(sample.count for sample in got.samples) == got.accounting.sampled == overview.accounting.sampled
    with pytest.raises(BadQuery, match="pids are kept since"):
        queries.resolve(select("pid=1"))
    mixed = queries.resolve(select(since=START + 1200))
    assert merged(queries.stack_table(mixed)[0]) == expected(WINDOWS)
    recent = queries.resolve(select("pid=1", since=START + 2 * HOUR + 600))
    assert not recent.by_hour and {sample.pid for sample in queries.profile(recent).samples} == {1}


REGIONS = {"eu": 3, "us": 5, "": 7}


def regional(keep: Keep) -> Queries:
    return keep(
        *(profile(START + at, f"h-{region}", n, region) for region, n in REGIONS.items() for at in (600, HOUR + 600))
    )


@pytest.mark.parametrize(
    ("matcher", "regions"),
    [
        ("region=eu", {"eu"}),
        ("region!=eu", {"us", ""}),
        ("region=~e.|us", {"eu", "us"}),
        ("region!~e.", {"us", ""}),
        ("region=", {""}),
        ("region!=", {"eu", "us"}),
        ("region=~.*", {"eu", "us", ""}),
        ("zone!=a", {"eu", "us", ""}),
    ],
)
@pytest.mark.parametrize("until", [START + HOUR, START + 1200])
def test_a_label_that_users_gave_selects_in_samples_and_rollups(
    keep: Keep, matcher: str, regions: set[str], until: int
) -> None:
    queries = regional(keep)
    selection = queries.resolve(select(matcher, until=until))
    table, overview = queries.stack_table(selection)
    assert int(table.counts.sum()) == overview.accounting.sampled == 45 * sum(REGIONS[region] for region in regions)
    assert overview.accounting.filtered == 0 and len(overview.hosts) == len(regions)
    points = queries.series(selection, ("region",))
    assert {point["region"]: point["samples"] for point in points} == {r: 45 * REGIONS[r] for r in regions}


def test_labels_that_users_gave_have_names_and_values_and_group(keep: Keep) -> None:
    queries = regional(keep)
    assert queries.label_names()[-1] == "region"
    found = queries.labels(select(), "region")
    assert [(v["name"], v["samples"]) for v in found] == [("", 630), ("us", 450), ("eu", 270)]
    with pytest.raises(BadQuery, match="known are host.*, region"):
        queries.labels(select(), "colour")
    tree, _ = queries.tree(queries.resolve(select()), parse_group_by("region,service"))
    first = {tree.frames[tree.frame[i]].function: int(tree.total[i]) for i in np.flatnonzero(tree.level == 1).tolist()}
    assert first == {"(none)": 630, "us": 450, "eu": 270}
    second = {tree.frames[tree.frame[i]].function for i in np.flatnonzero(tree.level == 2).tolist()}
    assert second == {"svc-0", "svc-1", "svc-2"}


@pytest.mark.parametrize("until", [START + HOUR, START + 1200], ids=["rollup", "samples"])
def test_kinds_of_cpu_select_group_and_have_values_in_samples_and_rollups(keep: Keep, until: int) -> None:
    """Also in the rows that the engine merges: kinds must not run into each other."""
    windows = []
    for at in range(600, 1200, 100):
        made = profile(START + at)
        kinds = ("big", "little") if at % 200 else ("little", "")
        samples = tuple(replace(sample, cpu_kind=kinds[sample.count % 2]) for sample in made.samples)
        windows.append(replace(made, samples=samples))
    queries = keep(*windows)
    for rollup in ("stacks_1h", "series_1m"):
        queries.store.command(f"OPTIMIZE TABLE {rollup} FINAL")
    odd, even = 3 * 25, 3 * 20  # of three windows, with nine samples of 1 to 9
    want = {"big": even, "little": odd + even, "": odd}
    tree, _ = queries.tree(queries.resolve(select(until=until)), ("cpu_kind",))
    first = {tree.frames[tree.frame[i]].function: int(tree.total[i]) for i in np.flatnonzero(tree.level == 1).tolist()}
    assert first == {kind or "(none)": samples for kind, samples in want.items()}
    assert {v["name"]: v["samples"] for v in queries.labels(select(until=until), "cpu_kind")} == want
    for matcher, kinds_of in (
        ("cpu_kind=big", {"big"}),
        ("cpu_kind!=big", {"little", ""}),
        ("cpu_kind=~.+", {"big", "little"}),
    ):
        selection = queries.resolve(select(matcher, until=until))
        table, overview = queries.stack_table(selection)
        total = sum(want[kind] for kind in kinds_of)
        assert int(table.counts.sum()) == overview.accounting.sampled == total
        assert overview.accounting.filtered == sum(want.values()) - total and overview.accounting.closes
        assert {
            point["cpu_kind"]: point["samples"] for point in queries.series(selection, ("cpu_kind",), 60)
        }.keys() == kinds_of
        assert {sample.cpu_kind for sample in queries.profile(selection).samples} == kinds_of


def test_a_label_that_nobody_has_is_told_with_those_there_are(keep: Keep) -> None:
    queries = regional(keep)
    with pytest.raises(Empty, match="No profile has a label 'regoin'; there are host, .*, region"):
        queries.resolve(select("regoin=eu"))


@pytest.mark.parametrize("text", ["comm", "a b", "a,b,c,d,e", "1", "x'"])
def test_what_cannot_be_grouped_by_is_said(text: str) -> None:
    with pytest.raises(BadQuery):
        parse_group_by(text)


# -------------------------------------------------------------------------------- kept stacks


def test_stacks_are_read_once_and_a_full_cache_begins_anew(store: Store, keep: Keep) -> None:
    keep(*WINDOWS)
    ids = np.array([row[0] for row in store.rows("SELECT DISTINCT stack FROM samples ORDER BY stack").rows], np.uint64)
    for limit, kept in ((1 << 20, True), (10, False)):
        cache = StackCache(store, limit)
        first = cache.get(ids)
        assert (cache.nbytes > 10) is kept
        for part in (ids, ids[::2], ids[:0]):
            again = cache.get(part)
            for row, number in enumerate(part.tolist()):
                whole = int(np.searchsorted(ids, number))
                want = [first.frame_list[j].function for j in first.frames.take(np.array([whole])).packed()[0]]
                got = [again.frame_list[j].function for j in again.frames.take(np.array([row])).packed()[0]]
                assert got == want and want[0] == "f0"
    with pytest.raises(StoreUnavailable, match="missing from it"):
        StackCache(store).get(np.array([12345], np.uint64))


def test_many_may_ask_at_once(keep: Keep) -> None:
    queries = keep(*WINDOWS)
    whole = expected(WINDOWS)
    found: list[bool] = []

    def ask(number: int) -> None:
        since = START + HOUR * (number % 3)
        selection = queries.resolve(select(since=since))
        table, _ = queries.stack_table(selection)
        want = whole if since == START else expected([w for w in WINDOWS if w.window.start_ns >= since * 10**9])
        found.append(merged(table) == want)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 9


# ---------------------------------------------------------------------------------- functions


def recursive(start: int, process: str) -> Profile:
    a, b = (Location(i, None, (Frame(name, Kind.KERNEL),)) for i, name in ((100, "outer"), (101, "Inner")))
    samples = (
        Sample((a, b, a, a), 1, process, process, 3),
        Sample((b, a), 1, process, process, 4),
        Sample((), 1, process, process, 5),
    )
    return replace(profile(start), samples=samples, accounting=Accounting(99, 12, 0, 0, 12, {}, 20))


def test_top_counts_a_sample_once_for_a_function_that_calls_itself(keep: Keep) -> None:
    queries = keep(recursive(START, "one"), recursive(START + HOUR, "two"))
    for sort, order in (("self", ["Inner", "outer"]), ("total", ["Inner", "outer"])):
        found = queries.top(queries.resolve(select()), sort=sort)
        assert [row["function"] for row in found.rows] == order
        by_name = {row["function"]: (row["self"], row["total"]) for row in found.rows}
        assert by_name == {"outer": (6, 14), "Inner": (8, 14)}
    for text, names in (("inn", {"Inner"}), ("~^I", {"Inner"}), ("~.", {"Inner", "outer"}), ("x", set())):
        found = queries.top(queries.resolve(select("process=two")), wanted=parse_function(text))
        assert {row["function"] for row in found.rows} == names and found.functions == len(names)
        assert all(row["total"] == 7 for row in found.rows) and found.overview.accounting.closes
    assert len(queries.top(queries.resolve(select()), limit=1).rows) == 1


def test_who_runs_a_function_is_told_by_label_and_time(keep: Keep) -> None:
    queries = keep(recursive(START, "one"), recursive(START + HOUR, "two"), *WINDOWS)
    selection = queries.resolve(select())
    _, names, rows = queries.who(selection, parse_function("inner"), ("host", "process"))
    assert names == ["Inner"]
    assert rows == [
        {"host": "h1", "process": "one", "self": 4, "total": 7},
        {"host": "h1", "process": "two", "self": 4, "total": 7},
    ]
    _, _, rows = queries.who(selection, parse_function("~^f0$"), ("host",))
    assert [row["total"] for row in rows] == [TOTAL // 2, TOTAL // 2]
    _, _, rows = queries.who(selection, parse_function("inner"), (), step=HOUR)
    assert rows == [{"at": START, "self": 4, "total": 7}, {"at": START + HOUR, "self": 4, "total": 7}]
    with pytest.raises(Empty, match="No function"):
        queries.who(selection, parse_function("nope"))
    with pytest.raises(BadQuery, match="not a regular expression"):
        queries.who(selection, parse_function("~("))


@pytest.mark.parametrize("step", [10, 60, 600, HOUR])
@pytest.mark.parametrize("by", [(), ("host",), ("thread", "service"), ("pid",)])
def test_a_series_has_all_samples_at_every_step(keep: Keep, step: int, by: tuple[str, ...]) -> None:
    queries = keep(*WINDOWS)
    points = queries.series(select(), by, step)
    assert sum(point["samples"] for point in points) == TOTAL
    assert all(point["at"] % step == 0 and set(by) <= point.keys() for point in points)
    assert sum(point["busy"] for point in points) * step == pytest.approx(TOTAL / 99)


@pytest.mark.parametrize("step", [0, 7, 65, 86_410, -10])
def test_a_step_that_makes_no_sense_is_refused(keep: Keep, step: int) -> None:
    with pytest.raises(BadQuery, match="multiple of 10"):
        keep(*WINDOWS).series(select(), "", step)


@pytest.mark.parametrize("regex", ["(a*)*b", "(.*a){500}b", "(a|aa)+$", "((a{10}){10}){10}"])
def test_a_catastrophic_expression_takes_no_longer_than_others(keep: Keep, regex: str) -> None:
    """Backtracking over this name would take longer than the universe is old; here it is answered, or refused."""
    queries = keep(profile(START, process="a" * 400))
    try:
        selection = queries.resolve(select(f"process!~{regex}"))
        assert queries.stack_table(selection)[1].accounting.closes
    except (BadQuery, Empty) as error:
        assert "regular expression" in str(error) or "no sample" in str(error)


@pytest.mark.parametrize("ahead", [0, 7200])
def test_a_host_whose_clock_differs_is_told(keep: Keep, ahead: int) -> None:
    now = int(time.time())
    start = (now + ahead) // 10 * 10 - 20
    rows = keep(profile(START), profile(start)).hosts(start - 60, now, start + 60)
    assert len(rows) == 1 and rows[0]["windows"] == 1
    assert -ahead - 1 <= rows[0]["late_s"] < -ahead + 3600
    assert (_clock(rows[0]["late_s"]) != "") is (ahead > 0)


def test_a_host_that_is_silent_is_still_known_by_its_last_window(keep: Keep) -> None:
    queries = keep(*WINDOWS)
    rows = queries.hosts(END, now=END + 60)
    assert [(row["host"], row["windows"], row["samples"]) for row in rows] == [("h1", 0, 0), ("h2", 0, 0)]
    assert all(row["last_seen"] == max(w.window.end_ns for w in WINDOWS) / 1e9 for row in rows)
    assert all(row["late_s"] is None for row in rows)
