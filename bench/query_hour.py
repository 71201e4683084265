"""One host, one hour: from the store to the picture, against SQLite and a merge in Python dicts.

360 windows of 1,000 rows with stacks 30 deep go through the real writer. Then the same rows are asked for
from both: here sums in SQL, arrays, a tree and an SVG; there the same sums in SQL and a tree of dicts,
without a picture. Both start from the same totals, which are compared. Prints milliseconds and the ratio; and what
the query takes once every location was given better names, with lines.

    python bench/query_hour.py [--windows 360] [--rows 1000]
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from profiler.model import Accounting, Profile, Sample, Window, bases
from symbolizer.types import Binary, Frame, Kind, Location
from web.exports import caption
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import write_svg
from web.store.queries import Queries
from web.store.selection import Selection
from web.store.store import Store
from web.store.writer import Busy, Names, Push, Writer

DEPTH = 30
DISTINCT = 20_000


def stacks(r: random.Random) -> list[tuple[str, int, tuple[Location, ...]]]:
    """Distinct stacks as programs have them: each leaves another one of its process at some depth."""

    def location(binary: str, number: int) -> Location:
        frames = [Frame(f"{binary}::function_{number}", Kind.NATIVE)]
        if number % 10 == 0:
            frames.insert(0, Frame(f"{binary}::inlined_{number}", Kind.INLINED))
        build_id = blake2b(binary.encode(), digest_size=20).hexdigest()
        return Location(number * 16, Binary(f"/usr/lib/{binary}", build_id), tuple(frames))

    libc = [location("libc.so.6", number) for number in range(300)]
    processes = [
        (f"process-{i}", [*(location(f"process-{i}", number) for number in range(400)), *libc]) for i in range(20)
    ]
    paths: dict[str, list[list[Location]]] = {name: [[places[0]]] for name, places in processes}
    made = []
    for i in range(DISTINCT):
        name, places = processes[int(r.paretovariate(1)) % len(processes)]
        other = r.choice(paths[name])
        path = other[: r.randint(len(other) * 2 // 3, len(other))]
        length = max(len(path) + 1, int(r.gauss(DEPTH, 8)))
        path = path + r.choices(places, k=length - len(path))
        paths[name].append(path)
        made.append((name, 1000 + i % 97, tuple(reversed(path))))
    return made


def windows(count: int, rows: int, start: int) -> list[Profile]:
    r = random.Random(7)
    known = stacks(r)
    weights = [1 / (1 + i % 2000) for i in range(len(known))]
    made = []
    for number in range(count):
        samples = tuple(
            Sample(stack, pid, process, process if pid % 3 else "worker", 1 + int(r.paretovariate(2)))
            for process, pid, stack in r.choices(known, weights, k=rows)
        )
        total = sum(sample.count for sample in samples)
        begin = start + 10 * number
        window = Window(begin * 10**9, (begin + 10) * 10**9)
        made.append(Profile("host", "cpu-clock", 99, window, samples, Accounting(total, total, 0, 0, total)))
    return made


def submit(writer: Writer, push: Push) -> None:
    """Waits while the queue is full, as an agent does."""
    while True:
        try:
            writer.submit(push)
            return
        except Busy:
            time.sleep(0.01)


def better(profiles: list[Profile]) -> list[Location]:
    """Every location of the profiles with a line for each of its frames."""
    known = {id(location): location for profile in profiles for sample in profile.samples for location in sample.stack}
    return [
        replace(location, frames=tuple(replace(frame, file="source.c", line=1) for frame in location.frames))
        for location in known.values()
    ]


def median(run: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Milliseconds of the middle one of several runs after a first one, and what the last one gave."""
    result = run()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        result = run()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken), result


