"""pprof's profile.proto, gzipped: what `go tool pprof` and most profile stores read; pprof_read.py reads it.

Samples have two values, samples/count and cpu/nanoseconds (or one, of what is no time: alloc_space/bytes), and the
labels pid, process, thread, service, container and cpu_kind; frames are code only (`pprof -tagroot=process,thread`
puts the names below them). A location has a line for each of its frames, inlined ones first, with the file and line of
this very address (`pprof -lines`, `-list`). Addresses are offsets in the mapped file, so a mapping spans all
addresses. The comments say where every tick went, for people, and once more as JSON behind
`pilotlight: `.

The message is described here, field by field, after
https://github.com/google/pprof/blob/main/proto/profile.proto, whose numbers are the format.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any, Final

from profiler.accounting import account_lines
from profiler.event_names import time_name, type_and_unit
from profiler.formats.json import heading_object
from profiler.formats.names import encodable
from profiler.formats.protobuf import message_classes
from profiler.model import Profile
from symbolizer.types import Binary, Frame, Kind, Location, Reason

OWN: Final = "pilotlight: "  # begins the comment that is for machines
_WHOLE_SPACE: Final = (1 << 64) - 1

# Some readers leave samples without locations out of their totals.
NO_STACK: Final = Location(0, None, (Frame("[no stack]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),))

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


Message: Final = message_classes("perftools.profiles", _FIELDS)["Profile"]


def write_pprof(profile: Profile) -> bytes:
    """The profile as gzipped profile.proto; the same bytes for the same profile.

    Raises ValueError for a number that the format cannot hold (beyond 64 bits).
    """
    message = Message()
    tables = _Tables(message)
    counted_things = type_and_unit(profile.event)
    if counted_things is not None:
        name, unit = counted_things
        message.sample_type.add(type=tables.string(name), unit=tables.string(unit))
    else:
        name = time_name(profile.event)
        message.sample_type.add(type=tables.string("samples"), unit=tables.string("count"))
        message.sample_type.add(type=tables.string(name), unit=tables.string("nanoseconds"))
        message.period_type.type = tables.string(name)
        message.period_type.unit = tables.string("nanoseconds")
        message.period = round(1e9 / profile.hz)
    message.default_sample_type = tables.string(name)
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
        values = (sample.count, due - nanoseconds) if counted_things is None else (sample.count,)
        written = message.sample.add(location_id=tables.stack(sample.stack or (NO_STACK,)), value=values)
        nanoseconds = due
        written.label.add(key=tables.string("pid"), num=sample.pid)
        for key, value in (
            ("process", sample.process),
            ("thread", sample.thread),
            ("service", sample.service),
            ("container", sample.container),
            ("cpu_kind", sample.cpu_kind),
        ):
            if value:
                written.label.add(key=tables.string(key), str=tables.string(value))
    return gzip.compress(message.SerializeToString(), compresslevel=6, mtime=0)


def _comments(profile: Profile) -> list[str]:
    accounting = profile.accounting
    return [
        f"{profile.host}: {profile.event} at {profile.hz} Hz for {profile.window.seconds:g} s",
        *account_lines(accounting),
        OWN + json.dumps(heading_object(profile), separators=(",", ":")),
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
