"""Where the debug information of a binary is: in itself, in a file installed beside it, fetched, or in miniature.

Places are those that GDB documents ("Debugging Information in Separate Files", "MiniDebugInfo"): by build id below
/usr/lib/debug/.build-id, then the name in .gnu_debuglink. Nothing found there is believed before it is checked: a
regular ELF file for the same machine, of the same build id or checksum, whose code lies where the binary's does, and
which belongs to root, to us or to the binary's owner: in a namespace of their own all users can put their own file of
any content into these places, and what it says would be shown to everybody who runs the binary.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from symbolizer.elf import MAX_WHOLE_BUILD_ID, Elf, ElfError, read_elf
from symbolizer.elf_content import debug_data, debug_link, supplement, supplement_identity
from symbolizer.files import open_beneath, read_at
from symbolizer.unknown import DELETED

MAX_CHECKED_BYTES = 2 << 30  # of a file whose checksum is to be taken
MAX_MINIDEBUGINFO_BYTES = 64 << 20  # unpacked; libstdc++'s is 0.3 MB

_DEBUG = "/usr/lib/debug"
_PIECE = 1 << 20
_ABSENT = (errno.ENOENT, errno.ENOTDIR)

Source = Literal["own", "build id", "debuglink", "debuginfod", "minidebuginfo"]

Fetch = Callable[[str], int | None]
"""Build id in hex -> descriptor of the debug file that has it, which the caller closes; None if there is none."""


@dataclass(frozen=True, slots=True)
class DebugInfo:
    """An open ELF file with debug information (.debug_info) of a binary, or with symbols that the binary lacks.

    `path` is where it was found, as seen from the root directory where it was found. `supplement` is the file that
    dwz moved parts of `file` to; None where it has none, and also where it has one that is not there. Both
    descriptors belong to who asked for them.
    """

    file: int
    source: Source
    path: str
    supplement: int | None = None

    def close(self) -> None:
        os.close(self.file)
        if self.supplement is not None:
            os.close(self.supplement)


def find_debug_info(
    binary: int, path: str, roots: Sequence[int], fetch: Fetch | None = None, why: list[str] | None = None
) -> DebugInfo | None:
    """The best debug information there is for an ELF file, or None.

    `binary` is the file's descriptor, `path` its path as its process sees it, `roots` are descriptors of root
    directories to look in, likeliest first. Order: its own, by build id, by debuglink, fetched. A file that has only
    symbols (of a program built without -g, or .gnu_debugdata) is taken if no other is found and the binary has no
    symbols of its own. To `why` a sentence is added for each file that was found and could not be used. Raises
    nothing for what a file holds or is.
    """
    notes = [] if why is None else why
    path = path.removesuffix(DELETED)
    try:
        elf = _read(binary)
        if _has_debug_info(elf):
            own = DebugInfo(os.dup(binary), "own", path)
            return replace(own, supplement=_find_supplement(own, elf, None, roots, fetch, notes))
        identity = _identity(binary)
    except (ElfError, OSError) as error:
        notes.append(f"{path}: {_sentence(error)}")
        return None
    seen = {identity}
    symbols: DebugInfo | None = None
    for candidate in _candidates(elf, path, roots, fetch, notes):
        file = _opened(candidate, notes)
        if file is None:
            continue
        try:
            identity = _identity(file)
            debug = None if identity in seen else _checked(candidate, file, elf, binary)
            seen.add(identity)
        except (ElfError, OSError) as error:
            notes.append(f"{candidate.path}: {_sentence(error)}")
            debug = None
        if debug is None:
            os.close(file)
            continue
        found = DebugInfo(file, candidate.source, candidate.path)
        if _has_debug_info(debug):
            if symbols:
                symbols.close()
            return replace(found, supplement=_find_supplement(found, debug, candidate.root, roots, fetch, notes))
        if symbols is None and _has_symbols(debug) and not _has_symbols(elf):
            symbols = found
        else:
            notes.append(f"{candidate.path}: it has no debug information")
            found.close()
    return symbols


def is_likely(binary: int, path: str, roots: Sequence[int]) -> bool:
    """Whether find_debug_info() might find something on this machine, told by a few system calls: false for most
    binaries of a distribution, whose debug packages are not installed."""
    path = path.removesuffix(DELETED)
    try:
        elf = _read(binary)
        if _has_debug_info(elf) or elf.section(b".gnu_debugdata") is not None:
            return True
        for candidate in _candidates(elf, path, roots, None, []):
            if candidate.source != "minidebuginfo" and (file := _opened(candidate, [])) is not None:
                os.close(file)
                return True
    except (ElfError, OSError):
        pass
    return False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file that may be it. `open` raises OSError or ElfError, or gives None, where there is none."""

    source: Source
    path: str
    open: Callable[[], int | None]
    root: int | None = None
    crc: int | None = None
    """What its checksum must be."""


