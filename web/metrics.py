"""GET /metrics: the server's own figures, in Prometheus' text format 0.0.4."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter

from web.captures import Captures
from web.store.captures import State
from web.store.store import Store
from web.store.writer import Writer

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STARTED = time.time()


def exposition(store: Store, writer: Writer, rejected: Counter[str], captures: Captures) -> str:
    figures = writer.figures
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as statm:
        resident = int(statm.read().split()[1]) * _PAGE
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, *values: tuple[str, float]) -> None:
        lines.extend((f"# HELP pilotlight_{name} {text}", f"# TYPE pilotlight_{name} {kind}"))
        lines.extend(f"pilotlight_{name}{labels} {value}" for labels, value in values)

    metric(
        "pushes_total",
        "counter",
        "Pushes by what became of them.",
        ('{result="stored"}', figures.stored),
        ('{result="duplicate"}', figures.duplicates),
        ('{result="conflict"}', figures.conflicts),
        ('{result="failed"}', figures.failed),
    )
    metric(
        "rejected_total",
        "counter",
        "Requests, and profiles in them, that were refused.",
        *[(f'{{reason="{reason}"}}', count) for reason, count in sorted(rejected.items())],
    )
    metric(
        "rows_total",
        "counter",
        "Rows written, by table.",
        ('{table="windows"}', figures.windows),
        ('{table="samples"}', figures.samples),
        ('{table="stacks"}', figures.stacks),
        ('{table="frames"}', figures.locations),
        ('{table="names"}', figures.names),
    )
    metric("commits_total", "counter", "Commits.", ("", figures.commits))
    metric("commit_seconds_total", "counter", "Time spent in commits.", ("", figures.commit_seconds))
    metric("commits_undone_total", "counter", "Unfinished commits that were undone.", ("", figures.undone))
    metric("queue_pushes", "gauge", "Pushes waiting for a commit.", ("", writer.queued))
    metric("queue_samples", "gauge", "Samples in the pushes waiting for a commit.", ("", writer.queued_rows))
    metric("queue_full_total", "counter", "Pushes that were told to come back later.", ("", figures.busy))
    metric("writable", "gauge", "Whether the last commit succeeded: 1 or 0.", ("", int(writer.healthy)))
    active = captures.active
    metric(
        "captures",
        "gauge",
        "Captures that are not over, by state.",
        *[(f'{{state="{state.value}"}}', active[state.value]) for state in State if not state.over],
    )
    metric(
        "captures_ended_total",
        "counter",
        "Captures by how they ended.",
        *[(f'{{state="{state.value}"}}', captures.ended[state.value]) for state in State if state.over],
    )
    metric("capture_hosts", "gauge", "Hosts whose agents ask for captures.", ("", len(captures.listening())))
    sizes = store.sizes()
    metric("store_bytes", "gauge", "Size of the store's tables on disk.", ("", sum(size.bytes for size in sizes)))
    metric(
        "table_bytes",
        "gauge",
        "Size on disk, by table.",
        *[(f'{{table="{size.name}"}}', size.bytes) for size in sizes],
    )
    metric("table_rows", "gauge", "Rows, by table.", *[(f'{{table="{size.name}"}}', size.rows) for size in sizes])
    metric(
        "retention_days",
        "gauge",
        "Days that are kept.",
        ('{what="samples"}', writer.retention.samples),
        ('{what="rollups"}', writer.retention.rollups),
    )
    metric("resident_memory_bytes", "gauge", "Resident memory of the server.", ("", resident))
    metric("cpu_seconds_total", "counter", "CPU time of the server.", ("", usage.ru_utime + usage.ru_stime))
    metric("start_time_seconds", "gauge", "When the server started.", ("", _STARTED))
    return "\n".join(lines) + "\n"
