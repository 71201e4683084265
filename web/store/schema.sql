-- The whole store, the same text for the embedded engine and for a ClickHouse server. Statements end
-- with a semicolon at the end of a line. Ids are the first 64 bits of blake2b over the full content,
-- so the same code on any host is one row. All times are UTC. writer.py says in which order a commit
-- writes, and why nothing acknowledged is lost or doubled. Inserts and merges are flushed to the disk, so
-- that this holds for power cuts as well; it costs some 5 ms a commit.
--
-- This is the schema as it is now (version 3). What brings an older store up to it is in migration_N.sql. How long rows
-- are kept is what retention.py says; the figures here are its defaults.

-- One row per stack, thread and window. `ts` is the start of the window in whole seconds; `batch` is
-- the commit that wrote the row, `label_set` the labels that its window came with, 0 where it had none; `cpu_kind` is
-- the kind of CPU that the stack was found on, '' where nobody tells. Neighbours in this order differ in little but `ts`
-- and `value`, which is what makes a row some four bytes; an hour of one host lies in a few granules.
CREATE TABLE IF NOT EXISTS samples
(
    ts        DateTime('UTC') CODEC(GCD, Delta, ZSTD(1)),
    host      LowCardinality(String) CODEC(ZSTD(1)),
    event     LowCardinality(String) CODEC(ZSTD(1)),
    hz        UInt32 CODEC(ZSTD(1)),
    label_set UInt64 CODEC(ZSTD(1)),
    service   LowCardinality(String) CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    cpu_kind  LowCardinality(String) CODEC(ZSTD(1)),
    pid       UInt32 CODEC(ZSTD(1)),
    process   LowCardinality(String) CODEC(ZSTD(1)),
    thread    LowCardinality(String) CODEC(ZSTD(1)),
    stack     UInt64 CODEC(ZSTD(1)),
    value     UInt64 CODEC(T64, ZSTD(1)),
    batch     UInt32 CODEC(Delta, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (event, service, toStartOfHour(ts), host, pid, stack, ts)
TTL ts + INTERVAL 14 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- A stack is the ids of its locations, leaf first. `seen` is the day of the last commit that had it;
-- it outlives every sample and rollup that refers to it.
CREATE TABLE IF NOT EXISTS stacks
(
    id        UInt64,
    locations Array(UInt64) CODEC(ZSTD(1)),
    seen      Date CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- One row per location, with the names its sender had. The arrays run over its frames, inlined callees first. What is
-- `nameable` came from an agent of ours, so that its address and build id mean the same as in `names`, below: better
-- names are looked up there without touching a single sample.
CREATE TABLE IF NOT EXISTS frames
(
    id           UInt64,
    address      UInt64 CODEC(ZSTD(1)),
    binary       LowCardinality(String) CODEC(ZSTD(1)),
    build_id     LowCardinality(String) CODEC(ZSTD(1)),
    mapped       Bool CODEC(ZSTD(1)),
    functions    Array(String) CODEC(ZSTD(1)),
    system_names Array(String) CODEC(ZSTD(1)),
    files        Array(String) CODEC(ZSTD(1)),
    lines        Array(UInt32) CODEC(ZSTD(1)),
    kinds        Array(LowCardinality(String)) CODEC(ZSTD(1)),
    reasons      Array(LowCardinality(String)) CODEC(ZSTD(1)),
    nameable     Bool DEFAULT true CODEC(ZSTD(1)),
    seen         Date CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- Labels that users gave their agents, by the id that samples, windows and rollups carry.
CREATE TABLE IF NOT EXISTS label_sets
(
    id     UInt64,
    labels Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    seen   Date CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- The best names that came for an address, whenever that was and from whatever host. They are shown for every
-- location of the same build id and address that is `nameable` and tells less. `id` is a hash of those two; `version`
-- has the quality of the names in its highest byte, and below that when they were written, in milliseconds.
CREATE TABLE IF NOT EXISTS names
(
    id           UInt64,
    build_id     LowCardinality(String) CODEC(ZSTD(1)),
    address      UInt64 CODEC(ZSTD(1)),
    functions    Array(String) CODEC(ZSTD(1)),
    system_names Array(String) CODEC(ZSTD(1)),
    files        Array(String) CODEC(ZSTD(1)),
    lines        Array(UInt32) CODEC(ZSTD(1)),
    kinds        Array(LowCardinality(String)) CODEC(ZSTD(1)),
    reasons      Array(LowCardinality(String)) CODEC(ZSTD(1)),
    version      UInt64 CODEC(ZSTD(1)),
    seen         Date CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- One row per window of a host and event: its whole accounting, and what taking it cost. Counts are at the
-- window's own rate `hz`; `unwinding` is by the keys of model.Unwinding.counts(). `received` is by the server's clock:
-- what it is later than `end_ns` is the way here and the difference of the clocks. Kept as long as rollups, whose
-- accounting it is.
CREATE TABLE IF NOT EXISTS windows
(
    ts             DateTime('UTC') CODEC(GCD, Delta, ZSTD(1)),
    start_ns       UInt64 CODEC(ZSTD(1)),
    end_ns         UInt64 CODEC(ZSTD(1)),
    host           LowCardinality(String) CODEC(ZSTD(1)),
    event          LowCardinality(String) CODEC(ZSTD(1)),
    hz             UInt32 CODEC(ZSTD(1)),
    label_set      UInt64 CODEC(ZSTD(1)),
    labels         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    received       DateTime('UTC') DEFAULT toDateTime(intDiv(end_ns, 1000000000), 'UTC') CODEC(Delta, ZSTD(1)),
    agent          LowCardinality(String) CODEC(ZSTD(1)),
    epoch          String CODEC(ZSTD(1)),
    sequence       UInt64 CODEC(Delta, ZSTD(1)),
    sha256         String CODEC(ZSTD(1)),
    expected       UInt64 CODEC(ZSTD(1)),
    ticks          UInt64 CODEC(ZSTD(1)),
    idle           UInt64 CODEC(ZSTD(1)),
    filtered       UInt64 CODEC(ZSTD(1)),
    sampled        UInt64 CODEC(ZSTD(1)),
    lost           Map(LowCardinality(String), UInt64) CODEC(ZSTD(1)),
    frames_named   UInt64 CODEC(ZSTD(1)),
    frames_unknown Map(LowCardinality(String), UInt64) CODEC(ZSTD(1)),
    unwinding      Map(LowCardinality(String), UInt64) CODEC(ZSTD(1)),
    bpf_ns         UInt64 CODEC(ZSTD(1)),
    bpf_runs       UInt64 CODEC(ZSTD(1)),
    agent_cpu_ns   UInt64 CODEC(ZSTD(1)),
    rss_bytes      UInt64 CODEC(ZSTD(1)),
    locked_bytes   UInt64 CODEC(ZSTD(1)),
    batch          UInt32 CODEC(Delta, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (host, event, ts)
TTL ts + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- One row per acknowledged push: the mark that its batch is whole. A body without an identity has
-- agent = ''. Kept longer than any window, so that the newest batch is always known.
CREATE TABLE IF NOT EXISTS pushes
(
    agent    String CODEC(ZSTD(1)),
    epoch    String CODEC(ZSTD(1)),
    sequence UInt64 CODEC(Delta, ZSTD(1)),
    sha256   String CODEC(ZSTD(1)),
    received DateTime('UTC') CODEC(Delta, ZSTD(1)),
    batch    UInt32 CODEC(Delta, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(received)
ORDER BY (agent, epoch, sequence, sha256)
TTL received + INTERVAL 120 DAY
SETTINGS old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- Samples by minute, for pictures over time. Rows of the same key may not be merged yet: always sum(). Not by thread:
-- that would be several times the rows, for a question that samples and stacks_1h answer.
CREATE TABLE IF NOT EXISTS series_1m
(
    t         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    host      LowCardinality(String) CODEC(ZSTD(1)),
    event     LowCardinality(String) CODEC(ZSTD(1)),
    hz        UInt32 CODEC(ZSTD(1)),
    label_set UInt64 CODEC(ZSTD(1)),
    service   LowCardinality(String) CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    cpu_kind  LowCardinality(String) CODEC(ZSTD(1)),
    process   LowCardinality(String) CODEC(ZSTD(1)),
    value     UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = SummingMergeTree(value)
PARTITION BY toDate(t)
PRIMARY KEY (event, service, host, container, process, hz, label_set, t)
ORDER BY (event, service, host, container, process, hz, label_set, t, cpu_kind)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS series_1m_of_samples TO series_1m AS
SELECT toStartOfMinute(ts) AS t, host, event, hz, label_set, service, container, cpu_kind, process, sum(value) AS value
FROM samples
GROUP BY t, host, event, hz, label_set, service, container, cpu_kind, process;

-- Samples by hour, whole stacks with all that they can be chosen by but the pid; `t` is the start of the hour. Rows of
-- the same key may not be merged yet: always sum(). Hosts come before stacks, so that a host's history is read alone,
-- however many hosts there are; stacks first would be a third of the bytes.
CREATE TABLE IF NOT EXISTS stacks_1h
(
    t         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    host      LowCardinality(String) CODEC(ZSTD(1)),
    event     LowCardinality(String) CODEC(ZSTD(1)),
    hz        UInt32 CODEC(ZSTD(1)),
    label_set UInt64 CODEC(ZSTD(1)),
    service   LowCardinality(String) CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    cpu_kind  LowCardinality(String) CODEC(ZSTD(1)),
    process   LowCardinality(String) CODEC(ZSTD(1)),
    thread    LowCardinality(String) CODEC(ZSTD(1)),
    stack     UInt64 CODEC(ZSTD(1)),
    value     UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = SummingMergeTree(value)
PARTITION BY toDate(t)
PRIMARY KEY (event, service, t, host)
ORDER BY (event, service, t, host, container, process, thread, hz, label_set, stack, cpu_kind)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS stacks_1h_of_samples TO stacks_1h AS
SELECT toStartOfHour(ts) AS t, host, event, hz, label_set, service, container, cpu_kind, process, thread, stack,
    sum(value) AS value
FROM samples
GROUP BY t, host, event, hz, label_set, service, container, cpu_kind, process, thread, stack;

-- Functions by id, as functions_1h has them. A stack without a frame counts for the function 0, which has no row here.
CREATE TABLE IF NOT EXISTS functions
(
    id     UInt64,
    name   String CODEC(ZSTD(1)),
    file   String CODEC(ZSTD(1)),
    binary LowCardinality(String) CODEC(ZSTD(1)),
    kind   LowCardinality(String) CODEC(ZSTD(1)),
    seen   Date CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- Functions by hour: samples with the function at the leaf (`self`) and anywhere (`total`, each sample once). Made from
-- stacks_1h by functions.py. Of an hour, only rows of its newest `made` in function_hours count; `made` is in
-- milliseconds since 1970.
CREATE TABLE IF NOT EXISTS functions_1h
(
    t         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    host      LowCardinality(String) CODEC(ZSTD(1)),
    event     LowCardinality(String) CODEC(ZSTD(1)),
    hz        UInt32 CODEC(ZSTD(1)),
    label_set UInt64 CODEC(ZSTD(1)),
    service   LowCardinality(String) CODEC(ZSTD(1)),
    function  UInt64 CODEC(ZSTD(1)),
    self      UInt64 CODEC(T64, ZSTD(1)),
    total     UInt64 CODEC(T64, ZSTD(1)),
    made      UInt64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toDate(t)
PRIMARY KEY (event, service, t, host)
ORDER BY (event, service, t, host, hz, label_set, function)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- The hours that are in functions_1h, and the samples (all of the hour, unweighed) that they were made from.
CREATE TABLE IF NOT EXISTS function_hours
(
    t       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    made    UInt64 CODEC(ZSTD(1)),
    samples UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(made)
ORDER BY t
TTL t + INTERVAL 90 DAY
SETTINGS old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- Captures, which are no part of the history: captures.py. A row for each change of a capture's state, of which the one
-- with the highest `version` (nanoseconds since 1970) holds. Times are seconds since 1970, 0 for never.
CREATE TABLE IF NOT EXISTS captures
(
    id       String,
    version  UInt64,
    taken    DateTime('UTC'),
    name     String,
    host     String,
    event    LowCardinality(String),
    seconds  Float64,
    hz       UInt32,
    pids     Array(UInt32),
    cgroups  Array(String),
    state    LowCardinality(String),
    cancel   Bool,
    problem  String,
    created  Float64,
    started  Float64,
    ended    Float64,
    done     Float64,
    samples  UInt64,
    profiled Bool,
    agent    String,
    epoch    String
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
TTL taken + INTERVAL 90 DAY
SETTINGS index_granularity = 256, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- What captures hold, whole: pilotlight's own JSON.
CREATE TABLE IF NOT EXISTS capture_profiles
(
    id      String,
    version UInt64,
    taken   DateTime('UTC'),
    profile String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
TTL taken + INTERVAL 90 DAY
SETTINGS index_granularity = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- What happened at a time, such as a deploy: annotations.py. Of the rows of an id the one with the highest `version`
-- (nanoseconds since 1970) holds, and may say that it is `gone`.
CREATE TABLE IF NOT EXISTS annotations
(
    id      String,
    version UInt64,
    t       DateTime('UTC'),
    until   DateTime('UTC'),
    text    String,
    labels  Map(LowCardinality(String), String),
    gone    Bool
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
TTL t + INTERVAL 90 DAY
SETTINGS index_granularity = 256, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;
