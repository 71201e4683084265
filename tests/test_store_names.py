"""Stored profiles get better names and keep their totals: by build id and address, never a poorer name."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from profiler.model import Accounting, Profile, Sample, StackTable, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from web.store.queries import Queries
from web.store.renamed import Renamed
from web.store.rows import Batch, Known
from web.store.selection import Selection, parse_matcher
from web.store.stackcache import StackCache
from web.store.store import Rows, Store, StoreUnavailable
from web.store.writer import Names, Push, Writer, Written

START = int(time.time()) // 3600 * 3600 - 3600
ALWAYS = Selection(0, 0xFFFFFFFF)
LIBC = Binary("/lib/libc.so.6", "c0de")

UNKNOWN = (Frame("[libc.so.6: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS),)
MADE_UP = (Frame("libc.so.6+0x10", Kind.NATIVE, reason=Reason.NO_SYMBOLS),)
NAMED = (Frame("malloc", Kind.NATIVE),)
LINES = (Frame("malloc", Kind.NATIVE, file="malloc.c", line=7),)
INLINED = (Frame("checked", Kind.INLINED, "", "malloc.h", 3), Frame("malloc", Kind.NATIVE, "", "malloc.c", 9))
POORER_TO_BETTER = (UNKNOWN, MADE_UP, NAMED, LINES)


class World:
    """A store with its writer, and what can be asked of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = count()
        self.open()

    def open(self) -> None:
        self.store = Store(f"chdb://{self.directory}/store")
        self.writer = Writer(self.store, interval=0)
        self.queries = Queries(self.store)

    def close(self) -> None:
        self.writer.close()
        self.store.close()

    def push(self, *locations: Location, host: str = "h", agent: str = "agent", start: int = START) -> None:
        """A window with one sample of two ticks for each location."""
        samples = tuple(Sample((location,), 7, "app", "app", 2) for location in locations)
        window = Window(start * 10**9, (start + 10) * 10**9)
        total = 2 * len(samples)
        self.keep(Profile(host, "cpu-clock", 99, window, samples, Accounting(total, total, 0, 0, total)), agent=agent)

    def keep(self, profile: Profile, agent: str = "agent") -> None:
        digest = sha256(repr(profile).encode()).hexdigest()
        push = Push((profile,), digest, agent, "1" if agent else "", next(self.numbers) if agent else 0)
        assert self.writer.submit(push).result(60) is Written.STORED

    def name(self, *locations: Location) -> None:
        assert self.writer.submit(Names(locations)).result(60) is Written.STORED

    def frames(self, host: str = "h") -> list[tuple[Frame, ...]]:
        """The frames of each sample's one location, as a profile that is exported has them."""
        selection = self.queries.resolve(Selection(0, 0xFFFFFFFF, (parse_matcher(f"host={host}"),)))
        return [sample.stack[0].frames for sample in self.queries.profile(selection).samples]

    def locations(self) -> list[Location]:
        profile = self.queries.profile(self.queries.resolve(ALWAYS))
        return [location for sample in profile.samples for location in sample.stack]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def at(frames: tuple[Frame, ...], address: int = 16, binary: Binary | None = LIBC) -> Location:
    return Location(address, binary, frames)


def test_better_names_are_shown_in_windows_that_were_stored_and_asked_for_before(world: World) -> None:
    world.push(at(NAMED))
    assert world.frames() == [NAMED]
    world.name(at(INLINED, binary=Binary("", "c0de")))
    assert world.frames() == [INLINED]
    table, _ = world.queries.stack_table(world.queries.resolve(ALWAYS))
    assert {frame.function for frame in table.frames} == {"app", "malloc", "checked"}
    assert set(table.binaries) == {"", "/lib/libc.so.6"}


@pytest.mark.parametrize("names_first", [False, True])
def test_names_replace_poorer_ones_and_no_others(world: World, names_first: bool) -> None:
    pairs = list(product(range(4), repeat=2))
    old = [at(POORER_TO_BETTER[was], address) for address, (was, _) in enumerate(pairs)]
    new = [
        at((replace(POORER_TO_BETTER[is_][0], function="other"),), address) for address, (_, is_) in enumerate(pairs)
    ]
    for step in ("names", "windows") if names_first else ("windows", "names"):
        world.name(*new) if step == "names" else world.push(*old)
    shown = {location.address: location for location in world.locations()}
    for address, (was, is_) in enumerate(pairs):
        assert shown[address] == (new if is_ > was else old)[address]


