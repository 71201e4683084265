"""Names for 100,000 addresses of 50 files with debug information: against llvm-symbolizer and addr2line -i.

The files: glibc, valgrind and libstdc++ with the debug information of Debian's -dbg packages (installed if missing),
and tools of Go and programs of C++ and Rust that are built here. The addresses are spread at random over the functions
of their symbol tables, the same number in each file. All are asked for the same, file by file, in one run:

- cold: from the start of the process to the last answer, with an empty symbol cache; the files are in the page cache;
- next start: the same with the symbol files that the first time left on disk, as an agent has them from then on;
- warm: once more in the same process, all answers of the first time forgotten that are not kept anyway;
- agreement: each frame, inlined ones too: its function (mangled, as in the file), its file and its line.

Then 300 processes that have all 50 files mapped ask for the same addresses, each for its share, as an agent does that
looks at all of a machine; and the memory is measured by which that agent has grown.

    python bench/symbolize.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from profiler.processes import read_maps
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.elf import read_elf
from symbolizer.files import read_at
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Location

FILES, ADDRESSES, PROCESSES, PASSES = 50, 2000, 300, 3
PACKAGES = {
    "/usr/share/doc/libc6-dbg": "libc6-dbg",
    "/usr/share/doc/valgrind-dbg": "valgrind-dbg",
    "/usr/lib/x86_64-linux-gnu/debug/libstdc++.so.6": "libstdc++6-12-dbg",
    "/usr/bin/go": "golang-go",
    "/usr/bin/llvm-symbolizer": "llvm",
    "/usr/bin/clang++": "clang",
    "/usr/bin/g++": "g++",
}
LIBRARIES = [
    f"/lib/x86_64-linux-gnu/{name}"
    for name in ("libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "libmvec.so.1", "libnsl.so.1", "libresolv.so.2")
]
BUILDS = [
    "g++ -std=c++17 -O1 -gdwarf-5",
    "g++ -std=c++17 -O2 -gdwarf-4",
    "g++ -std=c++17 -O3 -gdwarf-5 -gz",
    "clang++ -std=c++17 -O2 -gdwarf-4",
    "g++ -std=c++17 -Os -gdwarf-4",
    "clang++ -std=c++17 -O1 -gdwarf-4",
    "clang++ -std=c++17 -O3 -gdwarf-5",
    "rustc -g -O",
    "rustc -g -C opt-level=1",
    "rustc -g -C opt-level=s",
]
GO = [f"cmd/{name}" for name in "addr2line asm cgo cover doc fix gofmt nm objdump pack test2json trace vet".split()]
MAPPER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
/* Maps the files given as PATH OFFSET SIZE, executable, into as many processes as the first argument says. */
int main(int count, char **given)
{
    for (int i = 2; i + 2 < count; i += 3)
        if (mmap(0, atol(given[i + 2]), PROT_READ | PROT_EXEC, MAP_PRIVATE, open(given[i], O_RDONLY),
            atol(given[i + 1])) == MAP_FAILED)
            return 1;
    for (int i = 0; i < atoi(given[1]); i++) {
        int pid = fork();
        if (!pid) {
            prctl(PR_SET_PDEATHSIG, 9);
            for (;;)
                pause();
        }
        printf("%d\n", pid);
    }
    fflush(stdout);
    pause();
}
"""

Frame = tuple[str, str, int]  # function, file, line
Questions = list[tuple[str, list[int]]]


# What is asked


def install() -> None:
    missing = [package for sign, package in PACKAGES.items() if not os.path.exists(sign)]
    if missing:
        print(f"installing {' '.join(missing)}", flush=True)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def build(folder: Path) -> list[str]:
    programs = []
    for number, command in enumerate(BUILDS):
        target = folder / f"program-{number}"
        source = Path(__file__).with_suffix(".rs" if command.startswith("rustc") else ".cpp")
        subprocess.run([*command.split(), "-o", target, source], check=True)
        programs.append(str(target))
    tools = folder / "go"
    tools.mkdir()
    environment = os.environ | {"GOCACHE": str(folder / "go-cache"), "GOTOOLCHAIN": "local"}
    subprocess.run(["go", "build", "-o", str(tools), *GO], check=True, env=environment)
    return programs + sorted(map(str, tools.iterdir()))


