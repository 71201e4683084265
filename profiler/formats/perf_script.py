"""The text that `perf script` prints, with whatever fields it was told to, read into profiles.

A sample is a line that names its thread, then a line for each frame, leaf first, then an empty one:

    V8 WorkerThread 24636/25607 [000] 94564.109216:   10101010 cpu-clock:u:
            7f5e3c8a2b1c std::sort<int*>+0x1c (inlined)
            7f5e3c8a2b1c worker+0x8c (/usr/bin/app)
      worker.cc:31
            ffffffff8103ce3b [unknown] ([kernel.kallsyms])

Process id, CPU, time, period, event, address, offset, binary, source line: each may be missing, and without -g the
one frame stands in the first line. There is a Profile for each event. A sample counts as one; of events other than
time and cycles, as its period where that is printed. Times are since boot, so a window begins at 0 and only its
length is known; addresses are those of the process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from profiler.event_names import event_of, is_cpu
from profiler.formats.otlp_foreign import ASSUMED_HZ
from profiler.formats.reading import MAX_COUNT, MAX_FRAMES, NO_ACCOUNT, ReadFile, plain_accounting
from profiler.model import MAX_HZ, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import DELETED, file_name, unknown

_THREAD: Final = (
    r"\s*(?P<comm>\S.*?|)\s+(?:(?P<pid>-?\d{1,10})/)?(?P<tid>-?\d{1,10})(?:\s+\[(?P<cpu>\d+)\])?"
    r"(?:\s+[a-zA-Z.\d#]{4,6}(?=\s+\d+\.\d+:))?"  # the flags of -F +latency
)
_TIME: Final = r"\s+(?P<time>\d{1,12}\.\d{1,9}):"
_PERIOD: Final = r"(?:\s+(?P<period>\d{1,18}))?"
_EVENT: Final = r"\s+(?P<event>\S+):(?=\s|$)"
_HEADER: Final = re.compile(rf"{_THREAD}{_TIME}{_PERIOD}(?:{_EVENT})?(?P<rest>.*)")
_HEADER_WITHOUT_TIME: Final = re.compile(rf"{_THREAD}(?P<time>){_PERIOD}{_EVENT}(?P<rest>.*)")
_FRAME: Final = re.compile(
    r"\s*(?:(?P<address>[0-9a-f]{1,16})\s+)?(?P<name>\S.*?)\s*\((?P<dso>[^()]*(?:\(deleted\))?)\)"
)
_FRAME_BRACKETED: Final = re.compile(r"\s*(?P<address>[0-9a-f]{1,16})\s+(?P<name>\S.*?)\s*\((?P<dso>/.*)\)")
_FRAME_WITHOUT_FILE: Final = re.compile(r"\s+(?P<address>[0-9a-f]{1,16})(?:\s+(?P<name>\S.*?))?\s*(?P<dso>)")
_LINE: Final = re.compile(r"\s+(?P<file>\S.*):(?P<line>\d{1,9})(?: \(discriminator \d+\))?")
_NO_LINE: Final = re.compile(r"\s+\S.*\[[0-9a-f]+\]|\s*\?\?:\d+")
_OFFSET: Final = re.compile(r"\+0x[0-9a-f]+$")
_JIT_FILE: Final = re.compile(r"(?:.*/)?(?:perf-\d+\.map|jitted-\d+-\d+\.so)|//anon.*|\[anon.*|anon")
_RULE: Final = b"# ========"
_HOST: Final = re.compile(r"^# hostname : (\S+)", re.M)
_RATE: Final = re.compile(r"sample_freq \} = (\d{1,7}),|^# cmdline : .* (?:-F|--freq[ =]) ?(\d{1,7})\b", re.M)
_TIMED: Final = ("cpu-clock", "task-clock")
_NO_NAMES: Final = ("", "[unknown]", "(nil)")


@dataclass(slots=True)
class _Event:
    """The samples of one event so far. A sample is its stack, pid or -1, tid, comm and period or 0."""

    samples: list[tuple[tuple[Location, ...], int, int, str, int]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def is_perf_script(data: bytes) -> bool:
    """Whether text that begins like this is perf script's: its first line that is no comment names a thread."""
    if data.startswith(_RULE):
        return True
    for line in data[: 1 << 16].splitlines():
        if line.strip() and not line.startswith(b"#"):
            return _header(line.decode(errors="surrogateescape")) is not None
    return False


