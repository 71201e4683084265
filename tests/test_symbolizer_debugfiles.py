"""Finding debug files: of real compilers, strip, objcopy and dwz, in real folders, and of people who mean harm."""

from __future__ import annotations

import lzma
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbolizer.debuginfo import files as debugfiles
from symbolizer.debuginfo.files import DebugInfo, Fetch, find_debug_info
from symbolizer.elf import Elf, ElfError, read_elf
from symbolizer.elf_content import debug_data, debug_link, section_content, supplement
from symbolizer.files import open_root, read_at

TOOLS = {"gcc": "gcc", "objcopy": "binutils", "strip": "binutils", "dwz": "dwz", "xz": "xz-utils"}
SOURCE = """
struct shared { int a, b; struct shared *next; union { long l; double d; } value; enum { RED, GREEN, BLUE } colour; };
struct other { struct shared first, second; char name[64]; int (*call)(struct shared *, struct other *); };
static __attribute__((noinline)) int hidden(struct shared *s, struct other *o) { return s->a + o->second.b + EXTRA; }
int outer(struct shared *s, struct other *o) { return hidden(s, o) * 2; }
int main(int argc, char **argv) { struct other o = {{argc}}; return outer(&o.first, &o); }
"""
PATH = "/opt/app/bin/program"


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Programs by compiler options, each built once and not to be changed."""
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            pytest.fail(f"{tool} is not installed: `make setup-dev` installs it ({package})", pytrace=False)
    folder = tmp_path_factory.mktemp("programs")

    def build(*options: str) -> Path:
        output = folder / f"{len(options)}{abs(hash(options)):x}"
        if not output.exists():
            (folder / "source.c").write_text(SOURCE)
            extra = () if any(option.startswith("-DEXTRA") for option in options) else ("-DEXTRA=1",)
            options = ("-g", "-O1", "-Wl,--build-id=sha1", *extra, *options)
            run("gcc", "-o", output, folder / "source.c", *options)
        return output

    return build


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open(tmp_path: Path) -> Iterator[None]:
    yield
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            assert not os.readlink(f"/proc/self/fd/{name}").startswith((str(tmp_path), "/memfd:minidebuginfo"))


class World:
    """A binary at PATH below a root directory, and what is put beside it."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.program = program
        self.root = folder / "root"
        self.host = folder / "host"
        self.binary = self.at(PATH)
        self.host.mkdir()
        shutil.copy(program, self.binary)

    def at(self, path: str, root: Path | None = None) -> Path:
        place = (root or self.root) / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def build_id(self) -> str:
        return build_id(self.program)

    def by_build_id(self, root: Path | None = None) -> Path:
        return self.at(f"/usr/lib/debug/.build-id/{self.build_id()[:2]}/{self.build_id()[2:]}.debug", root)

    def debug_file(self, place: Path, program: Path | None = None) -> Path:
        run("objcopy", "--only-keep-debug", program or self.program, place)
        return place

    def strip(self, *options: str) -> None:
        run("strip", *options, self.binary)

    def find(self, fetch: Fetch | None = None) -> tuple[DebugInfo | None, list[str]]:
        why: list[str] = []
        binary = os.open(self.binary, os.O_RDONLY)
        roots = [open_root(str(self.root)), open_root(str(self.host))]
        try:
            return find_debug_info(binary, PATH, roots, fetch, why), why
        finally:
            for handle in (binary, *roots):
                os.close(handle)

    def found(self, fetch: Fetch | None = None) -> tuple[str, str, bytes, bytes | None]:
        """(source, path, content, content of the supplement) of what is found; why not, where nothing is."""
        info, why = self.find(fetch)
        assert info is not None, why
        try:
            return info.source, info.path, whole(info.file), whole(info.supplement)
        finally:
            info.close()

    def refused(self, fetch: Fetch | None = None) -> str:
        """Why nothing is found."""
        info, why = self.find(fetch)
        if info is not None:
            info.close()
        assert info is None
        return "\n".join(why)


