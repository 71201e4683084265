"""Names of kernel code from /proc/kallsyms: the kernel itself, modules, BPF programs, trampolines.

The file is text, a line each of "ADDRESS TYPE NAME", and "\\t[MODULE]" where it is not the kernel's
own; the kernel's own come first and by address (kernel/kallsyms.c). An owner whose name begins
with "__builtin__" is a generator of trampolines (ftrace, kprobes), and "bpf" stands for BPF programs
with their trampolines, dispatchers and struct_ops images.

Types are nm's letters, so per-CPU variables, whose addresses are small numbers on x86-64, are data and
left out; so are code symbols that lie outside of the kernel's image and below it. Code that only the
boot runs (_sinittext to _einittext) is left out too: it was freed before the first program started,
and its memory may hold something else by now. A kernel is loaded at another address each boot
(KASLR), so addresses in it are told from _text on.

Of several symbols at one address global ones go before weak and local ones (__x64_sys_getpid before
__do_sys_getpid), and last come labels of the linker script where a part of the text begins or ends
(include/asm-generic/vmlinux.lds.h): what runs there is a function.
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
# Below its image the kernel may have trampolines of a page (entry_SYSCALL_64_trampoline up to Linux 4.20).
_PAGE = 4096
_MAX_OWNER = 80
MODULE_NAME = re.compile(r"[\w-]{1,64}")
_HEX = re.compile(rb"[0-9a-f]{1,16}")
_TEXT = np.frombuffer(b"tTwWiI", np.uint8)
_RANK = np.full(256, 3, np.uint8)
_RANK[list(b"TI")] = 1
_RANK[list(b"W")] = 2
_RANK_LABEL = 4
_LABEL_END = re.compile(rb"text(?:_start|_end)?\n")
_LABEL = re.compile(rb" (?:(?:__pi_)?_[se]?text|__\w+_text_(?:start|end))\n")


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
    """Kernel code by address. Symbol i belongs to `owners[owner[i]]`, owners[0] is the kernel itself.

    What the kernel's own text [owners[0].base, text_end) holds never changes, what is elsewhere may.
    """

    table: SymbolTable
    owner: NDArray[np.uint16]
    owners: list[Owner]
    text_end: int

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

    bounds = _kernel_bounds(text, digits)
    owner, owners = _owners(text, data, starts, ends, address, bounds.text, sys)
    rank = _RANK[kinds]
    rank[_labels(text, starts, digits)] = _RANK_LABEL
    limit = address + np.uint64(_MAX_REACH)
    reach = _kernel_reach(address, bounds, others=address[owner > 0])
    limit[owner == 0] = reach[owner == 0]
    kept = limit > address
    strings, name = _packed(data, starts[kept] + digits + 3, ends[kept])
    table = symbol_table(address[kept], address[kept], name, rank[kept], limit[kept], strings)
    return KernelSymbols(table, _aligned(owner[kept], address[kept], table), owners, bounds.text_end)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Of the kernel's text and of that which only the boot runs, 0 where kallsyms does not say."""

    text: int
    text_end: int
    init: int
    init_end: int


def _kernel_bounds(text: bytes, digits: int) -> _Bounds:
    def address(*symbols: bytes) -> int:
        for symbol in symbols:
            at = text.find(b" " + symbol + b"\n")
            found = text[max(at - 2 - digits, 0) : max(at - 2, 0)]
            if _HEX.fullmatch(found) and int(found, 16):
                return int(found, 16)
        return 0

    return _Bounds(address(b"_text", b"_stext"), address(b"_etext"), address(b"_sinittext"), address(b"_einittext"))


