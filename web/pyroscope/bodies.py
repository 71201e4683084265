"""What a push holds, as profiles: the bodies of /ingest in all of their formats, and pprof of either way in."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final

from profiler.event_names import type_and_unit
from profiler.formats.otlp_foreign import Meaning
from profiler.formats.pprof_read import inflated
from profiler.formats.speedscope_read import read_speedscope
from profiler.model import Profile, Window
from symbolizer.types import Kind
from web.pyroscope.multipart import read_parts
from web.pyroscope.pprof import MAX_DECODED, MAX_FRAMES, Pushed, Row, read_pushed, without
from web.pyroscope.profiles import Source, folded_rows, profiles_of
from web.pyroscope.trie import tree_to_folded, trie_to_folded
from web.pyroscope.types import CPU_NAME, meanings, value
from web.store.store import BadQuery
from web.store.writer import MAX_AHEAD_S

DEFAULT_HZ: Final = 100
DEFAULT_SECONDS: Final = 10
_SECOND: Final = 1_000_000_000
_MAX_SECONDS: Final = 86_400
_MAX_CONFIG: Final = 1 << 16
_MAX_OBJECTS: Final = 1 << 19  # in JSON, where each takes microseconds to read


@dataclass(frozen=True, slots=True)
class Asked:
    """What the query string says. `window` is None where it gives no times; `hz` where it gives no rate."""

    source: Source
    named: tuple[str, str, str] | None
    window: Window | None
    hz: int | None
    kind: Kind
    format: str


def read(asked: Asked, content: bytes, content_type: str, now: float) -> tuple[list[Profile], list[str]]:
    """The profiles of a body, and sentences about what was left out. Raises ValueError for what is malformed."""
    if asked.format == "pprof":
        return _pprof(asked, content, content_type, now)
    return _stacks(asked, content)


def checked_window(start: int, end: int, now: float) -> Window:
    """A window of at least a millisecond. Raises BadQuery for one that is reversed, too long or in the future."""
    if start > end:
        raise BadQuery("`from` must not be later than `until`")
    if end - start > _MAX_SECONDS * _SECOND:
        raise BadQuery(f"a profile of more than {_MAX_SECONDS:,} seconds is too long: send shorter ones")
    if end > (now + MAX_AHEAD_S) * _SECOND:
        raise BadQuery("`until` is more than a day in the future: set the clock of its host")
    return Window(start, max(end, start + 1_000_000))


def _stacks(asked: Asked, content: bytes) -> tuple[list[Profile], list[str]]:
    """Profiles of one value a stack. Raises ValueError."""
    if asked.format == "speedscope":
        return _speedscope(asked, content), []
    if asked.format == "trie":
        content = trie_to_folded(content)
    elif asked.format == "tree":
        content = tree_to_folded(content)
    elif asked.format == "lines":
        lines = Counter(line for line in content.split(b"\n") if line.strip())
        content = b"".join(b"%b %d\n" % (line.rstrip(b"\r"), count) for line, count in lines.items())
    if not content.strip():
        return [], []
    rows, problems = folded_rows(content, asked.kind)
    name, kind, unit = asked.named or (CPU_NAME, "cpu", "nanoseconds")
    if name in (CPU_NAME, "wall"):
        # Of time, these formats have samples, whatever the name says.
        (meaning,) = meanings(name, [("samples", "count")], (kind, unit), 0, asked.hz or DEFAULT_HZ)
        assert meaning is not None
    else:
        # A nanosecond each, though it may be counted in others.
        meaning = value(name, kind, unit)
    return profiles_of(asked.source, meaning, rows, 0), problems


def _speedscope(asked: Asked, content: bytes) -> list[Profile]:
    """One profile for each unit of a speedscope file. Times are wall time, unless the application's name says else."""
    if content.count(b"{") + content.count(b"[") > _MAX_OBJECTS:
        raise ValueError(f"the speedscope file has more than {_MAX_OBJECTS:,} objects and lists")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the speedscope file is not JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise ValueError("the speedscope file is not a JSON object")
    found: list[Profile] = []
    for profile in read_speedscope(document, MAX_FRAMES).profiles:
        is_time = profile.event == "time"
        name, kind, _ = asked.named or (("wall", "wall", "") if is_time else (CPU_NAME, "cpu", ""))
        meaning: Meaning | None
        if type_and_unit(profile.event) is not None:
            meaning = Meaning(profile.event, 1)
        elif is_time:
            (meaning,) = meanings(name, [(kind, "microseconds")], ("", ""), 0, None)
        else:
            (meaning,) = meanings(name, [("samples", "count")], (kind, ""), 0, asked.hz or DEFAULT_HZ)
        assert meaning is not None
        rows = [
            Row(sample.stack, (sample.count,), {"thread_name": sample.thread} if sample.thread else {})
            for sample in profile.samples
        ]
        found += profiles_of(asked.source, meaning, rows, 0)
    return found


