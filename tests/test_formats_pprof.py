"""pprof files of others are read, and damaged ones are told in a sentence."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.event_names import unit_of
from profiler.formats import pprof_read
from profiler.formats.pprof import Message as MESSAGE
from profiler.formats.pprof import write_pprof
from profiler.formats.pprof_read import read_pprof
from profiler.model import Accounting, Profile, Sample, StackTable, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location, Reason

WINDOW = Window(1_763_683_200_000_000_000, 1_763_683_210_000_000_000)


def profile_of(*samples: Sample, hz: int = 99) -> Profile:
    total = sum(sample.count for sample in samples)
    accounting = Accounting(total + 3, total + 2, 1, 0, total, {"stack map full": 1}, total)
    return Profile("web-1", "cpu-clock", hz, WINDOW, samples, accounting, {"env": "prod"})


def location(name: str, path: str = "/bin/app", kind: Kind = Kind.NATIVE, address: int = 1) -> Location:
    return Location(address, Binary(path, "00ff"), (Frame(name, kind),))


def decoded(data: bytes) -> Any:
    return MESSAGE.FromString(gzip.decompress(data))


def first(data: bytes) -> StackTable:
    return stack_table(read_pprof(data).profiles[0])


def names(table: StackTable) -> list[list[str]]:
    return [
        [table.frames[j].function for j in table.index[table.offsets[i] : table.offsets[i + 1]]]
        for i in range(len(table.counts))
    ]


@pytest.mark.parametrize("hz", [1, 7, 49, 99, 997, 9_999])
def test_nanoseconds_add_up_to_those_of_all_samples_together(hz: int) -> None:
    samples = tuple(Sample((location(f"f{i}", address=i),), i, "p", "p", 1 + i % 5) for i in range(200))
    profile = profile_of(*samples, hz=hz)
    values = [tuple(sample.value) for sample in decoded(write_pprof(profile)).sample]
    total = sum(sample.count for sample in samples)
    assert sum(count for count, _ in values) == total
    assert sum(nanoseconds for _, nanoseconds in values) == round(total * 10**9 / hz)
    assert all(abs(nanoseconds - count * 1e9 / hz) <= 1 for count, nanoseconds in values)


def test_the_message_says_where_every_tick_went_for_people_and_machines() -> None:
    message = decoded(write_pprof(profile_of(Sample((), 1, "p", "p", 4))))
    lines = [message.string_table[index] for index in message.comment]
    assert lines[:2] == [
        "web-1: cpu-clock at 99 Hz for 10 s",
        "ticks: 6 = 1 idle + 0 filtered + 4 shown + 1 lost (1 stack map full); 1 of 7 expected were missed",
    ]
    machine = json.loads(lines[-1].removeprefix("pilotlight: "))
    assert machine["accounting"]["sampled"] == 4
    assert machine["labels"] == {"env": "prod"}


def test_the_first_mapping_is_the_file_that_most_samples_were_in() -> None:
    kernel, libc = location("sys_read", "[kernel]", Kind.KERNEL), location("read", "/lib/libc.so")
    profile = profile_of(
        Sample((kernel, libc), 1, "p", "p", 50),
        Sample((libc,), 1, "p", "p", 2),
        Sample((location("f"), libc), 1, "p", "p", 5),
    )
    message = decoded(write_pprof(profile))
    paths = [message.string_table[mapping.filename] for mapping in message.mapping]
    assert paths[0] == "/bin/app"
    assert sorted(paths) == ["/bin/app", "/lib/libc.so", "[kernel]"]
    assert [message.string_table[mapping.build_id] for mapping in message.mapping] == ["00ff"] * 3


def test_kinds_are_read_from_mappings_lines_and_brackets() -> None:
    stack = (
        location("sys_read", "[kernel]", Kind.KERNEL),
        location("clock_gettime", "[vdso]", Kind.VDSO),
        Location(2, Binary("/bin/app"), (Frame("min", Kind.INLINED), Frame("main", Kind.NATIVE))),
        Location(3, None, (Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),)),
    )
    table = first(write_pprof(profile_of(Sample(stack, 1, "app", "pool", 1))))
    frames = [table.frames[i] for i in table.index]
    assert [(frame.function, frame.kind, frame.reason) for frame in frames] == [
        ("app", Kind.PROCESS, None),
        ("pool", Kind.THREAD, None),
        ("[no mapping]", Kind.UNKNOWN, Reason.NO_MAPPING),
        ("main", Kind.NATIVE, None),
        ("min", Kind.INLINED, None),
        ("clock_gettime", Kind.VDSO, None),
        ("sys_read", Kind.KERNEL, None),
    ]
    assert [table.binaries[i] for i in table.index] == ["", "", "", "/bin/app", "/bin/app", "[vdso]", "[kernel]"]


def foreign(*types: tuple[str, str], default: str = "") -> Any:
    """A message with one sample, of a function without a mapping, whose values are 10, 20, …"""
    message = MESSAGE()
    strings = ["", "f", *[word for pair in types for word in pair]]
    message.string_table.extend(strings)
    for name, unit in types:
        message.sample_type.add(type=strings.index(name), unit=strings.index(unit))
    if default:
        message.default_sample_type = strings.index(default)
    message.function.add(id=77, name=1)
    message.location.add(id=5).line.add(function_id=77, line=3)
    message.sample.add(location_id=[5], value=[10 * (i + 1) for i in range(len(types))])
    return message


@pytest.mark.parametrize(
    ("types", "default", "count"),
    [
        ((("samples", "count"), ("cpu", "nanoseconds")), "", 10),
        ((("cpu", "nanoseconds"), ("samples", "count")), "cpu", 20),
        ((("alloc_space", "bytes"), ("inuse_space", "bytes")), "", 20),
        ((("alloc_space", "bytes"), ("inuse_space", "bytes")), "alloc_space", 10),
    ],
)
def test_the_value_read_is_samples_or_else_the_default(
    types: tuple[tuple[str, str], ...], default: str, count: int
) -> None:
    message = foreign(*types, default=default)
    for data in (message.SerializeToString(), gzip.compress(message.SerializeToString())):
        table = first(data)
        assert (table.counts.tolist(), names(table)) == ([count], [["f"]])


def test_a_location_without_lines_is_an_unknown_frame_of_its_mapping() -> None:
    message = foreign(("samples", "count"))
    message.string_table.append("/lib/libx.so")
    message.mapping.add(id=1, filename=len(message.string_table) - 1)
    message.location.add(id=6, mapping_id=1, address=4)
    message.location.add(id=7, address=4)
    message.sample[0].location_id.extend([6, 7])
    table = first(message.SerializeToString())
    assert names(table) == [["[no mapping]", "[libx.so: no symbols]", "f"]]
    assert [frame.reason for frame in table.frames] == [Reason.NO_MAPPING, Reason.NO_SYMBOLS, None]


def damaged(field: str) -> bytes:
    message = foreign(("samples", "count"))
    match field:
        case "location":
            message.sample[0].location_id.append(99)
        case "function":
            message.location[0].line[0].function_id = 98
        case "mapping":
            message.location[0].mapping_id = 97
        case "string":
            message.function[0].name = -1
        case "value":
            message.sample[0].value.append(1)
        case "zero":
            message.sample[0].value[0] = -1
        case "types":
            message.ClearField("sample_type")
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (damaged("location"), "there is no location 99"),
        (damaged("function"), "there is no function 98"),
        (damaged("mapping"), "there is no mapping 97"),
        (damaged("string"), "string -1"),
        (damaged("value"), "one value for each type"),
        (damaged("zero"), "below zero"),
        (damaged("types"), "no sample types"),
        (b"", "no sample types"),
        (b"\xff" * 20, "not a pprof profile"),
        (b"\x1f\x8b" + b"\xff" * 20, "gzip data is damaged"),
        (gzip.compress(damaged("types"))[:-9], "cut off"),
    ],
)
def test_damage_is_told_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_pprof(data)


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pprof_read, "MAX_DECODED", 1 << 20)
    with pytest.raises(ValueError, match="larger than 1 MB"):
        read_pprof(gzip.compress(bytes(1 << 22)))


def test_few_bytes_cannot_unfold_into_frames_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pprof_read, "MAX_FRAMES", 10)
    message = foreign(("samples", "count"))
    message.sample[0].location_id.extend([5] * 10)
    with pytest.raises(ValueError, match="more than 10 frames"):
        read_pprof(message.SerializeToString())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_read_or_refused_never_more(data: bytes) -> None:
    try:
        read_pprof(data)
    except ValueError as error:
        assert str(error)


def with_period(message: Any, name: str, unit: str, period: int) -> bytes:
    for word in (name, unit):
        if word not in message.string_table:
            message.string_table.append(word)
    strings = list(message.string_table)
    message.period_type.type, message.period_type.unit = strings.index(name), strings.index(unit)
    message.period = period
    return bytes(message.SerializeToString())


def events(data: bytes) -> list[tuple[str, int, int]]:
    return [(profile.event, profile.hz, profile.accounting.sampled) for profile in read_pprof(data).profiles]


def test_a_count_and_the_time_it_stands_for_are_one_profile() -> None:
    message = foreign(("samples", "count"), ("cpu", "nanoseconds"))
    message.sample[0].value[:] = [10, 100_000_000]
    assert events(with_period(message, "cpu", "nanoseconds", 10_000_000)) == [("cpu-clock", 100, 10)]


def test_wall_time_is_no_time_on_the_cpu() -> None:
    message = foreign(("sample", "count"), ("wall", "nanoseconds"))
    message.sample[0].value[:] = [10, 100_000_000]
    assert events(with_period(message, "wall", "nanoseconds", 10_000_000)) == [("wall", 100, 10)]


def test_every_sample_type_of_a_heap_profile_is_a_profile_with_its_unit() -> None:
    message = foreign(
        ("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")
    )
    assert events(with_period(message, "space", "bytes", 524_288)) == [
        ("inuse_space:bytes", 1, 40),
        ("alloc_objects:count", 1, 10),
        ("alloc_space:bytes", 1, 20),
        ("inuse_objects:count", 1, 30),
    ]
    assert [unit_of(profile.event) for profile in read_pprof(message.SerializeToString()).profiles] == [
        "bytes",
        "alloc_objects",
        "bytes",
        "inuse_objects",
    ]


def test_contentions_are_counts_and_their_delay_is_time() -> None:
    message = foreign(("contentions", "count"), ("delay", "nanoseconds"))
    message.sample[0].value[:] = [3, 5_000_000]
    found = events(with_period(message, "contentions", "count", 1))
    assert found == [("delay", 1_000_000, 5000), ("contentions:count", 1, 3)]


def test_the_account_of_others_closes_and_says_that_it_is_assumed() -> None:
    message = foreign(("samples", "count"))
    message.string_table.extend(["comm", "x", "pid"])
    comm, x, pid = range(len(message.string_table) - 3, len(message.string_table))
    message.sample[0].label.add(key=comm, str=x)
    message.sample[0].label.add(key=pid, num=7)
    message.time_nanos, message.duration_nanos = 10**18, 10**10
    read = read_pprof(message.SerializeToString(), "web-1")
    (profile,) = read.profiles
    assert profile.accounting == Accounting(10, 10, 0, 0, 10, frames_named=10) and profile.accounting.closes
    assert (profile.host, profile.window, profile.samples[0].pid) == ("web-1", Window(10**18, 10**18 + 10**10), 7)
    assert any("does not say where its ticks went" in problem for problem in read.problems)
    assert "Labels of samples were left out: comm." in read.problems


def test_our_own_heading_is_not_believed_where_it_does_not_fit() -> None:
    message = decoded(write_pprof(profile_of(Sample((location("f"),), 1, "p", "p", 4))))
    message.sample[0].value[0] = 5
    read = read_pprof(message.SerializeToString())
    assert read.profiles[0].accounting.sampled == 5
    assert "its accounting speaks of 4 samples, but it holds 5" in read.problems[0]


def test_what_is_no_time_is_written_with_its_own_type_and_read_back() -> None:
    samples = (Sample((location("f"),), 1, "p", "p", 4096),)
    profile = Profile("h", "alloc_space:bytes", 1, WINDOW, samples, Accounting(4096, 4096, 0, 0, 4096))
    message = decoded(write_pprof(profile))
    types = [(message.string_table[of.type], message.string_table[of.unit]) for of in message.sample_type]
    assert types == [("alloc_space", "bytes")] and list(message.sample[0].value) == [4096]
    assert read_pprof(write_pprof(profile)).profiles == (profile,)


def test_a_pid_that_cannot_be_one_is_told() -> None:
    message = foreign(("samples", "count"))
    message.string_table.append("pid")
    message.sample[0].label.add(key=len(message.string_table) - 1, num=-3)
    with pytest.raises(ValueError, match="pid -3"):
        read_pprof(message.SerializeToString())
