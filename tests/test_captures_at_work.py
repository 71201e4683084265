"""Captures by an agent at work, which samples nothing: asked for, cancelled, killed and stopped; by commands, too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from profiler import capture_link
from profiler.cli import main
from profiler.formats.json import read_json
from profiler.formats.pprof_read import read_pprof
from profiler.model import Profile, merge
from tests.played_agent import BUSY, CPUS, HZ, QUIET, PlayedAgent, playing
from tests.test_web_server import Server
from web import captures as life


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Server(f"chdb://{tmp_path_factory.mktemp('captures')}/store")
    yield server.url.rstrip("/")
    server.end(signal.SIGTERM)


@pytest.fixture
def agent(server: str) -> Iterator[PlayedAgent]:
    with playing(server) as agent:
        yield agent


def wait(server: str, made: dict[str, Any], *, seconds: float = 60, until: tuple[str, ...] = ()) -> dict[str, Any]:
    """The capture once it is over, or in one of the states."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found: dict[str, Any] = httpx.get(server + made["links"]["self"], timeout=30).json()
        if found["state"] in (until or ("done", "cancelled", "failed", "expired")):
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def post(server: str, **wanted: object) -> dict[str, Any]:
    end = time.monotonic() + 30
    while True:  # until the agent has asked for the first time
        answer = httpx.post(server + "/api/v1/captures", json={"host": "web-1", **wanted}, timeout=30)
        if answer.status_code == 201 or time.monotonic() > end:
            assert answer.status_code == 201, answer.text
            made: dict[str, Any] = answer.json()
            return made
        time.sleep(0.1)


def fetch(server: str, made: dict[str, Any]) -> Profile:
    held = read_json(httpx.get(server + made["links"]["json"], timeout=30).content)
    assert held.accounting.closes
    assert sum(sample.count for sample in held.samples) == held.accounting.sampled
    return held


def test_a_capture_is_the_whole_of_its_seconds_and_windows_stay_whole(server: str, agent: PlayedAgent) -> None:
    made = post(server, seconds=3, name="slow checkout")
    assert (made["state"], made["hz"], made["name"]) == ("waiting", None, "slow checkout")
    done = wait(server, made)
    assert (done["state"], done["progress"]["seconds"]) == ("done", 3.0)
    held = fetch(server, done)
    assert held.accounting.sampled == done["progress"]["samples"]
    # As many ticks as are due from one cut to another: not one is in two parts, or between them.
    assert held.accounting.ticks == pytest.approx(held.window.seconds * HZ * CPUS, abs=2)
    assert 3 <= held.window.seconds
    time.sleep(0.1)
    agent.stop()
    everything = merge(agent.collector.windows)
    assert agent.collector.cuts > len(agent.collector.windows)
    assert everything.accounting.closes
    assert everything.accounting.ticks == agent.collector.sampler.ticks_told
    assert sum(sample.count for sample in everything.samples) == everything.accounting.sampled


def test_several_at_once_have_their_own_filters_bounds_and_rates(server: str, agent: PlayedAgent) -> None:
    whole = post(server, seconds=4)
    own = wait(server, post(server, seconds=2, pid=os.getpid()))
    # Of a process that the played agent does not find, so all is filtered.
    held = fetch(server, own)
    assert held.accounting.sampled == 0
    assert held.accounting.filtered == held.accounting.ticks - held.accounting.idle > 0
    other = fetch(server, wait(server, post(server, seconds=1, hz=499)))
    assert other.hz == 499 and other.accounting.ticks == pytest.approx(other.window.seconds * 499 * CPUS, abs=3)
    assert agent.collector.beside == []
    assert fetch(server, wait(server, whole)).accounting.filtered == 0


def test_a_cancelled_capture_keeps_what_it_has(server: str, agent: PlayedAgent) -> None:
    made = post(server, seconds=60)
    wait(server, made, until=("running",))
    assert httpx.delete(server + made["links"]["self"]).json()["cancelling"] is True
    done = wait(server, made)
    assert done["state"] == "cancelled" and done["cancelling"] is False
    held = fetch(server, done)
    assert 0 < held.accounting.ticks == pytest.approx(held.window.seconds * HZ * CPUS, abs=2)
    assert done["progress"]["seconds"] < 30
    again = httpx.delete(server + made["links"]["self"])
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    assert len(agent.captures) == 0


def test_an_agent_that_is_stopped_hands_over_what_it_has(server: str) -> None:
    with playing(server, host="going") as agent:
        made = post(server, host="going", seconds=60)
        wait(server, made, until=("running",))
        agent.stop()
    done = wait(server, made)
    assert (done["state"], done["problem"]) == ("failed", "The agent was stopped before the end.")
    assert fetch(server, done).accounting.ticks > 0


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"pid": 4_000_000_000}, "There is no process 4000000000."),
        ({"pid": [os.getpid(), 4_000_000_001]}, "There is no process 4000000001."),
        ({"cgroup": "/no/such.slice"}, "There is no cgroup /sys/fs/cgroup"),
        ({"cgroup": "../../../etc"}, "There is no cgroup /sys/fs/cgroup"),
    ],
)
def test_what_the_agent_cannot_do_it_says(
    server: str, agent: PlayedAgent, wanted: dict[str, object], sentence: str
) -> None:
    done = wait(server, post(server, seconds=1, **wanted))
    assert done["state"] == "failed" and done["problem"].startswith(sentence), done
    assert "json" not in done["links"]
    page = httpx.get(server + done["links"]["page"]).text
    assert sentence.split(" /")[0] in page


