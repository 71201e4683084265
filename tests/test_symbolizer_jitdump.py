"""jitdump files: what compilers at run time write, and what they should not. The files are built here."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer.jit import jit, jitdump
from symbolizer.jit.jit import Jit, dump_among
from symbolizer.jit.jitdump import JitDump, JitDumpError
from symbolizer.jit.overlaps import newest_wins
from symbolizer.process import Process
from symbolizer.types import Frame, Kind, Location, Mapping, Reason

LOAD, MOVE, LINES, CLOSE, UNWINDING = range(5)
V8 = 0x40
"""How far V8's addresses of lines are off."""


def header(order: str = "<", version: int = 1, size: int = 40, began: int = 0, flags: int = 0) -> bytes:
    return struct.pack(order + "6I2Q", 0x4A695444, version, size, 62, 0, 1, began, flags).ljust(size, b"\0")


def record(kind: int, body: bytes, when: int = 0, order: str = "<") -> bytes:
    return struct.pack(order + "2IQ", kind, 16 + len(body), when) + body


def load(start: int, size: int, name: bytes, index: int = 0, when: int = 0, order: str = "<", code: int = 8) -> bytes:
    body = struct.pack(order + "2I4Q", 1, 1, start, start, size, index) + name + b"\0" + b"\x90" * code
    return record(LOAD, body, when, order)


def move(old: int, new: int, size: int, index: int, when: int = 0, order: str = "<") -> bytes:
    return record(MOVE, struct.pack(order + "2I5Q", 1, 1, new, old, new, size, index), when, order)


def lines(start: int, *entries: tuple[int, int, bytes], order: str = "<", count: int | None = None) -> bytes:
    body = struct.pack(order + "2Q", start, len(entries) if count is None else count)
    for address, line, file in entries:
        body += struct.pack(order + "Q2I", address, line, 0) + file + b"\0"
    return record(LINES, body, 0, order)


def read(path: Path, dump: JitDump | None = None, until_ns: int | None = None) -> JitDump:
    dump = JitDump() if dump is None else dump
    handle = os.open(path, os.O_RDONLY)
    try:
        dump.refresh(handle, until_ns)
    finally:
        os.close(handle)
    return dump


def frames(path: Path, dump: JitDump, address: int) -> tuple[Frame, ...]:
    (number,) = dump.find(np.array([address], np.uint64))
    if number < 0:
        return ()
    handle = os.open(path, os.O_RDONLY)
    try:
        return dump.frames(number, address, handle)
    finally:
        os.close(handle)


