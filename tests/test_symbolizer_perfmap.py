"""Perf maps: what compilers at run time write, and what they should not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer.jit import jit
from symbolizer.jit.jit import Jit
from symbolizer.jit.names import jit_frames
from symbolizer.jit.perfmap import PerfMap, PerfMapError, parse_perf_map
from symbolizer.process import Process, inner_pid_and_users
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Frame, Kind, Mapping, Reason


def read(path: Path, perf_map: PerfMap | None = None) -> PerfMap:
    perf_map = PerfMap() if perf_map is None else perf_map
    handle = os.open(path, os.O_RDONLY)
    try:
        perf_map.refresh(handle)
    finally:
        os.close(handle)
    return perf_map


def names(perf_map: PerfMap, *addresses: int) -> list[str | None]:
    found = perf_map.find(np.array(addresses, np.uint64))
    return [perf_map.frames(i)[-1].function if i >= 0 else None for i in found]


def test_entries_are_half_open_ranges_with_names_that_may_hold_blanks(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"1000 10 name with blanks\n0x2000 0x20 two\nABCDEF 1 Upper\n")
    perf_map = read(path)
    assert names(perf_map, 0xFFF, 0x1000, 0x100F, 0x1010, 0x2000, 0x201F, 0x2020, 0xABCDEF) == [
        None, "name with blanks", "name with blanks", None, "two", "two", None, "Upper",
    ]  # fmt: skip
    assert perf_map.malformed == 0


def test_the_newest_of_overlapping_entries_holds(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"1000 100 old\n1000 20 same start\n1040 10 inside\n10f0 20 over the end\n")
    assert names(read(path), 0x1000, 0x1030, 0x1045, 0x10F5, 0x1105) == [
        "same start", "old", "inside", "over the end", "over the end",
    ]  # fmt: skip
    path.write_bytes(b"1040 10 inside\n1000 100 newer and wider\n")
    assert names(read(path), 0x1045, 0x1000) == ["newer and wider", "newer and wider"]


@pytest.mark.parametrize(
    "line",
    [
        b"1000", b"1000 10", b"1000 10 ", b"xyz 10 a", b"1000 xyz a", b" 1000 10 a", b"1000  10 a", b"-1 10 a",
        b"1000 0 empty", b"10000000000000000 10 a", b"ffffffffffffffff ffff a", b"0x 10 a", b"\0\0\0", b"1000,10,a",
        b"\xff" * 50, b"0x0x10 1 a",
    ],
)  # fmt: skip
def test_malformed_lines_are_counted_and_skipped(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"5000 10 before\n" + line + b"\n6000 10 after\n")
    perf_map = read(path)
    assert perf_map.malformed == 1
    assert len(perf_map) == 2
    assert names(perf_map, 0x5000, 0x6000) == ["before", "after"]


def _plainly(text: bytes) -> dict[tuple[int, int, bytes], int]:
    found: dict[tuple[int, int, bytes], int] = {}
    for line in text.split(b"\n"):
        fields = line.split(b" ", 2)
        if len(fields) < 3 or not fields[2]:
            continue
        numbers = [field[2:] if field[:2] in (b"0x", b"0X") else field for field in fields[:2]]
        if not all(0 < len(n) <= 16 and set(n) <= set(b"0123456789abcdefABCDEF") for n in numbers):
            continue
        start, size = (int(n, 16) for n in numbers)
        if size and start + size < 1 << 64:
            entry = (start, start + size, fields[2])
            found[entry] = found.get(entry, 0) + 1
    return found


_FIELD = st.sampled_from(
    [b"1000", b"0x20", b"0", b"0x", b"zz", b"", b"ffffffffffffffff", b"name", b" ", b"\0", b"7f00aBcD"]
)


@settings(max_examples=300)
@given(st.lists(st.lists(_FIELD, max_size=5).map(b" ".join) | st.binary(max_size=40), max_size=20))
def test_any_text_is_read_as_a_plain_reading_has_it(lines: list[bytes]) -> None:
    text = b"\n".join(lines)
    entries, strings = parse_perf_map(text)
    ours: dict[tuple[int, int, bytes], int] = {}
    for start, end, at in zip(entries.start.tolist(), entries.end.tolist(), entries.name.tolist(), strict=True):
        entry = (start, end, strings[at : strings.index(b"\n", at)])
        ours[entry] = ours.get(entry, 0) + 1
    assert ours == _plainly(text)


def test_what_is_appended_is_read_and_what_was_cut_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"1000 10 one\n2000 10 tw")
    perf_map = read(path)
    assert names(perf_map, 0x1000, 0x2000) == ["one", "tw"]
    with path.open("ab") as file:
        file.write(b"o\n3000 10 three\n")
    read(path, perf_map)
    assert names(perf_map, 0x1000, 0x2000, 0x3000) == ["one", "two", "three"]
    path.write_bytes(b"1000 10 new\n")
    read(path, perf_map)
    assert names(perf_map, 0x1000, 0x2000) == ["new", None]
    for i in range(300):
        with path.open("ab") as file:
            file.write(b"%x 10 f%d\n" % (0x10000 + 16 * i, i))
        read(path, perf_map)
    assert names(perf_map, 0x1000, 0x10000, 0x10000 + 16 * 299) == ["new", "f0", "f299"]


def test_a_map_of_gigabytes_is_refused_at_no_cost(tmp_path: Path) -> None:
    path = tmp_path / "map"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(PerfMapError, match="larger than"):
        read(path)


def test_a_map_of_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symbolizer.jit.perfmap.MAX_ENTRIES", 2)
    path = tmp_path / "map"
    path.write_bytes(b"1000 10 one\n2000 10 two\n3000 10 three\n")
    with pytest.raises(PerfMapError, match="more than 2 entries"):
        read(path)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        (b"py::work:/srv/app.py", Frame("work", Kind.PYTHON, file="/srv/app.py")),
        (b"py::Class.method:<string>", Frame("Class.method", Kind.PYTHON, file="<string>")),
        (b"py::odd", Frame("py::odd", Kind.JIT)),
        (b"a;b<script>\x1b\xff", Frame("a;b<script>\\x1b\\xff", Kind.JIT)),
    ],
)
def test_names_become_frames(name: bytes, frame: Frame) -> None:
    assert jit_frames(name) == (frame,)


@pytest.mark.parametrize(
    ("name", "function", "file", "line"),
    [
        ("LazyCompile:*foo /srv/app.js:12", "*foo", "/srv/app.js", 12),
        ("JS:~Shop.price /srv/my app.js:3:14", "~Shop.price", "/srv/my app.js", 3),
        ("JS:^get total file:///srv/my%20app.mjs:3:4", "^get total", "/srv/my app.mjs", 3),
        ("JS:+go node:internal/process/task_queues:67:35", "+go", "node:internal/process/task_queues", 67),
        ("Function:~ /srv/app.js:1:1", "~(anonymous)", "/srv/app.js", 1),
        ("Script:~ [eval]:1:1", "~(script)", "[eval]", 1),
        ("Eval:~ evalmachine.<anonymous>:2:1", "~(eval)", "evalmachine.<anonymous>", 2),
        ("Eval:~run https://example.org/a.js:2:1", "~run", "https://example.org/a.js", 2),
        ("JS:*bound ", "*bound", "", 0),
        ("JS:~f /srv/a:b.js:99999999999:1", "~f", "/srv/a:b.js:99999999999", 1),
    ],
)  # fmt: skip
def test_names_of_v8_become_the_function_with_its_tier_and_the_file_and_line(
    name: str, function: str, file: str, line: int
) -> None:
    assert jit_frames(name.encode()) == (Frame(function, Kind.JIT, name, file, line),)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("Lcom/shop/Cart;::total", "com.shop.Cart::total"),
        ("Lshop/Cart$Item;sum([[JLjava/lang/String;Z)J", "shop.Cart$Item.sum(long[][], java.lang.String, boolean)"),
        ("LBusy;<init>()V", "Busy.<init>()"),
        ("_ZN4shop4cart5totalEv", "shop::cart::total()"),
    ],
)  # fmt: skip
def test_names_made_for_machines_become_those_that_people_write(name: str, function: str) -> None:
    assert jit_frames(name.encode()) == (Frame(function, Kind.JIT, name),)


def test_inlined_calls_that_a_name_tells_of_become_frames() -> None:
    pay = Frame("com.shop.Cart::pay", Kind.JIT, "Lcom/shop/Cart;::pay")
    hash_ = Frame("java.lang.String::hashCode", Kind.INLINED, "Ljava/lang/String;::hashCode")
    get = Frame("java.util.HashMap::get", Kind.INLINED)
    assert jit_frames(b"Ljava/lang/String;::hashCode in Lcom/shop/Cart;::pay") == (hash_, pay)
    assert jit_frames(b"Lcom/shop/Cart;::pay->java.util.HashMap::get->Ljava/lang/String;::hashCode") == (
        hash_,
        get,
        pay,
    )


@pytest.mark.parametrize(
    "name",
    [
        "int Busy.burn(int)", "Interpreter", "StubRoutines (1)", "I2C/C2I adapters",
        "java.lang.Object jdk.internal.misc.Unsafe.getReference(java.lang.Object, long)",
        "instance void [System.Private.CoreLib] System.Foo::Bar(int32)[Optimized]",
        "class [a] A.B::C(class [b] D.E) in F::G()[QuickJitted]", "stub<1> AllocateTemporaryEntryPoints<PRECODE_STUB>",
        "$lists:map/2", "JIT$/srv/app.php:12", "TRACE_1$/srv/app.php$12", "foo@/srv/app.rb:3", "TRACE_12::app.lua:5",
        "Builtin:InterpreterEntryTrampoline", "BytecodeHandler:Add", "RegExp:(\\d+) in a::b", "Function:plain",
        "Foo::operator->", "a->b", "py::odd",
    ],
)  # fmt: skip
def test_all_other_names_stay_as_they_are(name: str) -> None:
    assert jit_frames(name.encode()) == (Frame(name, Kind.JIT),)


@settings(max_examples=300)
@given(st.text(st.sampled_from("JS:*~ /L;()[I>-:12in$.é\n"), max_size=60) | st.text(max_size=30))
def test_any_name_becomes_frames(name: str) -> None:
    frames = jit_frames(b"JS:" + name.encode()) + jit_frames(b"L" + name.encode()) + jit_frames(name.encode() or b"x")
    assert all(frame.function.isprintable() and frame.line >= 0 for frame in frames)


def test_a_map_that_is_written_anew_in_place_and_is_longer_now_forgets_what_it_said(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_bytes(b"1000 10 one\n2000 10 two\n")
    perf_map = read(path)
    identity = path.stat().st_ino
    path.write_bytes(b"3000 10 new\n1000 10 one again\n4000 10 four\n5000 10 five\n")
    assert path.stat().st_ino == identity
    read(path, perf_map)
    assert names(perf_map, 0x1000, 0x2000, 0x3000, 0x5000) == ["one again", None, "new", "five"]


def test_a_wide_entry_shows_through_between_thousands_of_newer_ones(tmp_path: Path) -> None:
    path = tmp_path / "map"
    lines = [b"100000 1000000 wide"] + [b"%x 8 f%d" % (0x200000 + 16 * i, i) for i in range(5000)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    last = 0x200000 + 16 * 4999
    assert names(read(path), 0x100000, last, last + 8, 0x10FFFFF, 0x1100000) == ["wide", "f4999", "wide", "wide", None]


ANONYMOUS = Mapping(0x10000, 0x20000, 0, "")


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    path = Path(f"/tmp/perf-{process.pid}.map")
    yield process.pid
    process.kill()
    process.wait()
    if path.is_symlink() or path.exists():
        path.unlink()


def reason(pid: int) -> tuple[str, Reason | None]:
    frame = Symbolizer().user(pid, [(0x10004, ANONYMOUS)])[0].frames[0]
    return frame.function, frame.reason


def test_code_in_anonymous_memory_is_named_while_its_process_lives_and_after(sleeper: int) -> None:
    path = Path(f"/tmp/perf-{sleeper}.map")
    path.write_text("50000 10 elsewhere\n")
    symbolizer = Symbolizer()
    query = [(0x10004, ANONYMOUS), (0x10004, None), (0x10014, Mapping(0x10000, 0x20000, 0, "//anon"))]
    before = symbolizer.user(sleeper, query)
    assert [x.frames[0].reason for x in before] == [Reason.ANONYMOUS, Reason.NO_MAPPING, Reason.ANONYMOUS]
    with path.open("a") as file:
        file.write("10000 10 jitted\n")
    jitted, unmapped, outside = symbolizer.user(sleeper, query)
    assert jitted.frames == (Frame("jitted", Kind.JIT),)
    assert unmapped.frames[0].reason is Reason.NO_MAPPING
    assert jitted.address == 0x10004
    assert outside.frames[0].reason is Reason.ANONYMOUS
    assert symbolizer.user(sleeper, query)[0] is jitted
    os.kill(sleeper, 9)
    os.waitid(os.P_PID, sleeper, os.WEXITED | os.WNOWAIT)
    path.unlink()
    assert symbolizer.user(sleeper, query)[0].frames[0].function == "jitted"


def test_a_map_that_appears_later_is_found_when_it_is_time_to_look_again(
    sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.jit.jit.time.monotonic", lambda: now[0])
    symbolizer = Symbolizer()
    query = [(0x10004, ANONYMOUS)]
    assert symbolizer.user(sleeper, query)[0].frames[0].reason is Reason.ANONYMOUS
    Path(f"/tmp/perf-{sleeper}.map").write_text("10000 10 jitted\n")
    assert symbolizer.user(sleeper, query)[0].frames[0].reason is Reason.ANONYMOUS
    now[0] += jit.RETRY_SECONDS
    assert symbolizer.user(sleeper, query)[0].frames[0].function == "jitted"


def test_a_process_without_a_map_is_asked_for_its_pid_once_and_one_without_mappings_never(
    sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(pid: int, proc: str) -> tuple[int, frozenset[int]]:
        asked.append(pid)
        return inner_pid_and_users(pid, proc)

    monkeypatch.setattr("symbolizer.jit.jit.inner_pid_and_users", counted)
    symbolizer = Symbolizer()
    for _ in range(3):
        symbolizer.user(sleeper, [(address, None) for address in range(100)], [os.getpid()])
    assert asked == []
    for _ in range(3):
        symbolizer.user(sleeper, [(0x10004, ANONYMOUS), (0x10008, ANONYMOUS), (1, None)], [os.getpid()])
    assert asked == [sleeper]


def test_a_fifo_a_device_a_link_a_directory_and_a_foreign_file_are_no_perf_maps(sleeper: int) -> None:
    path = Path(f"/tmp/perf-{sleeper}.map")
    os.mkfifo(path)
    assert reason(sleeper) == ("[perf map: not a regular file]", Reason.UNREADABLE_FILE)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert reason(sleeper) == ("[perf map: not a regular file]", Reason.UNREADABLE_FILE)
    path.unlink()
    path.mkdir()
    assert reason(sleeper) == ("[perf map: not a regular file]", Reason.UNREADABLE_FILE)
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(2 << 30)
    assert reason(sleeper) == ("[perf map: larger than 64 MB]", Reason.UNREADABLE_FILE)
    path.unlink()
    path.write_text("10000 10 jitted\n")
    assert reason(sleeper) == ("jitted", None)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert reason(sleeper) == ("[perf map: owned by another user]", Reason.UNREADABLE_FILE)


def test_the_map_of_a_process_that_had_the_pid_before_is_not_read(sleeper: int) -> None:
    path = Path(f"/tmp/perf-{sleeper}.map")
    path.write_text("10000 10 of another\n")
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    assert reason(sleeper)[1] is Reason.ANONYMOUS
    path.write_text("10000 10 its own\n")
    assert reason(sleeper) == ("its own", None)


def test_a_process_of_its_own_pid_and_mount_namespace_finds_its_map(tmp_path: Path) -> None:
    script = "mount -t tmpfs none /tmp && printf '10000 10 inside\\n' > /tmp/perf-1.map && exec sleep 600"
    process = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script], stderr=subprocess.DEVNULL)
    try:
        inner = _child_named(process.pid, "sleep")
        if inner is None:
            pytest.skip("needs the right to make namespaces")
        with Process(inner) as inside:
            found = Jit(1 << 20).locations(inside, [0x10001])
        assert found[0x10001].frames[0].function == "inside"
        os.kill(inner, 9)
    finally:
        process.kill()
        process.wait()


def _child_named(parent: int, comm: str) -> int | None:
    for _ in range(500):
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            for child in map(int, children):
                if Path(f"/proc/{child}/comm").read_text().strip() == comm:
                    return child
            if Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return None
        except OSError:
            return None
        os.sched_yield()
        subprocess.run(["sleep", "0.01"], check=True)
    return None


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"x\n" * 1_100_000, "entries"), (b"10 8 f\n" + b"x" * (3 << 20), "line"), (b"1 1 " + b"x" * (3 << 20), "line")],
)
def test_a_map_of_nonsense_is_given_up_before_it_takes_time(text: bytes, why: str, tmp_path: Path) -> None:
    path, perf_map = tmp_path / "map", PerfMap()
    path.write_bytes(text)
    for _ in range(2):
        with pytest.raises(PerfMapError, match=why):
            read(path, perf_map)
        assert len(perf_map) == 0 and names(perf_map, 0x11) == [None]
    path.write_bytes(b"10 8 f\n")
    assert names(read(path, perf_map), 0x11) == ["f"]


def test_ids_of_a_process_that_make_no_sense_count_as_unknown(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    for status in (b"NSpid:\t7\t" + b"9" * 5000 + b"\nUid:\tx\ty\n", b"Uid:\t1\t2\n", b"", b"\xff" * 100):
        (tmp_path / "7" / "status").write_bytes(status)
        assert inner_pid_and_users(7, str(tmp_path))[1] == frozenset()
    (tmp_path / "7" / "status").write_bytes(b"NSpid:\t7\t3\nUid:\t1\t2\t1\t1\n")
    assert inner_pid_and_users(7, str(tmp_path)) == (3, frozenset({1, 2}))
