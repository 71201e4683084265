"""Mangled names of C++: the Itanium C++ ABI, chapter 5.1 (Mangling).

Written to be safe on names that are made to harm: substitutions can make a short name expand without
end, so the depth of the parse, the nodes and the characters made for one name are all bounded. What
goes beyond that, or is not understood, stays mangled.
"""

from __future__ import annotations

import re

from symbolizer.naming.itanium_expressions import OPERATORS, Expressions
from symbolizer.naming.itanium_reader import FailedError, Node
from symbolizer.naming.itanium_types import STANDARD_BASE

_SPECIAL = {
    "TV": "vtable for ", "TT": "VTT for ", "TI": "typeinfo for ", "TS": "typeinfo name for ",
    "GV": "guard variable for ", "TW": "TLS wrapper function for ", "TH": "TLS init function for ",
}  # fmt: skip
_CLONE = re.compile(r"\.[A-Za-z_][\w$]*(?:\.\d+)*|\.\d+")


def demangle_cpp(symbol: str, *, return_type: bool = False) -> str | None:
    """The declaration that a mangled name stands for, or None where it is none or not understood.

    Parameters and template arguments are told. So is the type that a template function returns, but
    only with `return_type`: it would come first and hide the name. What a compiler appended to the
    name of a clone follows as " [clone .cold]".
    """
    if not symbol.startswith("_Z"):
        return None
    mangled, dot, appended = symbol.partition(".")
    clones = _CLONE.findall(dot + appended) if dot else []
    if "".join(clones) != dot + appended:
        return None
    try:
        parser = _Parser(mangled, return_type)
        parser.at = 2
        found = parser.encoding()
        if parser.at != len(mangled):
            return None
        text = found.text()
    except (FailedError, IndexError, ValueError, OverflowError, RecursionError):
        return None
    return text + "".join(f" [clone {clone}]" for clone in clones)