def test_an_agent_has_no_more_at_work_than_it_allows_itself(server: str, agent: PlayedAgent) -> None:
    first = [post(server, seconds=30, hz=rate) for rate in (199, 299)]
    for made in first:
        wait(server, made, until=("running",))
    third = wait(server, post(server, seconds=30, hz=399))
    assert third["state"] == "failed" and "2 captures at other rates" in third["problem"]
    for made in first:
        httpx.delete(server + made["links"]["self"])
        assert wait(server, made)["state"] == "cancelled"


def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/store"
    server = Server(url)
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with playing(server.url.rstrip("/")) as agent:
        made = post(server.url.rstrip("/"), seconds=8)
        wait(server.url.rstrip("/"), made, until=("running",))
        server.end(signal.SIGKILL)
        again = Server(url, port=port)
        try:
            done = wait(again.url.rstrip("/"), made)
            assert done["state"] == "done", done
            held = fetch(again.url.rstrip("/"), done)
            assert held.accounting.ticks == pytest.approx(held.window.seconds * HZ * CPUS, abs=2)
            assert held.window.seconds >= 8
        finally:
            again.end(signal.SIGTERM)
        assert agent.said == []


def test_an_agent_that_is_killed_leaves_what_it_had_sent(server: str, tmp_path: Path) -> None:
    agent = PlayedAgent(server, host="killed")
    made = post(server, host="killed", seconds=600, hz=None)
    short = post(server, host="killed", seconds=9)
    wait(server, made, until=("running",))
    end = time.monotonic() + 30
    while "json" not in httpx.get(server + short["links"]["self"]).json()["links"] and time.monotonic() < end:
        time.sleep(0.1)
    agent.kill()
    done = wait(server, short, seconds=life.SILENCE_S + 30)
    assert done["state"] == "failed" and "has not been heard of" in done["problem"], done
    assert fetch(server, done).accounting.ticks > 0
    assert wait(server, made, seconds=30)["state"] == "failed"


def test_the_command_writes_what_it_had_captured(
    server: str, agent: PlayedAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    post(server, seconds=1)
    paths = [tmp_path / name for name in ("x.folded", "x.json", "x.svg", "x.pb.gz")]
    outputs = [word for path in paths for word in ("-o", str(path))]
    assert main(["capture", "--server", server, "--host", "web-1", "-d", "2", "--name", "from a shell", *outputs]) == 0
    held = read_json(paths[1].read_bytes())
    assert sum(int(line.rpartition(" ")[2]) for line in paths[0].read_text().splitlines()) == held.accounting.sampled
    assert b"<svg" in paths[2].read_bytes()[:500]
    grouped = tmp_path / "pids.svg"
    assert (
        main(["capture", "--server", server, "--host", "web-1", "-d", "1", "--group-by", "pid", "-o", str(grouped)])
        == 0
    )
    assert all(f"<title>{pid} (" in grouped.read_text() for pid in (BUSY, QUIET))
    assert f"<title>{BUSY} (" not in paths[2].read_text()
    said = capsys.readouterr().err
    assert f"{held.accounting.sampled:,} samples in" in said and f"{server}/captures/" in said
    assert main(["capture", "--server", server, "--host", "none", "-o", str(paths[0])]) == 1
    assert "there is no host 'none'" in capsys.readouterr().err
    assert main(["capture", "--server", server, "--host", "web-1", "-p", "4000000000", "-o", str(paths[0])]) == 1
    assert "There is no process 4000000000." in capsys.readouterr().err
    assert main(["capture", "--server", "http://127.0.0.1:1", "-o", str(paths[0])]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert main(["capture", "--server", server, "-o", "x.nothing"]) == 2


def test_an_interrupted_command_writes_what_there_is(server: str, agent: PlayedAgent, tmp_path: Path) -> None:
    post(server, seconds=1)
    pilotlight = str(Path(__file__).parent.parent / ".venv/bin/pilotlight")
    command = [pilotlight, "capture", "--server", server, "--host", "web-1", "-d", "60", "-o", "-.folded"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        newest: dict[str, Any] = {}
        end = time.monotonic() + 60
        while newest.get("seconds") != 60 or not newest["progress"]["samples"]:
            assert time.monotonic() < end
            time.sleep(0.1)
            newest = httpx.get(server + "/api/v1/captures?limit=1", timeout=30).json()[0]
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    done = wait(server, newest)
    assert done["state"] == "cancelled"
    assert sum(int(line.rpartition(" ")[2]) for line in out.splitlines()) == done["progress"]["samples"]


def test_a_client_that_leaves_cancels_its_capture(server: str, agent: PlayedAgent) -> None:
    post(server, seconds=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(server + "/debug/pprof/profile?seconds=50&host=web-1", timeout=3)
    newest = httpx.get(server + "/api/v1/captures?limit=1").json()[0]
    assert (newest["name"], newest["seconds"]) == ("go tool pprof", 50.0)
    assert wait(server, newest)["state"] == "cancelled"


def test_a_profile_has_gos_headers_and_is_what_was_captured(server: str, agent: PlayedAgent) -> None:
    post(server, seconds=1)
    answer = httpx.get(server + f"/debug/pprof/profile?seconds=2&host=web-1&pid={os.getpid()}&hz=499", timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == 'attachment; filename="profile"'
    newest = httpx.get(server + "/api/v1/captures?limit=1").json()[0]
    assert (newest["hz"], newest["pids"], newest["state"]) == (499, [os.getpid()], "done")
    assert read_pprof(answer.content).profiles[0].accounting.sampled == newest["progress"]["samples"]


def test_a_profile_too_large_for_the_server_is_said_to_be(
    server: str, agent: PlayedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_link, "write_otlp", lambda profile: os.urandom((16 << 20) + 1))
    done = wait(server, post(server, seconds=1))
    assert done["state"] == "failed" and "larger than the server takes" in done["problem"]
