"""What the live tests share."""

from __future__ import annotations

from collections.abc import Callable
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
