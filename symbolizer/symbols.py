"""Sorted tables of symbols, small in memory: names stay packed until somebody asks for one.

Which of several symbols names an address is the same every time:

1. One that has a size, over one without that starts where it does or lies within it (`symbol_table`). One without
   that is alone reaches to the next.
2. Of ranges within ranges the innermost (`SymbolTable.find`).
3. Of symbols of the same range that of the best rank (`SymbolTable.best_name`): for an ELF file's, see `Rank`.
4. Of those the default version, `foo@@V2`, or one without versions, over a hidden one, `foo@V1`; then the one with
   the fewest leading underscores, `write`, not `__write`; then the shortest; then the first by the alphabet.

Of a file with several tables .symtab goes before .dynsym, whose symbols count only where no other starts.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable
from enum import IntFlag
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from symbolizer.ranges import Addresses, Ranges

_BLOCK = 1 << 13
_MOST_LOOSE = 8 << 20
_MAX_NAME_BYTES = 1 << 13  # longer ones are cut anyway, and not demangled; a table can have millions of them
_MAX_STEPS_BACK = 256
_MAX_ALIASES = 256

RANK_STUB, RANK_PLT = 64, 65
"""Ranks of a stub named by what it leads to, shown as "name@plt", and of other code of a procedure linkage table."""


class Rank(IntFlag):
    """What makes a symbol of an ELF file a worse name than another of the same range; lower is better.

    Functions go before symbols without type, among those global and unique ones before weak ones before local ones,
    and among those default versions before hidden ones.
    """

    HIDDEN_VERSION = 1
    WEAK = 2
    LOCAL = 4
    UNTYPED = 8


class PackedStrings:
    """A string table of NUL- or newline-ended names. Beyond 8 MB it is held compressed, in blocks of 8 KB.

    Packing takes longer than all else that reading a symbol table does, and unpacking a block about as long as
    demangling the name in it: so only those tables are packed whose size matters.
    """

    def __init__(self, chunks: Iterable[bytes], terminator: bytes = b"\0") -> None:
        """`chunks` are the table's bytes in order, in pieces of any size."""
        self._terminator = terminator
        self._blocks: list[bytes] = []
        self._open: tuple[int, bytes] = (-1, b"")
        loose: list[bytes] = []
        size = 0
        left = iter(chunks)
        for chunk in left:
            loose.append(chunk)
            size += len(chunk)
            if size > _MOST_LOOSE:
                self._pack(chain(loose, left))
                loose = []
        self._loose = b"".join(loose)
        self.nbytes = len(self._loose) + sum(map(len, self._blocks))

    def _pack(self, chunks: Iterable[bytes]) -> None:
        rest = b""
        for chunk in chunks:
            rest += chunk
            whole = len(rest) - len(rest) % _BLOCK
            for at in range(0, whole, _BLOCK):
                self._blocks.append(zlib.compress(rest[at : at + _BLOCK], 1))
            rest = rest[whole:]
        if rest:
            self._blocks.append(zlib.compress(rest, 1))

    def at(self, offset: int) -> bytes:
        """The name that starts at `offset`, at most 8 KB of it; b"" where the table has ended."""
        if not self._blocks:
            most = offset + _MAX_NAME_BYTES
            end = self._loose.find(self._terminator, offset, most)
            return self._loose[offset : end if end >= 0 else most]
        found = b""
        block, offset = divmod(offset, _BLOCK)
        while block < len(self._blocks) and len(found) < _MAX_NAME_BYTES:
            data = self._unpacked(block)
            end = data.find(self._terminator, offset)
            found += data[offset : end if end >= 0 else len(data)]
            if end >= 0:
                break
            block, offset = block + 1, 0
        return found[:_MAX_NAME_BYTES]

    def _unpacked(self, block: int) -> bytes:
        if self._open[0] != block:
            self._open = (block, zlib.decompress(self._blocks[block]))
        return self._open[1]

    def close(self) -> None:
        """Forgets the block that is unpacked at the moment."""
        self._open = (-1, b"")


