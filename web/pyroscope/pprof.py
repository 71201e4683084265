"""A pprof profile that was pushed, as rows: a stack, its values and its labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.formats.otlp_dictionary import MAX_DEPTH
from profiler.formats.otlp_read import MAX_SAMPLES
from profiler.formats.pprof_read import Tables, parse_pprof
from symbolizer.types import Kind, Location

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
    """The samples of a profile.proto that is not gzipped. `kind` is that of its functions, but the kernel's.

    Raises ValueError, with a sentence, for what is malformed or too large.
    """
    message = parse_pprof(data)
    if len(message.sample) > MAX_SAMPLES:
        raise ValueError(f"this pprof profile has more than {MAX_SAMPLES:,} samples: send shorter profiles")
    tables = Tables(message, kind)
    rows = []
    frames = 0
    for row in _rows(message, tables):
        frames += sum([len(location.frames) for location in row.stack])
        if frames > MAX_FRAMES:
            raise ValueError(f"the samples of this pprof profile have more than {MAX_FRAMES:,} frames")
        rows.append(row)
    string = tables.string
    return Pushed(
        [(string(of.type), string(of.unit)) for of in message.sample_type],
        (string(message.period_type.type), string(message.period_type.unit)),
        message.period,
        message.time_nanos,
        message.duration_nanos,
        rows,
        frames,
    )


def _rows(message: Any, tables: Tables) -> Iterator[Row]:
    of_labels: dict[tuple[tuple[int, int, int], ...], dict[str, str]] = {}
    for sample in message.sample:
        values = tuple(sample.value)
        if len(values) != len(message.sample_type):
            raise ValueError("this pprof profile is damaged: a sample has not one value for each type")
        if min(values) < 0:
            raise ValueError("this pprof profile has values below zero: it is a difference of two profiles")
        if len(sample.location_id) > MAX_DEPTH:
            raise ValueError(f"a stack of this pprof profile has more than {MAX_DEPTH:,} locations")
        key = tuple([(label.key, label.str, label.num) for label in sample.label])
        if key not in of_labels:
            of_labels[key] = _labels(key, tables)
        yield Row(tables.stack(tuple(sample.location_id)), values, of_labels[key])


def _labels(labels: Sequence[tuple[int, int, int]], tables: Tables) -> dict[str, str]:
    """Labels that have text, and pids; other numbers, such as the bytes of an allocation, are nothing to select by."""
    found = {}
    for key, text, number in labels:
        name = tables.string(key)
        if text or name in _NUMBERS:
            found[name] = tables.string(text) if text else str(number)
    return found


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
