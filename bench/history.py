"""A fleet's history: ingest as agents push, then questions about it, cold and warm, and what it takes on the disk.

Every host and hour has a working set of 1,200 stacks of each of six services, out of 20,000 that a service has, thirty
frames deep with functions on several lines; a window holds 304 rows of it. The stacks and some windows go through the
real ingest path; the other windows are made in the engine, so that all tables have what they would have. Each question
is asked for 1, 10 and 50 hosts and 1, 6 and 24 hours, from the selection to the call tree of a picture.

Beside it: the schema that Coroot publishes for profiles, with the same samples of one hour (ORDER BY service, type and
time; a stack's names in one row), and a merge in Python dicts of the same sums as the whole fleet's.

    python bench/history.py [--hosts 50] [--hours 24] [--times 5] [--keep DIR] [--small]

50 hosts and 24 hours take some 600 MB of disk and a quarter of an hour, which is nearly all for making them: with
--keep, they are kept in DIR, and only the questions are asked the next time. Times are of the wall clock; the CPU's are
beside them where it differs, as on a machine that others use.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from profiler.formats.otlp import PushIdentity, read_otlp, write_otlp
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location
from web.ingest import decompress
from web.store.queries import Queries
from web.store.rows import FRAMES, LABEL_SETS, STACKS, Batch, Known
from web.store.selection import Matcher, Selection
from web.store.store import Store
from web.store.top import parse_function
from web.store.writer import Busy, Push, Writer

SERVICES, STACKS_EACH, WORKING_SET, ROWS = 20, 20_000, 1_200, 304
PICTURE = 300_000
TEN_MINUTES = 600


@dataclass(frozen=True, slots=True)
class Size:
    hosts: int
    hours: int
    stacks: int
    start: int


def locations(binary: str, functions: int, kind: Kind) -> list[Location]:
    """Three lines of every function, some with another one inlined."""
    build_id = blake2b(binary.encode(), digest_size=20).hexdigest()
    made = []
    for number in range(functions):
        for line in range(3):
            frames = [Frame(f"{binary}::function_{number}", kind, "", f"{binary}.cc", 10 * number + line)]
            if number % 10 == 0:
                frames.insert(0, Frame(f"{binary}::inlined_{number}", Kind.INLINED, "", f"{binary}.h", number))
            made.append(Location(64 * number + line, Binary(f"/usr/lib/{binary}", build_id), tuple(frames)))
    return made


def stacks_of(service: int, count: int, shared: list[Location], kernel: list[Location]) -> list[tuple[Location, ...]]:
    """Distinct stacks as programs have them: each leaves another one at some depth; some end in the kernel."""
    r = random.Random(service)
    own = [*locations(f"service-{service}", 1300, Kind.NATIVE), *shared]
    paths, made = [[own[0]]], []
    for number in range(count):
        other = r.choice(paths)
        path = other[: r.randint(len(other) * 2 // 3, len(other))]
        path = path + r.choices(own, k=max(len(path) + 1, int(r.gauss(30, 8))) - len(path))
        paths.append(path)
        tail = r.choices(kernel, k=r.randint(3, 10)) if number % 4 == 0 else []
        made.append(tuple(reversed(path + tail)))
    return made


def samples_of(service: int, stacks: Sequence[tuple[Location, ...]]) -> list[Sample]:
    name = f"service-{service}"
    threads = [name if i % 3 else f"worker-{i % 7}" for i in range(len(stacks))]
    return [Sample(s, 1, name, t, 1, f"svc-{service}", "") for s, t in zip(stacks, threads, strict=True)]


def window(start: int, host: str, samples: Sequence[Sample]) -> Profile:
    total = sum(sample.count for sample in samples)
    frames = sum(sample.count * len(sample.stack) for sample in samples)
    accounting = Accounting(3960, 3960, 3960 - total, 0, total, {}, frames)
    labels = {"region": "eu"}
    span = Window(start * 10**9, (start + 10) * 10**9)
    return Profile(host, "cpu-clock", 99, span, tuple(samples), accounting, labels)


def ingest(store: Store, known: Sequence[Sequence[Sample]], start: int, pushes: int) -> None:
    """Bodies as agents send them, through parsing and the writer: one by one, then as they queue up together."""
    r = random.Random(1)
    for name, interval, together in (("per push", 0.0, False), ("batched", 1.0, True)):
        bodies = []
        for i in range(pushes):
            services = r.sample(range(SERVICES), 6)
            chosen = [replace(s, count=1 + i % 5) for n in services for s in r.choices(known[n][:400], k=ROWS // 6)]
            profile = window(start + 10 * i + 100_000 * together, "ingest", chosen)
            bodies.append(gzip.compress(write_otlp(profile, PushIdentity(f"agent-{name}", 1, i)), 1))
        writer = Writer(store, interval)
        began, cpu = time.perf_counter(), time.process_time()
        waiting = []
        for i, body in enumerate(bodies):
            received = read_otlp(decompress(body, "gzip", 64 << 20), "")
            push = Push(received.profiles, sha256(body).hexdigest(), f"agent-{name}", "1", i)
            while True:
                try:
                    waiting.append(writer.submit(push))
                    break
                except Busy:
                    time.sleep(0.01)
            if not together:
                waiting[-1].result(60)
        for done in waiting:
            done.result(60)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        rows = writer.figures.samples
        commits = writer.figures.commits
        writer.close()
        print(
            f"ingest   {name}: {rows:,} rows of {pushes} windows in {commits} commits: {rows / took:,.0f} rows/s,"
            f" {1e6 * cpu / rows:.1f} µs of CPU a row",
            flush=True,
        )


def fill(store: Store, size: Size) -> None:
    """Everything that agents would have sent: stacks by the writer's own rows, samples and windows in the engine."""
    began = time.perf_counter()
    shared, kernel = locations("libc.so.6", 300, Kind.NATIVE), locations("[kernel]", 700, Kind.KERNEL)
    number = store.horizon + 1
    batch = Batch(number, datetime.now(UTC), Known())
    known = []
    for service in range(SERVICES):
        samples = samples_of(service, stacks_of(service, size.stacks, shared, kernel))
        batch.add(replace(window(size.start, "made", samples), labels={"region": "eu"}), ("agent", "1", 1, ""))
        known.append(samples)
    for table, columns in ((FRAMES, batch.frames), (STACKS, batch.stacks), (LABEL_SETS, batch.label_sets)):
        store.insert(table.name, list(columns), list(table.types.values()), list(columns.values()))
    types = ["UInt32", "UInt64", "LowCardinality(String)", "LowCardinality(String)"]
    store.command(
        "CREATE TABLE made (n UInt32, stack UInt64, process LowCardinality(String), thread LowCardinality(String))"
        " ENGINE = Join(ANY, LEFT, n)"
    )
    made = batch.samples
    rows = [list(range(len(made["stack"]))), made["stack"], made["process"], made["thread"]]
    store.insert("made", ["n", "stack", "process", "thread"], types, rows)
    labels = batch.label_sets["id"][0]
    print(
        f"made     {len(made['stack']):,} stacks of {len(batch.new_locations):,} locations"
        f" in {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    ingest(store, known, size.start - 2 * 86400, 200)
    number = store.horizon + 1
    began = time.perf_counter()
    for at in range(size.start, size.start + 3600 * size.hours, TEN_MINUTES):
        store.command(
            "INSERT INTO samples (ts, host, event, hz, label_set, service, container, cpu_kind, pid, process, thread,"
            " stack, value, batch)"
            f" SELECT toDateTime({at} + 10 * intDiv(w, {size.hosts}), 'UTC'),"
            " concat('host-', leftPad(toString(h), 3, '0')), 'cpu-clock', 99, if(h % 2 = 0, {labels:UInt64}, 0),"
            " concat('svc-', toString(s)), concat('c', toString(s), '-', toString(h)),"
            " arrayElement(['AMD EPYC 7763', 'Intel(R) Xeon(R) Platinum 8488C', 'Arm Neoverse-N1'], 1 + h % 3),"
            " 1000 + 10 * s + if(s % 3 = 0, rand(3) % 4, 0),"
            " joinGet('made', 'process', n), joinGet('made', 'thread', n), joinGet('made', 'stack', n),"
            f" 1 + toUInt64(floor(1 / (0.03 + randCanonical(2)) - 0.97)), {number} FROM"
            f" (SELECT intDiv(number, {ROWS}) AS w, w % {size.hosts} AS h, (h * 7 + rand(1) % 6 * 3) % {SERVICES} AS s,"
            f" sipHash64(h, s, {at // 3600}, toUInt32(floor({WORKING_SET} * pow(randCanonical(4), 3)))) AS one,"
            f" toUInt32(s * {size.stacks} + floor({size.stacks} * pow((one % 1000003) / 1000003, 2))) AS n"
            f" FROM numbers({size.hosts * TEN_MINUTES // 10 * ROWS})) SETTINGS max_execution_time = 0",
            {"labels": labels},
        )
    walked = ", ".join(f"'table\t/usr/lib/service-{s}', toUInt64(sum(value) * 25)" for s in range(12))
    for at in range(size.start, size.start + 3600 * size.hours, 3600):
        store.command(
            "INSERT INTO windows (ts, start_ns, end_ns, received, host, event, hz, label_set, labels, agent, epoch,"
            " sequence, expected, ticks, idle, sampled, frames_named, unwinding, batch)"
            " SELECT ts, 1000000000 * toUInt64(toUnixTimestamp(ts)), 1000000000 * toUInt64(toUnixTimestamp(ts) + 10),"
            " ts + 12, host, event, hz,"
            " label_set, if(label_set = 0, map(), map('region', 'eu')), host, '1', toUnixTimestamp(ts), 3960, 3960,"
            f" 3960 - sum(value), sum(value), sum(value) * 30, map('whole', toUInt64(sum(value)), {walked}), {number}"
            f" FROM samples WHERE batch = {number} AND toStartOfHour(ts) = toDateTime({at}, 'UTC')"
            " GROUP BY ts, host, event, hz, label_set SETTINGS max_execution_time = 0"
        )
    store.command(
        "INSERT INTO pushes (agent, epoch, sequence, sha256, received, batch)"
        f" VALUES ('made', '1', 1, '', now(), {number})"
    )
    store.horizon = number
    store.command("DROP TABLE made")
    for name in ("samples", "stacks_1h", "series_1m", "windows"):
        store.command(f"OPTIMIZE TABLE {name} FINAL SETTINGS max_execution_time = 0")
    count = size.hosts * size.hours * 360 * ROWS
    print(f"filled   {count:,} rows in {time.perf_counter() - began:.0f} s", flush=True)


def tell_sizes(store: Store) -> None:
    for found in store.sizes():
        each = found.bytes / max(found.rows, 1)
        print(f"disk     {found.name}: {found.rows:,} rows, {found.bytes / 1e6:.1f} MB, {each:.2f} bytes a row")


def timed(run: Callable[[], Any], times: int) -> tuple[float, float, Any]:
    """Milliseconds of the middle one of several runs, those of CPU of the same one, and what the last one gave."""
    taken = []
    result = None
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        result = run()
        taken.append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - cpu)))
    return *statistics.median_low(taken), result


