"""Mangled names of C++ and Rust, made readable."""

from __future__ import annotations

import re
from functools import lru_cache

from symbolizer.itanium import demangle_cpp
from symbolizer.names import clean_name
from symbolizer.rust import demangle_rust

MAX_MANGLED = 4096
"""Longer names are shown as they are."""

_STUB = b"@plt"
_VERSION = re.compile(rb"@@?[\w.]+\Z")


@lru_cache(maxsize=8192)
def function_names(symbol: bytes) -> tuple[str, str]:
    """(name for people, symbol's own name if that differs, else "") of a symbol in a symbol table.

    The version that the linker put behind an @ is left off. The @plt of a stub stays.
    """
    if b"@" in symbol:
        if symbol.endswith(_STUB):
            function, system = function_names(symbol.removesuffix(_STUB))
            return function + "@plt", system and system + "@plt"
        symbol = _VERSION.sub(b"", symbol)
    system = clean_name(symbol)
    if not symbol.startswith((b"_Z", b"_R")) or len(symbol) > MAX_MANGLED or not symbol.isascii():
        return system, ""
    text = symbol.decode("ascii")
    readable = demangle_rust(text) or demangle_cpp(text)
    if readable is None:
        return system, ""
    function = clean_name(readable)
    return (function, system) if function != system else (system, "")
