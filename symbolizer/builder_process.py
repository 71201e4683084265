"""What runs in a builder's process: one question after the other, until the other end of the connection is closed."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symbolizer.builder import MESSAGE_BYTES, MOST_FILES, BuildError

MOST_MEMORY = 2 << 30

_NICE = 10
_LIKELY_VICTIM = "800"  # of 1000 (proc_pid_oom_score_adj(5)): a machine short of memory is to end this before all else
_GRACE_SECONDS = 5.0


def serve(connection: socket.socket, function: str, what: str) -> None:
    """Answers each question with a descriptor, or with the reason why there is none."""
    while True:
        message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, MOST_FILES, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        asked = json.loads(message)
        # The agent ends what takes too long; this is for when the agent is gone.
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"] + _GRACE_SECONDS)
        try:
            _answer(connection, function, what, asked["question"], files)
        finally:
            for file in files:
                os.close(file)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(
    connection: socket.socket, function: str, what: str, question: Mapping[str, Any], files: Sequence[int]
) -> None:
    try:
        module, _, name = function.partition(":")
        answer = getattr(importlib.import_module(module), name)(question, files)
    except BuildError as error:
        _refuse(connection, str(error), final=error.final)
    except MemoryError:
        _refuse(connection, f"its {what} takes more than {MOST_MEMORY >> 30} GB of memory to read", final=True)
    except ConnectionError:
        raise
    except Exception as error:  # whatever a file made a library do, the next one is to be built
        _refuse(connection, f"its {what} cannot be read: {error or type(error).__name__}", final=False)
    else:
        try:
            socket.send_fds(connection, [b"{}"], [answer])
        finally:
            os.close(answer)


def _refuse(connection: socket.socket, reason: str, *, final: bool) -> None:
    connection.send(json.dumps({"error": reason[:1000], "final": final}).encode())


def main() -> int:
    descriptor, function, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_LIKELY_VICTIM)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(ConnectionError):
        serve(connection, function, what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
