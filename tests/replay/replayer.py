"""Walks stacks by profiler/bpf/unwind.bpf.h without BPF: builds replay.c and speaks with it.

The maps are filled as profiler/unwind/store.py and unwinder.py fill the kernel's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from profiler.stacks import STACK
from profiler.unwind.store import LOADED, NOT_LOADED, PAGE, ROWS_IN_CHUNK, WITHOUT_TABLE
from profiler.unwind.table import RULE, UnwindTable

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).parent / "replay.c"
SANITIZERS = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"

# profiler/bpf/unwind.h
MAPPINGS_IN_BLOCK, MAX_BLOCKS = 32, 32
MAPPING = np.dtype([("start", "<u8"), ("bias", "<u8"), ("pages", "<u4"), ("file", "<u4")])
BLOCK = np.dtype(
    [
        ("mappings", "<u4"),
        ("blocks", "<u4"),
        ("starts", "<u8", MAX_BLOCKS),
        ("at", MAPPING, MAPPINGS_IN_BLOCK),
    ]
)
FILE = np.dtype([("state", "<u4"), ("first_page", "<u4"), ("base", "<u4"), ("pages", "<u4")])

# replay.c
START = np.dtype([("registers", "<u8", 16), ("ip", "<u8")])
"""Where a walk begins: general registers in DWARF's order (RULE), and rip."""
STEP = np.dtype(
    [
        ("address", "<u8"),
        ("rsp", "<u8"),
        ("rbp", "<u8"),
        ("next_rsp", "<u8"),
        ("rule", "<u4"),
        ("end", "<u4"),
        ("by_frame_pointer", "<u4"),
        ("padding", "<u4"),
    ]
)
NO_RULE = 2**32 - 1
_RESULT = np.dtype([("wanted", "<u8"), ("steps", "<u8"), ("stack", STACK)])
_HEADER = np.dtype([("message", "<u4"), ("number", "<u4"), ("at", "<u8"), ("size", "<u8")])
_CLEAR, _CLEAR_MEMORY, _MEMORY, _BLOCK, _FILES, _PAGES, _CHUNK, _RULES, _WALK = range(9)


class End(IntEnum):
    """enum walk_end of bpf/sampler.h."""

    UNKNOWN = 0
    ROOT = 1
    NO_PROCESS = 2
    NO_MAPPING = 3
    NO_TABLE = 4
    TABLE_NOT_LOADED = 5
    NO_ROW = 6
    UNSUPPORTED_RULE = 7
    UNREADABLE = 8
    NOT_GROWING = 9
    TOO_DEEP = 10


class ReplayError(RuntimeError):
    """The walker ended: a sanitizer found something, or it was spoken to wrongly. The message is what it said."""


@dataclass(frozen=True, slots=True)
class Walk:
    """One walk: the stack as the kernel would hand it out, and all steps (STEP) that led to it.

    `addresses` are to be looked up, leaf first; `by_frame_pointer` says of each whether its caller was found so.
    `wanted` is what the walk asked the agent for (bpf/unwind.h: WANTED_PROCESS), 0 for nothing.
    """

    end: End
    addresses: tuple[int, ...]
    by_frame_pointer: tuple[bool, ...]
    wanted: int
    steps: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Maps:
    """The contents of the BPF maps of bpf/unwind.h; `blocks` by process and number."""

    blocks: dict[tuple[int, int], NDArray[Any]]
    files: NDArray[Any]
    pages: NDArray[Any]
    chunks: list[NDArray[np.uint32]]
    rules: NDArray[Any]


