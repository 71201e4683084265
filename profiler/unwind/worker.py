"""Builds unwind tables in a process of its own, so that neither its time nor its memory are the sampler's.

The agent sends a file's descriptor with a number and its build id; a table comes back as a descriptor of anonymous
memory. The process is started when it is first needed, and ended when it has had nothing to do for a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from profiler.unwind.cache import TableCache
from profiler.unwind.table import TableError, UnwindTable
from symbolizer.elf import ElfError
from symbolizer.files import read_at

_MESSAGE = 4096
_IDLE_SECONDS, _LONGEST_SECONDS, _END_SECONDS = 5.0, 30.0, 1.0
_MOST_MEMORY = 2 << 30
_MOST_WAITING = 64


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no table of a file; `final` where it would be the same at the next try."""

    reason: str
    final: bool


class TableWorker:
    """Tables of files, built one at a time, in the order they were asked for."""

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._waiting: list[tuple[int, str, int]] = []  # number, build id, file
        self._building: tuple[int, float] | None = None  # number, since when
        self._refused: list[int] = []
        self._idle_since = 0.0
        self._spent_ns = 0

    def submit(self, number: int, build_id: str, file: int) -> bool:
        """Takes the file's descriptor over. False, and the file closed, while too many wait already."""
        if len(self._waiting) >= _MOST_WAITING:
            os.close(file)
            return False
        self._waiting.append((number, build_id, file))
        self._send()
        return True

    def finished(self) -> list[tuple[int, UnwindTable | Failure]]:
        """What has been built since the last call: number and table, or why there is none."""
        done: list[tuple[int, UnwindTable | Failure]] = [
            (number, Failure("the builder cannot be started", final=False)) for number in self._refused
        ]
        self._refused.clear()
        while self._building is not None and (answer := self._receive()) is not None:
            done.append((self._building[0], answer))
            self._building = None
            self._idle_since = time.monotonic()
            self._send()
        if self._process is not None and self._building is None and time.monotonic() - self._idle_since > _IDLE_SECONDS:
            self._end()
        return done

    def fileno(self) -> int:
        """A descriptor that is readable when finished() has something; -1 while nothing is being built."""
        return self._socket.fileno() if self._socket is not None and self._building is not None else -1

    def cpu_ns(self) -> int:
        """CPU time the builders have used in all."""
        return self._spent_ns + (_cpu_ns(self._process.pid) if self._process is not None else 0)

    def rss_bytes(self) -> int:
        """Resident memory of the builder; 0 while there is none."""
        if self._process is None:
            return 0
        with contextlib.suppress(OSError, IndexError, ValueError):
            statm = Path(f"/proc/{self._process.pid}/statm").read_text().split()
            return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")
        return 0

    def close(self) -> None:
        """Ends the process and forgets what was asked for; what is asked for next starts anew."""
        self._end()
        self._building = None
        for _, _, file in self._waiting:
            os.close(file)
        self._waiting.clear()
        self._refused.clear()

    def _send(self) -> None:
        while self._waiting and self._building is None:
            number, build_id, file = self._waiting.pop(0)
            try:
                if self._socket is None:
                    self._start()
            except OSError:  # no memory or no process to be had: they will be asked for again
                self._refused.append(number)
                os.close(file)
                continue
            assert self._socket is not None
            try:
                socket.send_fds(self._socket, [json.dumps({"build_id": build_id}).encode()], [file])
            except OSError:  # it died idle: a new one will take the next
                self._end()
                self._waiting.insert(0, (number, build_id, file))
                continue
            os.close(file)
            self._building = number, time.monotonic()

    def _receive(self) -> UnwindTable | Failure | None:
        """The answer to what is being built, None while it is being built."""
        assert self._socket is not None and self._building is not None
        try:
            message, files, _, _ = socket.recv_fds(self._socket, _MESSAGE, 1)
        except BlockingIOError:
            if time.monotonic() - self._building[1] < _LONGEST_SECONDS:
                return None
            self._end()
            return Failure("its unwind information takes too long to read", final=False)
        except OSError:
            message, files = b"", []
        if not message:
            self._end()
            return Failure("its unwind information is too much to read", final=False)
        try:
            if not files:
                return Failure(str(json.loads(message)["error"]), final=True)
            return UnwindTable.from_bytes(read_at(files[0], 0, os.fstat(files[0]).st_size))
        except (TableError, ValueError, KeyError, OSError) as error:
            return Failure(str(error), final=True)
        finally:
            for file in files:
                os.close(file)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "profiler.unwind.worker", str(theirs.fileno()), str(self._cache or "")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the terminal is the agent's to act on
            )
        ours.setblocking(False)
        self._socket = ours

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._spent_ns += _cpu_ns(self._process.pid)
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang on a file system
                self._process.wait(_END_SECONDS)
            self._process = None


def _cpu_ns(pid: int) -> int:
    """CPU time of a process until now, ended ones included that were not waited for (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0


def _serve(connection: socket.socket, cache: TableCache | None) -> None:
    """Builds what is asked for until the other end is closed."""
    from profiler.unwind.cfi import build_table

    while True:
        message, files, _, _ = socket.recv_fds(connection, _MESSAGE, 1)
        if not message or not files:
            return
        file, build_id = files[0], str(json.loads(message)["build_id"])
        try:
            table = build_table(lambda offset, size, file=file: read_at(file, offset, size))  # type: ignore[misc]
        except (ElfError, OSError, MemoryError) as error:
            connection.send(json.dumps({"error": str(error)[:1000] or "no memory"}).encode())
            continue
        finally:
            os.close(file)
        if cache is not None and build_id:
            cache.put(build_id, table)
        memory = os.memfd_create("unwind table", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as target:
                target.write(table.to_bytes())
            socket.send_fds(connection, [b"{}"], [memory])
        finally:
            os.close(memory)


def main() -> int:
    descriptor, folder = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    os.nice(5)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(ConnectionError):
        _serve(connection, TableCache(Path(folder)) if folder else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
