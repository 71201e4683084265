-- The kind of CPU that samples were taken on. Those that are there do not tell.

ALTER TABLE samples ADD COLUMN IF NOT EXISTS cpu_kind LowCardinality(String) CODEC(ZSTD(1)) AFTER container;

DROP VIEW IF EXISTS series_1m_of_samples SYNC;

ALTER TABLE series_1m
    ADD COLUMN IF NOT EXISTS cpu_kind LowCardinality(String) CODEC(ZSTD(1)) AFTER container,
    MODIFY ORDER BY (event, service, host, container, process, hz, label_set, t, cpu_kind);

DROP VIEW IF EXISTS stacks_1h_of_samples SYNC;

ALTER TABLE stacks_1h
    ADD COLUMN IF NOT EXISTS cpu_kind LowCardinality(String) CODEC(ZSTD(1)) AFTER container,
    MODIFY ORDER BY (event, service, t, host, container, process, thread, hz, label_set, stack, cpu_kind);
