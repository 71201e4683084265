"""From pprof's profile.proto to Profiles, our own exactly as written, and those of any other profiler.

A file has a Profile for each of its sample types. Samples of CPU time, and times, become events as
otlp_foreign.meaning has them; where a count and a time are the same ticks, as in Go's CPU profiles, they are one
Profile. Everything else keeps its unit in the event's name: "alloc_space:bytes".

Files are not trusted: every index and number is checked, and what a file unfolds into is bounded.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from profiler.event_names import event_of
from profiler.formats import otlp_foreign as foreign
from profiler.formats.json import read_heading
from profiler.formats.names import frame_named
from profiler.formats.pprof import NO_STACK, OWN, Message
from profiler.formats.reading import MAX_COUNT, MAX_FRAMES, NO_ACCOUNT, ReadFile, plain_accounting
from profiler.model import MAX_HZ, Profile, Sample, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import file_name, unknown

MAX_DECODED: Final = 256 << 20  # bytes of a profile after gunzip
MAX_TYPES: Final = 32
_MAX_PID: Final = (1 << 32) - 1
_NAMES: Final = ("process", "thread", "service", "container", "cpu_kind")
_TICKS: Final = frozenset({"samples", "sample"})


def read_pprof(data: bytes, host: str = "") -> ReadFile:
    """The profiles of a profile.proto, gzipped or not; first the one of its default sample type.

    `host` is the host of those that do not name theirs. A window without a time begins at 0. Raises ValueError, with
    a sentence, for what is malformed or too large.
    """
    return _Reader(parse_pprof(inflated(data, MAX_DECODED)), host).read()


def inflated(data: bytes, limit: int) -> bytes:
    """A profile without its gzip, if it has one. Raises ValueError if that is more than `limit` bytes, or damaged."""
    decoded = data
    if data[:2] == b"\x1f\x8b":
        decoder = zlib.decompressobj(wbits=31)
        try:
            decoded = decoder.decompress(data, limit + 1)
        except zlib.error as error:
            raise ValueError(f"this is not a pprof profile: its gzip data is damaged ({error})") from error
        if len(decoded) <= limit and not decoder.eof:
            raise ValueError("this pprof profile was cut off: its gzip data has no end")
    if len(decoded) > limit:
        raise ValueError(f"this pprof profile is larger than {limit >> 20} MB when unzipped")
    return decoded


def parse_pprof(data: bytes) -> Any:
    """The message of a profile.proto that is not gzipped; its indices are not checked. Raises ValueError."""
    message = Message()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError("this is not a pprof profile, or it was cut off") from error
    if not message.sample_type:
        raise ValueError("this is not a pprof profile: it has no sample types")
    if len(message.sample_type) > MAX_TYPES:
        raise ValueError(f"this pprof profile has {len(message.sample_type):,} sample types, more than {MAX_TYPES}")
    return message


@dataclass(frozen=True, slots=True)
class _Who:
    """Whose stack a sample is, from its labels."""

    pid: int
    process: str
    thread: str
    service: str
    container: str
    cpu_kind: str


class Tables:
    """The tables of a message, by id, and the locations made from them so far.

    `kind` is that of functions in files, and in no file.
    """

    def __init__(self, message: Any, kind: Kind = Kind.NATIVE) -> None:
        self._kind = kind
        self._strings = message.string_table
        self._functions = {function.id: function for function in message.function}
        self._mappings = {mapping.id: mapping for mapping in message.mapping}
        self._binaries: dict[int, Binary] = {}
        self._locations = {location.id: location for location in message.location}
        self._frames: dict[tuple[int, Kind, int], Frame] = {}
        self._made: dict[int, Location] = {}
        self._stacks: dict[tuple[int, ...], tuple[Location, ...]] = {}

    def stack(self, ids: tuple[int, ...]) -> tuple[Location, ...]:
        """The stack of these locations, one object for the same ids. Raises ValueError where one is not there."""
        stack = self._stacks.get(ids)
        if stack is None:
            stack = tuple([self._made.get(number) or self._location(number) for number in ids])
            stack = self._stacks[ids] = () if _is_none(stack) else stack
        return stack

    def _location(self, number: int) -> Location:
        location = _found(self._locations, number, "location")
        binary = self._binary(location.mapping_id) if location.mapping_id else None
        path = binary.path if binary else ""
        kind = self._kind
        if path.startswith("["):
            kind = Kind.VDSO if path == "[vdso]" else Kind.KERNEL
        last = len(location.line) - 1
        frames = [
            self._frame(line.function_id, Kind.INLINED if place < last else kind, line.line)
            for place, line in enumerate(location.line)
        ]
        if not frames:
            where = file_name(path)
            frames.append(unknown(Reason.NO_SYMBOLS if where else Reason.NO_MAPPING, where))
        made = self._made[number] = Location(location.address, binary, tuple(frames))
        return made

    def _frame(self, number: int, kind: Kind, line: int) -> Frame:
        key = (number, kind, line)
        frame = self._frames.get(key)
        if frame is None:
            function = _found(self._functions, number, "function")
            system_name = self.string(function.system_name)
            name = self.string(function.name) or system_name
            frame = self._frames[key] = replace(
                frame_named(name, kind),
                system_name="" if system_name == name else system_name,
                file=self.string(function.filename),
                line=max(line, 0),
            )
        return frame

    def _binary(self, number: int) -> Binary:
        binary = self._binaries.get(number)
        if binary is None:
            mapping = _found(self._mappings, number, "mapping")
            binary = self._binaries[number] = Binary(self.string(mapping.filename), self.string(mapping.build_id))
        return binary

    def string(self, index: int) -> str:
        if not 0 <= index < len(self._strings):
            raise ValueError(f"this pprof profile is damaged: string {index} of {len(self._strings)} is referred to")
        return str(self._strings[index])


class _Reader:
    """What a message holds, as profiles."""

    def __init__(self, message: Any, host: str) -> None:
        self._message = message
        self._host = host
        self._tables = Tables(message)
        self._string = self._tables.string
        self._people: dict[tuple[tuple[int, int, int], ...], _Who] = {}
        self._left_out: set[str] = set()
        self._problems: dict[str, None] = {}

    def read(self) -> ReadFile:
        message = self._message
        stacks, people, values = self._samples()
        types = [(self._string(of.type), self._string(of.unit)) for of in message.sample_type]
        own = self._own_heading()
        if own is not None:
            counts = [value[0] for value in values]
            try:
                profile = read_heading({**own, "window": self._window()}, _with_counts(stacks, people, counts))
                return ReadFile("pprof", (profile,), (), tuple(self._problems))
            except ValueError as error:
                self._problems[f"What pilotlight wrote about this profile does not fit it: {error}."] = None
        profiles = []
        for at, meaning in self._meanings(types, values):
            counts = meaning.counts([value[at] for value in values])
            samples = _with_counts(stacks, people, counts)
            total = sum(counts)
            if total > MAX_COUNT:
                raise ValueError(f"the values of this pprof profile add up to {total}, beyond 64 bits")
            accounting = plain_accounting(samples, total)
            profiles.append(
                Profile(self._host, meaning.event, meaning.hz, Window(*self._window()), samples, accounting)
            )
        self._problems[NO_ACCOUNT] = None
        if self._left_out:
            named = ", ".join(sorted(self._left_out)[:5])
            self._problems[f"Labels of samples were left out: {named}."] = None
        return ReadFile("pprof", tuple(profiles), (), tuple(self._problems))

    def _samples(self) -> tuple[list[tuple[Location, ...]], list[_Who], list[Sequence[int]]]:
        stacks, people, values = [], [], []
        depths: dict[int, int] = {}
        frames = 0
        for sample in self._message.sample:
            if len(sample.value) != len(self._message.sample_type):
                raise ValueError("this pprof profile is damaged: a sample has not one value for each type")
            if min(sample.value) < 0:
                raise ValueError("this pprof profile has values below zero: it is a difference of two profiles")
            stack = self._tables.stack(tuple(sample.location_id))
            if id(stack) not in depths:
                depths[id(stack)] = sum([len(location.frames) for location in stack])
            frames += depths[id(stack)]
            if frames > MAX_FRAMES:
                raise ValueError(f"the samples of this pprof profile have more than {MAX_FRAMES:,} frames")
            stacks.append(stack)
            people.append(self._who(sample.label))
            values.append(sample.value)
        return stacks, people, values

    def _who(self, labels: Any) -> _Who:
        key = tuple([(label.key, label.str, label.num) for label in labels])
        who = self._people.get(key)
        if who is None:
            named: dict[str, str] = {}
            pid = 0
            for key_index, text, number in key:
                name = self._string(key_index)
                if name == "pid":
                    words = self._string(text)
                    pid = int(words) if words.isascii() and words.isdigit() and len(words) < 11 else number
                elif name in _NAMES and text:
                    named[name] = self._string(text)
                elif not name.startswith("pprof::"):
                    self._left_out.add(name[:60])
            if not 0 <= pid <= _MAX_PID:
                raise ValueError(f"a sample of this pprof profile has the pid {pid}: it has to be from 0 to {_MAX_PID}")
            process = named.get("process", "")
            who = self._people[key] = _Who(
                pid,
                process,
                named.get("thread", process),
                named.get("service", ""),
                named.get("container", ""),
                named.get("cpu_kind", ""),
            )
        return who

    def _own_heading(self) -> Mapping[str, Any] | None:
        """What pilotlight wrote about the profile in a comment, if it did."""
        for index in self._message.comment:
            line = self._string(index)
            if line.startswith(OWN):
                try:
                    found = json.loads(line.removeprefix(OWN))
                except (ValueError, RecursionError):
                    return None
                return found if isinstance(found, dict) else None
        return None

    def _window(self) -> tuple[int, int]:
        start, duration = self._message.time_nanos, self._message.duration_nanos
        if start < 0 or duration < 0 or start + duration > MAX_COUNT:
            raise ValueError("this pprof profile has a time below zero or after the year 2262")
        return start, start + duration

    def _meanings(
        self, types: Sequence[tuple[str, str]], values: Sequence[Sequence[int]]
    ) -> list[tuple[int, foreign.Meaning]]:
        """Which values of each sample become profiles, and of what; first those of the default sample type."""
        message = self._message
        period_type = self._string(message.period_type.type), self._string(message.period_type.unit)
        found: dict[str, tuple[int, foreign.Meaning]] = {}
        same = _same_ticks(types, values, period_type, message.period)
        for at, (name, unit) in enumerate(types):
            if same is not None and at == same[1]:
                continue
            try:
                meaning = foreign.meaning((name, unit), period_type, message.period)
                if name in _TICKS and unit == "count" and not _is_cpu(period_type[0]):
                    meaning = replace(meaning, event=period_type[0].replace("_", "-"))
            except foreign.Unusable:
                meaning = foreign.Meaning(event_of(name, unit), 1)
            if meaning.event in found:
                meaning = foreign.Meaning(event_of(name, unit), 1)
            if meaning.assumed:
                self._problems[meaning.assumed] = None
            if not 1 <= meaning.hz <= MAX_HZ:
                raise ValueError(f"this pprof profile has a rate of {meaning.hz} Hz, which cannot be true")
            found.setdefault(meaning.event, (at, meaning))
        default = self._string(message.default_sample_type)
        ticks = next((at for at, (name, unit) in enumerate(types) if name in _TICKS and unit == "count"), None)
        first = next((at for at, (name, _) in enumerate(types) if name == default), len(types) - 1)
        first = first if ticks is None else ticks
        return sorted(found.values(), key=lambda entry: entry[0] != first)


def _with_counts(
    stacks: Iterable[tuple[Location, ...]], people: Iterable[_Who], counts: Iterable[int]
) -> tuple[Sample, ...]:
    return tuple(
        [
            Sample(stack, who.pid, who.process, who.thread, count, who.service, who.container, who.cpu_kind)
            for stack, who, count in zip(stacks, people, counts, strict=True)
            if count
        ]
    )


def _is_none(stack: tuple[Location, ...]) -> bool:
    """Whether this is what pilotlight writes of a sample without a stack."""
    return len(stack) == 1 and stack[0].binary is None and stack[0].frames[0].function == NO_STACK.frames[0].function


def _same_ticks(
    types: Sequence[tuple[str, str]], values: Sequence[Sequence[int]], period_type: tuple[str, str], period: int
) -> tuple[int, int] | None:
    """The places of a count of samples and of the time that they stand for, where the file has both."""
    count = next((at for at, (name, unit) in enumerate(types) if name in _TICKS and unit == "count"), None)
    if count is None or period <= 0 or period_type not in types:
        return None
    time = types.index(period_type)
    ticks, total = sum(value[count] for value in values), sum(value[time] for value in values)
    return (count, time) if time != count and abs(total - ticks * period) * 100 <= total else None


def _is_cpu(name: str) -> bool:
    return name in ("", "cpu", "cycles", "samples", "on_cpu")


def _found(table: Mapping[int, Any], number: int, what: str) -> Any:
    if number not in table:
        raise ValueError(f"this pprof profile is damaged: there is no {what} {number}")
    return table[number]
