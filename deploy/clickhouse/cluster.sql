CREATE DATABASE IF NOT EXISTS pilotlight ON CLUSTER 'pilotlight' ENGINE = Atomic;

USE pilotlight;

CREATE TABLE IF NOT EXISTS versions_local ON CLUSTER 'pilotlight' (version UInt32, at DateTime('UTC') DEFAULT now())
ENGINE = ReplicatedMergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS versions ON CLUSTER 'pilotlight' AS versions_local ENGINE = Distributed('pilotlight', 'pilotlight', 'versions_local', 0);

INSERT INTO versions (version) VALUES (3);

CREATE TABLE IF NOT EXISTS samples_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedMergeTree
PARTITION BY toDate(ts)
ORDER BY (event, service, toStartOfHour(ts), host, pid, stack, ts)
TTL ts + INTERVAL 14 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS samples ON CLUSTER 'pilotlight' AS samples_local ENGINE = Distributed('pilotlight', 'pilotlight', 'samples_local', cityHash64(service, host));

CREATE TABLE IF NOT EXISTS stacks_local ON CLUSTER 'pilotlight'
(
    id        UInt64,
    locations Array(UInt64) CODEC(ZSTD(1)),
    seen      Date CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS stacks ON CLUSTER 'pilotlight' AS stacks_local ENGINE = Distributed('pilotlight', 'pilotlight', 'stacks_local', id);

CREATE TABLE IF NOT EXISTS frames_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS frames ON CLUSTER 'pilotlight' AS frames_local ENGINE = Distributed('pilotlight', 'pilotlight', 'frames_local', id);

CREATE TABLE IF NOT EXISTS label_sets_local ON CLUSTER 'pilotlight'
(
    id     UInt64,
    labels Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    seen   Date CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS label_sets ON CLUSTER 'pilotlight' AS label_sets_local ENGINE = Distributed('pilotlight', 'pilotlight', 'label_sets_local', id);

CREATE TABLE IF NOT EXISTS names_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedReplacingMergeTree(version)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS names ON CLUSTER 'pilotlight' AS names_local ENGINE = Distributed('pilotlight', 'pilotlight', 'names_local', id);

CREATE TABLE IF NOT EXISTS windows_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedMergeTree
PARTITION BY toDate(ts)
ORDER BY (host, event, ts)
TTL ts + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS windows ON CLUSTER 'pilotlight' AS windows_local ENGINE = Distributed('pilotlight', 'pilotlight', 'windows_local', cityHash64(host));

CREATE TABLE IF NOT EXISTS pushes_local ON CLUSTER 'pilotlight'
(
    agent    String CODEC(ZSTD(1)),
    epoch    String CODEC(ZSTD(1)),
    sequence UInt64 CODEC(Delta, ZSTD(1)),
    sha256   String CODEC(ZSTD(1)),
    received DateTime('UTC') CODEC(Delta, ZSTD(1)),
    batch    UInt32 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedMergeTree
PARTITION BY toYYYYMM(received)
ORDER BY (agent, epoch, sequence, sha256)
TTL received + INTERVAL 120 DAY
SETTINGS old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS pushes ON CLUSTER 'pilotlight' AS pushes_local ENGINE = Distributed('pilotlight', 'pilotlight', 'pushes_local', 0);

CREATE TABLE IF NOT EXISTS series_1m_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedSummingMergeTree(value)
PARTITION BY toDate(t)
PRIMARY KEY (event, service, host, container, process, hz, label_set, t)
ORDER BY (event, service, host, container, process, hz, label_set, t, cpu_kind)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS series_1m ON CLUSTER 'pilotlight' AS series_1m_local ENGINE = Distributed('pilotlight', 'pilotlight', 'series_1m_local', cityHash64(service, host));

CREATE MATERIALIZED VIEW IF NOT EXISTS series_1m_of_samples ON CLUSTER 'pilotlight' TO series_1m_local AS
SELECT toStartOfMinute(ts) AS t, host, event, hz, label_set, service, container, cpu_kind, process, sum(value) AS value
FROM samples_local
GROUP BY t, host, event, hz, label_set, service, container, cpu_kind, process;

CREATE TABLE IF NOT EXISTS stacks_1h_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedSummingMergeTree(value)
PARTITION BY toDate(t)
PRIMARY KEY (event, service, t, host)
ORDER BY (event, service, t, host, container, process, thread, hz, label_set, stack, cpu_kind)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS stacks_1h ON CLUSTER 'pilotlight' AS stacks_1h_local ENGINE = Distributed('pilotlight', 'pilotlight', 'stacks_1h_local', cityHash64(service, host));

CREATE MATERIALIZED VIEW IF NOT EXISTS stacks_1h_of_samples ON CLUSTER 'pilotlight' TO stacks_1h_local AS
SELECT toStartOfHour(ts) AS t, host, event, hz, label_set, service, container, cpu_kind, process, thread, stack,
    sum(value) AS value
FROM samples_local
GROUP BY t, host, event, hz, label_set, service, container, cpu_kind, process, thread, stack;

CREATE TABLE IF NOT EXISTS functions_local ON CLUSTER 'pilotlight'
(
    id     UInt64,
    name   String CODEC(ZSTD(1)),
    file   String CODEC(ZSTD(1)),
    binary LowCardinality(String) CODEC(ZSTD(1)),
    kind   LowCardinality(String) CODEC(ZSTD(1)),
    seen   Date CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(seen)
ORDER BY id
TTL seen + INTERVAL 120 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS functions ON CLUSTER 'pilotlight' AS functions_local ENGINE = Distributed('pilotlight', 'pilotlight', 'functions_local', id);

CREATE TABLE IF NOT EXISTS functions_1h_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedMergeTree
PARTITION BY toDate(t)
PRIMARY KEY (event, service, t, host)
ORDER BY (event, service, t, host, hz, label_set, function)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS functions_1h ON CLUSTER 'pilotlight' AS functions_1h_local ENGINE = Distributed('pilotlight', 'pilotlight', 'functions_1h_local', cityHash64(service, host));

CREATE TABLE IF NOT EXISTS function_hours_local ON CLUSTER 'pilotlight'
(
    t       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    made    UInt64 CODEC(ZSTD(1)),
    samples UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(made)
ORDER BY t
TTL t + INTERVAL 90 DAY
SETTINGS old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS function_hours ON CLUSTER 'pilotlight' AS function_hours_local ENGINE = Distributed('pilotlight', 'pilotlight', 'function_hours_local', 0);

CREATE TABLE IF NOT EXISTS captures_local ON CLUSTER 'pilotlight'
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
ENGINE = ReplicatedReplacingMergeTree(version)
ORDER BY id
TTL taken + INTERVAL 90 DAY
SETTINGS index_granularity = 256, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS captures ON CLUSTER 'pilotlight' AS captures_local ENGINE = Distributed('pilotlight', 'pilotlight', 'captures_local', cityHash64(id));

CREATE TABLE IF NOT EXISTS capture_profiles_local ON CLUSTER 'pilotlight'
(
    id      String,
    version UInt64,
    taken   DateTime('UTC'),
    profile String CODEC(ZSTD(3))
)
ENGINE = ReplicatedReplacingMergeTree(version)
ORDER BY id
TTL taken + INTERVAL 90 DAY
SETTINGS index_granularity = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS capture_profiles ON CLUSTER 'pilotlight' AS capture_profiles_local ENGINE = Distributed('pilotlight', 'pilotlight', 'capture_profiles_local', cityHash64(id));

CREATE TABLE IF NOT EXISTS annotations_local ON CLUSTER 'pilotlight'
(
    id      String,
    version UInt64,
    t       DateTime('UTC'),
    until   DateTime('UTC'),
    text    String,
    labels  Map(LowCardinality(String), String),
    gone    Bool
)
ENGINE = ReplicatedReplacingMergeTree(version)
ORDER BY id
TTL t + INTERVAL 90 DAY
SETTINGS index_granularity = 256, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS annotations ON CLUSTER 'pilotlight' AS annotations_local ENGINE = Distributed('pilotlight', 'pilotlight', 'annotations_local', cityHash64(id));

