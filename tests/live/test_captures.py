"""Captures of this machine for real: cut out of the running stream, by a sampler of their own, and through deaths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from profiler.collector import Collector, Sampling, View
from profiler.events import online_cpus
from profiler.formats.json import read_json
from profiler.model import Profile, merge
from profiler.sampler import Filters
from tests.live.support import Compile, assert_truthful, count_of, samples_of, total
from tests.live.test_run import Running, data, get, running

__all__ = ["data"]
CPUS = len(online_cpus())
OVER = ("done", "cancelled", "failed", "expired")


@contextmanager
def busy(*command: str) -> Iterator[int]:
    process = subprocess.Popen(command)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def chains(compile_c: Compile) -> str:
    return str(compile_c("chains"))


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Iterator[tuple[Running, str]]:
    options = ("--listen", "127.0.0.1:0", "--data", str(data), "--max-overhead", "0")
    with running("run", *options, log=tmp_path / "log") as started:
        yield started, started.url()


def ask(url: str, **wanted: object) -> dict[str, Any]:
    """Asks as soon as the agent listens."""
    request = urllib.request.Request(
        f"{url}/api/v1/captures", json.dumps(wanted).encode(), {"content-type": "application/json"}
    )
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                made: dict[str, Any] = json.loads(answer.read())
                return made
        except urllib.error.HTTPError as error:
            if error.code != 404 or time.monotonic() > end:
                raise
            time.sleep(0.2)


def look(url: str, made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(url + made["links"]["self"]))
    return found


def wait(url: str, made: dict[str, Any], *states: str, seconds: float = 120) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (found := look(url, made))["state"] not in (states or OVER):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def profile_of(url: str, found: dict[str, Any]) -> Profile:
    profile = read_json(get(url + found["links"]["json"]))
    assert_truthful(profile)
    return profile


def assert_whole(profile: Profile, hz: int, seconds: float) -> None:
    """Its ticks are those of its time: all that were due but for those that the machine did not give."""
    accounting = profile.accounting
    assert profile.hz == hz and seconds <= profile.window.seconds
    assert accounting.expected == pytest.approx(hz * CPUS * profile.window.seconds, rel=0.02)
    assert 0.5 * accounting.expected < accounting.ticks <= 1.02 * accounting.expected + CPUS


def test_views_of_the_same_time_are_parts_of_the_same_ticks(chains: str) -> None:
    collector = Collector(Sampling(199))
    try:
        with busy(chains, "60") as pid, busy(chains, "60") as other:
            collector.attend(0.5)
            collector.cut([])
            own = collector.open_sampler(499, Filters(frozenset([pid])))
            views = [View(Filters(frozenset([pid]))), View(Filters()), View(Filters(frozenset([pid])), own)]
            parts: list[list[Profile]] = []
            for _ in range(4):
                collector.attend(0.7)
                parts.append(collector.cut(views))
            collector.close_sampler(own)
            after = collector.cut([])[0]
    finally:
        collector.close()
    whole, of_pid, of_all, of_own = (merge(column) for column in zip(*parts, strict=True))
    for profile in (whole, of_pid, of_all, of_own, after):
        assert_truthful(profile)
    assert of_all.accounting.ticks == whole.accounting.ticks
    assert total(of_all.samples) == total(whole.samples)
    assert of_pid.accounting.ticks == whole.accounting.ticks
    assert of_pid.accounting.idle == whole.accounting.idle
    expected = total(sample for sample in whole.samples if sample.pid == pid)
    assert total(of_pid.samples) == expected > 0
    assert of_pid.accounting.filtered == whole.accounting.sampled - expected
    assert {sample.pid for sample in of_own.samples} == {pid}
    assert_whole(of_own, 499, 2)
    # The second sampler walks by the tables and mappings of the first.
    assert count_of(of_own, "main") > 0.8 * total(of_own.samples)
    assert of_own.accounting.unwinding.whole > 0.8 * total(of_own.samples)
    assert other != pid


def test_a_capture_is_cut_out_of_the_running_stream(run: tuple[Running, str], chains: str) -> None:
    _, url = run
    with busy(chains, "120") as pid:
        before = cpu_seconds(pid)
        first = ask(url, seconds=6, name="all of it")
        wait(url, first, "running", *OVER)
        second = ask(url, seconds=2, pid=pid)
        fast = ask(url, seconds=3, hz=499, pid=pid)
        found = [wait(url, made) for made in (first, second, fast)]
        used = cpu_seconds(pid) - before
    assert [one["state"] for one in found] == ["done"] * 3, found
    whole, of_pid, of_own = (profile_of(url, one) for one in found)
    assert_whole(whole, 99, 6)
    assert_whole(of_pid, 99, 2)
    assert_whole(of_own, 499, 3)
    for profile in (of_pid, of_own):
        assert {sample.pid for sample in profile.samples} == {pid}
        assert profile.accounting.filtered > 0
        assert count_of(profile, "main") > 0.8 * total(profile.samples)
    assert total(samples_of(whole, "chains")) / whole.hz <= used + 1
    assert total(of_own.samples) / of_own.hz <= used + 1
    assert whole.accounting.sampled > total(samples_of(whole, "chains")) > 0
    # The history has all ticks once, however often its windows were cut: a window's worth in each.
    end = time.monotonic() + 40
    while (stored := history(url)) is None or stored.window.end_ns < whole.window.end_ns:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert_truthful(stored)
    assert stored.hz == 99
    assert stored.accounting.expected <= 1.02 * 99 * CPUS * stored.window.seconds
    hosts = json.loads(get(f"{url}/hosts.json"))["hosts"]
    assert [host["event"] for host in hosts] == ["cpu-clock"] and hosts[0]["rates"] == [99]


def history(url: str) -> Profile | None:
    try:
        return read_json(get(f"{url}/flamegraph.json?from=now-1h"))
    except urllib.error.HTTPError:
        return None


def test_a_cancelled_capture_keeps_what_it_has(run: tuple[Running, str]) -> None:
    _, url = run
    made = ask(url, seconds=500, hz=199)
    while look(url, made)["progress"]["seconds"] < 1:
        time.sleep(0.2)
    request = urllib.request.Request(url + made["links"]["self"], method="DELETE")
    urllib.request.urlopen(request, timeout=30).close()
    found = wait(url, made)
    assert found["state"] == "cancelled" and found["problem"] == ""
    profile = profile_of(url, found)
    assert_whole(profile, 199, 1)
    assert profile.window.seconds < 400
    gone = wait(url, ask(url, seconds=5, pid=4_000_000_000))
    assert (gone["state"], gone["problem"]) == ("failed", "There is no process 4000000000.")


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "The agent was stopped before the end."), (signal.SIGKILL, "has not been")]
)
def test_an_agent_that_ends_leaves_what_it_had(data: Path, tmp_path: Path, number: signal.Signals, said: str) -> None:
    store = ("--store", f"chdb://{data}", "--user", "nobody")
    with running("server", "--listen", "127.0.0.1:0", *store, log=tmp_path / "server") as server:
        url = server.url()
        with running("agent", "--server", url, "--host", "web-1", log=tmp_path / "agent") as agent:
            made = ask(url, host="web-1", seconds=12)
            while "json" not in look(url, made)["links"]:
                time.sleep(0.2)
            agent.stop(number)
            found = wait(url, made)
        assert found["state"] == "failed" and said in found["problem"], found
        assert 0 < profile_of(url, found).window.seconds < 12
        with running("agent", "--server", url, "--host", "web-1", log=tmp_path / "agent"):
            again = wait(url, ask(url, host="web-1", seconds=1))
            assert again["state"] == "done", again
        with pytest.raises(urllib.error.HTTPError) as none:
            ask(url, host="web-1", seconds=1, hz=20_000)
        assert none.value.code == 400 and b"10000" in none.value.read()
        request = urllib.request.Request(
            f"{url}/api/v1/captures", b'{"host": "nowhere"}', {"content-type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as unknown:
            urllib.request.urlopen(request, timeout=30)
        assert unknown.value.code == 404 and b"there is no host 'nowhere'; there are web-1" in unknown.value.read()
