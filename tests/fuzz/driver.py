"""Runs a target on inputs made of its seeds, in a process of its own, for some CPU time; what fails is a finding.

Inputs that run lines of the project that none before them ran become seeds, too. Which inputs are made depends on the
seed number alone. A target fails by an exception, by the CPU time that its thread takes (the least of three runs), by
growing the process beyond a bound, or by ending the process.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.mutate import MOST_BYTES, Mutate, several
from tests.fuzz.seeds import Corpus

_GIVE_UP_SECONDS = 6.0  # of a run that is traced, which takes several times as long
_KILL_SECONDS = 20
_BLOCKED_SECONDS = 300.0  # of wall time without any CPU time spent: it waits for something
_ADDRESS_SPACE = 1 << 30  # on top of what the process has when it starts
_MINIMISE_SECONDS = 3.0
_ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(str(_ROOT / name) + "/" for name in ("symbolizer", "profiler"))


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed. `run` takes an input and raises for a finding alone: documented errors it catches itself.

    One input may take `seconds` of CPU time and grow the process by `memory` bytes. `elsewhere` tells the CPU seconds
    spent in other processes.
    """

    name: str
    seeds: Callable[[Corpus], Sequence[bytes]]
    run: Callable[[bytes], object]
    mutate: Mutate
    memory: int = 128 << 20
    seconds: float = 1.0
    elsewhere: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """`key` is the same for what is likely the same fault; `kind` is "exception", "slow", "memory" or "ended"."""

    target: str
    kind: str
    key: str
    number: int
    detail: str
    path: str = ""


@dataclass(slots=True)
class Report:
    target: str
    inputs: int = 0
    lines: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)


class _SlowError(BaseException):
    """Raised within a target that does not end, past what catches Exception."""


class _Lines:
    """Tells when lines of the project run for the first time; functions all of whose lines have run cost no more."""

    def __init__(self) -> None:
        self.seen = 0
        self._left: dict[int, tuple[CodeType, set[int]]] = {}

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        known = self._left.get(id(code))
        if known is None:
            ours = code.co_filename.startswith(_OURS) and code.co_name != "<module>"  # imported before, or not
            lines = {line for _, _, line in code.co_lines() if line} if ours else set()
            known = self._left[id(code)] = code, lines
        return self._line if known[1] else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        left = self._left[id(frame.f_code)][1]
        if frame.f_lineno in left:
            left.discard(frame.f_lineno)
            self.seen += 1
        return self._line if left else None

    @contextmanager
    def watched(self) -> Iterator[None]:
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)


def fuzz(target: Target, corpus: Corpus, seed: int, seconds: float, folder: Path) -> Report:
    """Runs the target for so many seconds of CPU time. Inputs of findings are put into the folder, made smaller."""
    report = Report(target.name)
    seeds = list(target.seeds(corpus))
    shared = mmap.mmap(-1, 8 + MOST_BYTES * 16)
    keys: set[str] = set()
    while report.seconds < seconds:
        before = report.inputs
        lines, ended = _in_child(lambda send: _work(target, seeds, seed, seconds, report, shared, send))
        for line in lines:
            said = json.loads(line)
            if "key" in said:
                _add(
                    report, Finding(target.name, **said["finding"]), bytes.fromhex(said["input"]), target, keys, folder
                )
            else:
                report.inputs, report.lines, report.seconds = said["inputs"], said["lines"], said["seconds"]
        if not ended:
            break
        data = _current(shared)
        number = max(report.inputs, int.from_bytes(shared[4:8], "little"))
        finding = Finding(target.name, "ended", f"ended {ended}", number, f"the process ended: {ended}")
        _add(report, finding, data, target, keys, folder)
        report.inputs = number + 1
        report.seconds += seconds / 4  # what the process had used is lost with it; a target that always ends must, too
        if report.inputs <= before:
            break
    shared.close()
    return report


def run_once(target: Target, data: bytes) -> Finding | None:
    """What is wrong with one input, if anything is. In a process of its own."""
    lines, ended = _in_child(lambda send: send(_judged(target, data, None, 0, prepared=False)))
    if ended:
        return Finding(target.name, "ended", f"ended {ended}", 0, f"the process ended: {ended}")
    for line in lines:
        found = json.loads(line)
        return Finding(target.name, **found) if found else None
    return None


# In the target's process


def _work(
    target: Target,
    seeds: list[bytes],
    seed: int,
    seconds: float,
    report: Report,
    shared: mmap.mmap,
    send: Callable[[object], None],
) -> None:
    """Makes and runs inputs; tells findings as they come, and at the end how far it came."""
    _prepare(target, seeds)
    lines, pool, keys = _Lines(), list(seeds), set[str]()
    began = time.process_time() + target.elsewhere()
    spent, told = report.seconds, 0.0
    for number in count(report.inputs):
        spent = report.seconds + time.process_time() + target.elsewhere() - began
        if spent >= seconds and number >= len(seeds):
            break
        if spent - told > 1:
            send({"inputs": number, "lines": lines.seen, "seconds": spent})
            told = spent
        if number < len(seeds):
            data = seeds[number]
        else:
            random = Random(f"{seed} {target.name} {number}")
            data = several(random, random.choice(pool), pool, target.mutate)
        _set_current(shared, number, data)
        before = lines.seen
        found = _judged(target, data, lines, number)
        if found is not None:
            if found["key"] not in keys:
                keys.add(str(found["key"]))
                send({"key": found["key"], "finding": found, "input": data.hex()})
        elif lines.seen > before and number >= len(seeds):
            pool.append(data)
    send({"inputs": number, "lines": lines.seen, "seconds": spent})


