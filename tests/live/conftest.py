"""Tests in this folder sample this machine for real; they need root and the built BPF program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from profiler.formats.json import read_json
from profiler.model import Profile
from tests.live.support import PILOTLIGHT, WORKLOADS, Compile, Record, assert_truthful


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail("The live tests sample the machine: run them as root.", pytrace=False)


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """compile_c("chains", FLAG…) → the built program; at -O0 every function of it keeps a frame pointer."""

    def build(name: str, *flags: str, to: str = "") -> Path:
        target = tmp_path_factory.mktemp("built") / (to or name)
        source = str(WORKLOADS / f"{name}.c")
        command = ["gcc", "-O0", "-o", str(target), source, *flags]
        subprocess.run(command, check=True)
        return target

    return build


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """record("-d", "3", "--", "cmd") runs `pilotlight record` with a .json output and returns the profile."""

    def run(*arguments: str, code: int = 0) -> Profile:
        output = tmp_path / "recorded.json"
        done = subprocess.run(
            [PILOTLIGHT, "record", "-o", str(output), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        assert done.returncode == code, done.stderr
        profile = read_json(output.read_bytes())
        assert_truthful(profile)
        return profile

    return run