def names(path: Path, dump: JitDump, *addresses: int) -> list[str | None]:
    found = [frames(path, dump, address) for address in addresses]
    return [each[-1].function if each else None for each in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jit-1.dump"


@pytest.mark.parametrize("order", ["<", ">"])
def test_functions_have_names_and_lines_in_either_byte_order(path: Path, order: str) -> None:
    path.write_bytes(
        header(order, size=48)
        + lines(0x1000, (0x1000, 3, b"/srv/a.c"), (0x1008, 4, b"\xff"), (0x1010, 7, b"/srv/a.c"), order=order)
        + record(UNWINDING, b"\0" * 40, order=order)
        + load(0x1000, 0x20, b"first", order=order)
        + record(77, b"of a kind yet to come", order=order)
        + load(0x2000, 0x10, b"second", order=order)
        + record(CLOSE, b"", order=order)
    )
    dump = read(path)
    assert dump.malformed == 0 and dump.trouble == ""
    assert names(path, dump, 0xFFF, 0x1000, 0x101F, 0x1020, 0x2000, 0x2010) == [
        None, "first", "first", None, "second", None,
    ]  # fmt: skip
    assert [frames(path, dump, at)[0].line for at in (0x1000, 0x1007, 0x1008, 0x1010, 0x101F)] == [3, 3, 4, 7, 7]
    assert frames(path, dump, 0x1009) == (Frame("first", Kind.JIT, file="/srv/a.c", line=4),)
    assert frames(path, dump, 0x2000) == (Frame("second", Kind.JIT),)


def test_moved_code_keeps_its_name_and_lines(path: Path) -> None:
    path.write_bytes(
        header()
        + lines(0x1000, (0x1000, 3, b"a.c"), (0x1008, 4, b"a.c"))
        + load(0x1000, 0x10, b"wanders", index=5)
        + move(0x1000, 0x3000, 0x10, 5)
        + move(0x3000, 0x500, 0x10, 5)
        + load(0x1000, 0x10, b"moved in")
        + move(0, 0x9000, 0x10, 99)
    )
    dump = read(path)
    assert names(path, dump, 0x1000, 0x3008, 0x508, 0x9000) == ["moved in", "wanders", "wanders", None]
    assert frames(path, dump, 0x1008)[0].line == 0
    assert [frames(path, dump, at)[0].line for at in (0x3008, 0x500, 0x508)] == [4, 3, 4]
    assert dump.malformed == 1


def test_code_is_named_as_it_was_at_the_end_of_the_window(path: Path) -> None:
    now = time.monotonic_ns()
    path.write_bytes(
        header(began=now - 100)
        + load(0x1000, 0x10, b"early", when=now - 90)
        + load(0x1000, 0x10, b"late", when=now - 50)
        + load(0x2000, 0x10, b"yet to come", when=now + (10**15))
    )
    dump = read(path, until_ns=now - 91)
    assert names(path, dump, 0x1000) == [None]
    assert names(path, read(path, dump, now - 60), 0x1000) == ["early"]
    assert names(path, read(path, dump, now - 50), 0x1000) == ["late"]
    # A time that is still to come is of another clock.
    assert names(path, dump, 0x2000) == ["yet to come"]


@pytest.mark.parametrize("how", ["flag", "began in the future"])
def test_times_of_another_clock_hold_nothing_back(path: Path, how: str) -> None:
    began, flags = (5, 1) if how == "flag" else (1 << 62, 0)
    path.write_bytes(header(began=began, flags=flags) + load(0x1000, 0x10, b"named", when=7))
    assert names(path, read(path, until_ns=6), 0x1000) == ["named"]


def test_a_file_is_read_on_as_it_grows_and_anew_when_it_is_another(path: Path) -> None:
    dump = JitDump()
    whole = header(began=1) + load(0x1000, 0x10, b"one") + load(0x2000, 0x10, b"two")
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        read(path, dump)
    assert names(path, dump, 0x1000, 0x2000) == ["one", "two"]
    with path.open("ab") as file:
        file.write(load(0x3000, 0x10, b"three"))
    assert names(path, read(path, dump), 0x1000, 0x2000, 0x3000) == ["one", "two", "three"]
    path.write_bytes(header(began=2) + load(0x1000, 0x10, b"of another process") * 9)
    assert names(path, read(path, dump), 0x1000, 0x2000) == ["of another process", None]


def test_a_jitdump_of_more_records_than_are_read_at_once_is_read_in_turns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jitdump, "MAX_RECORDS_AT_ONCE", 2)
    path.write_bytes(header() + b"".join(load(0x1000 * i, 0x10, b"f%d" % i) for i in range(1, 5)))
    dump = read(path)
    assert names(path, dump, 0x2000, 0x3000) == ["f2", None]
    assert names(path, read(path, dump), 0x3000, 0x4000) == ["f3", "f4"]


def test_functions_are_kept_up_to_a_bound_and_what_is_beyond_has_that_as_its_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jitdump, "MAX_FUNCTIONS", 2)
    path.write_bytes(header() + b"".join(load(0x1000 * i, 0x10, b"f%d" % i) for i in range(1, 5)))
    dump = read(path)
    assert names(path, dump, 0x2000, 0x3000) == ["f2", None]
    assert dump.trouble == "more than 2 functions"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"x" * 40, "not a jitdump file"),
        (b"\x7fELF".ljust(64, b"\0"), "not a jitdump file"),
        (header(version=2), "version 2 is not known"),
        (header(size=40)[:8] + struct.pack("<I", 39) + header()[12:], "damaged header"),
        (header(size=40)[:8] + struct.pack("<I", 1 << 31) + header()[12:], "damaged header"),
    ],
)
def test_a_file_that_is_no_jitdump_is_refused_with_the_reason(path: Path, text: bytes, why: str) -> None:
    path.write_bytes(text)
    with pytest.raises(JitDumpError, match=why):
        read(path)


