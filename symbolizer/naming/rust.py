"""Mangled names of Rust: the v0 scheme (RFC 2603) and the one before it.

Written to be safe on names that are made to harm: the work on one name is bounded in depth and in
the characters it makes, as back references can make a short name expand without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_LEGACY_END = re.compile(r"17h[0-9a-f]{16}E(?:\.[\w.$@]+)?\Z")
_LENGTH = re.compile(r"[1-9]\d{0,4}")
_ESCAPES = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}
_ESCAPE = re.compile(r"\$(\w+)\$|\.\.")
_BASIC = {
    "b": "bool", "c": "char", "e": "str", "u": "()", "a": "i8", "s": "i16", "l": "i32", "x": "i64",
    "n": "i128", "i": "isize", "h": "u8", "t": "u16", "m": "u32", "y": "u64", "o": "u128", "j": "usize",
    "f": "f32", "d": "f64", "z": "!", "p": "_", "v": "...",
}  # fmt: skip
_BASE_62 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_DEPTH = 96
_MAX_WORK = 200_000


def demangle_rust(symbol: str) -> str | None:
    """The path that a mangled name stands for, without its hash, or None where it is not Rust's."""
    if symbol.startswith("_R"):
        try:
            return _V0(symbol).symbol()
        except (_FailedError, IndexError, ValueError, OverflowError):
            return None
    return _legacy(symbol) if symbol.startswith("_ZN") else None


def _legacy(symbol: str) -> str | None:
    end = _LEGACY_END.search(symbol)
    if end is None:
        return None
    parts, at = [], len("_ZN")
    while at < end.start():
        length = _LENGTH.match(symbol, at)
        if length is None:
            return None
        at = length.end() + int(length[0])
        parts.append(symbol[length.end() : at])
    return "::".join(map(_unescaped, parts)) if parts and at == end.start() else None


def _unescaped(part: str) -> str:
    def plain(match: re.Match[str]) -> str:
        code = match[1]
        if code is None:
            return "::"
        if code in _ESCAPES:
            return _ESCAPES[code]
        if re.fullmatch(r"u[0-9a-f]{1,6}", code) and int(code[1:], 16) < 0x110000:
            return chr(int(code[1:], 16))
        return match[0]

    return _ESCAPE.sub(plain, part[1:] if part.startswith("_$") else part)


class _FailedError(Exception):
    pass