def fill_sqlite(path: Path, profiles: list[Profile]) -> sqlite3.Connection:
    """The same rows: samples by time and stack, and each stack's folded frames."""
    peer = sqlite3.connect(path)
    peer.execute("CREATE TABLE samples (ts INT, host TEXT, stack INT, value INT)")
    peer.execute("CREATE TABLE stacks (id INTEGER PRIMARY KEY, folded TEXT)")
    ids: dict[str, int] = {}
    for profile in profiles:
        for sample in profile.samples:
            names = [name for name, _ in bases(sample.process, sample.thread)]
            names += [frame.function for place in reversed(sample.stack) for frame in reversed(place.frames)]
            stack = ids.setdefault(";".join(names), len(ids))
            row = (profile.window.start_ns // 10**9, profile.host, stack, sample.count)
            peer.execute("INSERT INTO samples VALUES (?, ?, ?, ?)", row)
    peer.executemany("INSERT INTO stacks VALUES (?, ?)", [(number, text) for text, number in ids.items()])
    peer.execute("CREATE INDEX by_time ON samples (host, ts, stack, value)")
    peer.commit()
    return peer


def merge_in_dicts(peer: sqlite3.Connection, since: int, until: int) -> int:
    """The peer: sums by stack in SQL, then a tree of dicts; gives its total."""
    tree: list[Any] = [{}, 0]
    for folded, value in peer.execute(
        "SELECT folded, v FROM (SELECT stack, sum(value) AS v FROM samples"
        " WHERE host = 'host' AND ts >= ? AND ts < ? GROUP BY stack) JOIN stacks ON id = stack",
        (since, until),
    ):
        node = tree
        node[1] += value
        for name in folded.split(";"):
            child = node[0].get(name)
            if child is None:
                child = node[0][name] = [{}, 0]
            child[1] += value
            node = child
    return int(tree[1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--windows", type=int, default=360)
    arguments.add_argument("--rows", type=int, default=1000)
    arguments.add_argument("--times", type=int, default=5)
    asked = arguments.parse_args()
    start = int(time.time()) // 3600 * 3600 - 7200
    until = start + 10 * asked.windows
    profiles = windows(asked.windows, asked.rows, start)
    with tempfile.TemporaryDirectory() as directory:
        store = Store(f"chdb://{directory}/store")
        writer = Writer(store, interval=0)
        began = time.perf_counter()
        for number, profile in enumerate(profiles):
            submit(writer, Push([profile], str(number), "agent", "1", number))
        writer.close()
        took = time.perf_counter() - began
        figures = writer.figures
        print(
            f"ingest   {figures.samples:,} rows of {figures.windows} windows, {figures.stacks:,} stacks,"
            f" {figures.commits} commits: {figures.samples / took:,.0f} rows/s"
        )
        store.command("OPTIMIZE TABLE samples FINAL")
        size = store.rows(
            "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts"
            " WHERE active AND database = 'pilotlight' AND table = 'samples'"
        ).rows[0][0]
        print(f"store    {size:.2f} bytes a sample row, {store.bytes_on_disk() / 1e6:.1f} MB in all")
        queries = Queries(store)
        selection = Selection(start, until)
        cold_began = time.perf_counter()
        queries.stack_table(queries.resolve(selection))
        cold = 1000 * (time.perf_counter() - cold_began)
        selection = queries.resolve(selection)
        query, (table, overview) = median(lambda: queries.stack_table(selection), asked.times)
        merge, tree = median(lambda: build_tree(table), asked.times)
        draw, svg = median(lambda: write_svg(tree, caption(overview, selection), script_href="/x"), asked.times)
        peer = fill_sqlite(Path(directory) / "peer.db", profiles)
        other, total = median(lambda: merge_in_dicts(peer, start, until), asked.times)
        assert total == overview.accounting.sampled == int(tree.total[0])
        print(f"here     query {query:.0f} ms (first time {cold:.0f} ms), tree {merge:.0f} ms, SVG {draw:.0f} ms")
        print(f"         {len(table.counts):,} stacks, {len(tree):,} nodes, {len(svg) / 1e6:.1f} MB of SVG")
        print(f"peer     SQLite and dicts, without a picture: {other:.0f} ms")
        writer = Writer(store, interval=0)
        renamed = better(profiles)
        writer.submit(Names(renamed)).result()
        writer.close()
        once_began = time.perf_counter()
        queries.stack_table(selection)
        once = 1000 * (time.perf_counter() - once_began)
        again, (table, _) = median(lambda: queries.stack_table(selection), asked.times)
        assert int(table.counts.sum()) == total
        print(f"named    {len(renamed):,} locations again: query {again:.0f} ms (first time {once:.0f} ms)")
        print(f"ratio    {other / (query + merge):.1f} x faster to the tree; picture in {query + merge + draw:.0f} ms")
        store.close()
        peer.close()


if __name__ == "__main__":
    main()