def test_of_several_names_the_best_wins_and_among_equals_the_last(world: World) -> None:
    world.push(at(UNKNOWN))
    last = (Frame("malloc", Kind.NATIVE, file="newer.c", line=8),)
    for frames in (NAMED, LINES, last, NAMED, MADE_UP):
        time.sleep(0.002)  # the order of equals is by milliseconds
        world.name(at(frames))
    assert world.frames() == [last]
    world.store.command("OPTIMIZE TABLE names FINAL")
    assert world.store.rows("SELECT count() FROM names").rows == [(1,)]
    world.close()
    world.open()
    assert world.frames() == [last]


def test_within_one_commit_too_the_best_wins_whatever_the_order() -> None:
    for order in ((LINES, NAMED), (NAMED, LINES)):
        batch = Batch(1, datetime.now(UTC), Known())
        for frames in order:
            batch.rename(at(frames))
        rows = batch.name_rows(5)
        assert rows["lines"] == [[7]] and rows["version"] == [3 << 56 | 5]


def test_names_sent_again_change_nothing(world: World) -> None:
    world.push(at(NAMED))
    for _ in range(3):
        world.name(at(INLINED), at(INLINED, 32))
    assert world.frames() == [INLINED]
    world.store.command("OPTIMIZE TABLE names FINAL")
    assert world.store.rows("SELECT count() FROM names").rows == [(2,)]


@pytest.mark.parametrize(
    "binary",
    [Binary("/lib/libc.so.6", "beef"), Binary("/lib/libc.so.6", ""), None, Binary("/lib/libc.so.6", "content:c0de")],
)
def test_another_file_keeps_its_names(world: World, binary: Binary | None) -> None:
    world.push(at(NAMED, binary=binary), at(UNKNOWN, 32))
    world.name(at(INLINED), at(INLINED, binary=Binary("", "")), at(INLINED, binary=None))
    assert Counter(world.frames()) == Counter([NAMED, UNKNOWN])


@pytest.mark.parametrize(
    "binary", [Binary("/srv/x", "content:12ab"), Binary("[kernel]", "abcd"), Binary("[nf_tables]", "ef")]
)
def test_content_ids_and_the_kernels_build_ids_are_build_ids(world: World, binary: Binary) -> None:
    world.push(at(UNKNOWN, binary=binary))
    world.name(at(LINES, binary=replace(binary, path="")))
    assert world.frames() == [LINES]


def test_an_absolute_kernel_address_is_never_named_later(world: World) -> None:
    kernel = Binary("[kernel]", "abcd")
    world.push(at(UNKNOWN, 0xFFFFFFFF81000010, kernel))
    world.name(at(LINES, 0xFFFFFFFF81000010, kernel))
    assert world.frames() == [UNKNOWN]


def test_a_later_window_with_lines_names_older_ones_of_other_hosts(world: World) -> None:
    world.push(at(UNKNOWN), host="stripped")
    world.push(at(NAMED), host="plain", start=START + 10)
    world.push(at(INLINED, binary=Binary("/container/libc.so.6", "c0de")), host="debug", start=START + 20)
    assert world.frames("stripped") == world.frames("plain") == world.frames("debug") == [INLINED]


def test_a_window_without_lines_adds_no_names(world: World) -> None:
    world.push(at(UNKNOWN), host="stripped")
    world.push(at(NAMED), at(INLINED, 32, None), host="plain")
    assert world.store.rows("SELECT count() FROM names").rows == [(0,)]
    assert world.frames("stripped") == [UNKNOWN]


def test_addresses_of_other_profilers_are_not_taken_for_ours(world: World) -> None:
    world.push(at(UNKNOWN), at(INLINED, 32), host="theirs", agent="")
    world.push(at(UNKNOWN), at(UNKNOWN, 32), host="ours")
    world.name(at(LINES))
    assert Counter(world.frames("theirs")) == Counter([UNKNOWN, INLINED])
    assert Counter(world.frames("ours")) == Counter([LINES, UNKNOWN])


def test_names_that_are_no_utf8_are_kept(world: World) -> None:
    binary = Binary("/lib/\udcff.so", "content:\udcff")
    world.push(at(UNKNOWN, binary=binary))
    assert world.frames() == [UNKNOWN]
    world.name(at((Frame("'; DROP TABLE names; --\0\udcfe", Kind.NATIVE),), binary=binary))
    assert [frames[0].function for frames in world.frames()] == ["'; DROP TABLE names; --\0\\udcfe"]


# ------------------------------------------------------------------------------------ totals


