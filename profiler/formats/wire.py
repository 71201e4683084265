"""The wire format of Protocol Buffers, as far as writing needs it (protobuf.dev, "Encoding").

A message is its fields, each a tag (number and wire type) with what it holds; a field with its default value is left
out. Field numbers here are below 16, so that a tag is one byte. Writing a profile so takes a fraction of the time
that making a message object for each of its entries takes; reading is left to the library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_FIXED64, _BYTES = 1, 2  # wire types, the lowest three bits of a tag; that of varints is 0


def _encoded(number: int) -> bytes:
    if 1 << 14 <= number < 1 << 28:  # offsets of code in a file
        low = number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80
        if number < 1 << 21:
            return bytes((*low, number >> 14))
        return bytes((*low, number >> 14 & 0x7F | 0x80, number >> 21))
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


_SMALL_ONES: Final = 8192
_SMALL: Final = tuple(_encoded(number) for number in range(_SMALL_ONES))


def varint(number: int) -> bytes:
    """An unsigned number. Raises ValueError beyond 64 bits."""
    if 0 <= number < _SMALL_ONES:
        return _SMALL[number]
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} is not an unsigned number of 64 bits.")
    return _encoded(number)


def unsigned(field: int, number: int) -> bytes:
    """A field of type uint64 or uint32, or an int32 that is never negative."""
    if 0 < number < _SMALL_ONES:
        return _SMALL[field << 3] + _SMALL[number]
    return _SMALL[field << 3] + varint(number) if number else b""


def signed(field: int, number: int) -> bytes:
    """A field of type int64. Raises ValueError beyond 64 bits."""
    if 0 < number < _SMALL_ONES:
        return _SMALL[field << 3] + _SMALL[number]
    return _SMALL[field << 3] + signed_varint(number) if number else b""


def present(field: int, number: int) -> bytes:
    """A field of type int64 that is written even where it is 0: one of a oneof."""
    return _SMALL[field << 3] + signed_varint(number)


def signed_varint(number: int) -> bytes:
    """A number of type int64, negative ones in two's complement. Raises ValueError beyond 64 bits."""
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{number} is not a signed number of 64 bits.")
    return varint(number & (1 << 64) - 1)


def fixed64(field: int, number: int) -> bytes:
    """A field of type fixed64. Raises ValueError beyond 64 bits."""
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} is not an unsigned number of 64 bits.")
    return _SMALL[field << 3 | _FIXED64] + number.to_bytes(8, "little") if number else b""


def block(field: int, content: bytes) -> bytes:
    """A message, or an element of a repeated field of strings or bytes: written even where it is empty."""
    return _SMALL[field << 3 | _BYTES] + varint(len(content)) + content


def text(field: int, content: bytes) -> bytes:
    """A field of type string or bytes."""
    return _SMALL[field << 3 | _BYTES] + varint(len(content)) + content if content else b""


def packed(field: int, varints: Iterable[bytes]) -> bytes:
    """A repeated field of numbers."""
    return text(field, b"".join(varints))


def blocks(field: int, contents: Iterable[bytes]) -> bytes:
    """A repeated field of messages, strings or bytes."""
    mark, small, most = _SMALL[field << 3 | _BYTES], _SMALL, _SMALL_ONES
    return b"".join(
        [
            mark + (small[length] if (length := len(content)) < most else varint(length)) + content
            for content in contents
        ]
    )