@pytest.fixture
def world(tmp_path: Path, programs: Callable[..., Path]) -> World:
    return World(tmp_path, programs())


def whole(file: int | None) -> bytes:
    return b"" if file is None else read_at(file, 0, os.fstat(file).st_size)


def build_id(path: Path) -> str:
    return run("readelf", "-n", path).split("Build ID: ")[1].split()[0]


def fetching(files: dict[str, Path], asked: list[str] | None = None) -> Fetch:
    def fetch(build_id: str) -> int | None:
        if asked is not None:
            asked.append(build_id)
        return os.open(files[build_id], os.O_RDONLY) if build_id in files else None

    return fetch


# Where it is


def test_a_binary_with_debug_information_is_its_own_debug_file(world: World) -> None:
    world.debug_file(world.by_build_id())
    assert world.found()[:3] == ("own", PATH, world.program.read_bytes())


@pytest.mark.parametrize("which", ["root", "host"])
def test_a_debug_file_is_found_by_build_id_in_the_roots_own_order(world: World, which: str) -> None:
    world.strip()
    root = {"root": world.root, "host": world.host}[which]
    debug = world.debug_file(world.by_build_id(root))
    if which == "root":
        shutil.copy(world.program, world.by_build_id(world.host))
    source, path, content, _ = world.found()
    assert (source, root / path[1:], content) == ("build id", debug, debug.read_bytes())


def test_a_debug_file_behind_a_link_is_found_inside_the_root(world: World) -> None:
    world.strip()
    debug = world.debug_file(world.at("/usr/lib/debug/opt/app/bin/program.debug"))
    world.by_build_id().symlink_to("/usr/lib/debug/opt/app/bin/program.debug")
    assert world.found()[2] == debug.read_bytes()


@pytest.mark.parametrize("folder", ["/opt/app/bin", "/opt/app/bin/.debug", "/usr/lib/debug/opt/app/bin"])
def test_a_debug_file_is_found_by_debuglink(world: World, folder: str) -> None:
    debug = world.debug_file(world.at(f"{folder}/program.debug"))
    world.strip()
    run("objcopy", f"--add-gnu-debuglink={debug}", world.binary)
    assert world.found()[:3] == ("debuglink", f"{folder}/program.debug", debug.read_bytes())


def test_a_debuglink_serves_a_binary_without_build_id(tmp_path: Path, programs: Callable[..., Path]) -> None:
    world = World(tmp_path, programs("-Wl,--build-id=none"))
    debug = world.debug_file(world.at("/opt/app/bin/program.debug"))
    world.strip()
    run("objcopy", f"--add-gnu-debuglink={debug}", world.binary)
    assert world.found()[0] == "debuglink"


def test_a_debuglink_whose_checksum_is_wrong_is_refused(world: World) -> None:
    debug = world.debug_file(world.at("/opt/app/bin/program.debug"))
    world.strip()
    run("objcopy", f"--add-gnu-debuglink={debug}", world.binary)
    with debug.open("ab") as file:
        file.write(b"\0")
    assert "its checksum is" in world.refused()


def test_a_debuglink_to_the_binary_itself_leads_nowhere(world: World) -> None:
    world.strip("-g")
    run("objcopy", f"--add-gnu-debuglink={world.binary}", world.binary)
    assert world.refused() == ""


def test_what_is_not_installed_is_fetched(world: World) -> None:
    world.strip()
    debug = world.debug_file(world.folder / "fetched")
    asked: list[str] = []
    source, _, content, _ = world.found(fetching({world.build_id(): debug}, asked))
    assert (source, content, asked) == ("debuginfod", debug.read_bytes(), [world.build_id()])


def test_nothing_is_fetched_where_a_debug_file_is_installed(world: World) -> None:
    world.strip()
    world.debug_file(world.by_build_id())
    asked: list[str] = []
    assert world.found(fetching({}, asked))[0] == "build id"
    assert asked == []


