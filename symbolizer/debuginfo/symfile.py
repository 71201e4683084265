"""Symbol files: which functions, files and lines stand for each address of one binary, inlined callers included.

A symbol file is built once per build id from debug information (symfile_build.py) and then only mapped: opening one
reads its header, a lookup touches the pages that its searches pass. Everything is of this machine's byte order.

    header    _HEADER
    starts    uint32[rows], ascending: where each row begins, relative to `base`; it ends where the next one begins
    shown     uint32[rows]: the node that stands for the row, 0 for addresses of no function
    index     every 1024th of starts, so that a search for one address touches few pages
    nodes     four uint32[nodes]: the node it was inlined into (0: none, this is the physical function), the function's
              name, the file's, the line. Node 0 is nobody's. A node comes after the one it was inlined into.
    sections  uint32[sections][2]: name, and where it begins (of files that no linker has placed: kernel modules)
    strings   ended by NUL; a name is the offset of its first byte here, 0 is ""

Nothing read is trusted: an index that leads nowhere, or back to where it came from, ends the search.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from symbolizer.names import clean_name

MAX_INLINED = 256
"""Frames of one address, at most; the outermost are kept."""

_MAGIC, _VERSION = 0x6D79_536C_7450_0A0D, 1
_HEADER = struct.Struct("=QQIIIIIIQ8x")  # magic, base, version, rows, nodes, sections, note, 0, bytes of strings
_STEP = 1024
_FEW = 24  # addresses up to which a search by bisect is quicker than numpy's calls
_LONGEST_PATH = 4096
_MOST_STRINGS = 1024
_MOST_STRING_BYTES = 1 << 17

_U32 = NDArray[np.uint32]
_Number = TypeVar("_Number", bound=np.integer[Any])


class SymFileError(ValueError):
    """There is no symbol file to be had; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """A function at an address: its name as in the file (mangled; b"" unknown), source file ("") and line (0)."""

    function: bytes
    file: str
    line: int


