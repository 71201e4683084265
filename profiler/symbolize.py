"""`pilotlight symbolize`: names for addresses of a file or of a running process, as addr2line(1) gives them.

What is printed is what GNU addr2line prints for the same options (binutils/addr2line.c), but for this: names are
readable ones unless asked otherwise; without the inlined callers the function is the one that the line belongs to,
where addr2line has the outer one's name beside the inner one's line for C++; there are no discriminators; and a file is
not guessed from where a symbol stands in the symbol table. Of a process, which addr2line knows nothing of, the reason
stands where a function has no name; of a file it is in the JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from profiler.processes import read_maps
from symbolizer.debuginfo.symfiles import SymFiles
from symbolizer.files import NotRegularError, open_link
from symbolizer.names import clean_name
from symbolizer.naming.short_names import short_name
from symbolizer.symbolizer import Symbolizer
from symbolizer.types import Binary, Frame, Kind, Location, Mapping, Reason

_PIECE = 1 << 16
_ADDRESS = re.compile(r"\s*(?:0[xX])?([0-9a-fA-F]{1,16})(?:\s|$)", re.ASCII)
_LONGEST_WAIT = 120.0
_KERNEL_FROM = 1 << 63
_LONGEST_SHOWN = 40
_NOTHING = Frame("??", Kind.UNKNOWN, reason=Reason.NO_MAPPING)


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
    """Prints a name for each address, in their order; returns the exit code. Raises SymbolizeError, once all the others
    are answered also where something given was no address."""
    symbolizer = Symbolizer(symfiles)
    locate = _of_process(symbolizer, symfiles, options.pid) if options.pid else _of_file(symbolizer, options.elf)
    show = partial(_as_json, file_of=symbolizer.kernel_file) if options.json else _as_text
    strange: list[str] = []
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for texts in [list(options.addresses)] if options.addresses else _lines():
        addresses = [parse_address(text) for text in texts]
        known = iter(locate([address for address in addresses if address is not None]))
        for text, address in zip(texts, addresses, strict=True):
            print(show(text, address, next(known) if address is not None else None, options))
            if address is None and text.strip() and not strange:
                strange.append(text.strip()[:_LONGEST_SHOWN])
        sys.stdout.flush()
    if strange:
        raise SymbolizeError(f"'{clean_name(strange[0])}' is no hexadecimal address.")
    return 0


def parse_address(text: str) -> int | None:
    """The hexadecimal address, with or without 0x, that a text begins with, as a word; None where there is none."""
    found = _ADDRESS.match(text)
    return int(found[1], 16) if found else None


def _lines() -> Iterator[list[str]]:
    """Whole lines of stdin as they come in, all there are at a time: a program at the other end may wait for each
    answer. What is longer than any address needs is cut off. Raises SymbolizeError."""
    rest = b""
    try:
        while data := os.read(0, _PIECE):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[:_PIECE]
            yield [line.decode(errors="replace") for line in lines]
    except OSError as error:
        raise SymbolizeError(f"No addresses can be read from stdin ({error.strerror}).") from error
    if rest:
        yield [rest.decode(errors="replace")]


def _of_file(symbolizer: Symbolizer, path: str) -> Callable[[Sequence[int]], list[Location]]:
    real = os.path.realpath(path)
    try:
        os.close(open_link(path))
        if not os.path.samefile(path, real):  # a link of /proc
            raise SymbolizeError(f"{path} leads to a file that has no path here; ask for its process by --pid.")
    except NotRegularError as error:
        raise SymbolizeError(f"{path} cannot be read (it is not a regular file).") from error
    except OSError as error:
        raise SymbolizeError(f"{path or 'A file without a name'} cannot be read ({error.strerror}).") from error
    (probe,) = symbolizer.file(real, [0], _LONGEST_WAIT)
    if probe.frames[0].reason in (Reason.FILE_MISSING, Reason.UNREADABLE_FILE):
        why = probe.frames[0].function.strip("[]").rpartition(": ")[2]
        raise SymbolizeError(f"There are no names in {path}: {why}.")
    return lambda addresses: symbolizer.file(real, addresses, _LONGEST_WAIT)


def _of_process(
    symbolizer: Symbolizer, symfiles: SymFiles | None, pid: int
) -> Callable[[Sequence[int]], list[Location]]:
    """Mappings are read anew for each answer: the process runs on. Once it is gone, those it had last count."""
    try:
        mappings = read_maps(pid)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | ProcessLookupError)
        why = "there is no such process" if missing else error.strerror
        raise SymbolizeError(f"The mappings of process {pid} cannot be read: {why}.") from error

    def locate(addresses: Sequence[int]) -> list[Location]:
        nonlocal mappings
        with contextlib.suppress(OSError):
            mappings = read_maps(pid) or mappings
        starts = [mapping.start for mapping in mappings]

        def mapping_of(address: int) -> Mapping | None:
            at = bisect_right(starts, address) - 1
            return mappings[at] if at >= 0 and address < mappings[at].end else None

        kernel = [address for address in addresses if address >= _KERNEL_FROM]
        user = [(address, mapping_of(address)) for address in addresses if address < _KERNEL_FROM]
        of_user, of_kernel = symbolizer.user(pid, user), symbolizer.kernel(kernel)
        while symfiles is not None and not symfiles.settle(
            0
        ):  # only so many may wait: then the next ones are asked for
            if not symfiles.settle(_LONGEST_WAIT):
                break
            symbolizer.improved()
            of_user, of_kernel = symbolizer.user(pid, user), symbolizer.kernel(kernel)
        users, kernels = iter(of_user), iter(of_kernel)
        return [next(kernels if address >= _KERNEL_FROM else users) for address in addresses]

    return locate


def _as_text(_: str, address: int | None, location: Location | None, options: SymbolizeOptions) -> str:
    frames = location.frames if location is not None else (_NOTHING,)
    shown_address = f"0x{address or 0:016x}"
    lines = [shown_address] if options.show_addresses and not options.pretty else []
    for position, frame in enumerate(frames if options.inlines else frames[:1]):
        function, place = _function(frame, options), _place(frame, options)
        if not options.pretty:
            lines += [function, place] if options.functions else [place]
            continue
        before = " (inlined by) " if position else f"{shown_address}: " if options.show_addresses else ""
        at = " " if _is_nowhere(frame) else " at "
        lines.append(before + (function + at if options.functions else "") + place)
    return "\n".join(lines)


def _function(frame: Frame, options: SymbolizeOptions) -> str:
    if frame.reason is not None and options.elf:
        return "??"
    if not options.demangle and frame.system_name:
        return frame.system_name
    return short_name(frame.function) if options.short else frame.function


def _is_nowhere(frame: Frame) -> bool:
    return frame.reason is not None and not frame.file


def _place(frame: Frame, options: SymbolizeOptions) -> str:
    file = os.path.basename(frame.file) if options.base_names else frame.file
    return f"{file or '??'}:{frame.line or (0 if _is_nowhere(frame) else '?')}"


def _as_json(
    text: str,
    address: int | None,
    location: Location | None,
    options: SymbolizeOptions,
    file_of: Callable[[Binary], str],
) -> str:
    if address is None or location is None:
        return json.dumps({"address": text.strip(), "error": "not a hexadecimal address", "frames": []})
    found: dict[str, Any] = {"address": f"0x{address:x}"}
    if location.binary:
        found["binary"] = {"path": location.binary.path, "build_id": location.binary.build_id}
        if location.frames[-1].kind in (Kind.KERNEL, Kind.MODULE) and (file := file_of(location.binary)):
            found["binary"]["file"] = file
        if options.pid:
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