def test_build_ids_longer_than_the_kernel_reports_are_used_whole(tmp_path: Path, programs: Callable[..., Path]) -> None:
    long = "0123456789abcdef" * 4
    world = World(tmp_path, programs(f"-Wl,--build-id=0x{long}"))
    world.strip()
    asked: list[str] = []
    world.refused(fetching({}, asked))
    assert asked == [long]
    world.debug_file(world.at(f"/usr/lib/debug/.build-id/01/{long[2:]}.debug"))
    assert world.found()[0] == "build id"


def _add_minidebuginfo(world: World) -> None:
    """As distributions make it: symbols of functions that .dynsym has not, compressed by xz."""
    mini = world.debug_file(world.folder / "mini")
    run("objcopy", "-S", "--keep-symbol=hidden", "--keep-symbol=outer", mini)
    run("xz", "-k", mini)
    world.strip()
    run("objcopy", f"--add-section=.gnu_debugdata={mini}.xz", world.binary)


def test_symbols_in_miniature_are_unpacked(world: World) -> None:
    _add_minidebuginfo(world)
    source, path, content, _ = world.found()
    assert (source, path) == ("minidebuginfo", PATH)
    assert content == (world.folder / "mini").read_bytes()


def test_fetched_debug_information_comes_before_symbols_in_miniature(world: World) -> None:
    _add_minidebuginfo(world)
    debug = world.debug_file(world.folder / "fetched")
    assert world.found(fetching({world.build_id(): debug}))[0] == "debuginfod"


def test_a_debug_file_with_symbols_alone_serves_a_binary_that_has_none(world: World) -> None:
    debug = world.debug_file(world.by_build_id())
    run("strip", "-g", debug)
    world.strip("-g")
    assert "it has no debug information" in world.refused()
    world.strip()
    assert world.found()[:3] == ("build id", "/" + str(debug.relative_to(world.root)), debug.read_bytes())


# Supplementary files


@pytest.fixture(params=["absolute", "relative", "by build id", "fetched"])
def shared(request: pytest.FixtureRequest, world: World, programs: Callable[..., Path]) -> tuple[World, Path, Fetch]:
    """A world whose debug file refers to a supplementary one that dwz made, to be found in one way only."""
    world.strip()
    debug, other = world.debug_file(world.by_build_id()), world.folder / "other.debug"
    world.debug_file(other, programs("-DEXTRA=2"))
    real = world.at("/usr/lib/debug/opt/app/bin/program.debug")
    shutil.move(debug, real)
    debug.symlink_to("../../opt/app/bin/program.debug")
    supplementary = world.folder / "common.debug"
    names = {"absolute": "/usr/lib/debug/.dwz/common.debug", "relative": "../../../.dwz/common.debug"}
    named = names.get(request.param, "/nowhere/common.debug")
    run("dwz", "-m", supplementary, "-M", named, real, other)
    fetched = {}
    if request.param == "by build id":
        of = build_id(supplementary)
        shutil.copy(supplementary, world.at(f"/usr/lib/debug/.build-id/{of[:2]}/{of[2:]}.debug", world.host))
    elif request.param == "fetched":
        fetched = {build_id(supplementary): supplementary}
    else:
        shutil.copy(supplementary, world.at("/usr/lib/debug/.dwz/common.debug"))
    return world, supplementary, fetching(fetched)


def test_a_supplementary_file_is_found(shared: tuple[World, Path, Fetch]) -> None:
    world, supplementary, fetch = shared
    assert world.found(fetch)[3] == supplementary.read_bytes()


@pytest.mark.parametrize("instead", ["missing", "another", "cut short"])
def test_a_supplementary_file_that_is_not_the_right_one_is_left_out(
    world: World, programs: Callable[..., Path], instead: str
) -> None:
    world.strip()
    debug, other = world.debug_file(world.by_build_id()), world.folder / "other.debug"
    world.debug_file(other, programs("-DEXTRA=2"))
    place = world.at("/usr/lib/debug/.dwz/common.debug")
    run("dwz", "-m", place, "-M", "/usr/lib/debug/.dwz/common.debug", debug, other)
    if instead == "cut short":
        os.truncate(place, place.stat().st_size - 1)
    else:
        place.unlink()
        if instead == "another":
            shutil.copy(other, place)
    info, why = world.find()
    assert info is not None
    info.close()
    assert info.supplement is None
    assert "its supplementary file /usr/lib/debug/.dwz/common.debug is missing" in why[-1]


