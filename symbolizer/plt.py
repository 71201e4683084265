"""The stubs of a procedure linkage table, which symbol tables leave out: code that jumps to where a slot points.

A stub is known by its jump alone, so .plt, .plt.sec and .plt.got are all read alike, whether symbols are bound late or
at the start, and with or without marks for indirect branches. What a slot will point to its relocation says (System V
ABI, AMD64 supplement, chapters 4.4 and 5.2). Of other machines than x86-64 no stub is found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECTIONS = (b".plt", b".plt.sec", b".plt.got")
MAX_CODE_BYTES = 8 << 20
MAX_RELOCATION_BYTES = 4 << 20
MAX_NAME_BYTES = 4096
MAX_NAMES_BYTES = 4 << 20

_RELOCATION = np.dtype([("slot", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<u8")])
_GLOB_DAT, _JUMP_SLOT, _IRELATIVE = 6, 7, 37
_ENDBR64, _BND = b"\xf3\x0f\x1e\xfa", b"\xf2"
_JUMP = b"\xff\x25"  # jmp *DISPLACEMENT(%rip)
_BEFORE_JUMP = (b"", _BND, _ENDBR64, _ENDBR64 + _BND)


@dataclass(frozen=True, slots=True)
class Stubs:
    """Stubs [start, end), uint64 addresses, none overlapping another.

    `symbol` is the number in the dynamic symbol table of what a stub leads to, 0 where that is no symbol; `resolver`
    is the address of the function that chooses what it leads to (an IFUNC's), 0 where there is none. Where both are
    0 it is code of the section that is no stub, or leads nowhere that is known.
    """

    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    symbol: NDArray[np.uint32]
    resolver: NDArray[np.uint64]


def slots_of_stubs(code: bytes, address: int, step: int) -> NDArray[np.uint64]:
    """Of each `step` bytes of code, which begins at `address`, the slot that they jump through, or 0."""
    rows = np.frombuffer(code, np.uint8, len(code) // step * step).reshape(-1, step)
    slots = np.zeros(len(rows), np.uint64)
    for before in _BEFORE_JUMP:
        pattern = np.frombuffer(before + _JUMP, np.uint8)
        end = len(pattern) + 4
        if end > step:
            continue
        found = np.flatnonzero((rows[:, : len(pattern)] == pattern).all(axis=1))
        displacement = np.ascontiguousarray(rows[found, len(pattern) : end]).view("<i4").ravel().astype(np.int64)
        after = np.uint64(address % 2**64) + (found * step + end).astype(np.uint64)
        slots[found] = after + displacement.astype(np.uint64)
    return slots


def read_stubs(address: int, code: bytes, relocations: Iterable[bytes]) -> Stubs:
    """The stubs in a section's code at `address`; `relocations` are SHT_RELA tables, read only while needed."""
    # Linkers do not always say how far stubs are apart: it is what makes the most of them (16 where both do).
    step = max((16, 8), key=lambda step: np.count_nonzero(slots_of_stubs(code, address, step)))
    slots = slots_of_stubs(code, address, step)
    start = np.uint64(address % 2**64) + np.arange(len(slots), dtype=np.uint64) * np.uint64(step)
    symbol, resolver = np.zeros(len(slots), np.uint32), np.zeros(len(slots), np.uint64)
    open_ = slots != 0
    for table in relocations:
        if not open_.any():
            break
        entries = np.frombuffer(table, _RELOCATION, len(table) // _RELOCATION.itemsize)
        entries = entries[np.isin(entries["type"], (_GLOB_DAT, _JUMP_SLOT, _IRELATIVE))]
        entries = entries[np.argsort(entries["slot"], kind="stable")]
        if not len(entries):
            continue
        at = np.minimum(np.searchsorted(entries["slot"], slots), len(entries) - 1)
        known = open_ & (entries["slot"][at] == slots)
        chosen = known & (entries["type"][at] == _IRELATIVE)
        resolver[chosen] = entries["addend"][at[chosen]]
        symbol[known & ~chosen] = entries["symbol"][at[known & ~chosen]]
        open_ &= ~known
    return Stubs(start, start + np.uint64(step), symbol, resolver)
