"""What the live tests share."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from profiler.formats.json import read_json
from profiler.model import Profile, Sample
from profiler.symbols import cache_folder
from profiler.unwind.cache import TableCache
from profiler.unwind.worker import TableWorker
from symbolizer.elf import read_elf
from symbolizer.files import read_at
from symbolizer.types import Kind, Reason

ROOT = Path(__file__).resolve().parents[2]
PILOTLIGHT = str(ROOT / ".venv" / "bin" / "pilotlight")
WORKLOADS = Path(__file__).parent / "workloads"

Compile = Callable[..., Path]
Record = Callable[..., Profile]
Build = Callable[..., Path]


def record_in(folder: Path, *arguments: str, code: int = 0) -> Profile:
    """Runs `pilotlight record` in a folder with a .json output, and returns the profile."""
    output = folder / "recorded.json"
    done = subprocess.run(
        [PILOTLIGHT, "record", "-o", str(output), *arguments], capture_output=True, text=True, timeout=120, cwd=folder
    )
    assert done.returncode == code, done.stderr
    profile = read_json(output.read_bytes())
    assert_truthful(profile)
    return profile


def assert_truthful(profile: Profile) -> None:
    """Every tick is accounted for, and the samples are as many as the account says."""
    accounting = profile.accounting
    assert accounting.closes, accounting
    assert sum(sample.count for sample in profile.samples) == accounting.sampled


def functions(sample: Sample) -> list[str]:
    """The function names of a stack, leaf first, inlined ones included."""
    return [frame.function for location in sample.stack for frame in location.frames]


def count_of(profile: Profile, *names: str) -> int:
    """How many ticks found all the named functions in their stack."""
    return sum(sample.count for sample in profile.samples if set(names) <= set(functions(sample)))


@contextmanager
def busy_in_cgroup(*command: str) -> Iterator[str]:
    """Runs a command in a new cgroup v2 of its own, whose name below the hierarchy it yields."""
    roots = [Path(path) for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    root = next(path for path in roots if (path / "cgroup.controllers").exists())
    group = root / f"pilotlight-test-{os.getpid()}"
    group.mkdir()
    process = subprocess.Popen(command)
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        yield group.name
    finally:
        process.kill()
        process.wait()
        for _ in range(100):  # the cgroup is busy until the kernel has let go of the process
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def learn(*files: str | Path) -> None:
    """Has the unwind tables of files, and of the libraries they are linked with, on disk: what recordings made before
    would have left there."""
    folder = cache_folder()
    assert folder is not None
    cache, worker = TableCache(folder), TableWorker(folder)
    waiting = 0
    try:
        for path in {os.path.realpath(path) for file in files for path in [file, *libraries(file)]}:
            with open(path, "rb") as file:
                build_id = read_elf(partial(read_at, file.fileno())).build_id()
                if build_id and cache.get(build_id) is None:
                    waiting += worker.submit(waiting, build_id, os.dup(file.fileno()))
        while waiting:
            select.select([worker.fileno()], [], [], 1)
            waiting -= len(worker.finished())
    finally:
        worker.close()


def libraries(program: str | Path) -> list[str]:
    """The libraries that a program is linked with, and its interpreter."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def samples_of(profile: Profile, process: str) -> list[Sample]:
    return [sample for sample in profile.samples if sample.process == process]


def longest_run(samples: Iterable[Sample]) -> list[Sample]:
    """The samples of that process which has most of them: not of those that ran before to have tables loaded."""
    by_pid: dict[int, list[Sample]] = {}
    for sample in samples:
        by_pid.setdefault(sample.pid, []).append(sample)
    return max(by_pid.values(), key=total, default=[])


def user_functions(sample: Sample) -> list[str]:
    """As functions(), without the kernel's."""
    return [
        frame.function
        for location in sample.stack
        for frame in location.frames
        if frame.kind not in (Kind.KERNEL, Kind.MODULE)
    ]


def cut(sample: Sample) -> Reason | None:
    """Why the sample's stack does not reach its root; None where it does, or there is no user stack."""
    last = sample.stack[-1].frames[-1] if sample.stack else None
    return last.reason if last and last.function.startswith("[stack cut: ") else None


def once_known(samples: Iterable[Sample]) -> list[Sample]:
    """The samples taken once the process's mappings and tables were there: how soon that is has tests of its own, and
    depends on what else the machine does. They are most of all."""
    learning = (Reason.MAPPINGS_NOT_KNOWN, Reason.UNWIND_TABLE_NOT_LOADED)
    samples = list(samples)
    known = [sample for sample in samples if cut(sample) not in learning]
    assert total(known) > 0.7 * total(samples), fates(samples)
    return known


def is_root(sample: Sample, *more: str) -> bool:
    """Whether the stack ends where programs and threads of C begin, or in a function of `more`."""
    if not sample.stack or cut(sample):
        return False
    last = sample.stack[-1]
    path = last.binary.path if last.binary else ""
    if last.frames[-1].function in ("_start", "__clone", "__clone3", *more):
        return True
    # Stripped: the entry points of ld.so and of programs, and the C library's clone().
    return Path(path).name.startswith(("ld-linux", "libc.so")) or last.frames[-1].reason is not None and path != ""


def total(samples: Iterable[Sample]) -> int:
    return sum(sample.count for sample in samples)


def share_to_root(samples: Iterable[Sample], *more: str) -> float:
    """Of the samples with user code, the share whose stack ends in its true root (see is_root)."""
    with_user_code = [sample for sample in samples if user_functions(sample)]
    return total(s for s in with_user_code if is_root(s, *more)) / max(total(with_user_code), 1)


def fates(samples: Iterable[Sample], *more: str) -> str:
    """What the stacks end with, for a failed test to show."""
    ends = Counter[str]()
    for sample in samples:
        names = user_functions(sample)
        ends[" < ".join([*names[:2], "…", *names[-3:]])] += sample.count * (bool(names) and not is_root(sample, *more))
    return "\n".join(f"{count} {end}" for end, count in ends.most_common(12) if count)