def _candidates(
    elf: Elf, path: str, roots: Sequence[int], fetch: Fetch | None, notes: list[str]
) -> Iterator[_Candidate]:
    build_id = elf.build_id(MAX_WHOLE_BUILD_ID)
    if len(build_id) >= 4:
        place = _by_build_id(build_id)
        for root in roots:
            yield _Candidate("build id", place, partial(open_beneath, root, place), root)
    try:
        link = debug_link(elf)
    except ElfError as error:
        notes.append(f"{path}: {error}")
        link = None
    if link and link.name not in (b"", b".", b"..") and b"/" not in link.name:
        name = os.fsdecode(link.name)
        for root in roots:
            for folder in _debuglink_folders(path):
                place = f"{folder}/{name}"
                yield _Candidate("debuglink", place, partial(open_beneath, root, place), root, link.crc)
    if fetch and len(build_id) >= 4:
        yield _Candidate("debuginfod", f"debuginfo of {build_id}", partial(fetch, build_id))
    yield _Candidate("minidebuginfo", path, partial(_minidebuginfo, elf))


def _by_build_id(build_id: str) -> str:
    return f"{_DEBUG}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"


def _debuglink_folders(path: str) -> Iterator[str]:
    if not path.startswith("/"):
        return
    folder = path.rpartition("/")[0]
    yield folder
    yield f"{folder}/.debug"
    yield _DEBUG + folder
    if folder.startswith("/usr/"):  # of a package from before /lib became a link to /usr/lib
        yield _DEBUG + folder.removeprefix("/usr")


def _opened(candidate: _Candidate, notes: list[str]) -> int | None:
    try:
        return candidate.open()
    except (ElfError, OSError) as error:
        if not isinstance(error, OSError) or error.errno not in _ABSENT:
            notes.append(f"{candidate.path}: {_sentence(error)}")
        return None


def _checked(candidate: _Candidate, file: int, binary: Elf, binary_file: int) -> Elf:
    """The candidate's headers. Raises ElfError where it does not belong to the binary."""
    _check_owner(file, binary_file)
    debug = _read(file)
    size = os.fstat(file).st_size
    if debug.end > size:
        raise ElfError(f"it is cut short: {size} bytes of {debug.end}")
    for kind in (_machine, _build_id):
        ours, theirs = kind(binary), kind(debug)
        if ours and theirs and ours != theirs:
            raise ElfError(f"it is for another file: {theirs}, not {ours}")
    if candidate.source in ("build id", "debuginfod") and not _build_id(debug):
        raise ElfError("it has no build id")
    if _code(binary) != _code(debug) and _code(binary) and _code(debug):
        raise ElfError("it is for another file: its code lies at other addresses")
    if candidate.crc is not None and (crc := _checksum(file)) != candidate.crc:
        raise ElfError(f"it is for another file: its checksum is {crc:08x}, not {candidate.crc:08x}")
    return debug


def _check_owner(file: int, binary: int) -> None:
    """Raises ElfError where the file is of somebody who could not have written the binary either."""
    owner = os.fstat(file).st_uid
    if owner not in (0, os.geteuid(), os.fstat(binary).st_uid):
        raise ElfError(f"it belongs to user {owner}, to whom the binary does not belong")


