"""Names that became known after a window was sent: what is better than what, and the message that carries them.

A location is known by the build id of its file and its address there, on every host and for good, so a name found
later serves every window that holds it. The message is JSON in ASCII, what occurs often in tables:

    {"format": "pilotlight-names", "version": 1,
     "builds":    [build id, …],
     "frames":    [[function, kind, system name, file, line, reason or null], …],
     "locations": [[build, address, [frame, …]], …]}            inlined callees first

Not every location can be named later: none without a build id (anonymous memory, JIT code, a file that could not be
read), and none with an absolute kernel address, which means something else after the next boot.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from profiler.model import Profile
from symbolizer.types import Binary, Frame, Kind, Location, Reason

VERSION: Final = 1
MAX_BODY: Final = 16 << 20  # bytes; what MAX_SIZE allows has less, were every character an escape of twelve bytes
MAX_SIZE: Final = 1 << 20  # of the locations of one message, see size()
MAX_LISTS: Final = 1 << 18  # in JSON, where each takes some 60 bytes of memory
_FORMAT: Final = "pilotlight-names"
_MAX_LINE: Final = (1 << 32) - 1


class Quality(IntEnum):
    """How much the frames of a location tell."""

    UNKNOWN = 0
    MADE_UP = 1  # a name, with the reason why it is not the real one
    NAMED = 2
    DETAILED = 3  # inlined frames, or lines


@dataclass(frozen=True, slots=True)
class Message:
    """An encoded message, and how many locations it holds."""

    body: bytes
    locations: int


def quality(frames: Sequence[Frame]) -> Quality:
    """How much the frames of a location tell; the last, that of the function the address lies in, decides."""
    if not frames or frames[-1].kind is Kind.UNKNOWN:
        return Quality.UNKNOWN
    if frames[-1].reason is not None:
        return Quality.MADE_UP
    if len(frames) > 1 or frames[0].line:
        return Quality.DETAILED
    return Quality.NAMED


def key_of(location: Location) -> tuple[str, int] | None:
    """Build id and address, by which the same place is known everywhere; None where names cannot be carried over."""
    if location.binary is None or not location.binary.build_id or location.address >= 1 << 63:
        return None
    return location.binary.build_id, location.address


def size(location: Location) -> int:
    """Characters of a location's names and build id, and 32 for itself and each of its frames."""
    frames = sum(32 + len(frame.function) + len(frame.system_name) + len(frame.file) for frame in location.frames)
    return 32 + len(location.binary.build_id if location.binary else "") + frames


def encode(locations: Iterable[Location]) -> list[Message]:
    """Messages with the names of the given locations, in their order, each within the bounds that decode() keeps.

    Locations that cannot be named later, or have no name, are left out, as is one beyond MAX_SIZE by itself.
    """
    messages = []
    group: list[Location] = []
    filled = 0
    for location in locations:
        needs = size(location)
        if key_of(location) is None or quality(location.frames) is Quality.UNKNOWN or needs > MAX_SIZE:
            continue
        if filled + needs > MAX_SIZE:
            messages.append(_message(group))
            group, filled = [], 0
        group.append(location)
        filled += needs
    if group:
        messages.append(_message(group))
    return messages


def _message(locations: Sequence[Location]) -> Message:
    builds: dict[str, int] = {}
    frames: dict[Frame, int] = {}
    rows = [
        (
            builds.setdefault(location.binary.build_id if location.binary else "", len(builds)),
            location.address,
            [frames.setdefault(frame, len(frames)) for frame in location.frames],
        )
        for location in locations
    ]
    document = {
        "format": _FORMAT,
        "version": VERSION,
        "builds": list(builds),
        "frames": [(f.function, f.kind, f.system_name, f.file, f.line, f.reason) for f in frames],
        "locations": rows,
    }
    return Message(json.dumps(document, separators=(",", ":")).encode(), len(locations))


