"""Names of frames against `perf script`, of the same perf.data: raw addresses in, names out.

perf records the whole machine by frame pointers while a C project is built from its source (zstandard of PyPI, with the
sources of zstd), a Python program runs, and pgbench works on a PostgreSQL server (Debian's, installed if missing, in a
folder of its own, reached by a Unix socket). Which files were mapped where is taken from perf's own records, the
kernel's symbols from /proc/kallsyms. What is named is each address as it was recorded; inlined functions are left out.
Needs root.

    python bench/perf_agreement.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Frame, Location, Mapping

HZ, SECONDS = 199, 8
PACKAGES = {"/usr/bin/perf": "linux-perf", "/usr/bin/pgbench": "postgresql", "/usr/bin/gcc": "gcc"}
SOURCE = "zstandard==0.22.0"
KERNEL_FROM, CONTEXTS_FROM = 1 << 63, 2**64 - 4096
PYTHON = """
import json, re, time
end = time.monotonic() + float({seconds})
while time.monotonic() < end:
    table = {{str(i): [i, i * 1.5, "x" * (i % 50)] for i in range(2000)}}
    words = re.findall(r"[a-z]+|[0-9]+", json.dumps(table))
    json.loads(json.dumps(sorted(words, key=lambda word: (len(word), word))))
"""

_EVENT = re.compile(r"^-?\d+ \d+ 0x\w+ \[0x\w+\]: PERF_RECORD_(\w+)(.*)$")
_MAPPED = re.compile(r"^ (-?\d+)/-?\d+: \[0x(\w+)\(0x(\w+)\) @ (\w+) (?:<(\w*)>|.*)\]: (\S+) (.*)$")
_FORKED = re.compile(r"^\((\d+):\d+\):\((\d+):\d+\)")
_EXECUTED = re.compile(r"^ exec: .*:(\d+)/\d+$")
_SAMPLED = re.compile(r"^\(.*\): (\d+)/\d+: ")
_RAW = re.compile(r"^\.\.\.\.\. *\d+: ([0-9a-f]{16})$")
_NAMED = re.compile(r"^\t *[0-9a-f]+ (.*?) \((.*)\)$")


# What is recorded


def install() -> None:
    missing = [package for sign, package in PACKAGES.items() if not os.path.exists(sign)]
    if missing:
        print(f"installing {' '.join(missing)}", flush=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sources(folder: Path) -> Path:
    """The unpacked source distribution of the C project."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        ":all:",
    ]
    subprocess.run([*command, "--disable-pip-version-check", "-d", folder, SOURCE], check=True)
    (archive,) = folder.glob("*.tar.gz")
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    return Path(str(archive).removesuffix(".tar.gz"))


@contextmanager
def database(folder: Path) -> Iterator[list[str]]:
    """Runs a server; gives the options by which its clients find it."""
    programs = max(Path("/usr/lib/postgresql").iterdir(), key=lambda path: int(path.name)) / "bin"
    home = folder / "database"
    home.mkdir()
    shutil.chown(home, "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": "postgres", "cwd": home}
    subprocess.run([programs / "initdb", "-D", home / "data", "-A", "trust"], check=True, **quiet)  # type: ignore[call-overload]
    server = subprocess.Popen(
        [programs / "postgres", "-D", home / "data", "-k", home, "-c", "listen_addresses="],
        **quiet,  # type: ignore[call-overload]
    )
    try:
        options = ["-h", str(home), "-U", "postgres", "postgres"]
        end = time.monotonic() + 30
        while subprocess.run(["pg_isready", "-q", *options[:2]]).returncode and time.monotonic() < end:
            time.sleep(0.1)
        subprocess.run(["pgbench", "-q", "-i", "-s", "5", *options], check=True, **quiet)  # type: ignore[call-overload]
        yield options
    finally:
        server.terminate()
        server.wait()


