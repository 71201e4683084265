"""The Firefox Profiler's own loader (Mozilla's profiler-cli, from npm) opens our export and counts the same."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from profiler.formats.firefox import write_firefox
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from tests.clients.npm import unpacked

PROFILER_CLI = (
    "@firefox-devtools/profiler-cli@0.10.0",
    "sha512-f9fqdHh7B6ddQIYrwrEs4FE5D8BMOsXSorYF4NRFfwPaGikVBlhorBxHT7zrb6WMgJgKQYHC9kazkRjbItLx8Q==",
)
NASTY = "<script>alert(1)</script>;\n\x00\u202e\udcff 12"
Ask = Callable[..., dict[str, Any]]


def at(name: str, kind: Kind, path: str, line: int = 0) -> Location:
    return Location(16, Binary(path, "00ff" * 10), (Frame(name, kind, "", "shop.c" if line else "", line),))


MAIN = at("main", Kind.NATIVE, "/opt/shop", 7)
READ = at("ksys_read", Kind.KERNEL, "[kernel]")
INLINED = Location(9, Binary("/opt/shop"), (Frame("twice", Kind.INLINED), Frame("sum", Kind.NATIVE)))
UNKNOWN = Location(9, None, (Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),))
SAMPLES = (
    Sample((MAIN,), 1, "shop", "shop", 30),
    Sample((READ, MAIN), 1, "shop", "io", 12),
    Sample((INLINED, MAIN), 1, "shop", "io", 5),
    Sample((READ, MAIN), 1, "shop", "io", 1),
    Sample((UNKNOWN, at(NASTY, Kind.JIT, NASTY)), 2, NASTY, NASTY, 4),
    Sample((), 4, "idle", "idle", 2),
)
WINDOW = Window(1_763_683_200_000_000_000, 1_763_683_210_000_000_000)
PROFILE = Profile("web-1", "cpu-clock", 99, WINDOW, SAMPLES, Accounting(62, 62, 8, 0, 54), {"env": NASTY})


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Answers of profiler-cli about PROFILE's export, which its daemon has loaded."""
    folder = tmp_path_factory.mktemp("firefox")
    file = folder / "x.firefox.json"
    file.write_bytes(write_firefox(PROFILE))
    program = unpacked(*PROFILER_CLI) / "dist" / "profiler-cli.js"
    environment = {**os.environ, "PROFILER_CLI_SESSION_DIR": str(folder / "s"), "PROFILER_CLI_NO_SYMBOLICATE": "1"}
    (folder / "s").mkdir()
    daemon = subprocess.Popen(["node", str(program), "--daemon", str(file), "--session", "x"], env=environment)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = ["node", str(program), *arguments, "--session", "x", "--json"]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)

    def answer(*arguments: str) -> dict[str, Any]:
        done = command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    until = time.monotonic() + 120
    while command("profile", "info").returncode:
        assert daemon.poll() is None and time.monotonic() < until, "the loader did not take the file"
        time.sleep(0.2)
    yield answer
    daemon.terminate()
    daemon.wait(60)


def threads(ask: Ask) -> dict[str, str]:
    """The handle of each thread, by its name."""
    return {thread["name"]: thread["threadHandle"] for thread in ask("thread", "list")["threads"]}


def test_every_process_and_thread_is_there(ask: Ask) -> None:
    assert {"shop", "io", "idle"} < set(threads(ask)) and len(threads(ask)) == 4


def test_functions_have_the_totals_of_the_profile(ask: Ask) -> None:
    found = ask("thread", "samples", "--thread", threads(ask)["io"])
    by_name = {f["name"].rpartition("!")[2]: f for f in found["topFunctionsByTotal"]}
    assert found["categoryBreakdown"]["totalSamples"] == 18 and found["weightType"] == "samples"
    assert {name: (f["totalSamples"], f["selfSamples"]) for name, f in by_name.items()} == {
        "main": (18, 0),
        "ksys_read": (13, 13),
        "sum": (5, 0),
        "twice": (5, 5),
    }
    assert {c["name"]: c["samples"] for c in found["categoryBreakdown"]["categories"]} == {"Kernel": 13, "Inlined": 5}


def test_names_that_others_chose_come_through(ask: Ask) -> None:
    (handle,) = [handle for name, handle in threads(ask).items() if name not in ("shop", "io", "idle")]
    found = ask("thread", "samples", "--thread", handle)
    names = [f["name"] for f in found["topFunctionsByTotal"]]
    assert any("<script>alert(1)</script>" in name for name in names) and any("[no mapping]" in name for name in names)


def test_the_tables_hold_together_and_the_account_is_in_the_file() -> None:
    """What the format's description says of every table: equally long columns, and indices that are there."""
    document = json.loads(write_firefox(PROFILE))
    assert document["meta"]["preprocessedProfileVersion"] == 48
    assert document["pilotlight"]["accounting"]["sampled"] == 54
    assert "54 shown" in document["meta"]["extra"][0]["entries"][0]["value"]
    total = 0
    for thread in document["threads"]:
        tables = [value for value in thread.values() if isinstance(value, dict)]
        assert len(tables) == 7
        for table in tables:
            columns = [column for column in table.values() if isinstance(column, list)]
            assert all(len(column) == table["length"] for column in columns)
        strings, frames, stacks = thread["stringArray"], thread["frameTable"], thread["stackTable"]
        functions, resources = thread["funcTable"], thread["resourceTable"]
        assert all(prefix is None or prefix < row for row, prefix in enumerate(stacks["prefix"]))
        assert all(0 <= frame < frames["length"] for frame in stacks["frame"])
        assert all(0 <= function < functions["length"] for function in frames["func"])
        assert all(-1 <= resource < resources["length"] for resource in functions["resource"])
        assert all(0 <= name < len(strings) for name in (*functions["name"], *resources["name"]))
        assert all(0 <= library < len(document["libs"]) for library in resources["lib"])
        assert all(0 <= category < len(document["meta"]["categories"]) for category in frames["category"])
        assert all(stack is None or 0 <= stack < stacks["length"] for stack in thread["samples"]["stack"])
        assert thread["samples"]["time"] == sorted(thread["samples"]["time"])
        total += sum(thread["samples"]["weight"])
    assert total == 54


def test_bytes_are_weights_of_bytes() -> None:
    samples = (Sample((MAIN,), 1, "shop", "shop", 4096),)
    heap = Profile("h", "alloc_space:bytes", 1, WINDOW, samples, Accounting(4096, 4096, 0, 0, 4096))
    (thread,) = json.loads(write_firefox(heap))["threads"]
    assert (thread["samples"]["weight"], thread["samples"]["weightType"]) == ([4096], "bytes")


def test_a_profile_without_samples_has_no_threads(tmp_path: Path) -> None:
    empty = Profile("h", "cpu-clock", 99, WINDOW, (), Accounting())
    assert json.loads(write_firefox(empty))["threads"] == []