def _prepare(target: Target, seeds: Sequence[bytes]) -> None:
    """Has everything imported, and bounds what the process may take from here on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    for data in seeds[:3]:
        with suppress(Exception):
            target.run(data)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise _SlowError


def _judged(
    target: Target, data: bytes, lines: _Lines | None, number: int, *, prepared: bool = True
) -> dict[str, object] | None:
    """What was wrong with the input, as the fields of a Finding; None where nothing was."""
    if not prepared:
        _prepare(target, [])
        with suppress(Exception):
            target.run(b"")
    _may_take(_KILL_SECONDS)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, spent = _attempt(target, data, lines, number)
    if spent > target.seconds and (found is None or found["kind"] == "slow"):
        spent = min(spent, *(_seconds(target, data) for _ in range(2)))
        found = {"kind": "slow", "key": "slow", "number": number, "detail": "", **(found or {})}
        found["detail"] = f"{spent:.1f} s of CPU time\n{found['detail']}"
        if spent <= target.seconds:
            found = None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) << 10
    if found is None and grown > target.memory:
        detail = f"it takes {grown >> 20} MB, more than {target.memory >> 20}"
        found = {"kind": "memory", "key": "memory", "number": number, "detail": detail}
    return found


def _attempt(target: Target, data: bytes, lines: _Lines | None, number: int) -> tuple[dict[str, object] | None, float]:
    """What went wrong, and the CPU seconds that it took."""
    began = time.thread_time()
    wrong: tuple[str, str, BaseException] | None = None
    signal.setitimer(signal.ITIMER_PROF, _GIVE_UP_SECONDS)
    try:
        with nullcontext() if lines is None else lines.watched():
            target.run(data)
    except _SlowError as error:
        wrong = "slow", "slow", error
    except MemoryError as error:
        wrong = "memory", "memory", error
    except Exception as error:
        wrong = "exception", type(error).__name__, error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    spent = time.thread_time() - began
    if wrong is None:
        return None, spent
    kind, what, raised = wrong
    return {"kind": kind, "key": f"{what} {_place(raised)}", "number": number, "detail": _told(raised)}, spent


def _seconds(target: Target, data: bytes) -> float:
    """CPU seconds that the input takes when nobody watches."""
    began = time.thread_time()
    signal.setitimer(signal.ITIMER_PROF, _GIVE_UP_SECONDS)
    with suppress(Exception, _SlowError):
        target.run(data)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return time.thread_time() - began


def _may_take(seconds: int) -> None:
    """Has the kernel end the process when it is caught in code that no signal handler of Python's interrupts."""
    most = int(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _place(error: BaseException) -> str:
    """The last line of the project that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith((*_OURS, str(_ROOT / "tests/fuzz/targets.py")))]
    return f"{Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}" if ours else "elsewhere"


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-8))[-4000:]


# Between the processes


def _set_current(shared: mmap.mmap, number: int, data: bytes) -> None:
    shared[:8] = len(data).to_bytes(4, "little") + number.to_bytes(4, "little")
    shared[8 : 8 + len(data)] = data


def _current(shared: mmap.mmap) -> bytes:
    return shared[8 : 8 + int.from_bytes(shared[:4], "little")]


def _in_child(work: Callable[[Callable[[object], None]], None]) -> tuple[list[bytes], str]:
    """The lines of JSON that the work sent, in a process of its own, and how that ended; "" where as it should."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(receiving)
            with open(sending, "w") as file:

                def send(said: object) -> None:
                    file.write(json.dumps(said) + "\n")
                    file.flush()

                work(send)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sending)
    with open(receiving, "rb"):
        text, blocked = b"", ""
        spent, since = -1.0, time.monotonic()
        while not blocked:
            more = os.read(receiving, 1 << 20) if select.select([receiving], [], [], 1.0)[0] else None
            if more == b"":
                break
            text += more or b""
            now = _cpu(pid)
            if more or now > spent:
                spent, since = now, time.monotonic()
            elif time.monotonic() - since > _BLOCKED_SECONDS:
                blocked = "waits without end"
                os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    ended = blocked or (f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}" if code else "")
    return text.splitlines() if text.endswith(b"\n") or not text else text.splitlines()[:-1], ended


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return float(fields[11]) + float(fields[12])
    except (OSError, IndexError):
        return 0.0


# What was found


def _add(report: Report, finding: Finding, data: bytes, target: Target, keys: set[str], folder: Path) -> None:
    if finding.key in keys:
        return
    keys.add(finding.key)
    data = minimised(target, data, finding.key)
    path = folder / f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    report.findings.append(
        Finding(finding.target, finding.kind, finding.key, finding.number, finding.detail, str(path))
    )


def minimised(target: Target, data: bytes, key: str, seconds: float = _MINIMISE_SECONDS) -> bytes:
    """A smaller input, or one with more zeros, with the same fault; the same input where it is not found again."""

    def fails(candidate: bytes) -> bool:
        found = run_once(target, candidate)
        return found is not None and found.key == key

    end = time.monotonic() + seconds
    if not fails(data):
        return data
    size = max(len(data) // 2, 1)
    while size and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            without = data[:at] + data[at + size :]
            piece = data[at : at + size]
            if fails(without):
                data = without
                continue
            if piece.strip(b"\0") and fails(zeroed := data[:at] + bytes(len(piece)) + data[at + size :]):
                data = zeroed
            at += size
        size //= 2
    return data
