"""The sampler itself: windows that close under load, full maps, lost records, CPUs that come and go."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from profiler import events, records, sampler
from profiler.libbpf import BpfError, BpfObject
from profiler.processes import Processes
from profiler.records import RecordStream
from profiler.sampler import RawWindow, Sampler
from tests.live.support import Compile


@contextmanager
def sampling(hz: int, **options: float) -> Iterator[Sampler]:
    started = Sampler(hz, **options)  # type: ignore[arg-type]
    try:
        yield started
    finally:
        started.close()


@contextmanager
def busy(*command: str, times: int = 2) -> Iterator[list[int]]:
    processes = [subprocess.Popen(command) for _ in range(times)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def sleep_while_busy(pids: list[int], cpu_seconds: float) -> None:
    """Until the processes have used so much CPU together from now on, however long that takes them."""
    deadline = time.monotonic() + 60
    end = cpu_used(pids) + cpu_seconds
    while time.monotonic() < deadline and cpu_used(pids) < end:
        time.sleep(0.1)


def cpu_used(pids: list[int]) -> float:
    """Seconds, of all together, until now."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(of[11]) + int(of[12]) for of in fields) / os.sysconf("SC_CLK_TCK")


def assert_agrees(window: RawWindow) -> None:
    """What the kernel counted closes, and the samples that came are those it counted; each has its stacks."""
    counted = window.counted
    assert counted.ticks == counted.idle + counted.filtered + counted.sampled + sum(counted.lost.values())
    assert int(window.counts.sum()) == counted.sampled
    for name in ("kernel_stack", "user_stack"):
        ids = window.keys[name]
        assert (window.stacks.find(ids[ids != 0]) >= 0).all()


def test_windows_close_exactly_one_after_the_other_under_load(compile_c: Compile) -> None:
    with busy(str(compile_c("stacks")), "14", "100"), sampling(4999, window_seconds=1) as running:
        for _ in range(30):
            time.sleep(0.1)
            window = running.drain()
            assert_agrees(window)
            assert window.counted.lost == {}
            assert window.counted.sampled > 0


def test_no_sample_is_lost_with_forty_thousand_distinct_stacks(compile_c: Compile) -> None:
    with busy(str(compile_c("stacks")), "18", "100") as pids, sampling(4999, window_seconds=10) as running:
        sleep_while_busy(pids, 11)
        window = running.drain()
    assert_agrees(window)
    assert window.counted.lost == {}
    assert len(set(window.keys["user_stack"].tolist())) > 40_000


def test_full_maps_lose_samples_by_that_reason_and_the_account_still_closes(
    compile_c: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "_FEWEST_ENTRIES", 256)
    monkeypatch.setattr(sampler, "_MOST_ENTRIES", 256)
    with busy(str(compile_c("stacks")), "18", "100"), sampling(4999) as running:
        time.sleep(1)
        window = running.drain()
    assert_agrees(window)
    assert window.counted.lost["stack map full"] > 100
    assert window.counted.sampled > 0


def test_older_kernels_get_maps_that_are_allocated_up_front(
    compile_c: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "kernel_version", lambda: (5, 15))
    with busy(str(compile_c("stacks")), "14", "100"), sampling(499) as running:
        assert running.locked_bytes() > 30 << 20
        time.sleep(1)
        window = running.drain()
    assert_agrees(window)
    assert window.counted.lost == {} and window.counted.sampled > 0