def test_dwarf_5_names_its_supplementary_file_in_a_section_of_its_own(
    world: World, programs: Callable[..., Path]
) -> None:
    one, two = world.debug_file(world.folder / "one"), world.debug_file(world.folder / "two", programs("-DEXTRA=2"))
    run("dwz", "--dwarf-5", "-m", world.folder / "common", "-M", "beside/common", one, two)
    assert ".debug_sup" in run("readelf", "-SW", one)
    link = supplement(_elf(one))
    assert link is not None and link.path == b"beside/common"
    assert supplement(_elf(world.folder / "common")) is None
    world.strip()
    shutil.copy(one, world.by_build_id())
    place = world.at(f"{world.by_build_id().parent}/beside/common", Path("/"))
    shutil.copy(world.folder / "common", place)
    assert world.found()[3] == place.read_bytes()


# Compressed sections


@pytest.mark.parametrize("kind", ["zlib-gabi", "zlib-gnu", "zstd"])
def test_compressed_sections_read_as_what_they_were(world: World, kind: str) -> None:
    packed = world.folder / "packed"
    run("objcopy", f"--compress-debug-sections={kind}", world.program, packed)
    before, after = _elf(world.program), _elf(packed)
    sections = [after.section(name) for name in (b".debug_info", b".debug_line", b".debug_str", b".text")]
    smaller = False
    for name, section in zip((b".debug_info", b".debug_line", b".debug_str", b".text"), sections, strict=True):
        original = before.section(name)
        assert original and section
        smaller |= section.size < original.size
        content = section_content(after, section, 1 << 20)
        assert content == section_content(before, original, 1 << 20)
        assert content == before.read(original.offset, original.size)
        with pytest.raises(ElfError, match="more than"):
            section_content(after, section, len(content) - 1)
    assert smaller
    assert find_own(packed)


def test_without_zstd_that_is_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = world.folder / "packed"
    run("objcopy", "--compress-debug-sections=zstd", world.program, packed)
    elf = _elf(packed)
    section = elf.section(b".debug_info")
    assert section
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(ElfError, match="backports.zstd"):
        section_content(elf, section, 1 << 20)


@pytest.mark.parametrize("kind", ["zlib-gabi", "zlib-gnu", "zstd"])
def test_damaged_compressed_sections_are_errors(world: World, kind: str) -> None:
    packed = world.folder / "packed"
    run("objcopy", f"--compress-debug-sections={kind}", world.program, packed)
    section = _elf(packed).section(b".debug_info")
    assert section
    chosen = random.Random(7)
    for _ in range(200):
        data = bytearray(packed.read_bytes())
        at = section.offset + chosen.randrange(section.size)
        data[at] ^= 1 << chosen.randrange(8)
        damaged = read_elf(partial(_part, bytes(data)))
        with suppress(ElfError):
            assert len(section_content(damaged, section, 1 << 20)) <= 1 << 20


# Files that mean harm


def _fifo(place: Path) -> None:
    os.mkfifo(place)


def _folder(place: Path) -> None:
    place.mkdir()


def _loop(place: Path) -> None:
    place.symlink_to(place.name)


