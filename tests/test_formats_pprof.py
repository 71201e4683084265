"""pprof files of others are read, and damaged ones are told in a sentence."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.formats import pprof
from profiler.formats.pprof import read_pprof, write_pprof
from profiler.model import Accounting, Profile, Sample, StackTable, Window
from symbolizer.types import Binary, Frame, Kind, Location, Reason

MESSAGE: Any = pprof._Message
WINDOW = Window(1_763_683_200_000_000_000, 1_763_683_210_000_000_000)


def profile_of(*samples: Sample, hz: int = 99) -> Profile:
    total = sum(sample.count for sample in samples)
    accounting = Accounting(total + 3, total + 2, 1, 0, total, {"stack map full": 1}, total)
    return Profile("web-1", "cpu-clock", hz, WINDOW, samples, accounting, {"env": "prod"})


def location(name: str, path: str = "/bin/app", kind: Kind = Kind.NATIVE, address: int = 1) -> Location:
    return Location(address, Binary(path, "00ff"), (Frame(name, kind),))


def decoded(data: bytes) -> Any:
    return MESSAGE.FromString(gzip.decompress(data))


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
    table = read_pprof(write_pprof(profile_of(Sample(stack, 1, "app", "pool", 1))))
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
        table = read_pprof(data)
        assert (table.counts.tolist(), names(table)) == ([count], [["f"]])


def test_a_location_without_lines_is_an_unknown_frame_of_its_mapping() -> None:
    message = foreign(("samples", "count"))
    message.string_table.append("/lib/libx.so")
    message.mapping.add(id=1, filename=len(message.string_table) - 1)
    message.location.add(id=6, mapping_id=1, address=4)
    message.location.add(id=7, address=4)
    message.sample[0].location_id.extend([6, 7])
    table = read_pprof(message.SerializeToString())
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
    monkeypatch.setattr(pprof, "MAX_DECODED", 1 << 20)
    with pytest.raises(ValueError, match="larger than 1 MB"):
        read_pprof(gzip.compress(bytes(1 << 22)))


def test_few_bytes_cannot_unfold_into_frames_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pprof, "MAX_FRAMES", 10)
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