def read_perf_script(data: bytes) -> ReadFile:
    """One profile for each event, in the order of their first samples.

    Lines that make no sense are left out and told. Raises ValueError if there is not a single sample.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    reader = _Reader()
    # The heading of perf script --header. The command line in it may have lines of its own.
    at = max(data.find(b"\n" + _RULE, 0, 1 << 20), 0) if data.startswith(_RULE) else 0
    comments = data[:at]
    while at < len(data):
        end = data.find(b"\n\n", at)
        end = len(data) if end < 0 else end
        reader.block(data[at:end], at)
        at = end + 2
    reader.finish(data)
    heading = comments.decode(errors="surrogateescape")
    host, rate = _HOST.search(heading), _RATE.search(heading)
    hz = int(rate[1] or rate[2]) if rate else 0
    profiles = tuple(reader.profile(name, event, host[1] if host else "", hz) for name, event in reader.events.items())
    if not profiles:
        raise ValueError("this text of perf script holds no sample")
    times = tuple(
        tuple(event.times) if len(event.times) == len(event.samples) else () for event in reader.events.values()
    )
    return ReadFile("perf script", profiles, (), tuple(reader.problems), times)


def _header(line: str) -> re.Match[str] | None:
    """The parts of a line that names a thread: one with a time, or an event, at least."""
    return _HEADER.fullmatch(line) or _HEADER_WITHOUT_TIME.fullmatch(line)


class _Plain(dict[bytes, Location | None]):
    """The location of a line that is one of itself; None where others belong to it, or it is no frame."""

    def __init__(self, read: Callable[[bytes], tuple[Frame, str, int] | None]) -> None:
        super().__init__()
        self._read = read
        self.several = False  # whether any location has more frames than one

    def __missing__(self, line: bytes) -> Location | None:
        read = self._read(line)
        found = None
        if read is not None and read[0].function and read[1] != "inlined":
            frame, path, address = read
            found = Location(address, Binary(path) if path else None, tuple(_unfolded(frame)))
            self.several |= len(found.frames) > 1
        self[line] = found
        return found


class _Reader:
    def __init__(self) -> None:
        self.events: dict[str, _Event] = {}
        self.problems: dict[str, None] = {NO_ACCOUNT: None}
        self._malformed: list[int] = []
        self._stacks: dict[bytes, tuple[Location, ...] | None] = {}
        self._depths: dict[int, int] = {}
        self._lines: dict[bytes, tuple[Frame, str, int] | None] = {}
        self._locations: dict[tuple[object, ...], Location] = {}
        self._plain = _Plain(self._line)
        self._frames = 0

    def block(self, text: bytes, at: int) -> None:
        """The lines from one empty line to the next; nearly always those of one sample."""
        while text[:1] in (b"#", b"\n"):
            _, newline, rest = text.partition(b"\n")
            at += len(text) - len(rest)
            text = rest
        if not text.strip():
            return
        first, _, rest = text.partition(b"\n")
        header = self._header(first)
        stack = self._stack(rest) if rest.strip() else ()
        if header is not None and stack is not None:
            self._sample(header, stack)
            return
        pending: re.Match[str] | None = None
        lines: list[bytes] = []
        for line in text.split(b"\n"):
            if not line.strip() or line.startswith(b"#"):
                pass
            elif pending is not None and line[:1].isspace() and self._is_of_stack(line):
                lines.append(line)
            elif (header := self._header(line)) is not None:
                if pending is not None:
                    self._sample(pending, self._stack(b"\n".join(lines)) or ())
                pending, lines = header, []
            elif pending is not None and self._is_of_stack(line):
                lines.append(line)
            else:
                self._malformed.append(at)
            at += len(line) + 1
        if pending is not None:
            self._sample(pending, self._stack(b"\n".join(lines)) or ())

    def finish(self, data: bytes) -> None:
        if self._malformed:
            number = 1 + data.count(b"\n", 0, self._malformed[0])
            more = f" and {len(self._malformed) - 1:,} more" if self._malformed[1:] else ""
            if not self.events:
                raise ValueError(
                    f"no sample of perf script found: line {number}{more} names no thread with a time or event"
                )
            self.problems[f"line {number}{more} left out: neither a sample nor a frame of perf script"] = None

    def profile(self, name: str, event: _Event, host: str, hz: int) -> Profile:
        is_time = name.startswith(_TIMED)
        periods = {period for *_, period in event.samples}
        if is_time and len(periods) == 1 and 1000 <= min(periods) <= 10**9:
            hz = round(1e9 / min(periods))
        called = event_of(name, "count") if not is_cpu(name or "cpu") else name or "cpu-clock"
        weighted = not is_cpu(name or "cpu") and 0 not in periods
        if not is_cpu(name or "cpu"):
            hz = 1
        elif not 1 <= hz <= MAX_HZ:
            hz = ASSUMED_HZ
            self.problems[f"The samples of {called} come without their rate: {ASSUMED_HZ} Hz assumed."] = None
        mains = {pid: comm for _, pid, tid, comm, _ in event.samples if pid == tid}
        samples = tuple(
            [
                Sample(stack, max(pid if pid >= 0 else tid, 0), mains.get(pid, comm), comm, period if weighted else 1)
                for stack, pid, tid, comm, period in event.samples
            ]
        )
        total = sum([sample.count for sample in samples])
        if total > MAX_COUNT:
            raise ValueError(f"the periods of {name} add up to {total}, more than 64 bits hold")
        length = round((max(event.times) - min(event.times)) * 1e9) + 10**9 // hz if event.times else 0
        return Profile(host, called, hz, Window(0, length), samples, plain_accounting(samples, total))

    def _sample(self, header: re.Match[str], stack: tuple[Location, ...]) -> None:
        if not stack and header["rest"].strip():
            stack = self._stack(header["rest"].encode(errors="surrogateescape")) or ()
        self._frames += self._depths.get(id(stack), 0)
        if self._frames > MAX_FRAMES:
            raise ValueError(f"the samples have more than {MAX_FRAMES:,} frames")
        event = self.events.setdefault(header["event"] or "", _Event())
        if header["time"]:
            event.times.append(float(header["time"]))
        pid = int(header["pid"]) if header["pid"] else -1
        event.samples.append((stack, pid, int(header["tid"]), header["comm"], int(header["period"] or 0)))

    def _header(self, line: bytes) -> re.Match[str] | None:
        return _header(line.decode(errors="surrogateescape"))

    def _stack(self, text: bytes) -> tuple[Location, ...] | None:
        """The locations of these lines, leaf first; None if they are not all lines of a stack."""
        if text in self._stacks:
            return self._stacks[text]
        lines = text.split(b"\n")
        plain = [self._plain[line] for line in lines]
        stack: tuple[Location, ...] | None = None
        if all(plain):
            stack = tuple([location for location in plain if location is not None])
        else:
            lines = [line for line in lines if line.strip() and not line.startswith(b"#")]
            if all(map(self._is_of_stack, lines)):
                stack = self._read_stack(lines)
        self._stacks[text] = stack
        if stack is not None:
            single = len(stack) == len(plain) and not self._plain.several
            self._depths[id(stack)] = len(stack) if single else sum([len(location.frames) for location in stack])
        return stack

    def _is_of_stack(self, line: bytes) -> bool:
        return self._line(line) is not None

    def _read_stack(self, lines: Iterable[bytes]) -> tuple[Location, ...]:
        stack: list[Location] = []
        inlined: list[Frame] = []
        last: list[Frame] = []
        path, address = "", 0

        def close() -> None:
            if last:
                key = (address, path, *inlined, *last)
                if key not in self._locations:
                    binary = Binary(path) if path else None
                    self._locations[key] = Location(address, binary, (*inlined, *last))
                stack.append(self._locations[key])
                inlined.clear()
                last.clear()

        for line in lines:
            read = self._line(line)
            assert read is not None
            frame, dso, where = read
            if frame.function == "":  # a source line, of the frame before it
                target = last or inlined
                if target and frame.line:
                    target[-1] = replace(target[-1], file=frame.file, line=frame.line)
                continue
            close()
            if dso == "inlined":
                inlined.append(frame)
                address = where
                continue
            path, address = dso, where
            last.extend(_unfolded(frame))
        close()
        if inlined:  # the function that they are inlined into is missing
            stack.append(Location(address, None, tuple(inlined)))
        return tuple(stack)

    def _line(self, line: bytes) -> tuple[Frame, str, int] | None:
        """A frame, its binary's path or "inlined", and its address; for a source line, a frame without a name."""
        if line in self._lines:
            return self._lines[line]
        text = line.decode(errors="surrogateescape").rstrip()
        found = _FRAME.fullmatch(text) or _FRAME_BRACKETED.fullmatch(text)
        if found is not None and not found["address"] and _header(text) is not None:
            self._lines[line] = None
            return None
        read: tuple[Frame, str, int] | None = None
        if found is None and (source := _LINE.fullmatch(text)):
            read = (Frame("", Kind.NATIVE, "", source["file"], int(source["line"])), "", 0)
        elif found is None and _NO_LINE.fullmatch(text):
            read = (Frame("", Kind.NATIVE), "", 0)
        elif (found := found or _FRAME_WITHOUT_FILE.fullmatch(text)) is not None:
            name = _OFFSET.sub("", found["name"] or "")
            address = int(found["address"] or "0", 16)
            path = "" if found["dso"] == "[unknown]" else found["dso"].removesuffix(DELETED)
            read = (_frame(name, path), path, address)
        self._lines[line] = read
        return read


