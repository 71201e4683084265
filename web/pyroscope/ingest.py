"""POST /ingest: profiles from Pyroscope's agents of either generation, and from whatever can make folded stacks.

What is sent is said by the query string, see `receive`; an answer of 200 comes after the commit. Sources:
https://grafana.com/docs/pyroscope/latest/reference-server-api/ and
https://github.com/grafana/pyroscope/blob/main/pkg/ingester/pyroscope/ingest_handler.go
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from profiler.formats.otlp_read import MAX_BODY
from profiler.formats.pprof_read import inflated
from profiler.model import MAX_HZ, Profile, Window
from symbolizer.types import Kind
from web.ingest import RETRY_SECONDS, Refused, closed, committed, decompress, read_body, unusable
from web.pyroscope.application import BadName, measured, parse_application
from web.pyroscope.multipart import read_parts
from web.pyroscope.pprof import MAX_DECODED, Pushed, read_pushed, without
from web.pyroscope.profiles import Source, folded_rows, kind_of, profiles_of
from web.pyroscope.times import parse_moment
from web.pyroscope.trie import tree_to_folded, trie_to_folded
from web.pyroscope.types import CPU_NAME, meanings, value
from web.store.retention import Retention
from web.store.store import BadQuery
from web.store.writer import MAX_AHEAD_S, Push

FORMATS: Final = ("folded", "groups", "lines", "trie", "tree", "pprof", "speedscope")
_SECOND: Final = 1_000_000_000
_DEFAULT_HZ: Final = 100
_DEFAULT_SECONDS: Final = 10
_MAX_SECONDS: Final = 86_400
_MAX_CONFIG: Final = 1 << 16
_BY_CONTENT_TYPE: Final = {"binary/octet-stream+trie": "trie", "binary/octet-stream+tree": "tree"}
# What `units` says of a profile of one value, where the application's name does not.
_UNITS: Final = {
    "": None,
    "samples": None,
    "objects": ("memory", "objects", "count"),
    "bytes": ("memory", "space", "bytes"),
    "goroutines": ("goroutine", "goroutines", "count"),
    "lock_samples": ("mutex", "contentions", "count"),
    "lock_nanoseconds": ("mutex", "delay", "nanoseconds"),
    "exceptions": ("exceptions", "exceptions", "count"),
}

router = APIRouter()
Text = str | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the query string says. `window` is None where it gives no times; `hz` where it gives no rate."""

    source: Source
    named: tuple[str, str, str] | None
    window: Window | None
    hz: int | None
    kind: Kind
    format: str


@router.post("/ingest", tags=["ingest"], response_class=Response)
@router.post("/pyroscope/ingest", include_in_schema=False, response_class=Response)
async def receive(
    request: Request,
    name: Annotated[Text, Query(description="The application and its labels: app.cpu{region=eu}")] = None,
    from_: Annotated[
        Text, Query(alias="from", description="Start: s, ms, µs or ns since 1970; 10 s before `until` by default")
    ] = None,
    until: Annotated[Text, Query(description="End, likewise; now by default")] = None,
    sampleRate: Annotated[Text, Query(description="Samples a second; 100 by default")] = None,
    spyName: Annotated[Text, Query(description="The profiler")] = None,
    units: Annotated[Text, Query(description=", ".join(filter(None, _UNITS)))] = None,
    aggregationType: Annotated[Text, Query(description="sum or average; values are kept as they are")] = None,
    format: Annotated[Text, Query(description=f"{', '.join(FORMATS)}; folded by default")] = None,
) -> Response:
    """Store a profile in one of Pyroscope's formats: the body itself, or a form with `profile` (pprof)."""
    rejected: Counter[str] = request.app.state.rejected
    try:
        problems = await _receive(request)
    except Refused as refusal:
        rejected[refusal.reason] += 1
        headers = {"retry-after": str(RETRY_SECONDS)} if refusal.status in (429, 503) else None
        return JSONResponse({"error": str(refusal)}, refusal.status, headers)
    return PlainTextResponse("".join(f"{problem}\n" for problem in problems))


async def _receive(request: Request) -> list[str]:
    now = time.time()
    try:
        asked = _asked(request, now)
    except (BadName, BadQuery) as error:
        raise Refused(400, 3, "malformed", str(error)) from error
    body = await read_body(request, MAX_BODY)
    async with request.app.state.parsing:
        profiles, digest, problems = await asyncio.to_thread(_parse, request, asked, body, now)
    if profiles:
        await committed(request, Push(profiles, digest))
    return problems


