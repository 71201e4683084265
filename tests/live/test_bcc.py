"""The sampler that bcc compiles: the same profiles, accounts and filters as the prebuilt one."""

from __future__ import annotations

import ctypes as c
import gc
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from profiler import bcc
from profiler.bcc import BccSampler, compile_sampler
from profiler.cgroups import cgroup_id
from profiler.collector import Collector, Sampling, rss_bytes
from profiler.command import GatedCommand
from profiler.libbpf import BpfError, library
from profiler.model import Profile
from profiler.sampler import Filters, Sampler
from symbolizer.types import Kind
from tests.live.support import ROOT, Compile, assert_truthful, busy_in_cgroup, count_of, functions
from tests.live.test_sampler import assert_agrees, assert_samples_name_their_cpus_kinds, busy
from tests.live.test_sampling import binomial_interval


@contextmanager
def sampling(hz: int = 99, *, window_seconds: float = 10, filters: Filters | None = None) -> Iterator[BccSampler]:
    sampler = BccSampler(hz, window_seconds=window_seconds, filters=filters)
    try:
        yield sampler
    finally:
        sampler.close()


@contextmanager
def collecting(hz: int = 199, filters: Filters | None = None) -> Iterator[Collector]:
    collecting = Collector(Sampling(hz, backend="bcc"), filters=filters)
    try:
        assert isinstance(collecting.sampler, BccSampler)
        yield collecting
    finally:
        collecting.close()


def attend(running: Collector, seconds: float) -> Profile:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        running.attend(0.1)
    profile = running.collect()
    assert_truthful(profile)
    return profile


def of_command(*arguments: str) -> Profile:
    """The profile of a command from its start to its end, its children included."""
    command = GatedCommand(list(arguments))
    with collecting(filters=Filters(frozenset([command.pid]), children=True)) as running:
        command.release()
        while command.running():
            running.attend(0.1)
        profile = running.collect()
    assert command.exit_code() == 0
    assert_truthful(profile)
    return profile


def test_samples_say_of_what_kind_the_cpu_was_that_they_were_taken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_samples_name_their_cpus_kinds(sampling, monkeypatch)


def test_known_shares_of_two_call_chains_are_measured(compile_c: Compile) -> None:
    profile = of_command(str(compile_c("chains")), "4")
    hot = count_of(profile, "hot_inner", "hot_outer", "main")
    cold = count_of(profile, "cold_inner", "cold_outer", "main")
    assert hot + cold > 600
    low, high = binomial_interval(hot + cold, 0.75)
    assert low <= hot <= high
    assert hot + cold >= 0.97 * profile.accounting.sampled
    in_order = sum(s.count for s in profile.samples if functions(s)[:3] == ["hot_inner", "hot_outer", "main"])
    assert in_order >= 0.97 * hot


def test_kernel_work_is_named_below_the_program_that_asked_for_it(compile_c: Compile) -> None:
    profile = of_command(str(compile_c("syscalls")), "2")
    kernel = sum(
        s.count for s in profile.samples if s.stack and s.stack[0].frames[0].kind in (Kind.KERNEL, Kind.MODULE)
    )
    assert kernel > 0.9 * profile.accounting.sampled > 100
    assert count_of(profile, "read_zeroes", "main") > 0.8 * profile.accounting.sampled


def test_processes_that_share_their_stacks_addresses_keep_their_own_stacks(compile_c: Compile) -> None:
    program = str(compile_c("chains", "-static", "-no-pie"))
    with busy(program, "60") as pids, collecting(filters=Filters(frozenset(pids))) as running:
        profile = attend(running, 2)
    for pid in pids:
        own = [sample for sample in profile.samples if sample.pid == pid]
        ticks = sum(sample.count for sample in own)
        assert ticks > 50
        assert sum(s.count for s in own if "main" in functions(s)) > 0.97 * ticks


def test_children_of_a_command_are_sampled_and_nothing_else(compile_c: Compile) -> None:
    threads, chains = compile_c("threads", "-pthread"), compile_c("chains")
    with busy(str(chains), "60", times=1) as (other,):
        profile = of_command("sh", "-c", f"sh -c '{chains} 1; true'; {threads} 1; true")
    assert count_of(profile, "hot_inner", "main") > 50
    assert count_of(profile, "work_left") > 20 and count_of(profile, "work_right") > 20
    assert other not in {sample.pid for sample in profile.samples}
    assert profile.accounting.filtered > 0


def test_processes_that_have_ended_leave_the_filter(compile_c: Compile) -> None:
    command = GatedCommand(["sh", "-c", f"{compile_c('threads', '-pthread')} 0.2; /bin/true"])
    with sampling(filters=Filters(frozenset([command.pid]), children=True)) as running:
        command.release()
        assert command.exit_code() == 0
        end = time.monotonic() + 20
        pids, first = running.map_fd("pids"), c.c_uint32()
        while library().bpf_map_get_next_key(pids, None, c.byref(first)) == 0:
            assert time.monotonic() < end, "ended processes stay in the filter"
            time.sleep(0.05)


def test_a_process_whose_first_thread_has_ended_is_still_sampled(tmp_path: Path) -> None:
    source = tmp_path / "leaderless.c"
    source.write_text(
        "#include <pthread.h>\n"
        "static volatile long sink;\n"
        "static void *burn(void *unused) { for (;;) sink++; return unused; }\n"
        "int main(void) { pthread_t t; pthread_create(&t, 0, burn, 0); pthread_exit(0); }\n"
    )
    program = tmp_path / "leaderless"
    subprocess.run(["gcc", "-O0", "-pthread", "-o", str(program), str(source)], check=True)
    with busy("sh", "-c", f"sleep 1; exec {program}", times=1) as (pid,):
        with collecting(filters=Filters(frozenset([pid]))) as running:
            attend(running, 2)
            profile = attend(running, 1)
    assert sum(sample.count for sample in profile.samples if sample.pid == pid) > 50


