"""Random processes to walk in: tables, mappings, stacks and registers, most of which lead somewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.unwind.table import RULE, CfaKind, RegisterKind, UnwindTable, empty_table
from tests.replay.replayer import MAPPINGS_IN_BLOCK, START, Maps, fill_maps

PROCESS = 7
STACK_BYTES = 1 << 16
_RBX, _RBP, _RSP = 3, 6, 7
_PAGE = 4096
_SIGRETURNS = (b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", b"\xb8\x0f\x00\x00\x00\x0f\x05")


@dataclass(frozen=True, slots=True)
class World:
    """`mappings` are (start, bias, pages, file) as in replayer.fill_maps(), ascending; file i has tables[i - 1]."""

    tables: tuple[UnwindTable | None, ...]
    mappings: tuple[tuple[int, int, int, int], ...]
    memory: tuple[tuple[int, bytes], ...]
    starts: NDArray[Any]

    def maps(self) -> Maps:
        return fill_maps(self.tables, {PROCESS: self.mappings})


def make_world(rng: np.random.Generator, walks: int) -> World:
    """One process with files, code made at run time, two stacks, and registers to walk from.

    From world to world more or less of it is odd: anything a file, a stack or a register could hold.
    """
    odd = float(rng.choice([0, 0.001, 0.02, 0.3]))
    tables: list[UnwindTable | None] = [_table(rng, odd) for _ in range(rng.integers(1, 5))]
    if rng.random() < odd:
        tables.append(None)
    if rng.random() < odd:
        tables.append(empty_table())
    mappings = _mappings(rng, tables, odd)
    stacks = 0x7FFE00000000 + np.sort(rng.choice(1 << 14, 2, replace=False)) * (STACK_BYTES + _PAGE)
    words = [_words(rng, STACK_BYTES // 8, mappings, stacks, odd) for _ in stacks]
    memory = [(int(start), contents.tobytes()) for start, contents in zip(stacks, words, strict=True)]
    memory += _trampolines(rng, mappings)
    return World(tuple(tables), mappings, tuple(memory), _starts(rng, walks, mappings, stacks, odd))


def damage(rng: np.random.Generator, world: World) -> Maps:
    """The world's maps with random bytes in random places, and some numbers beyond what they count."""
    maps = world.maps()
    hurt = [np.copy(array) for array in (maps.files, maps.pages, maps.rules)]
    blocks = {key: np.copy(block) for key, block in maps.blocks.items()}
    chunks = [np.copy(chunk) for chunk in maps.chunks]
    for array in (*hurt, *blocks.values(), *chunks):
        data = np.frombuffer(array.data, np.uint8) if array.flags.c_contiguous else None
        if data is None or not data.size or rng.random() < 0.3:
            continue
        places = rng.integers(0, data.size, max(1, int(data.size * 0.02 * rng.random())))
        data[places] = rng.integers(0, 256, len(places), np.uint8)
    return replace(maps, files=hurt[0], pages=hurt[1], rules=hurt[2], blocks=blocks, chunks=chunks)


def _table(rng: np.random.Generator, odd: float) -> UnwindTable:
    pages = int(rng.integers(1, 4))
    rules = np.concatenate([np.zeros(1, RULE), [_rule(rng, odd) for _ in range(rng.integers(2, 40))]])
    starts, rows = [0], list[NDArray[np.uint32]]()
    for _ in range(pages):
        count = int(rng.choice([1, 2, 3, 100, 3000, 1 << 14]))
        addresses = np.sort(rng.choice(1 << 16, count, replace=False)).astype(np.uint32)
        addresses[0] = 0
        used = rng.integers(0, len(rules), count)
        used[(used == 0) & (rng.random(count) >= odd)] = 1
        rows.append(addresses | used.astype(np.uint32) << np.uint32(16))
        starts.append(starts[-1] + count)
    return UnwindTable(int(rng.integers(0, 16)), np.array(starts, np.uint32), np.concatenate(rows), rules.astype(RULE))


