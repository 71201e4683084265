"""Inputs made out of inputs: bytes and lines changed, cut, repeated and exchanged, numbers driven to their extremes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

Mutate = Callable[[Random, bytes, Sequence[bytes]], bytes]
"""An input made of one that is known, with parts of the others that are."""

MOST_BYTES = 1 << 18

_POWERS = [1 << bits for bits in (7, 8, 12, 15, 16, 20, 24, 31, 32, 40, 47, 48, 62, 63, 64)]
EXTREMES = sorted(
    {0, 1, 2, 3, 4, 8, 16, 24, *_POWERS, *(power - 1 for power in _POWERS), *(p - 24 for p in _POWERS[3:])}
)
_LINE_COPIES = (2, 10, 1000)
_NUMBER = re.compile(rb"[0-9a-fA-F]+")


def several(random: Random, data: bytes, others: Sequence[bytes], change: Mutate) -> bytes:
    """The input changed once, or a few times over."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = change(random, data, others)[:MOST_BYTES]
    return data


def number(random: Random, now: int, bits: int) -> int:
    """Another number of so many bits: an extreme one, or one near what it was."""
    if random.random() < 0.4:
        return (now + random.choice((-1, 1)) * random.choice((1, 2, 4, 8, 16, 64, 4096))) % (1 << bits)
    return random.choice(EXTREMES) % (1 << bits)


def change_in_place(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Other bytes, as many as before."""
    if not data:
        return data
    found = bytearray(data)
    at = random.randrange(len(found))
    kind = random.randrange(5)
    if kind == 0:
        found[at] ^= 1 << random.randrange(8)
    elif kind == 1:
        found[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    elif kind == 2:
        size = min(random.choice((1, 2, 4, 8)), len(found))
        at = min(at - at % size, len(found) - size)
        order = random.choice(("little", "big"))
        now = int.from_bytes(found[at : at + size], order)  # type: ignore[arg-type]
        found[at : at + size] = number(random, now, 8 * size).to_bytes(size, order)  # type: ignore[arg-type]
    elif kind == 3:
        source = random.choice(others) if others and random.random() < 0.5 else data
        size = min(random.choice((1, 2, 4, 8, 16, 24, 64)), len(found) - at)
        piece = source[(start := random.randrange(len(source) + 1)) : start + size]
        found[at : at + len(piece)] = piece
    else:
        size = min(random.choice((2, 8, 64, 512)), len(found) - at)
        found[at : at + size] = bytes([random.choice((0, 0x80, 0xFF))]) * size
    return bytes(found)


def change_bytes(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Other bytes, or more, or fewer."""
    at = random.randrange(len(data) + 1)
    size = random.choice((1, 2, 4, 8, 16, 64, 256))
    match random.randrange(8):
        case 0:
            return data[:at] + data[at + size :]
        case 1:
            return data[:at] + bytes([random.randrange(256)]) * random.choice((1, 4, size)) + data[at:]
        case 2:
            return data[:at] + data[at : at + size] * random.choice((2, 3, 50)) + data[at + size :]
        case 3 if others:
            other = random.choice(others)
            return data[:at] + other[random.randrange(len(other) + 1) :]
        case 4 if random.random() < 0.3:
            return data[:at]
    return change_in_place(random, data, others)


def text_changes(*tokens: bytes) -> Mutate:
    """Changes of a text of lines and fields, among them that one of the tokens is put in somewhere."""

    def change(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        match random.randrange(9):
            case 0 if found := list(_NUMBER.finditer(data, 0, 1 << 16)):
                match = random.choice(found)
                now = int(match[0][:15], 16)
                text = random.choice((b"%x", b"%d", b"0x%x", b"-%x", b"%020x")) % number(random, now, 65)
                return data[: match.start()] + text + data[match.end() :]
            case 1 | 2 if tokens:
                at = random.randrange(len(data) + 1)
                cut = random.choice((0, 0, 1, 4))
                token = random.choice(tokens) * random.choice((1, 1, 1, 2, 30, 500))
                return data[:at] + token + data[at + cut :]
            case 3:
                lines = data.splitlines(True)
                if lines:
                    at = random.randrange(len(lines))
                    lines[at : at + 1] = [lines[at]] * random.choice((0, *_LINE_COPIES))
                return b"".join(lines)
            case 4 if others:
                lines, more = data.splitlines(True), random.choice(others).splitlines(True)
                at, start = random.randrange(len(lines) + 1), random.randrange(len(more) + 1)
                lines[at : at + random.randrange(3)] = more[start : start + random.choice((1, 3, 20))]
                return b"".join(lines)
            case 5:
                lines = data.splitlines(True)
                random.shuffle(lines)
                return b"".join(lines)
            case 6:
                at, size = random.randrange(len(data) + 1), random.choice((1, 2, 3, 5, 10, 40))
                return data[:at] + data[at : at + size] * random.choice((2, 3, 40, 600)) + data[at + size :]
        return change_bytes(random, data, others)

    return change
