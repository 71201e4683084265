"""`pilotlight run`, agent and server: from ticks to the page, through deaths and restarts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from profiler.formats.json import read_json
from profiler.model import Profile
from tests.live.support import PILOTLIGHT, Compile, assert_truthful, count_of


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the unprivileged server can reach."""
    folder = tmp_path_factory.mktemp("store")
    for parent in [folder, *folder.parents[:3]]:
        parent.chmod(parent.stat().st_mode | 0o755)
    return folder / "data"


class Running:
    """A pilotlight process, its URL once it has said it, and what it says on stderr."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [PILOTLIGHT, *arguments], stdout=subprocess.PIPE, stderr=log.open("ab"), text=True
        )

    def url(self) -> str:
        assert self.process.stdout
        found = re.search(r"http://[\w.:\[\]]+", self.process.stdout.readline())
        assert found, self.log.read_text()
        return found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()
        return code


@contextmanager
def running(*arguments: str, log: Path) -> Iterator[Running]:
    started = Running(*arguments, log=log)
    try:
        yield started
    finally:
        started.stop(signal.SIGKILL if started.process.poll() is None else signal.SIGTERM)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def profile_of(url: str) -> Profile | None:
    """All that the server has of the last hour, None while it has nothing."""
    try:
        return read_json(get(f"{url}/flamegraph.json?from=now-1h"))
    except (urllib.error.HTTPError, urllib.error.URLError, ConnectionError):
        return None


def wait_for_profile(url: str, seconds: float, ticks: int = 1) -> Profile:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        profile = profile_of(url)
        if profile is not None and profile.accounting.ticks >= ticks:
            return profile
        time.sleep(0.3)
    raise AssertionError(f"no profile within {seconds} s")


def windows(url: str) -> int:
    hosts: list[dict[str, Any]] = json.loads(get(f"{url}/hosts.json"))["hosts"]
    return sum(host["windows"] for host in hosts)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_pid(parent: int) -> int:
    return int(subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()[0])


def test_within_fifteen_seconds_the_page_shows_what_runs_and_history_goes_on(
    compile_c: Compile, data: Path, tmp_path: Path
) -> None:
    busy = subprocess.Popen([str(compile_c("chains")), "120"])
    log = tmp_path / "log"
    try:
        with running("run", "--listen", "127.0.0.1:0", "--data", str(data), log=log) as run:
            url = run.url()
            first = wait_for_profile(url, 15)
            assert_truthful(first)
            assert count_of(first, "main", "hot_outer", "hot_inner") > 0
            kinds = {frame.kind for sample in first.samples for at in sample.stack for frame in at.frames}
            assert "kernel" in kinds
            for path in ("/", "/flamegraph", "/flamegraph.svg", "/healthz", "/readyz", "/metrics", "/openapi.json"):
                assert get(url + path)
            server = server_pid(run.process.pid)
            assert os.stat(f"/proc/{server}").st_uid != 0
            more = wait_for_profile(url, 25, ticks=first.accounting.ticks + 100)
            assert_truthful(more)
            before = windows(url)
            run.process.send_signal(signal.SIGTERM)
            assert run.process.wait(60) == 0
            assert not os.path.exists(f"/proc/{server}")
        assert "Traceback" not in log.read_text()
        with running("server", "--listen", "127.0.0.1:0", "--store", f"chdb://{data}", log=log) as server_only:
            assert windows(server_only.url()) == before + 1, "the window in hand was flushed on SIGTERM"
    finally:
        busy.kill()
        busy.wait()


def test_a_killed_server_comes_back_with_every_window(data: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running("run", "--listen", f"127.0.0.1:{free_port()}", "--data", str(data), log=log) as run:
        url = run.url()
        before = wait_for_profile(url, 20)
        first = server_pid(run.process.pid)
        os.kill(first, signal.SIGKILL)
        end = time.monotonic() + 40
        while time.monotonic() < end:
            after = profile_of(url)
            if after is not None and windows(url) >= 3:
                break
            time.sleep(0.5)
        else:
            raise AssertionError(log.read_text())
        assert server_pid(run.process.pid) != first
        assert after.window.start_ns == before.window.start_ns
        assert after.accounting.ticks > before.accounting.ticks
        assert_truthful(after)
        gap = after.accounting.expected - after.accounting.ticks
        assert gap < 0.6 * after.accounting.expected  # an idle CPU may not tick at all in some virtual machines
    said = log.read_text()
    assert "The server ended (signal 9); starting it again." in said and "Traceback" not in said


def test_a_killed_run_takes_its_server_along_and_can_be_started_again(data: Path, tmp_path: Path) -> None:
    arguments = ["run", "--listen", f"127.0.0.1:{free_port()}", "--data", str(data)]
    with running(*arguments, log=tmp_path / "log") as run:
        before = wait_for_profile(run.url(), 20)
        server = server_pid(run.process.pid)
        run.stop(signal.SIGKILL)
        end = time.monotonic() + 30
        while os.path.exists(f"/proc/{server}"):
            assert time.monotonic() < end, "the server lives on"
            time.sleep(0.1)
    with running(*arguments, log=tmp_path / "log") as run:
        after = profile_of(run.url())
        assert after is not None and after.accounting.ticks >= before.accounting.ticks


def test_an_agent_outlives_its_server_and_delivers_what_it_kept(data: Path, tmp_path: Path) -> None:
    port = free_port()
    address, log = f"127.0.0.1:{port}", tmp_path / "log"
    with running("agent", "--server", f"http://{address}", "--label", "rack=r7", log=log) as agent:
        time.sleep(12)
        assert agent.process.poll() is None
        with running("server", "--listen", address, "--store", f"chdb://{data}", log=log) as server:
            url = server.url()
            profile = wait_for_profile(url, 45)
            assert profile.labels == {"rack": "r7"}
            assert agent.stop() == 0
            assert windows(url) >= 2
    said = log.read_text()
    assert "kept in memory" in said and "Traceback" not in said


def test_a_killed_agent_is_followed_by_another_without_confusion(data: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running("server", "--listen", "127.0.0.1:0", "--store", f"chdb://{data}", log=log) as server:
        url = server.url()
        with running("agent", "--server", url, log=log) as agent:
            before = wait_for_profile(url, 20)
            agent.stop(signal.SIGKILL)
        with running("agent", "--server", url, log=log) as agent:
            after = wait_for_profile(url, 25, ticks=before.accounting.ticks + 1)
            assert_truthful(after)
            assert agent.stop() == 0


def test_a_port_in_use_is_said_in_a_sentence(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (["run", "--data", str(data)], ["server", "--store", f"chdb://{data}"]):
            done = subprocess.run(
                [PILOTLIGHT, *command, "--listen", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=90
            )
            assert done.returncode == 1
            assert "Traceback" not in done.stderr and str(port) in done.stderr


def test_an_open_address_without_a_token_is_refused(data: Path, tmp_path: Path) -> None:
    command = [PILOTLIGHT, "server", "--store", f"chdb://{data}", "--listen", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode in (1, 2)
    assert "token" in done.stderr and "Traceback" not in done.stderr
