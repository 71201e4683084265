"""The functions at the root of a goroutine's stack, for which Go's .debug_frame names a caller that is not there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from symbolizer.elf import Elf, Section

_OUTERMOST = ("goexit", "mcall", "systemstack")  # of package runtime, in asm_amd64.s
_SUFFIXES = ("", ".abi0")
_MAX_BYTES = 64 << 20
_SYMBOL = np.dtype(
    {"names": ["name", "value"], "formats": ["<u4", "<u8"], "offsets": [0, 8], "itemsize": 24}
)  # Elf64_Sym


def outermost_functions(elf: Elf, symbols: Section) -> NDArray[np.uint64]:
    """Where they begin in a Go program, by its .symtab; none without one."""
    if not 0 <= symbols.link < len(elf.sections):
        return np.empty(0, np.uint64)
    strings = elf.sections[symbols.link]
    names = b"\0" + elf.read(strings.offset, min(strings.size, _MAX_BYTES))
    at = [
        names.find(f"\0runtime.{name}{suffix}\0".encode())  # of the byte before, so the offset without the first one
        for name in _OUTERMOST
        for suffix in _SUFFIXES
    ]
    data = elf.read(symbols.offset, min(symbols.size, _MAX_BYTES))
    table = np.frombuffer(data, _SYMBOL, len(data) // _SYMBOL.itemsize)
    return table["value"][np.isin(table["name"], [position for position in at if position >= 0])]
