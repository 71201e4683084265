"""Symbol files: asked for, built elsewhere, kept, mapped; and what happens where any of that is not possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from symbolizer.builder import Failure
from symbolizer.cachefolder import SEAL_BYTES
from symbolizer.debuginfo import symfiles as module
from symbolizer.debuginfo.symfile import SourceFrame, SymFile
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.elf import read_elf
from symbolizer.files import open_root, read_at

ID, OTHER, THIRD = "5f" * 20, "a0" * 20, "77" * 20
SECONDS = 60.0

Start = Callable[..., SymFiles]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def new(folder: Path | None = tmp_path / "symbols", limit_bytes: int = 1 << 20) -> SymFiles:
        started.append(SymFiles(folder, limit_bytes, build="tests.symbolizer_standins:build"))
        return started[-1]

    yield new
    for symfiles in started:
        symfiles.close()


def ask(symfiles: SymFiles, build_id: str, does: str, path: str = "/bin/it", roots: tuple[int, ...] = ()) -> None:
    """Asks for a binary that has the builder's process do something (symbolizer_standins.build)."""
    binary = os.memfd_create("binary")
    os.write(binary, does.encode())
    symfiles.request(build_id, binary, path, roots)
    os.close(binary)


def built(symfiles: SymFiles, build_id: str, does: str) -> bool:
    ask(symfiles, build_id, does)
    return symfiles.wait(build_id, SECONDS)


def function(symbols: SymFile | None) -> bytes:
    """What the symbol file calls the function at 0x1000; b"" without one."""
    frames = symbols.lookup([0x1000])[0] if symbols is not None else ()
    return frames[0].function if frames else b""


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def until_there_is_news(symfiles: SymFiles) -> list[str]:
    end = time.monotonic() + SECONDS
    while not (news := symfiles.poll()):
        assert time.monotonic() < end
        time.sleep(0.002)
    return news


# Asking and getting


def test_a_symbol_file_is_built_told_of_once_and_there_from_then_on(start: Start, tmp_path: Path) -> None:
    symfiles = start()
    assert symfiles.get(ID) is None and symfiles.why_not(ID) == "" and symfiles.poll() == []
    ask(symfiles, ID, "symbols main")
    assert symfiles.get(ID) is None and symfiles.why_not(ID) == "its debug information is being read"
    assert until_there_is_news(symfiles) == [ID]
    assert symfiles.poll() == [] and symfiles.why_not(ID) == ""
    symbols = symfiles.get(ID)
    assert symbols is not None and symbols is symfiles.get(ID)
    assert symbols.lookup([0x1000, 0x10FF, 0x1100, 0xFFF]) == [(SourceFrame(b"main", "/bin/it", 7),)] * 2 + [()] * 2
    assert [file.name for file in (tmp_path / "symbols").iterdir()] == [f"{ID}.v{module.VERSION}.symbols"]


def test_a_symbol_file_of_an_earlier_start_is_there_at_once(start: Start) -> None:
    assert built(start(), ID, "symbols main")
    later = start()
    assert function(later.get(ID)) == b"main" and later.fileno() == -1 and later.cpu_ns() == 0


def test_what_is_there_is_not_built_again(start: Start) -> None:
    symfiles = start()
    assert built(symfiles, ID, "symbols first")
    ask(symfiles, ID, "symbols second")
    assert symfiles.fileno() == -1 and function(symfiles.get(ID)) == b"first"


def test_what_is_asked_about_may_be_gone_when_its_turn_comes(start: Start, tmp_path: Path) -> None:
    symfiles = start()
    ask(symfiles, OTHER, "hang")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "name").write_text("found")
    root = open_root(str(tmp_path / "root"))
    ask(symfiles, ID, "root /name", roots=(root,))
    os.close(root)
    kill_builder(symfiles)
    assert symfiles.wait(ID, SECONDS) and function(symfiles.get(ID)) == b"found"


def kill_builder(symfiles: SymFiles) -> None:
    process = symfiles._builder._process
    assert process is not None
    process.kill()


