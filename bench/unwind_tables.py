"""Building unwind tables against readelf and pyelftools, which take the same sections apart.

For libc, python3 and libLLVM-14, or the files given: milliseconds to build the table (the best of five runs in one
process), to read it back from its bytes with every check, for `readelf --debug-dump=frames-interp` with its output
thrown away (the best of three), and for pyelftools to decode every entry (once); the table's bytes for each MB of
executable sections; and the peak memory of a process that builds the one table and does nothing else.

    python bench/unwind_tables.py [FILE...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

from profiler.unwind.cfi import build_table
from profiler.unwind.table import UnwindTable
from symbolizer.elf import read_elf

LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
FILES = {
    LIBRARIES / "libc.so.6": 30,
    Path("/usr/bin/python3"): 80,
    LIBRARIES / "libLLVM-14.so.1": 1000,
}
"""Milliseconds that building the table may take."""
MEMORY_BUDGET = 200
ONLY_BUILD = "--only-build"


def reader(descriptor: int) -> Callable[[int, int], bytes]:
    return lambda offset, size: os.pread(descriptor, size, offset)


def best_ms(runs: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def readelf(path: Path) -> None:
    options = ["--wide", "--debug-dump=no-follow-links", "--debug-dump=frames-interp"]
    subprocess.run(["readelf", *options, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def pyelftools(path: Path) -> int:
    """Decodes every function; returns how many of them it could not."""
    failed = 0
    with path.open("rb") as file:
        dwarf = ELFFile(file).get_dwarf_info(follow_links=False)
        entries = dwarf.EH_CFI_entries() if dwarf.has_EH_CFI() else dwarf.CFI_entries()
        for entry in entries:
            if isinstance(entry, FDE):
                try:
                    entry.get_decoded()
                except Exception:  # some instructions are unknown to it
                    failed += 1
    return failed


def peak_megabytes(path: Path) -> int:
    """Of a process that only builds a table; from itself, as getrusage would count this process' memory with it."""
    command = [sys.executable, __file__, ONLY_BUILD, str(path)]
    return int(subprocess.run(command, capture_output=True, check=True).stdout) // 1024


def only_build(path: str) -> None:
    build_table(reader(os.open(path, os.O_RDONLY)))
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def measure(path: Path, budget: int | None) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    read = reader(descriptor)
    built = best_ms(5, lambda: build_table(read))
    table = build_table(read)
    data = table.to_bytes()
    checked = best_ms(5, lambda: UnwindTable.from_bytes(data))
    text = sum(section.size for section in read_elf(read).sections if section.executable) / 1e6
    os.close(descriptor)
    by_readelf = best_ms(3, lambda: readelf(path))
    start = time.perf_counter()
    failed = pyelftools(path)
    by_pyelftools = (time.perf_counter() - start) * 1e3
    memory = peak_megabytes(path)
    within = f" (budget {budget})" if budget else ""
    per_mb = f"{table.nbytes / text:,.0f}" if text else "no"
    print(f"{path}: {len(table.rows):,} rows, {len(table.rules):,} rules, {table.skipped} entries skipped")
    print(f"  table       {built:10.1f} ms{within}; from its bytes {checked:.1f} ms")
    print(f"  readelf     {by_readelf:10.1f} ms; ratio table/readelf {built / by_readelf:.2f}")
    print(f"  pyelftools  {by_pyelftools:10.1f} ms; ratio table/pyelftools {built / by_pyelftools:.3f}")
    print(f"              which leaves {failed} functions undecoded")
    print(f"  {table.nbytes:,} bytes, {per_mb} for each MB of text; peak memory {memory} MB (budget {MEMORY_BUDGET})")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == [ONLY_BUILD]:
        only_build(arguments[1])
        return 0
    for path, budget in ({Path(name): None for name in arguments} or FILES).items():
        if path.exists():
            measure(path.resolve(), budget)
        else:
            print(f"{path}: not installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
