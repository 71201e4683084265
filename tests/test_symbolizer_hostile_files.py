"""Files that are in the way of names: links that lead nowhere, huge ones, such as change, and two with one build id."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symbolizer import locate
from symbolizer import symbolizer as module
from symbolizer.elf import read_elf
from symbolizer.files import NotRegularError, open_beneath, open_link, open_root
from symbolizer.identity import code_identity
from symbolizer.locate import is_file, is_memory_file, memory_location, open_mapped
from symbolizer.process import Process
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Binary, Frame, Location, Mapping, Reason
from symbolizer.unknown import UnknownError
from tests.test_symbolizer_symbolizer import Running, build_id_of, function, mappings

PROGRAM = """
#include <stdio.h>
#include <unistd.h>
int NAME(int x) { volatile int y = x; while (y) y--; return y; }
int main() { PADDING printf("%p\\n", (void *)NAME); fflush(stdout); pause(); return NAME(3); }
"""
UNUSED = 'if (getppid() == -7) puts("never");'
SAME_ID = "-Wl,--build-id=0x" + "5a" * 20


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """build("name", "function", FLAG…) → a program whose `function` is where it says."""
    if not shutil.which("gcc"):
        pytest.fail("gcc is not installed: `make setup-dev` installs it", pytrace=False)

    def run(name: str, named: str, *flags: str, padding: str = "") -> Path:
        source, output = tmp_path / "source.c", tmp_path / "built" / name
        output.parent.mkdir(exist_ok=True)
        source.write_text(PROGRAM.replace("NAME", named).replace("PADDING", padding))
        subprocess.run(["gcc", "-O1", "-o", output, source, *flags], check=True)
        return output

    return run


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(path: Path) -> Running:
        started.append(Running(path))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.symbolizer.time.monotonic", lambda: now[0])
    return now


def frame_of(mapping: Mapping, address: int = 0, symbolizer: Symbolizer | None = None) -> Frame:
    query = (address or mapping.start + 0x100, mapping)
    return (symbolizer or Symbolizer()).user(os.getpid(), [query])[0].frames[0]


def mapping_of(path: Path, build_id: str = "") -> Mapping:
    """A mapping of a file that this process does not really have."""
    status = path.stat()
    return Mapping(0x1000, 0x100000, 0, str(path), build_id, status.st_dev, status.st_ino)


def reported(running: Running, path: Path) -> Mapping:
    """The running program's mapping as the kernel and its build id tell it."""
    mapping = running.mapping()
    return Mapping(
        mapping.start, mapping.end, mapping.offset, str(path), build_id_of(path), mapping.device, mapping.inode
    )


def address_of(path: Path, name: str) -> int:
    """Where a function would be in a mapping_of() the file."""
    table = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    value = int(next(line.split()[0] for line in table.splitlines() if line.endswith(f" {name}")), 16)
    data = path.read_bytes()
    elf = read_elf(lambda offset, size: data[offset : offset + size])
    offset, _, address = next(load for load in elf.loads if load[2] <= value < load[2] + load[1])
    return 0x1000 + value - address + offset


# What the path leads to


def test_links_in_a_circle_and_links_to_nowhere_say_so(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "self").symlink_to("self/self")
    (tmp_path / "nowhere").symlink_to("not there")
    for name in ("one", "self"):
        frame = frame_of(Mapping(0x1000, 0x2000, 0, str(tmp_path / name), "00" * 20))
        assert frame.function == f"[{name}: symbolic links lead in a circle]"
        assert frame.reason is Reason.UNREADABLE_FILE
    frame = frame_of(Mapping(0x1000, 0x2000, 0, str(tmp_path / "nowhere"), "00" * 20))
    assert (frame.function, frame.reason) == ("[nowhere: file missing]", Reason.FILE_MISSING)


def test_what_is_not_a_regular_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "kernel").symlink_to("/proc/sys/kernel/ostype")
    (tmp_path / "module").symlink_to("/sys/kernel/notes")
    opened: list[int] = []
    really = os.open

    def noted(path: str, flags: int) -> int:
        opened.append(flags)
        return really(path, flags)

    root = open_root("/")
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", noted)
            for name in ("fifo", "socket", "device", "kernel", "module", "."):
                with pytest.raises(NotRegularError):
                    open_beneath(root, str(tmp_path / name))
                with pytest.raises(NotRegularError):
                    open_link(str(tmp_path / name))
        assert opened and all(flags & os.O_PATH for flags in opened)
    finally:
        os.close(root)
        listening.close()
    for name in ("fifo", "socket", "device", "kernel", "."):
        frame = frame_of(Mapping(0x1000, 0x2000, 0, str(tmp_path / name), "00" * 20))
        assert frame.reason is Reason.UNREADABLE_FILE and "not a regular file" in frame.function


