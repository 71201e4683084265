"""What comes out of the store is what went in: stacks, filters, accounting, whatever the names."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.model import (
    Accounting,
    Cost,
    Passage,
    Profile,
    Sample,
    StackTable,
    Unwinding,
    Window,
    merge,
    stack_table,
)
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from web.flamegraph.calltree import build_tree, tree_to_json
from web.store.queries import Empty, MixedRates, Queries, rates_title
from web.store.rows import MAX_NAME
from web.store.selection import Selection, parse, parse_matcher, parse_time
from web.store.stackcache import PREFIX
from web.store.store import BadQuery, Store
from web.store.writer import Names, Push, Writer

NOW = int(time.time()) // 3600 * 3600
START = NOW - 600
HOSTILE = [
    "<script>alert(1)</script>",
    "'; DROP TABLE samples; --",
    'a"b\\c\\0',
    "nul\0inside",
    "tab\tand\nnewline",
    "{host:String}",
    "%s %(x)s",
    "ünï\u202ecode\U0001f525",
    " ",
    "100%",
]

Stack = tuple[tuple[str, str, str], ...]


def locations(r: random.Random) -> list[Location]:
    made = [
        Location(i, Binary(f"/lib/{i % 5}.so", f"{i % 5:x}"), (Frame(f"f{i}", Kind.NATIVE, f"_Zf{i}", "f.c", i),))
        for i in range(60)
    ]
    made += [
        Location(
            i,
            Binary("/lib/inl.so"),
            (Frame(f"in{i}", Kind.INLINED, "", "i.h", 3), Frame(f"f{i}", Kind.NATIVE, "", "f.c", i)),
        )
        for i in range(60, 80)
    ]
    made.append(Location((1 << 64) - 1, None, (Frame("do_idle", Kind.KERNEL),)))
    made.append(Location(9, None, (Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),)))
    r.shuffle(made)
    return made


def profile(start: int = START, host: str = "h1", seed: int = 0, samples: int = 150) -> Profile:
    r = random.Random(seed)
    known = locations(r)
    made = tuple(
        Sample(
            tuple(r.choice(known) for _ in range(r.choice([0, 1, 5, 30]))),
            r.randint(1, 4),
            r.choice(["nginx", "node"]),
            r.choice(["nginx", "worker"]),
            r.randint(1, 9),
            r.choice(["", "shop"]),
            r.choice(["", "c0ffee"]),
            r.choice(["", "big", "little"]),
        )
        for _ in range(samples)
    )
    return Profile(
        host, "cpu-clock", 99, Window(start * 10**9, (start + 10) * 10**9), made, account(made), {"env": "prod"}
    )


def account(samples: tuple[Sample, ...]) -> Accounting:
    total = sum(sample.count for sample in samples)
    named = unknown = 0
    for sample in samples:
        for location in sample.stack:
            for frame in location.frames:
                if frame.kind is Kind.UNKNOWN:
                    unknown += sample.count
                else:
                    named += sample.count
    return Accounting(
        1980,
        total + 1013,
        1000,
        10,
        total,
        {"counts map full": 3},
        named,
        {"no mapping": unknown},
        Cost(5, 6, 7, 8, 9),
    )


def merged(table: StackTable) -> Counter[Stack]:
    stacks: Counter[Stack] = Counter()
    for i, count in enumerate(table.counts.tolist()):
        inside = table.index[table.offsets[i] : table.offsets[i + 1]].tolist()
        key = tuple((table.frames[j].function, str(table.frames[j].kind), table.binaries[j]) for j in inside)
        stacks[key] += count
    return stacks


def samples_of(profile: Profile) -> Counter[Sample]:
    counts: Counter[Sample] = Counter()
    for sample in profile.samples:
        counts[replace(sample, count=1)] += sample.count
    return counts


Keep = Callable[..., Queries]


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    """Stores profiles; gives the questions that can be asked."""
    store = Store(f"chdb://{tmp_path}/store")
    writer = Writer(store, interval=0)

    def keep(*profiles: Profile) -> Queries:
        writer.submit(Push(profiles, "0" * 64, "agent", "1", store.horizon)).result(60)
        return Queries(store)

    yield keep
    writer.close()
    store.close()


def select(*matchers: str, since: int = START, until: int = NOW) -> Selection:
    return Selection(since, until, tuple(parse_matcher(text) for text in matchers))


def test_one_window_comes_back_as_it_was_pushed(keep: Keep) -> None:
    one = profile()
    queries = keep(one)
    got = queries.profile(queries.resolve(select()))
    assert samples_of(got) == samples_of(one)
    assert replace(got, samples=()) == replace(one, samples=())


def test_many_windows_have_the_stacks_of_all(keep: Keep) -> None:
    windows = [profile(START + 10 * i, host, i) for i in range(8) for host in ("h1", "h2")]
    queries = keep(*windows)
    selection = queries.resolve(select())
    table, overview = queries.stack_table(selection)
    expected: Counter[Stack] = Counter()
    for window in windows:
        expected += merged(stack_table(window))
    assert merged(table) == expected == merged(stack_table(queries.profile(selection)))
    assert overview.accounting == sum((window.accounting for window in windows), Accounting())
    assert overview.hosts == ("h1", "h2")
    assert len({(f.function, f.kind, b) for f, b in zip(table.frames, table.binaries, strict=True)}) == len(
        table.frames
    )


@pytest.mark.parametrize("limit", [None, 1, 30, 10_000])
@pytest.mark.parametrize("group_by", [(), ("service",), ("host", "env"), ("cpu_kind", "thread"), ("process", "pid")])
def test_a_tree_is_what_its_stack_table_gives(keep: Keep, group_by: tuple[str, ...], limit: int | None) -> None:
    lines = [
        Location(1, Binary("/lib/l.so"), (Frame("on lines", Kind.NATIVE, "", "l.c", line),)) for line in (1, 2, 2, 3)
    ]
    samples = tuple(Sample((place, lines[0]), 1, "node", "node", 5 + i) for i, place in enumerate(lines))
    windows = [profile(START + 10 * i, host, i) for i in range(3) for host in ("h1", "h2")]
    many = replace(profile(START + 40), samples=samples, accounting=account(samples))
    queries = keep(*windows, many)
    for matchers in ((), ("process=node",), ("host=h2",)):
        selection = queries.resolve(select(*matchers))
        table, overview = queries.stack_table(selection, group_by)
        tree, same = queries.tree(selection, group_by, limit)
        assert tree_to_json(tree) == tree_to_json(build_tree(table, limit))
        assert same == overview and int(tree.total[0]) == overview.accounting.sampled > 0


def deep_samples() -> tuple[Sample, ...]:
    """Stacks about as deep as what is merged as one: they begin alike, on the same lines or others, and end apart."""

    def at(name: str, line: int = 1) -> Location:
        return Location(100 * line + len(name), Binary("/lib/d.so"), (Frame(name, Kind.NATIVE, "", "d.c", line),))

    begin = [at("f" * (1 + i % 9)) for i in range(PREFIX)]  # root first, with recursion
    other_lines = [at("f" * (1 + i % 9), 1 + i % 3) for i in range(PREFIX)]
    ends: list[list[Location]] = [[], [at("x")], [at("x"), at("y")], [at("y")], [at("y"), at("x"), at("x")]]
    paths = [[*first, *end] for first in (begin, other_lines) for end in ends]
    paths += [begin[:-1], [*begin[:-1], at("y")], [*begin[:-1], at("y"), at("x")], other_lines[:3]]
    return tuple(
        Sample(tuple(reversed(path)), 1, process, thread, 1 + i)
        for process, thread in (("deep", "deep"), ("deep", "worker"), ("app", "app"))
        for i, path in enumerate(paths)
    )


@pytest.mark.parametrize("limit", [None, 7, 40, 10_000])
@pytest.mark.parametrize("group_by", [(), ("host",)])
def test_stacks_that_begin_alike_are_apart_where_they_part(
    keep: Keep, group_by: tuple[str, ...], limit: int | None
) -> None:
    samples = deep_samples()
    queries = keep(replace(profile(START), samples=samples, accounting=account(samples)), profile(START + 10))
    for matchers in ((), ("process=deep",), ("thread=worker",)):
        selection = queries.resolve(select(*matchers))
        table, _ = queries.stack_table(selection, group_by)
        tree, overview = queries.tree(selection, group_by, limit)
        assert tree_to_json(tree) == tree_to_json(build_tree(table, limit))
        assert int(tree.total[0]) == overview.accounting.sampled > 0


def test_what_a_stack_begins_with_may_get_another_name(keep: Keep) -> None:
    def at(number: int, name: str) -> Location:
        return Location(number, Binary("/lib/d.so", "dd"), (Frame(name, Kind.NATIVE),))

    path = [at(i, f"f{i}") for i in range(PREFIX + 2)]
    unnamed, other = (
        Location(number, Binary("/lib/d.so", "dd"), (Frame("[d.so]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS),))
        for number in (98, 99)
    )
    paths = [[*path[:3], place, *path[4:]] for place in (path[3], unnamed, other)]
    samples = tuple(Sample(tuple(reversed(one)), 1, "deep", "deep", 5 + i) for i, one in enumerate(paths))
    queries = keep(replace(profile(START), samples=samples, accounting=account(samples)))
    selection = queries.resolve(select())
    branch = PREFIX + 2 - 3
    assert len(queries.tree(selection)[0]) == 2 + 3 + 2 * branch  # f3, and both that have no name
    writer = Writer(queries.store, interval=0)
    for named in (replace(unnamed, frames=(Frame("f3", Kind.NATIVE, "", "d.c", 3),)), at(99, "apart")):
        writer.submit(Names([named])).result(60)
        tree, _ = queries.tree(selection)
        assert tree_to_json(tree) == tree_to_json(build_tree(queries.stack_table(selection)[0]))
        assert len(tree) == 2 + 3 + 2 * branch
    writer.close()


@pytest.mark.parametrize(
    ("matcher", "keeps"),
    [
        ("comm=worker", lambda s: "worker" in (s.process, s.thread)),
        ("comm!=worker", lambda s: "worker" not in (s.process, s.thread)),
        ("comm=~n.*x", lambda s: "nginx" in (s.process, s.thread)),
        ("comm!~n.*x", lambda s: "nginx" not in (s.process, s.thread)),
        ("comm=~work", lambda s: False),
        ("process=node", lambda s: s.process == "node"),
        ("thread!~nginx|x", lambda s: s.thread != "nginx"),
        ("pid=3", lambda s: s.pid == 3),
        ("pid!=3", lambda s: s.pid != 3),
        ("pid=~[12]", lambda s: s.pid in (1, 2)),
        ("service=shop", lambda s: s.service == "shop"),
        ("service=", lambda s: s.service == ""),
        ("container!=", lambda s: s.container != ""),
    ],
)
def test_a_filter_keeps_what_matches_and_accounts_for_the_rest(
    keep: Keep, matcher: str, keeps: Callable[[Sample], bool]
) -> None:
    one = profile()
    queries = keep(one)
    kept = tuple(sample for sample in one.samples if keeps(sample))
    if not kept:
        with pytest.raises(Empty, match="no sample"):
            queries.resolve(select(matcher))
        return
    selection = queries.resolve(select(matcher))
    got = queries.profile(selection)
    assert samples_of(got) == samples_of(replace(one, samples=kept))
    table, overview = queries.stack_table(selection)
    assert merged(table) == merged(stack_table(got))
    a = queries.accounted(selection).accounting
    assert a == got.accounting == overview.accounting
    assert a.closes and a.ticks == one.accounting.ticks and a.sampled == int(table.counts.sum())
    assert (a.frames_named, a.frames_unknown.get("no mapping", 0)) == (
        account(kept).frames_named,
        account(kept).frames_unknown["no mapping"],
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_kept_and_found_and_harms_nothing(keep: Keep, name: str) -> None:
    frame = Location(1, Binary(name, name), (Frame(name, Kind.NATIVE, name, name, 1),))
    samples = (Sample((frame,), 1, name, name, 3, name, name), Sample((frame,), 2, "other", "other", 4))
    one = replace(profile(host=name), samples=samples, accounting=account(samples), labels={name: name})
    queries = keep(one)
    got = queries.profile(queries.resolve(select(f"host={name}")))
    assert got.host == name and got.labels == {name: name}
    assert samples_of(got) == samples_of(one)
    for label in ("comm", "process", "thread", "service", "container"):
        selection = queries.resolve(select(f"{label}={name}"))
        assert queries.accounted(selection).accounting.sampled == 3
        assert name in [value["name"] for value in queries.labels(select(), label)]
    assert [row["host"] for row in queries.hosts(START)] == [name]
    assert queries.series(select(f"host={name}"))


def test_an_endless_name_is_shortened_and_goes_on_being_distinct(keep: Keep) -> None:
    first, second = "x" * 100_000, "x" * 99_999 + "y"
    function = Location(1, None, (Frame(first, Kind.NATIVE),))
    samples = (Sample((function,), 1, first, first, 3), Sample((function,), 1, second, second, 4))
    queries = keep(replace(profile(), samples=samples, accounting=account(samples)))
    values = queries.labels(select(), "process")
    assert [value["samples"] for value in values] == [4, 3]
    assert all(len(value["name"]) <= MAX_NAME for value in values)
    found = queries.profile(queries.resolve(select(f"comm={values[1]['name']}")))
    assert found.samples[0].count == 3 and found.samples[0].stack[0].frames[0].function == first


def test_bytes_that_were_no_text_stay_distinct(keep: Keep) -> None:
    samples = (Sample((), 1, "a\udcff", "a", 1), Sample((), 1, "a\udcfe", "a", 2))
    queries = keep(replace(profile(), samples=samples, accounting=account(samples)))
    assert [v["name"] for v in queries.labels(select(), "process")] == ["a\\udcfe", "a\\udcff"]


def test_a_window_belongs_to_the_range_it_starts_in(keep: Keep) -> None:
    queries = keep(*(profile(START + 10 * i) for i in range(3)))
    for since, until, windows in ((START, START + 20, 2), (START + 1, START + 21, 2), (START + 10, START + 11, 1)):
        found = queries.overview(select(since=since, until=until), queries.store.horizon)
        assert found.windows == windows


def test_without_an_event_the_most_sampled_is_shown(keep: Keep) -> None:
    few = replace(profile(samples=3), event="page-faults")
    queries = keep(profile(), few)
    assert queries.resolve(select()).value("event") == "cpu-clock"
    assert queries.profile(queries.resolve(select("event=page-faults"))).event == "page-faults"


def mixed() -> list[Profile]:
    """Three windows of a host whose agent lowered its rate twice, with how its stacks were walked."""
    windows = []
    for i, hz in enumerate((99, 33, 11)):
        window = profile(START + 10 * i, seed=i)
        unwinding = Unwinding(50 + i, 3, {"no mapping": 2 + i}, {"/bin/a": Passage(7, i, {"no mapping": 2 + i})})
        account = replace(window.accounting, expected=20 * hz, unwinding=unwinding)
        windows.append(replace(window, hz=hz, accounting=account))
    return windows


def test_windows_of_different_rates_are_weighed_as_merge_does(keep: Keep) -> None:
    windows = mixed()
    queries = keep(*windows)
    selection = queries.resolve(select())
    expected = merge(windows)
    table, overview = queries.stack_table(selection)
    got = queries.profile(selection)
    assert (overview.rates, overview.hz, got.hz) == ((11, 33, 99), 99, 99)
    assert samples_of(got) == samples_of(expected)
    assert merged(table) == merged(stack_table(expected))
    assert got.accounting == overview.accounting == expected.accounting
    assert got.accounting.closes and int(table.counts.sum()) == got.accounting.sampled
    assert got.accounting.unwinding.binaries["/bin/a"] == Passage(7 + 21 + 63, 3 + 18, {"no mapping": 2 + 9 + 36})
    labels = queries.labels(selection, "process")
    assert sum(value["samples"] for value in labels) == got.accounting.sampled
    points = queries.series(select())
    assert sum(point["samples"] for point in points) == got.accounting.sampled
    assert sum(point["busy"] for point in points) * 60 == pytest.approx(got.accounting.sampled / 99)


def test_a_filter_over_different_rates_accounts_for_the_rest(keep: Keep) -> None:
    windows = mixed()
    queries = keep(*windows)
    selection = queries.resolve(select("process=node"))
    whole = merge(windows)
    kept = sum(sample.count for sample in whole.samples if sample.process == "node")
    for accounting in (queries.accounted(selection).accounting, queries.profile(selection).accounting):
        assert accounting.closes and accounting.sampled == kept and accounting.ticks == whole.accounting.ticks
        assert accounting.unwinding == Unwinding()  # it is of whole windows, not of what is shown


def test_a_host_that_lowered_its_rate_has_its_true_load(keep: Keep) -> None:
    windows = mixed()
    row = keep(*windows).hosts(START, START + 31)[0]
    account = merge(windows).accounting
    assert (row["hz"], row["rates"]) == (11, [11, 33, 99])
    assert (row["samples"], row["ticks"], row["lost"], row["missed"]) == (
        account.sampled,
        account.ticks,
        account.lost_total,
        account.missed,
    )
    assert row["lost_by"] == account.lost
    assert row["busy"] == pytest.approx((account.ticks - account.idle) / 99 / 30)
    assert row["cpus"] == pytest.approx(2) and row["windows"] == 3


def test_the_rates_of_a_range_are_those_of_its_windows_alone(keep: Keep) -> None:
    queries = keep(*mixed())
    first = queries.hosts(START, START + 31, START + 10)[0]
    assert (first["hz"], first["rates"], first["windows"]) == (11, [99], 1)
    assert queries.profile(queries.resolve(select("hz=33"))).hz == 33
    silent = queries.hosts(START + 100, START + 131)[0]
    assert (silent["rates"], silent["samples"], silent["busy"], silent["hz"]) == ([], 0, 0.0, 11)


def test_rates_without_a_common_one_are_refused_with_one_to_choose(keep: Keep) -> None:
    base = profile()
    windows = [
        replace(base, hz=hz, accounting=replace(base.accounting, expected=20 * hz), window=Window(at * 10**9, end))
        for hz, at, end in ((997, START, (START + 10) * 10**9), (1009, START + 10, (START + 20) * 10**9))
    ]
    queries = keep(*windows)
    selection = queries.resolve(select())
    for ask in (queries.stack_table, queries.profile, queries.accounted, lambda s: queries.labels(s, "comm")):
        with pytest.raises(MixedRates, match="taken at 997 and 1009 Hz; choose one with q=hz=997"):
            ask(selection)
    assert queries.profile(queries.resolve(select("hz=1009"))).hz == 1009
    row = queries.hosts(START, START + 31)[0]  # these go on being told, to a rounding
    ticks = base.accounting.ticks - base.accounting.idle
    assert row["busy"] == pytest.approx((ticks / 997 + ticks / 1009) / 20)
    assert row["samples"] == pytest.approx(base.accounting.sampled * (1 + 1009 / 997), abs=1)
    assert queries.series(select())[0]["samples"] == row["samples"]


def test_many_rates_are_refused_as_quickly(keep: Keep) -> None:
    base = profile(samples=1)
    queries = keep(*(replace(base, hz=hz) for hz in range(1, 400)))
    with pytest.raises(MixedRates, match="and other rates Hz; choose one with q=hz=1$"):
        queries.profile(queries.resolve(select()))


@pytest.mark.parametrize(
    ("rates", "title"),
    [
        ([99], "99 Hz"),
        ([33, 99], "99 Hz, partly weighed: 33 Hz × 3"),
        ([11, 33, 99], "99 Hz, partly weighed: 11 Hz × 9 and 33 Hz × 3"),
        ([1, 2, 3, 6, 9, 18], "18 Hz, partly weighed: 1 Hz × 18, 2 Hz × 9, 3 Hz × 6 and 2 other rates"),
        ([49, 99], "4,851 Hz, weighed: 49 Hz × 99 and 99 Hz × 49"),
    ],
)
def test_people_read_at_which_rates_it_was_taken(rates: list[int], title: str) -> None:
    assert rates_title(rates) == title


def test_costs_are_by_step_and_per_second_of_sampling(keep: Keep) -> None:
    def window(i: int, hz: int, cost: Cost) -> Profile:
        one = profile(START + 10 * i, seed=i)
        return replace(one, hz=hz, accounting=replace(one.accounting, expected=20 * hz, cost=cost))

    queries = keep(
        window(0, 99, Cost(2_000_000, 1000, 100_000_000, 50, 7)),
        window(1, 33, Cost(4_000_000, 1000, 100_000_000, 60, 5)),
        window(6, 33, Cost()),
    )
    first, second = queries.costs(queries.resolve(select()), 60)
    assert (first["t"], second["t"], first["hz"]) == (START, START + 60, 33)
    assert first["bpf_ns"] == 3000 and second["bpf_ns"] is None
    assert first["agent_cpu"] == pytest.approx(0.01) and first["bpf_cpu"] == pytest.approx(0.0003)
    assert (first["rss_bytes"], first["locked_bytes"]) == (60, 7)


def test_how_stacks_were_walked_is_added_up_whatever_the_paths(keep: Keep) -> None:
    windows = []
    for i, path in enumerate((*HOSTILE, "x" * 5000)):
        one = profile(START + 10 * i, samples=5, seed=i)
        walked = Unwinding(1, 2, {"truncated": 3}, {path: Passage(4, 5, {"truncated": 3}), "/lib/c": Passage(1)})
        windows.append(replace(one, accounting=replace(one.accounting, unwinding=walked)))
    queries = keep(*windows)
    found = queries.profile(queries.resolve(select())).accounting.unwinding
    assert (found.whole, found.unchecked, found.cut) == (11, 22, {"truncated": 33})
    assert found.binaries["/lib/c"] == Passage(11)
    for path in HOSTILE:
        assert found.binaries[path] == Passage(4, 5, {"truncated": 3})
    assert len(found.binaries) == 12 + 2  # an endless path is shortened, to each of its counts' own


def test_an_empty_answer_says_why(keep: Keep) -> None:
    queries = keep()
    with pytest.raises(Empty, match="no profiles yet"):
        queries.resolve(select())
    keep(profile())
    for selection, why in (
        (select("host=nope"), "No profile has host=nope"),
        (select(since=0, until=1), "the newest of"),
        (select("comm=nope"), "no sample in them matches comm=nope"),
    ):
        with pytest.raises(Empty, match=why):
            queries.resolve(selection)


def test_a_host_has_its_load_losses_and_cost(keep: Keep) -> None:
    windows = [profile(START + 10 * i, seed=i) for i in range(3)]
    row = keep(*windows).hosts(START, START + 31)[0]
    a = sum((window.accounting for window in windows), Accounting())
    assert (row["samples"], row["lost"], row["missed"], row["ticks"]) == (a.sampled, 9, a.missed, a.ticks)
    assert row["busy"] == pytest.approx((a.ticks - a.idle) / 99 / 30)
    assert row["cpus"] == pytest.approx(2)
    assert row["last_seen_s"] == pytest.approx(1)
    assert row["bpf_ns"] == pytest.approx(5 / 6) and row["rss_bytes"] == 8


def test_a_series_adds_up_to_the_samples(keep: Keep) -> None:
    windows = [profile(START + 10 * i, host, i) for i in range(12) for host in ("h1", "h2")]
    queries = keep(*windows)
    points = queries.series(select(), by="host")
    assert sum(point["samples"] for point in points) == sum(window.accounting.sampled for window in windows)
    assert {point["host"] for point in points} == {"h1", "h2"}
    assert points[0]["busy"] == pytest.approx(points[0]["samples"] / 99 / 60)


@pytest.mark.parametrize("regex", ["(", "[", "*", "a{2,1}", "\\", "(?<n>x"])
def test_a_bad_regular_expression_is_the_callers_fault(keep: Keep, regex: str) -> None:
    queries = keep(profile())
    with pytest.raises(BadQuery, match="not a regular expression"):
        queries.resolve(select(f"comm=~{regex}"))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ([("from", "yesterday")], "`from` is no time"),
        ([("until", "now+1h")], "`until` is no time"),
        ([("from", "-5")], "is no time"),
        ([("from", "99999999999999999999")], "is no time"),
        ([("from", "inf")], "is no time"),
        ([("from", "2026-13-01T00:00:00Z")], "is no time"),
        ([("from", "now"), ("until", "now")], "earlier"),
        ([("q", "comm")], "no selector"),
        ([("q", "2nd=x")], "no selector"),
        ([("q", "comm=" + "x" * 5000)], "longer than 4,096"),
        ([("host", "x" * 5000)], "longer than 4,096"),
        ([("q", "pid=abc")], "whole number"),
        ([("q", "pid=99999999999")], "whole number"),
        ([("q", f"pid={i}") for i in range(40)], "more than 32"),
    ],
)
def test_a_bad_selector_is_said_in_a_sentence(query: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(BadQuery, match=problem):
        parse(query)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", 1000000),
        ("now-90s", 999910),
        ("now-2h", 992800),
        ("now-1d", 913600),
        ("1234", 1234),
        ("1234.5", 1235),
        ("1700000000", 1700000000),
        ("1700000000000", 1700000000),
        ("1700000000001", 1700000001),
        ("2023-11-14T22:13:20Z", 1700000000),
        ("2023-11-15T00:13:20+02:00", 1700000000),
        ("2023-11-15T00:13:20 02:00", 1700000000),
        ("2023-11-14 22:13:20", 1700000000),
        ("2023-11-14T22:13:20.001Z", 1700000001),
    ],
)
def test_times_are_understood(text: str, seconds: int) -> None:
    assert parse_time(text, "from", 1000000) == seconds
