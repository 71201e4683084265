"""pilotlight's own format, which keeps everything: `{"format": "pilotlight-profile", "version": 1, …}`.

Whatever occurs often is in a table and referred to by its index:

    host, event, hz, labels     as in Profile
    window                      [start, end), nanoseconds since the epoch
    accounting                  as in Accounting; `lost` and `frames_unknown` by reason; `cost`; `unwinding`
    binaries    [path, build id]
    frames      [function, kind, system name, file, line, reason or null]
    locations   [address, binary or null, frames]                       inlined callees first
    stacks      [location, …]                                           leaf first
    threads     [pid, process, thread, service, container, CPU kind]    files may have been written without the last
    samples     [stack, thread, count]

It is ASCII: names that are not are in JSON's escapes, and so are bytes that were no UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from profiler.model import Accounting, Cost, Passage, Profile, Sample, Unwinding, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason

VERSION: Final = 1
_FORMAT: Final = "pilotlight-profile"

Key = TypeVar("Key")
Entry = TypeVar("Entry")


def write_json(profile: Profile) -> bytes:
    """The profile, whole and exact."""
    binaries = _Table[Binary]()
    frames = _Table[Frame]()
    locations = _Table[Location]()
    location_by_id: dict[int, int] = {}  # by id(): hashing a Location costs more than all the rest here
    stacks = _Table[tuple[int, ...]]()
    threads = _Table[tuple[int, str, str, str, str, str]]()
    samples = []
    for sample in profile.samples:
        for location in sample.stack:
            if id(location) not in location_by_id:
                location_by_id[id(location)] = locations.index(location)
        stack = stacks.index(tuple([location_by_id[id(location)] for location in sample.stack]))
        who = (sample.process, sample.thread, sample.service, sample.container, sample.cpu_kind)
        samples.append((stack, threads.index((sample.pid, *who)), sample.count))
    location_rows = [
        (
            location.address,
            None if location.binary is None else binaries.index(location.binary),
            [frames.index(frame) for frame in location.frames],
        )
        for location in locations
    ]
    return json.dumps(
        {
            "format": _FORMAT,
            "version": VERSION,
            **heading_object(profile),
            "binaries": [(binary.path, binary.build_id) for binary in binaries],
            "frames": [(f.function, f.kind, f.system_name, f.file, f.line, f.reason) for f in frames],
            "locations": location_rows,
            "stacks": list(stacks),
            "threads": list(threads),
            "samples": samples,
        },
        separators=(",", ":"),
    ).encode()


def heading_object(profile: Profile) -> dict[str, object]:
    """All but the samples, as a JSON object; the same in every format that has a place for one."""
    return {
        "host": profile.host,
        "event": profile.event,
        "hz": profile.hz,
        "window": (profile.window.start_ns, profile.window.end_ns),
        "labels": dict(profile.labels),
        "accounting": accounting_object(profile.accounting),
    }


def accounting_object(accounting: Accounting) -> dict[str, object]:
    """The accounting as a JSON object; the same in every format that has a place for one."""
    cost = accounting.cost
    return {
        "expected": accounting.expected,
        "ticks": accounting.ticks,
        "idle": accounting.idle,
        "filtered": accounting.filtered,
        "sampled": accounting.sampled,
        "lost": dict(accounting.lost),
        "frames_named": accounting.frames_named,
        "frames_unknown": dict(accounting.frames_unknown),
        "cost": {
            "bpf_ns": cost.bpf_ns,
            "bpf_runs": cost.bpf_runs,
            "agent_cpu_ns": cost.agent_cpu_ns,
            "rss_bytes": cost.rss_bytes,
            "locked_bytes": cost.locked_bytes,
        },
        "unwinding": unwinding_object(accounting.unwinding),
    }


def unwinding_object(unwinding: Unwinding) -> dict[str, object]:
    """How far user stacks were walked, as a JSON object."""
    return {
        "whole": unwinding.whole,
        "unchecked": unwinding.unchecked,
        "cut": dict(unwinding.cut),
        "binaries": {
            path: {
                "by_table": passage.by_table,
                "by_frame_pointer": passage.by_frame_pointer,
                "ended": dict(passage.ended),
            }
            for path, passage in unwinding.binaries.items()
        },
    }


class _Table(dict[Key, int]):
    """Numbers its keys in the order of their first appearance."""

    def index(self, key: Key) -> int:
        return self.setdefault(key, len(self))


def read_json(data: bytes) -> Profile:
    """Reads what `write_json` wrote. Raises ValueError, with a sentence, for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from error
    return read_document(document)


