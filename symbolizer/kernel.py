"""Kernel addresses → Locations."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Sequence

from symbolizer.demangle import function_names
from symbolizer.kallsyms import HiddenError, KernelSymbols, read_kallsyms
from symbolizer.types import Binary, Frame, Kind, Location, Reason
from symbolizer.unknown import unknown

MAX_LOCATIONS = 50_000
RETRY_SECONDS = 5.0
HIDDEN_RETRY_SECONDS = 60.0
STALE_SECONDS = 600.0


class Kernel:
    """The kernel's code, named by one table that is read again when it proves out of date.

    That is: when an address is in none of its symbols, but at most every RETRY_SECONDS, and the more
    seldom the more often that was in vain; and when it is older than STALE_SECONDS, since other
    modules or BPF programs may be where it still shows those of then.
    """

    def __init__(self, proc: str = "/proc", sys: str = "/sys") -> None:
        self._proc = proc
        self._sys = sys
        self._symbols: KernelSymbols | None = None
        self._unknown: Frame | None = None
        self._read_at = float("-inf")
        self._wait = RETRY_SECONDS
        self._nameless: set[int] = set()
        self._locations: dict[int, Location] = {}

    def locations(self, addresses: Sequence[int]) -> list[Location]:
        """One Location for each absolute address."""
        if self._nameless and time.monotonic() - self._read_at > self._wait:
            for address in self._nameless:
                self._locations.pop(address, None)
            self._nameless = set()
        known = self._locations
        if missing := {address for address in addresses if address not in known}:
            self._name(missing, set(addresses))
            known = self._locations
        return [known[address] for address in addresses]

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

    def _find(self, addresses: Iterable[int]) -> dict[int, int | None]:
        ordered = sorted(addresses)
        if self._symbols is None:
            return dict.fromkeys(ordered)
        found = self._symbols.table.find(ordered)
        return {address: i if i >= 0 else None for address, i in zip(ordered, found, strict=True)}

    def _read(self) -> None:
        self._read_at = time.monotonic()
        try:
            self._symbols = read_kallsyms(f"{self._proc}/kallsyms", self._sys)
        except HiddenError:
            self._unknown = unknown(Reason.KPTR_RESTRICT)
        except OSError as error:
            refused = error.errno in (errno.EACCES, errno.EPERM)
            detail = "permission denied for kallsyms" if refused else "no kallsyms"
            self._unknown = unknown(Reason.UNREADABLE_FILE, "kernel", detail)
        # The kernel's own code stays where it is; modules, programs and what had no name may not.
        self._locations = {a: x for a, x in self._locations.items() if x.frames[0].kind is Kind.KERNEL}
        self._nameless = set()

    def _located(self, found: dict[int, int | None]) -> dict[int, Location]:
        symbols = self._symbols
        if symbols is None:
            nameless = (self._unknown or unknown(Reason.KPTR_RESTRICT),)
            return {address: Location(address, Binary("[kernel]"), nameless) for address in found}
        nameless = (unknown(Reason.OUTSIDE_SYMBOLS, "kernel"),)
        frames: dict[int, tuple[Frame, ...]] = {}
        located = {}
        for address, i in found.items():
            if i is None:
                located[address] = Location(address, symbols.owners[0].binary, nameless)
                continue
            owner = symbols.owner_of(i)
            if i not in frames:
                function, system = function_names(symbols.name(i))
                frames[i] = (Frame(function, owner.kind, system),)
            located[address] = Location(address - owner.base, owner.binary, frames[i])
        symbols.table.strings.close()
        return located