@pytest.mark.parametrize(
    "bad",
    [
        record(LOAD, b""),
        record(LOAD, b"\0" * 40),
        record(MOVE, b"\0" * 47),
        record(LINES, b"\0" * 15),
        load((1 << 64) - 4, 0x10, b"over the end of memory"),
    ],
)
def test_records_that_make_no_sense_are_counted_and_passed_over(path: Path, bad: bytes) -> None:
    path.write_bytes(header() + load(0x1000, 0x10, b"before") + bad + load(0x2000, 0x10, b"after"))
    dump = read(path)
    assert names(path, dump, 0x1000, 0x2000) == ["before", "after"]
    assert dump.malformed == 1


def test_behind_a_record_shorter_than_its_own_head_nothing_is_read_but_what_is_before_stays(path: Path) -> None:
    path.write_bytes(
        header() + load(0x1000, 0x10, b"before") + struct.pack("<2IQ", LOAD, 15, 0) + load(0x2000, 0x10, b"after")
    )
    dump = read(path)
    assert names(path, dump, 0x1000, 0x2000) == ["before", None]
    assert dump.trouble == "damaged"


@pytest.mark.parametrize(
    "bad",
    [
        lines(0x1000, (0x0FFF, 3, b"a.c")),
        lines(0x1000, (0x1011, 3, b"a.c")),
        lines(0x1000, (0x1000, 3, b"a.c"), (0x7F0000000000, 9, b"\xdf\x89\x03")),
        lines(0x1000, count=1 << 63),
        record(LINES, struct.pack("<2Q", 0x1000, 1) + struct.pack("<Q2I", 0x1000, 1, 0) + b"no end"),
        record(LINES, struct.pack("<2Q", 0x1000, 1 << 40) + b"\0" * jitdump.MAX_LINES_BYTES),
    ],
)
def test_lines_that_make_no_sense_leave_the_name(path: Path, bad: bytes) -> None:
    path.write_bytes(header() + bad + load(0x1000, 0x10, b"f"))
    assert frames(path, read(path), 0x1008) == (Frame("f", Kind.JIT),)


@pytest.mark.parametrize("off", [0, V8])
def test_lines_of_v8_are_counted_from_the_start_of_the_code(path: Path, off: int) -> None:
    name = b"JS:*pay file:///srv/shop.mjs:10:9"
    path.write_bytes(
        header()
        + lines(
            0x1000,
            (0x1000 + off, 11, b"file:///srv/shop.mjs"),
            (0x1010 + off, 12, b"file:///srv/shop.mjs"),
            (0x1018 + off, 70, b"/srv/tax.mjs"),
        )
        + load(0x1000, 0x20, name)
    )
    dump = read(path)
    own = Frame("*pay", Kind.JIT, name.decode(), "/srv/shop.mjs", 11)
    assert frames(path, dump, 0x100F) == (own,)
    assert [frames(path, dump, at)[0].line for at in (0x1000, 0x1010, 0x1017, 0x1018, 0x101F)] == [11, 12, 12, 70, 70]
    inlined = Frame("[inlined from /srv/tax.mjs]", Kind.INLINED, file="/srv/tax.mjs", line=70)
    outer = Frame("*pay", Kind.JIT, name.decode(), "/srv/shop.mjs")
    assert frames(path, dump, 0x1018) == (inlined, outer)


def test_lines_of_v8_hold_also_where_it_wrote_the_name_of_their_file_when_that_was_freed(path: Path) -> None:
    garbage = (b"\xdf\x89\x03\0\x8c\x7f\0\0abcdef", b"\0" * 14, b"\xff" * 14)
    entries = [(0x1000 + V8 + 8 * i, 3 + i, name) for i, name in enumerate(garbage)]
    assert {len(name) for name in garbage} == {len("/srv/spring.js")}
    path.write_bytes(header() + lines(0x1000, *entries) + load(0x1000, 0x20, b"JS:^run /srv/spring.js:2:4"))
    dump = read(path)
    assert [(f.file, f.line) for at in (0x1000, 0x1009, 0x1018) for f in frames(path, dump, at)] == [
        ("/srv/spring.js", 3), ("/srv/spring.js", 4), ("/srv/spring.js", 5),
    ]  # fmt: skip


