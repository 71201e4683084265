-- Annotations, for which there was no place before.

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