def _device(place: Path) -> None:
    """A link to a device of the root's."""
    try:
        os.mknod(place, 0o020666, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("making devices takes root")


def _sparse(place: Path) -> None:
    place.touch()
    os.truncate(place, 1 << 40)


def _text(place: Path) -> None:
    place.write_text("not an ELF file\n" * 100)


def _empty(place: Path) -> None:
    place.touch()


HARMFUL: dict[Callable[[Path], None], str] = {
    _fifo: "not a regular file",
    _folder: "not a regular file",
    _loop: "symbolic links",
    _device: "not a regular file",
    _sparse: "not an ELF file",
    _text: "not an ELF file",
    _empty: "not an ELF file",
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_what_is_no_debug_file_is_passed_over_with_a_reason(world: World, harm: Callable[[Path], None]) -> None:
    world.strip()
    harm(world.by_build_id())
    assert HARMFUL[harm] in world.refused()
    world.debug_file(world.by_build_id(world.host))
    assert world.found()[0] == "build id"


@pytest.mark.parametrize("harm", HARMFUL)
def test_the_same_in_the_place_of_a_debuglink(world: World, harm: Callable[[Path], None]) -> None:
    debug = world.debug_file(world.at("/opt/app/bin/program.debug"))
    world.strip()
    run("objcopy", f"--add-gnu-debuglink={debug}", world.binary)
    debug.unlink()
    harm(debug)
    assert HARMFUL[harm] in world.refused()


def test_a_huge_sparse_debug_file_is_not_read_through(world: World) -> None:
    debug = world.debug_file(world.at("/opt/app/bin/program.debug"))
    world.strip()
    run("objcopy", f"--add-gnu-debuglink={debug}", world.binary)
    os.truncate(debug, 1 << 40)
    assert "its checksum is not taken" in world.refused()


def test_a_link_out_of_the_root_stays_inside(world: World) -> None:
    world.strip()
    outside = world.debug_file(world.folder / "outside.debug")
    world.by_build_id().symlink_to(outside)
    assert world.refused() == ""


@pytest.mark.parametrize("name", [b"../bin/program.debug", b"/opt/app/bin/program.debug", b"..", b"."])
def test_a_debuglink_that_is_no_plain_name_is_not_followed(world: World, name: bytes) -> None:
    debug = world.debug_file(world.at("/opt/app/bin/program.debug"))
    world.strip()
    crc = zlib.crc32(debug.read_bytes())
    link = world.folder / "link"
    link.write_bytes(name + bytes(4 - len(name) % 4) + crc.to_bytes(4, "little"))
    run("objcopy", f"--add-section=.gnu_debuglink={link}", world.binary)
    read = debug_link(_elf(world.binary))
    assert read and (read.name, read.crc) == (name, crc)
    assert world.refused() == ""


def test_a_debug_file_of_another_program_with_the_same_build_id_is_refused(
    tmp_path: Path, programs: Callable[..., Path]
) -> None:
    collision = "-Wl,--build-id=0x" + "c0" * 20
    world = World(tmp_path, programs(collision))
    longer = programs(collision, "-O0", "-fno-inline")
    world.strip()
    world.debug_file(world.by_build_id(), longer)
    assert "its code lies at other addresses" in world.refused()
    assert "its code lies at other addresses" in world.refused(fetching({"c0" * 20: longer}))
    world.debug_file(world.by_build_id(world.host))
    assert world.found()[0] == "build id"


def test_a_debug_file_of_another_build_under_our_build_id_is_refused(
    world: World, programs: Callable[..., Path]
) -> None:
    world.strip()
    world.debug_file(world.by_build_id(), programs("-DEXTRA=2"))
    assert f"not build id {world.build_id()}" in world.refused()
    no_id = programs("-Wl,--build-id=none")
    world.debug_file(world.by_build_id(), no_id)
    assert "it has no build id" in world.refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize(("debug_owner", "binary_owner"), [(1234, 0), (1234, 5678)])
def test_a_debug_file_of_a_user_to_whom_the_binary_does_not_belong_is_refused(
    world: World, debug_owner: int, binary_owner: int
) -> None:
    world.strip()
    os.chown(world.debug_file(world.by_build_id()), debug_owner, -1)
    os.chown(world.binary, binary_owner, -1)
    assert "it belongs to user 1234, to whom the binary does not belong" in world.refused()
    os.chown(world.binary, debug_owner, -1)
    assert world.found()[0] == "build id"


def test_a_debug_file_that_is_cut_short_is_refused(world: World) -> None:
    world.strip()
    debug = world.debug_file(world.by_build_id())
    link = _elf(debug).section(b".debug_info")
    assert link
    headers = debug.read_bytes()
    for size in (len(headers) - 1, link.offset + 1, 64, 63, 3):
        debug.write_bytes(headers[:size])
        assert "cut short" in world.refused() or "not an ELF file" in world.refused()


def test_a_debug_file_that_changes_while_it_is_read_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    debug = world.debug_file(world.at("/opt/app/bin/program.debug"))
    world.strip()
    run("objcopy", f"--add-gnu-debuglink={debug}", world.binary)

    def read_and_change(file: int, offset: int, size: int) -> bytes:
        data = read_at(file, offset, size)
        if size == debugfiles._PIECE:
            with debug.open("ab") as writer:
                writer.write(b"more")
        return data

    monkeypatch.setattr(debugfiles, "read_at", read_and_change)
    assert "it changed while it was read" in world.refused()


@pytest.mark.parametrize("content", ["a bomb", "garbage", "cut short", "empty", "no ELF file"])
def test_symbols_in_miniature_that_are_none_are_passed_over(world: World, content: str) -> None:
    packed = lzma.compress(b"\0" * (debugfiles.MAX_MINIDEBUGINFO_BYTES + 1) if content == "a bomb" else b"x", preset=0)
    data = {"garbage": bytes(range(256)), "cut short": packed[:-9], "empty": b""}.get(content, packed)
    world.strip()
    (world.folder / "data").write_bytes(data)
    run("objcopy", f"--add-section=.gnu_debugdata={world.folder / 'data'}", world.binary)
    expected = {"a bomb": "more than 67108864 bytes", "no ELF file": "not an ELF file", "garbage": "damaged"}
    assert expected.get(content, "cut short") in world.refused()


def test_what_is_fetched_is_checked_like_any_other(world: World) -> None:
    world.strip()
    garbage = world.folder / "garbage"
    garbage.write_bytes(os.urandom(1000))
    assert "not an ELF file" in world.refused(fetching({world.build_id(): garbage}))


def test_a_binary_that_is_no_elf_file_has_no_debug_information(world: World) -> None:
    world.binary.write_text("#!/bin/sh\n")
    assert "not an ELF file" in world.refused()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_makes_it_raise(data: st.DataObject) -> None:
    """Bytes of a small ELF file with all kinds of links changed at random."""
    original = DAMAGED.setdefault("file", _all_links())
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 12))):
        changed[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.one_of(st.just(len(original)), st.integers(0, len(original))))
    file = os.memfd_create("damaged")
    try:
        os.write(file, bytes(changed[:size]))
        root = open_root("/proc/self/fdinfo")
        try:
            info = find_debug_info(file, PATH, [root], lambda build_id: os.dup(file))
        finally:
            os.close(root)
        if info:
            info.close()
        with suppress(ElfError):
            elf = read_elf(partial(read_at, file))
            for read in (debug_link, supplement, partial(debug_data, most=1 << 20)):
                with suppress(ElfError):
                    read(elf)
    finally:
        os.close(file)


DAMAGED: dict[str, bytes] = {}


def _all_links() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.s").write_text(".globl f\n.type f,@function\nf: ret\n.size f,1\n")
        (folder / "link").write_bytes(b"a.debug\0" + bytes(4))
        (folder / "alt").write_bytes(b"common\0" + bytes(20))
        (folder / "mini").write_bytes(lzma.compress(b"\x7fELF" + bytes(60)))
        sections = {".gnu_debuglink": "link", ".gnu_debugaltlink": "alt", ".gnu_debugdata": "mini"}
        run("gcc", "-shared", "-nostdlib", "-Wl,--build-id", "-Wl,-s", "-o", folder / "a", folder / "a.s")
        run("objcopy", *(f"--add-section={k}={folder / v}" for k, v in sections.items()), folder / "a")
        return (folder / "a").read_bytes()


def _elf(path: Path) -> Elf:
    return read_elf(partial(_part, path.read_bytes()))


def _part(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]


def find_own(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY)
    try:
        info = find_debug_info(file, "/x", [])
        if info is None:
            return False
        info.close()
        return info.source == "own"
    finally:
        os.close(file)
