"""Functions by hour are those of the stacks of the hour, exactly, also when late windows come or a commit is undone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.store import functions
from web.store.queries import Queries
from web.store.selection import Selection, parse_matcher
from web.store.stackcache import StackCache
from web.store.store import Store
from web.store.top import parse_function
from web.store.upkeep import Upkeep, keep_names
from web.store.writer import Names, Writer

from .test_store_writer import push, written

HOUR = 3600
OVER = int(time.time()) // HOUR * HOUR
START = OVER - 40 * HOUR
UNNAMED = Location(0x40, Binary("/bin/x", "ab"), (Frame("[x]", Kind.UNKNOWN),))


def at(number: int, name: str, binary: str = "/bin/x") -> Location:
    return Location(number, Binary(binary, "ab"), (Frame(name, Kind.NATIVE, file=f"{name}.c"),))


def profile(start: int, seed: int, host: str = "h", hz: int = 99, service: str = "") -> Profile:
    main, work, loop, same = at(1, "main"), at(2, "work"), at(3, "loop"), at(4, "main", "/bin/y")
    stacks = (
        (work, main),
        (loop, work, loop, work, main),  # recursion counts once
        (main,),
        (same, main),
        (UNNAMED, main),
        (),
    )
    samples = tuple(
        Sample(stack, 7, "app", "app", 1 + (seed * 7 + i * 3) % 11, service=service if i % 2 else "other")
        for i, stack in enumerate(stacks)
    )
    total = sum(sample.count for sample in samples)
    window = Window(start * 10**9, (start + 10) * 10**9)
    return Profile(host, "cpu-clock", hz, window, samples, Accounting(1980, total + 10, 10, 0, total))


class World:
    def __init__(self, directory: Path) -> None:
        self.store = Store(f"chdb://{directory}/store")
        self.writer = Writer(self.store, interval=0)
        self.upkeep = Upkeep(self.store, self.writer, every=1e6)
        self.queries = Queries(self.store)
        self.sequence = 0

    def push(self, *profiles: Profile) -> None:
        self.sequence += 1
        written(self.writer, push(self.sequence, *profiles))

    def top(self, since: int, until: int, *matchers: str) -> dict[tuple[str, str], tuple[int, int]]:
        selection = Selection(since, until, tuple(parse_matcher(text) for text in matchers))
        top = self.queries.top(self.queries.resolve(selection), limit=1000)
        return {(row["function"], row["binary"]): (row["self"], row["total"]) for row in top.rows}

    def hours(self, since: int = START, until: int = OVER) -> tuple[int, int]:
        return functions.hours_of(self.store, Selection(since, until), self.store.horizon)

    def close(self) -> None:
        self.upkeep.close()
        self.writer.close()
        self.store.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Whichever hour it is when the tests have their turn, OVER was the last to end.
    monkeypatch.setattr(functions, "time", SimpleNamespace(time=lambda: OVER + 300.0, time_ns=time.time_ns))
    world = World(tmp_path)
    yield world
    world.close()


def filled(world: World) -> None:
    for day in range(2):
        profiles = []
        for hour in range(20):
            begin = START + (20 * day + hour) * HOUR
            profiles += [profile(begin + 1800, hour), profile(begin + 3590, hour + 5, "h2", 33, "web")]
        world.push(*profiles)


def test_a_range_of_days_has_the_functions_of_its_stacks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(world)
    ranges = [(START, OVER), (START + 1805, OVER - 10), (START - 86400, OVER + 86400)]
    matchers: list[tuple[str, ...]] = [(), ("host=h",), ("host!=h",), ("hz=33",), ("service=web",), ("process=app",)]
    assert world.hours() == (0, 0)
    by_stacks = {(range_, chosen): world.top(*range_, *chosen) for range_ in ranges for chosen in matchers}
    world.upkeep.once()
    world.upkeep.once()  # a day of hours at a time
    assert world.upkeep.hours == 40
    assert world.hours() == (START, OVER)
    read = functions.read
    asked = 0

    def watch(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return read(*arguments)

    monkeypatch.setattr(functions, "read", watch)
    for (range_, chosen), expected in by_stacks.items():
        assert world.top(*range_, *chosen) == expected, (range_, chosen)
    assert asked == len(ranges) * 4  # not where samples are filtered
    one = Selection(START, OVER)
    rows = world.queries.top(world.queries.resolve(one), wanted=parse_function("~^wo")).rows
    assert [(row["function"], row["file"]) for row in rows] == [("work", "work.c")]
    sums = world.store.rows("SELECT (SELECT sum(self) FROM functions_1h), (SELECT sum(value) FROM samples)").rows[0]
    assert sums[0] == sums[1]


def test_an_hour_is_made_again_when_late_windows_come(world: World) -> None:
    filled(world)
    world.upkeep.once()
    world.upkeep.once()
    late = START + 30 * HOUR
    world.push(profile(late + 60, 3, "late"))
    assert world.hours() == (START, late)  # until then it is read from stacks
    before = world.top(START, OVER)
    world.upkeep.once()
    assert world.upkeep.hours == 41 and world.hours() == (START, OVER)
    assert world.top(START, OVER) == before
    assert world.store.rows("SELECT t, uniqExact(made) AS n FROM functions_1h GROUP BY t HAVING n > 1").rows == []
    world.upkeep.once()
    assert world.upkeep.hours == 41  # nothing to do


def test_an_hour_with_a_commit_under_way_is_put_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(world)
    insert = world.store.insert

    def fail(name: str, *arguments: Any) -> None:
        insert(name, *arguments)
        if name == "samples":
            raise OSError("no space left on device")

    monkeypatch.setattr(world.store, "insert", fail)
    with pytest.raises(Exception, match="cannot be written"):
        world.push(profile(OVER - HOUR + 60, 3))
    monkeypatch.undo()
    world.upkeep.once()
    made = world.store.rows("SELECT toUnixTimestamp(t) FROM function_hours").rows
    assert (OVER - HOUR,) not in made and len(made) == 23
    assert world.store.rows(f"SELECT count() FROM functions_1h WHERE t = toDateTime({OVER - HOUR}, 'UTC')").rows == [
        (0,)
    ]
    world.push(profile(OVER - HOUR + 120, 3))
    world.upkeep.once()
    assert (OVER - HOUR,) in world.store.rows("SELECT toUnixTimestamp(t) FROM function_hours").rows


def test_the_last_hours_get_names_that_came_later(world: World) -> None:
    filled(world)
    world.upkeep.once()
    world.upkeep.once()
    named = replace(UNNAMED, frames=(Frame("found_later", Kind.NATIVE),))
    world.writer.submit(Names([named])).result(60)
    world.upkeep.once()
    names = "SELECT id FROM functions WHERE name = 'found_later'"
    hours = world.store.rows(
        f"SELECT DISTINCT toUnixTimestamp(t) AS at FROM functions_1h WHERE function IN ({names}) ORDER BY at"
    )
    assert [row[0] for row in hours.rows] == [OVER - 3 * HOUR, OVER - 2 * HOUR, OVER - HOUR]
    assert sum(own for own, _ in world.top(START, OVER).values()) == sum(
        own for own, _ in world.top(START, OVER, "process=app").values()
    )


def test_what_expired_with_its_samples_is_made_once(world: World) -> None:
    filled(world)
    world.store.command("ALTER TABLE stacks_1h DELETE WHERE host = 'h2'")  # as nothing does; it cannot be made right
    cache = StackCache(world.store)
    for _ in range(3):
        functions.catch_up(world.store, cache, OVER, renamed=False, stopped=lambda: False)
    assert world.store.rows("SELECT count() FROM function_hours").rows == [(40,)]
    assert world.hours() == (0, 0)  # and no reader takes it for whole


def test_names_of_what_is_still_seen_do_not_expire(world: World) -> None:
    world.push(profile(OVER - HOUR, 1))
    named = replace(UNNAMED, frames=(Frame("found_later", Kind.NATIVE, "", "f.c", 3),))
    gone = Location(0x999, Binary("/bin/gone", "cd"), (Frame("gone", Kind.NATIVE),))
    world.writer.submit(Names([named, gone])).result(60)
    world.store.command("ALTER TABLE names UPDATE seen = today() - 100 WHERE true")
    keep_names(world.store)
    world.store.command("OPTIMIZE TABLE names FINAL")
    rows = world.store.rows("SELECT functions[1], seen = today() FROM names ORDER BY address").rows
    assert rows == [("found_later", True), ("gone", False)]
    keep_names(world.store)
    assert world.store.rows("SELECT count() FROM names").rows == [(2,)]
