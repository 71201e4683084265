"""From a Profile to OTLP; otlp.py says which attributes there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.profiles.v1development import profiles_pb2 as pb

from profiler.formats import otlp_foreign as foreign
from profiler.formats.names import encodable
from profiler.model import Accounting, Profile, Sample
from symbolizer.types import Binary, Frame, Kind, Location, Reason

TICKS: Final = ("expected", "ticks", "idle", "filtered", "sampled", "frames_named")
COSTS: Final = ("bpf_ns", "bpf_runs", "agent_cpu_ns", "rss_bytes", "locked_bytes")
_TYPE_OF_KIND: Final = {
    Kind.KERNEL: "kernel",
    Kind.MODULE: "kernel",
    Kind.BPF: "kernel",
    Kind.NATIVE: "native",
    Kind.INLINED: "native",
    Kind.VDSO: "native",
    Kind.JIT: "jit",
    Kind.PYTHON: "cpython",
}


@dataclass(frozen=True, slots=True)
class PushIdentity:
    """Which push of which agent this is, so that a repeated one can be told from a new one.

    `agent` is a name that no other agent has, `epoch` tells its starts apart, `sequence` counts
    the pushes of one epoch.
    """

    agent: str
    epoch: int
    sequence: int


def write_otlp(profile: Profile, identity: PushIdentity | None = None) -> bytes:
    """The profile as a serialized, uncompressed ExportProfilesServiceRequest.

    Raises ValueError for a number that the format cannot hold (beyond 64 bits).
    """
    request = ExportProfilesServiceRequest()
    tables = _Tables(request.dictionary)
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in profile.samples:
        groups.setdefault((sample.service, sample.container), []).append(sample)
    event = [
        tables.attribute("pilotlight.event", profile.event),
        tables.attribute("pilotlight.hz", profile.hz),
    ]
    accounting = [tables.attribute(key, n) for key, n in _accounting_items(profile.accounting)]
    value_type = pb.ValueType(type_strindex=tables.string("samples"), unit_strindex=tables.string("count"))
    period_type = pb.ValueType(type_strindex=tables.string("cpu"), unit_strindex=tables.string("nanoseconds"))
    for place, ((service, container), samples) in enumerate((groups or {("", ""): []}).items()):
        resource_profiles = request.resource_profiles.add()
        resource_profiles.resource.attributes.extend(_resource(profile, service, container))
        scope_profiles = resource_profiles.scope_profiles.add(scope=_scope(identity))
        written = scope_profiles.profiles.add(
            sample_type=value_type,
            time_unix_nano=profile.window.start_ns,
            duration_nano=profile.window.end_ns - profile.window.start_ns,
            period_type=period_type,
            period=round(1e9 / profile.hz),
            attribute_indices=event if place else event + accounting,
            profile_id=_profile_id(identity, place),
        )
        for sample in samples:
            written.samples.add(
                stack_index=tables.stack(sample.stack),
                values=(sample.count,),
                attribute_indices=tables.thread(sample.pid, sample.process, sample.thread),
            )
    return bytes(request.SerializeToString())


def _resource(profile: Profile, service: str, container: str) -> list[KeyValue]:
    items = {"host.name": profile.host}
    if service:
        items["service.name"] = service
    if container:
        items["container.id"] = container
    for key, value in profile.labels.items():
        items[f"pilotlight.label.{key}" if foreign.has_meaning(key) else key] = value
    return [_key_value(key, value) for key, value in items.items()]


def _scope(identity: PushIdentity | None) -> InstrumentationScope:
    scope = InstrumentationScope(name="pilotlight")
    if identity is not None:
        scope.attributes.extend(
            (
                _key_value("pilotlight.push.agent", identity.agent),
                _key_value("pilotlight.push.epoch", identity.epoch),
                _key_value("pilotlight.push.sequence", identity.sequence),
            )
        )
    return scope


def _profile_id(identity: PushIdentity | None, place: int) -> bytes:
    """16 bytes that a repeated push repeats; none without an identity."""
    if identity is None:
        return b""
    text = f"{identity.epoch}/{identity.sequence}/{place}/{encodable(identity.agent)}"
    return blake2b(text.encode(), digest_size=16).digest()


def _key_value(key: str, value: str | int) -> KeyValue:
    return KeyValue(key=encodable(key), value=_any_value(value))


def _any_value(value: str | int) -> AnyValue:
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=encodable(value))


def _accounting_items(accounting: Accounting) -> Iterable[tuple[str, int]]:
    for name in TICKS:
        yield f"pilotlight.accounting.{name}", getattr(accounting, name)
    for reason, count in accounting.lost.items():
        yield f"pilotlight.accounting.lost.{reason}", count
    for reason, count in accounting.frames_unknown.items():
        yield f"pilotlight.accounting.frames_unknown.{reason}", count
    for name in COSTS:
        yield f"pilotlight.cost.{name}", getattr(accounting.cost, name)


class _Tables:
    """The dictionary of a message while it is written. Equal entries are written once.

    Objects are looked up by id() first, which is far cheaper than by value: samples share them.
    """

    def __init__(self, dictionary: pb.ProfilesDictionary) -> None:
        self._dictionary = dictionary
        dictionary.mapping_table.add()
        dictionary.location_table.add()
        dictionary.function_table.add()
        dictionary.link_table.add()
        dictionary.string_table.append("")
        dictionary.attribute_table.add()
        dictionary.stack_table.add()
        self._strings = {"": 0}
        self._attributes: dict[tuple[str, str | int], int] = {}
        self._threads: dict[tuple[int, str, str], list[int]] = {}
        self._mappings: dict[tuple[str, str], int] = {}
        self._functions: dict[tuple[str, str, str], int] = {}
        self._said_of_frames: dict[tuple[tuple[Kind, Reason | None, bool], ...], tuple[int, ...]] = {}
        self._locations: dict[tuple[object, ...], int] = {}
        self._location_by_id: dict[int, int] = {}
        self._stacks: dict[tuple[int, ...], int] = {(): 0}

    def string(self, text: str) -> int:
        index = self._strings.get(text)
        if index is None:
            index = self._strings[text] = len(self._strings)
            self._dictionary.string_table.append(encodable(text))
        return index

    def attribute(self, key: str, value: str | int) -> int:
        index = self._attributes.get((key, value))
        if index is None:
            index = self._attributes[key, value] = len(self._attributes) + 1
            self._dictionary.attribute_table.add(key_strindex=self.string(key), value=_any_value(value))
        return index

    def thread(self, pid: int, process: str, thread: str) -> list[int]:
        indices = self._threads.get((pid, process, thread))
        if indices is None:
            indices = self._threads[pid, process, thread] = [
                self.attribute("process.pid", pid),
                self.attribute("process.executable.name", process),
                self.attribute("thread.name", thread),
            ]
        return indices

    def stack(self, stack: Sequence[Location]) -> int:
        known = self._location_by_id
        locations = tuple([known.get(id(location)) or self._location(location) for location in stack])
        index = self._stacks.get(locations)
        if index is None:
            index = self._stacks[locations] = len(self._stacks)
            self._dictionary.stack_table.add(location_indices=locations)
        return index

    def _location(self, location: Location) -> int:
        mapping = self._mapping(location.binary) if location.binary else 0
        lines = tuple([(self._function(frame), frame.line) for frame in location.frames])
        attributes = self._frame_attributes(location.frames)
        key = (mapping, location.address, lines, attributes)
        index = self._locations.get(key)
        if index is None:
            index = self._locations[key] = len(self._locations) + 1
            self._dictionary.location_table.add(
                mapping_index=mapping,
                address=location.address,
                lines=[pb.Line(function_index=function, line=line) for function, line in lines],
                attribute_indices=attributes,
            )
        self._location_by_id[id(location)] = index
        return index

    def _frame_attributes(self, frames: Sequence[Frame]) -> tuple[int, ...]:
        said = tuple([(frame.kind, frame.reason, not frame.function) for frame in frames])
        indices = self._said_of_frames.get(said)
        if indices is None:
            frame_type = _TYPE_OF_KIND.get(frames[-1].kind, "")
            attributes = [self.attribute("profile.frame.type", frame_type)] if frame_type else []
            if any(
                not frame.function
                or foreign.kind(frame_type, frame.function, inlined=place < len(frames) - 1) != frame.kind
                for place, frame in enumerate(frames)
            ):
                kinds = ",".join(frame.kind for frame in frames)
                attributes.append(self.attribute("pilotlight.frame.kinds", kinds))
            if any(frame.reason for frame in frames):
                reasons = ",".join(frame.reason or "" for frame in frames)
                attributes.append(self.attribute("pilotlight.frame.reasons", reasons))
            indices = self._said_of_frames[said] = tuple(attributes)
        return indices

    def _mapping(self, binary: Binary) -> int:
        key = (binary.path, binary.build_id)
        index = self._mappings.get(key)
        if index is None:
            index = self._mappings[key] = len(self._mappings) + 1
            attributes = []
            if binary.build_id:
                is_hex = all(c in "0123456789abcdef" for c in binary.build_id)
                name = "process.executable.build_id.gnu" if is_hex else "pilotlight.build_id"
                attributes.append(self.attribute(name, binary.build_id))
            self._dictionary.mapping_table.add(filename_strindex=self.string(binary.path), attribute_indices=attributes)
        return index

    def _function(self, frame: Frame) -> int:
        key = (frame.function, frame.system_name, frame.file)
        index = self._functions.get(key)
        if index is None:
            index = self._functions[key] = len(self._functions) + 1
            self._dictionary.function_table.add(
                name_strindex=self.string(frame.function),
                system_name_strindex=self.string(frame.system_name),
                filename_strindex=self.string(frame.file),
            )
        return index
