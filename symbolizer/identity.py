"""What tells two files apart that have the same build id.

Equal build ids are to mean the same code. Yet tools that rewrite files (patchelf, packers of wheels and
containers) keep the id and move the code, builds give it by hand (-Wl,--build-id=0x…), and anybody can copy
one. File offsets and names of one such file are wrong for the other.
"""

from __future__ import annotations

import hashlib

from symbolizer.elf import Elf

_PIECE = 1 << 12
_PIECES = 16
_MAX_EXECUTABLE = 16


def code_identity(elf: Elf) -> str:
    """Hex of a hash over where the load segments are (offset and size in the file, address), and over the code itself.

    Of each executable segment up to 64 KB all is hashed, of a larger one 16 pieces of 4 KB at even distances. What
    strip and objcopy take away or add does not count: with and without symbols it is the same code. Raises whatever
    reading the file raises.
    """
    digest = hashlib.blake2b(repr(elf.loads).encode(), digest_size=16)
    executable = [segment for segment in elf.segments if segment.kind == "PT_LOAD" and segment.executable]
    for segment in executable[:_MAX_EXECUTABLE]:
        spread = max(segment.size, _PIECE * _PIECES) - _PIECE
        for i in range(_PIECES):
            into = i * spread // (_PIECES - 1)
            digest.update(elf.read(segment.offset + into, max(min(_PIECE, segment.size - into), 0)))
    return digest.hexdigest()
