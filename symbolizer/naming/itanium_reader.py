"""What every rule of the C++ name grammar works with: the text read so far, the nodes made, their bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod

_MAX_DEPTH = 80
_MAX_NODES = 20_000
_MAX_WORK = 100_000


class FailedError(Exception):
    """The name is not understood, or costs too much."""


class Node:
    """A piece of a declaration: `left` and `right` surround the declarator, as in "int (*" ")(char)"."""

    __slots__ = ("left", "right", "kind", "base", "items")

    def __init__(
        self, left: str, right: str = "", kind: str = "", base: str = "", items: list[Node] | None = None
    ) -> None:
        self.left, self.right, self.kind = left, right, kind
        self.base = base  # the last name, without template arguments: what a constructor is called
        self.items = items  # of a pack of template arguments

    def text(self) -> str:
        return self.left + self.right


class Reader(ABC):
    """A mangled name, read from `at` on, and what is remembered of the part before.

    Rules of the grammar refer to each other in circles. Those that are needed before the file that
    holds them are named here.
    """

    def __init__(self, mangled: str, return_type: bool) -> None:
        self.s = mangled
        self.at = 0
        self.return_type = return_type
        self.depth = 0
        self.nodes = 0
        self.work = 0
        self.subs: list[Node] = []
        self.parameters_of_subs: dict[int, str] = {}
        self.args: list[Node] = []
        self.last_name = ""
        self.in_lambda = 0
        self.pack: int | None = None
        self.pack_size: int | None = None
        self.forward: list[int] = []

    @abstractmethod
    def encoding(self) -> Node:
        """A whole declaration. In itanium.py, as the next three."""

    @abstractmethod
    def name(self) -> tuple[Node, str, bool, bool]: ...

    @abstractmethod
    def operator(self) -> tuple[Node, bool]: ...

    @abstractmethod
    def unnamed(self) -> Node: ...

    @abstractmethod
    def expression(self) -> Node:
        """In itanium_expressions.py, as the next."""

    @abstractmethod
    def literal(self) -> Node: ...

    def made(self, left: str, right: str = "", kind: str = "", base: str = "", items: list[Node] | None = None) -> Node:
        self.nodes += 1
        self.work += len(left) + len(right)
        if self.nodes > _MAX_NODES or self.work > _MAX_WORK:
            raise FailedError
        return Node(left, right, kind, base, items)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise FailedError

    def peek(self, n: int = 1) -> str:
        return self.s[self.at : self.at + n]

    def took(self, text: str) -> bool:
        if not self.s.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def need(self, text: str) -> None:
        if not self.took(text):
            raise FailedError

    def number(self) -> int:
        start = end = self.at
        while self.s[end : end + 1].isdigit():
            end += 1
        if end == start or end - start > 9:
            raise FailedError
        self.at = end
        return int(self.s[start:end])

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

    def source_name(self) -> Node:
        length = self.number()
        name = self.s[self.at : self.at + length]
        if len(name) < length or not length:
            raise FailedError
        self.at += length
        if name.startswith(("_GLOBAL__N", "_GLOBAL_.N", "_GLOBAL_$N")):
            name = "(anonymous namespace)"
        return self.made(name, base=name)

    def affordable(self, characters: int) -> None:
        """Fails before a text of so many characters is put together that made() would not take."""
        if self.work + characters > _MAX_WORK:
            raise FailedError

    def listed(self, nodes: list[Node]) -> str:
        self.affordable(sum(len(node.left) + len(node.right) for node in nodes))
        return ", ".join(text for node in nodes if (text := node.text()) or node.kind != "pack")
