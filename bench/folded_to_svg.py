"""Folded stacks to an SVG flame graph: how many times faster than flamegraph.pl, in the same run.

    python bench/folded_to_svg.py [--stacks 200000]

The peer is flamegraph.pl, at $FLAMEGRAPH_PL or on PATH; where there is none, the npm package `stackvis`
(a port of it to Node.js), which is installed into build/peers. Each side is a process of its own that reads
the same stacks and writes an SVG, its start included; the best of three runs counts.
Both are one thread, so on a busy machine the CPU time is the better judge.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FUNCTIONS = 4000
DEEPEST = 60

OURS = """
import sys
from profiler.formats.folded import read_folded
from web.flamegraph.calltree import build_tree
from web.flamegraph.svg import Caption, write_svg
table, _ = read_folded(sys.stdin.buffer.read())
sys.stdout.buffer.write(write_svg(build_tree(table), Caption("Benchmark")))
"""


def write_stacks(path: Path, stacks: int) -> int:
    """Writes that many distinct folded stacks as stackcollapse tools do, sorted; returns their frames.

    They are random walks down one call graph of 4,000 functions, whose names are of 3 to 40 bytes. Each
    function calls a few others, one of them most of the time, so that neighbouring lines begin alike for
    most of their length, as those of real profiles do. Most are 8 to 30 frames deep, some up to 60.
    """
    rng = np.random.default_rng(2)
    syllables = [
        "do_",
        "page",
        "Read",
        "sys_",
        "hash",
        "get",
        "parse",
        "write_",
        "lookup",
        "::insert",
        "_ZN4",
        "btree_",
    ]
    picks = rng.integers(0, len(syllables), (FUNCTIONS, 8))
    lengths = np.minimum(rng.geometric(0.6, FUNCTIONS), 8)
    names = [
        "".join(syllables[s] for s in row[:n]) + np.base_repr(i, 36)
        for i, (row, n) in enumerate(zip(picks, lengths, strict=True))
    ]
    lines: dict[str, int] = {}
    frames = 0
    while len(lines) < stacks:
        batch = 50_000
        depth = np.clip(rng.gamma(7, 3.0, batch).astype(np.int64), 4, DEEPEST)
        walk = np.zeros((batch, DEEPEST), np.int64)
        for level in range(1, DEEPEST):
            walk[:, level] = (walk[:, level - 1] * 31 + rng.geometric(0.75, batch) * 1733) % FUNCTIONS
        weight = rng.geometric(0.3, batch)
        for row, deep, count in zip(walk.tolist(), depth.tolist(), weight.tolist(), strict=True):
            line = ";".join([names[i] for i in row[:deep]])
            if line not in lines and len(lines) < stacks:
                lines[line] = count
                frames += deep
    path.write_text("".join(f"{line} {count}\n" for line, count in sorted(lines.items())))
    return frames


def peer() -> tuple[str, list[str]]:
    """The name of what we measure against, and its command, which reads stdin and writes stdout."""
    perl = os.environ.get("FLAMEGRAPH_PL") or shutil.which("flamegraph.pl")
    if perl:
        return "flamegraph.pl", ["perl", perl]
    script = BUILD / "peers/node_modules/stackvis/cmd/stackvis"
    if not script.exists():
        if not (shutil.which("npm") and shutil.which("node")):
            sys.exit("no peer: set FLAMEGRAPH_PL to flamegraph.pl, or install node and npm")
        subprocess.run(
            ["npm", "install", "--prefix", str(BUILD / "peers"), "--ignore-scripts", "--no-audit", "--no-fund",
             "--loglevel=error", "stackvis@0.5.0"],
            check=True,
        )  # fmt: skip
    return "npm stackvis", ["node", "--max-old-space-size=8192", str(script), "collapsed", "flamegraph-svg"]


def run(command: list[str], folded: Path, out: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one run from `folded` on stdin to `out` on stdout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with folded.open("rb") as stdin, out.open("wb") as stdout:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        finished = subprocess.run(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT, env=environment
        )
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if finished.returncode:
        sys.exit(f"{command[0]} failed: {finished.stderr.decode(errors='replace')[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", type=int, default=200_000)
    stacks = parser.parse_args().stacks
    BUILD.mkdir(exist_ok=True)
    folded = BUILD / f"bench-{stacks}.folded"
    frames = write_stacks(folded, stacks)
    print(f"{stacks:,} distinct stacks, {frames:,} frames, {folded.stat().st_size / 1e6:.1f} MB of folded text")

    name, command = peer()
    commas = folded.with_suffix(".commas")  # what stackvis takes between names
    commas.write_bytes(folded.read_bytes().replace(b";", b","))
    results = []
    for who, argv in [("pilotlight", [sys.executable, "-c", OURS]), (name, command)]:
        out = BUILD / f"bench-{who.split()[-1]}.svg"
        runs = [run(argv, commas if who == "npm stackvis" else folded, out) for _ in range(3)]
        wall, cpu = min(wall for wall, _ in runs), min(cpu for _, cpu in runs)
        results.append((wall, cpu))
        print(f"{who:>15}: {wall:6.2f} s, {cpu:6.2f} s CPU, SVG of {out.stat().st_size / 1e6:.1f} MB")
    ratios = [theirs / ours for ours, theirs in zip(*results, strict=True)]
    print(f"ratio: {ratios[0]:.1f} x faster than {name}, {ratios[1]:.1f} x less CPU")


if __name__ == "__main__":
    main()
