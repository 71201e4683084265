"""What readers of all formats give, and what they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from profiler.model import Accounting, Profile, Sample, StackTable, Window
from symbolizer.types import Kind, Location, Reason

MAX_COUNT: Final = (1 << 63) - 1
MAX_FRAMES: Final = 64 << 20  # frames of all samples of a file: few bytes must not unfold into many
FORMATS: Final = "folded stacks, pprof, perf script, speedscope, OTLP profiles and pilotlight's JSON"
NO_ACCOUNT: Final = "The file does not say where its ticks went: what it holds is taken for all there was."


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What a file holds: `profiles`, the one that it presents first; or, of a format that has nothing but stacks,
    `tables`, one, or two where each stack has a count before and one after.

    `format` is the format's name for people, `problems` are sentences about what was left out or had to be assumed.
    `times` has for each profile when each of its samples was taken, in seconds; () for a profile that does not say.
    """

    format: str
    profiles: tuple[Profile, ...] = ()
    tables: tuple[StackTable, ...] = ()
    problems: tuple[str, ...] = ()
    times: tuple[tuple[float, ...], ...] = ()


def plain_accounting(samples: Iterable[Sample], total: int) -> Accounting:
    """The accounting of a profiler that gave none: what came is all that there was."""
    counts: dict[int, int] = {}
    stacks = {}
    for sample in samples:
        stacks[id(sample.stack)] = sample.stack
        counts[id(sample.stack)] = counts.get(id(sample.stack), 0) + sample.count
    weights: dict[int, int] = {}
    locations = {}
    for key, stack in stacks.items():
        count = counts[key]
        for location in stack:
            number = id(location)
            if number in weights:
                weights[number] += count
            else:
                weights[number] = count
                locations[number] = location
    named = 0
    unknown: dict[str, int] = {}
    for number, location in locations.items():
        for frame in location.frames:
            if frame.kind is Kind.UNKNOWN:
                reason = str(frame.reason or Reason.NO_SYMBOLS)
                unknown[reason] = unknown.get(reason, 0) + weights[number]
            else:
                named += weights[number]
    return Accounting(expected=total, ticks=total, sampled=total, frames_named=named, frames_unknown=unknown)


def profile_of(table: StackTable, *, event: str, hz: int) -> Profile:
    """A profile of stacks of which nothing else is known: no process, no addresses, no time.

    A frame that is a process's or thread's name at the root of a stack stays one: it becomes the sample's.
    """
    locations = [
        None if frame.kind in (Kind.PROCESS, Kind.THREAD) else Location(0, None, (frame,)) for frame in table.frames
    ]
    index = table.index.tolist()
    samples = []
    for start, end, count in zip(
        table.offsets[:-1].tolist(), table.offsets[1:].tolist(), table.counts.tolist(), strict=True
    ):
        names = {Kind.PROCESS: "", Kind.THREAD: ""}
        stack = []
        for number in reversed(index[start:end]):
            location, frame = locations[number], table.frames[number]
            if location is None:
                names[frame.kind] = frame.function
            else:
                stack.append(location)
        if count:
            process = names[Kind.PROCESS]
            samples.append(Sample(tuple(stack), 0, process, names[Kind.THREAD] or process, count))
    total = sum(sample.count for sample in samples)
    return Profile("", event, hz, Window(0, 0), tuple(samples), plain_accounting(samples, total))
