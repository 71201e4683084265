"""Every format, written and read: how long a profile of many stacks takes, and two of them against a peer.

    python bench/formats.py [--stacks 200000]

The profile is that of bench/folded_to_svg.py. Peers, each a process of its own as we are, start included: perf script's
text to folded stacks against the npm package stackvis (a port of stackcollapse-perf.pl to Node.js; $STACKCOLLAPSE_PERF
names the original where there is one), and a pprof file to the table of its functions against `go tool pprof -top`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.folded_to_svg import BUILD, peer, run, write_stacks
from profiler.formats.by_extension import WRITERS
from profiler.formats.folded import read_folded
from profiler.formats.otlp import write_otlp
from profiler.formats.read import profiles_of, read_file
from profiler.formats.reading import profile_of
from profiler.model import Profile, Window
from web.flamegraph.rendering import render_profile

RENDER = [sys.executable, "-m", "profiler.cli", "render"]


def perf_text(profile: Profile) -> bytes:
    """The profile as perf script would print it, a sample for each stack."""
    lines: list[str] = []
    for number, sample in enumerate(profile.samples):
        lines.append(f"app 7/7 [000] {number / 99:.6f}:   10101010 cpu-clock: ")
        for location in sample.stack:
            name = location.frames[0].function
            lines.append(f"\t{0x400000 + hash(name) % (1 << 24):16x} {name}+0x1c (/usr/bin/app)")
        lines.append("")
    return ("\n".join(lines) + "\n").encode()


def timed(what: str, make: object) -> bytes:
    assert callable(make)
    began = time.process_time()
    made = make()
    took = time.process_time() - began
    data = made if isinstance(made, bytes) else b""
    print(f"{what:>28}: {took:6.2f} s CPU" + (f", {len(data) / 1e6:6.1f} MB" if data else ""), flush=True)
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", type=int, default=200_000)
    stacks = parser.parse_args().stacks
    BUILD.mkdir(exist_ok=True)
    folded = BUILD / f"bench-{stacks}.folded"
    frames = write_stacks(folded, stacks)
    print(f"{stacks:,} distinct stacks, {frames:,} frames")
    table, _ = read_folded(folded.read_bytes())
    plain = profile_of(table, event="cpu-clock", hz=99)
    profile = Profile("bench", "cpu-clock", 99, Window(10**18, 10**18 + 10**10), plain.samples, plain.accounting)
    for extension, write in {**WRITERS, ".otlp": write_otlp}.items():
        data = timed(f"write {extension}", lambda write=write: write(profile))
        if extension in (".txt", ".firefox.json"):
            continue
        try:
            read: list[Profile] = []
            timed(f"read {extension}", lambda data=data, read=read: read.extend(profiles_of(read_file(data))))
            assert sum(each.accounting.sampled for each in read) == profile.accounting.sampled
        except ValueError as refusal:
            print(f"{'read ' + extension:>28}: refused, {refusal}")
    timed("write .svg", lambda: render_profile(profile, ".svg"))

    perf, pprof = BUILD / "bench.perf.txt", BUILD / "bench.pb.gz"
    perf.write_bytes(perf_text(profile))
    pprof.write_bytes(WRITERS[".pb.gz"](profile))
    print(f"perf script's text: {perf.stat().st_size / 1e6:.1f} MB")
    perl = os.environ.get("STACKCOLLAPSE_PERF") or shutil.which("stackcollapse-perf.pl")
    name, command = ("stackcollapse-perf.pl", ["perl", perl]) if perl else peer()
    if not perl:
        command = [*command[:-2], "perf", "collapsed"]
    compare("perf script → folded", perf, [*RENDER, "-", "-o", "-.folded"], name, command)
    table_command = [sys.executable, "-m", "profiler.cli", "report", "--sort", "symbol", "-"]
    top = ["go", "tool", "pprof", "-top", "-nodecount=1000000", str(pprof)]
    compare("pprof → table", pprof, table_command, "go tool pprof -top", top)


def compare(what: str, source: Path, ours: list[str], name: str, theirs: list[str]) -> None:
    out = BUILD / "bench.out"
    (wall, cpu), (their_wall, their_cpu) = run(ours, source, out), run(theirs, source, out)
    print(f"{what}: {wall:.2f} s ({cpu:.2f} s CPU); {name}: {their_wall:.2f} s ({their_cpu:.2f} s CPU)")
    print(f"ratio: {their_wall / wall:.2f} x faster than {name}, {their_cpu / cpu:.2f} x less CPU")


if __name__ == "__main__":
    main()
