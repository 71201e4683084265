"""Windows on the wall-clock grid, and who the agent says it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from profiler.agent import agent_id, on_grid
from profiler.model import Accounting, Profile, Window


def at(start: float, end: float) -> Profile:
    window = Window(round(start * 1e9), round(end * 1e9))
    return Profile("host", "cpu-clock", 99, window, (), Accounting())


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (100.003, 110.002, (100, 110)),
        (99.999, 110.0, (100, 110)),
        (103.2, 110.01, (100, 110)),
        (100.0, 104.5, (100, 110)),
        (100.0, 131.7, (100, 140)),
    ],
)
def test_windows_are_put_on_whole_ten_seconds(start: float, end: float, expected: tuple[int, int]) -> None:
    window = on_grid(at(start, end)).window
    assert (window.start_ns / 1e9, window.end_ns / 1e9) == expected


def test_an_agent_is_called_the_same_after_each_start() -> None:
    assert agent_id("a") == agent_id("a") != agent_id("b")
    assert len(agent_id("a")) == 16


def test_an_agent_does_without_the_memory_that_other_commands_take() -> None:
    heavy = ("google.protobuf", "opentelemetry", "fastapi", "chdb", "jinja2")
    loaded = subprocess.run(
        [sys.executable, "-c", "import profiler.cli, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "profiler.push" in loaded and not [name for name in loaded if name.startswith(heavy)]