def _rule(rng: np.random.Generator, odd: float) -> NDArray[Any]:
    rule = np.zeros((), RULE)
    rule["cfa"], rule["cfa_register"] = CfaKind.REGISTER, _RSP
    rule["cfa_offset"] = 8 * rng.integers(1, 12)
    rule["rbp"], rule["rbp_offset"] = rng.integers(RegisterKind.SAME, RegisterKind.AT_CFA + 1), -16
    rule["rbx"], rule["rbx_offset"] = rng.integers(RegisterKind.SAME, RegisterKind.AT_CFA + 1), -24
    if rng.random() < odd:
        rule["cfa"] = rng.integers(0, max(CfaKind) + 1)
        rule["cfa_register"] = rng.choice(np.array([_RSP, _RBP, _RBX, rng.integers(0, 16)]))
        rule["add"] = 8 * rng.integers(0, 8)
    if rng.random() < odd:
        rule["rbp"], rule["rbx"] = rng.integers(0, max(RegisterKind) + 1, 2)
        rule["rbp_offset"], rule["rbx_offset"] = 8 * rng.integers(-32, 32, 2)
    if rng.random() < odd / 4:
        rule["cfa_offset"], rule["add"] = rng.integers(-(2**31), 2**31, 2)
        rule["rbp_offset"], rule["rbx_offset"] = rng.integers(-(2**15), 2**15, 2)
    return rule


def _mappings(
    rng: np.random.Generator, tables: list[UnwindTable | None], odd: float
) -> tuple[tuple[int, int, int, int], ...]:
    count = int(rng.choice([1, 2, 3, 10, MAPPINGS_IN_BLOCK, MAPPINGS_IN_BLOCK + 1, 200]))
    starts = 0x550000000000 + np.sort(rng.choice(1 << 20, count, replace=False)).astype(np.int64) * (64 * _PAGE)
    found = []
    for start in starts.tolist():
        file = 0 if rng.random() < odd else int(rng.integers(1, len(tables) + 1))
        table = tables[file - 1] if file else None
        offset, pages = (table.first_page << 16, 16 * (len(table.page_starts) - 1)) if table else (0, 16)
        if rng.random() < odd:
            offset, pages = max(offset + _PAGE * int(rng.integers(-2, 8)), 0), int(rng.choice([1, 64]))
        found.append((start, (offset - start) % 2**64, pages, file))
    return tuple(found)


def _code(
    rng: np.random.Generator, count: int, mappings: tuple[tuple[int, int, int, int], ...], odd: float
) -> NDArray[np.uint64]:
    """Addresses in mappings, a few at their edges."""
    chosen = rng.integers(0, len(mappings), count)
    starts = np.array([mapping[0] for mapping in mappings], np.uint64)[chosen]
    sizes = np.array([mapping[2] * _PAGE for mapping in mappings])[chosen]
    into = (rng.random(count) * sizes).astype(np.uint64)
    into[into == 0] = 1  # a return address there would lie before the mapping
    at_edge = rng.random(count) < odd
    into[at_edge] = np.where(rng.random(count) < 0.5, 0, sizes)[at_edge]
    found: NDArray[np.uint64] = starts + into
    return found


def _words(
    rng: np.random.Generator,
    count: int,
    mappings: tuple[tuple[int, int, int, int], ...],
    stacks: NDArray[np.int64],
    odd: float,
) -> NDArray[np.uint64]:
    words = _code(rng, count, mappings, odd)
    kinds = rng.random(count)
    on_stack = rng.choice(stacks, count).astype(np.uint64) + rng.integers(0, STACK_BYTES // 8, count, np.uint64) * 8
    words[kinds < odd] = on_stack[kinds < odd]
    nonsense = kinds > 1 - odd / 10
    words[nonsense] = rng.integers(0, 2**64, count, np.uint64)[nonsense]
    words[rng.random(count) < odd / 10] = 0
    return words


def _trampolines(rng: np.random.Generator, mappings: tuple[tuple[int, int, int, int], ...]) -> list[tuple[int, bytes]]:
    """The code of some mappings, with instructions that return from signal handlers."""
    return [
        (start, _SIGRETURNS[rng.integers(0, 2)] * 4 + bytes(64))
        for start, _, _, file in mappings[:50]
        if not file or rng.random() < 0.3
    ]


def _starts(
    rng: np.random.Generator,
    walks: int,
    mappings: tuple[tuple[int, int, int, int], ...],
    stacks: NDArray[np.int64],
    odd: float,
) -> NDArray[Any]:
    starts = np.zeros(walks, START)
    for start in starts:
        start["registers"] = _words(rng, 16, mappings, stacks, odd)
        stack = int(rng.choice(stacks))
        start["registers"][_RSP] = stack + 8 * int(rng.integers(0, STACK_BYTES // 8))
        start["registers"][_RBP] = start["registers"][_RSP] + np.uint64(8 * int(rng.integers(0, 40)))
        start["ip"] = _code(rng, 1, mappings, odd)[0]
        if rng.random() < odd:
            start["registers"][rng.integers(0, 16)] = rng.integers(0, 2**64, dtype=np.uint64)
        if rng.random() < odd:
            start["ip"] = rng.integers(0, 2**64, dtype=np.uint64)
    return starts