def memory(name: str) -> int:
    """VmRSS or VmHWM of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) // 1024
    return 0


def some_hosts(count: int, of: int) -> tuple[Matcher, ...]:
    if count == of:
        return ()
    if count == 1:
        return (Matcher("host", "=", "host-007" if of > 7 else "host-000"),)
    return (Matcher("host", "=~", "|".join(f"host-{i:03}" for i in range(count))),)


def ask(store: Store, size: Size, times: int) -> None:
    end = size.start + 3600 * size.hours
    print("         hosts hours   rows        stacks     first     warm  (CPU)   ms from the selection to the tree")
    for hosts in sorted({1, min(10, size.hosts), size.hosts}):
        for hours in sorted({1, min(6, size.hours), size.hours}):
            matchers = (*some_hosts(hosts, size.hosts), Matcher("event", "=", "cpu-clock"))
            selection = Selection(end - 3600 * hours, end, matchers)
            queries = Queries(store)

            def run(queries: Queries = queries, selection: Selection = selection) -> Any:
                return queries.tree(queries.resolve(selection), (), PICTURE)

            store.command("SYSTEM DROP MARK CACHE")
            cold, _, _ = timed(run, 1)
            warm, cpu, (tree, overview) = timed(run, times)
            sums, stacks, _ = queries._summed(queries.resolve(selection))
            assert int(tree.total[0]) == overview.accounting.sampled == sums.total
            rows = hosts * hours * 360 * ROWS
            print(
                f"tree     {hosts:5} {hours:5} {rows:12,} {len(stacks.ids):9,} {cold:9.0f} {warm:8.0f} ({cpu:.0f})",
                flush=True,
            )
    print(f"memory   {memory('VmRSS')} MB now, {memory('VmHWM')} MB at most, the filling included")
    whole = queries.resolve(Selection(size.start, end, (Matcher("event", "=", "cpu-clock"),)))
    half = (whole.since + whole.until) // 2
    one = replace(whole, since=end - 3600, matchers=(*some_hosts(1, size.hosts), *whole.matchers))
    ragged = replace(one, since=one.since - 1800, until=one.until - 1800)
    name = parse_function("service-3::function_7")
    for title, question in (
        ("one host, an hour that begins at half past", lambda: queries.tree(ragged, (), PICTURE)),
        ("all, by a label that users gave", lambda: queries.tree(whole.also("region", "eu"), (), PICTURE)),
        ("all, one service", lambda: queries.tree(whole.also("service", "svc-3"), (), PICTURE)),
        ("all, top functions", lambda: queries.top(whole)),
        ("all, who runs a function", lambda: queries.who(whole, name)),
        ("all, by minute and service", lambda: queries.series(whole, "service")),
        ("one host, by 10 s", lambda: queries.series(one, "", 10)),
        ("all, values of process", lambda: queries.labels(whole, "process")),
        (
            "all, the second half against the first",
            lambda: (queries.stack_table(replace(whole, until=half)), queries.stack_table(replace(whole, since=half))),
        ),
    ):
        first, _, _ = timed(question, 1)
        warm, cpu, _ = timed(question, max(times // 2, 1))
        print(f"ask      {title}: {first:.0f} ms first, {warm:.0f} ms warm ({cpu:.0f})", flush=True)


def peers(store: Store, size: Size, times: int) -> None:
    """The last hour in Coroot's schema; and everything merged in Python dicts."""
    end = size.start + 3600 * size.hours
    hour = f"ts >= toDateTime({end - 3600}, 'UTC') AND ts < toDateTime({end}, 'UTC') AND host LIKE 'host-%'"
    z = "CODEC(ZSTD(1))"
    for name in ("coroot_samples", "coroot_stacks"):
        store.command(f"DROP TABLE IF EXISTS {name}")
    store.command(
        f"CREATE TABLE coroot_samples (ServiceName LowCardinality(String) {z}, Type LowCardinality(String) {z},"
        " Start DateTime64(9) CODEC(Delta, ZSTD(1)), End DateTime64(9) CODEC(Delta, ZSTD(1)),"
        f" Labels Map(LowCardinality(String), String) {z}, StackHash UInt64 {z}, Value Int64 {z})"
        " ENGINE = MergeTree PARTITION BY toDate(Start)"
        " ORDER BY (ServiceName, Type, toUnixTimestamp(Start), toUnixTimestamp(End))"
    )
    store.command(
        f"CREATE TABLE coroot_stacks (ServiceName LowCardinality(String) {z}, Hash UInt64 {z},"
        f" LastSeen DateTime64(9) CODEC(Delta, ZSTD(1)), Stack Array(String) {z})"
        " ENGINE = ReplacingMergeTree PARTITION BY toDate(LastSeen) PRIMARY KEY (ServiceName, Hash)"
        " ORDER BY (ServiceName, Hash)"
    )
    store.command(
        "INSERT INTO coroot_samples SELECT service, event, ts, ts + 10, map('host.name', host, 'container.id',"
        " container, 'process.pid', toString(pid), 'comm', process, 'thread', thread), stack, value"
        f" FROM samples WHERE {hour} SETTINGS max_execution_time = 0"
    )
    queries = Queries(store)
    selection = queries.resolve(Selection(end - 3600, end, (Matcher("event", "=", "cpu-clock"),)))
    table, _ = queries.stack_table(selection, ("service",))
    sums, _, _ = queries._summed(selection, ("service",))
    names = [frame.function for frame in table.frames]
    index, offsets = table.index.tolist(), table.offsets.tolist()
    rows: list[list[Any]] = [[], [], [], []]
    seen = set()
    for i, (key, stack) in enumerate(zip(sums.key.tolist(), sums.stacks.tolist(), strict=True)):
        service = sums.keys[key][0]
        if (service, stack) not in seen:
            seen.add((service, stack))
            for column, value in zip(
                rows,
                (service, stack, end, [names[j] for j in index[offsets[i] + 1 : offsets[i + 1]]]),
                strict=True,
            ):
                column.append(value)
    for at in range(0, len(rows[0]), 20_000):
        store.insert(
            "coroot_stacks",
            ["ServiceName", "Hash", "LastSeen", "Stack"],
            ["LowCardinality(String)", "UInt64", "DateTime64(9)", "Array(String)"],
            [column[at : at + 20_000] for column in rows],
        )
    sizes = {}
    for name in ("coroot_samples", "coroot_stacks"):
        store.command(f"OPTIMIZE TABLE {name} FINAL")
    for found in store.sizes():
        sizes[found.name] = found.bytes / max(found.rows, 1)
    ratio = sizes["samples"] / sizes["coroot_samples"]
    print(
        f"peer     bytes a sample row: here {sizes['samples']:.2f}, in Coroot's schema {sizes['coroot_samples']:.2f}:"
        f" {ratio:.2f} of it"
    )
    host = some_hosts(1, size.hosts)[0].value
    sql = (
        "SELECT Stack, v FROM (SELECT ServiceName, StackHash AS Hash, sum(Value) AS v FROM coroot_samples"
        f" WHERE Type = 'cpu-clock' AND Start >= toDateTime({end - 3600}, 'UTC') AND Start < toDateTime({end}, 'UTC')"
        f" AND Labels['host.name'] = '{host}' GROUP BY ServiceName, Hash) AS a INNER JOIN"
        " (SELECT ServiceName, Hash, any(Stack) AS Stack FROM coroot_stacks GROUP BY ServiceName, Hash) AS b"
        " USING (ServiceName, Hash)"
    )
    theirs, their_cpu, total = timed(lambda: in_dicts(store.rows(sql).rows), times)
    one = replace(selection, matchers=(*some_hosts(1, size.hosts), *selection.matchers))
    queries.tree(one, (), PICTURE)
    ours, our_cpu, (tree, _) = timed(lambda: queries.tree(one, (), PICTURE), times)
    assert total == int(tree.total[0])
    print(
        f"peer     one host, one hour to a tree: here {ours:.0f} ms ({our_cpu:.0f}), Coroot's schema and dicts"
        f" {theirs:.0f} ms ({their_cpu:.0f}): {theirs / ours:.1f} x"
    )
    everything = replace(selection, since=size.start)
    table, _ = queries.stack_table(everything)
    names = [frame.function for frame in table.frames]
    index, offsets = table.index.tolist(), table.offsets.tolist()
    paths = [
        ([names[j] for j in index[a:b]], count)
        for a, b, count in zip(offsets[:-1], offsets[1:], table.counts.tolist(), strict=True)
    ]
    dicts, dicts_cpu, total = timed(lambda: in_dicts(paths), 1)
    arrays, arrays_cpu, (tree, _) = timed(lambda: queries.tree(everything, (), PICTURE), times)
    assert total == int(tree.total[0])
    print(
        f"peer     {len(paths):,} stacks merged in dicts, once they are in memory: {dicts:.0f} ms ({dicts_cpu:.0f});"
        f" here with sums and names {arrays:.0f} ms ({arrays_cpu:.0f}): {dicts / arrays:.1f} x"
    )


