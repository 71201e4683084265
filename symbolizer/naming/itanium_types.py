"""Types, templates and substitutions in C++ names (Itanium C++ ABI, chapter 5.1)."""

from __future__ import annotations

from collections.abc import Callable

from symbolizer.naming.itanium_reader import FailedError, Node, Reader

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
_QUALIFIERS = frozenset("rVK")
_NAME_STARTS = frozenset("N0123456789")
_STANDARD = {
    "t": "std", "a": "std::allocator", "b": "std::basic_string",
    "s": "std::string", "i": "std::istream", "o": "std::ostream", "d": "std::iostream",
}  # fmt: skip
STANDARD_BASE = {"s": "basic_string", "i": "basic_istream", "o": "basic_ostream", "d": "basic_iostream"}


class Types(Reader):
    """The rules of types, and of template arguments and substitutions, which types are made of."""

    # Templates

    def templated(self, node: Node) -> Node:
        self.args = arguments = self.template_arguments()
        space = " " if node.left.endswith("<") else ""
        return self.made(f"{node.text()}{space}<{self.listed(arguments)}>", base=node.base)

    def template_arguments(self) -> list[Node]:
        self.need("I")
        before = self.args
        found = []
        while not self.took("E"):
            found.append(self.template_argument())
            self.args = before
        return found

    def template_argument(self) -> Node:
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
                return self.made(self.listed(items), kind="pack", items=items)
            return self.type()
        finally:
            self.depth -= 1

    def template_parameter(self) -> Node:
        self.need("T")
        index = self.sequence()
        if self.in_lambda:
            return self.made(f"auto:{index + 1}")
        node = self.argument(index)
        if node is None:
            node = self.made(f"\0{len(self.forward)}\0")
            self.forward.append(index)
        return node

    def argument(self, index: int) -> Node | None:
        if index >= len(self.args):
            return None
        node = self.args[index]
        if node.items is not None and self.pack is not None:
            self.pack_size = len(node.items)
            return node.items[self.pack] if self.pack < len(node.items) else self.made("", kind="pack")
        return node

    def expansion(self) -> Node:
        """A pattern once for each item of the pack that is in it."""
        if self.pack is not None or self.in_lambda:
            inner = self.type()
            return self.made(inner.left + "...", inner.right) if self.in_lambda else inner
        return self.expanded(self.type)

    def expanded(self, pattern: Callable[[], Node]) -> Node:
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
        return self.made(self.listed(items), kind="pack", items=items)

    # Substitutions

    def substitution(self) -> Node:
        self.need("S")
        here = self.peek()
        if here in _STANDARD and here:
            self.at += 1
            name = _STANDARD[here]
            node = self.made(name, base=here if here in STANDARD_BASE else name.rpartition(":")[2])
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

    def remember(self, node: Node, parameter: str = "") -> None:
        """Makes the node the next that a substitution can mean."""
        if self.parameters_of_subs:
            self.parameters_of_subs.pop(len(self.subs), None)
        if parameter:
            self.parameters_of_subs[len(self.subs)] = parameter
        self.subs.append(node)

    # Types

    def qualifiers(self) -> str:
        if self.peek() not in _QUALIFIERS:
            return ""
        found = ""
        for letter, word in (("r", " __restrict"), ("V", " volatile"), ("K", " const")):
            if self.took(letter):
                found = word + found
        return found

    def type(self) -> Node:
        self.deeper()
        try:
            return self._type()
        finally:
            self.depth -= 1

    def _type(self) -> Node:
        here, two = self.peek(), self.peek(2)
        parameter = ""  # which template parameter this is, if just one
        if here in _BUILTIN:
            self.at += 1
            return self.made(_BUILTIN[here])
        if here == "D" and two[1:] in _BUILTIN_D and len(two) == 2:
            self.at += 2
            node = self.made(_BUILTIN_D[two[1]])
            return node
        if here in _NAME_STARTS:
            node = self.named_type()
        elif here == "u":
            self.at += 1
            node = self.source_name()
        elif here in _QUALIFIERS:
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
            node = self.named_type()
        self.remember(node, parameter)
        return node

    def named_type(self) -> Node:
        before = self.args
        node = self.name()[0]
        self.args = before
        return node

    def templated_type(self, node: Node) -> Node:
        before = self.args
        node = self.templated(node)
        self.args = before
        return node

    def bracketed_expression(self) -> str:
        self.need("_")
        return self.expression().text()

    def qualified(self, inner: Node, quals: str) -> Node:
        if inner.kind == "function":
            return self.made(inner.left, inner.right + quals, "function")
        if inner.left.endswith(quals):  # a template argument that is const already
            return self.made(inner.left, inner.right, inner.kind)
        if inner.kind == "pack":
            return self.made(inner.left + quals if inner.left else "", kind="pack")
        if inner.kind == "array":
            return self.made(inner.left + quals, inner.right, "array")
        return self.made(inner.left + quals, inner.right)

    def pointer(self, inner: Node, mark: str) -> Node:
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

    def function_type(self) -> Node:
        noexcept = ""
        if self.took("Do"):
            noexcept = " noexcept"
        elif self.took("Dx"):
            noexcept = " transaction_safe"
        elif self.peek() == "D":
            raise FailedError
        self.need("F")
        self.took("Y")
        result = self.type()
        parameters = self.parameters()
        reference = " &" if self.took("R") else " &&" if self.took("O") else ""
        self.need("E")
        space = "" if result.right.startswith(")") else " "
        return self.made(f"{result.left}{space}", f"({parameters}){result.right}{reference}{noexcept}", "function")

    def parameters(self) -> str:
        found = []
        while self.at < len(self.s) and self.peek() not in ("E", "."):
            if self.peek(2) in ("RE", "OE"):
                break
            found.append(self.type())
        if len(found) == 1 and found[0].text() == "void":
            return ""
        return self.listed(found)

    def array(self) -> Node:
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

    def vendor(self) -> Node:
        self.need("U")
        if self.peek() in "tl":
            self.at -= 1
            return self.unnamed()
        name = self.source_name().left
        if self.peek() == "I":
            name += f"<{self.listed(self.template_arguments())}>"
        return self.made(f"{self.type().text()} {name}")

    def decltype(self) -> Node:
        self.at += 2
        inner = self.expression()
        self.need("E")
        return self.made(f"decltype ({inner.text()})")
