"""`pilotlight symbolize`: names for addresses of a file or of a running process, as addr2line(1) gives them."""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from profiler.processes import read_maps
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.naming.short_names import short_name
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Frame, Location, Mapping, Reason

_PIECE = 1 << 16
_MOST_ADDRESS = 1 << 64
_LONGEST_WAIT = 120.0
_KERNEL_FROM = 1 << 63


class SymbolizeError(Exception):
    """What was asked for cannot be named; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class SymbolizeOptions:
    """`elf` is a path, "" where `pid` is asked about. Without `addresses` they are read from stdin. The rest is about
    what is printed: see the command's help."""

    elf: str = ""
    pid: int = 0
    addresses: tuple[str, ...] = ()
    functions: bool = False
    inlines: bool = False
    show_addresses: bool = False
    pretty: bool = False
    base_names: bool = False
    demangle: bool = True
    short: bool = False
    json: bool = False


def run_symbolize(options: SymbolizeOptions, symfiles: SymFiles | None) -> int:
    """Prints a name for each address, in their order; returns the exit code. Raises SymbolizeError."""
    symbolizer = Symbolizer(symfiles)
    locate = _of_process(symbolizer, symfiles, options.pid) if options.pid else _of_file(symbolizer, options.elf)
    show = _as_json if options.json else _as_text
    for texts in [list(options.addresses)] if options.addresses else _lines(sys.stdin.fileno()):
        addresses = [parse_address(text) for text in texts]
        known = iter(locate([address for address in addresses if address is not None]))
        for text, address in zip(texts, addresses, strict=True):
            print(show(text, next(known) if address is not None else None, options))
        sys.stdout.flush()
    return 0


def parse_address(text: str) -> int | None:
    """A hexadecimal address, with or without 0x; None for what is none."""
    try:
        address = int(text, 16)
    except ValueError:
        return None
    return address if 0 <= address < _MOST_ADDRESS else None


def _lines(descriptor: int) -> Iterator[list[str]]:
    """Whole lines as they come in, all there are at a time: a program at the other end may wait for each answer."""
    rest = b""
    while data := os.read(descriptor, _PIECE):
        *lines, rest = (rest + data).split(b"\n")
        yield [line.decode(errors="replace").strip() for line in lines]
    if rest:
        yield [rest.decode(errors="replace").strip()]


def _of_file(symbolizer: Symbolizer, path: str) -> Callable[[Sequence[int]], list[Location]]:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise SymbolizeError(f"{path} cannot be read ({error.strerror}).") from error
    (probe,) = symbolizer.file(path, [0], _LONGEST_WAIT)
    if probe.frames[0].reason in (Reason.FILE_MISSING, Reason.UNREADABLE_FILE):
        raise SymbolizeError(f"There is nothing to be named in {path}: {probe.frames[0].function.strip('[]')}.")
    return lambda addresses: symbolizer.file(path, addresses, _LONGEST_WAIT)


def _of_process(
    symbolizer: Symbolizer, symfiles: SymFiles | None, pid: int
) -> Callable[[Sequence[int]], list[Location]]:
    try:
        mappings = read_maps(pid)
    except OSError as error:
        why = (
            "there is no such process" if isinstance(error, FileNotFoundError | ProcessLookupError) else error.strerror
        )
        raise SymbolizeError(f"The mappings of process {pid} cannot be read: {why}.") from error
    starts = [mapping.start for mapping in mappings]

    def mapping_of(address: int) -> Mapping | None:
        at = bisect_right(starts, address) - 1
        return mappings[at] if at >= 0 and address < mappings[at].end else None

    def locate(addresses: Sequence[int]) -> list[Location]:
        kernel = [address for address in addresses if address >= _KERNEL_FROM]
        user = [(address, mapping_of(address)) for address in addresses if address < _KERNEL_FROM]
        symbolizer.user(pid, user)
        if symfiles is not None:
            symfiles.settle(_LONGEST_WAIT)
            symbolizer.improved()
        of_kernel, of_user = iter(symbolizer.kernel(kernel) if kernel else ()), iter(symbolizer.user(pid, user))
        return [next(of_kernel if address >= _KERNEL_FROM else of_user) for address in addresses]

    return locate


def _as_text(text: str, location: Location | None, options: SymbolizeOptions) -> str:
    if location is None:
        return f"{text}: not a hexadecimal address" if options.show_addresses or options.pretty else "??:0"
    frames = location.frames if options.inlines else location.frames[:1]
    lines = []
    if options.show_addresses and not options.pretty:
        lines.append(f"0x{parse_address(text):016x}")
    for position, frame in enumerate(frames):
        place = _place(frame, options)
        if options.pretty:
            before = f"0x{parse_address(text):016x}: " if options.show_addresses and not position else ""
            before = " (inlined by) " if position else before
            lines.append(f"{before}{_function(frame, options)} at {place}" if options.functions else before + place)
            continue
        if options.functions:
            lines.append(_function(frame, options))
        lines.append(place)
    return "\n".join(lines)


def _function(frame: Frame, options: SymbolizeOptions) -> str:
    if not options.demangle and frame.system_name:
        return frame.system_name
    return short_name(frame.function) if options.short else frame.function


def _place(frame: Frame, options: SymbolizeOptions) -> str:
    file = os.path.basename(frame.file) if options.base_names else frame.file
    return f"{file or '??'}:{frame.line or ('?' if file else 0)}"


def _as_json(text: str, location: Location | None, options: SymbolizeOptions) -> str:
    if location is None:
        return json.dumps({"address": text, "error": "not a hexadecimal address", "frames": []})
    found: dict[str, Any] = {"address": f"0x{parse_address(text):x}"}
    if location.binary:
        found["binary"] = {"path": location.binary.path, "build_id": location.binary.build_id}
        found["offset"] = f"0x{location.address:x}"
    found["frames"] = [_frame_object(frame) for frame in location.frames]
    return json.dumps(found)


def _frame_object(frame: Frame) -> dict[str, Any]:
    described = {
        "function": frame.function,
        "short": short_name(frame.function),
        "system_name": frame.system_name,
        "kind": frame.kind.value,
        "file": frame.file,
        "line": frame.line,
        "reason": frame.reason.value if frame.reason else "",
    }
    return {key: value for key, value in described.items() if value}
