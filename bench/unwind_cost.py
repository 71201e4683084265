"""What unwinding costs: BPF nanoseconds a sample by depth, and the agent's share with many programs.

By depth: a program that recurses that deep runs on every CPU, and three samplers look at it at the same time, 999
times a second: ours by unwind tables, ours by frame pointers alone, and bcc's `profile` tool (Debian's bpfcc-tools,
which keeps stacks by bpf_get_stackid and loses those whose id is taken). The program has frame pointers, so that all
see the same stacks. Times are the kernel's own (kernel.bpf_stats_enabled).

Many programs: 300 different ones, each in a process of its own, take turns on all CPUs at 99 Hz.

    python bench/unwind_cost.py
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from profiler.collector import Collector, Sampling
from profiler.memory import keep_small
from profiler.model import Profile
from profiler.sampler import Sampler

DEPTHS = (5, 20, 60, 120)
HZ, SECONDS, PROGRAMS = 999, 5, 300
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
PEER = "/usr/sbin/profile-bpfcc"
SOURCE = r"""
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
volatile unsigned long sink;
__attribute__((noinline)) unsigned long down(int depth, double busy, double idle)
{
	if (depth > 1)
		return down(depth - 1, busy, idle) + sink;
	for (;;) {
		clock_t end = clock() + busy * CLOCKS_PER_SEC;
		while (clock() < end)
			for (int i = 0; i < 1000; i++)
				sink += i;
		usleep(idle * 1e6);
	}
}
int main(int count, char **given) { return down(atoi(given[1]), atof(given[2]), atof(given[3])); }
"""


def build(folder: str, name: str, *flags: str) -> str:
    source, target = Path(folder) / f"{name}.c", f"{folder}/{name}"
    source.write_text(SOURCE)
    command = ["gcc", "-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", *flags]
    subprocess.run([*command, "-o", target, str(source)], check=True)
    return target


@contextmanager
def running(commands: list[list[str]]) -> Iterator[None]:
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def attend(collector: Collector, seconds: float) -> Profile:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        collector.attend(min(left, 1.0))
    return collector.collect()


def bpf_runs(fdinfo: str) -> tuple[int, int]:
    """(nanoseconds, runs) of a BPF program by the fdinfo of one of its descriptors; zeros for anything else."""
    try:
        fields = dict(line.split(":", 1) for line in Path(fdinfo).read_text().splitlines() if ":" in line)
        return int(fields["run_time_ns"]), int(fields["run_cnt"])
    except (OSError, KeyError, ValueError):
        return 0, 0


def peer_runs(pid: int) -> tuple[int, int]:
    return max((bpf_runs(path) for path in glob.glob(f"/proc/{pid}/fdinfo/*")), key=lambda found: found[1])


def start_peer(folder: str) -> subprocess.Popen[bytes]:
    """bcc's profile tool; it finds foreign kernel headers only where the running kernel's own should be."""
    trees = {name: sorted(glob.glob(f"/usr/src/linux-headers-*-{name}"))[-1:] for name in ("amd64", "common")}
    own = f"/lib/modules/{os.uname().release}"
    script = [f"exec {PEER} -F {HZ} {10 * SECONDS}"]
    if not os.path.exists(f"{own}/build") and all(trees.values()):
        links = f"ln -s {trees['amd64'][0]} {own}/build; ln -s {trees['common'][0]} {own}/source"
        script.insert(0, f"mkdir -p /lib/modules; mount -t tmpfs tmpfs /lib/modules; mkdir -p {own}; {links}")
    command = ["unshare", "-m", "sh", "-c", "; ".join(script)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def by_depth(program: str, folder: str, depth: int) -> None:
    cpus = os.cpu_count() or 1
    collector = Collector(Sampling(HZ), window_seconds=SECONDS)
    by_pointer = Sampler(HZ, window_seconds=SECONDS)
    peer = start_peer(folder)
    try:
        with running([[program, str(depth), "60", "0"]] * cpus):
            end = time.monotonic() + 30
            while not peer_runs(peer.pid)[1] and time.monotonic() < end:
                attend(collector, 0.5)
            fds = [collector.sampler.program_fd, by_pointer.program_fd]
            paths = [f"/proc/self/fdinfo/{fd('on_tick')}" for fd in fds]
            before = [*map(bpf_runs, paths), peer_runs(peer.pid)]
            profile = attend(collector, SECONDS)
            after = [*map(bpf_runs, paths), peer_runs(peer.pid)]
    finally:
        collector.close()
        by_pointer.close()
        peer.kill()
        peer.wait()
    ours, pointer, theirs = ((b[0] - a[0]) / max(b[1] - a[1], 1) for a, b in zip(before, after, strict=True))
    unwinding = profile.accounting.unwinding
    whole = unwinding.whole / max(unwinding.whole + sum(unwinding.cut.values()), 1)
    print(
        f"{depth:4} frames: tables {ours:,.0f} ns, frame pointers {pointer:,.0f} ns, bcc's profile {theirs:,.0f} ns; "
        f"ratio tables/bcc {ours / max(theirs, 1):.2f}, "
        f"frame pointers/bcc {pointer / max(theirs, 1):.2f} (budget 1.2); "
        f"{whole:.1%} whole by tables"
    )


def many_programs(folder: str) -> None:
    programs = [build(folder, f"p{n}", f"-Wl,--build-id=0x{n:040x}") for n in range(1, PROGRAMS + 1)]
    with running([[program, "10", "0.01", "1"] for program in programs]):
        collector = Collector(Sampling())
        try:
            attend(collector, 10)
            accounts = [attend(collector, 10).accounting for _ in range(3)]
        finally:
            collector.close()
    spent = sum(account.cost.bpf_ns + account.cost.agent_cpu_ns for account in accounts) / 1e9
    bpf = sum(account.cost.bpf_ns for account in accounts) / 1e9
    memory = max(account.cost.rss_bytes + account.cost.locked_bytes for account in accounts)
    samples = sum(account.sampled for account in accounts)
    print(
        f"{PROGRAMS} different programs: {spent:.3f} CPU s in 30 s ({spent / 30:.2%} of one CPU), "
        f"of them {bpf:.3f} in BPF, "
        f"{samples:,} samples; {memory / 1e6:.0f} MB resident and BPF together (budget 100)"
    )


def main() -> int:
    keep_small()
    enabled = STATS.read_text()
    STATS.write_text("1")
    try:
        with tempfile.TemporaryDirectory() as folder:
            program = build(folder, "deep")
            for depth in DEPTHS:
                by_depth(program, folder, depth)
            many_programs(folder)
    finally:
        STATS.write_text(enabled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