def test_java_code_of_another_source_file_is_an_inlined_frame(path: Path) -> None:
    name = b"Lcom/shop/Cart$Item;total([JLjava/lang/String;)J"
    path.write_bytes(
        header()
        + lines(
            0x1000,
            (0x1000, 20, b"com/shop/Cart.java"),
            (0x1008, 130, b"java/lang/String.java"),
            (0x1010, 21, b"com/shop/Cart.java"),
        )
        + load(0x1000, 0x20, name)
        + lines(0x2000, (0x2000, 5, b"com/shop/Helpers.java"))
        + load(0x2000, 0x20, b"Lcom/shop/Hidden;help()V")
    )
    dump = read(path)
    function = "com.shop.Cart$Item.total(long[], java.lang.String)"
    assert frames(path, dump, 0x1004) == (Frame(function, Kind.JIT, name.decode(), "com/shop/Cart.java", 20),)
    assert frames(path, dump, 0x1008) == (
        Frame("[inlined from java/lang/String.java]", Kind.INLINED, file="java/lang/String.java", line=130),
        Frame(function, Kind.JIT, name.decode(), "com/shop/Cart.java"),
    )
    assert frames(path, dump, 0x1010)[0].line == 21
    # A class need not be called like its file: then what is inlined cannot be told from what is not.
    assert [(f.function, f.file, f.line) for f in frames(path, dump, 0x2000)] == [
        ("com.shop.Hidden.help()", "com/shop/Helpers.java", 5)
    ]


_RECORDS = st.one_of(
    st.builds(load, st.integers(0, 1 << 63), st.integers(0, 1 << 40), st.binary(max_size=40), st.integers(0, 3)),
    st.builds(move, st.just(0), st.integers(0, 1 << 63), st.integers(0, 1 << 40), st.integers(0, 3)),
    st.builds(lines, st.integers(0, 64), st.tuples(st.integers(0, 99), st.integers(0, 99), st.binary(max_size=9))),
    st.builds(record, st.integers(0, 6), st.binary(max_size=80)),
    st.binary(max_size=80),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_RECORDS, max_size=12).map(b"".join), st.lists(st.integers(0, 1 << 64 - 1), max_size=4))
def test_any_bytes_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, at: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "jit-any.dump"
    path.write_bytes(header() + body)
    dump = read(path)
    for start in [*dump._start, *at]:
        assert all(frame.function for frame in frames(path, dump, start))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=30))
def test_of_ranges_that_overlap_the_newest_holds_everywhere(ranges: list[tuple[int, int]]) -> None:
    start = np.array([start for start, _ in ranges], np.uint64)
    owners = newest_wins(start, start + np.array([size for _, size in ranges], np.uint64))
    expected = [
        max((i for i, (start, size) in enumerate(ranges) if start <= at < start + size), default=-1) for at in range(90)
    ]
    assert owners.find(np.arange(90, dtype=np.uint64)) == expected


# Found by the process


PROGRAM = """
import mmap, sys
for name in sys.argv[1:]:
    file = open(name, "rb")
    held = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A process that maps a jitdump file as compilers do: (its pid, the file)."""
    path = tmp_path / "jit-77.dump"
    path.write_bytes(header() + load(0x1000, 0x10, b"jitted") + load(0x2000, 0x10, b"py::work:/srv/app.py"))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdin
    process.stdout.readline()
    yield process.pid, path
    process.stdin.close()
    process.stdout.close()
    process.wait()


def located(jit: Jit, pid: int, *addresses: int, dump: Mapping | None = None) -> dict[int, Location]:
    with Process(pid, [os.getpid()]) as process:
        return jit.locations(process, addresses, dump)


def test_the_file_is_found_by_its_executable_mapping_also_when_deleted(compiler: tuple[int, Path]) -> None:
    pid, path = compiler
    path.unlink()
    found = located(Jit(1 << 20), pid, 0x1004, 0x2004, 0x3000)
    assert found[0x1004].frames == (Frame("jitted", Kind.JIT),)
    assert found[0x2004].frames == (Frame("work", Kind.PYTHON, file="/srv/app.py"),)
    assert [(at.binary.path if at.binary else "") for at in found.values()] == ["[jit]", "[python]"]
    assert 0x3000 not in found


