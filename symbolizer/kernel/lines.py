"""Source lines and inlined functions of kernel code, where its debug information is on the machine."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from symbolizer.cachefolder import owned_id
from symbolizer.debuginfo.symfile import SourceFrame, SymFile
from symbolizer.elf import ElfError
from symbolizer.kernel.files import (
    elf_at,
    host_root,
    kernel_release,
    module_file,
    open_module,
    open_vmlinux,
    symbol_address,
)
from symbolizer.kernel.kallsyms import Owner, section_address
from symbolizer.types import Kind

LOOK_AGAIN_SECONDS = 600.0

Sources = tuple[SourceFrame, ...]


class SymbolFiles(Protocol):
    """As much of SymFiles as is asked here."""

    def request(self, build_id: str, binary: int, path: str, roots: Sequence[int] = ()) -> None: ...
    def get(self, build_id: str) -> SymFile | None: ...


@dataclass(slots=True)
class _Debug:
    """What is known of the debug information of one owner of code.

    `key` is what its symbol file is kept by, "" while no `file` to make it of was found. `linked_at` is
    where the file has what the kernel loaded at the owner's base; None for files of modules, whose
    sections have their places in `symfile.sections`.
    """

    look_again: float
    key: str = ""
    file: str = ""
    linked_at: int | None = None
    symfile: SymFile | None = None
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


class KernelLines:
    """Asks for symbol files of the kernel and of those modules whose code is asked for, and looks addresses up in them.

    A kernel is loaded elsewhere each boot, a module wherever there is room: an address is looked up where the file
    has it, which is as far from the file's _text as the address is from the kernel's, and in a module as far into
    its section, by /sys/module/NAME/sections.
    """

    def __init__(self, symfiles: SymbolFiles, proc: str = "/proc", sys: str = "/sys") -> None:
        self._symfiles = symfiles
        self._proc = proc
        self._sys = sys
        self._debugs: dict[str, _Debug] = {}

    def lookup(self, owner: Owner, addresses: Sequence[int]) -> list[Sources]:
        """The frames of the source at each address of an owner's code, as SymFile.lookup(); () where nothing is known.

        Where there is no symbol file, debug information is looked for again after LOOK_AGAIN_SECONDS.
        """
        nothing: list[Sources] = [()] * len(addresses)
        build_id = owner.binary.build_id
        if not build_id or owner.kind not in (Kind.KERNEL, Kind.MODULE):
            return nothing
        debug = self._debugs.get(build_id)
        if debug is None or (debug.symfile is None and time.monotonic() >= debug.look_again):
            debug = self._debugs[build_id] = self._ask(owner)
        if debug.key:
            debug.symfile = self._symfiles.get(debug.key) or debug.symfile  # which tells that it is in use
        if debug.symfile is None:
            return nothing
        return debug.symfile.lookup(self._linked(owner, debug, debug.symfile, addresses))

    def build_ids(self, keys: Collection[str]) -> set[str]:
        """The build ids of code whose symbol files are kept by `keys`."""
        return {build_id for build_id, debug in self._debugs.items() if debug.key in keys}

    def file(self, build_id: str) -> str:
        """The file with debug information that lines of a binary come from, "" while there is none."""
        debug = self._debugs.get(build_id)
        return debug.file if debug is not None else ""

    def _ask(self, owner: Owner) -> _Debug:
        debug = _Debug(time.monotonic() + LOOK_AGAIN_SECONDS)
        try:
            root = host_root(self._proc)
        except OSError:
            return debug
        try:
            if (found := self._open(owner, root)) is not None:
                with os.fdopen(found[0], "rb", buffering=0) as file:
                    self._request(debug, owner, file.fileno(), found[1], root)
        except (ElfError, OSError):
            pass  # it changed while it was read: as good as not found
        finally:
            os.close(root)
        return debug

    def _open(self, owner: Owner, root: int) -> tuple[int, str] | None:
        release = kernel_release(self._proc)
        if owner.kind is Kind.KERNEL:
            return open_vmlinux(root, release, owner.binary.build_id)
        return open_module(root, module_file(root, release, _module(owner)), owner.binary.build_id)

    def _request(self, debug: _Debug, owner: Owner, handle: int, path: str, root: int) -> None:
        if owner.kind is Kind.KERNEL:
            debug.linked_at = symbol_address(elf_at(handle), b"_text")
            if debug.linked_at is None:
                return
        key = owned_id(owner.binary.build_id, handle)
        debug.key, debug.file, debug.symfile = key, path, self._symfiles.get(key)
        if debug.symfile is None:
            self._symfiles.request(key, handle, path, [root])

    def _linked(self, owner: Owner, debug: _Debug, symfile: SymFile, addresses: Sequence[int]) -> list[int]:
        """Where the file has what the kernel has at `addresses`; 2**64 - 1 for what it has not."""
        if debug.linked_at is not None:
            return [address - owner.base + debug.linked_at for address in addresses]
        places = debug.places.get(owner.base)
        if places is None:
            places = self._places(_module(owner), symfile)
            debug.places = {owner.base: places}  # a module is in one place at a time
        found = []
        for address in addresses:
            at = bisect_right(places, (address, 2**64)) - 1
            found.append(address - places[at][0] + places[at][1] if at >= 0 else 2**64 - 1)
        return found

    def _places(self, module: str, symfile: SymFile) -> list[tuple[int, int]]:
        """(address in the kernel, address in the file) of each section of a module's code, ascending."""
        places = []
        for name, start in symfile.sections.items():
            section = os.fsdecode(name)
            if "/" not in section and (address := section_address(module, section, self._sys)):
                places.append((address, start))
        return sorted(places)


def _module(owner: Owner) -> str:
    return owner.binary.path.removeprefix("[").removesuffix("]")
