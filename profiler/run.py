"""`pilotlight run`: agent and server on one machine, the server as a process of its own without privileges."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from profiler.agent import AgentOptions, run_agent

_READY_SECONDS = 60.0
_RESTART_SECONDS = 2.0


class ServerError(Exception):
    """The server did not start; it has said why itself, or the message does."""


@dataclass(frozen=True, slots=True)
class _Server:
    process: subprocess.Popen[bytes]
    url: str


def run_both(
    server_arguments: list[str],
    agent: Callable[[str], AgentOptions],
    say: Callable[[str], None],
    stop: threading.Event,
) -> int:
    """Runs both until `stop`: the agent here, the server in a child that is started again should it end.

    `agent` makes the agent's options from the server's URL. Raises ServerError where the server does not come up.
    """
    server = _start(server_arguments)
    print(f"pilotlight burns at {server.url}", flush=True)
    finished = threading.Event()
    holder = [server]
    keeper = threading.Thread(target=_keep, args=(holder, server_arguments, say, finished), name="server", daemon=True)
    keeper.start()
    try:
        return run_agent(agent(server.url), say, stop)
    finally:
        stop.set()
        finished.set()
        keeper.join()
        _end(holder[0].process)


def _keep(
    holder: list[_Server],
    arguments: list[str],
    say: Callable[[str], None],
    finished: threading.Event,
) -> None:
    while not finished.wait(0.5):
        code = holder[0].process.poll()
        if code is None:
            continue
        say(f"The server ended ({_how(code)}); starting it again.")
        try:
            holder[0] = _start(arguments)
        except ServerError as error:
            say(f"{error} The next try is in {_RESTART_SECONDS:.0f} s.")
            finished.wait(_RESTART_SECONDS)


def _start(arguments: list[str]) -> _Server:
    """Starts the server and waits until it answers; it writes its URL into a pipe then."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "profiler.cli", "server", "--ready-fd", str(writer), *arguments],
        stdin=subprocess.PIPE,  # its end tells the server that we are gone, however we went
        pass_fds=[writer],
        start_new_session=True,  # Ctrl-C is for the agent, which has a window to hand over yet
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], _READY_SECONDS)
        url = pipe.readline().decode().strip() if ready else ""
    if url:
        return _Server(process, url)
    if not ready:
        _end(process)
        raise ServerError(f"The server did not answer within {_READY_SECONDS:.0f} s.")
    raise ServerError(f"The server did not start ({_how(process.wait())}).")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
