"""speedscope's JSON, of any producer, read into a profile: sampled and evented profiles, all of a file together.

A file has one profile for each unit. Weights in time become counts of microseconds, of an event named "time", since
the format does not say what kind of time it is; bytes are "memory:bytes"; weights without a unit are samples. Where a
file holds several profiles, which is mostly one for each thread, their names are those of threads. What pilotlight
wrote comes back with its own heading and accounting.

Source: https://github.com/jlfwong/speedscope/blob/main/src/lib/file-format-spec.ts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Final

import numpy as np

from profiler.formats.json import read_heading
from profiler.formats.names import frame_named
from profiler.formats.otlp_foreign import ASSUMED_HZ
from profiler.formats.reading import MAX_COUNT, MAX_FRAMES, NO_ACCOUNT, ReadFile, profile_of
from profiler.model import Profile, StackTable
from symbolizer.types import Frame, Kind

_MICROSECONDS: Final = {"nanoseconds": 1e-3, "microseconds": 1.0, "milliseconds": 1e3, "seconds": 1e6}
_CODE_KINDS: Final = frozenset(Kind)


def read_speedscope(document: Mapping[str, Any]) -> ReadFile:
    """The profiles of a speedscope file that json.loads made. Raises ValueError, with a sentence."""
    try:
        return _Reader(document).read()
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"this speedscope file is damaged: {what}") from error


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._own = document.get("pilotlight")
        self._profiles = document["profiles"]
        kinds = self._own.get("kinds", []) if isinstance(self._own, dict) else []
        self._frames = [
            _frame(frame, kinds[at] if at < len(kinds) else "") for at, frame in enumerate(document["shared"]["frames"])
        ]
        self._problems: dict[str, None] = {}
        self._total_frames = 0

    def read(self) -> ReadFile:
        by_unit: dict[str, list[Mapping[str, Any]]] = {}
        for profile in self._profiles:
            by_unit.setdefault(str(profile.get("unit", "none")), []).append(profile)
        profiles = [self._profile(unit, members) for unit, members in by_unit.items()]
        if not profiles:
            raise ValueError("this speedscope file holds no profile")
        if isinstance(self._own, dict) and len(profiles) == 1:
            try:
                return ReadFile("speedscope", (read_heading(self._own, profiles[0].samples),), (), ())
            except ValueError as error:
                self._problems[f"What pilotlight wrote about this profile does not fit it: {error}."] = None
        self._problems[NO_ACCOUNT] = None
        return ReadFile("speedscope", tuple(profiles), (), tuple(self._problems))

    def _profile(self, unit: str, members: Sequence[Mapping[str, Any]]) -> Profile:
        index: list[int] = []
        offsets = [0]
        weights: list[float] = []
        frames = list(self._frames)
        for member in members:
            thread = []
            if len(members) > 1:
                thread = [len(frames)]
                frames.append(Frame(_text(member.get("name", "")), Kind.THREAD))
            read = _evented if member["type"] == "evented" else _sampled
            for stack, weight in read(member):
                self._total_frames += len(stack) + 1
                if self._total_frames > MAX_FRAMES:
                    raise ValueError(f"the stacks of this speedscope file have more than {MAX_FRAMES:,} frames")
                if any(not 0 <= frame < len(self._frames) for frame in stack):
                    raise ValueError("this speedscope file is damaged: a stack refers to a frame that is not there")
                index.extend(thread)
                index.extend(stack)
                offsets.append(len(index))
                weights.append(weight)
        table = StackTable(
            frames,
            [""] * len(frames),
            np.array(index, np.uint32),
            np.array(offsets, np.int64),
            np.array(self._counts(weights, _MICROSECONDS.get(unit, 1.0)), np.int64),
        )
        if unit in _MICROSECONDS:
            return profile_of(table, event="time", hz=1_000_000)
        if unit == "bytes":
            return profile_of(table, event="memory:bytes", hz=1)
        if not isinstance(self._own, dict):
            self._problems[f"Weights without a unit were taken for samples at {ASSUMED_HZ} Hz."] = None
        return profile_of(table, event="samples", hz=ASSUMED_HZ)

    def _counts(self, weights: Sequence[float], factor: float) -> list[int]:
        """Weights as whole counts; what rounding takes from one it gives to the next, so totals agree."""
        if factor == 1.0 and all(isinstance(weight, int) for weight in weights):
            counts = [int(weight) for weight in weights]
        else:
            total, counted, counts = 0.0, 0, []
            for weight in weights:
                total += weight * factor
                counts.append(round(total) - counted)
                counted += counts[-1]
            if abs(total - counted) > 1e-6 or any(weight != int(weight) for weight in weights):
                self._problems["Weights had fractions and were rounded so that their sum stays."] = None
        if sum(counts) > MAX_COUNT:
            raise ValueError(f"the weights of this speedscope file add up to {sum(counts)}, more than 64 bits hold")
        return counts


def _sampled(profile: Mapping[str, Any]) -> Iterator[tuple[Sequence[int], float]]:
    samples, weights = profile["samples"], profile["weights"]
    if len(samples) != len(weights):
        raise ValueError(f"this speedscope file is damaged: it has {len(samples)} samples and {len(weights)} weights")
    for stack, weight in zip(samples, weights, strict=True):
        yield [_index(frame) for frame in stack], _weight(weight)


def _evented(profile: Mapping[str, Any]) -> Iterator[tuple[Sequence[int], float]]:
    """The stack between each event and the next."""
    stack: list[int] = []
    before = _weight(profile["startValue"])
    for event in profile["events"]:
        at = _weight(event["at"])
        if at < before:
            raise ValueError(f"this speedscope file is damaged: the event at {at:g} comes after that at {before:g}")
        if stack and at > before:
            yield tuple(stack), at - before
        before = at
        frame = _index(event["frame"])
        if event["type"] == "O":
            stack.append(frame)
        elif not stack or stack.pop() != frame:
            raise ValueError(f"this speedscope file is damaged: at {at:g} a frame ends that is not the innermost one")
    if stack:
        raise ValueError("this speedscope file is damaged: a frame begins that never ends")


def _frame(described: Mapping[str, Any], kind: object) -> Frame:
    name = _text(described["name"])
    line = described.get("line") or 0
    file = described.get("file") or ""
    named = frame_named(name, Kind(kind) if isinstance(kind, str) and kind in _CODE_KINDS else Kind.NATIVE)
    if not isinstance(line, int) or line < 0:
        raise ValueError(f"this speedscope file is damaged: {line!r:.60} is no line number")
    return Frame(named.function, named.kind, "", _text(file), line, named.reason)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"this speedscope file is damaged: a text is expected where {value!r:.60} is")
    return value


def _index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"this speedscope file is damaged: a frame's number is expected where {value!r:.60} is")
    return value


def _weight(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value) or value < 0:
        raise ValueError(f"this speedscope file is damaged: a weight of 0 or more is expected where {value!r:.60} is")
    return value
