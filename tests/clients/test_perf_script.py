"""What this machine's perf prints, in whichever fields, is read to the sample."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from profiler.formats.read import read_file

BUSY = "def spin(n):\n    return sum(i * i for i in range(n))\nfor _ in range(400): spin(5000)\n"
FIELDS = [
    "",
    "comm,tid,time,event,ip,sym,dso",
    "comm,pid,tid,cpu,time,event,ip,sym,dso",
    "comm,pid,tid,cpu,time,period,event,ip,sym,symoff,dso",
    "comm,pid,tid,event,ip,sym",
    "comm,tid,time,ip,sym,dso",
    "+srcline",
]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perf") / "perf.data"
    record = [
        "perf",
        "record",
        "-F",
        "499",
        "-e",
        "cpu-clock",
        "-g",
        "--sample-cpu",
        "--period",
        "-o",
        str(path),
        "--",
        sys.executable,
        "-c",
        BUSY,
    ]
    subprocess.run(record, check=True, capture_output=True)
    return path


def script(recording: Path, *arguments: str) -> str:
    command = ["perf", "script", "-i", str(recording), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="surrogateescape").stdout


def leaves(recording: Path) -> Counter[str]:
    """How many samples have each leaf, told by perf's one line for each sample."""
    text = script(recording, "-G", "-F", "comm,tid,time,event,ip,sym")
    return Counter(re.sub(r"^.*cpu-clock:\S*\s+[0-9a-f]+\s*", "", line).strip() for line in text.splitlines() if line)


@pytest.mark.parametrize("fields", FIELDS)
def test_every_sample_of_perf_is_read_whatever_fields_it_prints(recording: Path, fields: str) -> None:
    file = read_file(script(recording, *(["-F", fields] if fields else [])).encode(errors="surrogateescape"))
    (profile,) = file.profiles
    expected = leaves(recording)
    assert file.format == "perf script" and not any("left out" in problem for problem in file.problems)
    assert profile.accounting.sampled == sum(expected.values()) > 20
    found: Counter[str] = Counter()
    for sample in profile.samples:
        leaf = sample.stack[0].frames[0]
        found["[unknown]" if leaf.reason else leaf.function] += sample.count
    assert found == expected
    if "period" in fields or not fields:
        assert profile.hz == 499


def test_one_line_for_each_sample_is_read_as_well(recording: Path) -> None:
    (profile,) = read_file(script(recording, "-G").encode(errors="surrogateescape")).profiles
    assert profile.accounting.sampled == sum(leaves(recording).values())
    assert all(len(sample.stack) == 1 for sample in profile.samples)


def test_the_header_tells_rate_and_host(recording: Path) -> None:
    (profile,) = read_file(script(recording, "--header", "-F", "comm,tid,time,event,ip,sym").encode()).profiles
    assert profile.hz == 499
    assert profile.host == subprocess.run(["uname", "-n"], capture_output=True, text=True).stdout.strip()