# Huge files


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    really = os.pread

    def pread(handle: int, size: int, offset: int) -> bytes:
        data = really(handle, size, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr("symbolizer.files.os.pread", pread)
    return read


def test_a_sparse_file_of_a_terabyte_costs_no_more_than_another(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = build("program", "huge", "-Wl,--build-id=none")
    path = tmp_path / "sparse"
    shutil.copy(program, path)
    os.truncate(path, 1 << 40)
    address = address_of(program, "huge")
    read = counted_reads(monkeypatch)
    assert frame_of(mapping_of(path), address).function == "huge"
    assert sum(read) < 8 << 20


@pytest.mark.parametrize("claim", ["nothing", "symbols", "call frame information", "headers"])
def test_a_sparse_file_that_claims_to_be_all_symbols_is_refused_within_bounds(
    claim: str, build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse"
    data = bytearray(build("program", "huge").read_bytes())
    (sections_at,), (count,) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<H", data, 60)
    for at in range(sections_at, sections_at + 64 * count, 64):
        kind, size = struct.unpack_from("<I", data, at + 4)[0], struct.unpack_from("<Q", data, at + 32)[0]
        if claim == "symbols" and kind in (2, 3) or claim == "call frame information" and kind == 1 and size:
            struct.pack_into("<Q", data, at + 32, 1 << 40)
    if claim == "headers":
        struct.pack_into("<Q", data, 40, (1 << 40) - 64)
    path.write_bytes(b"" if claim == "nothing" else data)
    os.truncate(path, 1 << 40)
    read = counted_reads(monkeypatch)
    frame = frame_of(mapping_of(path))
    if claim != "call frame information":
        assert (frame.reason, path.name in frame.function) == (Reason.UNREADABLE_FILE, True)
    assert sum(read) < 128 << 20


# Files that are others by now


def test_a_program_that_is_replaced_while_it_runs_is_named_by_what_it_runs(
    build: Callable[..., Path], run: Callable[..., Running]
) -> None:
    path = build("service", "before")
    old = run(path)
    old_mapping = reported(old, path)
    build("newer", "after").rename(path)
    new = run(path)
    new_mapping = reported(new, path)
    assert old_mapping.build_id != new_mapping.build_id
    symbolizer = Symbolizer()
    for running, mapping, name in [(old, old_mapping, "before"), (new, new_mapping, "after")] * 2:
        assert function(symbolizer.user(running.pid, [(running.spin, mapping)])[0]) == name


def test_of_files_with_one_build_id_that_which_is_mapped_is_opened(
    build: Callable[..., Path], run: Callable[..., Running]
) -> None:
    path = build("service", "before", SAME_ID)
    running = run(path)
    mapping = reported(running, path)
    build("newer", "after", SAME_ID).rename(path)
    with Process(running.pid) as process:
        handle = open_mapped(process, mapping)
    assert os.fstat(handle).st_ino == mapping.inode != path.stat().st_ino
    os.close(handle)


def test_the_same_inode_on_another_device_is_another_file(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build("program", "named", "-Wl,--build-id=none")
    mapping = mapping_of(path)
    elsewhere = Mapping(mapping.start, mapping.end, 0, str(path), "", mapping.device + 1, mapping.inode)
    with Process(os.getpid()) as process:
        os.close(open_mapped(process, mapping))
        with pytest.raises(UnknownError) as refused:
            open_mapped(process, elsewhere)
        assert refused.value.frame.function == "[program: file replaced]"
        monkeypatch.setattr(locate, "is_layered", lambda handle: True)  # where devices say nothing
        os.close(open_mapped(process, elsewhere))


def test_a_file_written_anew_in_its_place_is_read_anew(
    build: Callable[..., Path], tmp_path: Path, clock: list[float]
) -> None:
    first = build("first", "one_name", "-Wl,--build-id=none")
    second = build("second", "other_name", "-Wl,--build-id=none", padding=UNUSED * 9)
    path = tmp_path / "written"
    shutil.copy(first, path)
    mapping, symbolizer = mapping_of(path), Symbolizer()
    at_first, at_second = address_of(first, "one_name"), address_of(second, "other_name")
    assert frame_of(mapping, at_first, symbolizer).function == "one_name"
    path.write_bytes(second.read_bytes())
    clock[0] += module.RETRY_SECONDS + 1
    assert frame_of(mapping, at_second, symbolizer).function == "other_name"
    assert frame_of(mapping, at_first, symbolizer).function != "one_name"
    path.unlink()  # what was known stays known
    clock[0] += module.RETRY_SECONDS + 1
    assert frame_of(mapping, at_second, symbolizer).function == "other_name"


def test_a_file_that_changes_while_it_is_read_is_not_believed_but_read_again_later(
    build: Callable[..., Path], tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = build("first", "one_name"), build("second", "other_name", padding=UNUSED * 9)
    path = tmp_path / "changing"
    shutil.copy(first, path)
    mapping = mapping_of(path)
    symbolizer = Symbolizer()
    really, reads = os.pread, [0]

    def pread(handle: int, size: int, offset: int) -> bytes:
        reads[0] += 1
        if reads[0] == 4:
            path.write_bytes(second.read_bytes())
        return really(handle, size, offset)

    with monkeypatch.context() as patched:
        patched.setattr("symbolizer.files.os.pread", pread)
        frame = frame_of(mapping, symbolizer=symbolizer)
    assert reads[0] > 4
    assert frame.function in ("[changing: changed while it was read]", "[changing: damaged ELF file]")
    assert frame.reason is Reason.UNREADABLE_FILE
    clock[0] += module.RETRY_SECONDS + 1
    assert frame_of(mapping, address_of(second, "other_name"), symbolizer).function == "other_name"


# Build ids that two files have


@pytest.mark.parametrize("first", [0, 1])
def test_two_files_with_one_build_id_each_have_their_own_names(
    first: int, build: Callable[..., Path], run: Callable[..., Running]
) -> None:
    names = ["one_name", "other_name"]
    paths = [build(name, name, SAME_ID, padding=UNUSED * 9 * i) for i, name in enumerate(names)]
    running = [run(path) for path in paths]
    symbolizer = Symbolizer()
    found: dict[int, Location] = {}
    for i in (first, 1 - first, first):
        mapping = reported(running[i], paths[i])
        location = symbolizer.user(running[i].pid, [(running[i].spin, mapping)])[0]
        assert function(location) == names[i]
        assert found.setdefault(i, location) is location
    assert build_id_of(paths[0]) == build_id_of(paths[1]) == "5a" * 20
    one, other = found[first].binary, found[1 - first].binary
    assert one == Binary(str(paths[first]), "5a" * 20)
    assert other is not None and other.build_id.startswith("5a" * 20 + "@")


def test_a_copy_without_symbols_is_the_same_code_and_a_changed_one_is_not(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    def identity(path: Path) -> str:
        data = path.read_bytes()
        return code_identity(read_elf(lambda offset, size: data[offset : offset + size]))

    path = build("program", "named", SAME_ID)
    stripped, patched = tmp_path / "stripped", tmp_path / "patched"
    subprocess.run(["strip", "-o", stripped, path], check=True)
    assert stripped.stat().st_size != path.stat().st_size
    assert identity(stripped) == identity(path)
    data = bytearray(path.read_bytes())
    elf = read_elf(lambda offset, size: bytes(data[offset : offset + size]))
    code = next(segment for segment in elf.segments if segment.kind == "PT_LOAD" and segment.executable)
    data[code.offset + code.size - 1] ^= 1
    patched.write_bytes(data)
    assert build_id_of(patched) == build_id_of(path)
    assert identity(patched) != identity(path)
    assert identity(build("renamed", "other", SAME_ID)) == identity(path)  # which is how names differ, not code


# Memory that shows no file

MAPS = """\
00400000-00401000 r-xp 00000000 00:00 0                                  [anon:code heap]
00500000-00501000 rw-p 00000000 00:00 0                                  [anon:data]
00600000-00601000 rwxp 00000000 00:00 0~
01000000-01001000 rwxp 00000000 00:00 0                                  [heap]
7f0000000000-7f0000001000 r-xp 00000000 fe:00 17                         /usr/lib/libfoo.so
7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0~
7ffd00001000-7ffd00002000 rwxp 00000000 00:00 0~
7ffd00002000-7ffd00005000 rw-p 00000000 00:00 0                          [stack]
"""


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """A /proc with one process, 7, that has memory of every kind."""
    folder = tmp_path / "proc" / "7"
    folder.mkdir(parents=True)
    (folder / "maps").write_text(MAPS.replace("~", " "))  # as the kernel ends lines without a name
    (folder / "exe").symlink_to("/bin/true")
    return folder.parent


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("[heap]", "heap"),
        ("[stack]", "stack"),
        ("[anon:v8]", "anon:v8"),
        ("/memfd:doublemapper (deleted)", "memfd:doublemapper"),
        ("/memfd:a/b", "memfd:a/b"),
        ("/SYSV0000002a (deleted)", "SYSV0000002a"),
        ("/dev/zero (deleted)", "/dev/zero"),
        ("/dev/zero", "/dev/zero"),
        ("/dev/shm/jit (deleted)", "/dev/shm/jit"),
        ("/anon_hugepage (deleted)", "anon_hugepage"),
        ("[anon:\x1b[31m\u202e]", r"anon:\x1b[31m\u202e"),
    ],
)
def test_memory_is_called_what_the_kernel_calls_it(path: str, name: str, made_up: Path) -> None:
    assert not is_file(path) or is_memory_file(path)
    with Process(7, proc=str(made_up)) as process:
        location = memory_location(process, Mapping(0x90000, 0x91000, 0, path), 0x90010)
    assert location.binary == Binary(f"[{name}]")
    assert location.frames[0].function == f"[{name}: anonymous memory]"
    assert (location.address, location.frames[0].reason) == (0x90010, Reason.ANONYMOUS)


@pytest.mark.parametrize(
    ("address", "name"),
    [(0x400010, "anon:code heap"), (0x600010, ""), (0x1000010, "heap"), (0x7FFD00001010, "stack"), (0x99, "")],
)
@pytest.mark.parametrize("path", ["", "//anon"])
def test_anonymous_memory_is_called_what_it_is_called_now(path: str, address: int, name: str, made_up: Path) -> None:
    mapping = Mapping(address & ~0xFFF, address | 0xFFF, 0, path)
    with Process(7, proc=str(made_up)) as process:
        location = memory_location(process, mapping, address)
    assert location.frames[0].function == (f"[{name}: anonymous memory]" if name else "[anonymous memory]")
    assert location.binary == (Binary(f"[{name}]") if name else None)


def test_memory_of_a_process_that_is_gone_says_so(made_up: Path) -> None:
    with Process(8, proc=str(made_up)) as process:
        for path, name in [("", "[process gone]"), ("[heap]", "[heap: process gone]")]:
            frame = memory_location(process, Mapping(0x400000, 0x401000, 0, path), 0x400010).frames[0]
            assert (frame.function, frame.reason) == (name, Reason.PROCESS_GONE)


def test_memory_says_which_it_is_where_no_compiler_names_it() -> None:
    mapping = Mapping(0x400000, 0x401000, 0, "/memfd:code (deleted)", "", 1, 99)
    for path in ("[heap]", "/SYSV00000000 (deleted)", "/memfd:code (deleted)"):
        mapping = Mapping(0x400000, 0x401000, 0, path, "", 1, 99)
        location = Symbolizer().user(os.getpid(), [(0x400010, mapping)])[0]
        assert location.frames[0].reason is Reason.ANONYMOUS
        assert location.binary is not None and location.binary.path.startswith("[")


def test_a_program_that_memory_holds_is_named_as_a_file(build: Callable[..., Path]) -> None:
    path = build("plain", "from_memory")
    script = (
        "import os; fd = os.memfd_create('hidden', 0)\n"
        f"os.write(fd, open({str(path)!r}, 'rb').read()); os.execve(fd, ['hidden'], os.environ)"
    )
    running = Running(Path(script), shutil.which("python3") or "python3", "-c")
    try:
        mapping = next(m for m in mappings(running.pid) if m.start <= running.spin < m.end)
        assert mapping.path == "/memfd:hidden (deleted)"
        location = Symbolizer().user(running.pid, [(running.spin, mapping)])[0]
        assert function(location) == "from_memory"
        assert location.binary == Binary("/memfd:hidden", build_id_of(path))
    finally:
        running.stop()
