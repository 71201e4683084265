"""What can be chosen about sampling: the memory for unwind tables, the backend, and what it may cost."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from profiler import sampler
from profiler.collector import Collector, Sampling
from profiler.model import Profile
from profiler.sampler import Filters
from symbolizer.types import Reason
from tests.live.support import PILOTLIGHT, Compile, Record, assert_truthful, count_of


def window(collector: Collector, seconds: float) -> Profile:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        collector.attend(min(left, 0.5))
    profile = collector.collect()
    assert_truthful(profile)
    return profile


def whole_share(profile: Profile) -> float:
    unwinding = profile.accounting.unwinding
    return unwinding.whole / max(unwinding.whole + sum(unwinding.cut.values()), 1)


def test_without_memory_for_tables_stacks_are_walked_by_frame_pointers_and_say_nothing_of_their_end(
    compile_c: Compile, record: Record
) -> None:
    profile = record("--unwind-memory", "0", "--", str(compile_c("chains")), "2")
    unwinding = profile.accounting.unwinding
    assert unwinding.unchecked > 50 and unwinding.whole == 0 and not unwinding.cut
    assert count_of(profile, "hot_inner", "main") > 50


def test_the_bcc_backend_can_be_asked_for(compile_c: Compile, record: Record) -> None:
    profile = record("--backend", "bcc", "--", str(compile_c("chains")), "2")
    assert count_of(profile, "hot_inner", "main") > 50
    assert profile.accounting.lost == {}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--unwind-memory", "lots", "'lots' is no size such as 64M"),
        ("--unwind-memory", "-1", "no size"),
        ("--backend", "ebpf", "invalid choice: 'ebpf'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_wrong(option: str, value: str, says: str, tmp_path: Path) -> None:
    command = [PILOTLIGHT, "record", f"{option}={value}", "-d", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["much", "-1%", "200%"])
def test_an_overhead_that_is_no_share_of_a_cpu_is_refused(value: str, tmp_path: Path) -> None:
    command = [PILOTLIGHT, "agent", "--server", "http://127.0.0.1:9", f"--max-overhead={value}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and "no share of one CPU such as 1%" in done.stderr


def test_sampling_that_costs_too_much_goes_on_at_a_lower_rate_that_each_window_carries(compile_c: Compile) -> None:
    busy = [subprocess.Popen([str(compile_c("chains")), "60"]) for _ in range(2)]
    collector = Collector(Sampling(hz=900, max_overhead=0.00002), window_seconds=1)
    try:
        windows = [window(collector, 1)]
        while windows[-1].hz == 900 and len(windows) < 30:
            windows.append(window(collector, 1))
        windows.append(window(collector, 1))
    finally:
        collector.close()
        for process in busy:
            process.kill()
            process.wait()
    rates = [profile.hz for profile in windows]
    assert rates[0] == 900 and rates[-1] < 900 and 900 % rates[-1] == 0
    assert rates == sorted(rates, reverse=True)
    for profile in windows:
        accounting = profile.accounting
        assert accounting.expected == pytest.approx(profile.hz * 2 * profile.window.seconds, rel=0.2, abs=2)


def test_a_kernel_without_bpf_loop_walks_in_bounded_steps(compile_c: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "BPF_LOOP_SINCE", (1000, 0))
    program = str(compile_c("chains", "-O2", "-fomit-frame-pointer"))
    process = subprocess.Popen([program, "60"])
    collector = Collector(Sampling(hz=199), filters=Filters(frozenset([process.pid])))
    try:
        assert collector.sampler.tick_program == "on_tick_bounded"
        window(collector, 1)
        profile = window(collector, 2)
    finally:
        collector.close()
        process.kill()
        process.wait()
    assert profile.accounting.sampled > 100 and whole_share(profile) == 1.0
    assert count_of(profile, "main", "_start") == profile.accounting.sampled


def test_with_too_little_memory_for_its_table_a_stack_ends_there_with_the_reason(compile_c: Compile) -> None:
    process = subprocess.Popen([str(compile_c("chains", "-O2", "-fomit-frame-pointer")), "60"])
    collector = Collector(Sampling(hz=199, unwind_bytes=1024), filters=Filters(frozenset([process.pid])))
    try:
        window(collector, 1)
        profile = window(collector, 2)
    finally:
        collector.close()
        process.kill()
        process.wait()
    assert profile.accounting.sampled > 100
    reasons = {Reason.NO_UNWIND_TABLE.value, Reason.UNWIND_TABLE_NOT_LOADED.value}
    assert set(profile.accounting.unwinding.cut) <= reasons and whole_share(profile) == 0
