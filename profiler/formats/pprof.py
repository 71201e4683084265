"""pprof's profile.proto, gzipped: what `go tool pprof` and most profile stores read.

Samples have two values, samples/count and cpu/nanoseconds, and the labels pid, process, thread,
service and container; frames are code only (`pprof -tagroot=process,thread` puts the names below
them). A location has a line for each of its frames, inlined ones first, with the file and line of this
very address (`pprof -lines`, `-list`). Addresses are offsets in the mapped file, so a mapping spans all
addresses. The comments say where every tick went, for people, and once more as JSON behind
`pilotlight: `.

The message is described here, field by field, after
https://github.com/google/pprof/blob/main/proto/profile.proto, whose numbers are the format.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from profiler.accounting import account_lines
from profiler.formats.json import accounting_object
from profiler.formats.names import encodable, frame_named
from profiler.formats.protobuf import message_classes
from profiler.model import NumberedFrames, Profile, StackTable
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import file_name, unknown

MAX_DECODED: Final = 256 << 20  # bytes of a profile after gunzip
MAX_FRAMES: Final = 64 << 20  # frames of all samples: few bytes must not unfold into many
_MAX_INT: Final = (1 << 63) - 1
_WHOLE_SPACE: Final = (1 << 64) - 1

# Some readers leave samples without locations out of their totals.
_NO_STACK: Final = (Location(0, None, (Frame("[no stack]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),)),)

_FIELDS: Final = {
    "Profile": (
        "1 sample_type ValueType*, 2 sample Sample*, 3 mapping Mapping*, 4 location Location*,"
        "5 function Function*, 6 string_table string*, 9 time_nanos int64, 10 duration_nanos int64,"
        "11 period_type ValueType, 12 period int64, 13 comment int64*, 14 default_sample_type int64"
    ),
    "ValueType": "1 type int64, 2 unit int64",
    "Sample": "1 location_id uint64*, 2 value int64*, 3 label Label*",
    "Label": "1 key int64, 2 str int64, 3 num int64, 4 num_unit int64",
    "Mapping": (
        "1 id uint64, 2 memory_start uint64, 3 memory_limit uint64, 4 file_offset uint64,"
        "5 filename int64, 6 build_id int64, 7 has_functions bool, 8 has_filenames bool,"
        "9 has_line_numbers bool, 10 has_inline_frames bool"
    ),
    "Location": "1 id uint64, 2 mapping_id uint64, 3 address uint64, 4 line Line*, 5 is_folded bool",
    "Line": "1 function_id uint64, 2 line int64, 3 column int64",
    "Function": "1 id uint64, 2 name int64, 3 system_name int64, 4 filename int64, 5 start_line int64",
}


_Message: Final = message_classes("perftools.profiles", _FIELDS)["Profile"]


def write_pprof(profile: Profile) -> bytes:
    """The profile as gzipped profile.proto; the same bytes for the same profile.

    Raises ValueError for a number that the format cannot hold (beyond 64 bits).
    """
    message = _Message()
    tables = _Tables(message)
    message.sample_type.add(type=tables.string("samples"), unit=tables.string("count"))
    message.sample_type.add(type=tables.string("cpu"), unit=tables.string("nanoseconds"))
    message.default_sample_type = tables.string("cpu")
    message.period_type.type = tables.string("cpu")
    message.period_type.unit = tables.string("nanoseconds")
    message.period = round(1e9 / profile.hz)
    message.time_nanos = profile.window.start_ns
    message.duration_nanos = profile.window.end_ns - profile.window.start_ns
    for line in _comments(profile):
        message.comment.append(tables.string(line))
    tables.add_mappings(_binaries(profile))
    counted = nanoseconds = 0
    for sample in profile.samples:
        # What rounding takes from one sample it gives to the next, so that the totals agree.
        counted += sample.count
        due = (counted * 1_000_000_000 + profile.hz // 2) // profile.hz
        written = message.sample.add(
            location_id=tables.stack(sample.stack or _NO_STACK), value=(sample.count, due - nanoseconds)
        )
        nanoseconds = due
        written.label.add(key=tables.string("pid"), num=sample.pid)
        for key, value in (
            ("process", sample.process),
            ("thread", sample.thread),
            ("service", sample.service),
            ("container", sample.container),
        ):
            if value:
                written.label.add(key=tables.string(key), str=tables.string(value))
    return gzip.compress(message.SerializeToString(), compresslevel=6, mtime=0)


def _comments(profile: Profile) -> list[str]:
    accounting = profile.accounting
    machine = {
        "host": profile.host,
        "event": profile.event,
        "hz": profile.hz,
        "labels": dict(profile.labels),
        "accounting": accounting_object(accounting),
    }
    return [
        f"{profile.host}: {profile.event} at {profile.hz} Hz for {profile.window.seconds:g} s",
        *account_lines(accounting),
        "pilotlight: " + json.dumps(machine, separators=(",", ":")),
    ]


def _binaries(profile: Profile) -> list[Binary]:
    """All binaries; first the file that most samples were taken in: pprof calls the first the main one."""
    weights: dict[Binary, int] = {}
    seen: set[int] = set()
    for sample in profile.samples:
        for place, location in enumerate(sample.stack):
            if location.binary is not None and (place == 0 or id(location) not in seen):
                seen.add(id(location))
                own = 0 if place or location.binary.path.startswith("[") else sample.count
                weights[location.binary] = weights.get(location.binary, 0) + own
    return sorted(weights, key=lambda binary: -weights[binary])


class _Tables:
    """The tables of a message while it is written. Ids are those of pprof: from 1, and 0 for none."""

    def __init__(self, message: Any) -> None:
        self._message = message
        message.string_table.append("")
        self._strings = {"": 0}
        self._mappings: dict[Binary, Any] = {}
        self._functions: dict[tuple[str, str, str], int] = {}
        self._locations: dict[tuple[object, ...], int] = {}
        self._location_by_id: dict[int, int] = {}

    def string(self, text: str) -> int:
        index = self._strings.get(text)
        if index is None:
            index = self._strings[text] = len(self._strings)
            self._message.string_table.append(encodable(text))
        return index

    def add_mappings(self, binaries: Sequence[Binary]) -> None:
        for binary in binaries:
            self._mappings[binary] = self._message.mapping.add(
                id=len(self._mappings) + 1,
                memory_limit=_WHOLE_SPACE,
                filename=self.string(binary.path),
                build_id=self.string(binary.build_id),
                has_functions=True,  # unknown functions are named so: nobody need look for symbols again
            )

    def stack(self, stack: Sequence[Location]) -> list[int]:
        known = self._location_by_id
        return [known.get(id(location)) or self._location(location) for location in stack]

    def _location(self, location: Location) -> int:
        mapping = None if location.binary is None else self._mappings[location.binary]
        lines = tuple([(self._function(frame), frame.line) for frame in location.frames])
        key = (mapping.id if mapping else 0, location.address, lines)
        index = self._locations.get(key)
        if index is None:
            index = self._locations[key] = len(self._locations) + 1
            written = self._message.location.add(id=index, mapping_id=key[0], address=location.address)
            for function, line in lines:
                written.line.add(function_id=function, line=line)
            if mapping is not None:
                mapping.has_filenames |= any(frame.file for frame in location.frames)
                mapping.has_line_numbers |= any(frame.line for frame in location.frames)
                mapping.has_inline_frames |= len(location.frames) > 1
        self._location_by_id[id(location)] = index
        return index

    def _function(self, frame: Frame) -> int:
        key = (frame.function, frame.system_name, frame.file)
        index = self._functions.get(key)
        if index is None:
            index = self._functions[key] = len(self._functions) + 1
            self._message.function.add(
                id=index,
                name=self.string(frame.function),
                # pprof takes templates and arguments off a name that equals its system name.
                system_name=self.string(frame.system_name),
                filename=self.string(frame.file),
            )
        return index


def read_pprof(data: bytes) -> StackTable:
    """The stacks of a profile.proto, gzipped or not, of pilotlight or any other profiler.

    Counts are of the sample type samples/count, else of the default one, else of the last. Stacks
    stand on their labels `process` and `thread` where they have them. Raises ValueError, with a
    sentence, for what is malformed or too large.
    """
    return _Reader(parse_pprof(data)).read()


def parse_pprof(data: bytes, limit: int = MAX_DECODED) -> Any:
    """The protobuf message of a profile, gzipped or not, of at most `limit` bytes; its indices are not checked.

    Raises ValueError, with a sentence, for what is no profile or too large.
    """
    message = _Message()
    try:
        message.ParseFromString(inflated(data, limit))
    except DecodeError as error:
        raise ValueError("this is not a pprof profile, or it was cut off") from error
    if not message.sample_type:
        raise ValueError("this is not a pprof profile: it has no sample types")
    return message


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


class _Reader:
    """The tables of a message, by id, and the frames made from them so far."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self._strings = message.string_table
        self._functions = {function.id: function for function in message.function}
        self._mappings = {mapping.id: mapping for mapping in message.mapping}
        self._locations = {location.id: location for location in message.location}
        self._frames = NumberedFrames()
        self._of_location: dict[int, list[int]] = {}

    def read(self) -> StackTable:
        value = self._value_index()
        index: list[int] = []
        offsets = [0]
        counts = []
        for sample in self._message.sample:
            if len(sample.value) != len(self._message.sample_type):
                raise ValueError("this pprof profile is damaged: a sample has not one value for each type")
            labels = {label.key: label.str for label in sample.label if label.str}
            named = {self._string(key): self._string(text) for key, text in labels.items()}
            process, thread = named.get("process"), named.get("thread")
            if process is not None:
                index.append(self._frames.number(Frame(process, Kind.PROCESS), ""))
                if thread is not None and thread != process:
                    index.append(self._frames.number(Frame(thread, Kind.THREAD), ""))
            for location in reversed(sample.location_id):
                known = self._of_location.get(location)
                if known is None:
                    known = self._of_location[location] = self._location(location)
                index.extend(known)
            if len(index) > MAX_FRAMES:
                raise ValueError(f"the samples of this pprof profile have more than {MAX_FRAMES:,} frames")
            offsets.append(len(index))
            counts.append(sample.value[value])
        if any(count < 0 for count in counts):
            raise ValueError("this pprof profile has values below zero: it is a difference of two profiles")
        if sum(counts) > _MAX_INT:
            raise ValueError(f"the values of this pprof profile add up to {sum(counts)}, beyond 64 bits")
        return StackTable(
            self._frames.frames,
            self._frames.binaries,
            np.array(index, np.uint32),
            np.array(offsets, np.int64),
            np.array(counts, np.int64),
        )

    def _value_index(self) -> int:
        types = [(self._string(of.type), self._string(of.unit)) for of in self._message.sample_type]
        if ("samples", "count") in types:
            return types.index(("samples", "count"))
        default = self._string(self._message.default_sample_type)
        return next((at for at, (name, _) in enumerate(types) if name == default), len(types) - 1)

    def _location(self, number: int) -> list[int]:
        """The ids of a location's frames, root first."""
        location = _found(self._locations, number, "location")
        mapping = _found(self._mappings, location.mapping_id, "mapping") if location.mapping_id else None
        path = self._string(mapping.filename) if mapping else ""
        kind = Kind.NATIVE
        if path.startswith("["):
            kind = Kind.VDSO if path == "[vdso]" else Kind.KERNEL
        ids = []
        for place, line in enumerate(location.line):
            function = _found(self._functions, line.function_id, "function")
            inlined = place < len(location.line) - 1
            name = self._string(function.name) or self._string(function.system_name)
            frame = frame_named(name, Kind.INLINED if inlined else kind)
            frame = replace(frame, file=self._string(function.filename), line=max(line.line, 0))
            ids.append(self._frames.number(frame, path))
        if not ids:
            where = file_name(path)
            ids.append(self._frames.number(unknown(Reason.NO_SYMBOLS if where else Reason.NO_MAPPING, where), path))
        return ids[::-1]

    def _string(self, index: int) -> str:
        if not 0 <= index < len(self._strings):
            raise ValueError(f"this pprof profile is damaged: string {index} of {len(self._strings)} is referred to")
        return str(self._strings[index])


def _found(table: dict[int, Any], number: int, what: str) -> Any:
    if number not in table:
        raise ValueError(f"this pprof profile is damaged: there is no {what} {number}")
    return table[number]