def test_asking_waits_for_nothing_and_what_is_asked_for_most_often_comes_first(start: Start) -> None:
    symfiles = start()
    ask(symfiles, "b0", "hang")
    for build_id in (ID, OTHER, OTHER, THIRD, OTHER, THIRD):
        ask(symfiles, build_id, f"symbols of_{build_id[:2]}")
    assert symfiles.poll() == []
    kill_builder(symfiles)
    order: list[str] = []
    while len(order) < 4:
        order += until_there_is_news(symfiles)
    assert order == ["b0", OTHER, THIRD, ID]
    assert [function(symfiles.get(build_id)) for build_id in (ID, OTHER, THIRD)] == [b"of_5f", b"of_a0", b"of_77"]


def test_what_somebody_waits_for_comes_first_and_the_rest_is_not_forgotten(start: Start) -> None:
    symfiles = start()
    ask(symfiles, "b0", "hang")
    for build_id in (OTHER, OTHER, ID):
        ask(symfiles, build_id, "symbols main")
    assert not symfiles.wait(ID, 0.0)
    kill_builder(symfiles)
    assert symfiles.wait(ID, SECONDS) and symfiles.get(OTHER) is None
    assert symfiles.wait(OTHER, SECONDS)
    assert symfiles.poll() == ["b0", ID, OTHER]


def test_nobody_waits_for_what_was_not_asked_for_or_longer_than_they_want(start: Start) -> None:
    symfiles = start()
    assert not symfiles.wait(ID, SECONDS)
    ask(symfiles, ID, "hang")
    assert not symfiles.wait(ID, 0.01)
    assert symfiles.why_not(ID) == "its debug information is being read"


