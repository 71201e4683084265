"""The code of one binary: what is remembered of it, and the frames of the addresses in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from symbolizer.elf import Elf, ElfError, Loads, virtual_addresses
from symbolizer.elf_symbols import read_symbols
from symbolizer.function_bounds import bounds, starts_of
from symbolizer.locate import damaged
from symbolizer.naming.demangle import function_names
from symbolizer.ranges import Ranges
from symbolizer.symbols import SymbolTable
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import file_name, unknown, unknown_function

if TYPE_CHECKING:
    from symbolizer.debuginfo.symfile import SourceFrame, SymFile

Frames = tuple[Frame, ...]


@dataclass(slots=True, eq=False)
class Code:
    """A binary with what is remembered of it: `locations` by offset in the file.

    Names come from `symfile` where there is one, else from `table`, its own symbols. Where there is neither,
    `unknown` says why, unless they are to be read again (see `forgotten`). `functions` are where functions begin and
    end, of a file whose own symbols leave some out: so those without a name are told from each other.
    """

    binary: Binary
    key: str = ""
    """What symbol files know it by: no other file has it, whatever its build id."""
    kind: Kind = Kind.NATIVE
    unknown: Frame | None = None
    loads: Loads = ()
    table: SymbolTable | None = None
    functions: Ranges | None = None
    ask_again: float = 0.0
    """Not to ask for a symbol file before, by time.monotonic()."""
    locations: dict[int, Location] = field(default_factory=dict)
    _symfile: ReferenceType[SymFile] | None = None
    _frames: dict[int, Frames] = field(default_factory=dict)
    """By symbol of `table`, or by node of the symbol file where there is one."""

    @property
    def symfile(self) -> SymFile | None:
        """Its symbol file for as long as SymFiles has that open: how many are is for SymFiles to bound."""
        return self._symfile() if self._symfile is not None else None

    @property
    def forgotten(self) -> bool:
        """Whether its names have to be read again before an address can be named."""
        return self.unknown is None and self.table is None and self.symfile is None

    @property
    def nbytes(self) -> int:
        """Memory that its tables take."""
        return sum(tables.nbytes for tables in (self.functions, self.table) if tables is not None)

    def forget_tables(self) -> None:
        """Drops what takes memory and can be read again."""
        self.table = self.functions = None
        if self.unknown is not None and self.unknown.reason is Reason.NO_SYMBOLS:
            self.unknown = None

    def load(self, elf: Elf) -> None:
        """Reads the binary's own symbols. Where there are none, or damaged ones, it is unknown from now on."""
        self.loads = elf.loads
        self._frames = {}  # a file with the same code may have other symbols, or in another order
        try:
            table = read_symbols(elf)
        except ElfError as error:
            self.unknown = damaged(error, file_name(self.binary.path))
            return
        if not any(section.kind == "SHT_SYMTAB" for section in elf.sections):
            self.functions = bounds(elf)
        if len(table):
            self.table = table
        else:
            self.unknown = unknown(Reason.NO_SYMBOLS, file_name(self.binary.path))

    def improve(self, symfile: SymFile) -> list[Location]:
        """Takes names from a symbol file from now on; returns the locations that it names better."""
        before = self.locations
        self._symfile, self.table, self.unknown = ref(symfile), None, None
        self.forget_locations()
        self.name(sorted(before))
        return [
            location
            for offset, location in self.locations.items()
            if location.frames[-1].reason is None and location.frames != before[offset].frames
        ]

    def forget_locations(self) -> None:
        self.locations, self._frames = {}, {}

    def name(self, offsets: Sequence[int]) -> list[int]:
        """Adds the locations at `offsets` of the file; its names must not be forgotten. Returns those without one."""
        nameless = []
        for offset, frames in zip(offsets, self.frames_at(virtual_addresses(self.loads, offsets)), strict=True):
            self.locations[offset] = Location(offset, self.binary, frames)
            if frames[-1].reason is not None:
                nameless.append(offset)
        return nameless

    def frames_at(self, addresses: Sequence[int]) -> list[Frames]:
        """The frames of virtual addresses, as in Location; the binary's names must not be forgotten."""
        symfile = self.symfile
        if symfile is not None:
            found = self._of_symfile(symfile, addresses)
        elif self.table is not None:
            found = [self._of_symbol(symbol) for symbol in self.table.find(addresses)]
            self.table.strings.close()
        else:
            found = [()] * len(addresses)
        if all(found):
            return found
        starts = starts_of(self.functions, addresses) if self.functions is not None else [None] * len(addresses)
        return [frames or self._nameless(start) for frames, start in zip(found, starts, strict=True)]

    def _nameless(self, start: int | None) -> Frames:
        """The frame of code without a name, of a function that begins at `start`."""
        reason = Reason.OUTSIDE_SYMBOLS
        if self.unknown is not None:
            reason = self.unknown.reason or reason
        elif self.table is not None and self.table.only_stubs:
            reason = Reason.NO_SYMBOLS
        where = file_name(self.binary.path)
        if start is not None:
            return (unknown_function(where, start, reason),)
        return (self.unknown or unknown(reason, where),)

    def _of_symbol(self, symbol: int) -> Frames:
        if symbol < 0:
            return ()
        frames = self._frames.get(symbol)
        if frames is None:
            assert self.table is not None
            function, system = function_names(self.table.best_name(symbol))
            frames = self._frames[symbol] = (Frame(function, self.kind, system),)
        return frames

    def _of_symfile(self, symfile: SymFile, addresses: Sequence[int]) -> list[Frames]:
        nodes = symfile.nodes(addresses)
        known = self._frames
        for node, source in symfile.frames(set(nodes) - known.keys()).items():
            kinds = [Kind.INLINED] * (len(source) - 1) + [self.kind]
            known[node] = tuple(map(source_frame, source, kinds)) if source else ()
        return [known[node] for node in nodes]


def source_frame(source: SourceFrame, kind: Kind) -> Frame:
    """The frame for a function of a symbol file."""
    if not source.function:
        nameless = unknown(Reason.NO_SYMBOLS, detail="function without a name")
        return replace(nameless, file=source.file, line=source.line)
    function, system = function_names(source.function)
    return Frame(function, kind, system, source.file, source.line)