def build(directory: Path, *flags: str) -> Path:
    """Compiles the walker into a directory, with the sanitizers. Raises ReplayError with the compiler's words."""
    program = directory / "replay"
    include = f"-I{ROOT / 'profiler' / 'bpf'}"
    command = ["gcc", "-O1", "-g", *SANITIZERS, "-Wall", "-Werror", include, str(SOURCE), "-o", str(program), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ReplayError(f"replay.c could not be built: {done.stderr.strip()}")
    return program


def fill_maps(tables: Sequence[UnwindTable | None], mappings: dict[int, Sequence[tuple[int, int, int, int]]]) -> Maps:
    """The maps with these tables, of files numbered from 1 on, and each process's mappings.

    A table that is None is not loaded, an empty one says that the file has none. A mapping is (start, file offset -
    start, 4 KB pages, file); ascending.
    """
    numbers: dict[bytes, int] = {bytes(RULE.itemsize): 0}
    files, pages = np.zeros(1 + len(tables), FILE), list[tuple[int, int, int]]()
    chunks, used = [np.zeros(ROWS_IN_CHUNK, np.uint32)], 0
    for file, table in enumerate(tables, 1):
        if table is None or len(table.page_starts) < 2:
            files[file]["state"] = NOT_LOADED if table is None else WITHOUT_TABLE
            continue
        files[file] = LOADED, len(pages), table.first_page & 0xFFFFFFFF, len(table.page_starts) - 1
        shared = np.array([numbers.setdefault(r.tobytes(), len(numbers)) for r in table.rules], np.uint32)
        rows = (table.rows & np.uint32(0xFFFF)) | shared[table.rows >> 16] << np.uint32(16)
        for begin, end in zip(table.page_starts[:-1].tolist(), table.page_starts[1:].tolist(), strict=True):
            if used + end - begin > ROWS_IN_CHUNK:
                chunks.append(np.zeros(ROWS_IN_CHUNK, np.uint32))
                used = 0
            chunks[-1][used : used + end - begin] = rows[begin:end]
            pages.append((len(chunks) - 1, used, end - begin))
            used += end - begin
    blocks = {}
    for process, entries in mappings.items():
        parts = [entries[at : at + MAPPINGS_IN_BLOCK] for at in range(0, len(entries), MAPPINGS_IN_BLOCK)] or [[]]
        for number, part in enumerate(parts):
            block = blocks[process, number] = np.zeros((), BLOCK)
            block["mappings"], block["blocks"] = len(part), len(parts)
            block["starts"][: len(parts)] = [some[0][0] if some else 0 for some in parts]
            block["at"][: len(part)] = np.array(list(part), MAPPING)
    rules = np.frombuffer(b"".join(numbers), RULE)
    return Maps(blocks, files, np.array(pages, PAGE), chunks, rules)


class Replayer:
    """A running walker. Its maps and memory are empty at first; use it in a `with` block."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __enter__(self) -> Replayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ReplayError where the walker does not end well: a leak, which no walk may have, is found here."""
        if error is not None:
            self._process.kill()
        try:
            _, said = self._process.communicate()
        except BrokenPipeError:
            said = b""
        if error is None and self._process.returncode:
            raise ReplayError(said.decode(errors="replace"))

    def set_maps(self, maps: Maps) -> None:
        """Replaces all maps; the memory is empty again."""
        self._send(_CLEAR)
        for (process, number), block in maps.blocks.items():
            self._send(_BLOCK, block.tobytes(), number, process)
        self._send(_FILES, maps.files.tobytes())
        self._send(_PAGES, maps.pages.tobytes())
        self._send(_RULES, maps.rules.tobytes())
        for number, chunk in enumerate(maps.chunks):
            self._send(_CHUNK, chunk.tobytes(), number)

    def set_memory(self, regions: Iterable[tuple[int, bytes]]) -> None:
        """Replaces all memory: regions of (address, contents) that do not overlap."""
        self._send(_CLEAR_MEMORY)
        for number, (start, contents) in enumerate(regions):
            self.set_region(number, start, contents)

    def set_region(self, number: int, start: int, contents: bytes) -> None:
        """Replaces one region of memory by its position, or adds one."""
        self._send(_MEMORY, contents, number, start)

    def walk(self, process: int, starts: NDArray[Any]) -> list[Walk]:
        """Walks from each of some START in a process. Raises ReplayError where that ends the walker."""
        self._send(_WALK, np.ascontiguousarray(starts).tobytes(), process)
        return [self._walk() for _ in range(starts.size)]

    def _walk(self) -> Walk:
        result = self._receive(_RESULT, 1)[0]
        steps = self._receive(STEP, int(result["steps"]))
        stack = result["stack"]
        length = int(stack["length"])
        if length > len(stack["addresses"]):
            raise ReplayError(f"a stack of {length} frames, more than it has room for")
        marks = np.unpackbits(stack["by_frame_pointer"].view(np.uint8), bitorder="little")[:length]
        addresses = tuple(stack["addresses"][:length].tolist())
        return Walk(End(stack["end"]), addresses, tuple(marks.astype(bool).tolist()), int(result["wanted"]), steps)

    def _send(self, message: int, body: bytes = b"", number: int = 0, at: int = 0) -> None:
        try:
            pipe = _pipe(self._process.stdin)
            pipe.write(np.array((message, number, at, len(body)), _HEADER).tobytes())
            pipe.write(body)
        except BrokenPipeError:
            self._fail()

    def _receive(self, kind: np.dtype[Any], count: int) -> NDArray[Any]:
        try:
            _pipe(self._process.stdin).flush()
        except BrokenPipeError:
            self._fail()
        data = _pipe(self._process.stdout).read(kind.itemsize * count)
        if len(data) < kind.itemsize * count:
            self._fail()
        return np.frombuffer(data, kind, count)

    def _fail(self) -> None:
        said = _pipe(self._process.stderr).read().decode(errors="replace")
        raise ReplayError(said or "The walker ended without a word.")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # all three are pipes
    return pipe
