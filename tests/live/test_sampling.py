"""What a profile says of programs whose behaviour is known."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from math import comb
from pathlib import Path

import pytest

from profiler.model import Profile
from symbolizer.types import Kind, Reason
from tests.live.support import Compile, Record, busy_in_cgroup, count_of, functions


@pytest.fixture(params=["libbpf", "bcc"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def binomial_interval(n: int, p: float, outside: float = 0.001) -> tuple[int, int]:
    """The range that k of n hits falls into but for a chance of `outside`, half of it at each end."""
    total, low, high = 0.0, 0, n
    for k in range(n + 1):
        total += comb(n, k) * p**k * (1 - p) ** (n - k)
        if total < outside / 2:
            low = k + 1
        if total >= 1 - outside / 2:
            high = k
            break
    return low, high


def test_known_shares_of_two_call_chains_are_measured(compile_c: Compile, record: Record) -> None:
    profile = record("-F", "199", "--", str(compile_c("chains")), "4")
    hot = count_of(profile, "hot_inner", "hot_outer", "main")
    cold = count_of(profile, "cold_inner", "cold_outer", "main")
    assert hot + cold > 600
    low, high = binomial_interval(hot + cold, 0.75)
    assert low <= hot <= high
    assert hot + cold >= 0.97 * profile.accounting.sampled


def test_the_chain_stands_in_the_right_order(compile_c: Compile, record: Record) -> None:
    profile = record("--", str(compile_c("chains")), "1")
    total, right = 0, 0
    for sample in profile.samples:
        names = functions(sample)
        if "hot_inner" in names:
            at = names.index("hot_inner")
            total += sample.count
            right += sample.count * (names[at : at + 3] == ["hot_inner", "hot_outer", "main"])
    # A tick on the first instruction of a function, before it keeps its frame pointer, misses the caller.
    assert total > 50 and right >= 0.97 * total


def test_kernel_work_is_named_below_the_program_that_asked_for_it(compile_c: Compile, record: Record) -> None:
    profile = record("--", str(compile_c("syscalls")), "2")
    kernel = sum(
        sample.count
        for sample in profile.samples
        if sample.stack and sample.stack[0].frames[0].kind in (Kind.KERNEL, Kind.MODULE)
    )
    assert kernel > 0.9 * profile.accounting.sampled
    assert any("zero" in name for sample in profile.samples for name in functions(sample)[:4])
    assert count_of(profile, "read_zeroes", "main") > 0.8 * profile.accounting.sampled


def test_threads_are_told_apart_by_name(compile_c: Compile, record: Record) -> None:
    profile = record("-F", "199", "--", str(compile_c("threads", "-pthread")), "2")
    for sample in profile.samples:
        for side, other in (("left", "right"), ("right", "left")):
            if f"work_{side}" in functions(sample):
                assert sample.thread == side
                assert sample.process == "threads"
                assert f"work_{other}" not in functions(sample)
    assert count_of(profile, "work_left") > 50 and count_of(profile, "work_right") > 50


def test_two_hundred_processes_of_five_milliseconds_keep_their_names(compile_c: Compile, record: Record) -> None:
    short = compile_c("short")
    loop = f"i=0; while [ $i -lt 200 ]; do {short}; i=$((i+1)); done"
    profile = record("-F", "499", "--", "sh", "-c", loop)
    ticks = sum(s.count for s in profile.samples if s.process == "short")
    assert ticks > 200
    own = [
        (frame, sample.count)
        for sample in profile.samples
        for location in sample.stack
        if location.binary and location.binary.path == str(short)
        for frame in location.frames
    ]
    assert sum(count for _, count in own) > 200
    assert [frame for frame, _ in own if frame.reason] == []
    assert count_of(profile, "short_lived_work") > 200


def test_a_program_that_execs_is_seen_as_both_programs(compile_c: Compile, record: Record) -> None:
    first, second = compile_c("chains"), compile_c("threads", "-pthread")
    script = f"{first} 1; exec {second} 1"
    profile = record("--", "sh", "-c", script)
    for sample in profile.samples:
        names = functions(sample)
        if "hot_inner" in names:
            assert sample.process == "chains"
        if "work_left" in names or "work_right" in names:
            assert sample.process == "threads"
    assert count_of(profile, "hot_inner") and count_of(profile, "work_left")


def test_a_library_loaded_while_sampling_is_named(compile_c: Compile, record: Record) -> None:
    plugin = compile_c("plugin", "-shared", "-fPIC", to="libplugin.so")
    profile = record("--", str(compile_c("loader", "-ldl")), str(plugin), "1")
    assert count_of(profile, "plugin_work", "main") > 0.9 * profile.accounting.sampled
    libraries = {
        at.binary.path for s in profile.samples for at in s.stack if at.binary and at.frames[-1].kind == Kind.NATIVE
    }
    assert str(plugin) in libraries


def test_a_binary_deleted_while_it_runs_is_named(compile_c: Compile, record: Record, tmp_path: Path) -> None:
    program = tmp_path / "doomed"
    shutil.copy(compile_c("chains"), program)
    process = subprocess.Popen([str(program), "60"])
    try:
        program.unlink()
        profile = record("-p", str(process.pid), "-d", "2")
    finally:
        process.kill()
        process.wait()
    assert count_of(profile, "hot_inner", "main") > 10


def test_a_binary_replaced_while_it_runs_is_not_named_by_its_successor(
    compile_c: Compile, record: Record, tmp_path: Path
) -> None:
    program = tmp_path / "upgraded"
    shutil.copy(compile_c("chains"), program)
    process = subprocess.Popen([str(program), "60"])
    try:
        program.unlink()
        shutil.copy(compile_c("threads", "-pthread"), program)
        profile = record("-p", str(process.pid), "-d", "2")
    finally:
        process.kill()
        process.wait()
    assert count_of(profile, "hot_inner", "main")
    assert not count_of(profile, "work_left")


def test_node_functions_are_named_by_its_perf_map(record: Record, tmp_path: Path) -> None:
    script = tmp_path / "busy.js"
    script.write_text(
        "function burnJavaScript(n) { let x = 0; for (let i = 0; i < n; i++) x = (x * 31 + i) | 0; return x; }\n"
        "const end = Date.now() + 3000; while (Date.now() < end) burnJavaScript(1e6);\n"
    )
    node = shutil.which("node")
    assert node
    profile = record("--", node, "--perf-basic-prof", "--interpreted-frames-native-stack", str(script))
    jit = [
        sample
        for sample in profile.samples
        for location in sample.stack
        for frame in location.frames
        if frame.kind == Kind.JIT and "burnJavaScript" in frame.function
    ]
    assert sum(sample.count for sample in jit) > 0.5 * profile.accounting.sampled


def test_a_stripped_program_is_unknown_for_that_reason(compile_c: Compile, record: Record) -> None:
    profile = record("--", str(compile_c("chains", "-s")), "1")
    reasons = {f.reason for s in profile.samples for location in s.stack for f in location.frames if f.reason}
    assert reasons & {Reason.NO_SYMBOLS, Reason.OUTSIDE_SYMBOLS}
    assert not count_of(profile, "hot_inner")
    assert sum(profile.accounting.frames_unknown.values()) > 0


def test_only_the_pids_asked_for_are_sampled_and_the_rest_is_filtered(compile_c: Compile, record: Record) -> None:
    program = str(compile_c("chains"))
    wanted, other = subprocess.Popen([program, "60"]), subprocess.Popen([program, "60"])
    try:
        profile = record("-p", str(wanted.pid), "-d", "2")
    finally:
        for process in (wanted, other):
            process.kill()
            process.wait()
    assert {sample.pid for sample in profile.samples} == {wanted.pid}
    assert profile.accounting.filtered > 0


def test_threads_started_after_the_recording_began_belong_to_their_pid(compile_c: Compile, record: Record) -> None:
    program = compile_c("threads", "-pthread")
    process = subprocess.Popen(["sh", "-c", f"sleep 1; exec {program} 2"])
    try:
        profile = record("-p", str(process.pid), "-d", "4")
    finally:
        process.kill()
        process.wait()
    assert {sample.pid for sample in profile.samples} == {process.pid}
    assert {"left", "right"} <= {sample.thread for sample in profile.samples}


def test_a_recording_ends_when_its_pids_have_ended(compile_c: Compile, record: Record) -> None:
    process = subprocess.Popen([str(compile_c("chains")), "1"])
    reaper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        profile = record("-p", str(process.pid), "-d", "60")
    finally:
        process.wait()
        reaper.kill()
        reaper.wait()
    assert profile.window.seconds < 20


def test_children_of_a_command_are_sampled(compile_c: Compile, record: Record) -> None:
    profile = record("--", "sh", "-c", f"sh -c '{compile_c('chains')} 2; true'; true")
    assert count_of(profile, "hot_inner", "main") > 10


def test_the_whole_machine_is_sampled_without_a_target(compile_c: Compile, record: Record) -> None:
    processes = [subprocess.Popen([str(compile_c("chains")), "60"]) for _ in range(os.cpu_count() or 1)]
    try:
        profile = record("-d", "2")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert {process.pid for process in processes} <= {sample.pid for sample in profile.samples}
    assert profile.accounting.filtered == 0
    assert profile.accounting.ticks > 0.9 * profile.accounting.expected


def test_a_cgroup_can_be_asked_for(compile_c: Compile, record: Record) -> None:
    program = str(compile_c("chains"))
    outside = subprocess.Popen([program, "60"])
    try:
        with busy_in_cgroup(program, "60") as group:
            profile = record("--cgroup", group, "-d", "2")
    finally:
        outside.kill()
        outside.wait()
    (pid,) = {sample.pid for sample in profile.samples}
    assert pid != outside.pid
    assert count_of(profile, "hot_inner") > 0 and profile.accounting.filtered > 0


def test_a_stopped_process_that_is_profiled_uses_no_ticks(compile_c: Compile, record: Record) -> None:
    process = subprocess.Popen([str(compile_c("chains")), "60"])
    process.send_signal(signal.SIGSTOP)
    try:
        profile: Profile = record("-p", str(process.pid), "-d", "1")
    finally:
        process.kill()
        process.wait()
    assert profile.accounting.sampled <= 1
