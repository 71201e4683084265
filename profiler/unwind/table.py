"""How to step from any instruction of one file to its caller: rows by address, in pages of 64 KB.

The kernel's side finds a row with a search of fixed depth in the page of an address and reads the rule it names, so
everything it relies on is made here and checked in `UnwindTable.from_bytes`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

PAGE_BITS = 16
MAX_PAGES = 1 << 16
MAX_PAGE_ROWS = 1 << 14
MAX_RULES = (1 << 16) - 1
MAX_ROWS = 1 << 23

RULE = np.dtype(
    [
        ("cfa", "u1"),
        ("cfa_register", "u1"),
        ("rbp", "u1"),
        ("rbx", "u1"),
        ("cfa_offset", "<i4"),
        ("rbp_offset", "<i2"),
        ("rbx_offset", "<i2"),
        ("add", "<i4"),
    ]
)
"""How one frame finds the next, 16 bytes. The return address is at CFA - 8; `cfa` is a CfaKind, `rbp` and `rbx` are
RegisterKinds, `cfa_register` has DWARF's number of a register (0 rax, 1 rdx, 2 rcx, 3 rbx, 4 rsi, 5 rdi, 6 rbp, 7 rsp,
8 to 15 r8 to r15)."""


class CfaKind(IntEnum):
    """How the canonical frame address, which is rsp before the call, is found."""

    NONE = 0
    """Nothing is known here."""
    REGISTER = 1
    """cfa_register + cfa_offset."""
    DEREF = 2
    """*(u64 *)(cfa_register + cfa_offset) + add."""
    PLT = 3
    """rsp + 8 + ((rip & 15) >= cfa_offset ? 8 : 0)."""
    SIGNAL = 4
    """A signal frame: all registers are in the rt_sigframe at rsp."""
    ROOT = 5
    """The outermost frame."""
    UNSUPPORTED = 6
    """The file says something that this form cannot."""


class RegisterKind(IntEnum):
    """Where the caller's value of a register is."""

    SAME = 0
    AT_CFA = 1
    """*(u64 *)(CFA + offset)."""
    AT_RBP = 2
    """*(u64 *)(rbp + offset), with rbp of this frame."""
    AT_RSP = 3
    """*(u64 *)(rsp + offset), with rsp of this frame."""
    UNDEFINED = 4
    """It cannot be recovered."""


NONE_RULE, UNSUPPORTED_RULE = 0, 1
"""The first two rules of each table that is built here."""

_HEADER = struct.Struct("<8sIIIIQII")  # magic, version, pages, rows, rules, first page, dense pages, skipped
_MAGIC = b"pl-unwnd"
VERSION = 2


class TableError(ValueError):
    """The bytes are no table, or not a whole one; the message says how."""


