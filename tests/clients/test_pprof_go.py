"""Go's pprof, the tool that .pb.gz files are made for, reads them: offline, and with the same totals."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.formats.folded import read_folded, write_folded
from profiler.formats.pprof import write_pprof
from profiler.model import Accounting, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason

WINDOW = Window(1_763_683_200_000_000_000, 1_763_683_210_000_000_000)
LIBC = Binary("/usr/lib/libc.so.6", "0123456789abcdef0123456789abcdef01234567")
MAIN = Location(0x400, Binary("/opt/app/shop", "ff" * 20), (Frame("main", Kind.NATIVE, "", "shop.cc", 12),))
PUSH = Location(
    0x500,
    MAIN.binary,
    (
        Frame("std::min<int>(int const&, int const&)", Kind.INLINED, "_ZSt3minIiE", "algo.h", 3),
        Frame("Cart::push<Item>(Item const&)", Kind.NATIVE, "_ZN4Cart4pushI4ItemEEvRKT_", "cart.cc", 40),
    ),
)
SUM = [
    Location(0x600 + line, MAIN.binary, (Frame("Cart::sum()", Kind.NATIVE, "_ZN4Cart3sumEv", "cart.cc", line),))
    for line in (60, 61)
]
MEMCPY = Location(0x1234, LIBC, (Frame("memcpy", Kind.NATIVE),))
READ = Location(0x77, Binary("[kernel]", "ab" * 20), (Frame("ksys_read", Kind.KERNEL),))
LOST = Location(0x5000, None, (Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),))
NASTY = Location(1, None, (Frame("<script>;\n\x00\udcff", Kind.JIT),))

SAMPLES = (
    Sample((MEMCPY, PUSH, MAIN), 42, "shop", "worker-1", 31, "checkout", "c" * 64),
    Sample((READ, MEMCPY, MAIN), 42, "shop", "shop", 11, "checkout", "c" * 64),
    Sample((SUM[0],), 9, "sum", "sum", 3),
    Sample((SUM[1],), 9, "sum", "sum", 4),
    Sample((LOST,), 7, "java", "java", 5),
    Sample((NASTY,), 7, "java", "GC;\n1", 2),
    Sample((), 8, "gone", "gone", 1),
)
TOTAL = sum(sample.count for sample in SAMPLES)
PROFILE = Profile(
    "web-1", "cpu-clock", 99, WINDOW, SAMPLES, Accounting(TOTAL + 9, TOTAL + 9, 8, 0, TOTAL, {"x": 1}, 90)
)


@pytest.fixture
def go_pprof(tmp_path: Path) -> Callable[..., str]:
    """Runs `go tool pprof` on PROFILE with proxies that lead nowhere: a fetch of anything would fail."""
    (tmp_path / "x.pb.gz").write_bytes(write_pprof(PROFILE))

    def run(*arguments: str) -> str:
        nowhere = "http://127.0.0.1:9"
        ran = subprocess.run(
            ["go", "tool", "pprof", *arguments, "x.pb.gz"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PPROF_TMPDIR": str(tmp_path),
                "PPROF_BINARY_PATH": str(tmp_path / "none"),
                "DEBUGINFOD_URLS": nowhere,
                "HTTP_PROXY": nowhere,
                "HTTPS_PROXY": nowhere,
                "GOPROXY": "off",
                "GOFLAGS": "-mod=mod",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert ran.stderr == ""
        return ran.stdout

    return run


def test_the_total_in_samples_is_that_of_the_folded_file(go_pprof: Callable[..., str]) -> None:
    top = go_pprof("-top", "-sample_index=samples")
    folded, _ = read_folded(write_folded(PROFILE))
    assert f"Total samples = {int(folded.counts.sum())} " in top
    assert int(folded.counts.sum()) == TOTAL


def test_time_is_the_default_and_adds_up(go_pprof: Callable[..., str]) -> None:
    top = go_pprof("-top", "-unit=ns")
    assert "Type: cpu" in top
    assert f"of {round(TOTAL * 1e9 / 99)}ns total" in top
    assert "Duration: 10s" in top


def test_names_are_shown_as_they_are_with_templates_and_inlined_calls(go_pprof: Callable[..., str]) -> None:
    rows = go_pprof("-top", "-sample_index=samples", "-nodefraction=0").splitlines()
    found = {row.split(maxsplit=5)[5]: row.split()[:4:3] for row in rows if re.match(r"\s+\d+ ", row)}
    assert found["memcpy"] == ["31", "42"]
    assert found["ksys_read"] == ["11", "11"]
    assert found["Cart::push<Item>(Item const&)"] == ["0", "31"]
    assert found["std::min<int>(int const&, int const&) (inline)"] == ["0", "31"]
    assert found["main"] == ["0", "42"]
    assert found["[no mapping]"] == ["5", "5"]


def test_every_location_has_its_own_lines_inlined_ones_too(go_pprof: Callable[..., str]) -> None:
    rows = go_pprof("-top", "-lines", "-sample_index=samples", "-nodefraction=0").splitlines()
    found = {row.split(maxsplit=5)[5]: row.split()[:4:3] for row in rows if re.match(r"\s+\d+ ", row)}
    assert found["Cart::push<Item>(Item const&) cart.cc:40"] == ["0", "31"]
    assert found["Cart::sum() cart.cc:60"] == ["3", "3"]
    assert found["Cart::sum() cart.cc:61"] == ["4", "4"]
    assert found["std::min<int>(int const&, int const&) algo.h:3 (inline)"] == ["0", "31"]
    assert found["main shop.cc:12"] == ["0", "42"]
    functions = go_pprof("-top", "-sample_index=samples", "-nodefraction=0")
    assert re.search(r" 7 +[\d.]+% +Cart::sum\(\)\n", functions)


def test_labels_can_be_listed_and_focused_on(go_pprof: Callable[..., str]) -> None:
    tags = go_pprof("-tags", "-sample_index=samples")
    for label, value in (
        ("process", "shop"),
        ("thread", "worker-1"),
        ("service", "checkout"),
        ("container", "c" * 64),
        ("pid", "42"),
    ):
        assert re.search(rf"^ {label}: Total ", tags, re.MULTILINE)
        assert re.search(rf": {value}$", tags, re.MULTILINE)
    focused = go_pprof("-top", "-sample_index=samples", "-tagfocus=process=shop")
    assert "Showing nodes accounting for 42," in focused
    below = go_pprof("-traces", "-sample_index=samples", "-tagroot=process,thread")
    assert re.search(r"31 +memcpy\n(.*\n)+? +main\n +worker-1\n +shop\n", below)


def test_the_raw_file_has_mappings_build_ids_lines_and_mangled_names(go_pprof: Callable[..., str]) -> None:
    raw = go_pprof("-raw")
    assert "samples/count cpu/nanoseconds" in raw
    assert "/opt/app/shop " + "ff" * 20 + " [FN][FL][LN][IN]" in raw
    assert f"/usr/lib/libc.so.6 {LIBC.build_id} [FN]" in raw
    assert re.search(r"0x400 M=\d main shop\.cc:12", raw)
    assert "(_ZN4Cart4pushI4ItemEEvRKT_)" in raw


def test_the_account_is_among_the_comments(go_pprof: Callable[..., str]) -> None:
    assert f"8 idle + 0 filtered + {TOTAL} shown + 1 lost (1 x)" in go_pprof("-comments")


def test_an_empty_profile_is_read(go_pprof: Callable[..., str], tmp_path: Path) -> None:
    empty = Profile("h", "cpu-clock", 99, WINDOW, (), Accounting())
    (tmp_path / "x.pb.gz").write_bytes(write_pprof(empty))
    top = go_pprof("-top")
    assert "Type: cpu" in top
    assert "Total samples = 0" in top
