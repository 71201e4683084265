"""What the live tests share."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from profiler.model import Profile, Sample

ROOT = Path(__file__).resolve().parents[2]
PILOTLIGHT = str(ROOT / ".venv" / "bin" / "pilotlight")
WORKLOADS = Path(__file__).parent / "workloads"

Compile = Callable[..., Path]
Record = Callable[..., Profile]


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