@dataclass(frozen=True, slots=True, eq=False)
class UnwindTable:
    """The rows of one file.

    `first_page` is the address of the first page >> 16: an offset in the file, or (build_table) a virtual address.
    Rows of page i are rows[page_starts[i]:page_starts[i + 1]], at least one and at most 16,384; a row is
    (address & 0xffff) | rule << 16, ascending, the first at address 0 of the page. Each row is in force up to the
    next. rules[0] is all zeros.

    `dense_pages` counts pages that have one UNSUPPORTED row because they would have had too many, `skipped` the entries
    of the file that were damaged, wholly or from some instruction on, or beyond the limits of a table.
    """

    first_page: int
    page_starts: NDArray[np.uint32]
    rows: NDArray[np.uint32]
    rules: NDArray[np.void]
    dense_pages: int = 0
    skipped: int = 0

    @property
    def nbytes(self) -> int:
        """What page starts, rows and rules take, in bytes."""
        return self.page_starts.nbytes + self.rows.nbytes + self.rules.nbytes

    def find(self, address: int) -> np.void:
        """The RULE in force at an address."""
        page = (address >> PAGE_BITS) - self.first_page
        rule = NONE_RULE
        if 0 <= page < len(self.page_starts) - 1:
            rows = self.rows[self.page_starts[page] : self.page_starts[page + 1]]
            at = np.searchsorted(rows & 0xFFFF, address & 0xFFFF, side="right") - 1
            rule = int(rows[at]) >> 16
        found: np.void = self.rules[rule]
        return found

    def to_bytes(self) -> bytes:
        """The table in the form that `from_bytes` reads."""
        pages, rows, rules = len(self.page_starts) - 1, len(self.rows), len(self.rules)
        header = _HEADER.pack(
            _MAGIC, VERSION, pages, rows, rules, self.first_page, self.dense_pages, min(self.skipped, 2**32 - 1)
        )
        parts = self.page_starts.astype("<u4"), self.rows.astype("<u4"), self.rules
        return b"".join([header, *(part.tobytes() for part in parts)])

    @classmethod
    def from_bytes(cls, data: bytes) -> UnwindTable:
        """A table from what `to_bytes` gave, over the same memory. Raises TableError.

        Whoever wrote the bytes: a table that comes out has every property the class promises.
        """
        if len(data) < _HEADER.size:
            raise TableError("the unwind table is cut short")
        magic, version, pages, rows, rules, first_page, dense, skipped = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != VERSION:
            raise TableError("it is no unwind table, or one of another version")
        if pages > MAX_PAGES or rows > MAX_ROWS + MAX_PAGES or not 0 < rules <= MAX_RULES or dense > pages:
            raise TableError("the unwind table claims to be larger than one can be")
        if first_page + pages > 1 << (64 - PAGE_BITS):
            raise TableError("the unwind table lies outside the address space")
        if len(data) != _HEADER.size + 4 * (pages + 1 + rows) + RULE.itemsize * rules:
            raise TableError("the unwind table has not the size it claims")
        at = _HEADER.size
        page_starts = np.frombuffer(data, "<u4", pages + 1, at)
        row_values = np.frombuffer(data, "<u4", rows, at + page_starts.nbytes)
        rule_values = np.frombuffer(data, RULE, rules, at + page_starts.nbytes + row_values.nbytes)
        _check_rows(page_starts, row_values, rules)
        _check_rules(rule_values)
        return cls(first_page, page_starts, row_values, rule_values, dense, skipped)


def _check_rows(page_starts: NDArray[np.uint32], rows: NDArray[np.uint32], rules: int) -> None:
    counts = np.diff(page_starts.astype(np.int64))
    if page_starts[0] != 0 or page_starts[-1] != len(rows) or np.any(counts < 1) or np.any(counts > MAX_PAGE_ROWS):
        raise TableError("the unwind table's pages are damaged")
    if not len(rows):
        return
    first = np.zeros(len(rows), bool)
    first[page_starts[:-1]] = True
    addresses = rows & 0xFFFF
    if np.any(addresses[first]) or not np.all((addresses[1:] > addresses[:-1]) | first[1:]):
        raise TableError("the unwind table's rows are out of order")
    if int(rows.max() >> 16) >= rules:
        raise TableError("the unwind table names rules that it has not")


def _check_rules(rules: NDArray[np.void]) -> None:
    known = (rules["cfa"] <= max(CfaKind)) & (rules["cfa_register"] < 16)
    known &= (rules["rbp"] <= max(RegisterKind)) & (rules["rbx"] <= max(RegisterKind))
    if not known.all() or any(rules[0].tobytes()):
        raise TableError("the unwind table has rules of unknown kinds")


@dataclass(frozen=True, slots=True)
class Programs:
    """What CFA programs came to, each as rows from the beginning of the function on.

    The rows of program i are those from starts[i] to starts[i + 1]: `offsets` from the beginning of a function,
    ascending from 0, and the numbers of their `rules`, no two neighbours the same; the last is END, NONE_RULE.
    `rules` begin with NONE and UNSUPPORTED.
    """

    starts: NDArray[np.uint32]
    offsets: NDArray[np.uint32]
    row_rules: NDArray[np.uint16]
    rules: NDArray[np.void]


END = 2**32 - 1
"""Offset of the last row of a program; more than any other."""


def empty_table(skipped: int = 0) -> UnwindTable:
    """The table of a file that says nothing."""
    return UnwindTable(0, np.zeros(1, np.uint32), np.empty(0, np.uint32), np.zeros(1, RULE), 0, skipped)


