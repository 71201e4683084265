"""Draining a map of 20,000 counts by batch into numpy, against element by element (as bcc's items() and clear() do).

python bench/drain.py
"""

from __future__ import annotations

import ctypes as c
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from profiler import maps
from profiler.libbpf import BpfObject, library
from profiler.sampler import COUNT, SAMPLE_KEY

ENTRIES, ROUNDS = 20_000, 5
OBJECT = Path(__file__).resolve().parent.parent / "profiler" / "bpf" / "sampler.bpf.o"


def fill(fd: int) -> None:
    key, count = np.zeros((), SAMPLE_KEY), np.ones((), COUNT)
    for number in range(ENTRIES):
        key["user_stack"] = number + 1
        library().bpf_map_update_elem(fd, key.ctypes.data, count.ctypes.data, 0)


def by_batch(fd: int) -> int:
    return sum(int(counts.sum()) for _, counts in maps.drain(fd, SAMPLE_KEY, COUNT))


def one_by_one(fd: int) -> int:
    next_key = library().bpf_map_get_next_key
    next_key.argtypes, next_key.restype = [c.c_int, c.c_void_p, c.c_void_p], c.c_int
    size = SAMPLE_KEY.itemsize
    found: dict[bytes, int] = {}
    key, value = c.create_string_buffer(size), c.c_uint64()
    previous = None
    while next_key(fd, previous, key) == 0:
        library().bpf_map_lookup_elem(fd, key, c.byref(value))
        found[key.raw] = value.value
        previous = c.create_string_buffer(key.raw, size)
    for done in found:
        library().bpf_map_delete_elem(fd, done)
    return sum(found.values())


def main() -> int:
    bpf = BpfObject(OBJECT)
    bpf.set_max_entries("counts_0", 1 << 15)
    for name in ("on_fork", "on_exit"):
        bpf.skip_program(name)
    bpf.load()
    fd = bpf.map_fd("counts_0")
    times: dict[str, list[float]] = {"by batch": [], "one by one": []}
    for _ in range(ROUNDS):
        for name, drain in (("by batch", by_batch), ("one by one", one_by_one)):
            fill(fd)
            start = time.perf_counter()
            drained = drain(fd)
            times[name].append(time.perf_counter() - start)
            if drained != ENTRIES:
                raise SystemExit(f"{name}: {drained} of {ENTRIES} came out")
    bpf.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name}: {median * 1e3:.1f} ms for {ENTRIES:,} entries")
    print(f"ratio one by one/by batch {medians['one by one'] / medians['by batch']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