def answers(queries: Queries) -> list[Any]:
    """Everything that is counted, each number by what it is of."""
    found: list[Any] = [queries.hosts(0, now=0.0)]
    for matchers in ((), ("comm=node",), ("service=shop", "pid!=2"), ("comm!=node", "host=h1")):
        selection = queries.resolve(Selection(0, 0xFFFFFFFF, tuple(map(parse_matcher, matchers))))
        table, overview = queries.stack_table(selection)
        profile = queries.profile(selection)
        accounting = overview.accounting
        assert accounting.closes
        assert int(table.counts.sum()) == accounting.sampled == sum(sample.count for sample in profile.samples)
        frames = accounting.frames_named + sum(accounting.frames_unknown.values())
        if selection.filters_samples:  # then frames are counted as they are named now
            assert frames == sum(s.count * len(location.frames) for s in profile.samples for location in s.stack)
            accounting = replace(accounting, frames_named=0, frames_unknown={})
        threads: Counter[tuple[int, str, str, str, str]] = Counter()
        depths: Counter[tuple[int, ...]] = Counter()
        for sample in profile.samples:
            threads[sample.pid, sample.process, sample.thread, sample.service, sample.container] += sample.count
            depths[tuple(location.address for location in sample.stack)] += sample.count
        found += [accounting, overview.windows, threads, depths, processes(table), len(table.counts)]
        found.append(queries.labels(selection, "comm"))
    return [*found, queries.series(ALWAYS, "process")]


def processes(table: StackTable) -> Counter[str]:
    """Counts by the frame that each stack stands on."""
    counted: Counter[str] = Counter()
    for start, weight in zip(table.offsets[:-1].tolist(), table.counts.tolist(), strict=True):
        counted[table.frames[int(table.index[start])].function] += weight
    return counted


def some_frames(r: random.Random) -> tuple[Frame, ...]:
    return r.choice(
        [
            UNKNOWN,
            MADE_UP,
            (Frame(f"f{r.randrange(9)}", Kind.NATIVE),),
            (Frame(f"f{r.randrange(9)}", Kind.NATIVE, "", "f.c", r.randrange(9)),),
            tuple(Frame(f"i{i}", Kind.INLINED, "", "i.h", i) for i in range(r.randrange(1, 4))) + NAMED,
        ]
    )


def some_window(r: random.Random, number: int, host: str) -> Profile:
    known = [
        Location(r.randrange(30), r.choice([LIBC, Binary("/bin/x", "1234"), Binary("/bin/y"), None]), some_frames(r))
        for _ in range(80)
    ]
    samples = tuple(
        Sample(
            tuple(r.choices(known, k=r.choice([0, 1, 6, 20]))),
            r.randint(1, 4),
            r.choice(["nginx", "node"]),
            r.choice(["nginx", "worker"]),
            r.randint(1, 9),
            r.choice(["", "shop"]),
        )
        for _ in range(40)
    )
    total = sum(sample.count for sample in samples)
    window = Window((START + 10 * number) * 10**9, (START + 10 * number + 10) * 10**9)
    accounting = Accounting(1980, total + 1003, 1000, 0, total, {"counts map full": 3}, 17 * number, {"no mapping": 4})
    return Profile(host, "cpu-clock", r.choice([33, 99]), window, samples, accounting)


@pytest.mark.parametrize("seed", range(2))
def test_no_names_ever_change_a_total(world: World, seed: int) -> None:
    r = random.Random(seed)
    for number in range(4):
        world.keep(some_window(r, number, f"h{number % 2}"))
    before = answers(world.queries)
    names_before = Counter(location.frames for location in world.locations())
    for _ in range(2):
        world.name(
            *[
                Location(r.randrange(30), r.choice([LIBC, Binary("", "1234"), Binary("", "no such")]), some_frames(r))
                for _ in range(40)
            ]
        )
        assert answers(world.queries) == before
    assert Counter(location.frames for location in world.locations()) != names_before


# ------------------------------------------------------------------------------------ the commit


@pytest.mark.parametrize("when", ["before", "after"])
def test_names_that_cannot_be_written_are_not_acknowledged_and_can_be_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    world.push(at(NAMED))
    insert = world.store.insert

    def fail(table: str, *arguments: Any) -> None:
        if when == "after":
            insert(table, *arguments)
        raise OSError("no space left on device")

    monkeypatch.setattr(world.store, "insert", fail)
    with pytest.raises(StoreUnavailable):
        world.writer.submit(Names([at(LINES)])).result(60)
    monkeypatch.undo()
    world.name(at(LINES))
    assert world.frames() == [LINES]
    assert world.writer.figures.failed == 0  # no push