class SymFile:
    """An opened symbol file. Not for use by several threads at once."""

    def __init__(self, mapped: mmap.mmap) -> None:
        """Use `open`. Raises SymFileError."""
        try:
            magic, base, version, rows, nodes, sections, note, _, string_bytes = _HEADER.unpack_from(mapped)
        except struct.error:
            raise SymFileError("the symbol file is cut short") from None
        if magic != _MAGIC:
            raise SymFileError("it is not a symbol file of this machine")
        if version != _VERSION:
            raise SymFileError(f"the symbol file is of version {version}; this program reads version {_VERSION}")
        steps = (rows + _STEP - 1) // _STEP
        if _HEADER.size + 4 * (2 * rows + steps + 4 * nodes + 2 * sections) + string_bytes != len(mapped):
            raise SymFileError("the symbol file is cut short or damaged")
        self._map, self._base, self.nbytes = mapped, base, len(mapped)
        self._strings_at = len(mapped) - string_bytes
        at = _HEADER.size
        parts = []
        for count in (rows, rows, steps, nodes, nodes, nodes, nodes, 2 * sections):
            parts.append(np.frombuffer(mapped, np.uint32, count, at))
            at += 4 * count
        self._starts, self._shown, _, self._caller, self._function, self._file, self._line, places = parts
        self._views = [part.data for part in parts[:7]]
        self._texts: dict[int, bytes] = {}
        self._paths: dict[int, str] = {}
        self._text_bytes = 0
        self.note = self._path(note)
        """Why lines or inlined functions are missing, for people; "" where nothing is known to be."""
        pairs = places.reshape(-1, 2).tolist()
        self.sections = {self._text(name): start for name, start in pairs[:256]}
        """Where the executable sections of a file begin that no linker has placed; empty for any other."""

    @classmethod
    def open(cls, fd: int) -> SymFile:
        """Maps the file; the descriptor may be closed afterwards.

        The file must come from a folder that only its owner writes: one that is cut short while it is mapped
        kills the process. Raises SymFileError.
        """
        try:
            mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise SymFileError(f"the symbol file cannot be mapped: {error}") from error
        try:
            return cls(mapped)
        except SymFileError:
            mapped.close()
            raise

    def close(self) -> None:
        """Unmaps the file. Afterwards every address is unknown."""
        none = np.empty(0, np.uint32)
        for view in self._views:
            view.release()
        self._starts = self._shown = self._caller = self._function = self._file = self._line = none
        self._views = [none.data] * 7
        self._texts, self._paths = {}, {}
        self._map.close()

    def rest(self) -> None:
        """Gives the memory back that lookups have touched; the next ones read it again."""
        if not self._map.closed:
            self._map.madvise(mmap.MADV_DONTNEED)

    def lookup(self, addresses: Sequence[int]) -> list[tuple[SourceFrame, ...]]:
        """For each virtual address its frames, innermost first, the physical function last; () where there is none.

        Addresses are those of the binary's program headers; of a file that no linker has placed (ET_REL) see
        `sections`. Equal answers within one call are the same object.
        """
        nodes = self.nodes(addresses)
        frames = self.frames(nodes)
        return [frames[node] for node in nodes]

    def nodes(self, addresses: Sequence[int]) -> list[int]:
        """For each virtual address the number that stands for its frames, 0 where there are none."""
        if len(addresses) <= _FEW:
            return self._few(addresses)
        try:
            return self._many(np.array(addresses, np.uint64))
        except OverflowError:
            return self._few(addresses)

    def frames(self, nodes: Iterable[int]) -> dict[int, tuple[SourceFrame, ...]]:
        """What lookup() says of addresses, by their numbers; those that nodes() has not given are without frames.

        Then the memory that was touched is given back: mapping it anew for the next question takes little.
        """
        wanted = set(nodes)
        chains = self._chains({node for node in wanted if 0 < node < len(self._caller)})
        self.rest()
        return {node: chains.get(node, ()) for node in wanted}

    def _few(self, addresses: Sequence[int]) -> list[int]:
        starts, shown, index = self._views[:3]
        found, count, rows = [], len(self._caller), len(starts)
        for address in addresses:
            offset = (address - self._base) % 2**64  # what begins near the end of all addresses goes on at 0
            row = -1
            if 0 <= address < 1 << 64 and offset < 1 << 32 and (step := bisect_right(index, offset)):
                row = bisect_right(starts, offset, (step - 1) * _STEP, min(step * _STEP, rows)) - 1
            node = shown[row] if row >= 0 else 0
            found.append(node if node < count else 0)
        return found

    def _many(self, addresses: NDArray[np.uint64]) -> list[int]:
        if not len(self._starts):
            return [0] * len(addresses)
        offsets = addresses - np.uint64(self._base)
        near = np.minimum(offsets, 2**32 - 1).astype(np.uint32)
        row = np.searchsorted(self._starts, near, "right")
        nodes = self._shown[np.maximum(row, 1) - 1]
        nodes[(row == 0) | (offsets >> np.uint64(32) != 0) | (nodes >= len(self._caller))] = 0
        found: list[int] = nodes.tolist()
        return found

    def _chains(self, nodes: set[int]) -> dict[int, tuple[SourceFrame, ...]]:
        """The frames of each node; of those it was inlined into too."""
        chains: dict[int, tuple[SourceFrame, ...]] = {}
        callers, functions, files, lines = self._views[3:]
        if len(nodes) > _FEW:
            order, *columns = self._closure(nodes)
        else:
            known = set(nodes)
            for node in nodes:
                for _ in range(MAX_INLINED):
                    caller = callers[node]
                    if not 0 < caller < node or caller in known:
                        break
                    known.add(caller)
                    node = caller
            order = sorted(known)
            columns = [[view[node] for node in order] for view in (callers, functions, files, lines)]
        text, path = self._text, self._path
        for node, caller, function, file, line in zip(order, *columns, strict=True):
            outer = chains.get(caller, ())
            if len(outer) < MAX_INLINED:
                outer = (SourceFrame(text(function), path(file), line), *outer)
            chains[node] = outer
        return chains

    def _closure(self, nodes: set[int]) -> list[list[int]]:
        """The nodes and all they were inlined into, ascending, and what is said of each (see _chains)."""
        level = np.sort(np.fromiter(nodes, np.uint32, len(nodes)))
        levels = [level]
        for _ in range(MAX_INLINED):
            caller = self._caller[level]
            level = each_once(caller[(caller > 0) & (caller < level)])
            if not len(level):
                break
            levels.append(level)
        order = each_once(np.concatenate(levels))
        columns = (order, self._caller[order], self._function[order], self._file[order], self._line[order])
        return [column.tolist() for column in columns]

    def _text(self, offset: int) -> bytes:
        text = self._texts.get(offset)
        if text is None:
            text = self._read(offset)
            self._text_bytes += len(text)
            if len(self._texts) >= _MOST_STRINGS or self._text_bytes > _MOST_STRING_BYTES:
                self._texts, self._paths, self._text_bytes = {}, {}, len(text)
            self._texts[offset] = text
        return text

    def _path(self, offset: int) -> str:
        path = self._paths.get(offset)
        if path is None:
            path = clean_name(self._text(offset), _LONGEST_PATH)
            self._paths[offset] = path
        return path

    def _read(self, offset: int) -> bytes:
        """A string: only where one begins, so that no two share bytes and all together are no larger than the file."""
        at = self._strings_at + offset
        if not 0 < offset < len(self._map) - self._strings_at or self._map[at - 1]:
            return b""
        end = self._map.find(b"\0", at)
        return self._map[at:end] if end >= 0 else b""


def each_once(values: NDArray[_Number]) -> NDArray[_Number]:
    """Each value once, ascending. np.unique() takes ten times as long: it counts by a hash table."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def pack_symfile(
    base: int,
    starts: _U32,
    shown: _U32,
    nodes: Sequence[_U32],
    strings: bytes | bytearray,
    *,
    note: int = 0,
    sections: Mapping[int, int] | None = None,
) -> bytes:
    """The bytes of a symbol file of these parts, which the module describes; `note` is the offset of a string."""
    places = [(name, start) for name, start in (sections or {}).items()]
    header = _HEADER.pack(_MAGIC, base, _VERSION, len(starts), len(nodes[0]), len(places), note, 0, len(strings))
    arrays = [starts, shown, starts[::_STEP], *nodes, np.array(places, np.uint32).reshape(-1)]
    return b"".join([header, *(array.astype(np.uint32).tobytes() for array in arrays), strings])
