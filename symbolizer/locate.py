"""Which file a mapping shows: found through the process's own eyes, and believed only when proven.

A path alone proves nothing. The file may have been replaced since, and a path means another file in
another container. So a file is taken for the mapping's only if their build ids are equal, or, where
the kernel reported none, their device and inode. Build ids can be equal of files that differ
(identity.py tells them apart), so of several files with the right one that with the right inode counts.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from symbolizer.elf import MAX_BUILD_ID, ElfError, NotElfError, read_elf
from symbolizer.files import NotRegularError, is_layered, open_beneath, open_link, read_at
from symbolizer.names import clean_name
from symbolizer.process import Process
from symbolizer.types import Binary, Frame, Location, Mapping, Reason
from symbolizer.unknown import DELETED, UnknownError, file_name, unknown

_NOT_FILES = ("[", "//", "/SYSV", "/dev/zero", "/anon_hugepage")
_MEMORY_FILES = ("/memfd:", "/dev/shm/")
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENAMETOOLONG, errno.EINVAL}


def is_file(path: str) -> bool:
    """Whether a mapping with this path shows a file, not memory that has a name at most."""
    return path.startswith("/") and not path.startswith(_NOT_FILES)


def is_memory_file(path: str) -> bool:
    """Whether a mapping with this path shows memory that processes share as if it were a file.

    It may hold a program, and else what a compiler put there: then it is no file, but memory.
    """
    return path.startswith(_MEMORY_FILES)


def memory_location(process: Process, mapping: Mapping, address: int, problem: Frame | None = None) -> Location:
    """The Location of an address in memory that shows no file and that no compiler named.

    Its binary is the memory by its name in /proc/PID/maps, as "[heap]", "[stack]", "[anon:NAME]", "[memfd:NAME]",
    "[SYSV0000002a]", "[/dev/zero]"; None where it has none. `problem` says why nothing named it, where there is more to
    say than that nothing did.
    """
    name = memory_name(process, mapping, address)
    reason = Reason.ANONYMOUS if process.alive else Reason.PROCESS_GONE
    return Location(address, Binary(f"[{name}]") if name else None, (problem or unknown(reason, name),))


def memory_name(process: Process, mapping: Mapping, address: int) -> str:
    """The name, without brackets and fit to show, that memory_location() speaks of; "" where there is none.

    That of anonymous memory is what it is called now: programs give such names after they mapped it.
    """
    name = mapping.path.removesuffix(DELETED)
    if not name or name.startswith("//"):  # as the kernel reported it when it was mapped
        name = process.memory_name(address)
    if name.startswith("["):
        name = name.removeprefix("[").removesuffix("]")
    return clean_name(name if name.startswith("/dev/") else name.removeprefix("/"))


def open_mapped(process: Process, mapping: Mapping) -> int:
    """Opens the file that a mapping shows and returns its descriptor. Raises UnknownError.

    Tried in this order: the process's own view of the path, what the kernel says is mapped there
    (which serves for deleted files too; first of all where no build id can prove a path right), the
    program that the process runs, then the path as relatives and the host see it. The first that
    is certain counts; else the first with the right build id.
    """
    name = file_name(mapping.path)
    # Of several failures the one that says most is told: refused or damaged, replaced, missing.
    failures = [(0, unknown(Reason.FILE_MISSING, name))]
    likely = -1
    for candidate in _candidates(process, mapping):
        try:
            handle = candidate.open()
        except OSError as error:
            if candidate.telling:
                failures.append(_refused(error, name))
            continue
        failure = (1, unknown(Reason.FILE_MISSING, name, "file replaced"))
        proof = _Proof.NONE
        try:
            proof = _proof(handle, mapping, candidate)
        except ElfError as error:
            failure = (2, damaged(error, name))
        except OSError as error:
            failure = _refused(error, name)
        if proof is _Proof.CERTAIN:
            if likely >= 0:
                os.close(likely)
            return handle
        if proof is _Proof.LIKELY and likely < 0:
            likely = handle
            continue
        os.close(handle)
        if candidate.telling:
            failures.append(failure)
    if likely >= 0:
        return likely
    raise UnknownError(max(failures, key=lambda failure: failure[0])[1])


def damaged(error: ElfError, name: str) -> Frame:
    """The frame for code of a file that is not, or not any more, a proper ELF file."""
    what = "not an ELF file" if isinstance(error, NotElfError) else "damaged ELF file"
    return unknown(Reason.UNREADABLE_FILE, name, what)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A place to look: a link of /proc, or a path below `root`.

    `mapped`: what is there is the mapped file for certain. `own`: it is as the process sees it.
    `telling`: a failure here says what became of the file.
    """

    path: str
    root: int | None = None
    mapped: bool = False
    own: bool = False
    telling: bool = False

    def open(self) -> int:
        return open_link(self.path) if self.root is None else open_beneath(self.root, self.path)


def _candidates(process: Process, mapping: Mapping) -> Iterator[_Candidate]:
    own = f"{process.proc}/{process.pid}"
    path = mapping.path.removesuffix(DELETED)
    in_kernel = _Candidate(f"{own}/map_files/{mapping.start:x}-{mapping.end:x}", mapped=True)
    by_kernel_first = not mapping.build_id or path != mapping.path
    if by_kernel_first:
        yield in_kernel
    root = process.own_root()
    if root is not None:
        yield _Candidate(path, root, own=True, telling=True)
    if not by_kernel_first:
        yield in_kernel
    yield _Candidate(f"{own}/exe", own=True)
    for _, root in process.other_roots():
        yield _Candidate(path, root, telling=process.own_root() is None)


class _Proof(IntEnum):
    """How sure it is that a file is the mapped one. LIKELY: it has the build id, but another inode."""

    NONE = 0
    LIKELY = 1
    CERTAIN = 2


def _proof(handle: int, mapping: Mapping, candidate: _Candidate) -> _Proof:
    """Raises ElfError, OSError."""
    same = candidate.mapped or _is_same_file(handle, mapping, candidate)
    if not mapping.build_id:
        return _Proof.CERTAIN if same else _Proof.NONE
    elf = read_elf(lambda offset, size: read_at(handle, offset, size))
    if elf.build_id() != mapping.build_id[: 2 * MAX_BUILD_ID]:
        return _Proof.NONE
    return _Proof.CERTAIN if same or not mapping.inode else _Proof.LIKELY


def _is_same_file(handle: int, mapping: Mapping, candidate: _Candidate) -> bool:
    if not mapping.inode:
        return candidate.root is not None
    status = os.fstat(handle)
    if status.st_ino != mapping.inode:
        return False
    # Where devices cannot be compared, among the files that the process itself sees under this path the
    # inode is proof enough.
    return status.st_dev == mapping.device or candidate.own and is_layered(handle)


def _refused(error: OSError, name: str) -> tuple[int, Frame]:
    if error.errno in _MISSING:
        return 0, unknown(Reason.FILE_MISSING, name)
    if error.errno == errno.ELOOP:
        return 1, unknown(Reason.UNREADABLE_FILE, name, "symbolic links lead in a circle")
    if isinstance(error, NotRegularError):
        return 1, unknown(Reason.UNREADABLE_FILE, name, "not a regular file")
    if error.errno in (errno.EACCES, errno.EPERM):
        return 2, unknown(Reason.UNREADABLE_FILE, name, "permission denied")
    return 2, unknown(Reason.UNREADABLE_FILE, name)
