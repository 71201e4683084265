"""What every format has to keep of any profile, whatever its names and numbers are."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.formats.by_extension import WRITERS, writer_for
from profiler.formats.folded import read_folded, write_folded
from profiler.formats.json import read_json, write_json
from profiler.formats.names import encodable
from profiler.formats.otlp import PushIdentity, read_otlp, write_otlp
from profiler.formats.pprof import Message, write_pprof
from profiler.formats.pprof_read import read_pprof
from profiler.formats.speedscope import write_speedscope
from profiler.model import Accounting, Cost, Passage, Profile, Sample, StackTable, Unwinding, Window, stack_table
from symbolizer.types import Binary, Frame, Kind, Location, Reason

NASTY = (
    "",
    " ",
    ";",
    "a;b",
    "a\nb",
    "a\r",
    "foo 12",
    "foo 12 3.5",
    "12",
    "operator()(int) 7",
    "name_[k]",
    "name_[i]",
    "\\x3b",
    "\\u003b\\",
    "App\\Models\\x",
    "<script>alert(1)</script>",
    "# comment",
    "\x00\x1b[31m",
    "\u202egnp\u2028",
    "\udcff\ud800",
    "[libfoo.so: no symbols]",
    "std::vector<int, std::allocator<int> >::push_back(int const&)",
    "x" * 100_000,
)
names = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=()), max_size=12))
words = st.text(max_size=12)
numbers = st.integers(0, 1 << 40)
paths = names.filter(lambda name: len(name) < 5000)  # the kernel's have 4,096 bytes at most
FATES = ("whole", "unchecked", "table", "frame pointer")
code_kinds = st.sampled_from([kind for kind in Kind if kind not in (Kind.PROCESS, Kind.THREAD, Kind.UNKNOWN)])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    if draw(st.integers(0, 4)) == 0:
        return Frame(draw(names), Kind.UNKNOWN, reason=draw(st.sampled_from(Reason)))
    function = draw(names)
    system_name = draw(st.one_of(st.just(""), names).filter(lambda name: name != function))
    return Frame(function, draw(code_kinds), system_name, draw(names), draw(st.integers(0, 1 << 31)))


binaries = st.builds(Binary, names, st.sampled_from(["", "00ff" * 10, "content:12ab", "?"]))
locations = st.builds(
    Location,
    st.integers(0, (1 << 64) - 1),
    st.one_of(st.none(), binaries),
    st.lists(frames(), min_size=1, max_size=3).map(tuple),
)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    pool = draw(st.lists(locations, min_size=1, max_size=6))
    stacks = st.lists(st.sampled_from(pool), max_size=8).map(tuple)
    samples = draw(
        st.lists(
            st.builds(
                Sample,
                stacks,
                st.integers(0, (1 << 32) - 1),
                names,
                names,
                st.integers(1, 1 << 28),
                st.sampled_from(["", "checkout", "a;b"]),
                st.sampled_from(["", "f" * 64]),
                st.sampled_from(["", "AMD EPYC", "i7 (efficiency core)"]),
            ),
            max_size=8,
        )
    )
    counted = st.integers(1, 1 << 40)
    reasons = st.dictionaries(words.filter(lambda word: word not in FATES and "\t" not in word), counted, max_size=3)
    passages = st.builds(Passage, counted, st.integers(0, 1 << 40), reasons)
    start = draw(st.integers(1, 1 << 62))
    return Profile(
        draw(words),
        draw(words),
        draw(st.integers(1, 10_000)),
        Window(start, start + draw(st.integers(0, 1 << 40))),
        tuple(samples),
        Accounting(
            draw(numbers),
            draw(numbers),
            draw(numbers),
            draw(numbers),
            sum(sample.count for sample in samples),
            draw(st.dictionaries(words, numbers, max_size=3)),
            draw(numbers),
            draw(st.dictionaries(words, numbers, max_size=3)),
            draw(st.builds(Cost, numbers, numbers, numbers, numbers, numbers)),
            Unwinding(draw(numbers), draw(numbers), draw(reasons), draw(st.dictionaries(paths, passages, max_size=3))),
        ),
        draw(
            st.dictionaries(
                st.one_of(words, st.sampled_from(["host.name", "process.pid", "pilotlight.label.a", ""])),
                words,
                max_size=3,
            )
        ),
    )


def thorough(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def spelled(frame: Frame) -> Frame:
    return Frame(
        encodable(frame.function),
        frame.kind,
        encodable(frame.system_name),
        encodable(frame.file),
        frame.line,
        frame.reason,
    )


def as_utf8(profile: Profile) -> Profile:
    """The profile with all names as UTF-8 can hold them."""

    def location(found: Location) -> Location:
        binary = found.binary and Binary(encodable(found.binary.path), found.binary.build_id)
        return Location(found.address, binary, tuple(spelled(frame) for frame in found.frames))

    accounting = profile.accounting
    binaries = {encodable(path): passage for path, passage in accounting.unwinding.binaries.items()}
    return replace(
        profile,
        accounting=replace(accounting, unwinding=replace(accounting.unwinding, binaries=binaries)),
        samples=tuple(
            replace(
                sample,
                stack=tuple(location(found) for found in sample.stack),
                process=encodable(sample.process),
                thread=encodable(sample.thread),
            )
            for sample in profile.samples
        ),
    )


@thorough(150)
@given(profiles())
def test_json_keeps_every_profile_exactly(profile: Profile) -> None:
    data = write_json(profile)
    assert data.isascii()
    assert read_json(data) == profile


@thorough(150)
@given(profiles(), st.one_of(st.none(), st.builds(PushIdentity, words, numbers, numbers)))
def test_otlp_keeps_every_profile_up_to_the_order_of_samples(profile: Profile, identity: PushIdentity | None) -> None:
    received = read_otlp(write_otlp(profile, identity))
    assert (received.identity, received.rejected, received.problem) == (identity, 0, "")
    (read,) = received.profiles
    expected = as_utf8(profile)
    assert Counter(map(repr, read.samples)) == Counter(map(repr, expected.samples))
    assert replace(read, samples=()) == replace(expected, samples=())


@thorough(150)
@given(profiles())
def test_every_format_gives_the_same_total(profile: Profile) -> None:
    total = profile.accounting.sampled
    speedscope = json.loads(write_speedscope(profile))["profiles"][0]
    folded, problems = read_folded(write_folded(profile))
    (otlp,) = read_otlp(write_otlp(profile)).profiles
    assert not problems
    assert {
        "json": sum(sample.count for sample in read_json(write_json(profile)).samples),
        "otlp": sum(sample.count for sample in otlp.samples),
        "folded": int(folded.counts.sum()),
        "pprof": sum(sample.count for sample in read_pprof(write_pprof(profile)).profiles[0].samples),
        "speedscope": sum(speedscope["weights"]),
        "speedscope's end": speedscope["endValue"],
    } == dict.fromkeys(["json", "otlp", "folded", "pprof", "speedscope", "speedscope's end"], total)


FOLDED_KIND = {Kind.KERNEL: "k", Kind.MODULE: "k", Kind.BPF: "k", Kind.INLINED: "i", Kind.JIT: "j"}


@thorough(150)
@given(profiles())
def test_folded_keeps_names_and_the_kinds_it_has_suffixes_for(profile: Profile) -> None:
    def stacks(table: StackTable) -> Counter[tuple[tuple[str, str], ...]]:
        words = [(frame.function or "[unnamed]", FOLDED_KIND.get(frame.kind, "")) for frame in table.frames]
        found: Counter[tuple[tuple[str, str], ...]] = Counter()
        for i, count in enumerate(table.counts.tolist()):
            stack = tuple(words[j] for j in table.index[table.offsets[i] : table.offsets[i + 1]])
            found[stack or (("[no stack]", ""),)] += count
        return found

    table, problems = read_folded(write_folded(profile))
    assert not problems
    assert stacks(table) == stacks(stack_table(profile))


@thorough(100)
@given(profiles())
def test_pprof_keeps_names_from_process_to_leaf(profile: Profile) -> None:
    def stacks(table: StackTable) -> Counter[tuple[str, ...]]:
        found: Counter[tuple[str, ...]] = Counter()
        for i, count in enumerate(table.counts.tolist()):
            stack = [table.frames[j] for j in table.index[table.offsets[i] : table.offsets[i + 1]]]
            found[tuple(encodable(frame.function) for frame in stack)] += count
        return found

    named = replace(
        profile,
        samples=tuple(
            replace(
                sample,
                process=sample.process or "?",
                thread=sample.thread or "?",
                stack=tuple(found for found in sample.stack if all(f.function for f in found.frames))
                or (Location(0, None, (Frame("[nothing]", Kind.UNKNOWN),)),),
            )
            for sample in profile.samples
        ),
    )
    assert stacks(stack_table(read_pprof(write_pprof(named)).profiles[0])) == stacks(stack_table(named))


def test_pprof_gives_an_empty_stack_a_frame_as_readers_would_leave_it_out() -> None:
    profile = Profile("h", "cpu-clock", 99, Window(1, 2), (Sample((), 1, "p", "t", 4),), Accounting(sampled=4))
    message = Message.FromString(gzip.decompress(write_pprof(profile)))
    assert "[no stack]" in message.string_table and len(message.sample[0].location_id) == 1
    assert read_pprof(write_pprof(profile)).profiles == (profile,)


@pytest.mark.parametrize("extension", WRITERS)
def test_a_profile_without_samples_is_valid_in_every_format(extension: str) -> None:
    empty = Profile("host", "cpu-clock", 99, Window(10**18, 10**18 + 10**10), (), Accounting(ticks=5, idle=5))
    data = writer_for("x" + extension)(empty)
    match extension:
        case ".folded":
            assert read_folded(data)[0].counts.tolist() == []
        case ".pb.gz":
            assert read_pprof(data).profiles == (empty,)
        case ".json":
            assert read_json(data) == empty
        case ".firefox.json":
            assert json.loads(data)["threads"] == []
        case ".txt":
            assert b"5 idle + 0 filtered + 0 shown" in data
        case _:
            assert json.loads(data)["profiles"][0]["endValue"] == 0
    assert read_otlp(write_otlp(empty)).profiles == (empty,)


@thorough(50)
@given(profiles())
def test_the_same_profile_gives_the_same_bytes(profile: Profile) -> None:
    for write in (*WRITERS.values(), write_otlp):
        assert write(profile) == write(read_json(write_json(profile)))


def test_the_longest_extension_decides() -> None:
    assert writer_for("out/x.speedscope.json") is write_speedscope
    assert writer_for("x.y.json") is write_json
    assert writer_for("-.folded") is write_folded
    assert writer_for("a.folded/x.pb.gz") is write_pprof


@pytest.mark.parametrize("path", ["x", "-", "x.doc", "x.folded.bak", ""])
def test_an_unknown_extension_names_the_known_ones(path: str) -> None:
    with pytest.raises(ValueError, match=r"\.folded, \.pb\.gz, \.speedscope\.json, \.firefox\.json, \.json, \.txt"):
        writer_for(path)