def files(folder: Path) -> list[str]:
    valgrind = [p for p in sorted(Path("/usr/libexec/valgrind").glob("*-linux")) if not p.name.startswith("getoff")]
    standard = "/usr/lib/x86_64-linux-gnu/debug/libstdc++.so.6"
    found = list(map(os.path.realpath, [*build(folder), *LIBRARIES, standard, *map(str, valgrind)]))
    if len(found) < FILES:
        raise SystemExit(f"There are {len(found)} files with debug information; {FILES} are needed.")
    return found[:FILES]


def debug_file(path: str) -> str:
    """The file that has the debug information of a file: itself, or the separate one by its build id."""
    notes = subprocess.run(["readelf", "-nW", path], capture_output=True, text=True).stdout
    build_id = re.search(r"Build ID: (\w\w)(\w+)", notes)
    separate = f"/usr/lib/debug/.build-id/{build_id[1]}/{build_id[2]}.debug" if build_id else ""
    return separate if os.path.exists(separate) else path


def symbol_table(path: str) -> str:
    return subprocess.run(["readelf", "-sW", debug_file(path)], capture_output=True, text=True, check=True).stdout


def functions(path: str) -> list[range]:
    """The addresses of each function that has a symbol."""
    symbols = re.findall(r"^ *\d+: (\w+) +(\w+) FUNC +\w+ +\w+ +(?!UND)", symbol_table(path), re.M)
    found = {(int(start, 16), int(size, 0)) for start, size in symbols}
    return [range(start, start + size) for start, size in sorted(found) if size]


def questions(paths: list[str]) -> Questions:
    chance = random.Random(4)
    asked = []
    for path in paths:
        ranges = functions(path)
        picked = chance.choices(ranges, [len(one) for one in ranges], k=ADDRESSES)
        asked.append((path, [chance.choice(one) for one in picked]))
        Path(path).read_bytes()
    return asked


# The peers


def llvm_symbolizer(asked: Questions, *flags: str, passes: int = 1, output: Path) -> float:
    """Seconds it takes to answer all, `passes` times."""
    lines = "".join(f'"{path}" {address:#x}\n' for path, addresses in asked for address in addresses)
    given = output.with_suffix(".in")
    given.write_text(lines * passes)
    start = time.monotonic()
    with given.open() as reads, output.open("w") as writes:
        subprocess.run(["llvm-symbolizer", "--inlines", *flags], stdin=reads, stdout=writes, check=True)
    return time.monotonic() - start


def addr2line(asked: Questions, *flags: str, passes: int = 1, output: Path) -> float:
    """As llvm_symbolizer(); a process for each file, one after another."""
    seconds = 0.0
    with output.open("w") as writes:
        for path, addresses in asked:
            given = output.with_suffix(".in")
            given.write_text("".join(f"{address:#x}\n" for address in addresses) * passes)
            start = time.monotonic()
            with given.open() as reads:
                command = ["addr2line", "-f", "-i", "-a", *flags, "-e", path]
                subprocess.run(command, stdin=reads, stdout=writes, check=True)
            seconds += time.monotonic() - start
    return seconds


def llvm_answers(output: Path) -> Iterator[list[Frame]]:
    for answer in output.read_text(errors="replace").split("\n\n")[:-1]:
        lines = answer.strip("\n").split("\n")
        yield [frame(lines[i], lines[i + 1].rpartition(":")[0]) for i in range(0, len(lines), 2)]


def addr2line_answers(output: Path) -> Iterator[list[Frame]]:
    found: list[Frame] = []
    lines = iter(output.read_text(errors="replace").splitlines())
    for first, line in enumerate(lines):
        if not line.startswith("0x"):
            found.append(frame(line, next(lines).partition(" (discriminator")[0]))
        elif first:
            yield found
            found = []
    yield found


def frame(function: str, place: str) -> Frame:
    file, _, line = place.rpartition(":")
    return "" if function == "??" else function, "" if file == "??" else file, int(line) if line.isdigit() else 0


