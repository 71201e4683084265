"""Which file a mapping shows: found through the process's own eyes, and believed only when proven.

A path alone proves nothing. The file may have been replaced since, and a path means another file in
another container. So a file is taken for the mapping's only if their build ids are equal, or, where
the kernel reported none, their device and inode.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from symbolizer.elf import MAX_BUILD_ID, ElfError, NotElfError, read_elf
from symbolizer.files import NotRegularError, open_beneath, open_link, read_at
from symbolizer.process import Process
from symbolizer.types import Frame, Mapping, Reason
from symbolizer.unknown import DELETED, UnknownError, file_name, unknown

_NOT_FILES = ("[", "//", "/SYSV", "/dev/zero", "/anon_hugepage")
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


def is_file(path: str) -> bool:
    """Whether a mapping with this path shows a file, not memory that has a name at most."""
    return path.startswith("/") and not path.startswith(_NOT_FILES)


def open_mapped(process: Process, mapping: Mapping) -> int:
    """Opens the file that a mapping shows and returns its descriptor. Raises UnknownError.

    Tried in this order: the process's own view of the path, what the kernel says is mapped there
    (which serves for deleted files too; first of all where no build id can prove a path right), the
    program that the process runs, then the path as relatives and the host see it.
    """
    name = file_name(mapping.path)
    # Of several failures the one that says most is told: refused or damaged, replaced, missing.
    failures = [(0, unknown(Reason.FILE_MISSING, name))]
    for candidate in _candidates(process, mapping):
        try:
            handle = candidate.open()
        except OSError as error:
            if candidate.telling:
                failures.append(_refused(error, name))
            continue
        failure = (1, unknown(Reason.FILE_MISSING, name, "file replaced"))
        try:
            if _shows(handle, mapping, candidate):
                return handle
        except ElfError as error:
            failure = (2, damaged(error, name))
        except OSError as error:
            failure = _refused(error, name)
        os.close(handle)
        if candidate.telling:
            failures.append(failure)
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


def _shows(handle: int, mapping: Mapping, candidate: _Candidate) -> bool:
    if mapping.build_id:
        elf = read_elf(lambda offset, size: read_at(handle, offset, size))
        return elf.build_id() == mapping.build_id[: 2 * MAX_BUILD_ID]
    if candidate.mapped:
        return True
    if not mapping.inode:
        return candidate.root is not None
    status = os.fstat(handle)
    # btrfs and overlayfs give a mapping another device than the file has: among the files that the
    # process itself sees under this path the inode is proof enough.
    return status.st_ino == mapping.inode and (candidate.own or status.st_dev == mapping.device)


def _refused(error: OSError, name: str) -> tuple[int, Frame]:
    if error.errno in _MISSING:
        return 0, unknown(Reason.FILE_MISSING, name)
    if isinstance(error, NotRegularError):
        return 1, unknown(Reason.UNREADABLE_FILE, name, "not a regular file")
    if error.errno in (errno.EACCES, errno.EPERM):
        return 2, unknown(Reason.UNREADABLE_FILE, name, "permission denied")
    return 2, unknown(Reason.UNREADABLE_FILE, name)