class _V0:
    def __init__(self, symbol: str) -> None:
        self._text = symbol.partition(".")[0]
        self._at = 2
        self._depth = 0
        self._work = 0
        self._lifetimes = 0

    def symbol(self) -> str:
        name = self._path(in_value=True)
        if self._at < len(self._text):
            self._path(in_value=False)  # the crate that it was instantiated in
        if self._at < len(self._text):
            raise _FailedError
        return name

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _took(self, expected: str) -> bool:
        if self._text[self._at : self._at + 1] != expected:
            return False
        self._at += 1
        return True

    def _made(self, text: str) -> str:
        self._work += len(text) + 1
        if self._work > _MAX_WORK:
            raise _FailedError
        return text

    def _base_62(self) -> int:
        if self._took("_"):
            return 0
        value = 0
        while (digit := self._next()) != "_":
            value = value * 62 + _BASE_62.index(digit)
            if value > 1 << 64:
                raise _FailedError
        return value + 1

    def _disambiguator(self) -> int:
        return self._base_62() + 1 if self._took("s") else 0

    def _identifier(self) -> str:
        encoded = self._took("u")
        start = self._at
        while self._text[self._at : self._at + 1].isdigit():
            self._at += 1
            if self._text[start] == "0":
                break
        length = int(self._text[start : self._at])
        self._took("_")
        name = self._text[self._at : self._at + length]
        if len(name) < length:
            raise _FailedError
        self._at += length
        if not encoded:
            return name
        base, _, rest = name.rpartition("_")
        return (base + "-" + rest if base else rest).encode().decode("punycode")

    def _again(self, start: int, in_value: bool, what: str) -> str:
        target = self._base_62() + 2
        if target >= start:
            raise _FailedError
        here, self._at = self._at, target
        found = {"path": lambda: self._path(in_value), "type": self._type, "const": self._const}[what]()
        self._at = here
        return found

    def _path(self, in_value: bool) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _FailedError
        start = self._at
        match self._next():
            case "C":
                self._disambiguator()
                found = self._identifier()
            case "M":
                self._disambiguator()
                self._path(False)
                found = f"<{self._type()}>"
            case "X":
                self._disambiguator()
                self._path(False)
                found = f"<{self._type()} as {self._path(False)}>"
            case "Y":
                found = f"<{self._type()} as {self._path(False)}>"
            case "N":
                space = self._next()
                parent = self._path(in_value)
                number = self._disambiguator()
                name = self._identifier()
                if space.isupper():
                    kind = {"C": "closure", "S": "shim"}.get(space, space)
                    found = f"{parent}::{{{kind}{':' if name else ''}{name}#{number}}}"
                else:
                    found = f"{parent}::{name}" if name else parent
            case "I":
                base = self._path(in_value)
                found = f"{base}{'::' if in_value else ''}<{', '.join(self._until_end(self._generic))}>"
            case "B":
                found = self._again(start, in_value, "path")
            case _:
                raise _FailedError
        self._depth -= 1
        return self._made(found)

    def _until_end(self, one: Callable[[], str]) -> list[str]:
        found = []
        while not self._took("E"):
            found.append(one())
        return found

    def _generic(self) -> str:
        if self._took("L"):
            return self._lifetime(self._base_62())
        if self._took("K"):
            return self._const()
        return self._type()

    def _lifetime(self, number: int) -> str:
        if number == 0:
            return "'_"
        depth = self._lifetimes - number
        return f"'{chr(ord('a') + depth)}" if 0 <= depth < 26 else f"'_{depth}"

    def _binder(self) -> str:
        if not self._took("G"):
            return ""
        count = self._base_62() + 1
        if count > 64:
            raise _FailedError
        self._lifetimes += count
        names = [self._lifetime(i) for i in range(count, 0, -1)]
        return f"for<{', '.join(names)}> "

    def _type(self) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _FailedError
        start = self._at
        tag = self._next()
        lifetimes = self._lifetimes
        match tag:
            case _ if tag in _BASIC:
                found = _BASIC[tag]
            case "A":
                found = f"[{self._type()}; {self._const()}]"
            case "S":
                found = f"[{self._type()}]"
            case "T":
                parts = self._until_end(self._type)
                found = f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
            case "R" | "Q":
                life = self._base_62() if self._took("L") else 0
                name = self._lifetime(life) + " " if life else ""
                found = f"&{name}{'mut ' if tag == 'Q' else ''}{self._type()}"
            case "P" | "O":
                found = f"*{'const' if tag == 'P' else 'mut'} {self._type()}"
            case "F":
                found = self._function()
            case "D":
                binder = self._binder()
                bounds = " + ".join(self._until_end(self._bound))
                self._lifetimes = lifetimes
                if not self._took("L"):
                    raise _FailedError
                life = self._base_62()
                found = f"dyn {binder}{bounds}{' + ' + self._lifetime(life) if life else ''}"
            case "B":
                found = self._again(start, False, "type")
            case _:
                self._at = start
                found = self._path(False)
        self._lifetimes = lifetimes
        self._depth -= 1
        return self._made(found)

    def _function(self) -> str:
        binder = self._binder()
        unsafe = "unsafe " if self._took("U") else ""
        abi = ""
        if self._took("K"):
            name = "C" if self._took("C") else self._identifier().replace("_", "-")
            abi = f'extern "{name}" '
        arguments = ", ".join(self._until_end(self._type))
        result = self._type()
        return f"{binder}{unsafe}{abi}fn({arguments}){'' if result == '()' else ' -> ' + result}"

    def _bound(self) -> str:
        found = self._path(False)
        while self._took("p"):
            name = self._identifier()
            value = f"{name} = {self._type()}"
            found = f"{found[:-1]}, {value}>" if found.endswith(">") else f"{found}<{value}>"
        return self._made(found)

    def _const(self) -> str:
        start = self._at
        kind = self._next()
        if kind == "p":
            return "_"
        if kind == "B":
            return self._again(start, False, "const")
        if kind not in "bcashtlmxynoij":
            raise _FailedError
        sign = "-" if self._took("n") else ""
        digits = ""
        while (digit := self._next()) != "_":
            digits += digit
        value = int(digits or "0", 16)
        if kind == "b":
            return "true" if value else "false"
        if kind == "c":
            return repr(chr(value))
        return f"{sign}{value}"