class _Parser(Expressions):
    """The whole grammar: the rules of declarations and names, and those of types and expressions."""

    # Declarations

    def encoding(self) -> Node:
        self.deeper()
        try:
            return self.special() or self.function()
        finally:
            self.depth -= 1

    def special(self) -> Node | None:
        two = self.peek(2)
        if two[:1] not in ("T", "G"):
            return None
        if two in _SPECIAL:
            self.at += 2
            inner = self.name()[0] if two in ("GV", "TW", "TH") else self.type()
            return self.made(_SPECIAL[two] + inner.text())
        if two == "GR":
            self.at += 2
            inner = self.name()[0]
            if self.at < len(self.s) and self.peek() != "E":
                self.sequence()
            return self.made("reference temporary for " + inner.text())
        if two in ("Th", "Tv"):
            self.at += 1
            what = "non-virtual thunk to " if two == "Th" else "virtual thunk to "
            self.call_offset()
            return self.made(what + self.encoding().text())
        if two == "Tc":
            self.at += 2
            self.call_offset()
            self.call_offset()
            return self.made("covariant return thunk to " + self.encoding().text())
        if two == "TC":
            self.at += 2
            derived = self.type()
            self.number()
            self.need("_")
            return self.made(f"construction vtable for {self.type().text()}-in-{derived.text()}")
        if two == "GT" and self.peek(3) in ("GTt", "GTn"):
            self.at += 3
            return self.made("transaction clone for " + self.encoding().text())
        return None

    def call_offset(self) -> None:
        kind = self.peek()
        self.at += 1
        for _ in range({"h": 1, "v": 2}[kind] if kind in "hv" and kind else 0):
            self.took("n")
            self.number()
            self.need("_")

    def function(self) -> Node:
        self.forward = []
        name, quals, is_template, has_no_return = self.name()
        if self.forward:  # a conversion to a type that only the arguments after it tell
            name = self.made(self.filled(name.left), base=self.filled(name.base))
        self.last_name = function = name.text()
        if self.at >= len(self.s) or self.peek() in ("E", "."):
            return self.made(function + quals)
        if self.took("Ua9enable_if"):
            raise FailedError
        result = self.type() if is_template and not has_no_return else None
        parameters = self.parameters()
        text = f"{function}({parameters}){quals}"
        if result is not None and self.return_type:
            space = "" if result.left.endswith(("(", "*", "&")) and result.right else " "
            return self.made(f"{result.left}{space}{text}{result.right}", base=name.base)
        return self.made(text, base=name.base)

    def filled(self, text: str) -> str:
        for i, index in enumerate(self.forward):
            place, argument = f"\0{i}\0", self.args[index].text()
            self.affordable(len(text) + text.count(place) * len(argument))
            text = text.replace(place, argument)
        self.made(text)
        return text

    # Names: (node, qualifiers of the member function, whether it ends in template arguments,
    # whether it is one that tells no return type)

    def name(self) -> tuple[Node, str, bool, bool]:
        if self.peek() == "N":
            return self.nested()
        if self.peek() == "Z":
            return self.local()
        if self.peek() == "S" and self.peek(2) != "St":
            node = self.substitution()
            if self.peek() != "I":
                raise FailedError
            return self.templated(node), "", True, False
        node, untold = self.unscoped()
        if self.peek() == "I":
            self.remember(node)
            return self.templated(node), "", True, untold
        return node, "", False, untold

    def unscoped(self) -> tuple[Node, bool]:
        if self.took("St"):
            self.took("L")
            node, untold = self.unqualified("std")
            return self.made("std::" + node.left, base=node.base), untold
        return self.unqualified("")

    def nested(self) -> tuple[Node, str, bool, bool]:
        self.need("N")
        quals = self.qualifiers()
        if (here := self.peek()) in ("R", "O"):
            self.at += 1
            quals += " &" if here == "R" else " &&"
        node: Node | None = None
        is_template = untold = False
        while not self.took("E"):
            here = self.peek()
            if here == "I":
                if node is None or is_template:
                    raise FailedError
                node, is_template = self.templated(node), True
                self.remember(node)
                continue
            is_template = False
            if here == "S" and node is None:
                node = self.made("std", base="std") if self.took("St") else self.substitution()
                continue
            if here == "T" and node is None:
                node = self.template_parameter()
            elif here == "D" and self.peek(2) in ("Dt", "DT") and node is None:
                node = self.decltype()
            elif here == "M" and node is not None:
                self.at += 1
                continue
            else:
                part, untold = self.unqualified(node.base if node else "")
                node = self.made(f"{node.text()}::{part.left}" if node else part.left, base=part.base)
            self.remember(node)
        if node is None or not self.subs:
            raise FailedError
        self.subs.pop()
        return node, quals, is_template, untold

    def local(self) -> tuple[Node, str, bool, bool]:
        self.need("Z")
        outer_args = self.args
        scope = self.encoding()
        self.need("E")
        if self.took("s"):
            self.discriminator()
            return self.made(scope.text() + "::string literal"), "", False, False
        default = ""
        if self.took("d"):
            number = self.decimal_sequence()
            default = f"{{default arg#{number + 1}}}::"
        self.args = self.args or outer_args
        node, quals, is_template, untold = self.name()
        self.discriminator()
        return self.made(f"{scope.text()}::{default}{node.text()}", base=node.base), quals, is_template, untold

    def discriminator(self) -> None:
        if self.took("__"):
            self.number()
            self.need("_")
        elif self.peek() == "_" and self.peek(2)[1:].isdigit():
            self.at += 2

    def unqualified(self, scope: str) -> tuple[Node, bool]:
        here = self.peek()
        if here == "L":
            self.at += 1
            here = self.peek()
        two = self.peek(2)
        untold = False
        if here.isdigit():
            node = self.source_name()
        elif two == "DC":
            self.at += 2
            names = []
            while not self.took("E"):
                names.append(self.source_name().left)
            node = self.made(f"[{', '.join(names)}]")
        elif here in "CD" and here and two[1:] in tuple("012345I"):
            self.at += 2
            if two[1:] == "I":
                self.at += 1
                self.type()
            name = STANDARD_BASE.get(scope, scope)
            node, untold = self.made(("~" if here == "D" else "") + name, base=name), True
        elif two in ("Ut", "Ul"):
            node = self.unnamed()
        else:
            node, untold = self.operator()
        while self.took("B"):
            tag = self.source_name().left
            node = self.made(f"{node.left}[abi:{tag}]", base=node.base)
        return node, untold

    def unnamed(self) -> Node:
        if self.took("Ut"):
            name = f"{{unnamed type#{self.decimal_sequence() + 1}}}"
            return self.made(name, base=name)
        self.need("Ul")
        self.in_lambda += 1
        parameters = self.parameters()
        self.in_lambda -= 1
        self.need("E")
        name = f"{{lambda({parameters})#{self.decimal_sequence() + 1}}}"
        return self.made(name, base=name)

    def operator(self) -> tuple[Node, bool]:
        two = self.peek(2)
        if two == "cv":
            self.at += 2
            text = "operator " + self.type().text()
            return self.made(text, base=text), True
        if two == "li":
            self.at += 2
            name = 'operator"" ' + self.source_name().left
        elif two in OPERATORS:
            self.at += 2
            word = OPERATORS[two]
            name = "operator" + (" " if word[0].isalpha() else "") + word
        else:
            raise FailedError
        return self.made(name, base=name), False
