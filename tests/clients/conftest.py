"""A server of its own process, and the clients that npm has."""

from __future__ import annotations

import filecmp
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PROGRAM = """
import sys
from web.app import ServerOptions, serve
options = ServerOptions(sys.argv[1], port=0, token=sys.argv[2] or None, commit_seconds=0.0)
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""
TOKEN = "a token of some length"


def _served(directory: Path, token: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, f"chdb://{directory}/store", token],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert process.stdout is not None and process.stderr is not None
    url = process.stdout.readline().strip()
    if not url:
        process.wait(60)
        raise AssertionError(process.stderr.read())
    yield url.rstrip("/")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said, said


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with an empty store; at the end it must not have made a mistake."""
    yield from _served(tmp_path_factory.mktemp("server"), "")


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Likewise, of one that wants TOKEN."""
    yield from _served(tmp_path_factory.mktemp("guarded"), TOKEN)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The packages of npm/package-lock.json, which says what each must be; downloaded once."""
    wanted = Path(__file__).parent / "npm"
    directory = CHECKOUT / "build" / "npm" / "clients"
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / "package-lock.json"
    if not (
        (directory / "node_modules").is_dir()
        and lock.exists()
        and filecmp.cmp(lock, wanted / "package-lock.json", shallow=False)
    ):
        for name in ("package.json", "package-lock.json"):
            shutil.copy(wanted / name, directory)
        subprocess.run(
            ["npm", "ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=directory,
            check=True,
            capture_output=True,
            timeout=300,
        )
    return directory / "node_modules"