def test_nothing_that_is_asked_raises_or_leaves_a_descriptor_open(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    symfiles = start()
    for build_id in ("", "../../etc/passwd", "xyz", ID + "\0"):
        ask(symfiles, build_id, "symbols main")
        assert symfiles.get(build_id) is None and symfiles.why_not(build_id) == "it has no build id"
    symfiles.request(ID, -1, "/bin/it")
    symfiles.request(ID, 0, "/bin/it", [9999])
    assert symfiles.why_not(ID) == "" and open_files() == before
    for number in range(6):
        ask(symfiles, f"{number:02x}", "hang", roots=(0, 0))
    ask(symfiles, ID, "symbols main", path="/" + "x" * 70_000)
    assert [symfiles.why_not(f"{number:02x}") != "" for number in range(6)] == [True] * 3 + [False] * 3
    symfiles.close()
    assert open_files() == before


def test_a_path_too_long_to_send_is_a_reason(start: Start) -> None:
    symfiles = start()
    ask(symfiles, ID, "symbols main", path="/" + "x" * 70_000)
    assert symfiles.poll() == [ID] and symfiles.why_not(ID) == "its path is too long"


def test_building_is_paid_for_and_its_memory_given_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    symfiles = start()
    assert symfiles.cpu_ns() == 0 and symfiles.memory_bytes() == 0
    built(symfiles, ID, "symbols main")
    spent = symfiles.cpu_ns()
    assert spent > 0 and symfiles.memory_bytes() > 0
    monkeypatch.setattr("symbolizer.builder._IDLE_SECONDS", -1.0)
    symfiles.poll()
    assert symfiles.memory_bytes() == 0 and symfiles.cpu_ns() >= spent


# Where there is none


def test_no_debug_information_is_told_of_and_looked_for_again_after_an_hour(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    symfiles = start()
    assert not built(symfiles, ID, "none")
    assert symfiles.poll() == [ID] and symfiles.why_not(ID) == "there is no debug information"
    ask(symfiles, ID, "symbols main")
    assert symfiles.fileno() == -1 and symfiles.why_not(ID) == "there is no debug information"
    an_hour_passes(monkeypatch)
    assert built(symfiles, ID, "symbols main")
    assert symfiles.poll() == [ID] and symfiles.why_not(ID) == ""


def an_hour_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic
    monkeypatch.setattr(module.time, "monotonic", lambda: now() + module.RETRY_SECONDS)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("does", "reason"),
    [("eat", "its debug information takes more than 2 GB of memory to read"), ("refuse", "it is of no use")],
)
def test_what_is_beyond_the_bounds_is_not_tried_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    symfiles = start()
    assert not built(symfiles, ID, does)
    an_hour_passes(monkeypatch)
    assert not built(symfiles, ID, "symbols main") and symfiles.why_not(ID) == reason


def test_what_costs_the_builder_its_life_is_tried_a_few_times(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    symfiles = start()
    for _ in range(3):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
        assert not built(symfiles, ID, "die")
        assert symfiles.why_not(ID) == "its debug information is too much to read"
    assert not built(symfiles, ID, "symbols main")
    assert built(symfiles, OTHER, "symbols main")


def test_debug_information_that_cannot_be_used_is_told_of_once_and_what_is_not_there_never(start: Start) -> None:
    symfiles = start()
    assert not built(symfiles, ID, "refuse") and not built(symfiles, OTHER, "none")
    assert symfiles.why_not(OTHER) == "there is no debug information"
    assert symfiles.losses() == "There will be no lines and inlined functions of it (it is of no use)."
    assert symfiles.losses() == ""


def test_what_takes_too_long_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    symfiles = start()
    monkeypatch.setattr(symfiles, "_seconds", 0.0)
    assert not built(symfiles, ID, "hang")
    assert symfiles.why_not(ID) == "its debug information takes too long to read"


def test_what_is_fetched_may_take_longer() -> None:
    assert SymFiles(None)._seconds == 30.0
    assert SymFiles(None, debuginfod=["http://127.0.0.1:1"])._seconds == 120.0


def test_reasons_are_remembered_up_to_a_bound(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_NEGATIVES", 2)
    symfiles = start()
    for build_id in (ID, OTHER, THIRD):
        symfiles._fail(build_id, Failure("none", final=True))
    assert [symfiles.why_not(build_id) for build_id in (ID, OTHER, THIRD)] == ["", "none", "none"]


def test_what_is_built_but_no_symbol_file_is_a_reason_and_not_kept(start: Start, tmp_path: Path) -> None:
    symfiles = start()
    assert not built(symfiles, ID, "garbage")
    assert symfiles.why_not(ID) == "it is not a symbol file of this machine"
    assert list((tmp_path / "symbols").iterdir()) == []


# Where it cannot be kept


def test_without_a_folder_symbol_files_are_in_memory(start: Start, tmp_path: Path) -> None:
    symfiles = start(None)
    assert built(symfiles, ID, "symbols main") and function(symfiles.get(ID)) == b"main"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_done_without(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    others = tmp_path / "others"
    others.mkdir()
    others.chmod(0o777)
    for folder in (tmp_path / "file" / "symbols", others):
        symfiles = start(folder)
        assert built(symfiles, ID, "symbols main") and function(symfiles.get(ID)) == b"main"
    assert list(others.iterdir()) == []


def test_a_full_disk_is_done_without(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", folder]).returncode:
        pytest.skip("only root can mount")
    try:
        symfiles = start(folder)
        assert built(symfiles, ID, "symbols main 100000") and function(symfiles.get(ID)) == b"main"
        assert built(symfiles, OTHER, "symbols small")
        assert [file.name[:2] for file in folder.iterdir()] == [OTHER[:2]]
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_memory_for_what_cannot_be_kept_is_bounded_and_given_back_after_an_hour(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_UNKEPT_BYTES", 250_000)
    symfiles = start(None)
    assert built(symfiles, ID, "symbols a 100000") and built(symfiles, OTHER, "symbols b 100000")
    assert not built(symfiles, THIRD, "symbols c 100000")
    assert symfiles.why_not(THIRD) == "its symbol file of 0 MB cannot be kept on disk"
    assert function(symfiles.get(ID)) == b"a" and function(symfiles.get(OTHER)) == b"b"
    an_hour_passes(monkeypatch)
    assert built(symfiles, THIRD, "symbols c 100000") and function(symfiles.get(THIRD)) == b"c"
    assert symfiles.get(ID) is None and symfiles.get(OTHER) is None


def test_what_better_may_be_installed_for_is_not_kept_and_built_again_after_an_hour(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symfiles = start()
    assert built(symfiles, ID, "passing poor") and function(symfiles.get(ID)) == b"poor"
    assert not (tmp_path / "symbols").exists()
    an_hour_passes(monkeypatch)
    assert symfiles.get(ID) is None
    assert built(symfiles, ID, "symbols rich") and function(symfiles.get(ID)) == b"rich"


# What becomes of the folder


def test_a_folder_removed_while_it_is_used_is_made_anew(start: Start, tmp_path: Path) -> None:
    symfiles = start()
    built(symfiles, ID, "symbols main")
    shutil.rmtree(tmp_path / "symbols")
    assert function(symfiles.get(ID)) == b"main"
    assert built(symfiles, OTHER, "symbols other")
    assert len(list((tmp_path / "symbols").iterdir())) == 1
    assert start().get(ID) is None


def test_files_used_longest_ago_go_and_those_in_use_stay_mapped(start: Start, tmp_path: Path) -> None:
    symfiles = start(limit_bytes=250_000)
    for age, (build_id, name) in enumerate(((ID, "a"), (OTHER, "b"))):
        assert built(symfiles, build_id, f"symbols {name} 100000")
        (file,) = (tmp_path / "symbols").glob(f"{build_id}*")
        os.utime(file, (1000 + age, 1000 + age))
    assert built(symfiles, THIRD, "symbols c 100000")
    assert sorted(file.name[:2] for file in (tmp_path / "symbols").iterdir()) == ["77", "a0"]
    assert function(symfiles.get(ID)) == b"a"
    assert start().get(ID) is None and function(start().get(OTHER)) == b"b"


def test_a_file_in_use_counts_as_used(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    symfiles = start()
    built(symfiles, ID, "symbols main")
    (file,) = (tmp_path / "symbols").iterdir()
    os.utime(file, (1000, 1000))
    symfiles.get(ID)
    assert file.stat().st_mtime == 1000  # not at each use
    an_hour_passes(monkeypatch)
    symfiles.get(ID)
    assert file.stat().st_mtime > 1000


def test_as_many_files_are_mapped_as_may_be_and_the_others_are_found_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OPEN", 2)
    symfiles = start()
    before = open_files()
    for number in range(5):
        assert built(symfiles, f"{number:02x}", f"symbols f{number}")
    held = symfiles.get("00")
    for number in range(5):
        assert function(symfiles.get(f"{number:02x}")) == f"f{number}".encode()
    assert function(held) == b"f0"
    del held
    assert len(symfiles._opened) == 2
    symfiles.close()
    assert open_files() <= before


@pytest.mark.parametrize("size", [0, 10, SEAL_BYTES, 100, -1])
def test_a_file_cut_short_is_deleted_and_built_again(start: Start, tmp_path: Path, size: int) -> None:
    assert built(start(), ID, "symbols main 1000")
    (file,) = (tmp_path / "symbols").iterdir()
    os.truncate(file, size % (file.stat().st_size + 1))
    if size < 0:
        file.write_bytes(file.read_bytes()[:-1])
    symfiles = start()
    assert symfiles.get(ID) is None and not file.exists()
    assert built(symfiles, ID, "symbols again") and function(symfiles.get(ID)) == b"again"


def test_a_damaged_file_is_deleted_or_read_without_harm(start: Start, tmp_path: Path) -> None:
    assert built(start(), ID, "symbols main 300000")
    (file,) = (tmp_path / "symbols").iterdir()
    whole = file.read_bytes()
    for at in (0, 8, 20, 64, 70, 90, 65_535, 150_000, len(whole) - 65_000, len(whole) - 33, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        symbols = start().get(ID)
        assert (symbols is None) == (not file.exists()) == (at != 150_000)
        assert symbols is None or function(symbols) == b"main"


def test_a_sealed_file_that_is_no_symbol_file_is_deleted(start: Start, tmp_path: Path) -> None:
    folder = module.symbol_folder(tmp_path / "symbols", 1 << 20)
    for contents in (b"", b"x" * 10_000, bytes(64)):
        assert folder.put(ID, contents)
        assert start().get(ID) is None and list(folder.folder.iterdir()) == []


def test_files_of_an_earlier_version_are_deleted(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(start(), ID, "symbols main")
    (file,) = (tmp_path / "symbols").iterdir()
    old = file.rename(file.with_name(f"{ID}.v0.symbols"))
    symfiles = start()
    assert symfiles.get(ID) is None
    assert built(symfiles, ID, "symbols new") and function(symfiles.get(ID)) == b"new"
    assert file.exists() and not old.exists()


def test_what_another_agent_has_built_meanwhile_is_not_built_again(start: Start, tmp_path: Path) -> None:
    one, another = start(), start()
    assert another.get(ID) is None
    assert built(one, ID, "symbols theirs")
    assert built(another, ID, "die") and function(another.get(ID)) == b"theirs"


def test_two_agents_building_the_same_at_once_both_have_it(start: Start, tmp_path: Path) -> None:
    agents = [start(), start()]
    for agent in agents:
        ask(agent, ID, "symbols main")
    assert all(agent.wait(ID, SECONDS) and function(agent.get(ID)) == b"main" for agent in agents)
    assert len(list((tmp_path / "symbols").iterdir())) == 1


# With real debug information


SOURCE = """volatile int sink;
static inline __attribute__((always_inline)) void inner(int i) {
  sink += i;
}
__attribute__((noinline)) void outer(int i) {
  inner(i);
}
int main(void) { outer(1); return 0; }
"""


@pytest.fixture
def program(tmp_path: Path) -> tuple[Path, int]:
    """A program with debug information, and where its function outer() begins."""
    (tmp_path / "it.c").write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-O1", "-Wl,--build-id", "-o", tmp_path / "it", tmp_path / "it.c"], check=True)
    listed = subprocess.run(["nm", tmp_path / "it"], capture_output=True, text=True, check=True).stdout
    outer = next(int(line.split()[0], 16) for line in listed.splitlines() if line.endswith(" T outer"))
    return tmp_path / "it", outer


def chains(symfiles: SymFiles, program: tuple[Path, int]) -> list[list[tuple[bytes, int]]]:
    """Function and line of the frames at each address of outer(), asking for the program's symbol file."""
    path, outer = program
    build_id = request(symfiles, path)
    try:
        assert symfiles.wait(build_id, SECONDS), symfiles.why_not(build_id)
        symbols = symfiles.get(build_id)
        assert symbols is not None
        found = symbols.lookup(list(range(outer, outer + 16)))
        return [[(frame.function, frame.line) for frame in frames] for frames in found]
    finally:
        symfiles.close()


def request(symfiles: SymFiles, path: Path) -> str:
    with path.open("rb") as file:
        build_id = read_elf(lambda at, size: read_at(file.fileno(), at, size)).build_id()
        symfiles.request(build_id, file.fileno(), str(path))
    return build_id


def test_a_program_with_debug_information_gets_its_inlined_functions_and_lines(
    program: tuple[Path, int], tmp_path: Path
) -> None:
    assert [(b"inner", 3), (b"outer", 6)] in chains(SymFiles(tmp_path / "symbols"), program)
    assert [(b"inner", 3), (b"outer", 6)] in chains(SymFiles(None), program)


def test_a_program_without_debug_information_has_a_reason(program: tuple[Path, int], tmp_path: Path) -> None:
    path, _ = program
    subprocess.run(["strip", path], check=True)
    symfiles = SymFiles(tmp_path / "symbols")
    build_id = request(symfiles, path)
    try:
        assert not symfiles.wait(build_id, SECONDS)
        assert symfiles.why_not(build_id).startswith("there is no debug information")
    finally:
        symfiles.close()


def test_debug_information_is_fetched_from_the_servers_that_are_named(
    program: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "fetched"))
    path, _ = program
    with path.open("rb") as file:
        build_id = read_elf(lambda at, size: read_at(file.fileno(), at, size)).build_id()
    served = tmp_path / "served" / "buildid" / build_id / "debuginfo"
    served.parent.mkdir(parents=True)
    shutil.copy(path, served)
    subprocess.run(["strip", path], check=True)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            found = chains(SymFiles(tmp_path / "symbols", debuginfod=[url]), program)
        finally:
            server.shutdown()
    assert [(b"inner", 3), (b"outer", 6)] in found