def _machine(elf: Elf) -> str:
    order = "little" if elf.structs.little_endian else "big"
    return f"{elf.machine} with {elf.structs.elfclass} bits, {order} endian"


def _build_id(elf: Elf) -> str:
    build_id = elf.build_id(MAX_WHOLE_BUILD_ID)
    return f"build id {build_id}" if build_id else ""


def _code(elf: Elf) -> set[tuple[int, int]]:
    """(address, size) of each section with code. Debug files have the same sections, only without their bytes."""
    return {(section.address, section.size) for section in elf.sections if section.executable and section.size}


def _has_debug_info(elf: Elf) -> bool:
    section = elf.section(b".debug_info")
    return section is not None and section.kind != "SHT_NOBITS" and section.size > 0


def _has_symbols(elf: Elf) -> bool:
    return any(section.kind == "SHT_SYMTAB" and section.size > section.entry_size for section in elf.sections)


def _checksum(file: int) -> int:
    before = _state(file)
    if before[0] > MAX_CHECKED_BYTES:
        raise ElfError(f"its checksum is not taken: it has {before[0]} bytes, more than {MAX_CHECKED_BYTES}")
    crc = 0
    for at in range(0, before[0], _PIECE):
        crc = zlib.crc32(read_at(file, at, _PIECE), crc)
    if _state(file) != before:
        raise ElfError("it changed while it was read")
    return crc


def _minidebuginfo(elf: Elf) -> int | None:
    data = debug_data(elf, MAX_MINIDEBUGINFO_BYTES)
    if data is None:
        return None
    with os.fdopen(os.memfd_create("minidebuginfo", os.MFD_CLOEXEC), "wb") as file:
        file.write(data)
        file.flush()
        return os.dup(file.fileno())


# Supplementary files


def _find_supplement(
    info: DebugInfo, debug: Elf, root: int | None, roots: Sequence[int], fetch: Fetch | None, notes: list[str]
) -> int | None:
    """The file that dwz moved parts of `info` to, which was found below `root`."""
    try:
        link = supplement(debug)
    except ElfError as error:
        notes.append(f"{info.path}: {error}")
        return None
    if link is None:
        return None
    opens: list[tuple[str, Callable[[], int | None]]] = []
    for folder in dict.fromkeys((_real_folder(info.file, root), info.path.rpartition("/")[0])):
        place = os.path.join(folder, os.fsdecode(link.path))
        opens += [(place, partial(open_beneath, each, place)) for each in roots if place.startswith("/")]
    place = _by_build_id(link.build_id)
    opens += [(place, partial(open_beneath, each, place)) for each in roots]
    if fetch:
        opens.append((f"debuginfo of {link.build_id}", partial(fetch, link.build_id)))
    for place, open in opens:
        file = _opened(_Candidate(info.source, place, open), notes)
        if file is None:
            continue
        try:
            _check_owner(file, info.file)
            elf = _read(file)
            if supplement_identity(elf) == link.build_id and elf.end <= os.fstat(file).st_size:
                return file
            notes.append(f"{place}: it is not the supplementary file with build id {link.build_id}, or is cut short")
        except (ElfError, OSError) as error:
            notes.append(f"{place}: {_sentence(error)}")
        os.close(file)
    notes.append(f"{info.path}: its supplementary file {os.fsdecode(link.path)} is missing, so names will be, too")
    return None


def _real_folder(file: int, root: int | None) -> str:
    """The folder of a file found below `root`, symbolic links followed: paths are relative to that."""
    try:
        path = os.readlink(f"/proc/self/fd/{file}")
        above = os.readlink(f"/proc/self/fd/{root}") if root is not None else "/"
    except OSError:
        return ""
    if above != "/" and path.startswith(above + "/"):
        path = path[len(above) :]
    return path.rpartition("/")[0]


# Files


def _read(file: int) -> Elf:
    return read_elf(partial(read_at, file))


def _identity(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def _state(file: int) -> tuple[int, int, int]:
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sentence(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