def test_the_file_that_a_mapping_shows_is_read_when_the_process_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "jit-5.dump"
    path.write_bytes(header() + load(0x1000, 0x10, b"jitted"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    status = path.stat()
    shows = Mapping(0x7000, 0x8000, 0, str(path), device=status.st_dev, inode=status.st_ino)
    jit = Jit(1 << 20)
    assert located(jit, gone.pid, 0x1004) == {}
    first = located(jit, gone.pid, 0x1004, dump=shows)
    assert first[0x1004].frames == (Frame("jitted", Kind.JIT),)
    path.unlink()
    assert located(jit, gone.pid, 0x1004, dump=shows)[0x1004] is first[0x1004]
    missing = located(Jit(1 << 20), gone.pid, 0x1004, dump=shows)[0x1004].frames[0]
    assert (missing.function, missing.reason) == ("[jitdump: file missing]", Reason.FILE_MISSING)


def test_a_location_stays_the_same_while_the_file_grows(compiler: tuple[int, Path]) -> None:
    pid, path = compiler
    jit = Jit(1 << 20)
    first = located(jit, pid, 0x1004)[0x1004]
    with path.open("ab") as file:
        file.write(load(0x3000, 0x10, b"more"))
    again = located(jit, pid, 0x1004, 0x3004)
    assert again[0x1004] is first
    assert again[0x3004].frames[0].function == "more"
    with path.open("ab") as file:
        file.write(load(0x1000, 0x10, b"recompiled"))
    assert located(jit, pid, 0x1004)[0x1004].frames[0].function == "recompiled"


def test_a_perf_map_names_what_the_jitdump_file_does_not_and_trouble_is_the_reason_of_the_rest(
    compiler: tuple[int, Path],
) -> None:
    pid, path = compiler
    perf_map = Path(f"/tmp/perf-{pid}.map")
    perf_map.write_text("1000 10 old name\n5000 10 only here\n")
    try:
        with path.open("ab") as file:
            file.write(struct.pack("<2IQ", LOAD, 3, 0))
        found = located(Jit(1 << 20), pid, 0x1004, 0x5004, 0x6000)
    finally:
        perf_map.unlink()
    assert [at.frames[0].function for at in found.values()] == ["jitted", "only here", "[jitdump: damaged]"]
    assert found[0x6000].frames[0].reason is Reason.UNREADABLE_FILE


def test_a_foreign_file_in_tmp_is_not_trusted_and_a_pipe_not_opened() -> None:
    process = subprocess.Popen(["sleep", "600"])
    path = Path(f"/tmp/jit-{process.pid}.dump")
    try:
        os.mkfifo(path)
        found = located(Jit(1 << 20), process.pid, 0x1004)
        assert found[0x1004].frames[0].function == "[jitdump: not a regular file]"
        path.unlink()
        path.write_bytes(header() + load(0x1000, 0x10, b"jitted"))
        assert located(Jit(1 << 20), process.pid, 0x1004)[0x1004].frames[0].function == "jitted"
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
            found = located(Jit(1 << 20), process.pid, 0x1004)
            assert found[0x1004].frames[0].function == "[jitdump: owned by another user]"
    finally:
        path.unlink(missing_ok=True)
        process.kill()
        process.wait()


def test_the_mapping_of_a_jitdump_file_is_known_by_its_name() -> None:
    paths = [
        "/usr/bin/node",
        "/tmp/jit-.dump",
        "/home/a/jit-12.dump",
        "/srv/jit-7.dump (deleted)",
        "/tmp/jit-7.dump.gz",
    ]
    mappings = [Mapping(i, i + 1, 0, path) for i, path in enumerate(paths)]
    assert dump_among(mappings) is mappings[3]
    assert dump_among(mappings[:3]) is mappings[2]
    assert dump_among(mappings[:2]) is None


def test_lines_of_maps_that_make_no_sense_hide_no_jitdump_file(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    bad = b"1-2 r-xp 0 123456789:0 1 /tmp/jit-1.dump\n1-2 r-xp 0 0:0 " + b"9" * 5000 + b" /tmp/jit-2.dump\n"
    (tmp_path / "7" / "maps").write_bytes(bad + b"1000-2000 r-xp 00000000 08:02 5 /tmp/jit-7.dump\n" + bad)
    with Process(7, (), str(tmp_path)) as process:
        assert jit._marker(process) == Mapping(0x1000, 0x2000, 0, "/tmp/jit-7.dump", "", os.makedev(8, 2), 5)