def test_names_take_no_batch_and_no_push(world: World) -> None:
    world.push(at(NAMED))
    horizon = world.store.horizon
    world.name(at(LINES))
    assert world.store.horizon == horizon
    assert world.store.rows("SELECT count() FROM pushes").rows == [(1,)]
    assert world.writer.figures.names == 1 and world.writer.figures.stored == 1


def test_windows_and_names_that_wait_together_are_one_commit(tmp_path: Path) -> None:
    store = Store(f"chdb://{tmp_path}/store")
    writer = Writer(store, interval=30)
    profile = some_window(random.Random(1), 0, "h")
    waiting = [
        writer.submit(Names([at(LINES)])),
        writer.submit(Push((profile,), "a", "agent", "1", 1)),
        writer.submit(Names([at(LINES, 32)])),
        writer.submit(Push((profile,), "a", "agent", "1", 1)),
    ]
    writer.close()
    stored = Written.STORED
    assert [done.result(0) for done in waiting] == [stored, stored, stored, Written.DUPLICATE]
    assert writer.figures.commits == 1
    store.close()


# ------------------------------------------------------------------------------------ what is kept in memory


def stack_ids(world: World) -> NDArray[np.uint64]:
    return np.array([row[0] for row in world.store.rows("SELECT id FROM stacks ORDER BY id").rows], np.uint64)


def frames_in(cache: StackCache, ids: NDArray[np.uint64]) -> list[tuple[Frame, ...]]:
    """The frames of stacks of one location each, by address: as locations, and checked against those kept by stack."""
    stacks = cache.get(ids)
    locations = [stacks.known[number] for number in stacks.locations.packed()[0].tolist()]
    flat, offsets = stacks.frames.packed()
    for i, location in enumerate(locations):
        numbers = flat[offsets[i] : offsets[i + 1]].tolist()
        assert tuple(reversed([stacks.frame_list[number] for number in numbers])) == location.frames
    return [location.frames for location in sorted(locations, key=lambda location: location.address)]


def test_names_that_come_while_a_question_is_answered_are_shown_in_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.push(at(NAMED))
    stacks = stack_ids(world)
    cache = StackCache(world.store)
    rows = world.store.rows
    answered = 0

    def slow(sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        nonlocal answered
        found = rows(sql, parameters)
        if "FROM names" in sql and not answered:
            answered += 1
            world.name(at(LINES))
            cache.get(stacks[:0])  # another question, that hears of it first
        return found

    monkeypatch.setattr(world.store, "rows", slow)
    assert frames_in(cache, stacks) == [NAMED] and answered
    assert frames_in(cache, stacks) == [LINES]


def test_only_what_was_renamed_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.push(at(NAMED), at(NAMED, 32))
    ids = [row[0] for row in world.store.rows("SELECT id FROM frames ORDER BY address").rows]
    stacks, cache = stack_ids(world), StackCache(world.store)
    kept = cache.get(stacks)
    asked: list[list[int]] = []
    rows = world.store.rows

    def watched(sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        if "FROM frames" in sql:
            asked.append((parameters or {})["ids"])
        return rows(sql, parameters)

    monkeypatch.setattr(world.store, "rows", watched)
    world.name(at(LINES, 32), at(LINES, 48))
    assert frames_in(cache, stacks) == [NAMED, LINES]
    assert asked == [ids[1:]]
    assert frames_in(cache, stacks) == [NAMED, LINES]
    assert len(asked) == 1
    # Whoever had asked before goes on with what was given out.
    assert [frame.line for frame in (kept.frame_list[i] for i in kept.frames.packed()[0].tolist())] == [0, 0]


def test_what_was_renamed_too_long_ago_to_be_known_is_said() -> None:
    renamed = Renamed(limit=3)
    for address in range(4):
        renamed.add([("ab", address)])
    assert renamed.number == 4
    assert renamed.since(4) == (4, frozenset())
    assert renamed.since(2) == (4, frozenset({("ab", 2), ("ab", 3)}))
    assert renamed.since(1) == (4, frozenset({("ab", 1), ("ab", 2), ("ab", 3)}))
    assert renamed.since(0) == (4, None)
    renamed.add([("ab", address) for address in range(9)])
    assert renamed.since(4) == (5, None) and renamed.since(5) == (5, frozenset())


def test_a_reader_that_fell_behind_shows_the_best_names_all_the_same(world: World) -> None:
    world.store.renamed = Renamed(limit=1)
    world.push(at(NAMED))
    assert world.frames() == [NAMED]
    world.name(at(LINES))
    world.name(at(LINES, 32), at(LINES, 48))
    assert world.frames() == [LINES]
