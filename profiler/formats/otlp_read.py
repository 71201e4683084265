"""From OTLP to Profiles, ours exactly and those of other profilers as well as can be.

Senders are not trusted: every index and number is checked, and what a body unfolds into is bounded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from google.protobuf import json_format  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.profiles.v1development import profiles_pb2 as pb

from profiler.formats import otlp_foreign as foreign
from profiler.formats.otlp_dictionary import Dictionary
from profiler.formats.otlp_write import COSTS, TICKS, PushIdentity
from profiler.formats.reading import plain_accounting
from profiler.model import Accounting, Cost, Profile, Sample, Unwinding, Window

MAX_BODY: Final = 16 << 20  # bytes; while it is decoded, the worst body takes 40 times its size
MAX_OBJECTS: Final = 1 << 19  # in JSON, where each takes microseconds to read
MAX_PROFILES: Final = 1 << 16  # and as many resources, and scopes
MAX_SAMPLES: Final = 1 << 20
MAX_FRAMES: Final = 32 << 20  # of all samples together: few bytes must not unfold into many
MAX_TEXT: Final = 256 << 20  # characters of the names of all samples' processes, threads, …, likewise
MAX_REASONS: Final = 1000  # of one accounting: for what was lost or has no name, and counts of its unwinding
MAX_REASON: Final = 1 << 15  # characters; the longest path, should every byte of it need an escape
_MAX_INT: Final = (1 << 63) - 1
_MAX_PID: Final = (1 << 32) - 1

Entry = TypeVar("Entry")
Word = TypeVar("Word")


@dataclass(frozen=True, slots=True)
class Received:
    """What a body held: profiles, the push's identity where it has one, and what could not be used.

    `rejected` counts the OTLP profiles that were left out; `problem` says in sentences why, or what
    had to be assumed of those that were taken, and is "" if nothing had to be. `times` has for each profile when each
    of its samples was taken, in seconds after the first of all, where that was asked for and is told; else ().
    """

    profiles: tuple[Profile, ...]
    identity: PushIdentity | None
    rejected: int
    problem: str
    times: tuple[tuple[float, ...], ...] = ()


def read_otlp(body: bytes, default_host: str = "unknown", *, timed: bool = False) -> Received:
    """Reads what `write_otlp` or any other OTLP profiler wrote, uncompressed.

    Profiles of one host, event, rate, window and labels are one Profile. `default_host` is the host of those that do
    not name theirs. With `timed` a sample becomes one for each of its timestamps. Raises ValueError, with a sentence
    for the sender, for what is malformed or too large.
    """
    _check_size(body)
    # An empty entry takes 2 bytes here and 70 in memory, and half of what such a body holds are zeros.
    if body.count(0) > max(len(body) // 8, 1 << 16):
        raise ValueError("the OTLP body consists of empty entries for the most part: send entries with content")
    request = ExportProfilesServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as error:
        raise ValueError("the body is not an OTLP ExportProfilesServiceRequest in protobuf, or was cut off") from error
    return _Reader(request.dictionary, default_host, timed).read(request)


def read_otlp_json(body: bytes, default_host: str = "unknown", *, timed: bool = False) -> Received:
    """As `read_otlp`, of OTLP's JSON encoding. Raises ValueError likewise."""
    _check_size(body)
    if body.count(b"{") > MAX_OBJECTS:
        raise ValueError(f"the OTLP body has more than {MAX_OBJECTS:,} JSON objects: send smaller batches")
    try:
        message = json.loads(body, object_hook=_without_ids)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the OTLP body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ValueError("the OTLP body is not a JSON object with resourceProfiles and dictionary")
    try:
        request = json_format.ParseDict(message, ExportProfilesServiceRequest(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the body is not an OTLP ExportProfilesServiceRequest in JSON: {error}") from error
    return _Reader(request.dictionary, default_host, timed).read(request)


def _check_number(request: ExportProfilesServiceRequest) -> None:
    resources = len(request.resource_profiles)
    scopes = profiles = samples = 0
    if resources <= MAX_PROFILES:
        scopes = sum(len(resource.scope_profiles) for resource in request.resource_profiles)
    if max(resources, scopes) <= MAX_PROFILES:
        of_scopes = [scope for resource in request.resource_profiles for scope in resource.scope_profiles]
        profiles = sum(len(scope.profiles) for scope in of_scopes)
        if profiles <= MAX_PROFILES:
            samples = sum(len(profile.samples) for scope in of_scopes for profile in scope.profiles)
    for number, most, what in (
        (max(resources, scopes, profiles), MAX_PROFILES, "profiles, resources or scopes"),
        (samples, MAX_SAMPLES, "samples"),
    ):
        if number > most:
            raise ValueError(f"the OTLP body has more than {most:,} {what}: send fewer in one request")


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BODY:
        raise ValueError(
            f"the OTLP body has {len(body):,} bytes, more than {MAX_BODY:,}: send profiles in smaller batches"
        )


def _without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """OTLP writes ids in hex where protobuf's JSON has base64; nothing here needs them."""
    for key in ("traceId", "spanId", "profileId", "trace_id", "span_id", "profile_id"):
        message.pop(key, None)
    return message


@dataclass(slots=True)
class _Parts:
    """What the resources of a message add to one Profile. `accounting` is None until one carries it; `walked` is its
    unwinding, as plain counts. `stamps` are when its samples were taken, as far as that is told."""

    samples: list[Sample] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    accounting: Accounting | None = None
    walked: dict[str, int] = field(default_factory=dict)


class _Reader:
    """Turns messages into our types."""

    def __init__(self, dictionary: pb.ProfilesDictionary, default_host: str, timed: bool) -> None:
        self._dictionary = Dictionary(dictionary)
        self._timed = timed
        self._default_host = default_host
        self._frame_total = self._text_total = 0
        self._now = time.time_ns()
        self._problems: dict[str, None] = {}

    def read(self, request: ExportProfilesServiceRequest) -> Received:
        parts: dict[tuple[str, str, int, Window, tuple[tuple[str, str], ...]], _Parts] = {}
        identities: set[PushIdentity | None] = set()
        rejected = 0
        _check_number(request)
        for resource_profiles in request.resource_profiles:
            resource = self._dictionary.key_values(resource_profiles.resource.attributes)
            host = str(resource.get("host.name", self._default_host))
            labels = foreign.labels(resource)
            for scope_profiles in resource_profiles.scope_profiles:
                identities.add(_identity(self._dictionary.key_values(scope_profiles.scope.attributes)))
                for profile in scope_profiles.profiles:
                    try:
                        meaning = self._meaning(profile)
                    except foreign.Unusable as why:
                        rejected += 1
                        self._problems[str(why)] = None
                        continue
                    key = (host, meaning.event, meaning.hz, self._window(profile), labels)
                    self._add(parts.setdefault(key, _Parts()), profile, resource, meaning)
        return Received(
            tuple(self._profile(*key, part) for key, part in parts.items()),
            identities.pop() if len(identities) == 1 else None,
            rejected,
            " ".join(self._problems),
            _times(parts.values()),
        )

    def _add(
        self,
        part: _Parts,
        profile: pb.Profile,
        resource: Mapping[str, foreign.Value],
        meaning: foreign.Meaning,
    ) -> None:
        samples = _one_by_one(profile.samples) if self._timed else profile.samples
        values = [self._value(sample, meaning) for sample in samples]
        people: dict[tuple[int, ...], tuple[int, str, str, str, str, str]] = {}
        for sample, count in zip(samples, meaning.counts(values), strict=True):
            if self._timed:
                part.stamps.extend(sample.timestamps_unix_nano[:1])
            indices = tuple(sample.attribute_indices)
            who = people.get(indices)
            if who is None:
                who = people[indices] = _who({**resource, **self._dictionary.attributes(indices)})
            stack = self._dictionary.stack(sample.stack_index)
            pid, process, thread, *where = who
            self._frame_total += self._dictionary.depth(sample.stack_index)
            self._text_total += len(process) + len(thread) + sum(map(len, where))
            if self._frame_total > MAX_FRAMES or self._text_total > MAX_TEXT:
                raise ValueError(
                    f"the OTLP body's samples have more than {MAX_FRAMES:,} frames or {MAX_TEXT:,} characters"
                    " of names: send fewer in one request"
                )
            part.samples.append(Sample(stack, pid, process, thread, count, *where))
        self._account(part, profile)

    def _profile(
        self,
        host: str,
        event: str,
        hz: int,
        window: Window,
        labels: tuple[tuple[str, str], ...],
        part: _Parts,
    ) -> Profile:
        total = sum(sample.count for sample in part.samples)
        if total > _MAX_INT:
            raise ValueError(f"the OTLP body's counts add up to {total}, more than 64 bits hold")
        accounting = part.accounting
        if accounting is not None:
            accounting = replace(accounting, unwinding=Unwinding.from_counts(part.walked))
        if accounting is not None and accounting.sampled != total:
            self._problems[
                f"Accounting speaks of {accounting.sampled} samples where {total} came: it was replaced."
            ] = None
            accounting = None
        return Profile(
            host,
            event,
            hz,
            window,
            tuple(part.samples),
            accounting or plain_accounting(part.samples, total),
            dict(labels),
        )

    def _meaning(self, profile: pb.Profile) -> foreign.Meaning:
        attributes = self._dictionary.attributes(tuple(profile.attribute_indices))
        event, hz = attributes.get("pilotlight.event"), attributes.get("pilotlight.hz")
        if event is not None and hz is not None:
            if not isinstance(event, str) or not isinstance(hz, int) or hz < 1:
                raise ValueError("pilotlight.event has to be a string and pilotlight.hz a whole number above 0")
            return foreign.Meaning(event, hz)
        meaning = foreign.meaning(
            self._value_type(profile.sample_type), self._value_type(profile.period_type), profile.period
        )
        if meaning.assumed:
            self._problems[meaning.assumed] = None
        return meaning

    def _value_type(self, value_type: pb.ValueType) -> tuple[str, str]:
        return self._dictionary.string(value_type.type_strindex), self._dictionary.string(value_type.unit_strindex)

    def _window(self, profile: pb.Profile) -> Window:
        start, duration = profile.time_unix_nano, profile.duration_nano
        if start == 0:
            stamps = [stamp for sample in profile.samples for stamp in sample.timestamps_unix_nano]
            if stamps:
                start = min(stamps)
                duration = max(duration, max(stamps) + 1 - start)
            else:
                start = max(self._now - duration, 0)
                self._problems["A profile without a time was taken to end as it arrived."] = None
        end = start + duration
        if end > _MAX_INT:
            raise ValueError("an OTLP profile ends after the year 2262: time_unix_nano has to be in nanoseconds")
        return Window(start, end)

    def _value(self, sample: pb.Sample, meaning: foreign.Meaning) -> int:
        values, stamps = len(sample.values), len(sample.timestamps_unix_nano)
        if not values:
            return stamps * meaning.per_timestamp
        if stamps and stamps != values:
            raise ValueError(f"an OTLP sample has {values} values at {stamps} timestamps: there has to be one for each")
        if min(sample.values) < 0:
            raise ValueError("an OTLP sample has a value below zero, or of more than 63 bits")
        return sum(sample.values)

    def _account(self, part: _Parts, profile: pb.Profile) -> None:
        attributes = self._dictionary.attributes(tuple(profile.attribute_indices))
        numbers: dict[str, int] = {}
        lost: dict[str, int] = {}
        unknown: dict[str, int] = {}
        cost: dict[str, int] = {}
        walked: dict[str, int] = {}
        groups = {"ticks": numbers, "lost": lost, "unknown": unknown, "cost": cost, "unwinding": walked}
        for key, value in attributes.items():
            group, name = _accounting_group(key)
            if not group:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"the OTLP attribute {key} has to be a whole number and not below 0")
            if len(name) > MAX_REASON:
                raise ValueError(f"an OTLP attribute {key[:60]}… has a name of {len(key):,} characters: shorten it")
            groups[group][name] = value
        if "sampled" not in numbers:
            return
        counts = {name: numbers.get(name, 0) for name in TICKS}
        accounting = Accounting(**counts, lost=lost, frames_unknown=unknown, cost=Cost(**cost), unwinding=Unwinding())
        part.accounting = accounting if part.accounting is None else part.accounting + accounting
        for name, count in walked.items():
            part.walked[name] = part.walked.get(name, 0) + count
        if len(part.accounting.lost) + len(part.accounting.frames_unknown) + len(part.walked) > MAX_REASONS:
            raise ValueError(
                f"the OTLP body's accounting has more than {MAX_REASONS:,} reasons and binaries: send the most frequent"
            )


def _times(parts: Iterable[_Parts]) -> tuple[tuple[float, ...], ...]:
    """When the samples of each were taken: exact where they are near each other, as nanoseconds since 1970 are not."""
    told = [part.stamps if len(part.stamps) == len(part.samples) else [] for part in parts]
    first = min((min(stamps) for stamps in told if stamps), default=0)
    return tuple(tuple([(stamp - first) / 1e9 for stamp in stamps]) for stamps in told)


def _one_by_one(samples: Sequence[pb.Sample]) -> Sequence[pb.Sample]:
    """A sample for each timestamp, with its value where it has one; samples as they are where one has none."""
    if not all(sample.timestamps_unix_nano for sample in samples):
        return samples
    if sum(len(sample.timestamps_unix_nano) for sample in samples) > MAX_SAMPLES:
        raise ValueError(f"the OTLP file has more than {MAX_SAMPLES:,} timestamps: open a shorter one")
    found = []
    for sample in samples:
        stamps, values = sample.timestamps_unix_nano, sample.values
        if values and len(values) != len(stamps):
            return samples  # which is told when they are read
        for place, stamp in enumerate(stamps):
            found.append(
                pb.Sample(
                    stack_index=sample.stack_index,
                    attribute_indices=sample.attribute_indices,
                    values=values[place : place + 1],
                    timestamps_unix_nano=[stamp],
                )
            )
    return found


def _who(attributes: Mapping[str, foreign.Value]) -> tuple[int, str, str, str, str, str]:
    """pid, process, thread, service, container and kind of CPU of a sample."""
    pid = attributes.get("process.pid", 0)
    if not isinstance(pid, int) or not 0 <= pid <= _MAX_PID:
        raise ValueError(f"the OTLP attribute process.pid has to be a number from 0 to {_MAX_PID}")
    process = foreign.process_name(attributes)
    return (
        int(pid),
        process,
        foreign.text(attributes.get("thread.name", process)),
        foreign.text(attributes.get("service.name", "")),
        foreign.text(attributes.get("container.id", "")),
        foreign.text(attributes.get("host.cpu.model.name", "")),
    )


def _identity(attributes: Mapping[str, foreign.Value]) -> PushIdentity | None:
    agent = attributes.get("pilotlight.push.agent")
    epoch = attributes.get("pilotlight.push.epoch")
    sequence = attributes.get("pilotlight.push.sequence")
    if agent is None and epoch is None and sequence is None:
        return None
    if not isinstance(agent, str) or not isinstance(epoch, int) or not isinstance(sequence, int):
        raise ValueError("a push needs pilotlight.push.agent, .epoch and .sequence: a string and two whole numbers")
    return PushIdentity(agent, epoch, sequence)


def _accounting_group(key: str) -> tuple[str, str]:
    """Which part of the accounting an attribute belongs to ("" for none), and its name there."""
    for group, prefix in (
        ("lost", "pilotlight.accounting.lost."),
        ("unknown", "pilotlight.accounting.frames_unknown."),
        ("unwinding", "pilotlight.unwinding."),
    ):
        if key.startswith(prefix):
            return group, key.removeprefix(prefix)
    name = key.removeprefix("pilotlight.accounting.")
    if name != key and name in TICKS:
        return "ticks", name
    name = key.removeprefix("pilotlight.cost.")
    if name != key and name in COSTS:
        return "cost", name
    return "", ""
