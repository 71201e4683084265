"""Folded text: what other tools write is read, and what is written no tool reads as something else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.formats.folded import read_folded, write_folded
from profiler.model import Accounting, Profile, Sample, StackTable, Window
from symbolizer.types import Frame, Kind, Location, Reason

# How flamegraph.pl and speedscope take a line apart.
FLAMEGRAPH = re.compile(r"^(.*)\s+?(\d+(?:\.\d*)?)$")
SPEEDSCOPE = re.compile(r"^(.*) (\d+)$")


def profile_of(*stacks: tuple[tuple[Frame, ...], int], process: str = "p", thread: str = "p") -> Profile:
    """A profile of stacks given root first, each frame a location of its own."""
    samples = tuple(
        Sample(tuple(Location(0, None, (frame,)) for frame in reversed(stack)), 1, process, thread, count)
        for stack, count in stacks
    )
    total = sum(count for _, count in stacks)
    return Profile("h", "cpu-clock", 99, Window(0, 10**10), samples, Accounting(sampled=total))


def native(name: str) -> Frame:
    return Frame(name, Kind.NATIVE)


def stacks_of(table: StackTable) -> list[tuple[list[str], int]]:
    return [
        (
            [table.frames[j].function for j in table.index[table.offsets[i] : table.offsets[i + 1]]],
            int(table.counts[i]),
        )
        for i in range(len(table.counts))
    ]


def test_lines_are_sorted_merged_and_stand_on_process_and_thread() -> None:
    main, work = native("main"), native("work")
    profile = profile_of(((main, work), 2), ((main,), 1), ((main, work), 3), process="app", thread="pool-1")
    assert write_folded(profile) == b"app;pool-1;main 1\napp;pool-1;main;work 5\n"
    assert write_folded(profile_of(((main,), 1))) == b"p;main 1\n"


def test_kinds_are_told_by_the_suffixes_that_flame_graph_tools_know() -> None:
    stack = (
        native("main"),
        Frame("hot", Kind.JIT),
        Frame("min", Kind.INLINED),
        Frame("sys_read", Kind.KERNEL),
        Frame("ext4_read", Kind.MODULE),
        Frame("bpf_prog_1", Kind.BPF),
        Frame("[no mapping]", Kind.UNKNOWN, reason=Reason.NO_MAPPING),
    )
    data = write_folded(profile_of((stack, 1)))
    assert data == b"p;main;hot_[j];min_[i];sys_read_[k];ext4_read_[k];bpf_prog_1_[k];[no mapping] 1\n"
    table, _ = read_folded(data)
    assert [(frame.function, frame.kind) for frame in table.frames] == [
        ("p", Kind.NATIVE),
        ("main", Kind.NATIVE),
        ("hot", Kind.JIT),
        ("min", Kind.INLINED),
        ("sys_read", Kind.KERNEL),
        ("ext4_read", Kind.KERNEL),
        ("bpf_prog_1", Kind.KERNEL),
        ("[no mapping]", Kind.UNKNOWN),
    ]
    assert table.frames[-1].reason is Reason.NO_MAPPING


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a;b", r"a\x3bb"),
        ("a\nb\r", r"a\x0ab\x0d"),
        ("foo 12", r"foo\x2012"),
        ("foo 1 2.5", r"foo 1\x202.5"),
        ("foo ", r"foo\x20"),
        ("foo_[k]", r"foo\x5f[k]"),
        (r"\x3b", r"\x5cx3b"),
        (r"App\Models\User", r"App\Models\User"),
        ("\u2028\udcff", r"\u2028\udcff"),
        ("12", "12"),
        ("std::map<int, int>::at(int const&) const", "std::map<int, int>::at(int const&) const"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("größe", "größe"),
        ("", "[unnamed]"),
    ],
)
def test_names_are_escaped_only_where_they_would_be_misread_and_come_back(name: str, written: str) -> None:
    data = write_folded(profile_of(((native(name),), 5)))
    assert data == f"p;{written} 5\n".encode()
    table, problems = read_folded(data)
    assert stacks_of(table) == [(["p", name or "[unnamed]"], 5)]
    assert not problems


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=1, max_size=4))
def test_no_name_makes_a_second_count_or_line_for_other_tools(names: list[str]) -> None:
    text = write_folded(profile_of((tuple(map(native, names)), 7))).decode()
    assert text.endswith(" 7\n")
    assert len(text.splitlines()) == 1
    match = FLAMEGRAPH.match(text)
    assert match
    assert match[2] == "7"
    assert not FLAMEGRAPH.match(match[1])
    assert match[1].count(";") == len(names)
    speedscope = SPEEDSCOPE.match(text)
    assert speedscope
    assert speedscope[1] == match[1]


def test_what_other_tools_write_is_read() -> None:
    data = b"# a comment\r\n\r\njava;[libjvm.so];Foo::bar_[j] 3\r\nswapper;native_safe_halt_[k]\t2\nx 4.0\ny y 9  "
    table, problems = read_folded(data)
    assert stacks_of(table) == [
        (["java", "[libjvm.so]", "Foo::bar"], 3),
        (["swapper", "native_safe_halt"], 2),
        (["x"], 4),
        (["y y"], 9),
    ]
    assert not problems
    assert table.frames[1].reason is Reason.NO_SYMBOLS


def test_bytes_that_are_no_utf_8_stay_distinct() -> None:
    table, _ = read_folded(b"a;\xff 1\na;\xfe 2\n")
    assert stacks_of(table) == [(["a", "\udcff"], 1), (["a", "\udcfe"], 2)]


def test_frames_are_distinct_even_when_spelled_in_two_ways() -> None:
    table, _ = read_folded(b"a\\x3bb;a\\x3bb 1\n\\x61\\x3bb 2\n")
    assert [frame.function for frame in table.frames] == ["a;b"]
    assert table.index.tolist() == [0, 0, 0]


def test_malformed_lines_are_left_out_counted_and_located() -> None:
    table, problems = read_folded(b"a;b 1\nno count\na;b -3\n 5\nc 2\n" + b"d " + b"9" * 30 + b"\n")
    assert stacks_of(table) == [(["a", "b"], 1), (["c"], 2)]
    assert problems == ["line 2 and 3 more left out: not a stack and a whole number"]


def test_fractions_are_rounded_and_that_is_said() -> None:
    table, problems = read_folded(b"a 1.6\nb 2.\nc 3.000\n")
    assert table.counts.tolist() == [2, 2, 3]
    assert problems == ["1 counts had fractions and were rounded"]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nothing\n"])
def test_nothing_is_an_empty_table(data: bytes) -> None:
    table, problems = read_folded(data)
    assert (table.frames, table.counts.tolist(), table.offsets.tolist(), problems) == ([], [], [0], [])


@pytest.mark.parametrize("data", [b"hello\n", b"\x00\x01\x02", b"<svg></svg>", b"a;b;c\n" * 10])
def test_a_file_without_a_single_stack_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="line 1.* should read name;name;name COUNT"):
        read_folded(data)


def test_counts_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 64 bits"):
        read_folded(b"a 999999999999999999\n" * 10)


def read_line_by_line(data: bytes) -> tuple[list[tuple[list[str], int]], int]:
    """The plain way to read folded text, one line after the other; stacks, and how many lines are left out."""
    stacks = []
    malformed = 0
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        stack, _, count = line.rstrip().rpartition(b" ")
        if not (stack and re.fullmatch(rb"\d{1,18}", count)):
            words = line.rsplit(None, 1)
            if len(words) < 2 or not re.fullmatch(rb"\d{1,18}(\.\d*)?", words[1]):
                malformed += bool(line.strip()) and not line.startswith(b"#")
                continue
            stack, count = words[0].strip(), words[1]
        value = int(count) if count.isdigit() else round(float(count))
        stacks.append(([name_of(word) for word in stack.decode(errors="surrogateescape").split(";")], value))
    return stacks, malformed


def name_of(word: str) -> str:
    word = re.sub(r"_\[[kijw]\]$", "", word)
    return re.sub(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))", lambda m: chr(int(m[1] or m[2], 16)), word) or "[unnamed]"


WORDS = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"main", b"a_name_of_17_byte", b"a_name_of_17_bytf", b"x" * 63, b"x" * 600, b"x" * 601]
    ),
    st.sampled_from(
        [b"", b" ", b"a b", b"\x00", b"a\x00", b"_[k]", b"f_[j]", b"\\x3b", b"\xff", b"#", b"7", b"\r", b"\t"]
    ),
    st.binary(max_size=20),
)
STACKS = st.lists(st.lists(WORDS, max_size=6).map(b";".join), min_size=1, max_size=12)
ENDS = st.one_of(
    st.sampled_from([b" 1", b" 2", b" 345", b"\t4", b" 1.5", b" 5 ", b"  6", b" 007", b" 1\r", b" " + b"9" * 18]),
    st.sampled_from([b"", b" ", b" -1", b" " + b"1" * 19, b" x", b"1"]),
)


@settings(deadline=None, max_examples=400)
@given(STACKS, st.data(), st.booleans(), st.booleans())
def test_many_lines_at_once_are_read_as_each_alone(
    stacks: list[bytes], data: st.DataObject, sort: bool, end: bool
) -> None:
    lines = [stack + data.draw(ENDS) for stack in data.draw(st.lists(st.sampled_from(stacks), min_size=1, max_size=30))]
    text = b"\n".join(sorted(lines) if sort else lines) + b"\n" * end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("profiler.formats.folded._PART", data.draw(st.sampled_from([1, 50, 1 << 22])))
        patch.setattr("profiler.formats.folded._SLOT_BITS", data.draw(st.sampled_from([1, 16])))
        expected, malformed = read_line_by_line(text)
        if not expected and malformed or sum(count for _, count in expected) >= 1 << 63:
            with pytest.raises(ValueError, match="no folded stacks|more than 64 bits"):
                read_folded(text)
            return
        table, problems = read_folded(text)
        assert stacks_of(table) == expected
        assert sum("left out" in problem for problem in problems) == (malformed > 0)
        if malformed > 1:
            assert f"and {malformed - 1} more left out" in problems[0]


@pytest.mark.parametrize("odd", [0, 1 << 60])
def test_names_whose_hashes_are_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch, odd: int) -> None:
    monkeypatch.setattr("profiler.formats.folded._ODD", np.uint64(odd))
    names = ["a", "b", "abcdefgh", "abcdefghi", "abcdefghj", "x" * 40 + "y", "x" * 41, "z" * 600, "z" * 599 + "a"]
    lines = [f"{first};{second};{first} 1" for first in names for second in names]
    table, _ = read_folded("\n".join(lines).encode())
    assert [";".join(stack) + " 1" for stack, _ in stacks_of(table)] == lines


def test_line_of_any_length_is_read() -> None:
    deep = ";".join(f"f{i % 1000}" for i in range(100_000))
    table, _ = read_folded(f"{'x' * 5_000_000} 1\n{deep} 2\n{deep};leaf 3\n".encode())
    assert np.diff(table.offsets).tolist() == [1, 100_000, 100_001]
    assert table.index[1:100_001].tolist() == table.index[100_001:200_001].tolist()
    assert len(table.frames[0].function) == 5_000_000


def test_more_lines_than_are_read_at_a_time_are_one_table() -> None:
    table, _ = read_folded(b"".join(b"main;f%d;g %d\n" % (i % 7, i) for i in range(40_000)))
    assert len(table.counts) == 40_000
    assert len(table.frames) == 9
    assert int(table.counts.sum()) == sum(range(40_000))
    assert table.offsets[-1] == len(table.index) == 120_000


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_noise_is_read_or_refused_never_more(data: bytes) -> None:
    try:
        table, _ = read_folded(data)
    except ValueError as error:
        assert str(error)
    else:
        assert len(table.offsets) == len(table.counts) + 1
