"""A server of its own for tests in a browser, with what they put into its store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from profiler.formats.otlp import PushIdentity, write_otlp
from profiler.model import Profile
from web.store.store import Store
from web.store.writer import Push, Writer

CHECKOUT = Path(__file__).parent.parent.parent
_PROGRAM = """
import sys
from importlib import import_module
from tests.browser.served import fill
from web.app import ServerOptions, serve
store, port, world = sys.argv[1:]
if world:
    fill(store, import_module(world).world())
options = ServerOptions(store, port=int(port), commit_seconds=0)
sys.exit(serve(options, ready=lambda url: print(url, flush=True)))
"""


@dataclass(slots=True)
class Server:
    """A server process; `url` ends with a slash. Started again it is at the same address, with the same store."""

    store: str
    url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self, world: str = "") -> None:
        port = httpx.URL(self.url).port or 0 if self.url else 0
        arguments = [sys.executable, "-c", _PROGRAM, self.store, str(port), world]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0


@contextmanager
def serving(directory: Path, world: str = "") -> Iterator[Server]:
    """A server, at first with the profiles of the function world() of the module `world`."""
    server = Server(f"chdb://{directory}/store")
    server.start(world)
    try:
        yield server
    finally:
        server.stop()


def fill(url: str, profiles: Sequence[Profile]) -> None:
    """All of them in one commit, into a store that no server has open."""
    store = Store(url)
    writer = Writer(store, interval=0)
    writer.submit(Push(tuple(profiles), "0" * 64)).result(60)
    writer.close()
    store.close()


def push(url: str, made: Profile, sequence: int) -> None:
    answer = httpx.post(
        url + "v1development/profiles",
        content=write_otlp(made, PushIdentity(f"agent {made.host}", 1, sequence)),
        headers={"content-type": "application/x-protobuf"},
        timeout=30,
    )
    assert answer.status_code == 200
