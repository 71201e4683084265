"""Files, lines and inlined functions of kernel code, on a made-up host with kernels and modules that gcc makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from symbolizer.debuginfo.symfile import SymFile
from symbolizer.debuginfo.symfile_build import build_symfile
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.elf import build_id_of_notes, read_elf
from symbolizer.files import open_root, read_at
from symbolizer.kernel.files import kernel_release, module_file, open_module, open_vmlinux, symbol_address
from symbolizer.kernel.kernel import Kernel
from symbolizer.kernel.lines import LOOK_AGAIN_SECONDS
from symbolizer.types import Frame, Kind, Location

RELEASE = "6.1.0-9-test"
LINKED_AT = 0xFFFFFFFF81000000
LOADED_AT = 0xFFFFFFFF9A000000
SECONDS = 120.0  # that a build may take on a busy machine

SOURCE = """\
extern int sink;
static inline __attribute__((always_inline)) int fold(int x) {
    return x * sink;
}
__attribute__((noinline)) int read_file(int x) {
    sink = x;
    return fold(x) + 1;
}
__attribute__((noinline, section(".text.unlikely"))) int rarely(int x) {
    sink = x;
    return x + 2;
}
int sink;
__attribute__((section(".data..percpu"))) int of_each_cpu = 1;
"""
FOLD, READ_FILE, RARELY = 3, 6, 10  # lines that code comes from


@dataclass
class Host:
    """Both /proc and /sys of a host, with its root directory at /proc/1/root."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "1/root"

    def put(self, path: str, content: bytes) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def kernel(self, symfiles: SymFiles | Stored | None = None) -> Kernel:
        return Kernel(str(self.folder), str(self.folder), symfiles)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.root.mkdir(parents=True)
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/osrelease").write_text(RELEASE + "\n")
    (tmp_path / "kernel").mkdir()
    return host


@dataclass
class Stored:
    """Symbol files that are there as soon as they are asked for, once `ready`; and what was asked for."""

    ready: bool = True
    files: dict[str, SymFile] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def request(self, build_id: str, binary: int, path: str, roots: Sequence[int] = ()) -> None:
        self.asked.append((build_id, path))
        data = build_symfile(lambda offset, size: read_at(binary, offset, size), _Own(binary))
        made = os.memfd_create("symbols")
        os.write(made, data)
        self.files[build_id] = SymFile.open(made)
        os.close(made)

    def get(self, build_id: str) -> SymFile | None:
        return self.files.get(build_id) if self.ready else None


@dataclass(frozen=True)
class _Own:
    file: int
    supplement: int | None = None


def compiled(folder: Path, *options: str, link: Sequence[str]) -> bytes:
    (folder / "file.c").write_text(SOURCE)
    subprocess.run(
        ["gcc", "-O2", "-g", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none", *options, "-c", "file.c"],
        cwd=folder, check=True,
    )  # fmt: skip
    subprocess.run(["ld", *link, "-o", "linked", "file.o"], cwd=folder, check=True)
    return (folder / "linked").read_bytes()


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """With segments like a real one (arch/x86/kernel/vmlinux.lds.S)."""
    folder = tmp_path_factory.mktemp("vmlinux")
    script = f"""PHDRS {{ text PT_LOAD FLAGS(5); data PT_LOAD FLAGS(6); percpu PT_LOAD FLAGS(6); note PT_NOTE; }}
    SECTIONS {{
        . = {LINKED_AT:#x};
        .text : {{
            _text = .; _stext = .; . += 0x40; *(.text) *(.text.unlikely) . = ALIGN(0x1000); _etext = .;
        }} :text
        .notes : {{ *(.note.gnu.build-id) }} :text :note
        . = ALIGN(0x1000);
        .data : {{ *(.data) *(.bss) *(COMMON) }} :data
        .data..percpu 0 : {{ *(.data..percpu) }} :percpu
    }}"""
    (folder / "script").write_text(script)
    options = ["-T", "script", "--build-id=sha1", "-e", "read_file", "--no-warn-rwx-segments"]
    return compiled(folder, "-mcmodel=kernel", link=options)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("module"), "-mcmodel=kernel", link=["-r", "--build-id=sha1"])


def elf_symbols(content: bytes, *names: bytes) -> list[int]:
    elf = read_elf(lambda offset, size: content[offset : offset + size])
    found = [symbol_address(elf, name) for name in names]
    assert None not in found
    return [value for value in found if value is not None]


def note(content: bytes) -> bytes:
    build_id = read_elf(lambda offset, size: content[offset : offset + size]).build_id()
    return b"".join(n.to_bytes(4, "little") for n in (4, 20, 3)) + b"GNU\0" + bytes.fromhex(build_id)


