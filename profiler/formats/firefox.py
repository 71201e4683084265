"""The Firefox Profiler's processed profile format, version 48, opened at profiler.firefox.com.

A thread of the file is a thread name of a process. When each sample was taken is not known, so the samples of a thread
follow each other from the start of the window, sorted from the root on, each as long as it weighs: the picture
over time says how much, not when. Weights are samples, or bytes where the event is of those.

`meta.extra`, which the viewer shows with the other facts about a profile, says where every tick went, and `pilotlight`,
which it leaves alone, holds host, event, hz, window, labels and accounting. Source of the format:
https://github.com/firefox-devtools/profiler/blob/main/docs-developer/processed-profile-format.md
https://github.com/firefox-devtools/profiler/blob/main/docs-developer/CHANGELOG-formats.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from profiler.accounting import account_lines
from profiler.event_names import unit_of
from profiler.formats.json import heading_object
from profiler.model import Profile, Sample
from symbolizer.types import Binary, Frame, Kind, Location

VERSION: Final = 48
_GECKO_VERSION: Final = 29
_LIBRARY: Final = 1  # of the types of resources
_EXACT: Final = 1 << 53  # JavaScript's numbers are whole up to here

# The colours that the viewer knows, near those of pilotlight's own flame graphs.
_CATEGORIES: Final = {
    Kind.NATIVE: ("Native", "yellow"),
    Kind.KERNEL: ("Kernel", "orange"),
    Kind.MODULE: ("Kernel module", "red"),
    Kind.BPF: ("BPF", "magenta"),
    Kind.INLINED: ("Inlined", "lightblue"),
    Kind.VDSO: ("vDSO", "purple"),
    Kind.JIT: ("JIT", "green"),
    Kind.PYTHON: ("Python", "blue"),
    Kind.UNKNOWN: ("Unknown", "grey"),
    Kind.PROCESS: ("Process", "darkgrey"),
    Kind.THREAD: ("Thread", "darkgrey"),
}
_CATEGORY: Final = {kind: place for place, kind in enumerate(_CATEGORIES)}


def write_firefox(profile: Profile) -> bytes:
    """The profile as ASCII JSON."""
    threads: dict[tuple[int, str, str], dict[tuple[int, ...], tuple[Sample, int]]] = {}
    for sample in profile.samples:
        stacks = threads.setdefault((sample.pid, sample.process, sample.thread), {})
        key = tuple(map(id, sample.stack))
        first, count = stacks.get(key, (sample, 0))
        stacks[key] = (first, count + sample.count)
    libraries = _Libraries()
    milliseconds = 1000 / profile.hz
    written = []
    for number, ((pid, process, thread), found) in enumerate(threads.items()):
        order = sorted(
            found.values(), key=lambda entry: [f.function for place in reversed(entry[0].stack) for f in place.frames]
        )
        tables = _Thread(libraries)
        written.append(
            tables.thread(order, unit_of(profile.event), milliseconds)
            | {
                "name": thread or process or "unknown",
                "processName": process or "unknown",
                "processType": "default",
                "isMainThread": thread == process,
                "pid": str(pid),
                "tid": f"{pid}-{number}",
                "processStartupTime": 0,
                "processShutdownTime": None,
                "registerTime": 0,
                "unregisterTime": None,
                "pausedRanges": [],
            }
        )
    return json.dumps(
        {
            "meta": {
                "interval": milliseconds,
                "startTime": profile.window.start_ns / 1e6,
                "profilingStartTime": 0,
                "profilingEndTime": (profile.window.end_ns - profile.window.start_ns) / 1e6,
                "processType": 0,
                "product": f"{profile.host} {profile.event}".strip(),
                "stackwalk": 1,
                "debug": False,
                "version": _GECKO_VERSION,
                "preprocessedProfileVersion": VERSION,
                "symbolicated": True,
                "sourceCodeIsNotOnSearchfox": True,
                "usesOnlyOneStackType": True,
                "extensions": {"length": 0, "id": [], "name": [], "baseURL": []},
                "sampleUnits": {"time": "ms", "eventDelay": "ms", "threadCPUDelta": "\u00b5s"},
                "categories": [
                    {"name": name, "color": colour, "subcategories": ["Other"]} for name, colour in _CATEGORIES.values()
                ],
                "markerSchema": [],
                "extra": [
                    {
                        "label": "Accounting",
                        "entries": [
                            {"label": f"line {place}", "format": "string", "value": line}
                            for place, line in enumerate(account_lines(profile.accounting), 1)
                        ],
                    }
                ],
            },
            "libs": libraries.described,
            "pages": [],
            "counters": [],
            "profilerOverhead": [],
            "threads": written,
            "pilotlight": heading_object(profile),
        },
        separators=(",", ":"),
    ).encode()


class _Libraries:
    """The binaries of all threads, described once each."""

    def __init__(self) -> None:
        self.described: list[dict[str, str | None]] = []
        self._numbers: dict[Binary, int] = {}

    def number(self, binary: Binary) -> int:
        number = self._numbers.get(binary)
        if number is None:
            number = self._numbers[binary] = len(self.described)
            name = binary.path.rstrip("/").rpartition("/")[2] or binary.path
            build_id = binary.build_id if all(c in "0123456789abcdef" for c in binary.build_id) else ""
            self.described.append(
                {
                    "name": name,
                    "path": binary.path,
                    "debugName": name,
                    "debugPath": binary.path,
                    "breakpadId": _breakpad_id(build_id),
                    "codeId": build_id or None,
                    "arch": None,
                }
            )
        return number


def _breakpad_id(build_id: str) -> str:
    """The 16 first bytes of a build id as a GUID, whose first three parts are little-endian, and an age of 0."""
    if not build_id:
        return ""
    guid = bytes.fromhex(build_id[: len(build_id) // 2 * 2])[:16].ljust(16, b"\0")
    return (guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]).hex().upper() + "0"


class _Thread:
    """The tables of one thread: rows, each of which is there once."""

    def __init__(self, libraries: _Libraries) -> None:
        self._libraries = libraries
        self._strings: dict[str, int] = {}
        self._resources: dict[int, int] = {}
        self._functions: dict[tuple[int, int, int | None], int] = {}
        self._frames: dict[tuple[int, int, int, int, int | None], int] = {}
        self._stacks: dict[tuple[int | None, int], int] = {}
        self._path_of: dict[int, list[int]] = {}

    def thread(self, found: Sequence[tuple[Sample, int]], unit: str, milliseconds: float) -> dict[str, Any]:
        stacks, times, before = [], [], 0
        for sample, count in found:
            stacks.append(self._stack(sample.stack))
            times.append(before * milliseconds)
            before += count
        frames, functions = list(self._frames), list(self._functions)
        resources, nodes = list(self._resources), list(self._stacks)
        category = [frame[2] for frame in frames]
        return {
            "samples": {
                "length": len(stacks),
                "stack": stacks,
                "time": times,
                "weight": [count for _, count in found],
                "weightType": "bytes" if unit == "bytes" else "samples",
            },
            "stackTable": {
                "length": len(nodes),
                "prefix": [prefix for prefix, _ in nodes],
                "frame": [frame for _, frame in nodes],
                "category": [category[frame] for _, frame in nodes],
                "subcategory": [0] * len(nodes),
            },
            "frameTable": {
                "length": len(frames),
                "address": [frame[1] for frame in frames],
                "inlineDepth": [frame[3] for frame in frames],
                "category": category,
                "subcategory": [0] * len(frames),
                "func": [frame[0] for frame in frames],
                "nativeSymbol": [None] * len(frames),
                "innerWindowID": [0] * len(frames),
                "implementation": [None] * len(frames),
                "line": [frame[4] for frame in frames],
                "column": [None] * len(frames),
            },
            "funcTable": {
                "length": len(functions),
                "name": [name for name, _, _ in functions],
                "isJS": [False] * len(functions),
                "relevantForJS": [False] * len(functions),
                "resource": [resource for _, resource, _ in functions],
                "fileName": [file for _, _, file in functions],
                "lineNumber": [None] * len(functions),
                "columnNumber": [None] * len(functions),
            },
            "resourceTable": {
                "length": len(resources),
                "lib": resources,
                "name": [self._string(str(self._libraries.described[number]["name"])) for number in resources],
                "host": [None] * len(resources),
                "type": [_LIBRARY] * len(resources),
            },
            "nativeSymbols": {"length": 0, "libIndex": [], "address": [], "name": [], "functionSize": []},
            "markers": {
                "length": 0,
                "data": [],
                "name": [],
                "startTime": [],
                "endTime": [],
                "phase": [],
                "category": [],
            },
            "stringArray": list(self._strings),
        }

    def _stack(self, stack: Sequence[Location]) -> int | None:
        """The stack's row, or None for one without frames."""
        node: int | None = None
        for location in reversed(stack):
            path = self._path_of.get(id(location))
            if path is None:
                path = self._path_of[id(location)] = self._frames_of(location)
            for frame in path:
                node = self._stacks.setdefault((node, frame), len(self._stacks))
        return node

    def _frames_of(self, location: Location) -> list[int]:
        """The location's frames, root first."""
        resource = -1
        if location.binary is not None and location.binary.path:
            resource = self._resources.setdefault(self._libraries.number(location.binary), len(self._resources))
        address = location.address if resource >= 0 and location.address < _EXACT else -1
        path = []
        for depth, frame in enumerate(reversed(location.frames)):
            function = self._function(frame, resource)
            key = (function, address, _CATEGORY[frame.kind], depth, frame.line or None)
            path.append(self._frames.setdefault(key, len(self._frames)))
        return path

    def _function(self, frame: Frame, resource: int) -> int:
        key = (self._string(frame.function), resource, self._string(frame.file) if frame.file else None)
        return self._functions.setdefault(key, len(self._functions))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))
