"""The few types every other file of the symbolizer, and its callers, speak in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What kind of code a frame is. `process` and `thread` are names put under a stack, not code."""

    KERNEL = "kernel"
    MODULE = "module"
    BPF = "bpf"
    NATIVE = "native"
    INLINED = "inlined"
    VDSO = "vdso"
    JIT = "jit"
    PYTHON = "python"
    UNKNOWN = "unknown"
    PROCESS = "process"
    THREAD = "thread"


class Reason(StrEnum):
    """Why a frame has no name, or, from TRUNCATED on, why there are no more frames."""

    NO_MAPPING = "no mapping"
    PROCESS_GONE = "process gone"
    NO_SYMBOLS = "no symbols"
    OUTSIDE_SYMBOLS = "address outside symbols"
    FILE_MISSING = "file missing"
    UNREADABLE_FILE = "unreadable file"
    ANONYMOUS = "anonymous memory"
    KPTR_RESTRICT = "kernel addresses hidden"
    TRUNCATED = "truncated"
    MAPPINGS_NOT_KNOWN = "mappings not known yet"
    NO_UNWIND_TABLE = "no unwind information"
    UNWIND_TABLE_NOT_LOADED = "unwind table not loaded"
    NO_UNWIND_ROW = "address outside unwind information"
    UNWIND_RULE_UNSUPPORTED = "unwind rule not supported"
    STACK_UNREADABLE = "stack memory unreadable"
    STACK_BROKEN = "stack leads nowhere"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Executable memory of one process: [start, end) shows the file from `offset` on.

    `build_id` is the hex NT_GNU_BUILD_ID where the kernel reported it, else "". `device` (as in
    os.stat().st_dev) and `inode` identify the file where the kernel reported those, else 0.
    `path` is as the process sees it; "" and names in [brackets] or starting with // are not files.
    """

    start: int
    end: int
    offset: int
    path: str
    build_id: str = ""
    device: int = 0
    inode: int = 0


@dataclass(frozen=True, slots=True)
class Binary:
    """A file (or the kernel, a module, the vdso) that code was mapped from.

    `build_id` is hex; where the file has no NT_GNU_BUILD_ID it is "content:" and a hash of the
    file's content; "" where the file could not be read.
    """

    path: str
    build_id: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One function, as people see it.

    An unknown frame has kind UNKNOWN, a `reason`, and a `function` that says the same for people,
    such as "[libfoo.so: no symbols]". `system_name` is the mangled name where it differs from
    `function`, else "". `line` is 0 where unknown.
    """

    function: str
    kind: Kind
    system_name: str = ""
    file: str = ""
    line: int = 0
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """One address of a stack with what it stands for.

    `address` is already adjusted for lookup (return address - 1): the offset in the file for code
    of a file; the offset from the binary's first symbol for the kernel and modules where known,
    else the absolute address. `frames` is never empty; inlined callees come first, the function
    that the address physically lies in last.
    """

    address: int
    binary: Binary | None
    frames: tuple[Frame, ...]