def decode(body: bytes) -> list[Location]:
    """The locations of a message, uncompressed; their binaries have a build id alone, and no path.

    Senders are not trusted: raises ValueError, with a sentence, for what is malformed, too large, without a build id
    or without a name.
    """
    if len(body) > MAX_BODY:
        raise ValueError(f"the names take {len(body):,} bytes, more than {MAX_BODY:,}: send fewer in one request")
    if body.count(b"[") > MAX_LISTS:
        raise ValueError(f"the names have more than {MAX_LISTS:,} lists: send fewer in one request")
    try:
        document = json.loads(body, object_pairs_hook=_only_one())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the names are not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f'the names have no "format": "{_FORMAT}"')
    if document.get("version") != VERSION:
        raise ValueError(
            f"the names have version {document.get('version')!r:.20} of their format, this server reads version"
            f" {VERSION}: run the same pilotlight on both sides"
        )
    try:
        return _locations(document)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"the names are damaged: {what}") from error


def _only_one() -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Makes the message of an object in JSON, and raises ValueError at the second: millions of them, all empty, would
    take 25 times the memory of their text."""
    met = False

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal met
        if met:
            raise ValueError("an object within another")
        met = True
        return dict(pairs)

    return made


def renamed(profile: Profile, locations: Iterable[Location]) -> Profile:
    """The profile with better names for the same build ids and addresses; counts stay, but of frames."""
    better = {key: location.frames for location in locations if (key := key_of(location)) is not None}
    if not better:
        return profile
    changed: dict[int, Location] = {}  # by id(): a profile shares its locations

    def new(location: Location) -> Location:
        found = changed.get(id(location))
        if found is None:
            frames = better.get(key_of(location) or ("", 0), location.frames)
            is_better = quality(frames) > quality(location.frames)
            found = changed[id(location)] = replace(location, frames=frames) if is_better else location
        return found

    samples = [replace(sample, stack=tuple(map(new, sample.stack))) for sample in profile.samples]
    named, unknown = 0, Counter[str]()
    for sample in samples:
        for frame in (frame for location in sample.stack for frame in location.frames):
            if frame.reason is None:
                named += sample.count
            else:
                unknown[frame.reason.value] += sample.count
    accounting = replace(profile.accounting, frames_named=named, frames_unknown=dict(unknown))
    return replace(profile, samples=tuple(samples), accounting=accounting)


def _locations(document: dict[str, Any]) -> list[Location]:
    binaries = [Binary("", _text(build_id)) for build_id in document["builds"]]
    frames = [
        _frame(function, kind, system_name, file, line, reason)
        for function, kind, system_name, file, line, reason in document["frames"]
    ]
    found = []
    left = MAX_SIZE
    for build, address, numbers in document["locations"]:
        location = Location(
            _number(address, (1 << 64) - 1),
            binaries[_number(build, len(binaries) - 1)],
            tuple([frames[_number(number, len(frames) - 1)] for number in numbers]),
        )
        if key_of(location) is None:
            raise ValueError("a location has no build id, or an absolute address")
        if quality(location.frames) is Quality.UNKNOWN:
            raise ValueError("a location has no name")
        left -= size(location)
        if left < 0:
            raise ValueError(f"its locations have more than {MAX_SIZE:,} characters: send fewer in one request")
        found.append(location)
    return found


def _frame(function: object, kind: object, system_name: object, file: object, line: object, reason: object) -> Frame:
    of_code = Kind(_text(kind))
    if of_code in (Kind.PROCESS, Kind.THREAD):
        raise ValueError(f"a {of_code} is no code")
    return Frame(
        _text(function),
        of_code,
        _text(system_name),
        _text(file),
        _number(line, _MAX_LINE),
        None if reason is None else Reason(_text(reason)),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is expected where {value!r:.100} is")
    return value


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"a whole number from 0 to {most} is expected where {value!r:.100} is")
    return value
