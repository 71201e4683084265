"""Samples lost with 40,000 and more distinct stacks in a window, at 4,999 Hz, against bpf_get_stackid's map.

Both sample the same program at the same time: ours keeps each stack under its own 64-bit id, the peer is the
map of 16,384 entries that bcc's profile has by default, whose entries collide.

    python bench/lost_samples.py
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from profiler import events, maps
from profiler.libbpf import BpfObject
from profiler.sampler import Sampler

ROOT = Path(__file__).resolve().parent.parent
HZ, SECONDS = 4999, 10


def build_peer(folder: str) -> Path:
    target = Path(folder) / "stackid.bpf.o"
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    source = str(ROOT / "bench" / "stackid.bpf.c")
    subprocess.run(["clang", "-g", "-O2", "-target", "bpf", include, "-c", source, "-o", str(target)], check=True)
    return target


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/stacks"
        source = str(ROOT / "tests" / "live" / "workloads" / "stacks.c")
        subprocess.run(["gcc", "-O1", "-fno-omit-frame-pointer", "-o", program, source], check=True)
        peer = BpfObject(build_peer(folder))
        peer.load()
        load = [subprocess.Popen([program, "18", str(SECONDS + 5)]) for _ in range(os.cpu_count() or 1)]
        sampler = Sampler(HZ, window_seconds=SECONDS)
        clocks = [events.open_clock(cpu, HZ, peer.program_fd("on_tick")) for cpu in events.online_cpus()]
        time.sleep(SECONDS)
        window = sampler.drain()
        for clock in clocks:
            os.close(clock)
        taken, lost = (int(maps.read_per_cpu(peer.map_fd("taken_and_lost"), i, np.dtype("<u8")).sum()) for i in (0, 1))
        for process in load:
            process.kill()
            process.wait()
        sampler.close()
        peer.close()
    counted = window.counted
    ours = sum(counted.lost.values()) + counted.sampled - int(window.counts.sum())
    distinct = len(np.unique(window.keys["user_stack"]))
    print(
        f"ours:  {ours} of {counted.sampled + ours:,} samples lost, {distinct:,} distinct user stacks "
        f"in {SECONDS} s at {HZ:,} Hz {dict(counted.lost) or ''}"
    )
    print(f"peer:  {lost:,} of {taken + lost:,} samples lost to collisions ({lost / max(taken + lost, 1):.1%})")
    print(f"ratio lost ours/peer {ours / max(lost, 1):.4f} (budget: 0 lost)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
