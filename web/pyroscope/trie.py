"""Pyroscope's two binary formats of /ingest, `trie` and `tree`, as folded stacks.

Both list nodes in depth-first order, each as three parts: its name (the length as a varint, then the bytes), its own
value and the number of its children (varints). In a trie, a stack is what the names from the root to a node make
when written one after the other, and is folded text already; in a tree, each node is a frame.
Source: https://github.com/grafana/pyroscope/blob/main/pkg/og/structs/transporttrie/serialize.go and
https://github.com/grafana/pyroscope/blob/main/pkg/og/storage/tree/serialize.go
"""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 64 << 20  # bytes of folded stacks: few bytes must not unfold into many
_MAX_NUMBER: Final = (1 << 63) - 1


def trie_to_folded(data: bytes) -> bytes:
    """Raises ValueError, with a sentence, for what is malformed or too large."""
    return _folded(data, b"", "trie")


def tree_to_folded(data: bytes) -> bytes:
    """Raises ValueError, with a sentence, for what is malformed or too large."""
    return _folded(data, b";", "tree")


def _folded(data: bytes, separator: bytes, what: str) -> bytes:
    lines: list[bytes] = []
    size = at = 0
    open_nodes: list[tuple[bytes, int]] = [(b"", 1)]  # the path to each, and how many children are still to come
    while open_nodes:
        path, left = open_nodes.pop()
        if left > 1:
            open_nodes.append((path, left - 1))
        length, at = _varint(data, at, what)
        name = data[at : at + length]
        if len(name) != length:
            raise ValueError(f"the {what} was cut off")
        at += length
        value, at = _varint(data, at, what)
        children, at = _varint(data, at, what)
        if separator:
            name = name.replace(b";", rb"\x3b")
        name = name.replace(b"\n", rb"\x0a").replace(b"\r", rb"\x0d")
        path = path + separator + name if path and name else path + name
        if value and path:
            line = b"%b %d\n" % (path, value)
            size += len(line)
            lines.append(line)
        elif value:
            raise ValueError(f"the {what} has a value at its root, which is in no stack")
        size += len(path) if children else 0
        if size > MAX_TEXT:
            raise ValueError(f"the {what} unfolds into more than {MAX_TEXT >> 20} MB: send smaller ones")
        if children:
            open_nodes.append((path, children))
    if at != len(data):
        raise ValueError(f"there are {len(data) - at:,} bytes after the end of the {what}")
    return b"".join(lines)


def _varint(data: bytes, at: int, what: str) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError(f"the {what} was cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError(f"the {what} is damaged: a number in it has no end")
    if value > _MAX_NUMBER:
        raise ValueError(f"the {what} holds a number beyond 63 bits")
    return value, at
