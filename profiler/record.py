"""`pilotlight record`: one profile of the whole machine, some processes or a command, written to files."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.accounting import account_lines, unwinding_lines
from profiler.agent import stop_on_signals
from profiler.better_names import renamed
from profiler.collector import Collector, Sampling
from profiler.command import GatedCommand, missing
from profiler.formats.json import write_json
from profiler.model import Profile, merge
from profiler.sampler import Filters, alive
from profiler.symbols import Symbols

INTERRUPTED = 130
_STEP_SECONDS = 1.0
_LONGEST_WAIT = 30.0  # for debug information to be read
_SILENT_WAIT = 2.0
_LOOK_SECONDS = 0.1
_MERGE_EVERY = 30


class RecordError(Exception):
    """Nothing can be recorded as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file to write ("-" for stdout), and what makes its content."""

    path: str
    write: Callable[[Profile], bytes]


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """`seconds` None: until interrupted, or as long as the command or the pids live."""

    outputs: tuple[Output, ...]
    sampling: Sampling = Sampling()
    symbols: Symbols = Symbols()
    seconds: float | None = None
    command: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    cgroups: frozenset[int] = frozenset()
    whole_system: bool = False


def run_record(options: RecordOptions) -> int:
    """Records, writes every output, says on stderr where the ticks went, and returns the exit code.

    Raises RecordError, CommandError, BpfError or EventError before anything was recorded.
    """
    check_outputs(options.outputs)
    gone = missing(list(options.pids))
    if gone:
        raise RecordError(f"There is no process {', '.join(map(str, gone))}.")
    stop = stop_on_signals()
    command = GatedCommand(list(options.command)) if options.command else None
    pids = frozenset(options.pids)
    if command and not options.whole_system:
        pids |= {command.pid}
    filters = Filters(pids, options.cgroups, children=command is not None)
    collector = Collector(options.sampling, options.symbols, window_seconds=_STEP_SECONDS, filters=filters)
    try:
        if command:
            command.release()
        profile = _collect(collector, options, command, stop)
        interrupted = stop.is_set()
        if interrupted and command:
            command.stop()
        _await_names(collector, stop)
        if stop.is_set() and command:
            command.stop()
        profile = renamed(profile, collector.better_names())
    finally:
        collector.close()
    written = all([write_output(output, profile) for output in options.outputs])
    print("\n".join(filter(None, [summary(profile), collector.losses()])), file=sys.stderr)
    if not written:
        return 1
    if command:
        return command.exit_code()
    return INTERRUPTED if interrupted else 0


def _collect(
    collector: Collector, options: RecordOptions, command: GatedCommand | None, stop: threading.Event
) -> Profile:
    end = time.monotonic() + options.seconds if options.seconds is not None else None
    profiles: list[Profile] = []
    with _progress() as show:
        running = True
        while running:
            step = time.monotonic() + _STEP_SECONDS
            while (now := time.monotonic()) < step and running:
                running = not (
                    stop.is_set()
                    or (end is not None and now >= end)
                    or (command is not None and not command.running())
                    or (command is None and options.pids and not alive(options.pids))
                )
                if running:
                    collector.attend(max(min(step - now, 0.1, *([end - now] if end else [])), 0))
            profiles.append(collector.collect())
            if len(profiles) >= _MERGE_EVERY:
                profiles = [merge(profiles)]
            show(profiles)
    return merge(profiles)


def _await_names(collector: Collector, stop: threading.Event) -> None:
    """Waits until the debug information of what was recorded has been read, or for another interrupt."""
    stop.clear()
    began = time.monotonic()
    told = False
    while not collector.settle(_LOOK_SECONDS) and not stop.is_set():
        waited = time.monotonic() - began
        if waited >= _LONGEST_WAIT:
            return
        if waited >= _SILENT_WAIT and not told:
            told = True
            print(
                f"Debug information is being read, for {_LONGEST_WAIT:.0f} s at most; an interrupt (Ctrl-C) ends that.",
                file=sys.stderr,
            )


def check_outputs(outputs: Sequence[Output]) -> None:
    """Raises RecordError for a file that could not be written anyway, before time is spent on recording."""
    for output in outputs:
        if output.path == "-":
            continue
        folder = os.path.dirname(output.path) or "."
        if os.path.isdir(output.path):
            raise RecordError(f"{output.path} is a directory: give the name of a file.")
        if not os.path.isdir(folder):
            raise RecordError(f"There is no directory {folder} to write {os.path.basename(output.path)} to.")
        if not os.access(folder, os.W_OK):
            raise RecordError(f"The directory {folder} is not writable.")


def write_output(output: Output, profile: Profile) -> bool:
    """Writes one file; says so where it cannot be written, and keeps the profile elsewhere. Whether it was written."""
    data = output.write(profile)
    try:
        write_file(output.path, data)
    except OSError as error:
        kept = _keep_elsewhere(profile)
        instead = f"the profile was kept in {kept}, from which `pilotlight render` makes it" if kept else "it is lost"
        print(f"pilotlight: {output.path} could not be written ({error.strerror}); {instead}.", file=sys.stderr)
        return False
    return True


def write_file(path: str, data: bytes) -> None:
    """Writes a whole file or leaves what was there: first beside it, then renamed. "-" is stdout. Raises OSError."""
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a FIFO or /dev/null is written to, not replaced
        Path(path).write_bytes(data)
        return
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _keep_elsewhere(profile: Profile) -> str | None:
    data = write_json(profile)
    for folder in (tempfile.gettempdir(), "/dev/shm", str(Path.home())):
        try:
            handle, path = tempfile.mkstemp(".json", "pilotlight-", folder)
        except OSError:
            continue
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            return path
        except OSError:
            os.unlink(path)
    return None


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[list[Profile]], None]]:
    """Yields what shows one line of progress, which it takes away at the end; nothing unless on a terminal."""
    if not sys.stderr.isatty():
        yield lambda profiles: None
        return

    def show(profiles: list[Profile]) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{progress_line(profiles)[:width]}", end="", file=sys.stderr, flush=True)

    yield show
    print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def progress_line(profiles: Sequence[Profile]) -> str:
    """Samples, lost ticks and the function that most samples were in."""
    samples = sum(profile.accounting.sampled for profile in profiles)
    lost = sum(profile.accounting.lost_total for profile in profiles)
    seconds = (profiles[-1].window.end_ns - profiles[0].window.start_ns) / 1e9
    line = f"{seconds:.0f} s  {samples:,} samples  {lost:,} lost"
    top = top_functions(profiles, 1)
    if top:
        line += f"  top: {top[0][0]} ({top[0][1] / samples:.0%})"
    return line


def top_functions(profiles: Sequence[Profile], most: int) -> list[tuple[str, int]]:
    """The functions that most samples were in themselves, with how many."""
    counts: Counter[str] = Counter()
    for profile in profiles:
        for sample in profile.samples:
            if sample.stack:
                counts[sample.stack[0].frames[0].function] += sample.count
    return counts.most_common(most)


def summary(profile: Profile) -> str:
    """What was recorded and where every tick went, for people."""
    accounting = profile.accounting
    head = f"{accounting.sampled:,} samples in {profile.window.seconds:.1f} s at {profile.hz} Hz"
    lines = [head, *account_lines(accounting)]
    worst = unwinding_lines(accounting.unwinding)
    if worst:
        lines += ["stacks ended before their root in:", *worst]
    return "\n".join(lines)
