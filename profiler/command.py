"""Starting the command of `record -- COMMAND` so that not one tick of it is missed."""

from __future__ import annotations

import os
import signal
import sys

from profiler.sampler import alive


class CommandError(Exception):
    """The command cannot be run; the message says why."""


class GatedCommand:
    """A child process that waits before its exec until release(), so that sampling can be set up around it."""

    def __init__(self, arguments: list[str]) -> None:
        self.name = arguments[0]
        self._code: int | None = None
        gate, self._opener = os.pipe()
        self._failed, failure = os.pipe()  # closed by a successful exec, else holds its errno
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(arguments, gate, self._opener, failure)
        os.close(gate)
        os.close(failure)

    def release(self) -> None:
        """Lets the command run. Raises CommandError where it cannot be executed."""
        os.write(self._opener, b"x")
        os.close(self._opener)
        with os.fdopen(self._failed, "rb") as pipe:
            code = pipe.read()
        if code:
            os.waitpid(self.pid, 0)
            self._code = 127
            raise CommandError(f"{self.name} cannot be run ({os.strerror(int(code))}).")

    def running(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = _exit_code(status)
        return self._code is None

    def exit_code(self) -> int:
        """As a shell has it: 128 + the signal where one ended the command. Waits for the end."""
        if self._code is None:
            self._code = _exit_code(os.waitpid(self.pid, 0)[1])
        return self._code

    def stop(self) -> None:
        """Ends the command where it still runs."""
        if self.running():
            os.kill(self.pid, signal.SIGTERM)


def _become(arguments: list[str], gate: int, opener: int, failure: int) -> None:
    try:
        os.close(opener)
        if os.read(gate, 1) != b"x":  # whoever was to open the gate has gone
            os._exit(127)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(arguments[0], arguments)
    except OSError as error:
        os.write(failure, str(error.errno).encode())
    finally:
        os._exit(127)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def missing(pids: list[int]) -> list[int]:
    """Those of the pids that no process has."""
    return [pid for pid in pids if not alive([pid])]
