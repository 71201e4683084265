"""From a Profile to OTLP; otlp.py says which attributes there are.

Messages are written field by field, with the numbers that opentelemetry-proto's .proto files give them: profiles.proto
and profiles_service.proto of v1development, common.proto and resource.proto of v1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from profiler.event_names import time_name, type_and_unit
from profiler.formats import otlp_foreign as foreign
from profiler.formats.names import encodable
from profiler.formats.wire import block, blocks, fixed64, packed, present, signed, signed_varint, text, unsigned, varint
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
    tables = _Tables()
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in profile.samples:
        groups.setdefault((sample.service, sample.container, sample.cpu_kind), []).append(sample)
    event = [
        tables.attribute("pilotlight.event", profile.event),
        tables.attribute("pilotlight.hz", profile.hz),
    ]
    accounting = [tables.attribute(key, n) for key, n in _accounting_items(profile.accounting)]
    counted = type_and_unit(profile.event)
    sample_type = _value_type(tables, *(counted or ("samples", "count")))
    window = fixed64(3, profile.window.start_ns) + unsigned(4, profile.window.end_ns - profile.window.start_ns)
    if counted is None:
        window += block(5, _value_type(tables, time_name(profile.event), "nanoseconds"))
        window += signed(6, round(1e9 / profile.hz))
    resources = []
    for place, (where, samples) in enumerate((groups or {("", "", ""): []}).items()):
        written = (
            block(1, sample_type)
            + blocks(2, [_sample(tables, sample) for sample in samples])
            + window
            + text(7, _profile_id(identity, place))
            + packed(11, event if place else event + accounting)
        )
        scope_profiles = block(1, _scope(identity)) + block(2, written)
        resources.append(block(1, _resource(profile, *where)) + block(2, scope_profiles))
    return blocks(1, resources) + block(2, tables.dictionary())


def _sample(tables: _Tables, sample: Sample) -> bytes:
    return (
        unsigned(1, tables.stack(sample.stack))
        + tables.thread(sample.pid, sample.process, sample.thread)
        + packed(4, (signed_varint(sample.count),))
    )


def _value_type(tables: _Tables, kind: str, unit: str) -> bytes:
    return unsigned(1, tables.string(kind)) + unsigned(2, tables.string(unit))


def _resource(profile: Profile, service: str, container: str, cpu_kind: str) -> bytes:
    items = {"host.name": profile.host}
    for key, value in (("service.name", service), ("container.id", container), ("host.cpu.model.name", cpu_kind)):
        if value:
            items[key] = value
    for key, value in profile.labels.items():
        items[f"pilotlight.label.{key}" if foreign.has_meaning(key) else key] = value
    return blocks(1, [_key_value(key, value) for key, value in items.items()])


def _scope(identity: PushIdentity | None) -> bytes:
    attributes: tuple[bytes, ...] = ()
    if identity is not None:
        attributes = (
            _key_value("pilotlight.push.agent", identity.agent),
            _key_value("pilotlight.push.epoch", identity.epoch),
            _key_value("pilotlight.push.sequence", identity.sequence),
        )
    return text(1, b"pilotlight") + blocks(3, attributes)


def _profile_id(identity: PushIdentity | None, place: int) -> bytes:
    """16 bytes that a repeated push repeats; none without an identity."""
    if identity is None:
        return b""
    text = f"{identity.epoch}/{identity.sequence}/{place}/{encodable(identity.agent)}"
    return blake2b(text.encode(), digest_size=16).digest()


def _key_value(key: str, value: str | int) -> bytes:
    return text(1, _utf8(key)) + block(2, _any_value(value))


def _any_value(value: str | int) -> bytes:
    """An AnyValue; which of its fields is there says the type, so it is there even when empty."""
    return present(3, value) if isinstance(value, int) else block(1, _utf8(value))


def _utf8(name: str) -> bytes:
    return name.encode() if name.isascii() else encodable(name).encode()


def _accounting_items(accounting: Accounting) -> Iterable[tuple[str, int]]:
    for name in TICKS:
        yield f"pilotlight.accounting.{name}", getattr(accounting, name)
    for reason, count in accounting.lost.items():
        yield f"pilotlight.accounting.lost.{reason}", count
    for reason, count in accounting.frames_unknown.items():
        yield f"pilotlight.accounting.frames_unknown.{reason}", count
    for name in COSTS:
        yield f"pilotlight.cost.{name}", getattr(accounting.cost, name)
    for fate, count in accounting.unwinding.counts().items():
        yield f"pilotlight.unwinding.{fate}", count


class _Tables:
    """The dictionary of a message while it is written: the tables that all else refers to by index.

    Each is a dict from an entry, encoded, to its index, so equal entries are written once; index 0 of every table
    is the empty entry. Objects are looked up by id() first, which is far cheaper than by value: samples share them.
    Of what is only ever put into packed fields the index is kept encoded.
    """

    def __init__(self) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._attributes: dict[bytes, int] = {}
        self._mappings: dict[bytes, int] = {}
        self._functions: dict[bytes, int] = {}
        self._locations: dict[bytes, int] = {}
        self._stacks: dict[bytes, int] = {}
        self._attribute_of: dict[tuple[str, str | int], bytes] = {}
        self._thread_of: dict[tuple[int, str, str], bytes] = {}
        self._said_of_frames: dict[tuple[tuple[Kind, Reason | None, bool], ...], bytes] = {}
        self._function_of: dict[tuple[str, str, str], bytes] = {}
        # By id().
        self._location_of: dict[int, bytes] = {}
        self._binary_of: dict[int, bytes] = {}
        self._frames_of: dict[int, bytes] = {}

    def dictionary(self) -> bytes:
        """The ProfilesDictionary."""
        nothing: dict[bytes, int] = {}
        tables = (
            self._mappings,
            self._locations,
            self._functions,
            nothing,  # links
            [_utf8(string) for string in self._strings][1:],
            self._attributes,
            self._stacks,
        )
        return b"".join([block(field, b"") + blocks(field, table) for field, table in enumerate(tables, 1)])

    def string(self, string: str) -> int:
        return self._strings.setdefault(string, len(self._strings))

    def attribute(self, key: str, value: str | int) -> bytes:
        index = self._attribute_of.get((key, value))
        if index is None:
            entry = unsigned(1, self.string(key)) + block(2, _any_value(value))
            index = self._attribute_of[key, value] = varint(_index(self._attributes, entry))
        return index

    def thread(self, pid: int, process: str, thread: str) -> bytes:
        """A sample's attributes, field and all."""
        attributes = self._thread_of.get((pid, process, thread))
        if attributes is None:
            attributes = self._thread_of[pid, process, thread] = packed(
                2,
                (
                    self.attribute("process.pid", pid),
                    self.attribute("process.executable.name", process),
                    self.attribute("thread.name", thread),
                ),
            )
        return attributes

    def stack(self, stack: Sequence[Location]) -> int:
        if not stack:
            return 0
        known = self._location_of
        try:
            locations = b"".join(map(known.__getitem__, map(id, stack)))
        except KeyError:
            locations = b"".join([known.get(id(location)) or self._location(location) for location in stack])
        return _index(self._stacks, text(1, locations))

    def _location(self, location: Location) -> bytes:
        binary = b""
        if location.binary is not None:
            binary = self._binary_of.get(id(location.binary)) or self._binary(location.binary)
        frames = self._frames_of.get(id(location.frames)) or self._frames(location.frames)
        entry = binary + unsigned(2, location.address) + frames
        index = self._location_of[id(location)] = varint(_index(self._locations, entry))
        return index

    def _frames(self, frames: tuple[Frame, ...]) -> bytes:
        """A location's lines and attributes, fields and all."""
        lines = [self._function(frame) + signed(2, frame.line) for frame in frames]
        written = self._frames_of[id(frames)] = blocks(3, lines) + self._frame_attributes(frames)
        return written

    def _frame_attributes(self, frames: Sequence[Frame]) -> bytes:
        said = tuple([(frame.kind, frame.reason, not frame.function) for frame in frames])
        attributes = self._said_of_frames.get(said)
        if attributes is None:
            frame_type = _TYPE_OF_KIND.get(frames[-1].kind, "")
            indices = [self.attribute("profile.frame.type", frame_type)] if frame_type else []
            if any(
                not frame.function
                or foreign.kind(frame_type, frame.function, inlined=place < len(frames) - 1) != frame.kind
                for place, frame in enumerate(frames)
            ):
                kinds = ",".join(frame.kind for frame in frames)
                indices.append(self.attribute("pilotlight.frame.kinds", kinds))
            if any(frame.reason for frame in frames):
                reasons = ",".join(frame.reason or "" for frame in frames)
                indices.append(self.attribute("pilotlight.frame.reasons", reasons))
            attributes = self._said_of_frames[said] = packed(4, indices)
        return attributes

    def _binary(self, binary: Binary) -> bytes:
        """A location's mapping, field and all."""
        attributes = []
        if binary.build_id:
            is_hex = all(c in "0123456789abcdef" for c in binary.build_id)
            name = "process.executable.build_id.gnu" if is_hex else "pilotlight.build_id"
            attributes.append(self.attribute(name, binary.build_id))
        entry = unsigned(4, self.string(binary.path)) + packed(5, attributes)
        written = self._binary_of[id(binary)] = unsigned(1, _index(self._mappings, entry))
        return written

    def _function(self, frame: Frame) -> bytes:
        """A line's function, field and all."""
        key = frame.function, frame.system_name, frame.file
        function = self._function_of.get(key)
        if function is None:
            entry = b"".join([unsigned(field, self.string(name)) for field, name in enumerate(key, 1)])
            function = self._function_of[key] = unsigned(1, _index(self._functions, entry))
        return function


def _index(table: dict[bytes, int], entry: bytes) -> int:
    return table.setdefault(entry, len(table) + 1)
