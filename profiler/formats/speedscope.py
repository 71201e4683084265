"""speedscope's JSON, https://www.speedscope.app/file-format-schema.json, opened at speedscope.app.

One sampled profile whose weights are samples. Its stacks are sorted from the root on, so that the
time-ordered view shows one picture too.

A frame is a function, inlined or not, as in pilotlight's own flame graph: speedscope does not add up
boxes of frames that differ, were it only by their line. So its file and line are those that most of its
ticks were on; every line is in pprof's format.

The schema allows further fields: `pilotlight` at the top holds host, event, hz, window, labels, accounting and
the frames' kinds, which speedscope leaves alone.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from profiler.event_names import unit_of
from profiler.formats.json import heading_object
from profiler.model import Profile, functions_of, stack_table

_SCHEMA: Final = "https://www.speedscope.app/file-format-schema.json"


def write_speedscope(profile: Profile) -> bytes:
    """The profile's stacks as ASCII JSON, equal ones merged."""
    table = stack_table(profile)
    functions = functions_of(table)
    frames = []
    for frame, binary in zip(functions.frames, functions.binaries, strict=True):
        described: dict[str, str | int] = {"name": frame.function}
        if frame.file or binary:
            described["file"] = frame.file or binary
        if frame.file and frame.line:
            described["line"] = frame.line
        frames.append(described)
    names = [(frame.function, number) for number, frame in enumerate(functions.frames)]
    place = {number: at for at, (_, number) in enumerate(sorted(names))}
    index = functions.of[table.index].tolist()
    offsets = table.offsets.tolist()
    totals: dict[tuple[int, ...], int] = {}
    for start, end, count in zip(offsets[:-1], offsets[1:], table.counts.tolist(), strict=True):
        stack = tuple(index[start:end])
        totals[stack] = totals.get(stack, 0) + count
    stacks = sorted(totals, key=lambda stack: [place[frame] for frame in stack])
    name = f"{profile.host} {profile.event} {_time(profile.window.start_ns)}"
    return json.dumps(
        {
            "$schema": _SCHEMA,
            "exporter": "pilotlight",
            "name": name,
            "activeProfileIndex": 0,
            "shared": {"frames": frames},
            "profiles": [
                {
                    "type": "sampled",
                    "name": name,
                    "unit": "bytes" if unit_of(profile.event) == "bytes" else "none",
                    "startValue": 0,
                    "endValue": sum(totals.values()),
                    "samples": stacks,
                    "weights": [totals[stack] for stack in stacks],
                }
            ],
            "pilotlight": heading_object(profile) | {"kinds": [frame.kind for frame in functions.frames]},
        },
        separators=(",", ":"),
    ).encode()


def _time(nanoseconds: int) -> str:
    try:
        return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError):
        return f"{nanoseconds} ns"
