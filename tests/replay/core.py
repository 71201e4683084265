"""Core files of x86-64 (elf(5), core(5); Linux: fs/binfmt_elf.c, include/uapi/linux/elfcore.h) as recordings, and back.

Read are those that the kernel writes, gdb's gcore, and those written here. Written are the notes that are needed to
walk stacks, NT_PRSTATUS of each thread, NT_FILE and NT_AUXV, so gdb opens them too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Mapping
from tests.replay.recording import Recording, Thread
from tests.replay.replayer import START

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = np.dtype(
    [
        ("kind", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("address", "<u8"),
        ("physical", "<u8"),
        ("size", "<u8"),
        ("in_memory", "<u8"),
        ("alignment", "<u8"),
    ]
)
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_ET_CORE, _EM_X86_64, _PN_XNUM, _MOST_SEGMENTS = 4, 62, 0xFFFF, 0xFFFE
_PT_LOAD, _PT_NOTE, _PF_X = 1, 4, 1
_NOTE = struct.Struct("<III")
_NT_PRSTATUS, _NT_AUXV, _NT_FILE = 1, 6, 0x46494C45
_STATUS_PID, _STATUS_REGISTERS, _STATUS_BYTES = 32, 112, 336
_AT_SYSINFO_EHDR = 33
_PAGE = 4096

USER_REGISTERS = np.dtype(
    [
        (name, "<u8")
        for name in (
            "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
            "fs_base gs_base ds es fs gs"
        ).split()
    ]
)
"""struct user_regs_struct, as ptrace and NT_PRSTATUS have it."""
_DWARF_ORDER = "rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15".split()


class CoreError(ValueError):
    """The file is no core file of x86-64, or a damaged one; the message says how."""


@dataclass(frozen=True, slots=True)
class MappedFile:
    start: int
    end: int
    offset: int
    path: str


@dataclass(frozen=True, slots=True)
class Area:
    """Memory of a process, `contents` as much of it as is kept, from its beginning on."""

    start: int
    end: int
    executable: bool
    contents: bytes


def to_start(registers: NDArray[Any]) -> NDArray[Any]:
    """USER_REGISTERS as a START."""
    start = np.zeros((), START)
    start["registers"] = [registers[name] for name in _DWARF_ORDER]
    start["ip"] = registers["rip"]
    return start


def read_core(path: Path) -> Recording:
    """The recording that a core file is. Raises CoreError, OSError."""
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    segments = _segments(data)
    threads: list[Thread] = []
    files: list[MappedFile] = []
    vdso = 0
    for segment in segments[segments["kind"] == _PT_NOTE]:
        for kind, note in _notes(_bytes(data, segment)):
            if kind == _NT_PRSTATUS and len(note) >= _STATUS_BYTES:
                (tid,) = struct.unpack_from("<i", note, _STATUS_PID)
                threads.append(Thread(tid, to_start(np.frombuffer(note, USER_REGISTERS, 1, _STATUS_REGISTERS)[0])))
            elif kind == _NT_FILE:
                files = _read_files(note)
            elif kind == _NT_AUXV:
                vdso = dict(struct.iter_unpack("<QQ", note[: len(note) & ~15])).get(_AT_SYSINFO_EHDR, 0)
    if not threads:
        raise CoreError("the core file has no thread's registers (NT_PRSTATUS)")
    loads = sorted(segments[segments["kind"] == _PT_LOAD], key=lambda segment: int(segment["address"]))
    memory = [(int(load["address"]), _bytes(data, load)) for load in loads if load["size"]]
    mappings = [_mapping(load, files, vdso) for load in loads if load["flags"] & _PF_X]
    mappings += _not_loaded(files, loads)
    return Recording(tuple(threads), tuple(memory), tuple(sorted(mappings, key=lambda mapping: mapping.start)))


def write_core(
    path: Path, threads: list[tuple[int, bytes]], files: list[MappedFile], auxv: bytes, areas: list[Area]
) -> None:
    """Writes a core file; threads are (tid, USER_REGISTERS as bytes), the first the one that is asked about.

    Raises CoreError for more areas than a core file can have without section headers.
    """
    if len(areas) >= _MOST_SEGMENTS:
        raise CoreError(f"{len(areas)} mappings are more than a core file can hold")
    notes = b"".join(_note(_NT_PRSTATUS, _status(tid, registers)) for tid, registers in threads)
    notes += _note(_NT_AUXV, auxv) + _note(_NT_FILE, _write_files(files))
    segments = np.zeros(1 + len(areas), _SEGMENT)
    at = _HEADER.size + segments.nbytes
    segments[0] = _PT_NOTE, 0, at, 0, 0, len(notes), 0, 4
    at += len(notes) + -(at + len(notes)) % _PAGE
    first = at
    for number, area in enumerate(areas, 1):
        size = len(area.contents)
        flags = 6 | (_PF_X if area.executable else 0)
        segments[number] = _PT_LOAD, flags, at, area.start, 0, size, area.end - area.start, _PAGE
        at += size + -size % _PAGE
    header = (_IDENT, _ET_CORE, _EM_X86_64, 1, 0, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.itemsize, len(segments))
    with path.open("wb") as file:
        file.write(_HEADER.pack(*header, 0, 0, 0) + segments.tobytes() + notes)
        file.seek(first)
        for area in areas:
            file.write(area.contents.ljust(len(area.contents) + -len(area.contents) % _PAGE, b"\0"))


def _segments(data: NDArray[np.uint8]) -> NDArray[Any]:
    head = data[: _HEADER.size].tobytes()
    if len(head) < _HEADER.size or head[:6] != _IDENT[:6]:
        raise CoreError("it is not a 64-bit ELF file")
    _, kind, machine, _, _, at, sections_at, _, _, size, count, _, _, _ = _HEADER.unpack(head)
    if kind != _ET_CORE or machine != _EM_X86_64 or size != _SEGMENT.itemsize:
        raise CoreError("it is no core file of x86-64")
    if count == _PN_XNUM:  # the true number is sh_info of the first section
        count = int.from_bytes(data[sections_at + 44 : sections_at + 48].tobytes(), "little")
    raw = data[at : at + size * count].tobytes()
    if len(raw) < size * count:
        raise CoreError("the core file is cut short")
    return np.frombuffer(raw, _SEGMENT)


def _bytes(data: NDArray[np.uint8], segment: NDArray[Any]) -> bytes:
    return data[int(segment["offset"]) : int(segment["offset"]) + int(segment["size"])].tobytes()


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NOTE.size <= len(data):
        name, size, kind = _NOTE.unpack_from(data, at)
        at += _NOTE.size + name + -name % 4
        yield kind, data[at : at + size]
        at += size + -size % 4


def _note(kind: int, contents: bytes) -> bytes:
    body = contents.ljust(len(contents) + -len(contents) % 4, b"\0")
    return _NOTE.pack(5, len(contents), kind) + b"CORE\0\0\0\0" + body


def _status(tid: int, registers: bytes) -> bytes:
    head = bytes(_STATUS_PID) + struct.pack("<i", tid)
    return (head.ljust(_STATUS_REGISTERS, b"\0") + registers).ljust(_STATUS_BYTES, b"\0")


def _read_files(note: bytes) -> list[MappedFile]:
    """NT_FILE: their number and the page size; (start, end, offset in pages) of each; then their names."""
    if len(note) < 16:
        return []
    count, page = struct.unpack_from("<QQ", note)
    if count > len(note) // 24:
        raise CoreError("the core file's list of mapped files is damaged")
    names = note[16 + 24 * count :].split(b"\0")
    places = struct.iter_unpack("<QQQ", note[16 : 16 + 24 * count])
    return [
        MappedFile(start, end, offset * page, name.decode(errors="surrogateescape"))
        for (start, end, offset), name in zip(places, names, strict=False)
    ]


def _write_files(files: list[MappedFile]) -> bytes:
    places = b"".join(struct.pack("<QQQ", file.start, file.end, file.offset // _PAGE) for file in files)
    names = b"".join(file.path.encode(errors="surrogateescape") + b"\0" for file in files)
    return struct.pack("<QQ", len(files), _PAGE) + places + names


def _not_loaded(files: list[MappedFile], loads: list[NDArray[Any]]) -> list[Mapping]:
    """Mapped files that no segment tells of: gdb leaves them out where they are as on disk. Any may be code."""
    starts = {int(load["address"]) for load in loads}
    return [Mapping(f.start, f.end, f.offset, f.path) for f in files if f.start not in starts]


def _mapping(load: NDArray[Any], files: list[MappedFile], vdso: int) -> Mapping:
    start = int(load["address"])
    end = start + int(load["in_memory"])
    if start == vdso:
        return Mapping(start, end, 0, "[vdso]")
    for file in files:
        if file.start <= start < file.end:
            return Mapping(start, end, file.offset + start - file.start, file.path)
    return Mapping(start, end, 0, "")
