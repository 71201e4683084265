"""Tests in this folder sample this machine for real; they need root and the built BPF program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from profiler.model import Profile
from tests.live.support import WORKLOADS, Build, Compile, Record, record_in


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


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build("rustc", "chain.rs", FLAG…, to="chain") → the built file; "go build" and any cc are compilers too."""

    def run(compiler: str, source: str, *flags: str, to: str = "") -> Path:
        target = tmp_path_factory.mktemp("built") / (to or source.partition(".")[0])
        command = [*compiler.split(), "-o", str(target), str(WORKLOADS / source), *flags]
        if compiler.startswith("go"):  # which takes no flags after the source
            command = [*command[:4], *flags, command[4]]
        subprocess.run(command, check=True)
        return target

    return run


@pytest.fixture
def backend() -> str:
    """What `record` samples with; a module that is to run with each backend has a parametrized one of its own."""
    return "auto"


@pytest.fixture
def record(tmp_path: Path, backend: str) -> Record:
    """record("-d", "3", "--", "cmd") runs `pilotlight record` with a .json output and returns the profile."""

    def run(*arguments: str, code: int = 0) -> Profile:
        return record_in(tmp_path, "--backend", backend, *arguments, code=code)

    return run