def _pprof(asked: Asked, content: bytes, content_type: str, now: float) -> tuple[list[Profile], list[str]]:
    parts = {"profile": content}
    if content_type.strip().lower().startswith("multipart/form-data"):
        parts = read_parts(content, content_type)
        if "profile" not in parts:
            raise ValueError("the form has no part named `profile`")
    if not parts["profile"]:
        return [], []
    pushed = read_pushed(inflated(parts["profile"], MAX_DECODED), asked.kind)
    config = _config(parts.get("sample_type_config", b""))
    problems: list[str] = []
    cumulative = [config.get(kind, {}).get("cumulative") is True for kind, _ in pushed.types]
    earlier = None
    if parts.get("prev_profile"):
        earlier = read_pushed(inflated(parts["prev_profile"], MAX_DECODED), asked.kind)
    if earlier is not None and earlier.types != pushed.types:
        raise ValueError("`prev_profile` has other sample types than `profile`")
    if earlier is not None:
        pushed = replace(pushed, rows=without(pushed.rows, earlier.rows, cumulative))
    elif any(cumulative):
        problems.append("Cumulative values were left out: without a prev_profile, nothing says when they arose.")
    wanted = [
        (not config or kind in config) and not (grows and earlier is None)
        for (kind, _), grows in zip(pushed.types, cumulative, strict=True)
    ]
    source = asked.source if asked.window else replace(asked.source, window=window_of(pushed, now))
    return profiles_of_pprof(source, "", pushed, asked.hz, wanted), problems


def window_of(pushed: Pushed, now: float) -> Window:
    """The time that a profile says it was taken in, or, where it says none, the last ten seconds. Raises BadQuery."""
    if pushed.start_ns <= 0:
        end = int(now * 1e6) * 1000
        return Window(end - DEFAULT_SECONDS * _SECOND, end)
    return checked_window(pushed.start_ns, pushed.start_ns + max(pushed.duration_ns, 0), now)


def profiles_of_pprof(
    source: Source, name: str, pushed: Pushed, hz: int | None = None, wanted: list[bool] | None = None
) -> list[Profile]:
    """One profile for each sample type and set of labels. `name` is that of the profile, such as process_cpu, or ""."""
    found: list[Profile] = []
    for place, meaning in enumerate(meanings(name, pushed.types, pushed.period_type, pushed.period, hz)):
        if meaning is not None and (wanted is None or wanted[place]):
            found += profiles_of(source, meaning, pushed.rows, place)
    return found


def _config(text: bytes) -> dict[str, dict[str, Any]]:
    """`sample_type_config`: of each sample type that is wanted, whether it only ever grows, among others."""
    if len(text) > _MAX_CONFIG:
        raise ValueError(f"`sample_type_config` has more than {_MAX_CONFIG:,} bytes")
    if not text.strip():
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`sample_type_config` is not JSON: {str(error)[:100]}") from error
    if not isinstance(config, dict) or not all(isinstance(value, dict) for value in config.values()):
        raise ValueError("`sample_type_config` is not a JSON object with an object for each sample type")
    return config
