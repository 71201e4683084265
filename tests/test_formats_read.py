"""Any file is read by its content: what each format gives, and what is refused with which sentence."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceRequest

from profiler.formats import read
from profiler.formats.folded import write_differential, write_folded
from profiler.formats.json import write_json
from profiler.formats.otlp import write_otlp
from profiler.formats.pprof import write_pprof
from profiler.formats.read import profiles_of, read_file
from profiler.formats.speedscope import write_speedscope
from profiler.model import Accounting, Profile, Sample, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location

MAIN = Location(0x10, Binary("/bin/app", "00ff"), (Frame("main", Kind.NATIVE, "", "main.c", 3),))
LEAF = Location(0x20, Binary("/bin/app", "00ff"), (Frame("leaf", Kind.NATIVE),))
PROFILE = Profile(
    "web-1",
    "cpu-clock",
    99,
    Window(10**18, 10**18 + 10**10),
    (Sample((LEAF, MAIN), 7, "app", "pool", 3), Sample((MAIN,), 7, "app", "app", 4)),
    Accounting(12, 12, 5, 0, 7, frames_named=10),
    {"env": "prod"},
)


def as_otlp_json(profile: Profile) -> bytes:
    request = ExportProfilesServiceRequest.FromString(write_otlp(profile))
    return str(json_format.MessageToJson(request)).encode()


WRITTEN = {
    "pprof": write_pprof(PROFILE),
    "pilotlight's JSON": write_json(PROFILE),
    "speedscope": write_speedscope(PROFILE),
    "OTLP profiles": write_otlp(PROFILE),
    "folded stacks": write_folded(PROFILE),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_is_known_by_its_content_gzipped_or_not(name: str) -> None:
    for data in (WRITTEN[name], gzip.compress(WRITTEN[name])):
        file = read_file(data)
        assert file.format == name
        assert sum(profile.accounting.sampled for profile in profiles_of(file)) == 7


def test_what_has_a_place_for_everything_gives_everything_back() -> None:
    assert read_file(WRITTEN["pilotlight's JSON"]).profiles == (PROFILE,)
    assert read_file(WRITTEN["pprof"]).profiles == (PROFILE,)
    assert read_file(WRITTEN["OTLP profiles"]).profiles == (PROFILE,)
    assert read_file(as_otlp_json(PROFILE)).profiles == (PROFILE,)


def test_speedscope_gives_names_kinds_threads_and_the_account_back() -> None:
    file = read_file(WRITTEN["speedscope"])
    (profile,) = file.profiles
    assert file.problems == ()
    assert profile.accounting == PROFILE.accounting and profile.labels == PROFILE.labels and profile.hz == 99
    assert Counter((s.process, s.thread, s.count) for s in profile.samples) == {
        ("app", "pool", 3): 1,
        ("app", "app", 4): 1,
    }


def test_an_account_is_made_where_there_is_none_and_closes() -> None:
    (profile,) = profiles_of(read_file(WRITTEN["folded stacks"]))
    assert profile.accounting.closes and profile.accounting.ticks == profile.accounting.sampled == 7


def speedscope(*profiles: dict[str, Any], frames: tuple[str, ...] = ("main", "a", "b")) -> bytes:
    return json.dumps({"shared": {"frames": [{"name": name} for name in frames]}, "profiles": profiles}).encode()


def stacks(profile: Profile) -> dict[tuple[str, ...], int]:
    table = stack_table(profile)
    found: Counter[tuple[str, ...]] = Counter()
    for start, end, count in zip(table.offsets[:-1], table.offsets[1:], table.counts.tolist(), strict=True):
        found[tuple(table.frames[j].function for j in table.index[start:end])] += count
    return dict(found)


def evented(*events: tuple[str, float, int], unit: str = "milliseconds", **more: Any) -> dict[str, Any]:
    described = [{"type": kind, "at": at, "frame": frame} for kind, at, frame in events]
    return {"type": "evented", "name": "t", "unit": unit, "startValue": 0, "endValue": 9, "events": described} | more


def test_evented_profiles_become_the_time_between_their_events() -> None:
    events = (("O", 0, 0), ("O", 1, 1), ("C", 3.5, 1), ("O", 3.5, 2), ("C", 4, 2), ("C", 6, 0))
    (profile,) = read_file(speedscope(evented(*events))).profiles
    assert (profile.event, profile.hz) == ("time", 1_000_000)
    assert stacks(profile) == {("main",): 3000, ("main", "a"): 2500, ("main", "b"): 500}


def test_several_speedscope_profiles_of_one_unit_are_threads_of_one_profile() -> None:
    of = {"type": "sampled", "unit": "none", "startValue": 0, "endValue": 1}
    file = read_file(
        speedscope(
            {**of, "name": "one", "samples": [[0, 1], [0]], "weights": [2, 1]},
            {**of, "name": "two", "samples": [[0, 1]], "weights": [5]},
            {**of, "name": "heap", "unit": "bytes", "samples": [[0]], "weights": [4096]},
        )
    )
    samples, heap = file.profiles
    assert stacks(samples) == {("one", "main", "a"): 2, ("one", "main"): 1, ("two", "main", "a"): 5}
    assert (heap.event, stacks(heap)) == ("memory:bytes", {("main",): 4096})


def test_fractions_of_weights_are_rounded_so_that_the_sum_stays() -> None:
    profile = {"type": "sampled", "unit": "none", "name": "", "samples": [[0]] * 10, "weights": [0.5] * 10}
    file = read_file(speedscope(profile))
    assert file.profiles[0].accounting.sampled == 5
    assert any("rounded" in problem for problem in file.problems)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (speedscope(evented(("O", 0, 0))), "never ends"),
        (speedscope(evented(("O", 0, 0), ("C", 1, 1))), "not the innermost"),
        (speedscope(evented(("O", 5, 0), ("C", 1, 0))), "at 1 comes after that at 5"),
        (speedscope(evented(("O", 0, 9), ("C", 1, 9))), "frame that is not there"),
        (speedscope({"type": "sampled", "samples": [[0]], "weights": []}), "1 samples and 0 weights"),
        (speedscope({"type": "sampled", "samples": [[0]], "weights": [-1]}), "weight of 0 or more"),
        (speedscope({"type": "sampled", "samples": [[0]], "weights": [float("nan")]}), "weight of 0 or more"),
        (speedscope({"type": "sampled", "samples": [["0"]], "weights": [1]}), "number is expected"),
        (speedscope({"type": "sampled"}), "there is no 'samples'"),
        (speedscope(), "no profile"),
        (b'{"shared": 5, "profiles": []}', "damaged"),
        (b"", "the file is empty"),
        (b"  \n\n", "the file is empty"),
        (b"PERFILE2" + bytes(100), "perf script -i FILE"),
        (b"\x7fELF\x02", "a program"),
        (b"<?xml version='1.0'?><svg/>", "cannot be read back"),
        (b"PK\x03\x04", "zip"),
        (b'{"a": 1}', "Readable are folded stacks"),
        (b"[1, 2]", "Readable are folded stacks"),
        (b'{"a": ', "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"once upon a time\nthere was no profile\n", "no folded stacks found: line 1"),
        (WRITTEN["pprof"][:-9], "cut off"),
        (b"\x1f\x8b" + b"\xff" * 30, "gzip data is damaged"),
        (b"\x0a\x00\x00\xff", "OTLP"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_file(data)


def test_a_gzip_bomb_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="larger than 1 MB when unzipped"):
        read_file(gzip.compress(bytes(1 << 22)), max_unpacked=1 << 20)
    with pytest.raises(ValueError, match="larger than 1 MB when unzipped"):
        read_file(gzip.compress(gzip.compress(bytes(1 << 22))), max_unpacked=1 << 20)


def test_json_of_brackets_alone_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_OBJECTS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 objects"):
        read_file(b'{"a":[' + b"[]," * 1000 + b"[]]}")


def test_differential_stacks_are_two_tables() -> None:
    file = read_file(b"a;b 1 2\na;c 0 3\r\n# a comment\nd 5 0\n")
    before, after = file.tables
    assert file.format == "differential folded stacks"
    assert int(before.counts.sum()) == 6 and int(after.counts.sum()) == 5
    assert write_differential(before, after) == b"a;b 1 2\na;c 0 3\nd 5 0\n"


def test_names_that_look_like_other_formats_stay_folded_stacks() -> None:
    for text in (b"{main};f 3\n", b"[unnamed] 1\n", b"a;b 1 2\na;c 3\n", b"# comment\nf 12\n"):
        assert read_file(text).format == "folded stacks"


def test_a_differential_file_that_stops_being_one_names_the_line() -> None:
    text = b"a;b 1 2\n" * 20_000 + b"a;b 3\n"
    with pytest.raises(ValueError, match="line 20001 should read name;name;name BEFORE AFTER"):
        read_file(text)


NASTY = st.one_of(
    st.sampled_from(["", ";", "a 1", "a 1 2", "b\n", "<script>", "\x00\x1b", "\udcff", "_[k]", "x" * 100_000]),
    st.text(st.characters(exclude_categories=()), max_size=8),
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.lists(NASTY, min_size=1, max_size=4).map(tuple), st.integers(1, 1 << 40), max_size=6))
def test_names_and_totals_survive_speedscope_and_folded_whatever_they_are(found: dict[tuple[str, ...], int]) -> None:
    profile = Profile(
        "h",
        "cpu-clock",
        99,
        Window(0, 10),
        tuple(
            Sample(tuple(Location(0, None, (Frame(name, Kind.NATIVE),)) for name in reversed(stack)), 0, "", "", count)
            for stack, count in found.items()
        ),
        Accounting(ticks=sum(found.values()), sampled=sum(found.values())),
    )
    expected = {tuple(name or "[unnamed]" for name in stack): 0 for stack in found}
    for stack, count in found.items():
        expected[tuple(name or "[unnamed]" for name in stack)] += count
    for data in (write_speedscope(profile), write_folded(profile)):
        if found:
            assert stacks(profiles_of(read_file(data))[0]) == expected


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_noise_is_read_or_refused_never_more(data: bytes) -> None:
    try:
        read_file(data)
    except ValueError as error:
        assert str(error)


def test_what_is_no_time_keeps_its_unit_in_every_format_that_has_units() -> None:
    heap = replace(PROFILE, event="alloc_space:bytes", hz=1)
    for data in (write_pprof(heap), write_otlp(heap), write_json(heap), write_speedscope(heap)):
        (profile,) = read_file(data).profiles
        assert (profile.event, profile.hz, profile.accounting) == ("alloc_space:bytes", 1, heap.accounting)
    assert json.loads(write_speedscope(heap))["profiles"][0]["unit"] == "bytes"
    request = ExportProfilesServiceRequest.FromString(write_otlp(heap))
    strings = request.dictionary.string_table
    sent = request.resource_profiles[0].scope_profiles[0].profiles[0]
    assert (strings[sent.sample_type.type_strindex], strings[sent.sample_type.unit_strindex]) == (
        "alloc_space",
        "bytes",
    )
    assert sent.period == 0