def read_document(document: object) -> Profile:
    """As read_json, of what json.loads made of it."""
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f'this JSON is not a pilotlight profile: it has no "format": "{_FORMAT}"')
    if document.get("version") != VERSION:
        raise ValueError(
            f"this profile has version {document.get('version')!r} of the format, this pilotlight reads"
            f" version {VERSION}: use the pilotlight that wrote it, or a newer one"
        )
    try:
        return _profile(document)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"this pilotlight profile is damaged: {what}") from error


def _profile(document: Mapping[str, Any]) -> Profile:
    binaries = [Binary(_text(path), _text(build_id)) for path, build_id in document["binaries"]]
    frames = [
        Frame(
            _text(function),
            Kind(kind),
            _text(system_name),
            _text(file),
            _number(line),
            None if reason is None else Reason(reason),
        )
        for function, kind, system_name, file, line, reason in document["frames"]
    ]
    locations = [
        Location(
            _number(address),
            None if binary is None else _at(binaries, binary),
            tuple([_at(frames, frame) for frame in of_location]),
        )
        for address, binary, of_location in document["locations"]
    ]
    if not all(location.frames for location in locations):
        raise ValueError("a location has no frames")
    stacks = [tuple([_at(locations, location) for location in stack]) for stack in document["stacks"]]
    threads = [
        (_number(pid), _text(process), _text(thread), _text(service), _text(container), _text(more[0]) if more else "")
        for pid, process, thread, service, container, *more in document["threads"]
    ]
    samples = []
    for stack, of_sample, count in document["samples"]:
        pid, process, thread, service, container, kind = _at(threads, of_sample)
        samples.append(Sample(_at(stacks, stack), pid, process, thread, _number(count), service, container, kind))
    return read_heading(document, tuple(samples))


def read_heading(document: Mapping[str, Any], samples: tuple[Sample, ...]) -> Profile:
    """The profile of these samples, all else from what `heading_object` made. Raises ValueError for what it did not."""
    try:
        accounting = _accounting(document["accounting"])
        start, end = document["window"]
        hz = _number(document["hz"])
        profile = Profile(
            _text(document["host"]),
            _text(document["event"]),
            hz,
            Window(_number(start), _number(end)),
            samples,
            accounting,
            _by_name(document["labels"], _text),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"there is no {error}" if isinstance(error, KeyError) else str(error)) from error
    if hz < 1:
        raise ValueError("hz has to be above 0")
    total = sum(sample.count for sample in samples)
    if accounting.sampled != total:
        raise ValueError(f"its accounting speaks of {accounting.sampled} samples, but it holds {total}")
    return profile


def _accounting(found: Mapping[str, Any]) -> Accounting:
    return Accounting(
        expected=_number(found["expected"]),
        ticks=_number(found["ticks"]),
        idle=_number(found["idle"]),
        filtered=_number(found["filtered"]),
        sampled=_number(found["sampled"]),
        lost=_by_name(found["lost"], _number),
        frames_named=_number(found["frames_named"]),
        frames_unknown=_by_name(found["frames_unknown"], _number),
        cost=Cost(**_by_name(found["cost"], _number)),
        unwinding=_unwinding(found["unwinding"]) if "unwinding" in found else Unwinding(),
    )


def _unwinding(found: Mapping[str, Any]) -> Unwinding:
    return Unwinding(
        _number(found["whole"]),
        _number(found["unchecked"]),
        _by_name(found["cut"], _number),
        {
            _text(path): Passage(
                _number(passage["by_table"]),
                _number(passage["by_frame_pointer"]),
                _by_name(passage["ended"], _number),
            )
            for path, passage in found["binaries"].items()
        },
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is expected where {value!r:.100} is")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"a whole number below 2^64 is expected where {value!r:.100} is")
    return value


def _by_name(found: Mapping[str, Any], convert: Callable[[object], Entry]) -> dict[str, Entry]:
    return {name: convert(value) for name, value in found.items()}


def _at(table: list[Entry], index: int) -> Entry:
    if index < 0:
        raise IndexError(f"{index} is not an index")
    return table[index]
