"""A process that builds things out of files which other users wrote, so that neither its time, nor its memory, nor what
such a file may do to it are the agent's.

It is sent descriptors and a question, and answers with a descriptor. It is started when it is first needed, given up
when it takes too long over a file or dies of it, and ended when it has had nothing to do for a while.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

MESSAGE_BYTES = 1 << 16
MOST_FILES = 16

_IDLE_SECONDS, _END_SECONDS = 5.0, 1.0
_MOST_WAITING = 64
_MOST_ENDING = 3
_LARGE_BYTES = 512 << 20
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something could not be built; `final` where it would be the same at the next try. `lost` where the process
    was lost over it: it took too long, was killed or crashed."""

    reason: str
    final: bool
    lost: bool = False


class BuildError(Exception):
    """What a function that builds raises; the message says why, in words for people."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True)
class _Job(Generic[Key]):
    key: Key
    message: bytes
    files: tuple[int, ...]
    seconds: float

    def close(self) -> None:
        for file in self.files:
            os.close(file)


class Builder(Generic[Key]):
    """Builds one thing at a time, in the order they were asked for."""

    def __init__(self, function: str, what: str) -> None:
        """`function`, as "module:name", is imported in the process and called with the question and the descriptors
        of its files; it returns a descriptor, or raises BuildError. `what` it reads ("debug information") is for the
        reasons."""
        self._function = function
        self._what = what
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ending: list[subprocess.Popen[bytes]] = []
        self._waiting: deque[_Job[Key]] = deque()
        self._building: tuple[_Job[Key], float] | None = None  # and since when
        self._refused: list[Key] = []
        self._idle_since = 0.0
        self._spent_ns = 0

    def __len__(self) -> int:
        """How many things were submitted whose answers finished() has not given yet."""
        return len(self._waiting) + (self._building is not None) + len(self._refused)

    def submit(self, key: Key, question: Mapping[str, object], files: Sequence[int], seconds: float) -> bool:
        """Asks for something, by a question of JSON's types, that may take so many seconds. Takes the files'
        descriptors over. False, and the files closed, while too many wait already, or if the question is too long."""
        message = json.dumps({"question": question, "seconds": seconds}).encode()
        job = _Job(key, message, tuple(files), seconds)
        if len(self._waiting) >= _MOST_WAITING or len(message) > MESSAGE_BYTES or len(files) > MOST_FILES:
            job.close()
            return False
        self._waiting.append(job)
        self._send()
        return True

    def finished(self) -> list[tuple[Key, int | Failure]]:
        """What has been built since the last call: key and a descriptor, which is the caller's to close, or why there
        is none."""
        done: list[tuple[Key, int | Failure]] = [
            (key, Failure("the builder cannot be started", final=False)) for key in self._refused
        ]
        self._refused.clear()
        while self._building is not None and (answer := self._receive(*self._building)) is not None:
            done.append((self._building[0].key, answer))
            self._building = None
            self._idle_since = time.monotonic()
            if self._is_large():  # what it holds on to would be missing from the limit of the next
                self._end()
            self._send()
        if self._process is not None and self._building is None and time.monotonic() - self._idle_since > _IDLE_SECONDS:
            self._end()
        self._reap()
        return done

    def fileno(self) -> int:
        """A descriptor that is readable when finished() has something; -1 while nothing is being built."""
        return self._socket.fileno() if self._socket is not None and self._building is not None else -1

    def cpu_ns(self) -> int:
        """CPU time the processes have used in all."""
        running = [self._process] if self._process is not None else []
        return self._spent_ns + sum(_cpu_ns(process.pid) for process in [*running, *self._ending])

    def memory_bytes(self) -> int:
        """Resident memory of the process, of pages that others have too its share; 0 while there is none."""
        return _proportional(self._process.pid) if self._process is not None else 0

    def close(self) -> None:
        """Ends the process and forgets what was asked for; what is asked for next starts anew."""
        self._end()
        end = time.monotonic() + _END_SECONDS
        while self._reap() and time.monotonic() < end:  # it may hang on a file system
            time.sleep(0.001)
        for job in self._waiting:
            job.close()
        self._building = None
        self._waiting.clear()
        self._refused.clear()

    def _send(self) -> None:
        while self._waiting and self._building is None:
            job = self._waiting.popleft()
            try:
                if self._socket is None:
                    self._socket = self._start()
            except OSError:  # no memory or no process to be had: they will be asked for again
                self._refused.append(job.key)
                job.close()
                continue
            try:
                socket.send_fds(self._socket, [job.message], job.files)
            except OSError:  # it died idle: a new one will take the next
                self._end()
                self._waiting.appendleft(job)
                continue
            job.close()
            self._building = job, time.monotonic()

    def _receive(self, job: _Job[Key], since: float) -> int | Failure | None:
        """The answer to what is being built, None while it is being built."""
        assert self._socket is not None
        too_long = time.monotonic() - since >= job.seconds
        try:
            message, files, _, _ = socket.recv_fds(self._socket, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            if not too_long:
                return None
            message, files = b"", []
        except OSError:
            message, files = b"", []
        if not message:
            self._end()
            reason = "takes too long to read" if too_long else "is too much to read"
            return Failure(f"its {self._what} {reason}", final=False, lost=True)
        if files:
            return files[0]
        answer = json.loads(message)
        if "error" not in answer:  # it could not be received: this process has as many files open as it may
            return Failure(f"its {self._what} cannot be taken over: too many open files", final=False)
        return Failure(answer["error"], final=answer["final"])

    def _start(self) -> socket.socket:
        """Starts the process, and returns our end of the connection. Raises OSError."""
        if len(self._ending) >= _MOST_ENDING:
            raise BlockingIOError("those before do not end")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "symbolizer.builder_process"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), self._function, self._what],
                    pass_fds=[theirs.fileno()],
                    env={**environment, "OPENBLAS_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # what a library has to say of a file comes as a reason
                    start_new_session=True,  # an interrupt from the terminal is the agent's to act on
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return ours

    def _is_large(self) -> bool:
        return self._process is not None and _address_space(self._process.pid) > _LARGE_BYTES

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._ending.append(self._process)
            self._process = None

    def _reap(self) -> bool:
        """Takes leave of processes that have ended, without waiting; whether there are others."""
        for process in self._ending[:]:
            spent = _cpu_ns(process.pid)
            if process.poll() is not None:
                self._spent_ns += spent
                self._ending.remove(process)
        return bool(self._ending)


def in_memory(name: str, *parts: bytes) -> int:
    """A descriptor of memory that holds the parts one after the other and never changes. Raises OSError."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(file, "wb", closefd=False) as target:
            target.writelines(parts)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(file)
        raise
    return file


def _cpu_ns(pid: int) -> int:
    """CPU time of a process until now, ended ones included that were not waited for (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0


def _address_space(pid: int) -> int:
    """Bytes of a process, resident or not (proc_pid_statm(5)); 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    """The proportional set size of a process, in bytes (proc_pid_smaps(5)); 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
