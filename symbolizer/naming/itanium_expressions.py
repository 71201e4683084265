"""Expressions in C++ names, as template arguments and decltype have them (Itanium C++ ABI, chapter 5.1)."""

from __future__ import annotations

from symbolizer.naming.itanium_reader import FailedError, Node
from symbolizer.naming.itanium_types import Types

OPERATORS = {
    "nw": "new", "na": "new[]", "dl": "delete", "da": "delete[]", "ps": "+", "ng": "-", "ad": "&", "de": "*",
    "co": "~", "pl": "+", "mi": "-", "ml": "*", "dv": "/", "rm": "%", "an": "&", "or": "|", "eo": "^",
    "aS": "=", "pL": "+=", "mI": "-=", "mL": "*=", "dV": "/=", "rM": "%=", "aN": "&=", "oR": "|=",
    "eO": "^=", "ls": "<<", "rs": ">>", "lS": "<<=", "rS": ">>=", "eq": "==", "ne": "!=", "lt": "<",
    "gt": ">", "le": "<=", "ge": ">=", "ss": "<=>", "nt": "!", "aa": "&&", "oo": "||", "pp": "++",
    "mm": "--", "cm": ",", "pm": "->*", "pt": "->", "cl": "()", "ix": "[]", "qu": "?", "aw": "co_await",
}  # fmt: skip
_UNARY = {"ps", "ng", "ad", "de", "co", "nt"}
_SUFFIX = {"u": "u", "l": "l", "m": "ul", "x": "ll", "y": "ull", "j": "u", "i": ""}


class Expressions(Types):
    """The rules of expressions, literals among them."""

    def literal(self) -> Node:
        self.need("L")
        if self.took("_Z") or self.took("Z"):
            before = self.args
            self.encoding()
            self.args = before
            self.need("E")
            return self.made(self.last_name, kind="name")
        kind = self.peek()
        type_ = self.type()
        start = self.at
        while self.peek() not in ("E", ""):
            self.at += 1
        value = self.s[start : self.at]
        self.need("E")
        if value.startswith("n"):
            value = "-" + value[1:]
        if kind == "b" and value in ("0", "1"):
            return self.made("true" if value == "1" else "false")
        if kind in _SUFFIX and kind:
            return self.made(value + _SUFFIX[kind])
        return self.made(f"({type_.text()}){value}" if value else f"({type_.text()})0")

    def expression(self) -> Node:
        self.deeper()
        try:
            return self._expression()
        finally:
            self.depth -= 1

    def _expression(self) -> Node:
        here, two = self.peek(), self.peek(2)
        if here == "L":
            return self.literal()
        if here == "T":
            return self.template_parameter()
        if here == "f" and two in ("fp", "fL"):
            return self.function_parameter()
        if here.isdigit() or two == "on":
            return self.simple_name()
        self.at += 2
        if two in ("st", "at"):
            return self.made(f"{'sizeof' if two == 'st' else 'alignof'} ({self.type().text()})")
        if two in ("sz", "az"):
            return self.made(f"{'sizeof' if two == 'sz' else 'alignof'} ({self.expression().text()})")
        if two == "sZ":
            inner = self.template_parameter() if self.peek() == "T" else self.function_parameter()
            if inner.items is not None:
                return self.made(str(len(inner.items)))
            return self.made(f"sizeof...({inner.text()})")
        if two == "sp":
            if self.pack is not None:
                return self.expression()
            return self.expanded(self.expression)
        if two == "nx":
            return self.made(f"noexcept ({self.expression().text()})")
        if two == "sr":
            return self.scoped_name()
        if two == "cl":
            called = self.expression()
            return self.made(f"{parenthesized(called)}({self.expressions()})")
        if two == "cv":
            type_ = self.type()
            if self.took("_"):
                return self.made(f"({type_.text()})({self.expressions()})")
            return self.made(f"({type_.text()}){parenthesized(self.expression())}")
        if two in ("tl", "il"):
            type_text = self.type().text() if two == "tl" else ""
            return self.made(f"{type_text}{{{self.expressions()}}}")
        if two in ("sc", "dc", "rc", "cc"):
            word = {"s": "static", "d": "dynamic", "r": "reinterpret", "c": "const"}[two[0]]
            return self.made(f"{word}_cast<{self.type().text()}>({self.expression().text()})")
        if two in ("dt", "pt"):
            left = self.expression()
            return self.made(f"{parenthesized(left)}{'.' if two == 'dt' else '->'}{self.member().text()}")
        if two == "qu":
            parts = [parenthesized(self.expression()) for _ in range(3)]
            return self.made(f"{parts[0]} ? {parts[1]} : {parts[2]}")
        if two == "ix":
            left = self.expression()
            return self.made(f"{parenthesized(left)}[{self.expression().text()}]")
        if two in ("pp", "mm"):
            prefix = self.took("_")
            stepped = parenthesized(self.expression())
            return self.made(OPERATORS[two] + stepped if prefix else stepped + OPERATORS[two])
        if two in _UNARY:
            inner_node = self.expression()
            bare = two == "ad" and inner_node.kind == "name"
            return self.made(OPERATORS[two] + (inner_node.text() if bare else parenthesized(inner_node)))
        if two in OPERATORS and not OPERATORS[two][0].isalpha():
            left, right = self.expression(), self.expression()
            made = f"{parenthesized(left)}{OPERATORS[two]}{parenthesized(right)}"
            return self.made(f"({made})" if two == "gt" else made)
        raise FailedError

    def expressions(self) -> str:
        found = []
        while not self.took("E"):
            found.append(self.expression())
        return self.listed(found)

    def function_parameter(self) -> Node:
        if self.took("fL"):
            self.number()
            self.need("p")
        else:
            self.need("fp")
        if self.took("T"):
            return self.made("this")
        self.qualifiers()
        return self.made(f"{{parm#{self.decimal_sequence() + 1}}}")

    def simple_name(self) -> Node:
        node = self.operator()[0] if self.took("on") else self.source_name()
        if self.peek() == "I":
            node = self.made(f"{node.text()}<{self.listed(self.template_arguments())}>")
        return node

    def member(self) -> Node:
        if self.peek().isdigit() or self.peek(2) == "on":
            return self.simple_name()
        return self.expression()

    def scoped_name(self) -> Node:
        if self.peek().isdigit():
            scope = self.scopes()
        elif self.took("N"):
            scope = f"{self.type().text()}::{self.scopes()}"
        else:
            scope = self.type().text()
        return self.made(f"{scope}::{self.simple_name().text()}")

    def scopes(self) -> str:
        found = []
        while not self.took("E"):
            found.append(self.simple_name().text())
        return "::".join(found)


def parenthesized(node: Node) -> str:
    return f"({node.text()})"