def boot(host: Host, vmlinux: bytes) -> list[int]:
    """Runs this kernel at LOADED_AT. Returns where its functions read_file and rarely are."""
    (host.folder / "kernel/notes").write_bytes(note(vmlinux))
    functions = [at - LINKED_AT + LOADED_AT for at in elf_symbols(vmlinux, b"read_file", b"rarely")]
    (host.folder / "kallsyms").write_text(
        f"{LOADED_AT:x} T _text\n{functions[0]:x} T read_file\n{functions[1]:x} t rarely\n"
        f"{LOADED_AT + 0x1000:x} T _etext\n"
    )
    return functions


def load(host: Host, content: bytes, text: int, unlikely: int) -> None:
    """Loads this module as nf_tables, its sections at these addresses, into a kernel without a file."""
    folder = host.folder / "module/nf_tables"
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    (folder / "sections").mkdir(exist_ok=True)
    (folder / "notes/.note.gnu.build-id").write_bytes(note(content))
    (folder / "sections/.text").write_text(f"0x{text:016x}\n")
    (folder / "sections/.text.unlikely").write_text(f"0x{unlikely:016x}\n")
    (host.folder / "modules").write_text(f"nf_tables 372736 1 - Live 0x{text:016x}\n")
    (host.folder / "kallsyms").write_text(
        f"{LOADED_AT:x} T _text\n{LOADED_AT + 0x1000:x} T _etext\n"
        f"{text:x} t read_file\t[nf_tables]\n{unlikely:x} t rarely\t[nf_tables]\n"
    )


def at_line(kernel: Kernel, start: int, size: int = 64) -> dict[int, Location]:
    """By the line of the innermost frame, a location of the function at `start`."""
    return {location.frames[0].line: location for location in kernel.locations(range(start, start + size))}


def shown(frames: Sequence[Frame]) -> list[tuple[str, Kind, str, int]]:
    return [(frame.function, frame.kind, frame.file.rpartition("/")[2], frame.line) for frame in frames]


def test_kernel_code_has_lines_and_inlined_functions_wherever_it_was_loaded(host: Host, vmlinux: bytes) -> None:
    read_file, rarely = boot(host, vmlinux)
    host.put(f"/usr/lib/debug/boot/vmlinux-{RELEASE}", vmlinux)
    kernel = host.kernel(Stored())
    by_line = at_line(kernel, read_file, 32)
    assert shown(by_line[FOLD].frames) == [
        ("fold", Kind.INLINED, "file.c", FOLD),
        ("read_file", Kind.KERNEL, "file.c", 7),
    ]
    assert shown(by_line[READ_FILE].frames) == [("read_file", Kind.KERNEL, "file.c", READ_FILE)]
    assert by_line[FOLD].binary == by_line[READ_FILE].binary is not None
    offsets = [location.address for location in kernel.locations(range(read_file, rarely))]
    assert offsets == list(range(read_file - LOADED_AT, rarely - LOADED_AT))
    assert ("rarely", Kind.KERNEL, "file.c", RARELY) in shown([x.frames[0] for x in at_line(kernel, rarely).values()])


def test_names_are_those_of_before_and_lines_come_when_the_symbol_file_does(host: Host, vmlinux: bytes) -> None:
    read_file, rarely = boot(host, vmlinux)
    host.put(f"/boot/vmlinux-{RELEASE}", vmlinux)
    symfiles = SymFiles(host.folder / "symbols")
    try:
        kernel = host.kernel(symfiles)
        addresses = range(read_file, rarely)
        before = kernel.locations(addresses)
        assert {(x.frames[-1].function, x.frames[-1].line, len(x.frames)) for x in before} == {("read_file", 0, 1)}
        build_id = before[0].binary.build_id if before[0].binary else ""
        assert symfiles.wait(build_id, SECONDS), symfiles.why_not(build_id)
        assert kernel.locations(addresses) == before
        better = kernel.improve(symfiles.poll())
        after = kernel.locations(addresses)
        assert set(map(id, better)) == {id(y) for x, y in zip(before, after, strict=True) if x.frames != y.frames}
        assert [(x.address, x.binary) for x in after] == [(x.address, x.binary) for x in before]
        assert {x.frames[-1].function for x in after} == {"read_file"}
        assert {x.frames[0].line for x in after} >= {FOLD, READ_FILE}
        assert kernel.improve([build_id]) == []
    finally:
        symfiles.close()
    kept = SymFiles(host.folder / "symbols")
    try:
        assert host.kernel(kept).locations(addresses) == after
        assert kept.fileno() == -1  # no builder was needed
    finally:
        kept.close()


