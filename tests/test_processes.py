"""Mappings in force, from records as the kernel writes them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest

from profiler import processes, records
from profiler.processes import Processes, read_maps, read_status
from profiler.records import COMM, EXIT, FORK, MISC_COMM_EXEC, MMAP2, Batch
from symbolizer.types import Mapping

NOBODY = 4_000_000  # above any pid_max in use, so that /proc never answers for it
Record = tuple[int, int, int, bytes]


def fork(time: int, pid: int, parent: int) -> Record:
    return time, FORK, 0, struct.pack("=IIII", pid, parent, pid, parent)


def thread(time: int, pid: int, tid: int) -> Record:
    return time, FORK, 0, struct.pack("=IIII", pid, pid, tid, pid)


def leave(time: int, pid: int) -> Record:
    return time, EXIT, 0, struct.pack("=IIII", pid, 1, pid, 1)


def name(time: int, pid: int, comm: bytes, *, execed: bool = False, tid: int | None = None) -> Record:
    body = struct.pack("=II", pid, tid or pid) + comm.ljust(16, b"\0")
    return time, COMM, MISC_COMM_EXEC if execed else 0, body


def mapped(time: int, pid: int, start: int, end: int, path: bytes, offset: int = 0) -> Record:
    file_id = struct.pack("=IIQQ", 8, 1, 77, 0)
    body = struct.pack("=IIQQQ", pid, pid, start, end - start, offset)
    body += file_id.ljust(24, b"\0") + struct.pack("=II", 5, 2) + path + b"\0"
    return time, MMAP2, 0, body


def applied(*given: Record) -> Processes:
    known = Processes()
    known.apply(Batch(list(given), 0))
    return known


def paths(known: Processes, pid: int, start: int = 0, end: int = 1000) -> list[tuple[str, list[str]]]:
    return [(p.name, [m.path for m in p.mapped.mappings()]) for p in known.programs(pid, start, end)]


def test_an_exec_begins_a_new_program_with_its_own_mappings() -> None:
    pid = NOBODY + 1
    known = applied(
        fork(10, pid, 1),
        name(20, pid, b"sh", execed=True),
        mapped(21, pid, 0x1000, 0x2000, b"/bin/sh"),
        name(50, pid, b"ls", execed=True),
        mapped(51, pid, 0x5000, 0x6000, b"/bin/ls"),
    )
    assert paths(known, pid, 0, 100)[1:] == [("sh", ["/bin/sh"]), ("ls", ["/bin/ls"])]
    assert paths(known, pid, 60, 100) == [("ls", ["/bin/ls"])]
    assert paths(known, pid, 22, 40) == [("sh", ["/bin/sh"])]


def test_a_child_inherits_what_its_parent_had_mapped_when_it_forked() -> None:
    parent, child = NOBODY + 1, NOBODY + 2
    known = applied(
        name(1, parent, b"server", execed=True),
        mapped(2, parent, 0x1000, 0x2000, b"/bin/server"),
        fork(10, child, parent),
        mapped(20, parent, 0x8000, 0x9000, b"/lib/later.so"),
    )
    assert paths(known, child) == [("server", ["/bin/server"])]
    assert known.relatives(child)[0] == parent


def test_threads_are_no_processes() -> None:
    pid = NOBODY + 1
    known = applied(name(1, pid, b"x", execed=True), thread(2, pid, pid + 1), name(3, pid, b"worker", tid=pid + 1))
    assert len(known) == 1
    assert paths(known, pid)[-1][0] == "x"


def test_the_newest_mapping_wins_where_mappings_overlap() -> None:
    pid = NOBODY + 1
    known = applied(
        name(1, pid, b"x", execed=True),
        mapped(2, pid, 0x1000, 0x9000, b"/old", offset=0x100),
        mapped(3, pid, 0x3000, 0x5000, b"/new"),
    )
    found = known.programs(pid, 0, 10)[-1].mapped.mappings()
    assert [(m.start, m.end, m.offset, m.path) for m in found] == [
        (0x1000, 0x3000, 0x100, "/old"),
        (0x3000, 0x5000, 0, "/new"),
        (0x5000, 0x9000, 0x4100, "/old"),
    ]


def test_a_mapping_that_covers_others_replaces_them() -> None:
    pid = NOBODY + 1
    known = applied(
        name(1, pid, b"x", execed=True),
        mapped(2, pid, 0x1000, 0x2000, b"/a"),
        mapped(3, pid, 0x2000, 0x3000, b"/b"),
        mapped(4, pid, 0x4000, 0x5000, b"/c"),
        mapped(5, pid, 0x1000, 0x3000, b"/all"),
    )
    assert [m.path for m in known.programs(pid, 0, 10)[-1].mapped.mappings()] == ["/all", "/c"]


def test_identity_of_the_file_is_kept() -> None:
    pid = NOBODY + 1
    known = applied(name(1, pid, b"x", execed=True), mapped(2, pid, 0x2000, 0x3000, b"/b"))
    assert known.programs(pid, 0, 10)[-1].mapped.mappings() == [
        Mapping(0x2000, 0x3000, 0, "/b", device=os.makedev(8, 1), inode=77)
    ]


def test_a_process_that_ended_is_known_for_its_window_and_then_forgotten() -> None:
    pid = NOBODY + 1
    known = applied(name(1, pid, b"x", execed=True), mapped(2, pid, 0x1000, 0x2000, b"/a"), leave(5, pid))
    assert paths(known, pid, 0, 10)[-1] == ("x", ["/a"])
    known.end_window(10)
    assert len(known) == 0
    assert known.programs(pid, 10, 20) == []


def test_programs_that_ended_before_the_window_are_forgotten() -> None:
    pid = NOBODY + 1
    known = applied(name(1, pid, b"x", execed=True), name(5, pid, b"y", execed=True))
    known.end_window(10)
    assert [p.name for p in known.programs(pid, 0, 20)] == ["y"]


def test_many_mappings_of_one_process_do_not_pile_up() -> None:
    pid = NOBODY + 1
    given = [name(1, pid, b"jit", execed=True)]
    given += [mapped(2 + i, pid, 0x1000, 0x2000, b"//anon") for i in range(10_000)]
    known = applied(*given)
    assert known._mappings < 1000
    assert len(known.programs(pid, 0, 20_000)[-1].mapped.mappings()) == 1


def test_over_the_limit_processes_that_were_never_sampled_lose_their_mappings_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "MOST_MAPPINGS", 100)
    sampled, idle = NOBODY + 1, NOBODY + 2
    known = applied(
        name(1, sampled, b"s", execed=True), *[mapped(2, sampled, 0x1000 * i, 0x1000 * i + 1, b"/s") for i in range(40)]
    )
    known.programs(sampled, 0, 10)
    known.apply(
        Batch(
            [
                name(3, idle, b"i", execed=True),
                *[mapped(4, idle, 0x1000 * i, 0x1000 * i + 1, b"/i") for i in range(70)],
            ],
            0,
        )
    )
    assert known.mappings_dropped == 70
    assert len(known.programs(sampled, 0, 10)[-1].mapped.mappings()) == 40


def test_a_live_process_whose_records_were_lost_is_read_again() -> None:
    known = Processes()
    known.scan()
    rescans = known.rescans
    known.apply(Batch([], 17))
    program = known.programs(os.getpid(), 0, 1 << 62)[-1]
    assert known.records_lost == 17 and known.rescans == rescans + 1
    assert known.losses() == (
        "17 process records were lost and 0 mappings dropped; 1 sampled processes were read from /proc again."
    )
    assert known.losses() == ""
    assert any(os.path.basename(sys.executable) in m.path or "python" in m.path for m in program.mapped.mappings())
    known.programs(os.getpid(), 0, 1 << 62)
    assert known.rescans == rescans + 1


def test_proc_maps_are_read_with_their_files_identity() -> None:
    own = read_maps(os.getpid())
    libc = next(m for m in own if "libc" in m.path)
    status = os.stat(libc.path)
    assert (libc.inode, libc.device) == (status.st_ino, status.st_dev)
    assert read_status(os.getpid())[1] == os.getppid()


def test_a_process_name_with_parentheses_and_spaces_is_read_whole() -> None:
    code = "import ctypes,time; ctypes.CDLL(None).prctl(15, b'a) R (1 b'); print(flush=True); time.sleep(30)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            assert read_status(process.pid) == ("a) R (1 b", os.getpid())
        finally:
            process.kill()


def test_the_stream_tells_of_a_process_that_lived_for_a_moment() -> None:
    stream = records.RecordStream()
    try:
        stream.read()
        pid = subprocess.Popen(["/bin/true"])
        pid.wait()
        batch = stream.read()
    finally:
        stream.close()
    known = Processes()
    known.apply(batch)
    programs = known.programs(pid.pid, 0, 1 << 62)
    assert programs[-1].name == "true"
    assert any("libc.so" in m.path and len(m.build_id) == 40 for m in programs[-1].mapped.mappings())
    times = [record[0] for record in batch.records]
    assert times == sorted(times)


def test_lines_of_maps_that_are_not_of_its_form_are_left_out() -> None:
    good = b"00400000-00452000 r-xp 00000000 08:02 173521 /bin/a\\012b\n"
    for bad in (
        b"1-2 r-xp 0 123456789:0 1 /device\n",
        b"1-2 r-xp 0 0:0 " + b"9" * 5000 + b" /inode\n",
        b"11111111111111111-2 r-xp 0 0:0 1 /address\n",
        b"garbage\n",
        b"1-2 r-xp 0\n",
    ):
        (found,) = processes.parse_maps(bad + good + bad)
        assert (found.start, found.end, found.path, found.inode) == (0x400000, 0x452000, "/bin/a\nb", 173521)
