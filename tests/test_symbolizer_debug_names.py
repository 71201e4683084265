"""Names by debug information: the symbolizer and its symbol files together, with many binaries and for long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symbolizer.debuginfo import symfiles as symfiles_module
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Frame, Mapping, Reason

SOURCE = (
    'int NAME(int x) { volatile int y = x + sizeof "NAME"; while (y) y--; return y; }\nint main() { return NAME(3); }\n'
)
ID = "11" * 20
SECONDS = 60.0

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    folder = tmp_path_factory.mktemp("compiled")

    def compile(name: str) -> Path:
        path = folder / name
        if not path.exists():
            (folder / f"{name}.c").write_text(SOURCE.replace("NAME", name))
            subprocess.run(["gcc", "-g", "-O1", f"-Wl,--build-id=0x{ID}", "-o", path, folder / f"{name}.c"], check=True)
        return path

    return compile


@pytest.fixture
def symfiles(tmp_path: Path) -> Iterator[SymFiles]:
    files = SymFiles(tmp_path / "symbols")
    yield files
    files.close()


def as_another(program: Path, number: int, path: Path) -> Path:
    """The program with a build id of its own."""
    content = program.read_bytes()
    assert content.count(bytes.fromhex(ID)) == 1
    path.write_bytes(content.replace(bytes.fromhex(ID), number.to_bytes(20, sys.byteorder)))
    path.chmod(0o755)
    return path


def where(program: Path, function: str) -> int:
    listed = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    return next(int(line.split()[0], 16) for line in listed.splitlines() if line.endswith(f" T {function}"))


def mapped(path: Path, build_id: str = "") -> Mapping:
    """As if this process had mapped the file so that its virtual addresses are its offsets in the file."""
    status = path.stat()
    return Mapping(1 << 40, (1 << 40) + status.st_size, 0, str(path), build_id, status.st_dev, status.st_ino)


def ask(symbolizer: Symbolizer, mapping: Mapping, offset: int) -> Frame:
    return symbolizer.user(os.getpid(), [(mapping.start + offset, mapping)])[0].frames[0]


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + seconds)


def test_more_binaries_than_may_be_open_are_all_named_in_full_and_no_more_are_open(
    compiled: Compile, symfiles: SymFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symfiles_module, "MOST_OPEN", 3)
    program = compiled("spin")
    offset = where(program, "spin")
    symbolizer = Symbolizer(symfiles)
    mappings = [mapped(as_another(program, number, tmp_path / f"p{number}")) for number in range(8)]
    for mapping in mappings:
        ask(symbolizer, mapping, offset)
    assert symfiles.settle(SECONDS)
    assert len(symbolizer.improved()) == 8
    assert len([line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]) == 3
    for mapping in mappings:
        os.unlink(mapping.path)
    for mapping in mappings:
        frame = ask(symbolizer, mapping, offset + 1)  # not asked for before
        assert (frame.function, frame.line) == ("spin", 1)
    open_files = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert len([name for name in open_files if name.startswith(str(tmp_path))]) == 3


def test_more_binaries_than_may_wait_all_get_their_turn_though_nothing_new_is_asked(
    compiled: Compile, symfiles: SymFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symfiles_module, "MOST_WAITING", 2)
    program = compiled("spin")
    offset = where(program, "spin")
    symbolizer = Symbolizer(symfiles)
    mappings = [mapped(as_another(program, number, tmp_path / f"p{number}")) for number in range(7)]
    for _ in range(4):
        frames = [ask(symbolizer, mapping, offset) for mapping in mappings]
        assert symfiles.settle(SECONDS)
        symbolizer.improved()
    assert {frame.line for frame in frames} != {1}
    assert {ask(symbolizer, mapping, offset).line for mapping in mappings} == {1}


def test_debug_information_that_is_installed_later_is_found_though_nothing_new_is_asked(
    compiled: Compile, symfiles: SymFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(shutil.copy(compiled("spin"), tmp_path / "spin"))
    subprocess.run(["objcopy", "--only-keep-debug", program, tmp_path / "later"], check=True)
    subprocess.run(["objcopy", "-g", "--add-gnu-debuglink", tmp_path / "later", program], check=True)
    (tmp_path / "later").rename(tmp_path / "elsewhere")
    offset = where(program, "spin")
    symbolizer = Symbolizer(symfiles)
    mapping = mapped(program)
    assert ask(symbolizer, mapping, offset).line == 0
    assert symfiles.settle(SECONDS) and symbolizer.improved() == []
    (tmp_path / "elsewhere").rename(tmp_path / "later")
    assert ask(symbolizer, mapping, offset).line == 0
    assert symfiles.fileno() == -1  # it is not looked for all the time
    pass_time(monkeypatch, symfiles_module.RETRY_SECONDS)
    ask(symbolizer, mapping, offset)
    assert symfiles.settle(SECONDS)
    assert [location.frames[0].line for location in symbolizer.improved()] == [1]
    assert ask(symbolizer, mapping, offset).line == 1


@pytest.mark.parametrize("build_id", [ID, ""], ids=["with the same build id", "written in its place"])
def test_a_forgotten_binary_is_not_named_by_another_file_that_came_in_its_place(
    compiled: Compile, symfiles: SymFiles, tmp_path: Path, build_id: str
) -> None:
    path = Path(shutil.copy(compiled("first"), tmp_path / "program"))
    offset = where(path, "first")
    symbolizer = Symbolizer(symfiles, cache_bytes=0)
    mapping = mapped(path, build_id)
    assert ask(symbolizer, mapping, offset).function == "first"
    symfiles.close()
    if build_id:
        path.unlink()
        shutil.copy(compiled("second"), path)
    else:
        path.write_bytes(compiled("second").read_bytes())
    ask(symbolizer, mapped(compiled("second")), offset)  # so that the tables of the first are dropped
    frame = ask(symbolizer, mapping, offset + 1)
    assert frame.reason is Reason.FILE_MISSING and "file replaced" in frame.function
    assert symfiles.settle(SECONDS)
    assert all(x.binary and x.binary.path == str(compiled("second")) for x in symbolizer.improved())
    assert ask(symbolizer, mapping, offset).function == "first"


def test_a_forgotten_binary_is_named_rightly_by_its_copy_with_fewer_symbols(compiled: Compile, tmp_path: Path) -> None:
    path = Path(shutil.copy(compiled("spin"), tmp_path / "program"))
    symbolizer = Symbolizer(cache_bytes=0)
    mapping = mapped(path, ID)
    assert ask(symbolizer, mapping, where(path, "spin")).function == "spin"
    path.unlink()
    subprocess.run(["objcopy", "--strip-symbol=frame_dummy", compiled("spin"), path], check=True)
    ask(symbolizer, mapped(compiled("second")), where(path, "spin"))  # so that the tables of the first are dropped
    assert ask(symbolizer, mapping, where(path, "main")).function == "main"


def test_symbol_files_are_made_by_what_the_host_has_before_what_a_container_has(
    compiled: Compile, symfiles: SymFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(compiled("spin"), tmp_path / "spin"))
    roots: list[str] = []
    seen = [os.readlink("/proc/self/root"), "/tmp", "/usr", "/etc", "/var", "/home"]
    proc = tmp_path / "proc"
    for pid, root in enumerate(["/var", *seen], 1):  # the first is the host's
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "root").symlink_to(root)
    (proc / "2" / "exe").symlink_to(path)

    def request(build_id: str, binary: int, path: str, given: list[int]) -> None:
        roots.extend(os.readlink(f"/proc/self/fd/{root}") for root in given)

    monkeypatch.setattr(symfiles, "request", request)
    Symbolizer(symfiles, proc=str(proc)).user(2, [((1 << 40) + 1, mapped(path))], [3, 4, 5, 6])
    assert roots[:2] == ["/var", "/"]