def make_table(
    begins: NDArray[np.uint64],
    sizes: NDArray[np.uint64],
    numbers: NDArray[np.uint32],
    programs: Programs,
    skipped: int = 0,
) -> UnwindTable:
    """The table of functions at `begins`, `sizes` bytes long, with the programs of these `numbers`.

    Of functions that overlap the one that begins later wins, and the earlier one ends there for good, as it does for
    unwinders that search .eh_frame_hdr; of those that begin together the last counts. Functions further than 4 GB from
    the first, and those beyond MAX_ROWS rows, are left out and counted as skipped.
    """
    order = np.argsort(begins, kind="stable")
    order = order[sizes[order] > 0]
    if not len(order):
        return empty_table(skipped)
    first_page = int(begins[order[0]]) >> PAGE_BITS
    distance = begins[order] - np.uint64(first_page << PAGE_BITS)
    window = np.uint64(min(MAX_PAGES << PAGE_BITS, 2**64 - 1 - (first_page << PAGE_BITS)))
    near = (distance < window) & _within_rows(programs, numbers[order])
    skipped += len(order) - int(near.sum())
    order, distance = order[near], distance[near]
    if not len(order):
        return empty_table(skipped)
    room = np.append(distance[1:], window) - distance
    length = np.minimum(sizes[order], room)
    addresses, rules = _rows(distance, length, numbers[order], programs)
    pages = (int(distance[-1] + length[-1]) - 1 >> PAGE_BITS) + 1
    addresses, rules = _with_page_beginnings(addresses, rules, pages)
    page_starts = np.searchsorted(addresses, _page_addresses(pages))
    rows = addresses & np.uint32(0xFFFF) | rules.astype(np.uint32) << np.uint32(16)
    counts = np.diff(page_starts, append=len(rows))
    dense = counts > MAX_PAGE_ROWS
    if dense.any():
        rows[page_starts[dense]] = UNSUPPORTED_RULE << 16
        keep = ~np.repeat(dense, counts)
        keep[page_starts] = True
        rows = rows[keep]
        counts[dense] = 1
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    return UnwindTable(first_page, starts, rows, programs.rules, int(dense.sum()), skipped)


def _within_rows(programs: Programs, numbers: NDArray[np.uint32]) -> NDArray[np.bool_]:
    counts = np.diff(programs.starts)[numbers]
    return np.cumsum(counts, dtype=np.uint64) <= MAX_ROWS


def _rows(
    distance: NDArray[np.uint64], length: NDArray[np.uint64], numbers: NDArray[np.uint32], programs: Programs
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Addresses from the first page on and rules, ascending, none the same as the one before.

    Addresses have 32 bits, which is the whole of a table, to halve the memory this takes.
    """
    starts = programs.starts[numbers]
    counts = programs.starts[numbers + 1] - starts
    before = np.cumsum(counts, dtype=np.uint32) - counts
    which = np.arange(int(counts.sum()), dtype=np.uint32)
    which += np.repeat(starts - before, counts)
    offsets, rules = programs.offsets[which], programs.row_rules[which]
    del which
    ends = np.repeat(np.minimum(length, END).astype(np.uint32), counts)
    keep = (offsets < ends) | (offsets == END)
    addresses = np.minimum(offsets, ends)
    addresses += np.repeat(distance.astype(np.uint32), counts)
    del offsets, ends
    keep[-1] &= int(distance[-1] + length[-1]) < MAX_PAGES << PAGE_BITS
    addresses, rules = addresses[keep], rules[keep]
    keep = np.append(addresses[1:] != addresses[:-1], True)
    addresses, rules = addresses[keep], rules[keep]
    keep = np.append(True, rules[1:] != rules[:-1])
    return addresses[keep], rules[keep]


def _page_addresses(pages: int) -> NDArray[np.uint32]:
    return np.arange(pages, dtype=np.uint32) << np.uint32(PAGE_BITS)


def _with_page_beginnings(
    addresses: NDArray[np.uint32], rules: NDArray[np.uint16], pages: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """The rows of so many pages, with one at the beginning of each."""
    inside = np.searchsorted(addresses, pages << PAGE_BITS)  # without the end of the last function of a full page
    addresses, rules = addresses[:inside], rules[:inside]
    begin = _page_addresses(pages)
    following = np.searchsorted(addresses, begin, side="right")
    in_force = np.where(following > 0, rules[np.maximum(following, 1) - 1], np.uint16(NONE_RULE))
    new = (following == 0) | (addresses[np.maximum(following, 1) - 1] != begin)
    where = following[new]
    return np.insert(addresses, where, begin[new]), np.insert(rules, where, in_force[new])