def test_a_cgroup_can_be_asked_for(compile_c: Compile) -> None:
    program = str(compile_c("chains"))
    with busy(program, "60", times=1) as (outside,), busy_in_cgroup(program, "60") as group:
        with collecting(filters=Filters(cgroups=frozenset([cgroup_id(group)]))) as running:
            profile = attend(running, 2)
    (pid,) = {sample.pid for sample in profile.samples}
    assert pid != outside
    assert count_of(profile, "hot_inner") > 0 and profile.accounting.filtered > 0


def test_windows_close_exactly_one_after_the_other_under_load(compile_c: Compile) -> None:
    with busy(str(compile_c("stacks")), "8", "100"), sampling(4999, window_seconds=1) as running:
        for _ in range(20):
            time.sleep(0.1)
            window = running.drain()
            assert_agrees(window)
            assert window.counted.lost == {}
            assert window.counted.sampled > 0


def test_the_default_workload_loses_nothing_however_different_its_stacks_are(compile_c: Compile) -> None:
    cpus = os.cpu_count() or 1
    with busy(str(compile_c("stacks")), "18", "100", times=cpus) as pids, sampling() as running:
        time.sleep(9)  # of the ten seconds that there is room for
        window = running.drain()
    assert_agrees(window)
    assert window.counted.lost == {}
    theirs = np.isin(window.keys["tgid"], pids)
    ids = np.unique(window.keys["user_stack"][theirs])
    assert len(ids) > 0.7 * int(window.counts[theirs].sum()) > 0
    assert (ids >= 1 << 63).sum() > 10, "no stack's id was taken by another: this has tested nothing"


def test_stacks_whose_id_is_taken_and_that_find_no_room_are_lost_by_that_reason(
    compile_c: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bcc, "_FEWEST_ENTRIES", 256)
    monkeypatch.setattr(bcc, "_MOST_ENTRIES", 256)
    with busy(str(compile_c("stacks")), "18", "100"), sampling(999) as running:
        time.sleep(1)
        window = running.drain()
        assert_agrees(window)
        assert window.counted.lost["stack id collision"] > 100
        assert window.counted.sampled > 100
        running.drain()
        time.sleep(0.5)
        again = running.drain()  # this generation was drained before, and is empty again
    assert_agrees(again)
    assert again.counted.sampled > 100


def test_both_backends_see_the_same(compile_c: Compile) -> None:
    with busy(str(compile_c("chains")), "60", times=1) as (pid,):
        filters = Filters(frozenset([pid]))
        prebuilt = Sampler(499, filters=filters)
        try:
            with sampling(499, filters=filters) as compiled:
                prebuilt.drain()
                compiled.drain()
                time.sleep(2)
                one, other = prebuilt.drain(), compiled.drain()
        finally:
            prebuilt.close()
    for window in (one, other):
        assert_agrees(window)
    assert other.counted.sampled == pytest.approx(one.counted.sampled, rel=0.05)
    assert set(other.keys["cgroup"]) == set(one.keys["cgroup"])
    assert set(other.keys["comm"]) == set(one.keys["comm"]) == {b"chains"}
    assert other.counted.run_ns > 0


def test_the_compilers_memory_does_not_stay_with_the_agent() -> None:
    Sampler(99).close()  # so that what both backends need is loaded
    gc.collect()
    before = rss_bytes()
    with sampling() as running:
        running.drain()
        assert rss_bytes() - before < 20 << 20
        own_children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        assert not [pid for pid in own_children if "bcc_child" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert running.locked_bytes() < 32 << 20


def test_two_capabilities_are_enough_to_sample_the_whole_machine() -> None:
    script = "from profiler.bcc import BccSampler; s = BccSampler(99); print(s.drain().window.seconds >= 0); s.close()"
    limited = ["setpriv", "--bounding-set=-all,+perfmon,+bpf", sys.executable, "-c", script]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_closing_leaves_no_file_open() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    with sampling():
        pass
    before = count()
    with sampling(filters=Filters(frozenset([1]), children=True)):
        assert count() > before
    assert count() == before


def test_the_kernels_own_archive_of_headers_serves(tmp_path: Path) -> None:
    folders = bcc.find_headers().folders
    assert folders, "this test packs the headers that are installed"
    archive = tmp_path / "sys/kernel/kheaders.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz", preset=0) as packed:
        for folder in folders:
            for part in ("include/linux", "include/uapi", "include/asm-generic", "include/generated", "include/vdso"):
                if (folder / part).is_dir():
                    packed.add(folder / part, part)
            for arch in (folder / "arch").iterdir():
                if (arch / "include").is_dir():
                    packed.add(arch / "include", f"arch/{arch.name}/include")
    before = set(Path("/tmp").iterdir())
    compile_sampler(Filters(), 64, root=tmp_path).close()
    assert not [path for path in set(Path("/tmp").iterdir()) - before if "headers" in path.name]


def test_headers_that_the_compiler_cannot_use_are_named(tmp_path: Path) -> None:
    tree = tmp_path / "usr/src/linux-headers-1.0"
    for part in ("include/linux", "include/generated", f"arch/{bcc._arch()}/include/generated"):
        (tree / part).mkdir(parents=True)
    (tree / "include/linux/kconfig.h").touch()
    (tree / "include/generated/autoconf.h").touch()
    with pytest.raises(BpfError, match=r"cannot compile .*linux-headers-1.0 \(.*file not found\): install .*\.$"):
        compile_sampler(Filters(), 64, root=tmp_path)
