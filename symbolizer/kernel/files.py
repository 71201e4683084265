"""Files that the running kernel's code is from: modules, and what has debug information of them and of the kernel.

All is looked for below the host's root directory, and believed only if its build id is the
running code's. Where distributions put what:
- .build-id/xx/yyy.debug below /usr/lib/debug: all of them (GDB's manual, "Debugging Information in Separate Files");
- boot/vmlinux-RELEASE, lib/modules/RELEASE/vmlinux and lib/modules/RELEASE/kernel/….ko[.debug] below
  /usr/lib/debug: Debian, Ubuntu, Fedora, SUSE;
- /lib/modules/RELEASE/build/vmlinux, /boot/vmlinux-RELEASE: who builds a kernel on the machine, and Arch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import numpy as np

from symbolizer.elf import Elf, ElfError, read_elf
from symbolizer.files import open_beneath, open_root, read_at

_DEBUG = "/usr/lib/debug"
_MAX_DEPENDENCIES = 32 << 20  # bytes of a modules.dep; a distribution's has 1 MB
_COMPRESSED = (".xz", ".zst", ".gz")
_RELEASE = re.compile(r"[\w.+~-]{1,128}")
_PIECE = 24 << 15
_MAX_STRINGS = 192 << 20
_SYMBOL = np.dtype([("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8"), ("size", "u8")])


def host_root(proc: str = "/proc") -> int:
    """A descriptor of the host's root directory, as far as it can be seen from here. Raises OSError."""
    try:
        return open_root(f"{proc}/1/root")
    except OSError:
        return open_root("/")


def kernel_release(proc: str = "/proc") -> str:
    """As `uname -r` prints it; "" where that cannot be read or is no name of a folder."""
    try:
        with open(f"{proc}/sys/kernel/osrelease", encoding="ascii", errors="replace") as file:
            release = file.read(256).strip()
    except OSError:
        return ""
    return release if _RELEASE.fullmatch(release) and release.strip(".") else ""


def module_file(root: int, release: str, module: str) -> str:
    """The path of a module's file below `root`, which may be compressed; "" where modules.dep names none.

    modules.dep has a line "PATH: DEPENDENCIES" for each, relative to its own folder if not absolute
    (modules.dep(5)); a file has "-" where the module's name has "_", or not.
    """
    folder = f"/lib/modules/{release}"
    try:
        handle = open_beneath(root, f"{folder}/modules.dep")
    except OSError:
        return ""
    try:
        text = read_at(handle, 0, _MAX_DEPENDENCIES)
    except OSError:
        return ""
    finally:
        os.close(handle)
    name = re.sub("[-_]", "[-_]", module).encode()
    found = re.search(rb"^((?:[^:\n]*/)?" + name + rb"\.ko(?:\.\w+)?):", text, re.MULTILINE)
    return os.path.join(folder, os.fsdecode(found[1])) if found else ""


def host_module_file(proc: str, module: str) -> str:
    """module_file() of the kernel that runs, below the host's root directory."""
    try:
        root = host_root(proc)
    except OSError:
        return ""
    try:
        return module_file(root, kernel_release(proc), module)
    finally:
        os.close(root)


def open_vmlinux(root: int, release: str, build_id: str) -> tuple[int, str] | None:
    """(descriptor, path below `root`) of the kernel's ELF file with debug information, None where there is none."""
    paths = [*_by_build_id(build_id)]
    if release:
        paths += [
            f"{_DEBUG}/boot/vmlinux-{release}",
            f"{_DEBUG}/boot/vmlinux-{release}.debug",
            f"{_DEBUG}/lib/modules/{release}/vmlinux",
            f"{_DEBUG}/usr/lib/modules/{release}/vmlinux.debug",
            f"/lib/modules/{release}/build/vmlinux",
            f"/lib/modules/{release}/vmlinux",
            f"/boot/vmlinux-{release}",
        ]
    return _first_with_debug_info(root, paths, build_id)


def open_module(root: int, path: str, build_id: str) -> tuple[int, str] | None:
    """As open_vmlinux(), of the module whose file is at `path`, which may be ""."""
    paths = [*_by_build_id(build_id)]
    if path:
        for suffix in _COMPRESSED:
            path = path.removesuffix(suffix)
        folders = [path, path.removeprefix("/usr")] if path.startswith("/usr/") else [path, f"/usr{path}"]
        paths += [f"{_DEBUG}{each}{suffix}" for each in folders for suffix in ("", ".debug")]
        paths.append(path)
    return _first_with_debug_info(root, paths, build_id)


def _by_build_id(build_id: str) -> Iterator[str]:
    if re.fullmatch("[0-9a-f]{4,128}", build_id):
        yield f"{_DEBUG}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"


def _first_with_debug_info(root: int, paths: Iterable[str], build_id: str) -> tuple[int, str] | None:
    for path in paths:
        try:
            handle = open_beneath(root, path)
        except OSError:
            continue
        try:
            if _has_debug_info(handle, build_id):
                return handle, path
        except (ElfError, OSError):
            pass
        os.close(handle)
    return None


def _has_debug_info(handle: int, build_id: str) -> bool:
    elf = elf_at(handle)
    section = elf.section(b".debug_info")
    return section is not None and section.kind != "SHT_NOBITS" and elf.build_id() == build_id


def elf_at(handle: int) -> Elf:
    """The headers of the ELF file behind a descriptor. Raises ElfError, OSError."""
    return read_elf(lambda offset, size: read_at(handle, offset, size))


def symbol_address(elf: Elf, name: bytes) -> int | None:
    """The value of a symbol of a 64-bit .symtab of this machine's byte order; None where there is no such symbol.

    In pieces, so that a vmlinux with its 150,000 symbols takes no memory to speak of. Raises ElfError, OSError.
    """
    table = next((s for s in elf.sections if s.kind == "SHT_SYMTAB" and s.entry_size == _SYMBOL.itemsize), None)
    if table is None or not 0 < table.link < len(elf.sections):
        return None
    wanted = np.array(_offsets(elf, table.link, name), np.uint32)
    size = table.size - table.size % _SYMBOL.itemsize
    for at in range(0, size, _PIECE):
        data = elf.read(table.offset + at, min(_PIECE, size - at))
        symbols = np.frombuffer(data, _SYMBOL, len(data) // _SYMBOL.itemsize)
        found = np.flatnonzero(np.isin(symbols["name"], wanted) & (symbols["shndx"] > 0))
        if len(found):
            return int(symbols["value"][found[0]])
        if len(data) < min(_PIECE, size - at):
            break
    return None


def _offsets(elf: Elf, strings: int, name: bytes) -> list[int]:
    """Where a string table has a name. Linkers let it be the end of a longer one."""
    section, found = elf.sections[strings], []
    end = min(section.size, _MAX_STRINGS)
    for at in range(0, end, _PIECE):
        data = elf.read(section.offset + at, min(_PIECE + len(name), end - at))
        found += [at + match.start() for match in re.finditer(re.escape(name) + b"\0", data)]
    return found