def _frame(name: str, path: str) -> Frame:
    if path == "inlined":
        return Frame(name or "[unnamed]", Kind.INLINED)
    if name in _NO_NAMES:
        return unknown(Reason.NO_SYMBOLS, file_name(path).strip("[]")) if path else unknown(Reason.NO_MAPPING)
    return Frame(name, _kind(path))


def _kind(path: str) -> Kind:
    if path == "[vdso]":
        return Kind.VDSO
    if path.startswith(("[kernel", "[guest.kernel", "vmlinux")) or path.endswith(("/vmlinux", ".init.text")):
        return Kind.KERNEL
    if path.startswith("bpf_prog") or path == "[bpf]":
        return Kind.BPF
    if _JIT_FILE.fullmatch(path):
        return Kind.JIT
    return Kind.MODULE if path.endswith((".ko", ".ko.xz", ".ko.zst", ".ko.gz")) or path.startswith("[") else Kind.NATIVE


def _unfolded(frame: Frame) -> list[Frame]:
    """The functions of a name that a JIT wrote as "caller->inlined->inlined", inlined ones first."""
    if frame.kind is not Kind.JIT or "->" not in frame.function:
        return [frame]
    first, *rest = [name for name in frame.function.split("->") if name] or [frame.function]
    return [*(Frame(name, Kind.INLINED) for name in reversed(rest)), Frame(first, Kind.JIT)]
