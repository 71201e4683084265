"""OTLP: what other profilers send is understood, and what an attacker sends is refused in a sentence."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.profiles.v1development import profiles_pb2 as pb

from profiler.formats import otlp_read
from profiler.formats.otlp import MAX_BODY, PushIdentity, read_otlp, read_otlp_json, write_otlp
from profiler.formats.otlp_dictionary import MAX_DEPTH
from profiler.model import Accounting, Cost, Passage, Profile, Sample, Unwinding, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason

LIBC = Binary("/usr/lib/libc.so.6", "00ff00ff")
WINDOW = Window(1_763_683_200_000_000_000, 1_763_683_210_000_000_000)


def small_profile() -> Profile:
    memcpy = Location(0x1234, LIBC, (Frame("memcpy", Kind.NATIVE, "", "memcpy.c", 12),))
    inlined = Location(0x99, LIBC, (Frame("min<int>", Kind.INLINED, "_Z3min", "a.h", 3), Frame("sort", Kind.NATIVE)))
    read = Location(0x10, Binary("[kernel]"), (Frame("ksys_read", Kind.KERNEL),))
    lost = Location(0x5, None, (Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),))
    samples = (
        Sample((memcpy, inlined), 7, "cat", "cat", 3, "checkout", "c" * 64),
        Sample((read, memcpy, inlined), 7, "cat", "io", 2, "checkout", "c" * 64),
        Sample((lost,), 1, "init", "init", 1),
    )
    accounting = Accounting(20, 16, 8, 1, 6, {"counts map full": 1}, 12, {"no mapping": 1}, Cost(1, 2, 3, 4, 5))
    return Profile("web-1", "cpu-clock", 99, WINDOW, samples, accounting, {"env": "prod"})


class Foreign:
    """A message of another profiler, being made."""

    def __init__(self) -> None:
        self.request = ExportProfilesServiceRequest()
        self.dictionary = self.request.dictionary
        self.dictionary.mapping_table.add()
        self.dictionary.location_table.add()
        self.dictionary.function_table.add()
        self.dictionary.link_table.add()
        self.dictionary.attribute_table.add()
        self.dictionary.stack_table.add()
        self.dictionary.string_table.append("")

    def string(self, text: str) -> int:
        self.dictionary.string_table.append(text)
        return len(self.dictionary.string_table) - 1

    def attribute(self, key: str, value: str | int) -> int:
        any_value = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
        self.dictionary.attribute_table.add(key_strindex=self.string(key), value=any_value)
        return len(self.dictionary.attribute_table) - 1

    def location(self, frame_type: str, address: int, names: tuple[str, ...] = (), mapping: int = 0) -> int:
        lines = []
        for name in names:
            self.dictionary.function_table.add(name_strindex=self.string(name))
            lines.append(pb.Line(function_index=len(self.dictionary.function_table) - 1, line=7))
        self.dictionary.location_table.add(
            mapping_index=mapping,
            address=address,
            lines=lines,
            attribute_indices=[self.attribute("profile.frame.type", frame_type)],
        )
        return len(self.dictionary.location_table) - 1

    def stack(self, *locations: int) -> int:
        self.dictionary.stack_table.add(location_indices=locations)
        return len(self.dictionary.stack_table) - 1

    def resource(self, **attributes: str | int) -> pb.ScopeProfiles:
        added = self.request.resource_profiles.add()
        for key, value in attributes.items():
            any_value = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
            added.resource.attributes.append(KeyValue(key=key.replace("_", "."), value=any_value))
        scope: pb.ScopeProfiles = added.scope_profiles.add()
        return scope

    def profile(self, scope: pb.ScopeProfiles, name: str, unit: str, period: int = 0) -> pb.Profile:
        profile: pb.Profile = scope.profiles.add(
            sample_type=pb.ValueType(type_strindex=self.string(name), unit_strindex=self.string(unit)),
            period_type=pb.ValueType(type_strindex=self.string("cpu"), unit_strindex=self.string("nanoseconds")),
            period=period,
            time_unix_nano=WINDOW.start_ns,
            duration_nano=10**10,
        )
        return profile

    def body(self) -> bytes:
        return bytes(self.request.SerializeToString())


def ebpf_profiler() -> Foreign:
    """What opentelemetry-ebpf-profiler sends: on- and off-CPU samples of two processes."""
    message = Foreign()
    dictionary = message.dictionary
    dictionary.mapping_table.add(
        memory_start=0x1000,
        memory_limit=0x2000,
        filename_strindex=message.string("/usr/bin/redis-server"),
        attribute_indices=[
            message.attribute("process.executable.build_id.gnu", "abcd12"),
            message.attribute("process.executable.build_id.htlhash", "ff" * 16),
        ],
    )
    native = message.location("native", 0x4711, mapping=1)
    kernel = message.location("kernel", 0x10, ("do_syscall_64",))
    python = message.location("cpython", 0, ("inner", "outer"))
    jit = message.location("v8js", 0, ("handler",))
    redis = message.resource(
        container_id="c1",
        process_pid=42,
        process_executable_name="redis-server",
        process_executable_path="/usr/bin/redis-server",
    )
    thread = message.attribute("thread.name", "io_thd_1")
    on_cpu = message.profile(redis, "samples", "count", 50_000_000)
    on_cpu.samples.add(
        stack_index=message.stack(kernel, native),
        attribute_indices=[thread],
        timestamps_unix_nano=[WINDOW.start_ns + i for i in range(3)],
    )
    off_cpu = message.profile(redis, "off_cpu", "nanoseconds")
    off_cpu.samples.add(
        stack_index=message.stack(kernel),
        attribute_indices=[thread],
        timestamps_unix_nano=[WINDOW.start_ns, WINDOW.start_ns + 5],
        values=[1_500_600, 2_000_000],
    )
    app = message.resource(container_id="c2", process_pid=43, process_executable_path="/opt/app/python3")
    on_cpu = message.profile(app, "samples", "count", 50_000_000)
    on_cpu.samples.add(stack_index=message.stack(python, jit), timestamps_unix_nano=[WINDOW.start_ns])
    return message


def test_samples_of_the_ebpf_profiler_become_counts_by_event() -> None:
    received = read_otlp(ebpf_profiler().body(), default_host="10.0.0.7")
    assert (received.rejected, received.problem, received.identity) == (0, "", None)
    on_cpu, off_cpu = received.profiles
    assert (on_cpu.event, on_cpu.hz, on_cpu.host, on_cpu.window) == ("cpu-clock", 20, "10.0.0.7", WINDOW)
    assert [(s.pid, s.process, s.thread, s.count, s.container) for s in on_cpu.samples] == [
        (42, "redis-server", "io_thd_1", 3, "c1"),
        (43, "python3", "python3", 1, "c2"),
    ]
    assert (off_cpu.event, off_cpu.hz) == ("off-cpu", 1_000_000)
    assert [s.count for s in off_cpu.samples] == [3501]


def test_the_cpus_model_is_the_samples_kind_of_cpu_and_no_label() -> None:
    message = Foreign()
    resource = message.resource(host_cpu_model_name="AMD EPYC", host_cpu_family="25")
    message.profile(resource, "samples", "count", 50_000_000).samples.add(values=[1])
    (profile,) = read_otlp(message.body()).profiles
    assert [sample.cpu_kind for sample in profile.samples] == ["AMD EPYC"]
    assert profile.labels == {"host.cpu.family": "25"}


def test_foreign_frames_get_kinds_and_reasons() -> None:
    on_cpu = read_otlp(ebpf_profiler().body()).profiles[0]
    redis, app = on_cpu.samples
    assert [location.frames for location in redis.stack] == [
        (Frame("do_syscall_64", Kind.KERNEL, line=7),),
        (Frame("[redis-server: no symbols]", Kind.UNKNOWN, reason=Reason.NO_SYMBOLS),),
    ]
    assert redis.stack[1].binary == Binary("/usr/bin/redis-server", "abcd12")
    assert redis.stack[1].address == 0x4711
    assert [[(f.function, f.kind) for f in location.frames] for location in app.stack] == [
        [("inner", Kind.INLINED), ("outer", Kind.PYTHON)],
        [("handler", Kind.JIT)],
    ]


def test_a_foreign_profile_is_accounted_for_by_what_came() -> None:
    on_cpu = read_otlp(ebpf_profiler().body()).profiles[0]
    accounting = on_cpu.accounting
    assert (accounting.ticks, accounting.sampled, accounting.expected) == (4, 4, 4)
    assert accounting.closes
    assert (accounting.frames_named, accounting.frames_unknown) == (6, {"no symbols": 3})


def test_what_is_no_time_is_rejected_and_the_rest_kept() -> None:
    message = ebpf_profiler()
    scope = message.request.resource_profiles[0].scope_profiles[0]
    message.profile(scope, "alloc_space", "bytes").samples.add(values=[10])
    received = read_otlp(message.body())
    assert received.rejected == 1
    assert "alloc_space/bytes" in received.problem
    assert [profile.event for profile in received.profiles] == ["cpu-clock", "off-cpu"]


def test_cpu_nanoseconds_become_counts_of_the_period_with_the_same_total() -> None:
    message = Foreign()
    profile = message.profile(message.resource(host_name="a"), "cpu", "nanoseconds", 10_000_000)
    for value in (4_000_000, 4_000_000, 4_000_000, 10_000_000, 8_000_000):
        profile.samples.add(values=[value])
    (read,) = read_otlp(message.body()).profiles
    assert (read.hz, read.event, read.accounting.sampled) == (100, "cpu-clock", 3)


def test_a_missing_period_is_assumed_and_said() -> None:
    message = Foreign()
    message.profile(message.resource(), "samples", "count").samples.add(values=[5])
    received = read_otlp(message.body())
    assert received.profiles[0].hz == 100
    assert received.rejected == 0
    assert "100 Hz assumed" in received.problem


def test_a_profile_without_a_time_takes_that_of_its_samples() -> None:
    message = Foreign()
    profile = message.profile(message.resource(), "samples", "count", 50_000_000)
    profile.time_unix_nano = 0
    profile.duration_nano = 0
    profile.samples.add(timestamps_unix_nano=[WINDOW.start_ns + 9, WINDOW.start_ns])
    (read,) = read_otlp(message.body()).profiles
    assert read.window == Window(WINDOW.start_ns, WINDOW.start_ns + 10)


def test_resource_attributes_are_labels_unless_they_mean_something_else() -> None:
    message = Foreign()
    scope = message.resource(
        deployment_environment="prod", process_pid=3, host_name="h", telemetry_sdk_name="otel", k8s_replicas=2
    )
    message.profile(scope, "samples", "count", 50_000_000).samples.add(values=[1])
    (read,) = read_otlp(message.body()).profiles
    assert read.host == "h"
    assert read.labels == {"deployment.environment": "prod", "k8s.replicas": "2"}


def test_strings_of_a_resource_may_be_in_the_dictionary() -> None:
    message = Foreign()
    added = message.request.resource_profiles.add()
    added.resource.attributes.append(
        KeyValue(
            key_strindex=message.string("host.name"),
            value=AnyValue(string_value_strindex=message.string("web-9")),
        )
    )
    profile = message.profile(added.scope_profiles.add(), "samples", "count", 50_000_000)
    profile.samples.add(values=[1])
    assert read_otlp(message.body()).profiles[0].host == "web-9"


def test_the_body_is_what_other_backends_expect() -> None:
    request = ExportProfilesServiceRequest.FromString(write_otlp(small_profile(), PushIdentity("a", 1, 2)))
    dictionary = request.dictionary
    for name in ("mapping", "location", "function", "link", "attribute", "stack"):
        table = getattr(dictionary, f"{name}_table")
        assert table[0] == type(table[0])()
        assert len({entry.SerializeToString(deterministic=True) for entry in table}) == len(table)
    assert dictionary.string_table[0] == ""
    assert len(set(dictionary.string_table)) == len(dictionary.string_table)
    resources = [
        {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
        for resource in request.resource_profiles
    ]
    assert resources == [
        {"host.name": "web-1", "service.name": "checkout", "container.id": "c" * 64, "env": "prod"},
        {"host.name": "web-1", "env": "prod"},
    ]
    profile = request.resource_profiles[0].scope_profiles[0].profiles[0]
    assert profile.period == round(1e9 / 99)
    assert [list(sample.values) for sample in profile.samples] == [[3], [2]]
    ids = [resource.scope_profiles[0].profiles[0].profile_id for resource in request.resource_profiles]
    assert [len(profile_id) for profile_id in ids] == [16, 16]
    assert ids[0] != ids[1]


def test_equal_locations_are_one_object_when_read() -> None:
    (read,) = read_otlp(write_otlp(small_profile())).profiles
    first, second = (sample.stack for sample in read.samples if sample.process == "cat")
    assert first[0] is second[1]


def test_json_is_read_like_protobuf_ids_in_hex_included() -> None:
    body = write_otlp(small_profile(), PushIdentity("agent", 3, 4))
    document = json_format.MessageToDict(ExportProfilesServiceRequest.FromString(body))
    for resource in document["resourceProfiles"]:
        for profile in resource["scopeProfiles"][0]["profiles"]:
            profile["profileId"] = base64.b64decode(profile["profileId"]).hex()[:31]  # no base64 at all
    document["dictionary"]["linkTable"].append({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "ee"})
    document["unheardOf"] = 1
    assert read_otlp_json(json.dumps(document).encode()) == read_otlp(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"resourceProfiles": 5}',
        b'{"resourceProfiles": [{"scopeProfiles": [{"profiles": [{"period": "x"}]}]}]}',
        b'{"dictionary": {"stringTable": [1]}}',
        b'{"dictionary": {"locationTable": [{"address": -1}]}}',
        b'{"dictionary": {"locationTable": [{"address": 1' + b"0" * 5000 + b"}]}}",
    ],
)
def test_json_that_is_no_request_is_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(ValueError, match="OTLP"):
        read_otlp_json(body)


def broken(change: Callable[[ExportProfilesServiceRequest], object]) -> bytes:
    request = ExportProfilesServiceRequest.FromString(write_otlp(small_profile()))
    change(request)
    return bytes(request.SerializeToString())


def first_profile(request: ExportProfilesServiceRequest) -> pb.Profile:
    profile: pb.Profile = request.resource_profiles[0].scope_profiles[0].profiles[0]
    return profile


def set_field(message: object, name: str, value: int) -> None:
    setattr(message, name, value)


@pytest.mark.parametrize("index", [-1, 1_000_000, -(1 << 31), (1 << 31) - 1])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r, i: set_field(first_profile(r).samples[0], "stack_index", i), "stack"),
        (lambda r, i: first_profile(r).samples[0].attribute_indices.append(i), "attribute"),
        (lambda r, i: first_profile(r).attribute_indices.append(i), "attribute"),
        (lambda r, i: r.dictionary.stack_table[1].location_indices.append(i), "location"),
        (lambda r, i: set_field(r.dictionary.location_table[1], "mapping_index", i), "mapping"),
        (lambda r, i: r.dictionary.location_table[1].attribute_indices.append(i), "attribute"),
        (lambda r, i: set_field(r.dictionary.location_table[1].lines[0], "function_index", i), "function"),
        (lambda r, i: set_field(r.dictionary.function_table[1], "name_strindex", i), "string"),
        (lambda r, i: set_field(r.dictionary.function_table[1], "system_name_strindex", i), "string"),
        (lambda r, i: set_field(r.dictionary.function_table[1], "filename_strindex", i), "string"),
        (lambda r, i: set_field(r.dictionary.mapping_table[1], "filename_strindex", i), "string"),
        (lambda r, i: r.dictionary.mapping_table[1].attribute_indices.append(i), "attribute"),
        (lambda r, i: set_field(r.dictionary.attribute_table[1], "key_strindex", i), "string"),
    ],
)
def test_an_index_out_of_range_is_refused(
    change: Callable[[ExportProfilesServiceRequest, int], None], what: str, index: int
) -> None:
    with pytest.raises(ValueError, match=f"refers to {what} {index}"):
        read_otlp(broken(lambda request: change(request, index)))


def with_attribute(key: str, value: AnyValue) -> Callable[[ExportProfilesServiceRequest], None]:
    def change(request: ExportProfilesServiceRequest) -> None:
        dictionary = request.dictionary
        dictionary.string_table.append(key)
        dictionary.attribute_table.add(key_strindex=len(dictionary.string_table) - 1, value=value)
        for holder in (first_profile(request), first_profile(request).samples[0], dictionary.location_table[1]):
            holder.attribute_indices.append(len(dictionary.attribute_table) - 1)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: first_profile(r).samples[0].values.__setitem__(0, -1), "below zero"),
        (lambda r: first_profile(r).samples[0].values.__setitem__(0, (1 << 63) - 1), "more than 64 bits"),
        (lambda r: first_profile(r).samples[0].timestamps_unix_nano.extend([1, 2]), "1 values at 2 timestamps"),
        (lambda r: set_field(first_profile(r), "duration_nano", (1 << 64) - 1), "year 2262"),
        (with_attribute("pilotlight.hz", AnyValue(int_value=0)), "pilotlight.hz"),
        (with_attribute("pilotlight.hz", AnyValue(string_value="99")), "pilotlight.hz"),
        (with_attribute("pilotlight.event", AnyValue(int_value=1)), "pilotlight.event"),
        (with_attribute("pilotlight.accounting.ticks", AnyValue(int_value=-5)), "accounting.ticks"),
        (with_attribute("pilotlight.accounting.lost.x", AnyValue(double_value=0.5)), "lost.x"),
        (with_attribute("pilotlight.cost.bpf_ns", AnyValue(bool_value=True)), "cost.bpf_ns"),
        (with_attribute("pilotlight.unwinding.whole", AnyValue(int_value=-1)), "unwinding.whole"),
        (with_attribute("pilotlight.unwinding.table\t/a", AnyValue(string_value="7")), "unwinding.table"),
        (with_attribute("pilotlight.unwinding.table\t/" + "a" * 40_000, AnyValue(int_value=1)), "40,0.. characters"),
        (with_attribute("process.pid", AnyValue(int_value=-1)), "process.pid"),
        (with_attribute("process.pid", AnyValue(string_value="7")), "process.pid"),
        (with_attribute("process.pid", AnyValue(int_value=1 << 40)), "process.pid"),
        (with_attribute("pilotlight.frame.kinds", AnyValue(string_value="wobbly")), "frame.kinds"),
        (with_attribute("pilotlight.frame.kinds", AnyValue(string_value="native,native,native")), "3 words"),
        (with_attribute("pilotlight.frame.reasons", AnyValue(string_value="because")), "frame.reasons"),
    ],
)
def test_a_number_or_word_that_cannot_be_is_refused(
    change: Callable[[ExportProfilesServiceRequest], object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_otlp(broken(change))


def test_half_an_identity_is_refused() -> None:
    def change(request: ExportProfilesServiceRequest) -> None:
        scope = request.resource_profiles[0].scope_profiles[0].scope
        scope.attributes.append(KeyValue(key="pilotlight.push.agent", value=AnyValue(string_value="a")))

    with pytest.raises(ValueError, match="pilotlight.push"):
        read_otlp(broken(change))


def test_accounting_that_does_not_fit_its_samples_is_replaced_and_that_is_said() -> None:
    received = read_otlp(broken(lambda request: first_profile(request).samples.pop()))
    (profile,) = received.profiles
    assert (profile.accounting.sampled, profile.accounting.ticks, profile.accounting.lost) == (4, 4, {})
    assert "6 samples where 4 came" in received.problem


def test_pushes_batched_by_a_collector_have_no_single_identity() -> None:
    request = ExportProfilesServiceRequest.FromString(write_otlp(small_profile(), PushIdentity("a", 1, 2)))
    for attribute in request.resource_profiles[1].scope_profiles[0].scope.attributes:
        if attribute.key == "pilotlight.push.sequence":
            attribute.value.int_value = 3
    received = read_otlp(request.SerializeToString())
    assert received.identity is None
    assert received.profiles[0].accounting == small_profile().accounting


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_a_body_cut_off_anywhere_is_read_or_refused_never_more(place: int) -> None:
    body = write_otlp(small_profile(), PushIdentity("a", 1, 2))
    read_or_refuse(body[: place % len(body)])


@settings(deadline=None, max_examples=400)
@given(st.randoms(use_true_random=False))
def test_a_damaged_body_is_read_or_refused_never_more(chance: random.Random) -> None:
    body = bytearray(write_otlp(small_profile(), PushIdentity("a", 1, 2)))
    for _ in range(chance.randint(1, 4)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    read_or_refuse(bytes(body))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_read_or_refused_never_more(body: bytes) -> None:
    read_or_refuse(body)


def read_or_refuse(body: bytes) -> None:
    try:
        received = read_otlp(body)
    except ValueError as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        for profile in received.profiles:
            assert profile.accounting.sampled == sum(sample.count for sample in profile.samples)


def test_a_body_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    for read in (read_otlp, read_otlp_json):
        with pytest.raises(ValueError, match="smaller batches"):
            read(bytes(MAX_BODY + 1))


@pytest.mark.parametrize("table", [1, 2, 3, 6, 7])
def test_millions_of_empty_entries_are_refused_before_they_are_decoded(table: int) -> None:
    entries = bytes([table << 3 | 2, 0]) * 1_000_000
    with pytest.raises(ValueError, match="empty entries"):
        read_otlp(b"\x12" + varint(len(entries)) + entries)


def test_too_many_json_objects_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_read, "MAX_OBJECTS", 10)
    with pytest.raises(ValueError, match="more than 10 JSON objects"):
        read_otlp_json(b'{"dictionary": {"locationTable": [' + b"{}," * 9 + b"{}]}}")


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def test_a_small_body_cannot_unfold_into_stacks_without_end() -> None:
    message = Foreign()
    location = message.location("native", 1, ("f",))
    profile = message.profile(message.resource(), "samples", "count", 50_000_000)
    profile.samples.add(values=[1], stack_index=message.stack(*[location] * (MAX_DEPTH + 1)))
    with pytest.raises(ValueError, match="frames, more than"):
        read_otlp(message.body())


def test_inlined_frames_count_towards_the_depth_of_a_stack() -> None:
    message = Foreign()
    location = message.location("native", 1, ("f",) * 100)
    profile = message.profile(message.resource(), "samples", "count", 50_000_000)
    profile.samples.add(values=[1], stack_index=message.stack(*[location] * 41))
    with pytest.raises(ValueError, match="4,100 frames"):
        read_otlp(message.body())


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("MAX_SAMPLES", "more than 2 samples"),
        ("MAX_FRAMES", "more than 2 frames"),
        ("MAX_TEXT", "or 2 characters"),
    ],
)
def test_what_all_samples_unfold_into_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, sentence: str) -> None:
    monkeypatch.setattr(otlp_read, limit, 2)
    with pytest.raises(ValueError, match=sentence):
        read_otlp(write_otlp(small_profile()))


@pytest.mark.parametrize("many", ["resources", "scopes", "profiles"])
def test_too_many_profiles_resources_or_scopes_are_refused(monkeypatch: pytest.MonkeyPatch, many: str) -> None:
    monkeypatch.setattr(otlp_read, "MAX_PROFILES", 5)
    numbers = {"resources": 1, "scopes": 1, "profiles": 1, many: 6}
    request = ExportProfilesServiceRequest()
    for _ in range(numbers["resources"]):
        resource = request.resource_profiles.add()
        for _ in range(numbers["scopes"]):
            scope = resource.scope_profiles.add()
            for _ in range(numbers["profiles"]):
                scope.profiles.add()
    with pytest.raises(ValueError, match="more than 5 profiles, resources or scopes"):
        read_otlp(request.SerializeToString())


def test_a_java_line_below_zero_is_no_line() -> None:
    message = Foreign()
    location = message.location("jvm", 1, ("Unsafe.park",))
    message.dictionary.location_table[location].lines[0].line = -2
    profile = message.profile(message.resource(), "samples", "count", 50_000_000)
    profile.samples.add(values=[1], stack_index=message.stack(location))
    (read,) = read_otlp(message.body()).profiles
    assert read.samples[0].stack[0].frames == (Frame("Unsafe.park", Kind.JIT),)


numbers = st.integers(0, (1 << 63) - 1)
texts = st.sampled_from(["", "a", "libc.so.6", "\udcff", "é" * 100, "x" * 70_000])
frames = st.builds(Frame, texts, st.sampled_from([Kind.NATIVE, Kind.KERNEL, Kind.JIT]), texts, texts, numbers)
places = st.builds(
    Location,
    st.integers(0, (1 << 64) - 1),
    st.none() | st.builds(Binary, texts, st.sampled_from(["", "00ff", "content:1"])),
    st.lists(frames, min_size=1, max_size=3).map(tuple),
)
samples = st.builds(
    Sample, st.lists(places, max_size=4).map(tuple), st.integers(0, (1 << 32) - 1), texts, texts, numbers, texts
)


@settings(deadline=None, max_examples=200)
@given(st.lists(samples, max_size=5).map(tuple), numbers, numbers)
def test_the_body_is_to_the_byte_what_the_library_makes_of_the_same_message(
    written: tuple[Sample, ...], start: int, more: int
) -> None:
    """So every field has its number, type and order, none is written that holds its default, and no length lies."""
    profile = replace(small_profile(), samples=written, window=Window(start, start + more))
    body = write_otlp(profile, PushIdentity("a", 1, 2))
    assert ExportProfilesServiceRequest.FromString(body).SerializeToString(deterministic=True) == body


@pytest.mark.parametrize(
    "change",
    [
        {"window": Window(1 << 64, (1 << 64) + 1)},
        {"window": Window(5, 4)},
        {"samples": (Sample((), 1, "a", "a", 1 << 63),)},
        {"samples": (Sample((Location(1 << 64, None, (Frame("f", Kind.NATIVE),)),), 1, "a", "a", 1),)},
        {"accounting": Accounting(expected=1 << 63)},
        {"accounting": Accounting(expected=-(1 << 63) - 1)},
    ],
)
def test_a_number_that_the_format_cannot_hold_is_refused_in_a_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        write_otlp(replace(small_profile(), **change))


def test_numbers_below_zero_are_written_as_they_are() -> None:
    accounting = replace(small_profile().accounting, expected=-3)
    body = write_otlp(replace(small_profile(), accounting=accounting))
    request = ExportProfilesServiceRequest.FromString(body)
    values = {
        request.dictionary.string_table[attribute.key_strindex]: attribute.value.int_value
        for attribute in request.dictionary.attribute_table
    }
    assert values["pilotlight.accounting.expected"] == -3


def test_how_stacks_were_walked_is_carried_by_attributes_of_the_first_profile() -> None:
    unwinding = Unwinding(
        5, 2, {"no unwind information": 3}, {"/opt/a\tb": Passage(9, 8, {"no unwind information": 3}), "/c": Passage(4)}
    )
    profile = small_profile()
    profile = replace(profile, accounting=replace(profile.accounting, unwinding=unwinding))
    body = write_otlp(profile)
    (read,) = read_otlp(body).profiles
    assert read.accounting == profile.accounting
    dictionary = ExportProfilesServiceRequest.FromString(body).dictionary
    values = {
        dictionary.string_table[attribute.key_strindex]: attribute.value.int_value
        for attribute in dictionary.attribute_table
    }
    assert values["pilotlight.unwinding.whole"] == 5
    assert values["pilotlight.unwinding.no unwind information"] == 3
    assert values["pilotlight.unwinding.frame pointer\t/opt/a\tb"] == 8


def accounts(each: int, profiles: int) -> Foreign:
    """Profiles without samples, each with the unwinding of as many binaries of its own."""
    message = Foreign()
    scope = message.resource(host_name="h")
    common = [
        message.attribute("pilotlight.event", "cpu-clock"),
        message.attribute("pilotlight.hz", 99),
        message.attribute("pilotlight.accounting.sampled", 0),
    ]
    for number in range(profiles):
        own = [message.attribute(f"pilotlight.unwinding.table\t/{number}/{i}", 1) for i in range(each)]
        message.profile(scope, "samples", "count").attribute_indices.extend(common + own)
    return message


def test_accounts_are_added_up_and_their_reasons_are_bounded() -> None:
    (profile,) = read_otlp(accounts(100, 10).body()).profiles
    assert len(profile.accounting.unwinding.binaries) == otlp_read.MAX_REASONS == 1000
    for each, profiles in ((1001, 1), (91, 11)):
        with pytest.raises(ValueError, match="more than 1,000 reasons and binaries"):
            read_otlp(accounts(each, profiles).body())
