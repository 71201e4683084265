"""Mangled names of C++, Rust, Swift and D, made readable; those of C and Go are so as they are.

What compilers and linkers append is told as binutils and perf tell it: of a mangled name " [clone .cold]" follows,
"foo.part.0" of C stays as it is, and a stub ends in "@plt". Versions ("@@GLIBC_2.14") are left off, as is the
".llvm.N" that rustc gives to names it shares between its units. short_names.py folds names for the viewer.

C++ and Rust are read here. Swift and D, which are rare, are left to a library (PyPI `demangle`: Python alone, and
bounded in time and depth as those here are), which is loaded when the first such name is met.
"""

from __future__ import annotations

import re
from functools import lru_cache

from symbolizer.names import clean_name
from symbolizer.naming.itanium import demangle_cpp
from symbolizer.naming.rust import demangle_rust

MAX_MANGLED = 4096
"""Longer names are shown as they are."""

_STUB = b"@plt"
_VERSION = re.compile(rb"(?<=[^@])@{1,3}[\w.+~-]+\Z")
_MANGLED = re.compile(r"_Z|_R|_?\$[sS](?=.*\d)|_D(?=\d)")
_RUST_APPENDED = re.compile(r"_R\w+(\..+)|.+17h[0-9a-f]{16}E(\..+)")
_CLONE = re.compile(r"\.(?:[^.]+(?:\.\d+)*)?")
_MAX_FOREIGN = 1024  # a longer name of Swift or D can take the library half a second


@lru_cache(maxsize=8192)
def function_names(symbol: bytes) -> tuple[str, str]:
    """(name for people, symbol's own name if that differs, else "") of a symbol in a symbol table.

    The version that the linker put behind an @ is left off. The @plt of a stub stays.
    """
    if b"@" in symbol:
        is_stub, symbol = symbol.endswith(_STUB), symbol.removesuffix(_STUB)
        function, system = _names(_VERSION.sub(b"", symbol))
        return (function + "@plt", system and system + "@plt") if is_stub else (function, system)
    return _names(symbol)


def _names(symbol: bytes) -> tuple[str, str]:
    system = clean_name(symbol)
    if len(symbol) > MAX_MANGLED or not symbol.isascii():
        return system, ""
    text = symbol.decode("ascii")
    language = _MANGLED.match(text)
    if language is None:
        return system, ""
    if language[0] in ("_Z", "_R"):
        readable = _rust(text) or demangle_cpp(text)
    else:
        readable = _foreign(text, "d" if language[0] == "_D" else "swift")
    if readable is None:
        return system, ""
    function = clean_name(readable)
    return (function, system) if function != system else (system, "")


def _rust(symbol: str) -> str | None:
    found = demangle_rust(symbol)
    if found is None:
        return None
    appended = _RUST_APPENDED.fullmatch(symbol)
    return found + (_clones(appended[1] or appended[2]) if appended else "")


def _foreign(symbol: str, language: str) -> str | None:
    """The declaration that a mangled name of Swift or D stands for, or None where it is not understood."""
    import demangle

    mangled, dot, appended = symbol.partition(".")
    if len(mangled) > _MAX_FOREIGN:
        return None
    try:
        return demangle.demangle_strict(mangled, language=language) + _clones(dot + appended)
    except (demangle.DemanglingError, RecursionError):
        return None


def _clones(appended: str) -> str:
    clones = (clone for clone in _CLONE.findall(appended) if not clone.startswith(".llvm."))
    return "".join(f" [clone {clone}]" for clone in clones)
