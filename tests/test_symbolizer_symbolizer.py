"""The symbolizer as its callers use it: real processes, real files, and files that are gone or bad."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symbolizer import symbolizer as module
from symbolizer.elf import read_elf
from symbolizer.files import NotRegularError, open_beneath, open_root
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Binary, Kind, Location, Mapping, Reason

PROGRAM = """
#include <unistd.h>
#include <stdio.h>
int spin(int x) { volatile int y = x; while (y) y--; return y; }
int main() { printf("%p\\n", (void *)spin); fflush(stdout); pause(); return spin(3); }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    if not shutil.which("gcc"):
        pytest.fail("gcc is not installed: `make setup-dev` installs it", pytrace=False)
    folder = tmp_path_factory.mktemp("program")

    def build(name: str, *options: str) -> Path:
        (folder / "p.c").write_text(PROGRAM)
        output = folder / name
        subprocess.run(["gcc", "-O1", "-o", output, folder / "p.c", *options], check=True)
        return output

    return build


class Running:
    """A started PROGRAM: `spin` is where that function is in it."""

    def __init__(self, path: Path, *before: str) -> None:
        self.process = subprocess.Popen([*before, path], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.spin = int(self.process.stdout.readline(), 16)
        self.pid = self.process.pid

    def mapping(self, build_id: str = "") -> Mapping:
        return next(m for m in mappings(self.pid, build_id) if m.start <= self.spin < m.end)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def run(path: Path) -> Running:
        started.append(Running(path))
        return started[-1]

    yield run
    for running in started:
        running.stop()


def mappings(pid: int, build_id: str = "") -> list[Mapping]:
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(None, 5)
        if "x" in fields[1]:
            start, end = (int(x, 16) for x in fields[0].split("-"))
            major, minor = (int(x, 16) for x in fields[3].split(":"))
            path = fields[5] if len(fields) > 5 else ""
            device, inode = (0, 0) if build_id else (os.makedev(major, minor), int(fields[4]))
            found.append(Mapping(start, end, int(fields[2], 16), path, build_id, device, inode))
    return found


def build_id_of(path: Path) -> str:
    data = path.read_bytes()
    return read_elf(lambda offset, size: data[offset : offset + size]).build_id()


def function(location: Location) -> str:
    return location.frames[0].function


def test_a_running_program_is_named_with_file_offset_and_build_id(
    program: Callable[..., Path], run: Callable[..., Running]
) -> None:
    path = program("plain")
    running = run(path)
    location = Symbolizer().user(running.pid, [(running.spin + 1, running.mapping())])[0]
    assert function(location) == "spin"
    assert location.frames[0].kind is Kind.NATIVE
    assert location.binary == Binary(str(path), build_id_of(path))
    mapping = running.mapping()
    assert location.address == running.spin + 1 - mapping.start + mapping.offset


@pytest.mark.parametrize(
    "options",
    [
        ["-fno-pie", "-no-pie"],
        ["-static"],
        ["-static-pie"],
        ["-fno-pie", "-no-pie", "-Wl,-Ttext-segment=0x20000000"],
        ["-Wl,-z,noseparate-code"],
        ["-Wl,--build-id=none"],
    ],
    ids=" ".join,
)
def test_every_way_of_linking_is_named(
    options: list[str], program: Callable[..., Path], run: Callable[..., Running]
) -> None:
    running = run(program("linked" + str(abs(hash(tuple(options)))), *options))
    location = Symbolizer().user(running.pid, [(running.spin + 1, running.mapping())])[0]
    assert function(location) == "spin"
    assert location.binary is not None
    assert location.binary.build_id.startswith("content:") == ("-Wl,--build-id=none" in options)


def test_the_same_address_of_the_same_file_is_the_same_location_in_every_process(
    program: Callable[..., Path], run: Callable[..., Running]
) -> None:
    path = program("plain")
    one, two = run(path), run(path)
    symbolizer = Symbolizer()
    first = symbolizer.user(one.pid, [(one.spin + 1, one.mapping())] * 2)
    second = symbolizer.user(two.pid, [(two.spin + 1, two.mapping(build_id_of(path)))])
    assert first[0] is first[1] is second[0]


def test_a_deleted_or_replaced_binary_is_named_while_it_runs_and_once_known_for_ever(
    program: Callable[..., Path], run: Callable[..., Running], tmp_path: Path
) -> None:
    path = tmp_path / "deleted"
    shutil.copy(program("plain"), path)
    build_id = build_id_of(path)
    running = run(path)
    path.unlink()
    shutil.copy("/bin/true", path)
    symbolizer = Symbolizer()
    for mapping in (running.mapping(), running.mapping(build_id)):
        assert mapping.path.endswith(" (deleted)")
        location = symbolizer.user(running.pid, [(running.spin + 1, mapping)])[0]
        assert function(location) == "spin"
        assert location.binary == Binary(str(path), build_id)
    fresh = Symbolizer()
    as_mapped = Mapping(mapping.start, mapping.end, mapping.offset, str(path), build_id)
    assert function(fresh.user(running.pid, [(running.spin + 1, as_mapped)])[0]) == "spin"
    running.stop()
    assert symbolizer.user(running.pid, [(running.spin + 1, mapping)])[0] is location


def test_a_process_that_is_gone_is_named_through_its_relatives_or_the_host(
    program: Callable[..., Path], run: Callable[..., Running]
) -> None:
    path = program("plain")
    running = run(path)
    queries = [(running.spin + 1, running.mapping()), (running.spin + 1, running.mapping(build_id_of(path)))]
    running.stop()
    assert [function(x) for x in Symbolizer().user(running.pid, queries, [os.getpid()])] == ["spin"] * 2
    assert [function(x) for x in Symbolizer().user(running.pid, queries)] == ["spin"] * 2


@pytest.mark.parametrize("known", ["build id", "inode"])
def test_a_file_that_is_not_the_mapped_one_is_not_believed(
    known: str, program: Callable[..., Path], run: Callable[..., Running], tmp_path: Path
) -> None:
    path = tmp_path / "replaced"
    shutil.copy(program("plain"), path)
    running = run(path)
    mapping = running.mapping(build_id_of(path) if known == "build id" else "")
    running.stop()
    path.rename(tmp_path / "kept, so that its inode is not given to another")
    shutil.copy(program("other", "-DOTHER", "-O2"), path)
    frame = Symbolizer().user(running.pid, [(running.spin + 1, mapping)])[0].frames[0]
    assert (frame.function, frame.reason) == ("[replaced: file replaced]", Reason.FILE_MISSING)
    path.unlink()
    frame = Symbolizer().user(running.pid, [(running.spin + 1, mapping)])[0].frames[0]
    assert (frame.function, frame.reason) == ("[replaced: file missing]", Reason.FILE_MISSING)


def test_unknown_addresses_say_why(program: Callable[..., Path], run: Callable[..., Running]) -> None:
    running = run(program("stripped", "-static", "-s"))
    symbolizer = Symbolizer()
    stripped = symbolizer.user(running.pid, [(running.spin, running.mapping())])[0]
    assert re.fullmatch(r"\[stripped\+0x[0-9a-f]+: no symbols\]", function(stripped))
    assert stripped.frames[0].reason is Reason.NO_SYMBOLS
    plain = run(program("plain"))
    mapping = plain.mapping()
    outside = symbolizer.user(plain.pid, [(mapping.end - 1, mapping)])[0]
    assert outside.frames[0].reason is Reason.OUTSIDE_SYMBOLS
    assert outside.binary is not None and outside.binary.build_id
    assert symbolizer.user(plain.pid, [(5, None)])[0].frames[0].reason is Reason.NO_MAPPING
    plain.stop()
    assert symbolizer.user(plain.pid, [(5, None)])[0].frames[0].reason is Reason.PROCESS_GONE


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (b"not an elf", "not an ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(20), "damaged ELF file"),
        (b"", "not an ELF file"),
    ],
)
def test_files_that_are_no_elf_files_say_so(content: bytes, label: str, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    status = path.stat()
    for mapping in (
        Mapping(0x1000, 0x2000, 0, str(path), "", status.st_dev, status.st_ino),
        Mapping(0x1000, 0x2000, 0, str(path), "00" * 20),
    ):
        location = Symbolizer().user(os.getpid(), [(0x1100, mapping)])[0]
        assert (function(location), location.frames[0].reason) == (f"[bad: {label}]", Reason.UNREADABLE_FILE)


def test_a_fifo_a_device_and_a_directory_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null"), tmp_path):
        status = path.stat()
        mapping = Mapping(0x1000, 0x2000, 0, str(path), "", status.st_dev, status.st_ino)
        frame = Symbolizer().user(os.getpid(), [(0x1100, mapping)])[0].frames[0]
        assert frame.reason is Reason.UNREADABLE_FILE
        assert "not a regular file" in frame.function


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_file_that_may_not_be_read_says_so(program: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "secret"
    shutil.copy(program("plain"), path)
    path.chmod(0o700)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    script = (
        "import os, sys; os.setgid(65534); os.setuid(65534)\n"
        "from symbolizer.symbolizer import Symbolizer; from symbolizer.types import Mapping\n"
        f"m = Mapping(0x1000, 0x2000, 0, {str(path)!r}, '00' * 20)\n"
        "f = Symbolizer().user(os.getpid(), [(0x1100, m)])[0].frames[0]; print(f.function, f.reason)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.stdout == "[secret: permission denied] unreadable file\n", out.stderr


def test_a_program_run_from_memory_is_named(program: Callable[..., Path]) -> None:
    path = program("plain")
    script = (
        "import os, sys; fd = os.memfd_create('hidden', 0)\n"
        f"os.write(fd, open({str(path)!r}, 'rb').read()); os.execv(f'/proc/self/fd/{{fd}}', ['hidden'])"
    )
    running = Running(Path(script), sys.executable, "-c")
    try:
        mapping = running.mapping()
        assert mapping.path.startswith("/memfd:hidden")
        location = Symbolizer().user(running.pid, [(running.spin, mapping)])[0]
        assert function(location) == "spin"
    finally:
        running.stop()


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_functions_that_node_compiled_are_named(tmp_path: Path) -> None:
    code = "function hot(n) { let s = 0; for (let i = 0; i < n; i++) s += i % 7; return s } for (;;) hot(1e5)"
    process = subprocess.Popen(["node", "--perf-basic-prof", "-e", code], cwd=tmp_path)
    path = Path(f"/tmp/perf-{process.pid}.map")
    try:
        line = ""
        for _ in range(600):
            text = path.read_text(errors="replace") if path.exists() else ""
            line = next((x for x in text.splitlines()[:-1] if "*hot" in x), "")
            if line:
                break
            subprocess.run(["sleep", "0.05"], check=True)
        address = int(line.split()[0], 16)
        mapping = next(m for m in mappings(process.pid) if m.start <= address < m.end)
        found = Symbolizer().user(process.pid, [(address + 1, mapping)])[0].frames[0]
        assert found.kind is Kind.JIT
        assert (found.function, found.file, found.line) == ("*hot", "[eval]", 1)
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


def test_hostile_names_are_made_visible_in_labels_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "a;\x1b[31m\n<script>\udcff"
    location = Symbolizer().user(os.getpid(), [(0x1100, Mapping(0x1000, 0x2000, 0, str(path), "00" * 20))])[0]
    assert function(location) == r"[a;\x1b[31m\x0a<script>\xff: file missing]"
    assert location.binary is not None and location.binary.path.isprintable()
    for name in ("/a\0b", "/" + "x" * 100_000, "/", "/.."):
        Symbolizer().user(os.getpid(), [(0x1100, Mapping(0x1000, 0x2000, 0, name, "00" * 20))])


def test_the_vdso_and_vsyscall_are_named() -> None:
    mapping = next(m for m in mappings(os.getpid()) if m.path == "[vdso]")
    symbolizer = Symbolizer()
    found = symbolizer.user(os.getpid(), [(a, mapping) for a in range(mapping.start, mapping.end, 16)])
    assert "clock_gettime" in " ".join(function(x) for x in found)
    assert {x.frames[0].kind for x in found} <= {Kind.VDSO, Kind.UNKNOWN}
    assert found[0].binary is not None and found[0].binary.path == "[vdso]" and found[0].binary.build_id
    page = Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, 0, "[vsyscall]")
    assert function(symbolizer.user(os.getpid(), [(page.start + 0x402, page)])[0]) == "time"


def test_shared_libraries_are_named_as_the_loader_names_them() -> None:
    libc = ctypes.CDLL("libc.so.6")
    symbolizer = Symbolizer()
    for name in ("malloc", "getpid", "qsort", "printf"):
        address = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0
        mapping = next(m for m in mappings(os.getpid()) if m.start <= address < m.end)
        assert name in function(symbolizer.user(os.getpid(), [(address, mapping)])[0])


def test_random_addresses_of_this_process_all_get_an_answer_in_order() -> None:
    chosen = random.Random(3)
    queries = [(chosen.randrange(m.start, m.end), m) for m in mappings(os.getpid()) for _ in range(200)]
    chosen.shuffle(queries)
    symbolizer = Symbolizer()
    found = symbolizer.user(os.getpid(), queries)
    assert len(found) == len(queries)
    for (address, mapping), location in zip(queries, found, strict=True):
        if location.binary is not None:
            assert location.address == address - mapping.start + mapping.offset
            assert os.path.basename(location.binary.path) == os.path.basename(mapping.path)
    assert all(a is b for a, b in zip(found, symbolizer.user(os.getpid(), queries), strict=True))


def test_no_descriptor_stays_open() -> None:
    symbolizer = Symbolizer()
    everything = [(m.start + 16, m) for m in mappings(os.getpid())]
    symbolizer.user(os.getpid(), everything)
    before = os.listdir("/proc/self/fd")
    for pid in (os.getpid(), 1, 2**22 + 5):
        Symbolizer().user(pid, [*everything, (5, None), (6, Mapping(0, 4096, 0, "//anon"))], [os.getppid()])
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_little_memory_still_gives_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOCATIONS", 100)
    monkeypatch.setattr(module, "MAX_BINARIES", 3)
    monkeypatch.setattr(module, "MAX_ANSWERS", 2)
    queries = [(a, m) for m in mappings(os.getpid()) for a in range(m.start, min(m.start + 3000, m.end), 100)]
    plenty = [x.frames for x in Symbolizer().user(os.getpid(), queries)]
    small = Symbolizer(cache_bytes=1)
    for _ in range(3):
        assert [x.frames for x in small.user(os.getpid(), queries)] == plenty


def test_a_failure_is_remembered_for_a_while_and_then_tried_again(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.symbolizer.time.monotonic", lambda: now[0])
    source = program("plain")
    elf_table = subprocess.run(["nm", source], capture_output=True, text=True, check=True).stdout
    spin = int(next(line.split()[0] for line in elf_table.splitlines() if line.endswith(" spin")), 16)
    path = tmp_path / "late"
    mapping = Mapping(0x1000000, 0x1010000, 0, str(path), build_id_of(source))
    symbolizer = Symbolizer()
    query = [(0x1000000 + spin, mapping)]
    assert symbolizer.user(os.getpid(), query)[0].frames[0].reason is Reason.FILE_MISSING
    shutil.copy(source, path)
    assert symbolizer.user(os.getpid(), query)[0].frames[0].reason is Reason.FILE_MISSING
    now[0] += module.RETRY_SECONDS + 1
    assert function(symbolizer.user(os.getpid(), query)[0]) == "spin"


@pytest.mark.parametrize("reported", [True, False], ids=["build id", "device and inode"])
def test_short_lived_processes_of_a_known_file_cost_no_look_at_any_file(
    reported: bool, program: Callable[..., Path], run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program("plain")
    running = run(path)
    query = [(running.spin + 1, running.mapping(build_id_of(path) if reported else ""))]
    symbolizer = Symbolizer()
    first = symbolizer.user(running.pid, query)
    looked: list[str] = []
    child, parents = 2**22 + 5, [running.pid, 1]
    with monkeypatch.context() as patched:
        for name in ("open", "stat", "fstat", "readlink"):
            patched.setattr(os, name, lambda *_, called=name, **__: looked.append(called))
        second = symbolizer.user(child, query, parents)
    assert looked == []
    assert second[0] is first[0]
    assert function(second[0]) == "spin"


def test_links_stay_below_the_root_and_links_of_proc_are_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root/secret").write_text("inside")
    (tmp_path / "root/up").symlink_to("../../../../secret")
    (tmp_path / "root/absolute").symlink_to("/secret")
    (tmp_path / "root/loop").symlink_to("loop")
    root = open_root(str(tmp_path / "root"))
    host = open_root("/")
    try:
        for name in ("up", "absolute", "/secret", "../secret"):
            handle = open_beneath(root, name)
            assert os.read(handle, 20) == b"inside"
            os.close(handle)
        with pytest.raises(OSError):
            open_beneath(root, "loop")
        with pytest.raises(NotRegularError):
            open_beneath(root, "up", follow=False)
        with pytest.raises(OSError):
            open_beneath(host, "/proc/self/exe")
    finally:
        os.close(root)
        os.close(host)