@contextmanager
def busy_cpus() -> Iterator[dict[int, int]]:
    """A busy process on each CPU, by its pid."""
    spin = "while :; do :; done"
    processes = {cpu: subprocess.Popen(["taskset", "-c", str(cpu), "sh", "-c", spin]) for cpu in events.online_cpus()}
    try:
        yield {process.pid: cpu for cpu, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def assert_samples_name_their_cpus_kinds(
    sampling: Callable[[int], AbstractContextManager[Sampler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {cpu: "big" if cpu % 2 else "little" for cpu in events.online_cpus()}
    del kinds[min(kinds)]  # of one nothing is told
    monkeypatch.setattr(sampler, "cpu_kinds", lambda: kinds)
    with busy_cpus() as cpu_of:
        time.sleep(0.2)  # until each runs where it belongs
        with sampling(199) as running:
            sleep_while_busy(list(cpu_of), 2)
            window = running.drain()
    assert_agrees(window)
    found: dict[int, set[str]] = {pid: set() for pid in cpu_of}
    for pid, kind in zip(window.keys["tgid"].tolist(), window.keys["cpu_kind"].tolist(), strict=True):
        if pid in found:
            found[pid].add(window.cpu_kinds[kind])
    assert found == {pid: {kinds.get(cpu, "")} for pid, cpu in cpu_of.items()}


def test_samples_say_of_what_kind_the_cpu_was_that_they_were_taken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_samples_name_their_cpus_kinds(sampling, monkeypatch)


def test_a_cpu_that_goes_and_comes_is_followed() -> None:
    switch = Path("/sys/devices/system/cpu/cpu1/online")
    assert switch.exists(), "this machine cannot take a CPU offline"
    with sampling(99) as running:
        try:
            switch.write_text("0")
            running.follow_cpus(events.online_cpus())
            running.drain()
            time.sleep(1)
            running.follow_cpus(events.online_cpus())
            alone = running.drain()
        finally:
            switch.write_text("1")
        running.follow_cpus(events.online_cpus())
        with busy("sh", "-c", "while :; do :; done", times=2 * (os.cpu_count() or 1)):
            running.drain()
            time.sleep(1)
            both = running.drain()
    cpus = os.cpu_count() or 2
    assert alone.cpu_seconds / alone.window.seconds == pytest.approx(cpus - 1, rel=0.1)
    assert both.cpu_seconds / both.window.seconds == pytest.approx(cpus, rel=0.1)
    assert both.counted.ticks > 0.8 * 99 * both.cpu_seconds
    for window in (alone, both):
        assert_agrees(window)


def test_the_rate_changes_between_windows_and_each_carries_its_own() -> None:
    with busy("sh", "-c", "while :; do :; done", times=2 * (os.cpu_count() or 1)), sampling(990) as running:
        rates = [990, 99, 11, 495]
        for hz, following in zip(rates, [*rates[1:], 0], strict=True):
            time.sleep(2)
            window = running.drain(following)
            assert window.hz == hz
            assert window.counted.ticks == pytest.approx(hz * window.cpu_seconds, rel=0.2)
            assert_agrees(window)


def test_lost_process_records_are_counted_and_healed(monkeypatch: pytest.MonkeyPatch, compile_c: Compile) -> None:
    monkeypatch.setattr(records, "_SMALLEST_RING", 8 << 10)
    monkeypatch.setattr(records, "_LARGEST_RING", 8 << 10)
    stream, known = RecordStream(), Processes()
    try:
        known.scan()
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done"], check=True)
        with busy(str(compile_c("chains")), "60", times=1) as (pid,):
            time.sleep(0.3)
            end = time.monotonic() + 30
            while not known.records_lost:  # the kernel says how many it dropped once there is room again
                assert time.monotonic() < end
                known.apply(stream.read())
                subprocess.run(["/bin/true"], check=True)
            program = [p for p in known.programs(pid, 0, 1 << 62) if p.name == "chains"][-1]
            assert any(mapping.path.endswith("/chains") for mapping in program.mapped.mappings())
    finally:
        stream.close()


def test_perf_works_beside_the_process_records(tmp_path: Path) -> None:
    """Records with build ids would have perf crash: the kernel marks those of other events as well (buildids.py)."""
    stream = RecordStream()
    try:
        data = str(tmp_path / "perf.data")
        command = ["sh", "-c", "for i in 1 2 3 4 5 6; do /bin/true; done"]
        recorded = subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-o", data, "--", *command])
        shown = subprocess.run(["perf", "script", "-i", data, "--show-mmap-events"], capture_output=True, text=True)
    finally:
        stream.close()
    assert recorded.returncode == 0 and shown.returncode == 0, shown.stderr
    assert shown.stdout.count("/true") >= 6


def test_a_rate_above_the_kernels_limit_is_refused_with_the_way_to_raise_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "rate"
    limit.write_text("500\n")
    monkeypatch.setattr(events, "_MAX_RATE", limit)
    with pytest.raises(events.EventError, match=r"at most 500 .*sysctl kernel.perf_event_max_sample_rate=999"):
        Sampler(999)


def test_a_missing_or_broken_bpf_object_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="has not been built"):
        BpfObject(tmp_path / "none.o")
    (tmp_path / "broken.o").write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(BpfError, match="cannot be read"):
        BpfObject(tmp_path / "broken.o")


@pytest.mark.parametrize(
    ("number", "lockdown", "btf", "said"),
    [
        (1, "none integrity [confidentiality]", True, "locked down"),
        (1, "[none] integrity confidentiality", True, "CAP_BPF"),
        (1, "", True, "root"),
        (3, "", True, "BTF"),
        (22, "", False, "CONFIG_DEBUG_INFO_BTF"),
        (12, "", True, "memory"),
        (22, "", True, "did not accept"),
    ],
)
def test_each_way_that_loading_fails_has_its_sentence(
    number: int, lockdown: str, btf: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from profiler import libbpf

    monkeypatch.setattr(libbpf, "_read", lambda path: lockdown)
    monkeypatch.setattr(os.path, "exists", lambda path: btf)
    sentence = libbpf._explain_load(number)
    assert said in sentence and sentence.endswith(".") and "\n" not in sentence
