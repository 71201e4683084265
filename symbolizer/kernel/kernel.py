"""Kernel addresses → Locations."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from symbolizer.code import source_frame
from symbolizer.kernel.files import host_module_file
from symbolizer.kernel.kallsyms import HiddenError, KernelSymbols, read_kallsyms
from symbolizer.kernel.lines import KernelLines, Sources, SymbolFiles
from symbolizer.kernel.names import kernel_names
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import unknown

MAX_LOCATIONS = 50_000
RETRY_SECONDS = 5.0
HIDDEN_RETRY_SECONDS = 60.0
STALE_SECONDS = 600.0

_MAX_MODULES_BYTES = 1 << 20
# NAME SIZE USERS DEPENDENCIES STATE ADDRESS: how many use a module says nothing of what it is.
_MODULE = re.compile(rb"^(\S+) \d+ \S+ \S+ (\S+ \S+)", re.MULTILINE)


class Kernel:
    """The kernel's code, named by one table that is read again when it proves out of date.

    That is: when an address is in none of its symbols, but at most every RETRY_SECONDS, and the more
    seldom the more often that was in vain; when modules came, went or ended their start, since other
    code may be where the table still shows that of then; and for the same reason when it is older than
    STALE_SECONDS. Nothing of this concerns the kernel's own text, which stays what it is.

    Binaries are called as people know them: "[kernel]", "[nf_tables]", "[bpf]", "[ftrace]". The file that
    a module is from does not change that (see `file`). Source files and lines come with the frames as
    soon as there is a symbol file made of debug information.
    """

    def __init__(self, proc: str = "/proc", sys: str = "/sys", symfiles: SymbolFiles | None = None) -> None:
        """Without `symfiles` frames have no lines and no inlined functions."""
        self._proc = proc
        self._sys = sys
        self._lines = KernelLines(symfiles, proc, sys) if symfiles is not None else None
        self._symbols: KernelSymbols | None = None
        self._unknown: Frame | None = None
        self._read_at = self._looked_at = float("-inf")
        self._wait = RETRY_SECONDS
        self._outdated = False
        self._modules: set[tuple[bytes, bytes]] = set()
        self._nameless: set[int] = set()
        self._locations: dict[int, Location] = {}
        self._files: dict[str, str] = {}

    def locations(self, addresses: Sequence[int]) -> list[Location]:
        """One Location for each absolute address."""
        now = time.monotonic()
        self._look_for_changes(now)
        if self._outdated and now - self._read_at > RETRY_SECONDS and not all(map(self._stays, addresses)):
            self._read()
        if self._nameless and now - self._read_at > self._wait:
            for address in self._nameless:
                self._locations.pop(address, None)
            self._nameless = set()
        known = self._locations
        if missing := {address for address in addresses if address not in known}:
            self._name(missing, set(addresses))
            known = self._locations
        return [known[address] for address in addresses]

    def improve(self, keys: Collection[str]) -> list[Location]:
        """Names code again whose symbol files have come, by their keys; returns the Locations that this made better."""
        build_ids = self._lines.build_ids(keys) if self._lines is not None else set()
        if not build_ids:
            return []
        before = {
            address: location
            for address, location in self._locations.items()
            if location.binary is not None and location.binary.build_id in build_ids
        }
        after = self._located(self._find(before))
        better = {a: location for a, location in after.items() if location.frames != before[a].frames}
        self._locations.update(better)
        return list(better.values())

    def file(self, binary: Binary) -> str:
        """The file that code of one of these binaries is from, for people: a module's own, which may be compressed.

        Of the kernel its vmlinux, where one with debug information was found. "" where none is known.
        """
        name = binary.path.removeprefix("[").removesuffix("]")
        if name == "kernel":
            return self._lines.file(binary.build_id) if self._lines is not None else ""
        if not binary.build_id:
            return ""
        found = self._files.get(name)
        if found is None:
            found = self._files[name] = host_module_file(self._proc, name)
        return found

    # When to read

    def _look_for_changes(self, now: float) -> None:
        if now - self._looked_at > RETRY_SECONDS and self._symbols is not None:
            self._looked_at = now
            self._outdated |= self._loaded_modules() != self._modules

    def _loaded_modules(self) -> set[tuple[bytes, bytes]]:
        """Name, and state with address, of each module."""
        try:
            with open(f"{self._proc}/modules", "rb") as file:
                return set(_MODULE.findall(file.read(_MAX_MODULES_BYTES)))
        except OSError:
            return set()

    def _stays(self, address: int) -> bool:
        """Whether an address is in the kernel's own text."""
        symbols = self._symbols
        return symbols is not None and symbols.owners[0].base <= address < symbols.text_end

    def _name(self, missing: set[int], asked: set[int]) -> None:
        age = time.monotonic() - self._read_at
        found = self._find(missing)
        strange = [address for address, i in found.items() if i is None]
        if self._symbols is None:
            due = age > HIDDEN_RETRY_SECONDS
        else:
            due = age > STALE_SECONDS or (age > self._wait and bool(strange))
        if due:
            self._read()
            found = self._find({address for address in asked if address not in self._locations})
            helped = not strange or any(found[address] is not None for address in strange)
            self._wait = RETRY_SECONDS if helped else min(self._wait * 2, STALE_SECONDS)
        if len(self._locations) + len(found) > MAX_LOCATIONS:
            self._locations, self._nameless = {}, set()
            found = self._find(asked)
        self._nameless.update(address for address, i in found.items() if i is None)
        self._locations.update(self._located(found))

    def _read(self) -> None:
        self._read_at = self._looked_at = time.monotonic()
        self._outdated = False
        self._modules = self._loaded_modules()  # before the symbols: what comes in between is noticed next time
        try:
            self._symbols = read_kallsyms(f"{self._proc}/kallsyms", self._sys)
        except HiddenError:
            self._unknown = unknown(Reason.KPTR_RESTRICT)
        except OSError as error:
            refused = error.errno in (errno.EACCES, errno.EPERM)
            detail = "permission denied for kallsyms" if refused else "no kallsyms"
            self._unknown = unknown(Reason.UNREADABLE_FILE, "kernel", detail)
        self._locations = {
            a: x for a, x in self._locations.items() if self._stays(a) and x.frames[-1].kind is Kind.KERNEL
        }
        self._nameless = set()
        self._files = {}

    # Names

    def _find(self, addresses: Iterable[int]) -> dict[int, int | None]:
        ordered = sorted(addresses)
        if self._symbols is None:
            return dict.fromkeys(ordered)
        found = self._symbols.table.find(ordered)
        return {address: i if i >= 0 else None for address, i in zip(ordered, found, strict=True)}

    def _located(self, found: dict[int, int | None]) -> dict[int, Location]:
        symbols = self._symbols
        if symbols is None:
            nameless = (self._unknown or unknown(Reason.KPTR_RESTRICT),)
            return {address: Location(address, Binary("[kernel]"), nameless) for address in found}
        nameless = (unknown(Reason.OUTSIDE_SYMBOLS, "kernel"),)
        sources = self._sources(symbols, found)
        frames: dict[tuple[int, Sources], tuple[Frame, ...]] = {}
        located = {}
        for address, i in found.items():
            if i is None:
                located[address] = Location(address, symbols.owners[0].binary, nameless)
                continue
            owner, source = symbols.owner_of(i), sources.get(address, ())
            if (i, source) not in frames:
                function, system = kernel_names(symbols.name(i))
                frames[i, source] = _frames(Frame(function, owner.kind, system), source)
            located[address] = Location(address - owner.base, owner.binary, frames[i, source])
        symbols.table.strings.close()
        return located

    def _sources(self, symbols: KernelSymbols, found: dict[int, int | None]) -> dict[int, Sources]:
        """What the source code says of each address, where that is known."""
        if self._lines is None:
            return {}
        by_owner: dict[int, list[int]] = {}
        for address, i in found.items():
            if i is not None:
                by_owner.setdefault(int(symbols.owner[i]), []).append(address)
        sources: dict[int, Sources] = {}
        for number, addresses in by_owner.items():
            sources.update(zip(addresses, self._lines.lookup(symbols.owners[number], addresses), strict=True))
        return sources


def _frames(own: Frame, source: Sources) -> tuple[Frame, ...]:
    """The physical function keeps the name that the running kernel has for it."""
    if not source:
        return (own,)
    return (
        *(source_frame(inlined, Kind.INLINED) for inlined in source[:-1]),
        replace(own, file=source[-1].file, line=source[-1].line),
    )
