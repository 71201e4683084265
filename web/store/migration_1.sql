-- From stores of before versions were noted: label sets, stacks by hour, rollups in parts by day. Windows and samples
-- that are there have no label set, whatever labels their windows show.

ALTER TABLE frames ADD COLUMN IF NOT EXISTS nameable Bool DEFAULT true CODEC(ZSTD(1)) AFTER reasons;

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
TTL seen + INTERVAL 30 DAY
SETTINGS index_granularity = 1024, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

ALTER TABLE names MODIFY SETTING materialize_ttl_recalculate_only = 1;

ALTER TABLE windows ADD COLUMN IF NOT EXISTS
    unwinding Map(LowCardinality(String), UInt64) CODEC(ZSTD(1)) AFTER frames_unknown;

ALTER TABLE samples ADD COLUMN IF NOT EXISTS label_set UInt64 CODEC(ZSTD(1)) AFTER hz;

ALTER TABLE windows ADD COLUMN IF NOT EXISTS label_set UInt64 CODEC(ZSTD(1)) AFTER hz;

ALTER TABLE windows ADD COLUMN IF NOT EXISTS received
    DateTime('UTC') DEFAULT toDateTime(intDiv(end_ns, 1000000000), 'UTC') CODEC(Delta, ZSTD(1)) AFTER labels;

ALTER TABLE samples MODIFY SETTING materialize_ttl_recalculate_only = 1;

ALTER TABLE stacks MODIFY SETTING materialize_ttl_recalculate_only = 1;

ALTER TABLE frames MODIFY SETTING materialize_ttl_recalculate_only = 1;

ALTER TABLE windows MODIFY SETTING materialize_ttl_recalculate_only = 1;

ALTER TABLE pushes MODIFY SETTING materialize_ttl_recalculate_only = 1;

DROP VIEW IF EXISTS series_1m_of_samples SYNC;

DROP TABLE IF EXISTS series_1m_next SYNC;

CREATE TABLE series_1m_next
(
    t         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    host      LowCardinality(String) CODEC(ZSTD(1)),
    event     LowCardinality(String) CODEC(ZSTD(1)),
    hz        UInt32 CODEC(ZSTD(1)),
    label_set UInt64 CODEC(ZSTD(1)),
    service   LowCardinality(String) CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    process   LowCardinality(String) CODEC(ZSTD(1)),
    value     UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = SummingMergeTree(value)
PARTITION BY toDate(t)
ORDER BY (event, service, host, container, process, hz, label_set, t)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

INSERT INTO series_1m_next (t, host, event, hz, service, container, process, value)
SELECT t, host, event, hz, service, container, process, value FROM series_1m;

EXCHANGE TABLES series_1m AND series_1m_next;

DROP TABLE series_1m_next SYNC;

DROP VIEW IF EXISTS stacks_1h_of_samples SYNC;

DROP TABLE IF EXISTS stacks_1h SYNC;

CREATE TABLE stacks_1h
(
    t         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    host      LowCardinality(String) CODEC(ZSTD(1)),
    event     LowCardinality(String) CODEC(ZSTD(1)),
    hz        UInt32 CODEC(ZSTD(1)),
    label_set UInt64 CODEC(ZSTD(1)),
    service   LowCardinality(String) CODEC(ZSTD(1)),
    container LowCardinality(String) CODEC(ZSTD(1)),
    process   LowCardinality(String) CODEC(ZSTD(1)),
    thread    LowCardinality(String) CODEC(ZSTD(1)),
    stack     UInt64 CODEC(ZSTD(1)),
    value     UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = SummingMergeTree(value)
PARTITION BY toDate(t)
PRIMARY KEY (event, service, t, host)
ORDER BY (event, service, t, host, container, process, thread, hz, label_set, stack)
TTL t + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, old_parts_lifetime = 60,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    materialize_ttl_recalculate_only = 1;

-- Not grouped: the engine adds up what it inserts and merges, and needs no memory for it.
INSERT INTO stacks_1h (t, host, event, hz, service, container, process, thread, stack, value)
SELECT toStartOfHour(ts) AS t, host, event, hz, service, container, process, thread, stack, value FROM samples;