def test_a_module_has_lines_in_each_of_its_sections(host: Host, module: bytes) -> None:
    load(host, module, 0xFFFFFFFFC0A12000, 0xFFFFFFFFC0A0F000)  # another order than in the file
    host.put(f"/lib/modules/{RELEASE}/modules.dep", b"kernel/net/nf-tables.ko.xz: kernel/lib/x.ko\n")
    host.put(f"/usr/lib/debug/lib/modules/{RELEASE}/kernel/net/nf-tables.ko", module)
    stored = Stored()
    kernel = host.kernel(stored)
    read_file = at_line(kernel, 0xFFFFFFFFC0A12000, 32)
    assert shown(read_file[FOLD].frames) == [
        ("fold", Kind.INLINED, "file.c", FOLD),
        ("read_file", Kind.MODULE, "file.c", 7),
    ]
    binary = read_file[FOLD].binary
    assert binary is not None and binary.path == "[nf_tables]"
    rarely = at_line(kernel, 0xFFFFFFFFC0A0F000, 16)
    assert shown(rarely[RARELY].frames) == [("rarely", Kind.MODULE, "file.c", RARELY)]
    assert kernel.file(binary) == f"/lib/modules/{RELEASE}/kernel/net/nf-tables.ko.xz"
    assert len(stored.asked) == 1