class SymbolTable:
    """Symbols [start, end) sorted by start, then by end descending, so that inner ones come last.

    All arrays have the same length: `name` uint32 offsets in `strings`, `rank` uint8, lower is better among symbols of
    the same range.
    """

    def __init__(
        self,
        start: Addresses,
        end: Addresses,
        name: NDArray[np.uint32],
        rank: NDArray[np.uint8],
        strings: PackedStrings,
    ) -> None:
        self.ranges, self.name, self.rank, self.strings = Ranges(start, end), name, rank, strings
        self.only_stubs = bool(len(rank)) and int(rank.min()) >= RANK_STUB
        furthest = np.maximum.accumulate(end)
        # How far all symbols until here reach; mostly nothing lies in another, and they reach as far as the last.
        self._reach = self.ranges if np.array_equal(furthest, end) else Ranges(start, furthest)

    def __len__(self) -> int:
        return len(self.ranges)

    @property
    def nbytes(self) -> int:
        reach = self._reach.nbytes if self._reach is not self.ranges else 0
        return self.ranges.nbytes + reach + self.name.nbytes + self.rank.nbytes + self.strings.nbytes

    def find(self, addresses: Iterable[int]) -> list[int]:
        """For each address the number of the innermost symbol it lies in, or -1.

        Of several symbols with the same range it is always the last one: see `best_name`.
        """
        base, starts, ends = self.ranges.base, self.ranges.starts, self.ranges.ends
        found = []
        for address in addresses:
            offset = address - base
            last = bisect_right(starts, offset) - 1
            if last >= 0 and offset >= ends[last]:
                last = self._enclosing(last, offset)
            found.append(last)
        return found

    def _enclosing(self, i: int, offset: int) -> int:
        ends, reach = self.ranges.ends, self._reach.ends
        for j in range(i, max(i - _MAX_STEPS_BACK, 0) - 1, -1):
            if offset < ends[j]:
                return j
            if offset >= reach[j]:
                break
        return -1

    def best_name(self, i: int) -> bytes:
        """The name of symbol `i`, chosen among all with its range by rules 3 and 4; that of a stub ends in "@plt".

        Of more than 256 with one range the first in the file are left out.
        """
        first = i
        while first and i - first < _MAX_ALIASES and self._same_range(first - 1, i):
            first -= 1
        best = int(self.rank[first : i + 1].min())
        if best == RANK_PLT:
            return b".plt"
        names = [self.strings.at(int(self.name[j])) for j in range(first, i + 1) if int(self.rank[j]) == best]
        name = min(names, key=_plainness)
        return name + b"@plt" if best == RANK_STUB else name

    def _same_range(self, i: int, j: int) -> bool:
        return self.ranges.starts[i] == self.ranges.starts[j] and self.ranges.ends[i] == self.ranges.ends[j]


def _plainness(name: bytes) -> tuple[bool, int, int, bytes]:
    """Lower is plainer: rule 4."""
    function, at, version = name.partition(b"@")
    hidden = bool(at) and not version.startswith(b"@")
    return hidden, len(function) - len(function.lstrip(b"_")), len(function), name


def symbol_table(
    start: NDArray[np.uint64],
    end: NDArray[np.uint64],
    name: NDArray[np.uint32],
    rank: NDArray[np.uint8],
    limit: NDArray[np.uint64],
    strings: PackedStrings,
) -> SymbolTable:
    """A table from symbols in any order; those with end == start have no size of their own.

    A symbol without size that lies within a sized one is a label, not a function, and is left out;
    any other reaches to the next symbol, at most to its `limit` (the end of its section).
    """
    order = np.lexsort((~end, start))
    start, end, name, rank, limit = start[order], end[order], name[order], rank[order], limit[order]
    if len(start):
        sized = end > start
        # Entry i: how far the sized symbols before it and with the same start reach.
        reach = np.maximum.accumulate(np.where(sized, end, 0))
        keep = sized | (reach <= start)
        start, end, name, rank = start[keep], end[keep], name[keep], rank[keep]
        limit, sized = limit[keep], sized[keep]
        following = np.searchsorted(start, start, "right")
        ceiling = np.append(start, np.uint64(2**64 - 1))[following]
        end = np.where(sized, end, np.minimum(ceiling, np.maximum(limit, start)))
        real = end > start
        start, end, name, rank = start[real], end[real], name[real], rank[real]
    return SymbolTable(start, end, name, rank, strings)