def _kernel_reach(address: NDArray[np.uint64], bounds: _Bounds, others: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How far each of the kernel's own symbols may reach, 0 where it does not name code that still is.

    What only the boot runs is freed after it, but stays at the root of stacks that began then: it names
    addresses as long as none of the `others`, loaded later, lies there.
    """
    limit = np.full(len(address), bounds.text_end, np.uint64) if bounds.text_end else address + np.uint64(_MAX_REACH)
    below = address < bounds.text
    limit[below] = 0
    if bounds.text >> 63:
        high = below & (address >= 1 << 63)
        limit[high] = address[high] + np.uint64(_PAGE)
    if bounds.init_end:
        reused = ((others >= bounds.init) & (others < bounds.init_end)).any()
        limit[(address >= bounds.init) & (address < bounds.init_end)] = 0 if reused else bounds.init_end
        limit[address == bounds.init_end] = 0
    return limit


def _labels(text: bytes, starts: NDArray[np.int64], digits: int) -> NDArray[np.int64]:
    """The numbers of those lines that are labels of the linker script for parts of the text."""
    names = [text.rfind(b" ", 0, match.start()) for match in _LABEL_END.finditer(text)]
    found = np.array([at - digits - 2 for at in names if _LABEL.match(text, at)], np.int64)
    lines = np.searchsorted(starts, found)
    there = lines < len(starts)
    lines, found = lines[there], found[there]
    ours: NDArray[np.int64] = lines[starts[lines] == found]
    return ours


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
    return owner[order][np.searchsorted(address[order], table.ranges.start)]


def _owners(
    text: bytes,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    address: NDArray[np.uint64],
    kernel_base: int,
    sys: str,
) -> tuple[NDArray[np.uint16], list[Owner]]:
    owner = np.zeros(len(starts), np.uint16)
    lowest: dict[bytes, int] = {}
    numbers: dict[bytes, int] = {}
    with_owner = np.flatnonzero(data[ends - 1] == ord("]"))
    # What belongs together is told together, so all lines between two equal ones of a kind are often alike.
    first = 0
    for last in _last_alike(data, ends[with_owner]):
        run = with_owner[first:last]
        first = last
        end = int(ends[run[0]])
        at = text.rfind(b"\t[", int(starts[run[0]]), end)
        if at < 0:
            continue
        name = text[at + 2 : end - 1]
        if len(numbers) == 65534 and name not in numbers:
            continue
        owner[run] = numbers.setdefault(name, len(numbers) + 1)
        base = int(address[run].min())
        lowest[name] = min(lowest.get(name, base), base)
    notes = build_id_of_notes(_read_small(os.path.join(sys, "kernel/notes")))
    owners = [Owner(Binary("[kernel]", notes), Kind.KERNEL, kernel_base)]
    for name in numbers:
        owners.append(_owner(name.decode("ascii", "backslashreplace"), lowest[name], sys))
    return owner, owners


def _last_alike(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[int]:
    """Where runs of lines end the same from their tab on, for lines that end at `ends`: the number after each run."""
    if not len(ends):
        return []
    same = np.ones(len(ends) - 1, bool)
    open_ = np.ones(len(ends) - 1, bool)
    for back in range(1, _MAX_OWNER):
        letters = data[np.maximum(ends - back, 0)]
        same &= ~open_ | (letters[1:] == letters[:-1])
        open_ &= same & (letters[1:] != ord("\t"))
        if not open_.any():
            break
    return [*(np.flatnonzero(~same | open_) + 1).tolist(), len(ends)]


def _owner(name: str, lowest: int, sys: str) -> Owner:
    if name == "bpf":
        return Owner(Binary("[bpf]"), Kind.BPF, 0)
    if name.startswith("__builtin__"):
        return Owner(Binary(f"[{name.removeprefix('__builtin__')}]"), Kind.KERNEL, 0)
    if not MODULE_NAME.fullmatch(name):
        return Owner(Binary(f"[{name}]"), Kind.MODULE, lowest)
    build_id = build_id_of_notes(_read_small(os.path.join(sys, "module", name, "notes/.note.gnu.build-id")))
    return Owner(Binary(f"[{name}]", build_id), Kind.MODULE, section_address(name, ".text", sys) or lowest)


def section_address(module: str, section: str, sys: str = "/sys") -> int:
    """Where a section of a loaded module is, by /sys/module/MODULE/sections; 0 where the kernel does not say."""
    text = _read_small(os.path.join(sys, "module", module, "sections", section)).strip().removeprefix(b"0x")
    return int(text, 16) if _HEX.fullmatch(text) else 0


def _read_small(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""