def test_a_module_loaded_again_elsewhere_has_its_lines_there(
    host: Host, module: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.kernel.kernel.time.monotonic", lambda: now[0])
    host.put(f"/lib/modules/{RELEASE}/modules.dep", b"extra/nf_tables.ko:\n")
    host.put(f"/lib/modules/{RELEASE}/extra/nf_tables.ko", module)
    load(host, module, 0xFFFFFFFFC0A12000, 0xFFFFFFFFC0A0F000)
    kernel = host.kernel(Stored())
    first = at_line(kernel, 0xFFFFFFFFC0A12000, 32)
    load(host, module, 0xFFFFFFFFC0B12000, 0xFFFFFFFFC0B20000)
    now[0] += 10
    assert at_line(kernel, 0xFFFFFFFFC0B12000, 32) == first
    assert RARELY in at_line(kernel, 0xFFFFFFFFC0B20000, 16)


def test_without_debug_information_names_remain_and_it_is_looked_for_again_only_later(
    host: Host, vmlinux: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("symbolizer.kernel.lines.time.monotonic", lambda: now[0])
    read_file, _ = boot(host, vmlinux)
    stored = Stored()
    kernel = host.kernel(stored)
    assert shown(kernel.locations([read_file])[0].frames) == [("read_file", Kind.KERNEL, "", 0)]
    host.put(f"/boot/vmlinux-{RELEASE}", vmlinux)
    assert kernel.locations([read_file + 1])[0].frames[0].line == 0
    now[0] += LOOK_AGAIN_SECONDS
    assert kernel.locations([read_file + 2])[0].frames[0].line > 0
    assert [path for _, path in stored.asked] == [f"/boot/vmlinux-{RELEASE}"]


def test_what_another_user_owns_is_kept_apart_from_what_root_does(host: Host, vmlinux: bytes) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    read_file, _ = boot(host, vmlinux)
    os.chown(host.put(f"/lib/modules/{RELEASE}/build/vmlinux", vmlinux), 12345, -1)
    stored = Stored()
    kernel = host.kernel(stored)
    binary = kernel.locations([read_file])[0].binary
    assert binary is not None
    assert [key for key, _ in stored.asked] == [f"{binary.build_id}@12345"]
    assert kernel.file(binary) == f"/lib/modules/{RELEASE}/build/vmlinux"


def build_id_path(content: bytes) -> str:
    build_id = build_id_of_notes(note(content))
    return f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"


@pytest.mark.parametrize(
    "path",
    [
        f"/usr/lib/debug/boot/vmlinux-{RELEASE}",
        f"/usr/lib/debug/lib/modules/{RELEASE}/vmlinux",
        f"/lib/modules/{RELEASE}/build/vmlinux",
        f"/boot/vmlinux-{RELEASE}",
        "",
    ],
)
def test_the_kernels_debug_information_is_found_where_distributions_put_it(
    path: str, host: Host, vmlinux: bytes
) -> None:
    path = path or build_id_path(vmlinux)
    host.put(path, vmlinux)
    root = open_root(str(host.root))
    try:
        found = open_vmlinux(root, kernel_release(str(host.folder)), build_id_of_notes(note(vmlinux)))
        assert found is not None and found[1] == path
        assert os.pread(found[0], 4, 0) == b"\x7fELF"
        os.close(found[0])
    finally:
        os.close(root)


@pytest.mark.parametrize(
    "path",
    [
        f"/usr/lib/debug/lib/modules/{RELEASE}/kernel/x.ko",
        f"/usr/lib/debug/lib/modules/{RELEASE}/kernel/x.ko.debug",
        f"/usr/lib/debug/usr/lib/modules/{RELEASE}/kernel/x.ko.debug",
        f"/lib/modules/{RELEASE}/kernel/x.ko",
        "",
    ],
)
def test_a_modules_debug_information_is_found_where_distributions_put_it(path: str, host: Host, module: bytes) -> None:
    path = path or build_id_path(module)
    host.put(path, module)
    root = open_root(str(host.root))
    try:
        found = open_module(root, f"/lib/modules/{RELEASE}/kernel/x.ko.zst", build_id_of_notes(note(module)))
        assert found is not None and found[1] == path
        os.close(found[0])
    finally:
        os.close(root)


def _of_another_build(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(note(content), note(content)[:-1] + bytes([note(content)[-1] ^ 1])))


def _stripped(path: Path) -> None:
    subprocess.run(["strip", "--strip-debug", path], check=True)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x7fELF" + bytes(range(256)) * 4)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _outside(path: Path) -> None:
    """A link that leads out of the root directory, where the right file is."""
    outside = path.parents[3] / "outside"
    path.rename(outside)
    path.symlink_to("../../../outside")


@pytest.mark.parametrize("spoil", [_of_another_build, _stripped, _cut, _garbage, _fifo, _folder, _loop, _outside])
def test_a_vmlinux_that_is_not_the_running_kernels_is_passed_over(
    spoil: Callable[[Path], None], host: Host, vmlinux: bytes
) -> None:
    spoil(host.put(f"/boot/vmlinux-{RELEASE}", vmlinux))
    root = open_root(str(host.root))
    try:
        assert open_vmlinux(root, RELEASE, build_id_of_notes(note(vmlinux))) is None
        host.put(f"/lib/modules/{RELEASE}/vmlinux", vmlinux)
        host.put(build_id_path(vmlinux), b"not the one")
        found = open_vmlinux(root, RELEASE, build_id_of_notes(note(vmlinux)))
        assert found is not None and found[1] == f"/lib/modules/{RELEASE}/vmlinux"
        os.close(found[0])
    finally:
        os.close(root)


@pytest.mark.parametrize(
    ("line", "module", "path"),
    [
        ("kernel/net/nf_tables.ko: kernel/a.ko", "nf_tables", "kernel/net/nf_tables.ko"),
        ("kernel/net/nf_tables.ko.xz:", "nf_tables", "kernel/net/nf_tables.ko.xz"),
        ("kernel/net/nf_tables.ko.zst: kernel/a.ko", "nf_tables", "kernel/net/nf_tables.ko.zst"),
        ("kernel/sound/snd-hda-intel.ko:", "snd_hda_intel", "kernel/sound/snd-hda-intel.ko"),
        ("updates/dkms/nvidia.ko:", "nvidia", "updates/dkms/nvidia.ko"),
        ("/opt/modules/mine.ko:", "mine", "/opt/modules/mine.ko"),
        ("top.ko:", "top", "top.ko"),
        ("kernel/net/x_nf_tables.ko: kernel/nf_tables.ko", "nf_tables", ""),
        ("kernel/net/nf_tables.komodo:", "nf_tables", ""),
    ],
)
def test_the_file_of_a_module_is_what_modules_dep_says(line: str, module: str, path: str, host: Host) -> None:
    host.put(f"/lib/modules/{RELEASE}/modules.dep", f"kernel/first.ko:\n{line}\nkernel/last.ko: {line}\n".encode())
    root = open_root(str(host.root))
    try:
        assert module_file(root, RELEASE, module) == (os.path.join(f"/lib/modules/{RELEASE}", path) if path else "")
        assert module_file(root, "6.2", module) == ""
    finally:
        os.close(root)


@pytest.mark.parametrize("release", ["", "../../etc", "..", "a/b", "x" * 300, "6.1\n6.2"])
def test_a_release_that_is_no_name_of_a_folder_is_none(release: str, host: Host) -> None:
    (host.folder / "sys/kernel/osrelease").write_text(release)
    assert kernel_release(str(host.folder)) == ""


def test_a_symbol_is_found_whose_name_is_the_end_of_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "a.s").write_text(".globl __pi__text, _text\n.text\n.skip 16\n__pi__text: nop\n_text: nop\n")
    subprocess.run(["as", "a.s", "-o", "a.o"], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-O2", "-Ttext=0x10000", "-e", "0", "a.o", "-o", "a"], cwd=tmp_path, check=True)
    content = (tmp_path / "a").read_bytes()
    assert elf_symbols(content, b"_text", b"__pi__text") == [0x10011, 0x10010]
    assert symbol_address(read_elf(lambda offset, size: content[offset : offset + size]), b"ext") is None