# Ours, each in a process of its own


def ours_of_files(folder: Path, asked: Questions, started: float) -> dict[str, Any]:
    symbolizer = Symbolizer(SymFiles(folder))
    answers = []
    for number, (path, addresses) in enumerate(asked):
        for following, _ in asked[number + 1 : number + 2]:
            symbolizer.file(following, [])  # which has its symbol file made meanwhile
        answers.append(symbolizer.file(path, addresses, 120))
    cold = time.monotonic() - started

    def again() -> None:
        for path, addresses in asked:
            symbolizer.file(path, addresses)

    return {"cold": cold, "warm": best(again), "answers": [as_frames(one) for some in answers for one in some]}


def ours_of_processes(folder: Path, asked: Questions, pids: Sequence[int]) -> dict[str, Any]:
    """The addresses dealt out to the processes, as each has them mapped."""
    places = {path: in_file(path, addresses) for path, addresses in asked}
    queries = []
    for number, pid in enumerate(pids):
        maps = {(m.path, m.offset): m for m in read_maps(pid)}
        mine = []
        for path, offsets in places.items():
            mapped = sorted(offset for name, offset in maps if name == path)
            for offset in offsets[number :: len(pids)]:
                mapping = maps[path, mapped[bisect_right(mapped, offset) - 1]]
                mine.append((mapping.start + offset - mapping.offset, mapping))
        queries.append((pid, mine))
    few = [(pid, mine[:: len(asked) // 5]) for pid, mine in queries]
    before, start = memory(), time.monotonic()
    symfiles = SymFiles(folder)
    symbolizer = Symbolizer(symfiles)

    def ask(some: list[tuple[int, Any]]) -> int:
        """How many have a line."""
        return sum(bool(one.frames[-1].line) for pid, mine in some for one in symbolizer.user(pid, mine))

    ask(few)
    while not symfiles.settle(0):
        symfiles.settle(120)
        symbolizer.improved()
        ask(few)
    after_few = memory()
    with_lines = ask(queries)
    cold = time.monotonic() - start
    return {
        "cold": cold,
        "warm": best(lambda: ask(queries)),
        "count": sum(len(mine) for _, mine in queries),
        "with lines": with_lines,
        "few": sum(len(mine) for _, mine in few),
        "grown by few": after_few["VmRSS"] - before["VmRSS"],
        "grown": {name: size - before[name] for name, size in memory().items()},
    }


def best(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(PASSES):
        start = time.monotonic()
        run()
        seconds.append(time.monotonic() - start)
    return min(seconds)


def as_frames(location: Location) -> list[Frame]:
    frames = location.frames
    return [("" if f.reason else f.system_name or f.function, f.file, f.line) for f in frames]


def in_file(path: str, addresses: list[int]) -> list[int]:
    """Offsets in the file of virtual addresses."""
    with open(path, "rb") as file:
        loads = read_elf(lambda at, size: read_at(file.fileno(), at, size)).loads
    placed = []
    for address in addresses:
        placed += [offset + address - at for offset, size, at in loads if at <= address < at + size][:1]
    return placed


def memory() -> dict[str, int]:
    """Resident memory of this process in bytes: all, what is its own, what is of mapped files."""
    status = re.findall(r"^(VmRSS|RssAnon|RssFile):\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    return {name: int(kilobytes) << 10 for name, kilobytes in status}


@contextmanager
def mapped_by_processes(folder: Path, paths: list[str]) -> Iterator[list[int]]:
    """Processes with all files mapped."""
    source, program = folder / "mapper.c", folder / "mapper"
    source.write_text(MAPPER)
    subprocess.run(["gcc", "-o", program, source], check=True)
    wanted = []
    for path in paths:
        listed = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True, check=True).stdout
        for offset, size in re.findall(r"^ *LOAD +(\w+) +\w+ +\w+ +(\w+) +\w+ +R.E", listed, re.M):
            start = int(offset, 16) & -4096
            wanted += [path, str(start), str(int(offset, 16) + int(size, 16) - start)]
    with subprocess.Popen([program, str(PROCESSES), *wanted], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield [int(process.stdout.readline()) for _ in range(PROCESSES)]
        finally:
            process.kill()


def in_process(
    what: str, folder: Path, asked: Questions, pids: Sequence[int] = (), *, cache: Path | None = None
) -> dict[str, Any]:
    cache = cache or Path(tempfile.mkdtemp(dir=folder))
    given, output = folder / "ours.in", folder / "ours.out"
    given.write_text(json.dumps({"asked": asked, "pids": list(pids)}))
    command = [sys.executable, __file__, "--process", what, str(cache), str(given), str(output), str(time.monotonic())]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


# What differs


def compare(asked: Questions, theirs: Iterator[list[Frame]], ours: list[list[Frame]], peer: str) -> float:
    """Prints how the frames differ, kind by kind; returns the share that agrees.

    Frames agree where function and line do. A function may go by another symbol of its address, or with what a compiler
    appends to the name of a clone; the same path may be spelled in another way. Where the peer has no name, ours is not
    held against either.
    """
    kinds = Counter[str]()
    examples: dict[str, str] = {}
    total = wrong = 0
    answers = zip(theirs, ([(f, file, line) for f, file, line in frames] for frames in ours), strict=True)
    for path, addresses in asked:
        names = aliases(path)
        for address in addresses:
            one, other = next(answers)
            total += max(len(one), len(other))
            if len(one) != len(other):
                found = {f"{peer} has {'fewer' if len(one) < len(other) else 'more'} inlined frames": False}
                wrong += max(len(one), len(other))
                kinds[next(iter(found))] += max(len(one), len(other))
                examples.setdefault(next(iter(found)), f"{os.path.basename(path)} {address:#x}")
                continue
            for place, (frame_of_peer, frame_of_ours) in enumerate(zip(one, other, strict=True)):
                quirk = peer == "addr2line" and not place and len(one) > 1 and frame_of_peer[0] == one[-1][0]
                found = differences(frame_of_peer, frame_of_ours, names, quirk)
                wrong += not all(found.values())
                for kind in found:
                    kinds[kind] += 1
                    example = f"{os.path.basename(path)} {address:#x}: {frame_of_peer} / {frame_of_ours}"
                    examples.setdefault(kind, example)
    print(f"\nframes against {peer}: {total:,}, of which {1 - wrong / total:.3%} agree")
    for kind, count in kinds.most_common():
        print(f"  {count:7,}  {kind}\n           {examples[kind][:230]}")
    return 1 - wrong / total


def differences(theirs: Frame, ours: Frame, names: dict[str, set[int]], quirk: bool) -> dict[str, bool]:
    """In what two frames differ, and whether they agree all the same."""
    found = {}
    if theirs[0] != ours[0]:
        if not theirs[0]:
            found["function: the peer has no name, ours is the symbol's"] = True
        elif plain(theirs[0]) == plain(ours[0]):
            found["function: a clone's, ours with what the compiler appended to the symbol (.part.0, .cold)"] = True
        elif names.get(theirs[0].partition("@")[0], set()) & names.get(ours[0], set()):
            found["function: another symbol of the same address"] = True
        elif quirk:
            found["function: the peer gives the inlined function the name of the one it is inlined into"] = True
        elif names.get(ours[0]) and not names.get(theirs[0]):
            found["function: ours is the symbol's, the peer's is in no symbol table (DWARF's linkage name)"] = True
        else:
            found["function: another"] = False
    if theirs[2] != ours[2]:
        found["line: only the peer has one" if not ours[2] else "line: only ours" if not theirs[2] else "line"] = False
    elif theirs[1] != ours[1] and theirs[2]:
        same = spelled(theirs[1], ours[1])
        found["file: the same path spelled in another way" if same else "file: another"] = same
    elif theirs[1] != ours[1]:
        found["file: without a line, so that it is a guess (the unit's name)"] = True
    return found


def plain(name: str) -> str:
    return re.sub(r"(\.(constprop|isra|part|cold|llvm)(\.\d+)*)+$", "", name)


def spelled(one: str, other: str) -> bool:
    first, second = sorted((os.path.normpath(one), os.path.normpath(other)), key=len)
    return first == second or second.endswith(f"/{first}")


def aliases(path: str) -> dict[str, set[int]]:
    """Where the symbols of each name are."""
    found: dict[str, set[int]] = {}
    for start, name in re.findall(r"^ *\d+: (\w+) +\w+ \w+ +\w+ +\w+ +(?!UND)\w+ (\S+)", symbol_table(path), re.M):
        found.setdefault(name.partition("@")[0], set()).add(int(start, 16))
    return found


def row(what: str, seconds: float, count: int = FILES * ADDRESSES) -> None:
    print(f"  {what:34} {seconds:7.2f} s {count / seconds:12,.0f} /s", flush=True)


def verdict(what: str, ok: bool) -> None:
    print(f"  {'reached' if ok else 'MISSED '}  {what}")


def bench(folder: Path) -> None:
    install()
    paths = files(folder)
    asked = questions(paths)
    size = sum(os.path.getsize(debug_file(path)) for path in paths)
    print(f"{FILES * ADDRESSES:,} addresses of {FILES} files with {size / 1e6:,.0f} MB of debug information")

    output = folder / "answers"
    print("cold")
    row("llvm-symbolizer --inlines", llvm := llvm_symbolizer(asked, output=output))
    ours = in_process("files", folder, asked, cache=folder / "symbols")
    row("pilotlight", ours["cold"])
    next_start = in_process("files", folder, asked, cache=folder / "symbols")["cold"]
    row("pilotlight, next start", next_start)
    row("addr2line -i", addr2line_cold := addr2line(asked, output=output))
    print("warm")
    llvm_warm = (llvm_symbolizer(asked, passes=1 + PASSES, output=output) - llvm) / PASSES
    row("llvm-symbolizer --inlines", llvm_warm)
    row("pilotlight", ours["warm"])
    row("addr2line -i", (addr2line(asked, passes=1 + PASSES, output=output) - addr2line_cold) / PASSES)

    with mapped_by_processes(folder, paths) as pids:
        many = in_process("processes", folder, asked, pids)
    count, lined = many["count"], many["with lines"]
    print(f"{PROCESSES} processes with all files mapped: {count:,} addresses, {lined:,} with lines")
    row("pilotlight, cold", many["cold"], count)
    row("pilotlight, warm", many["warm"], count)
    grown = {name: size / 1e6 for name, size in many["grown"].items()}
    print(
        f"  memory grown by {many['grown by few'] / 1e6:.1f} MB for {many['few']:,} addresses of the {FILES} files, by "
        f"{grown['VmRSS']:.1f} MB for all ({grown['RssAnon']:.1f} of its own, {grown['RssFile']:.1f} of mapped files)"
    )

    llvm_symbolizer(asked, "--no-demangle", output=output)
    by_llvm = compare(asked, llvm_answers(output), ours["answers"], "llvm-symbolizer")
    addr2line(asked, output=output)
    compare(asked, addr2line_answers(output), ours["answers"], "addr2line")

    print("\ngoals")
    verdict(f"cold: {llvm / ours['cold']:.2f} x llvm-symbolizer (1)", ours["cold"] <= llvm)
    verdict(f"next start: {llvm / next_start:.2f} x llvm-symbolizer (1)", next_start <= llvm)
    verdict(f"warm: {llvm_warm / ours['warm']:.1f} x llvm-symbolizer (2)", 2 * ours["warm"] <= llvm_warm)
    verdict(f"agreement with llvm-symbolizer: {by_llvm:.3%} (99.9 %)", by_llvm >= 0.999)
    few = many["grown by few"] / 1e6
    verdict(f"memory grown by {few:.1f} MB for {many['few']:,} addresses of {FILES} files (30)", few <= 30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", nargs=5, help=argparse.SUPPRESS)
    if (given := parser.parse_args().process) is not None:
        what, cache, given_questions, output, started = given
        read = json.loads(Path(given_questions).read_text())
        if what == "files":
            found = ours_of_files(Path(cache), read["asked"], float(started))
        else:
            found = ours_of_processes(Path(cache), read["asked"], read["pids"])
        Path(output).write_text(json.dumps(found))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