def _asked(request: Request, now: float) -> _Asked:
    """Raises BadName, BadQuery and Refused."""
    query = request.query_params
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    format = query.get("format", "").lower()
    if not format:
        format = "pprof" if media_type == "multipart/form-data" else _BY_CONTENT_TYPE.get(media_type, "folded")
    if format == "jfr":
        raise Refused(
            422, 3, "format", "JFR recordings are not read here: convert them to pprof, and send format=pprof"
        )
    if format not in FORMATS:
        raise BadQuery(f"no format {format[:40]!r}; there are {', '.join(FORMATS)}")
    whole, labels = parse_application(query.get("name", ""))
    application, named = measured(whole)
    units = query.get("units", "").lower()
    if units not in _UNITS:
        raise BadQuery(f"no units {units[:40]!r}; there are {', '.join(filter(None, _UNITS))}")
    aggregation = query.get("aggregationType", "").lower()
    if aggregation not in ("", "sum", "average", "avg"):
        raise BadQuery(f"no aggregationType {aggregation[:40]!r}; there are sum and average")
    window = _window(query.get("from", ""), query.get("until", ""), now)
    return _Asked(
        Source(
            application,
            labels,
            request.client.host if request.client else "unknown",
            window or Window(int((now - _DEFAULT_SECONDS) * 1e6) * 1000, int(now * 1e6) * 1000),
        ),
        named or _UNITS[units],
        window,
        _rate(query.get("sampleRate", "")),
        kind_of(query.get("spyName", "").lower()),
        format,
    )


def _rate(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) <= MAX_HZ):
        raise BadQuery(f"sampleRate must be a whole number from 1 to {MAX_HZ:,}, not {text[:40]!r}")
    return int(text[:10])


def _window(since: str, until: str, now: float) -> Window | None:
    """Raises BadQuery."""
    if not since and not until:
        return None
    end = parse_moment(until, "until", now) if until else int(now * 1e6) * 1000
    start = parse_moment(since, "from", now) if since else end - _DEFAULT_SECONDS * _SECOND
    return checked_window(start, end, now)


def checked_window(start: int, end: int, now: float) -> Window:
    """A window of at least a millisecond. Raises BadQuery for one that is reversed, too long or in the future."""
    if start > end:
        raise BadQuery("`from` must not be later than `until`")
    if end - start > _MAX_SECONDS * _SECOND:
        raise BadQuery(f"a profile of more than {_MAX_SECONDS:,} seconds is too long: send shorter ones")
    if end > (now + MAX_AHEAD_S) * _SECOND:
        raise BadQuery("`until` is more than a day in the future: set the clock of its host")
    return Window(start, max(end, start + 1_000_000))


def _parse(request: Request, asked: _Asked, body: bytes, now: float) -> tuple[tuple[Profile, ...], str, list[str]]:
    content = decompress(body, request.headers.get("content-encoding", "").strip().lower(), MAX_BODY)
    # Without times, equal bodies are not the same profile, only of one shape.
    moment = "" if asked.window or asked.format == "pprof" else str(now)
    digest = sha256(f"{request.url.query}\n{asked.source.peer}\n{moment}\n".encode() + content).hexdigest()
    try:
        if asked.format == "pprof":
            found, problems = _pprof(asked, content, request.headers.get("content-type", ""), now)
        else:
            found, problems = _stacks(asked, content)
    except (BadName, ValueError) as error:
        raise Refused(422, 3, "malformed", str(error)) from error
    return usable(found, now, request.app.state.writer.retention), digest, problems


def usable(profiles: list[Profile], now: float, kept: Retention) -> tuple[Profile, ...]:
    """The profiles with accounting that closes. Raises Refused where one of them cannot be stored."""
    for profile in profiles:
        if problem := unusable(profile, now, kept):
            raise Refused(422, 3, "profile", problem)
    return tuple(replace(profile, accounting=closed(profile.accounting)) for profile in profiles)


def _stacks(asked: _Asked, content: bytes) -> tuple[list[Profile], list[str]]:
    """Profiles of one value a stack."""
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
        (meaning,) = meanings(name, [("samples", "count")], (kind, unit), 0, asked.hz or _DEFAULT_HZ)
        assert meaning is not None
    else:
        # A nanosecond each, though it may be counted in others.
        meaning = value(name, kind, unit)
    return profiles_of(asked.source, meaning, rows, 0), problems


def _pprof(asked: _Asked, content: bytes, content_type: str, now: float) -> tuple[list[Profile], list[str]]:
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
        return Window(end - _DEFAULT_SECONDS * _SECOND, end)
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