def in_dicts(rows: Sequence[tuple[Any, ...]]) -> int:
    """A tree of dicts; gives its total."""
    tree: list[Any] = [{}, 0]
    for path, value in rows:
        node = tree
        node[1] += value
        for name in path:
            child = node[0].get(name)
            if child is None:
                child = node[0][name] = [{}, 0]
            child[1] += value
            node = child
    return int(tree[1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--hosts", type=int, default=50)
    arguments.add_argument("--hours", type=int, default=24)
    arguments.add_argument("--times", type=int, default=5)
    arguments.add_argument("--stacks", type=int, default=STACKS_EACH, help="that each of 20 services has")
    arguments.add_argument("--keep", metavar="DIR", help="where the store is and stays; else it is deleted in the end")
    arguments.add_argument("--small", action="store_true", help="3 hosts, 2 hours, few stacks: a trial run")
    asked = arguments.parse_args()
    if asked.small:
        asked.hosts, asked.hours, asked.stacks = 3, 2, 500
    with tempfile.TemporaryDirectory() as passing:
        store = Store(f"chdb://{os.path.abspath(asked.keep or passing)}/store")
        print(f"machine  {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the beginning", flush=True)
        kept, first, hosts, hours = store.rows(
            "SELECT count(), toUnixTimestamp(min(ts)), uniqExact(host), dateDiff('hour', min(ts), max(ts)) + 1"
            " FROM windows WHERE host LIKE 'host-%'"
        ).rows[0]
        start = int(time.time()) // 3600 * 3600 - 3600 * asked.hours
        size = Size(hosts, hours, 0, first) if kept else Size(asked.hosts, asked.hours, asked.stacks, start)
        if kept:
            store.horizon = int(store.rows("SELECT max(batch) FROM pushes").rows[0][0])
        else:
            fill(store, size)
        tell_sizes(store)
        print(f"memory   {memory('VmRSS')} MB before questions; load {os.getloadavg()[0]:.1f}", flush=True)
        ask(store, size, asked.times)
        peers(store, size, asked.times)
        print(f"memory   {memory('VmHWM')} MB at most; load {os.getloadavg()[0]:.1f} at the end", flush=True)
        store.close()


if __name__ == "__main__":
    main()
