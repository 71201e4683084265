"""Fuzzing for a while in each run of the tests, and that it would find what it looks for.

PILOTLIGHT_FUZZ_SECONDS is how much CPU time it may take in all (10); `make fuzz` takes longer, with inputs of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fuzz.elf_edits import elf_changes
from tests.fuzz.mutate import several
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
NAMES = [target.name for target in TARGETS]
SEED = "1"


def fuzzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m tests.fuzz`, in a process of its own as it forks."""
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What fuzzing every target for its part of the time told."""
    path = tmp_path_factory.mktemp("fuzz") / "report.json"
    seconds = os.environ.get("PILOTLIGHT_FUZZ_SECONDS", "10")
    done = fuzzed(seconds, "--seed", SEED, "--report", str(path))
    assert path.exists(), done.stdout + done.stderr
    return {report["target"]: report for report in json.loads(path.read_text())}


def test_every_target_is_fuzzed(reports: dict[str, Any]) -> None:
    assert sorted(reports) == sorted(NAMES)


@pytest.mark.parametrize("target", NAMES)
def test_no_input_raises_hangs_or_takes_memory_without_bound(target: str, reports: dict[str, Any]) -> None:
    report = reports[target]
    told = [
        f"{finding['key']}: input {finding['number']} of seed {SEED}; to repeat:"
        f" python -m tests.fuzz --repeat {finding['path']} 0 {target}\n{finding['detail']}"
        for finding in report["findings"]
    ]
    assert not told, "\n\n".join(told)
    assert report["inputs"] > 10 and report["lines"] > 5


# That faults are found, each in a target that has one

_PLANTED = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from tests.fuzz.driver import Target, fuzz, run_once
from tests.fuzz.mutate import change_bytes

def run(data):
    if data.startswith(b"ab") and len(data) != 4:
        {fault}

def change(random, data, others):
    return change_bytes(random, data, others)

target = Target("planted", lambda corpus: [b"abcd", b"xyz" * 20], run, change, memory=64 << 20, seconds=0.1)
report = fuzz(target, None, 3, 0.3, Path(sys.argv[1]))
again = [run_once(target, Path(finding.path).read_bytes()) for finding in report.findings]
print(json.dumps([asdict(report), [found and asdict(found) for found in again]]))
"""


def planted(fault: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What fuzzing told of a target with that fault, and of the inputs that it put into the folder."""
    command = [sys.executable, "-c", _PLANTED.format(fault=fault), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report, again = json.loads(done.stdout)
    return report, again


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("raise KeyError(data[:1])", "exception"),
        ("x = [bytearray(1 << 30)] * 2; y = bytearray(b'1') * (1 << 30)", "memory"),
        ("y = bytearray(b'1') * (100 << 20)", "memory"),
        ("os.abort()", "ended"),
        ("os._exit(7)", "ended"),
    ],
)
def test_a_fault_is_found_made_small_and_found_again_in_what_was_kept_of_it(
    fault: str, kind: str, tmp_path: Path
) -> None:
    report, again = planted(fault, tmp_path)
    assert kind in {finding["kind"] for finding in report["findings"]}
    assert [finding["kind"] for finding in again] == [finding["kind"] for finding in report["findings"]]
    found = next(finding for finding in report["findings"] if finding["kind"] == kind)
    assert Path(found["path"]).read_bytes().startswith(b"ab") and len(Path(found["path"]).read_bytes()) < 10


def test_what_takes_too_much_cpu_time_is_a_finding_and_what_merely_waits_is_none(tmp_path: Path) -> None:
    report, _ = planted(
        "import time; end = time.thread_time() + 0.15\n        while time.thread_time() < end: pass", tmp_path
    )
    assert [finding["kind"] for finding in report["findings"]] == ["slow"]
    once = "import time; slept = Path(sys.argv[1]) / 'slept'; slept.exists() or (slept.touch(), time.sleep(0.4))"
    report, _ = planted(once, tmp_path)
    assert (tmp_path / "slept").exists() and not report["findings"]


def test_the_same_seed_makes_the_same_inputs(tmp_path: Path) -> None:
    """Also when it is another process, with other hashes of texts."""
    found = [planted("raise KeyError", tmp_path)[0]["findings"][0]["number"] for _ in range(2)]
    assert found[0] == found[1] > 1


def test_changes_of_elf_files_reach_headers_and_contents_and_leave_most_of_a_file_alone() -> None:
    data = Path("/usr/bin/true").read_bytes()
    change = elf_changes(b".text")
    changed = [several(Random(number), data, [data], change) for number in range(300)]
    same_size = [each for each in changed if len(each) == len(data)]
    places = {next((i for i in range(len(data)) if each[i] != data[i]), -1) for each in same_size}
    assert len(same_size) > 150 and len(places) > 50
    assert any(0 <= place < 64 for place in places)