def record(folder: Path, data: Path) -> dict[str, float]:
    """Records the whole machine; returns the seconds that each of the three took."""
    project, took = sources(folder), {}
    recording = [
        "perf",
        "record",
        "-q",
        "-a",
        "-g",
        "--buildid-mmap",
        "-e",
        "cpu-clock",
        "-F",
        str(HZ),
        "-o",
        str(data),
    ]
    with database(folder) as options, subprocess.Popen(recording, stderr=subprocess.DEVNULL) as perf:
        try:
            program = PYTHON.format(seconds=SECONDS)
            for what, command in {
                "C project": [sys.executable, "setup.py", "-q", "--no-cffi-backend", "build_ext"],
                "Python program": ["/usr/bin/python3", "-c", program],
                "database": ["pgbench", "-c", "4", "-T", str(SECONDS), *options],
            }.items():
                start = time.monotonic()
                subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                took[what] = time.monotonic() - start
        finally:
            perf.send_signal(2)
            perf.wait()
    return took


# What perf says


@dataclass(slots=True)
class Sample:
    """Raw addresses, the leaf first, with what each process had mapped there and the name that perf has."""

    pid: int
    addresses: list[int] = field(default_factory=list)
    mappings: list[Mapping | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def samples(data: Path) -> Iterator[Sample]:
    command = [
        "perf",
        "script",
        "-i",
        str(data),
        "-D",
        "--no-inline",
        "--no-demangle",
        "-F",
        "comm,pid,time,ip,sym,dso",
    ]
    mapped: dict[int, list[Mapping]] = defaultdict(list)
    sample: Sample | None = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as perf:
        assert perf.stdout is not None
        for line in map(str.rstrip, perf.stdout):
            if (event := _EVENT.match(line)) is not None:
                if sample is not None:
                    yield sample
                sample = None
                kind, rest = event[1], event[2]
                if kind == "SAMPLE" and (found := _SAMPLED.match(rest)):
                    sample = Sample(int(found[1]))
                elif kind in ("MMAP", "MMAP2") and (found := _MAPPED.match(rest)):
                    pid, start, size, offset, build_id, _, path = found.groups()
                    begin, end = int(start, 16), int(start, 16) + int(size, 16)
                    mapping = Mapping(begin, end, int(offset, 16), path, build_id or "")
                    old = mapped[int(pid)]
                    mapped[int(pid)] = [m for m in old if m.end <= begin or m.start >= end] + [mapping]
                elif kind == "FORK" and (found := _FORKED.match(rest)) and found[1] != found[2]:
                    mapped[int(found[1])] = list(mapped[int(found[2])])
                elif kind == "COMM" and (found := _EXECUTED.match(rest)):
                    mapped[int(found[1])] = []
            elif sample is not None:
                if (found := _RAW.match(line)) is not None:
                    if (address := int(found[1], 16)) < CONTEXTS_FROM:
                        sample.addresses.append(address)
                        known = (m for m in mapped[sample.pid] if m.start <= address < m.end)
                        sample.mappings.append(next(known, None))
                elif (found := _NAMED.match(line)) is not None:
                    sample.names.append(found[1])
        if sample is not None:
            yield sample


# What we say


def named(recorded: list[Sample], folder: Path) -> list[list[Location]]:
    symfiles = SymFiles(folder)
    symbolizer = Symbolizer(symfiles)

    def ask() -> list[list[Location]]:
        answers = []
        for sample in recorded:
            pairs = list(zip(sample.addresses, sample.mappings, strict=True))
            kernel = [address for address, _ in pairs if address >= KERNEL_FROM]
            of_kernel = iter(symbolizer.kernel(kernel))
            of_user = iter(symbolizer.user(sample.pid, [pair for pair in pairs if pair[0] < KERNEL_FROM]))
            answers.append([next(of_kernel if address >= KERNEL_FROM else of_user) for address, _ in pairs])
        return answers

    answers = ask()
    while not symfiles.settle(0):
        symfiles.settle(120)
        symbolizer.improved()
        answers = ask()
    symfiles.close()
    return answers


# What differs


def kind_of(theirs: str, ours: Frame, path: str) -> str:
    """In what two names differ; "" where they are the same."""
    theirs = "" if theirs == "[unknown]" else theirs
    known = ours.reason is None
    if theirs and known:
        mine = ours.system_name or ours.function
        if theirs in (mine, ours.function):
            return ""
        names = symbols_of_kernel() if ours.kind in ("kernel", "module", "bpf") else symbols_of(path)
        if names.get(theirs.partition("@")[0], set()) & names.get(mine.partition("@")[0], set()):
            return "another symbol of the same address"
        return "another function"
    return "only perf has a name" if theirs else f"only ours: {ours.kind}" if known else ""


@cache
def symbols_of(path: str) -> dict[str, set[int]]:
    """Where the symbols of each name are, in a file and its separate debug file."""
    notes = subprocess.run(["readelf", "-nW", path], capture_output=True, text=True).stdout
    build_id = re.search(r"Build ID: (\w\w)(\w+)", notes)
    files = [path, *([f"/usr/lib/debug/.build-id/{build_id[1]}/{build_id[2]}.debug"] if build_id else [])]
    found: dict[str, set[int]] = {}
    for file in files:
        listed = subprocess.run(["readelf", "-sW", file], capture_output=True, text=True).stdout
        for start, name in re.findall(r"^ *\d+: (\w+) +\w+ \w+ +\w+ +\w+ +(?!UND)\w+ (\S+)", listed, re.M):
            found.setdefault(name.partition("@")[0], set()).add(int(start, 16))
    return found


@cache
def symbols_of_kernel() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for start, name in re.findall(r"^(\w+) \w (\S+)", Path("/proc/kallsyms").read_text(), re.M):
        found.setdefault(name, set()).add(int(start, 16))
    return found


def compare(recorded: list[Sample], answers: list[list[Location]]) -> bool:
    total, kinds, cut = Counter[str](), Counter[str](), 0
    examples: dict[str, Counter[str]] = defaultdict(Counter)
    for sample, locations in zip(recorded, answers, strict=True):
        if len(sample.names) != len(locations):
            cut += 1
            continue
        for theirs, location, mapping in zip(sample.names, locations, sample.mappings, strict=True):
            ours = location.frames[-1]
            known = "named by both" if theirs != "[unknown]" and ours.reason is None else "named by one"
            total[known if theirs != "[unknown]" or ours.reason is None else "unknown to both"] += 1
            if kind := kind_of(theirs, ours, mapping.path if mapping else ""):
                kinds[kind] += 1
                where = location.binary.path if location.binary else ""
                examples[kind][f"{theirs} / {ours.system_name or ours.function} ({where})"] += 1
    frames = total["named by both"] + total["named by one"]
    print(f"{len(recorded):,} samples with frames: " + ", ".join(f"{count:,} {what}" for what, count in total.items()))
    if cut:
        print(f"  {cut:,} samples left out, of which perf prints another number of frames")
    for kind, count in kinds.most_common():
        print(f"  {count:7,}  {kind}")
        for example, often in examples[kind].most_common(4):
            print(f"           {often:,} x {example[:150]}")
    wrong = kinds["another function"] + kinds["only perf has a name"]
    ok = wrong <= frames / 1000 and frames > 0
    print(f"{'reached' if ok else 'MISSED'}: of frames with a name {1 - wrong / max(frames, 1):.3%} agree (99.9 %);")
    print("two symbols of one address are equal, and a name that perf does not have is not held against ours")
    return ok


def main() -> int:
    install()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "perf.data"
        took = record(folder, data)
        size = data.stat().st_size
        print(f"perf.data of {size / 1e6:.0f} MB over " + ", ".join(f"{what} {s:.0f} s" for what, s in took.items()))
        recorded = list(samples(data))
        start = time.monotonic()
        answers = named(recorded, folder / "symbols")
        print(f"named in {time.monotonic() - start:.1f} s")
        compare(recorded, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
