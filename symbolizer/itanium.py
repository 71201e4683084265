"""Mangled names of C++: the Itanium C++ ABI, chapter 5.1 (Mangling).

Written to be safe on names that are made to harm: substitutions can make a short name expand without
end, so the depth of the parse, the nodes and the characters made for one name are all bounded. What
goes beyond that, or is not understood, stays mangled.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_MAX_DEPTH = 80
_MAX_NODES = 20_000
_MAX_WORK = 100_000

_BUILTIN = {
    "v": "void", "w": "wchar_t", "b": "bool", "c": "char", "a": "signed char", "h": "unsigned char",
    "s": "short", "t": "unsigned short", "i": "int", "j": "unsigned int", "l": "long", "m": "unsigned long",
    "x": "long long", "y": "unsigned long long", "n": "__int128", "o": "unsigned __int128", "f": "float",
    "d": "double", "e": "long double", "g": "__float128", "z": "...",
}  # fmt: skip
_BUILTIN_D = {
    "d": "decimal64", "e": "decimal128", "f": "decimal32", "h": "half", "i": "char32_t", "s": "char16_t",
    "u": "char8_t", "a": "auto", "c": "decltype(auto)", "n": "decltype(nullptr)",
}  # fmt: skip
_STANDARD = {
    "t": "std", "a": "std::allocator", "b": "std::basic_string",
    "s": "std::string", "i": "std::istream", "o": "std::ostream", "d": "std::iostream",
}  # fmt: skip
_STANDARD_BASE = {"s": "basic_string", "i": "basic_istream", "o": "basic_ostream", "d": "basic_iostream"}
_OPERATORS = {
    "nw": "new", "na": "new[]", "dl": "delete", "da": "delete[]", "ps": "+", "ng": "-", "ad": "&", "de": "*",
    "co": "~", "pl": "+", "mi": "-", "ml": "*", "dv": "/", "rm": "%", "an": "&", "or": "|", "eo": "^",
    "aS": "=", "pL": "+=", "mI": "-=", "mL": "*=", "dV": "/=", "rM": "%=", "aN": "&=", "oR": "|=",
    "eO": "^=", "ls": "<<", "rs": ">>", "lS": "<<=", "rS": ">>=", "eq": "==", "ne": "!=", "lt": "<",
    "gt": ">", "le": "<=", "ge": ">=", "ss": "<=>", "nt": "!", "aa": "&&", "oo": "||", "pp": "++",
    "mm": "--", "cm": ",", "pm": "->*", "pt": "->", "cl": "()", "ix": "[]", "qu": "?", "aw": "co_await",
}  # fmt: skip
_UNARY = {"ps", "ng", "ad", "de", "co", "nt"}
_SPECIAL = {
    "TV": "vtable for ", "TT": "VTT for ", "TI": "typeinfo for ", "TS": "typeinfo name for ",
    "GV": "guard variable for ", "TW": "TLS wrapper function for ", "TH": "TLS init function for ",
}  # fmt: skip
_SUFFIX = {"u": "u", "l": "l", "m": "ul", "x": "ll", "y": "ull", "j": "u", "i": ""}
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
    clones = _CLONE.findall(dot + appended)
    if "".join(clones) != dot + appended:
        return None
    try:
        parser = _Parser(mangled, return_type)
        parser.at = 2
        found = parser.encoding()
        if parser.at != len(mangled):
            return None
        text = found.text()
    except (_FailedError, IndexError, ValueError, OverflowError, RecursionError):
        return None
    return text + "".join(f" [clone {clone}]" for clone in clones)


class _FailedError(Exception):
    pass


class _Node:
    """A piece of a declaration: `left` and `right` surround the declarator, as in "int (*" ")(char)"."""

    __slots__ = ("left", "right", "kind", "base", "items")

    def __init__(
        self, left: str, right: str = "", kind: str = "", base: str = "", items: list[_Node] | None = None
    ) -> None:
        self.left, self.right, self.kind = left, right, kind
        self.base = base  # the last name, without template arguments: what a constructor is called
        self.items = items  # of a pack of template arguments

    def text(self) -> str:
        return self.left + self.right


class _Parser:
    def __init__(self, mangled: str, return_type: bool) -> None:
        self.s = mangled
        self.at = 0
        self.return_type = return_type
        self.depth = 0
        self.nodes = 0
        self.work = 0
        self.subs: list[_Node] = []
        self.parameters_of_subs: dict[int, str] = {}
        self.args: list[_Node] = []
        self.last_name = ""
        self.in_lambda = 0
        self.pack: int | None = None
        self.pack_size: int | None = None
        self.forward: list[int] = []

    # Making and reading

    def made(
        self, left: str, right: str = "", kind: str = "", base: str = "", items: list[_Node] | None = None
    ) -> _Node:
        self.nodes += 1
        self.work += len(left) + len(right)
        if self.nodes > _MAX_NODES or self.work > _MAX_WORK:
            raise _FailedError
        return _Node(left, right, kind, base, items)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _FailedError

    def peek(self, n: int = 1) -> str:
        return self.s[self.at : self.at + n]

    def took(self, text: str) -> bool:
        if not self.s.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def need(self, text: str) -> None:
        if not self.took(text):
            raise _FailedError

    def number(self) -> int:
        start = self.at
        while self.peek().isdigit():
            self.at += 1
        if self.at == start or self.at - start > 9:
            raise _FailedError
        return int(self.s[start : self.at])

    def sequence(self) -> int:
        """A base-36 number and "_": "_" is 0, "0_" is 1."""
        start = self.at
        while self.peek() not in ("_", ""):
            self.at += 1
        digits = self.s[start : self.at]
        self.need("_")
        return int(digits, 36) + 1 if digits else 0

    def decimal_sequence(self) -> int:
        if self.took("_"):
            return 0
        value = self.number() + 1
        self.need("_")
        return value

    # Declarations

    def encoding(self) -> _Node:
        self.deeper()
        try:
            return self.special() or self.function()
        finally:
            self.depth -= 1

    def special(self) -> _Node | None:
        two = self.peek(2)
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

    def function(self) -> _Node:
        self.forward = []
        name, quals, is_template, has_no_return = self.name()
        if self.forward:  # a conversion to a type that only the arguments after it tell
            name = self.made(self.filled(name.left), base=self.filled(name.base))
        self.last_name = name.text()
        if self.at >= len(self.s) or self.peek() in ("E", "."):
            return self.made(name.text() + quals)
        if self.took("Ua9enable_if"):
            raise _FailedError
        result = self.type() if is_template and not has_no_return else None
        parameters = self.parameters()
        text = f"{name.text()}({parameters}){quals}"
        if result is not None and self.return_type:
            space = "" if result.left.endswith(("(", "*", "&")) and result.right else " "
            return self.made(f"{result.left}{space}{text}{result.right}", base=name.base)
        return self.made(text, base=name.base)

    def filled(self, text: str) -> str:
        for i, index in enumerate(self.forward):
            text = text.replace(f"\0{i}\0", self.args[index].text())
        self.made(text)
        return text

    def parameters(self) -> str:
        found = []
        while self.at < len(self.s) and self.peek() not in ("E", "."):
            if self.peek(2) in ("RE", "OE"):
                break
            found.append(self.type())
        if len(found) == 1 and found[0].text() == "void":
            return ""
        return ", ".join(text for node in found if (text := node.text()) or node.kind != "pack")

    # Names: (node, qualifiers of the member function, whether it ends in template arguments,
    # whether it is one that tells no return type)

    def name(self) -> tuple[_Node, str, bool, bool]:
        if self.peek() == "N":
            return self.nested()
        if self.peek() == "Z":
            return self.local()
        if self.peek() == "S" and self.peek(2) != "St":
            node = self.substitution()
            if self.peek() != "I":
                raise _FailedError
            return self.templated(node), "", True, False
        node, untold = self.unscoped()
        if self.peek() == "I":
            self.remember(node)
            return self.templated(node), "", True, untold
        return node, "", False, untold

    def unscoped(self) -> tuple[_Node, bool]:
        if self.took("St"):
            self.took("L")
            node, untold = self.unqualified("std")
            return self.made("std::" + node.left, base=node.base), untold
        return self.unqualified("")

    def nested(self) -> tuple[_Node, str, bool, bool]:
        self.need("N")
        quals = self.qualifiers()
        quals += " &" if self.took("R") else " &&" if self.took("O") else ""
        node: _Node | None = None
        is_template = untold = False
        while not self.took("E"):
            here = self.peek()
            if here == "I":
                if node is None or is_template:
                    raise _FailedError
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
            raise _FailedError
        self.subs.pop()
        return node, quals, is_template, untold

    def local(self) -> tuple[_Node, str, bool, bool]:
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

    def unqualified(self, scope: str) -> tuple[_Node, bool]:
        self.took("L")
        here, two = self.peek(), self.peek(2)
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
            name = _STANDARD_BASE.get(scope, scope)
            node, untold = self.made(("~" if here == "D" else "") + name, base=name), True
        elif two in ("Ut", "Ul"):
            node = self.unnamed()
        else:
            node, untold = self.operator()
        while self.took("B"):
            tag = self.source_name().left
            node = self.made(f"{node.left}[abi:{tag}]", base=node.base)
        return node, untold

    def source_name(self) -> _Node:
        length = self.number()
        name = self.s[self.at : self.at + length]
        if len(name) < length or not length:
            raise _FailedError
        self.at += length
        if re.match(r"_GLOBAL_[._$]N", name):
            name = "(anonymous namespace)"
        return self.made(name, base=name)

    def unnamed(self) -> _Node:
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

    def operator(self) -> tuple[_Node, bool]:
        two = self.peek(2)
        if two == "cv":
            self.at += 2
            text = "operator " + self.type().text()
            return self.made(text, base=text), True
        if two == "li":
            self.at += 2
            name = 'operator"" ' + self.source_name().left
        elif two in _OPERATORS:
            self.at += 2
            word = _OPERATORS[two]
            name = "operator" + (" " if word[0].isalpha() else "") + word
        else:
            raise _FailedError
        return self.made(name, base=name), False

    # Templates

    def templated(self, node: _Node) -> _Node:
        self.args = arguments = self.template_arguments()
        space = " " if node.left.endswith("<") else ""
        return self.made(f"{node.text()}{space}<{_listed(arguments)}>", base=node.base)

    def template_arguments(self) -> list[_Node]:
        self.need("I")
        before = self.args
        found = []
        while not self.took("E"):
            found.append(self.template_argument())
            self.args = before
        return found

    def template_argument(self) -> _Node:
        self.deeper()
        try:
            if self.took("X"):
                node = self.expression()
                self.need("E")
                return node
            if self.peek() == "L":
                return self.literal()
            if self.took("J"):
                items = []
                before = self.args
                while not self.took("E"):
                    items.append(self.template_argument())
                    self.args = before
                return self.made(_listed(items), kind="pack", items=items)
            return self.type()
        finally:
            self.depth -= 1

    def template_parameter(self) -> _Node:
        self.need("T")
        index = self.sequence()
        if self.in_lambda:
            return self.made(f"auto:{index + 1}")
        node = self.argument(index)
        if node is None:
            node = self.made(f"\0{len(self.forward)}\0")
            self.forward.append(index)
        return node

    def argument(self, index: int) -> _Node | None:
        if index >= len(self.args):
            return None
        node = self.args[index]
        if node.items is not None and self.pack is not None:
            self.pack_size = len(node.items)
            return node.items[self.pack] if self.pack < len(node.items) else self.made("", kind="pack")
        return node

    def substitution(self) -> _Node:
        self.need("S")
        here = self.peek()
        if here in _STANDARD and here:
            self.at += 1
            name = _STANDARD[here]
            node = self.made(name, base=here if here in _STANDARD_BASE else name.rpartition(":")[2])
            if self.peek() == "B":
                while self.took("B"):
                    node = self.made(f"{node.left}[abi:{self.source_name().left}]", base=node.base)
                self.remember(node)
            return node
        index = self.sequence()
        found = self.subs[index]
        parameter = self.parameters_of_subs.get(index)
        if parameter is None or self.in_lambda:
            return found
        # "T_" is the same component wherever it stands, but means what it means here.
        position = int(parameter[:-1], 36) + 1 if parameter[:-1] else 0
        return self.argument(position) or found

    def remember(self, node: _Node, parameter: str = "") -> None:
        """Makes the node the next that a substitution can mean."""
        self.parameters_of_subs.pop(len(self.subs), None)
        if parameter:
            self.parameters_of_subs[len(self.subs)] = parameter
        self.subs.append(node)

    # Types

    def qualifiers(self) -> str:
        found = ""
        for letter, word in (("r", " __restrict"), ("V", " volatile"), ("K", " const")):
            if self.took(letter):
                found = word + found
        return found

    def type(self) -> _Node:
        self.deeper()
        try:
            return self._type()
        finally:
            self.depth -= 1

    def _type(self) -> _Node:
        here, two = self.peek(), self.peek(2)
        parameter = ""  # which template parameter this is, if just one
        if here in _BUILTIN and here:
            self.at += 1
            return self.made(_BUILTIN[here])
        if here == "D" and two[1:] in _BUILTIN_D and len(two) == 2:
            self.at += 2
            node = self.made(_BUILTIN_D[two[1]])
            return node
        if here == "u":
            self.at += 1
            node = self.source_name()
        elif here and here in "rVK":
            quals = self.qualifiers()
            inner = self.type()
            node = self.qualified(inner, quals)
        elif here and here in "PRO":
            self.at += 1
            node = self.pointer(self.type(), {"P": "*", "R": "&", "O": "&&"}[here])
        elif here and here in "CG":
            self.at += 1
            inner = self.type()
            node = self.made(inner.text() + (" _Complex" if here == "C" else " _Imaginary"))
        elif here == "F" or two in ("Do", "DO", "Dw", "Dx"):
            node = self.function_type()
        elif here == "A":
            node = self.array()
        elif here == "M":
            self.at += 1
            owner, member = self.type(), self.type()
            if member.kind in ("function", "array"):
                node = self.made(f"{member.left}({owner.text()}::*", ")" + member.right)
            else:
                node = self.made(f"{member.left} {owner.text()}::*", member.right)
        elif here == "T" and two not in ("Ts", "Tu", "Te"):
            start = self.at
            node = self.template_parameter()
            parameter = self.s[start + 1 : self.at] if not self.in_lambda else ""
            if self.peek() == "I" and not self.in_lambda:
                self.remember(node)
                node, parameter = self.templated_type(node), ""
        elif here == "S" and two != "St":
            node = self.substitution()
            if self.peek() != "I":
                return node
            node = self.templated_type(node)
        elif here == "U":
            node = self.vendor()
        elif two == "Dp":
            self.at += 2
            node = self.expansion()
        elif two in ("Dt", "DT"):
            node = self.decltype()
        elif two == "Dv":
            self.at += 2
            size = str(self.number()) if self.peek().isdigit() else self.bracketed_expression()
            self.need("_")
            node = self.made(f"{self.type().text()} __vector({size})")
        elif two == "DF":
            self.at += 2
            node = self.made(f"_Float{self.number()}{'x' if self.took('x') else ''}")
            self.took("_")
        else:
            if two in ("Ts", "Tu", "Te"):
                self.at += 2
            before = self.args
            node = self.name()[0]
            self.args = before
        self.remember(node, parameter)
        return node

    def templated_type(self, node: _Node) -> _Node:
        before = self.args
        node = self.templated(node)
        self.args = before
        return node

    def bracketed_expression(self) -> str:
        self.need("_")
        return self.expression().text()

    def qualified(self, inner: _Node, quals: str) -> _Node:
        if inner.kind == "function":
            return self.made(inner.left, inner.right + quals, "function")
        if inner.left.endswith(quals):  # a template argument that is const already
            return self.made(inner.left, inner.right, inner.kind)
        if inner.kind == "pack":
            return self.made(inner.left + quals if inner.left else "", kind="pack")
        if inner.kind == "array":
            return self.made(inner.left + quals, inner.right, "array")
        return self.made(inner.left + quals, inner.right)

    def pointer(self, inner: _Node, mark: str) -> _Node:
        if inner.kind == "function":
            return self.made(inner.left + "(" + mark, ")" + inner.right)
        if inner.kind == "array":
            return self.made(inner.left + " (" + mark, ")" + inner.right)
        if inner.kind == "pack" and not inner.left:
            return inner
        if mark != "*" and inner.left.endswith("&"):  # references to references collapse
            short = inner.left.removesuffix("&&").removesuffix("&")
            both = mark == "&&" and inner.left.endswith("&&")
            return self.made(short + ("&&" if both else "&"), inner.right)
        return self.made(inner.left + mark, inner.right)

    def function_type(self) -> _Node:
        noexcept = ""
        if self.took("Do"):
            noexcept = " noexcept"
        elif self.took("Dx"):
            noexcept = " transaction_safe"
        elif self.peek() == "D":
            raise _FailedError
        self.need("F")
        self.took("Y")
        result = self.type()
        parameters = self.parameters()
        reference = " &" if self.took("R") else " &&" if self.took("O") else ""
        self.need("E")
        space = "" if result.right.startswith(")") else " "
        return self.made(f"{result.left}{space}", f"({parameters}){result.right}{reference}{noexcept}", "function")

    def array(self) -> _Node:
        self.need("A")
        if self.took("_"):
            size = ""
        elif self.peek().isdigit():
            size = str(self.number())
            self.need("_")
        else:
            size = self.expression().text()
            self.need("_")
        inner = self.type()
        if inner.kind == "array":
            return self.made(inner.left, f" [{size}]{inner.right.lstrip()}", "array")
        return self.made(inner.left, f" [{size}]{inner.right}", "array")

    def vendor(self) -> _Node:
        self.need("U")
        if self.peek() in "tl":
            self.at -= 1
            return self.unnamed()
        name = self.source_name().left
        if self.peek() == "I":
            name += f"<{_listed(self.template_arguments())}>"
        return self.made(f"{self.type().text()} {name}")

    def expansion(self) -> _Node:
        """A pattern once for each item of the pack that is in it."""
        if self.pack is not None or self.in_lambda:
            inner = self.type()
            return self.made(inner.left + "...", inner.right) if self.in_lambda else inner
        return self.expanded(self.type)

    def expanded(self, pattern: Callable[[], _Node]) -> _Node:
        start, subs = self.at, len(self.subs)
        self.pack, self.pack_size = 0, None
        items = [pattern()]
        size = self.pack_size
        end, kept = self.at, self.subs[subs:]
        if size is None:
            self.pack = None
            return self.made(items[0].left + "...", items[0].right)
        if size == 0:
            items = []
        for i in range(1, size):
            self.at, self.pack = start, i
            self.work += 16
            del self.subs[subs:]
            items.append(pattern())
        self.at, self.pack = end, None
        self.subs[subs:] = kept
        return self.made(_listed(items), kind="pack", items=items)

    def decltype(self) -> _Node:
        self.at += 2
        inner = self.expression()
        self.need("E")
        return self.made(f"decltype ({inner.text()})")

    # Expressions

    def literal(self) -> _Node:
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

    def expression(self) -> _Node:
        self.deeper()
        try:
            return self._expression()
        finally:
            self.depth -= 1

    def _expression(self) -> _Node:
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
            return self.made(f"{_parenthesized(called)}({self.expressions()})")
        if two == "cv":
            type_ = self.type()
            if self.took("_"):
                return self.made(f"({type_.text()})({self.expressions()})")
            return self.made(f"({type_.text()}){_parenthesized(self.expression())}")
        if two in ("tl", "il"):
            type_text = self.type().text() if two == "tl" else ""
            return self.made(f"{type_text}{{{self.expressions()}}}")
        if two in ("sc", "dc", "rc", "cc"):
            word = {"s": "static", "d": "dynamic", "r": "reinterpret", "c": "const"}[two[0]]
            return self.made(f"{word}_cast<{self.type().text()}>({self.expression().text()})")
        if two in ("dt", "pt"):
            left = self.expression()
            return self.made(f"{_parenthesized(left)}{'.' if two == 'dt' else '->'}{self.member().text()}")
        if two == "qu":
            parts = [_parenthesized(self.expression()) for _ in range(3)]
            return self.made(f"{parts[0]} ? {parts[1]} : {parts[2]}")
        if two == "ix":
            left = self.expression()
            return self.made(f"{_parenthesized(left)}[{self.expression().text()}]")
        if two in ("pp", "mm"):
            prefix = self.took("_")
            stepped = _parenthesized(self.expression())
            return self.made(_OPERATORS[two] + stepped if prefix else stepped + _OPERATORS[two])
        if two in _UNARY:
            inner_node = self.expression()
            bare = two == "ad" and inner_node.kind == "name"
            return self.made(_OPERATORS[two] + (inner_node.text() if bare else _parenthesized(inner_node)))
        if two in _OPERATORS and not _OPERATORS[two][0].isalpha():
            left, right = self.expression(), self.expression()
            made = f"{_parenthesized(left)}{_OPERATORS[two]}{_parenthesized(right)}"
            return self.made(f"({made})" if two == "gt" else made)
        raise _FailedError

    def expressions(self) -> str:
        found = []
        while not self.took("E"):
            found.append(self.expression())
        return _listed(found)

    def function_parameter(self) -> _Node:
        if self.took("fL"):
            self.number()
            self.need("p")
        else:
            self.need("fp")
        if self.took("T"):
            return self.made("this")
        self.qualifiers()
        return self.made(f"{{parm#{self.decimal_sequence() + 1}}}")

    def simple_name(self) -> _Node:
        node = self.operator()[0] if self.took("on") else self.source_name()
        if self.peek() == "I":
            node = self.made(f"{node.text()}<{_listed(self.template_arguments())}>")
        return node

    def member(self) -> _Node:
        if self.peek().isdigit() or self.peek(2) == "on":
            return self.simple_name()
        return self.expression()

    def scoped_name(self) -> _Node:
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


def _listed(nodes: list[_Node]) -> str:
    return ", ".join(text for node in nodes if (text := node.text()) or node.kind != "pack")


def _parenthesized(node: _Node) -> str:
    return f"({node.text()})"
