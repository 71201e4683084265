"""A pprof profile that was pushed, as rows: a stack, its values and its labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.formats.names import frame_named
from profiler.formats.otlp_read import MAX_DEPTH, MAX_SAMPLES
from profiler.formats.pprof import parse_pprof
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import file_name, unknown

MAX_DECODED: Final = 16 << 20  # bytes of a profile after gunzip; parsed, an empty entry takes 35 times its size
MAX_FRAMES: Final = 8 << 20  # frames of all samples: few bytes must not unfold into many
_NUMBERS: Final = ("pid", "process_id")


@dataclass(frozen=True, slots=True)
class Row:
    """`stack` is leaf first; `values` are one for each sample type; `labels` are those of this very sample."""

    stack: tuple[Location, ...]
    values: tuple[int, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pushed:
    """A profile's sample types, and period type, as (type, unit); the period in its unit; times in nanoseconds."""

    types: Sequence[tuple[str, str]]
    period_type: tuple[str, str]
    period: int
    start_ns: int
    duration_ns: int
    rows: Sequence[Row]
    frames: int  # of all rows


def read_pushed(data: bytes, kind: Kind = Kind.NATIVE) -> Pushed:
    """The samples of a profile.proto, gzipped or not. `kind` is that of functions which lie in no mapping.

    Raises ValueError, with a sentence, for what is malformed or too large.
    """
    return _Reader(parse_pprof(data, MAX_DECODED), kind).read()


class _Reader:
    """The tables of a message by id, and the objects made from them so far."""

    def __init__(self, message: Any, kind: Kind) -> None:
        self._message = message
        self._kind = kind
        self._strings = list(message.string_table)
        self._functions = {function.id: function for function in message.function}
        self._mappings = {mapping.id: mapping for mapping in message.mapping}
        self._locations = {location.id: location for location in message.location}
        self._frames = 0
        self._binaries: dict[int, Binary | None] = {0: None}
        self._made: dict[int, Location] = {}
        self._stacks: dict[tuple[int, ...], tuple[Location, ...]] = {}

    def read(self) -> Pushed:
        message = self._message
        if len(message.sample) > MAX_SAMPLES:
            raise ValueError(f"this pprof profile has more than {MAX_SAMPLES:,} samples: send shorter profiles")
        return Pushed(
            [(self._string(of.type), self._string(of.unit)) for of in message.sample_type],
            (self._string(message.period_type.type), self._string(message.period_type.unit)),
            message.period,
            message.time_nanos,
            message.duration_nanos,
            list(self._rows()),
            self._frames,
        )

    def _rows(self) -> Iterator[Row]:
        types = len(self._message.sample_type)
        for sample in self._message.sample:
            values = tuple(sample.value)
            if len(values) != types:
                raise ValueError("this pprof profile is damaged: a sample has not one value for each type")
            if min(values) < 0:
                raise ValueError("this pprof profile has values below zero: it is a difference of two profiles")
            stack = self._stack(tuple(sample.location_id))
            self._frames += sum(len(location.frames) for location in stack)
            if self._frames > MAX_FRAMES:
                raise ValueError(f"the samples of this pprof profile have more than {MAX_FRAMES:,} frames")
            labels = {}
            for label in sample.label:
                key = self._string(label.key)
                if label.str:
                    labels[key] = self._string(label.str)
                elif key in _NUMBERS:  # others, such as the bytes of an allocation, are no labels to select by
                    labels[key] = str(label.num)
            yield Row(stack, values, labels)

    def _stack(self, ids: tuple[int, ...]) -> tuple[Location, ...]:
        stack = self._stacks.get(ids)
        if stack is None:
            if len(ids) > MAX_DEPTH:
                raise ValueError(f"a stack of this pprof profile has more than {MAX_DEPTH:,} frames")
            stack = self._stacks[ids] = tuple(self._made.get(number) or self._location(number) for number in ids)
        return stack

    def _location(self, number: int) -> Location:
        location = _found(self._locations, number, "location")
        binary = self._binary(location.mapping_id)
        path = binary.path if binary else ""
        kind = self._kind
        if path.startswith("["):
            kind = Kind.VDSO if path == "[vdso]" else Kind.KERNEL
        if len(location.line) > MAX_DEPTH:
            raise ValueError(f"a location of this pprof profile has more than {MAX_DEPTH:,} lines")
        frames: list[Frame] = []
        for place, line in enumerate(location.line):
            function = _found(self._functions, line.function_id, "function")
            name, system_name = self._string(function.name), self._string(function.system_name)
            frame = frame_named(name or system_name, Kind.INLINED if place < len(location.line) - 1 else kind)
            frames.append(
                replace(
                    frame,
                    system_name=system_name if system_name != frame.function else "",
                    file=self._string(function.filename),
                    line=max(line.line, 0),
                )
            )
        if not frames:
            where = file_name(path)
            frames.append(unknown(Reason.NO_SYMBOLS if where else Reason.NO_MAPPING, where))
        made = self._made[number] = Location(location.address, binary, tuple(frames))
        return made

    def _binary(self, number: int) -> Binary | None:
        if number not in self._binaries:
            mapping = _found(self._mappings, number, "mapping")
            path, build_id = self._string(mapping.filename), self._string(mapping.build_id)
            self._binaries[number] = Binary(path, build_id) if path or build_id else None
        return self._binaries[number]

    def _string(self, index: int) -> str:
        if not 0 <= index < len(self._strings):
            raise ValueError(f"this pprof profile is damaged: string {index} of {len(self._strings)} is referred to")
        return str(self._strings[index])


def _found(table: Mapping[int, Any], number: int, what: str) -> Any:
    if number not in table:
        raise ValueError(f"this pprof profile is damaged: there is no {what} {number}")
    return table[number]


def without(rows: Sequence[Row], earlier: Sequence[Row], cumulative: Sequence[bool]) -> list[Row]:
    """`rows` with the values of `earlier` taken from those sample types that only ever grow; never below zero."""

    def key(row: Row) -> tuple[object, ...]:
        return row.stack, tuple(sorted(row.labels.items()))

    before: dict[tuple[object, ...], list[int]] = {}
    for row in earlier:
        sums = before.setdefault(key(row), [0] * len(cumulative))
        for place, value in enumerate(row.values):
            sums[place] += value
    left = []
    for row in rows:
        known = before.get(key(row))
        if known is None:
            left.append(row)
            continue
        values = []
        for place, value in enumerate(row.values):
            taken = min(value, known[place]) if cumulative[place] else 0
            known[place] -= taken
            values.append(value - taken)
        left.append(replace(row, values=tuple(values)))
    return left
