"""Names of kernel code from /proc/kallsyms: the kernel itself, modules, BPF programs, trampolines.

The file is text, a line each of "ADDRESS TYPE NAME", and "\\t[MODULE]" where it is not the kernel's
own; the kernel's own come first and by address (kernel/kallsyms.c). An owner whose name begins
with "__builtin__" is a generator of trampolines, and "bpf" stands for BPF programs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symbolizer.elf import build_id_of_notes
from symbolizer.symbols import PackedStrings, SymbolTable, symbol_table
from symbolizer.types import Binary, Kind

_MAX_BYTES = 256 << 20
_LINES = 8192
# kallsyms has no sizes. A last function before a gap reaches at most this far, so that code which
# was loaded later somewhere in the gap is not taken for it.
_MAX_REACH = 64 << 10
_TEXT = np.frombuffer(b"tTwWiI", np.uint8)
_RANK = np.full(256, 3, np.uint8)
_RANK[list(b"TI")] = 1
_RANK[list(b"W")] = 2


class HiddenError(ValueError):
    """/proc/kallsyms shows zeros in place of addresses (kptr_restrict, or no CAP_SYSLOG)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What a part of kernel code belongs to. `base` is the address that offsets count from, or 0."""

    binary: Binary
    kind: Kind
    base: int


@dataclass(frozen=True, slots=True)
class KernelSymbols:
    """Kernel code by address. Symbol i belongs to `owners[owner[i]]`."""

    table: SymbolTable
    owner: NDArray[np.uint16]
    owners: list[Owner]

    def name(self, i: int) -> bytes:
        return self.table.best_name(i).partition(b"\t")[0]

    def owner_of(self, i: int) -> Owner:
        return self.owners[int(self.owner[i])]


def read_kallsyms(path: str = "/proc/kallsyms", sys: str = "/sys") -> KernelSymbols:
    """All symbols of kernel code. Raises OSError, and HiddenError where addresses are hidden."""
    with open(path, "rb") as file:
        return parse_kallsyms(file.read(_MAX_BYTES), sys)


def parse_kallsyms(text: bytes, sys: str = "/sys") -> KernelSymbols:
    """As read_kallsyms(). Lines that are not of its form are left out."""
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
    # Addresses have 16 digits on 64-bit kernels, 8 on 32-bit ones; all lines are alike.
    digits = max(text.find(b" ", 0, 32), 1)
    long_enough = ends - starts > digits + 3
    starts, ends = starts[long_enough], ends[long_enough]
    kinds = data[starts + digits + 1]
    is_text = np.isin(kinds, _TEXT) & (data[starts + digits] == ord(" "))
    starts, ends, kinds = starts[is_text], ends[is_text], kinds[is_text]
    address = _hex_column(data, starts, digits)
    if len(address) and not address.any():
        raise HiddenError("the kernel hides its addresses; grant CAP_SYSLOG or set kernel.kptr_restrict to 1 or 0")

    owner, owners, text_end = _owners(text, data, starts, ends, digits, address, sys)
    strings, name = _packed(data, starts + digits + 3, ends)
    # The kernel's last function ends with its text, every other one where the next begins.
    limit = address + np.uint64(_MAX_REACH)
    limit[owner == 0] = text_end or 2**64 - 1
    table = symbol_table(address, address, name, _RANK[kinds], limit, strings)
    return KernelSymbols(table, _aligned(owner, address, table), owners)


def _packed(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[PackedStrings, NDArray[np.uint32]]:
    """The texts [starts, ends], each with the newline that it ends in, and where each then begins."""
    offsets = np.append(0, np.cumsum(ends + 1 - starts))

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(starts), _LINES):
            first, last = int(starts[at]), int(ends[min(at + _LINES, len(ends)) - 1]) + 1
            wanted = np.zeros(last - first + 1, np.int8)
            wanted[starts[at : at + _LINES] - first] = 1
            wanted[ends[at : at + _LINES] + 1 - first] = -1
            yield data[first:last][np.cumsum(wanted[:-1], dtype=np.int8).view(bool)].tobytes()

    return PackedStrings(pieces(), b"\n"), offsets[:-1].astype(np.uint32)


def _hex_column(data: NDArray[np.uint8], starts: NDArray[np.int64], digits: int) -> NDArray[np.uint64]:
    value = np.zeros(len(starts), np.uint64)
    for column in range(digits):
        digit = data[starts + column]
        # "0" is 0x30 and "a" is 0x61: the low four bits, and nine more for letters.
        value = (value << np.uint64(4)) | ((digit & 15) + 9 * (digit >> 6))
    return value


def _aligned(owner: NDArray[np.uint16], address: NDArray[np.uint64], table: SymbolTable) -> NDArray[np.uint16]:
    order = np.argsort(address, kind="stable")
    return owner[order][np.searchsorted(address[order], table.start)]


def _owners(
    text: bytes,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    digits: int,
    address: NDArray[np.uint64],
    sys: str,
) -> tuple[NDArray[np.uint16], list[Owner], int]:
    owner = np.zeros(len(starts), np.uint16)
    with_owner = np.flatnonzero(data[ends - 1] == ord("]"))
    numbers: dict[bytes, int] = {}
    bases: list[int] = []
    for i in with_owner.tolist():
        start, end = int(starts[i]), int(ends[i])
        at = text.rfind(b"\t[", start, end)
        if at < 0:
            continue
        name = text[at + 2 : end - 1]
        number = numbers.get(name)
        if number is None:
            if len(numbers) == 65534:
                continue
            number = numbers[name] = len(numbers) + 1
            bases.append(int(address[i]))
        owner[i] = number
        bases[number - 1] = min(bases[number - 1], int(address[i]))
    kernel_base, text_end = _kernel_bounds(text, digits)
    notes = build_id_of_notes(_read_small(os.path.join(sys, "kernel/notes")))
    owners = [Owner(Binary("[kernel]", notes), Kind.KERNEL, kernel_base)]
    for name, base in zip(numbers, bases, strict=True):
        owners.append(_owner(name.decode("ascii", "backslashreplace"), base, sys))
    return owner, owners, text_end


def _owner(name: str, base: int, sys: str) -> Owner:
    if name == "bpf":
        return Owner(Binary("[bpf]"), Kind.BPF, 0)
    if name.startswith("__builtin__"):
        return Owner(Binary(f"[{name.removeprefix('__builtin__')}]"), Kind.KERNEL, 0)
    notes = b""
    if re.fullmatch(r"[\w-]+", name):
        notes = _read_small(os.path.join(sys, "module", name, "notes/.note.gnu.build-id"))
    return Owner(Binary(f"[{name}]", build_id_of_notes(notes)), Kind.MODULE, base)


def _kernel_bounds(text: bytes, digits: int) -> tuple[int, int]:
    """Addresses of _text and _etext, 0 where there are none."""

    def address(symbol: bytes) -> int:
        at = text.find(b" " + symbol + b"\n")
        return int(text[at - 2 - digits : at - 2], 16) if at >= digits + 2 else 0

    return address(b"_text"), address(b"_etext")


def _read_small(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""
