"""Go's pprof fetches from the server as from a Go program: by a bare address, with a token, and shows what is wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from profiler.formats.json import read_json
from profiler.model import Profile
from tests.played_agent import BUSY, playing
from tests.test_web_server import Server

TOKEN = "a-token-of-some-length"
PROGRAM = f"""
import sys
from web.app import ServerOptions, serve
options = ServerOptions(sys.argv[1], port=0, token={TOKEN!r}, commit_seconds=0)
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""
RIGHT = {"authorization": f"Bearer {TOKEN}"}

Pprof = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a token, and an agent of one host beside it."""
    server = Server(f"chdb://{tmp_path_factory.mktemp('pprof')}/store", python=[sys.executable, "-c", PROGRAM])
    url = server.url.rstrip("/")
    with playing(url, token=TOKEN):
        while not httpx.get(url + "/debug/pprof/", headers=RIGHT).text.count("web-1"):
            pass  # until the agent has asked for the first time
        yield url
    server.end(signal.SIGTERM)


@pytest.fixture
def pprof(tmp_path: Path) -> Pprof:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PPROF_TMPDIR": str(tmp_path),
            "PPROF_BINARY_PATH": str(tmp_path / "none"),
            "GOPROXY": "off",
            "GOFLAGS": "-mod=mod",
        }
        command = ["go", "tool", "pprof", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def with_token(url: str) -> str:
    return url.replace("http://", f"http://any:{TOKEN}@")


def newest(url: str) -> tuple[dict[str, Any], Profile]:
    found = httpx.get(url + "/api/v1/captures?limit=1", headers=RIGHT).json()[0]
    return found, read_json(httpx.get(url + found["links"]["json"], headers=RIGHT).content)


def test_a_bare_address_is_enough(server: str, pprof: Pprof) -> None:
    shown = pprof("-seconds", "2", "-top", "-sample_index=samples", with_token(server))
    assert shown.returncode == 0, shown.stderr
    found, held = newest(server)
    assert (found["state"], found["seconds"], found["hz"]) == ("done", 2.0, None)
    assert f"Total samples = {held.accounting.sampled} " in shown.stdout
    rows = {row.split(maxsplit=5)[5]: row.split()[0] for row in shown.stdout.splitlines() if re.match(r"\s+\d+ ", row)}
    busy = sum(sample.count for sample in held.samples if sample.pid == BUSY)
    assert rows["sum"] == str(busy) and rows["main"] == "0"
    assert "File: shop" in shown.stdout


def test_callers_and_differences_are_shown_of_what_was_fetched(server: str, pprof: Pprof, tmp_path: Path) -> None:
    address = with_token(server) + "/debug/pprof/profile?seconds=1&hz=499&host=web-1"
    peeked = pprof("-peek", "^sum$", "-sample_index=samples", address)
    assert peeked.returncode == 0, peeked.stderr
    assert re.search(r"\| +main\n.*\bsum$", peeked.stdout, re.MULTILINE), peeked.stdout
    _, before = newest(server)
    assert before.hz == 499
    (first,) = tmp_path.rglob("pprof.*.pb.gz")
    changed = pprof("-top", "-sample_index=samples", "-diff_base", str(first), address)
    assert changed.returncode == 0, changed.stderr
    _, after = newest(server)
    row = re.search(r"^ +(-?\d+) .* sum$", changed.stdout, re.MULTILINE)

    def ticks(profile: Profile) -> int:
        return sum(sample.count for sample in profile.samples if sample.pid == BUSY)

    assert int(row[1] if row else 0) == ticks(after) - ticks(before)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("{bare}", "401 Unauthorized - a token is needed"),
        ("{right}/debug/pprof/profile?host=web-2", "404 Not Found - there is no host 'web-2'; there are web-1"),
        (
            "{right}/debug/pprof/profile?seconds=1&pid=4000000000",
            "503 Service Unavailable - web-1: There is no process",
        ),
        ("{right}/debug/pprof/profile?seconds=4000", "400 Bad Request - profile duration exceeds"),
    ],
)
def test_what_is_wrong_is_shown_as_the_server_says_it(server: str, pprof: Pprof, address: str, said: str) -> None:
    shown = pprof("-top", address.format(bare=server, right=with_token(server)))
    assert shown.returncode != 0
    assert f"server response: {said}" in shown.stderr, shown.stderr
