"""What a replay goes out from: the registers, memory and executable mappings of a process that stood still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.unwind.cfi import build_table
from profiler.unwind.table import CfaKind, UnwindTable, empty_table
from symbolizer.elf import ElfError, NotElfError, Read, read_elf
from symbolizer.locate import is_file
from symbolizer.types import Mapping
from tests.replay.replayer import MAPPINGS_IN_BLOCK, MAX_BLOCKS, Maps, Replayer, Walk, fill_maps

PROCESS = 1
"""The number under which the mappings of the one process are put in the maps."""
USER_ADDRESSES = 1 << 47
MOST_MAPPINGS = MAPPINGS_IN_BLOCK * MAX_BLOCKS
_VDSO = "[vdso]"


@dataclass(frozen=True, slots=True)
class Thread:
    """`start` is a replayer.START."""

    tid: int
    start: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """`memory` are regions of (address, contents), `mappings` the executable ones; both ascending, none overlapping."""

    threads: tuple[Thread, ...]
    memory: tuple[tuple[int, bytes], ...]
    mappings: tuple[Mapping, ...]

    def read(self, address: int, size: int) -> bytes:
        """Memory from an address on, as much of it as was recorded in one stretch."""
        found = b""
        for start, contents in self.memory:
            if start <= address + len(found) < start + len(contents) and len(found) < size:
                into = address + len(found) - start
                found += contents[into : into + size - len(found)]
        return found


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of the files that a recording's mappings show, numbered from 1 on.

    `problems` says by path why a file has none: its walks end where one that is not loaded would end them.
    """

    numbers: dict[str, int]
    tables: tuple[UnwindTable | None, ...]
    code: tuple[tuple[int, bytes], ...]
    problems: dict[str, str]


def read_tables(recording: Recording) -> Tables:
    """Builds the table of every file, from the files themselves; of the vdso from the recorded memory."""
    numbers, tables, problems = dict[str, int](), list[UnwindTable | None](), dict[str, str]()
    code: list[tuple[int, bytes]] = []
    for mapping in recording.mappings:
        if mapping.path != _VDSO and not is_file(mapping.path):
            continue
        data = b""
        try:
            data = _contents(recording, mapping)
            if mapping.path not in numbers:
                tables.append(build_table(_reader(data)))
        except NotElfError:
            if mapping.path not in numbers:
                tables.append(empty_table())
        except (ElfError, OSError) as error:
            problems[mapping.path] = str(error)
            if mapping.path not in numbers:
                tables.append(None)
        numbers.setdefault(mapping.path, len(tables))
        if data and not recording.read(mapping.start, 1):
            code.append((mapping.start, data[mapping.offset : mapping.offset + mapping.end - mapping.start]))
    return Tables(numbers, tuple(tables), tuple(code), problems)


def maps_of(recording: Recording, tables: Tables) -> Maps:
    """The maps that the agent would fill for the recorded process."""
    entries = [
        (m.start, (m.offset - m.start) % 2**64, (m.end - m.start) >> 12, tables.numbers.get(m.path, 0))
        for m in recording.mappings
        if m.start < USER_ADDRESSES
    ]
    if len(entries) > MOST_MAPPINGS:  # code of files before other code, the larger first
        entries = sorted(sorted(entries, key=lambda entry: (not entry[3], -entry[2]))[:MOST_MAPPINGS])
    return fill_maps(tables.tables, {PROCESS: entries})


def mapping_at(recording: Recording, address: int) -> Mapping | None:
    """The executable mapping that an address is in."""
    return next((mapping for mapping in recording.mappings if mapping.start <= address < mapping.end), None)


def rule_at(recording: Recording, tables: Tables, address: int) -> np.void | None:
    """The RULE of the tables for an address; None where they say nothing."""
    mapping = mapping_at(recording, address)
    table = tables.tables[tables.numbers[mapping.path] - 1] if mapping and mapping.path in tables.numbers else None
    if mapping is None or table is None:
        return None
    rule = table.find(address - mapping.start + mapping.offset)
    return rule if rule["cfa"] != CfaKind.NONE else None


def load(replayer: Replayer, recording: Recording, tables: Tables) -> None:
    """Makes a replayer ready to walk the recording's stacks; code that was not recorded comes from the files."""
    replayer.set_maps(maps_of(recording, tables))
    replayer.set_memory([*recording.memory, *tables.code])


def walks(replayer: Replayer, recording: Recording) -> Iterator[tuple[Thread, Walk]]:
    """The walk of every thread, once the recording is loaded."""
    for thread in recording.threads:
        (walk,) = replayer.walk(PROCESS, thread.start)
        yield thread, walk


def _contents(recording: Recording, mapping: Mapping) -> bytes:
    if mapping.path == _VDSO:
        return recording.read(mapping.start, mapping.end - mapping.start)
    path = Path(mapping.path)
    if not path.is_file():
        raise ElfError("it is not here")
    data = path.read_bytes()
    here, recorded = read_elf(_reader(data)).build_id(), _recorded_build_id(recording, mapping)
    if recorded and recorded != here:
        raise ElfError(f"it has build id {here or 'none'}, the recorded process had {recorded}")
    return data


def _recorded_build_id(recording: Recording, mapping: Mapping) -> str:
    """The build id in the memory of a mapped file, if the beginning of the file was recorded where it is expected."""
    for start, contents in recording.memory:
        if start == mapping.start - mapping.offset and contents[:4] == b"\x7fELF":
            try:
                no_sections = contents[:40] + bytes(8) + contents[48:]  # e_shoff: they are not in memory
                return read_elf(_reader(no_sections)).build_id()
            except ElfError:
                return ""
    return ""


def _reader(data: bytes) -> Read:
    return lambda offset, size: data[offset : offset + size]
