"""What sections of an ELF file hold: compressed ones, and those that lead to debug information elsewhere.

Whatever a file claims, no more is read or decompressed than the caller asks for.
"""

from __future__ import annotations

import lzma
import sys
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol, cast

from elftools.common.utils import struct_parse

from symbolizer.elf import MAX_WHOLE_BUILD_ID, Elf, ElfError, Section

_ZLIB, _ZSTD = 1, 2  # ch_type
_GNU_ZLIB = b"ZLIB"
_MAX_LINK = 4096 + 64  # a path and a build id
_PIECE = 1 << 20
_XZ_MEMORY = 128 << 20  # more than any preset of xz takes
_MOST_DEFLATED = 1032  # bytes that one byte can stand for (zlib's technical details, "Maximum Compression Factor")


def section_content(elf: Elf, section: Section, most: int) -> bytes:
    """The bytes of a section, decompressed where it is compressed (SHF_COMPRESSED, or ".zdebug_" as GNU had it).

    Raises ElfError where it is damaged, has more than `most` bytes either way, or is compressed in a way that
    cannot be read here.
    """
    if section.kind == "SHT_NOBITS":
        return b""
    if section.size > most:
        raise ElfError(f"a section takes {section.size} bytes, more than {most}")
    data = elf.read(section.offset, section.size)
    if len(data) < section.size:
        raise ElfError("a section is cut short")
    claims = _compression(elf, section, data)
    return data if claims is None else _decompressed(data[claims[0] :], *claims[1:], most)


def check_compression(elf: Elf, section: Section, most: int) -> None:
    """Raises ElfError where a section claims to decompress to more than `most` bytes, or to more than it can: for
    libraries that take as much memory as it claims."""
    claims = None if section.kind == "SHT_NOBITS" else _compression(elf, section, elf.read(section.offset, 24))
    if claims is None:
        return
    header, kind, size = claims
    if size > most:
        raise ElfError(f"a section takes {size} bytes, more than {most}")
    if kind == _ZLIB and size > (section.size - header) * _MOST_DEFLATED:
        raise ElfError("a compressed section is damaged")


def _compression(elf: Elf, section: Section, data: bytes) -> tuple[int, int | str, int] | None:
    """How the section that begins with `data` is compressed: bytes of the header, in which way, and how many bytes it
    claims to be decompressed. None where it is not. Raises ElfError where it is cut short."""
    if section.compressed:
        header = elf.structs.Elf_Chdr
        if len(data) < header.sizeof():
            raise ElfError("a compressed section is cut short")
        claims = struct_parse(header, BytesIO(data))
        kind = _ZLIB if claims["ch_type"] == "ELFCOMPRESS_ZLIB" else claims["ch_type"]
        return header.sizeof(), kind, claims["ch_size"]
    if data.startswith(_GNU_ZLIB) and len(data) >= 12 and elf.section_name(section).startswith(b".zdebug_"):
        return 12, _ZLIB, int.from_bytes(data[4:12], "big")
    return None


@dataclass(frozen=True, slots=True)
class DebugLink:
    """.gnu_debuglink: the name of the separate debug file, and the CRC-32 (as zlib has it) of all its bytes."""

    name: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class Supplement:
    """Where dwz put what several debug files share: a path, relative to the debug file's own, and hex of its build id,
    or of the checksum that stands for one (see supplement_identity)."""

    path: bytes
    build_id: str


def debug_link(elf: Elf) -> DebugLink | None:
    """What .gnu_debuglink says: a name that ends in a zero, bytes up to a multiple of 4, the CRC in the file's byte
    order (GDB's manual, "Debugging Information in Separate Files"). Raises ElfError where it is damaged."""
    data = _link(elf, b".gnu_debuglink")
    if data is None:
        return None
    name, zero, _ = data.partition(b"\0")
    crc = data[(len(name) + 4) // 4 * 4 :][:4]
    if not zero or len(crc) < 4:
        raise ElfError("its .gnu_debuglink is damaged")
    return DebugLink(name, int.from_bytes(crc, "little" if elf.structs.little_endian else "big"))


def supplement(elf: Elf) -> Supplement | None:
    """What .gnu_debugaltlink (a path that ends in a zero, then the build id) or DWARF 5's .debug_sup says.

    None where the file refers to no other. Raises ElfError where it is damaged.
    """
    data = _link(elf, b".gnu_debugaltlink")
    if data is not None:
        path, _, identity = data.partition(b"\0")
    else:
        is_supplementary, path, identity = _debug_sup(elf)
        if is_supplementary is not False:
            return None
    if not path or not 2 <= len(identity) <= MAX_WHOLE_BUILD_ID:
        raise ElfError("its link to a supplementary debug file is damaged")
    return Supplement(path, identity.hex())


def supplement_identity(elf: Elf) -> str:
    """What the `Supplement.build_id` of files that refer to this one must be: hex, "" where it has none."""
    is_supplementary, _, checksum = _debug_sup(elf)
    return checksum.hex() if is_supplementary else elf.build_id(MAX_WHOLE_BUILD_ID)


def _debug_sup(elf: Elf) -> tuple[bool | None, bytes, bytes]:
    """Whether it is a supplementary file (None where .debug_sup does not say), the path of the other, the checksum.

    DWARF 5, 7.3.6: 2 bytes of version, a byte that is 1 in a supplementary file, the path, the length of the checksum
    as a ULEB128, the checksum. dwz makes the checksum as it makes build ids.
    """
    data = _link(elf, b".debug_sup")
    if data is None or len(data) < 3:
        return None, b"", b""
    path, _, checksum = data[3:].partition(b"\0")
    length = checksum[0] if checksum and checksum[0] < 128 else 0
    return data[2] == 1, path, checksum[1 : 1 + length]


def debug_data(elf: Elf, most: int) -> bytes | None:
    """.gnu_debugdata decompressed: a small ELF file with more symbols ("MiniDebugInfo" in GDB's manual).

    None where there is none. Raises ElfError where it is damaged or has more than `most` bytes.
    """
    section = elf.section(b".gnu_debugdata")
    if section is None or section.kind == "SHT_NOBITS":
        return None
    data = section_content(elf, section, most)
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)
        return _bounded(decompressor, data, None, most)
    except (lzma.LZMAError, MemoryError) as error:
        raise ElfError("its .gnu_debugdata is damaged") from error


def _link(elf: Elf, name: bytes) -> bytes | None:
    section = elf.section(name)
    if section is None or section.kind == "SHT_NOBITS":
        return None
    return section_content(elf, section, _MAX_LINK)


class _Decompressor(Protocol):
    """What lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


def _decompressed(data: bytes, kind: int | str, size: int, most: int) -> bytes:
    """`data` of a compressed section, which claims `size` bytes (gabi, chapter 4, "Section Compression")."""
    if size > most:
        raise ElfError(f"a section takes {size} bytes, more than {most}")
    if kind == _ZLIB:
        inflater = zlib.decompressobj()
        try:
            found = inflater.decompress(data, size) if size else b""
        except zlib.error as error:
            raise ElfError("a compressed section is damaged") from error
        if len(found) < size:
            raise ElfError("a compressed section is damaged")
        return found
    if kind != _ZSTD:
        raise ElfError(f"a section is compressed in an unknown way ({kind})")
    return _bounded(_zstd(), data, size, most)


def _zstd() -> _Decompressor:
    """Python's own from 3.14 on, else backports.zstd where it is installed."""
    try:
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdDecompressor
        else:
            from backports.zstd import ZstdDecompressor
    except ImportError:
        raise ElfError("a section is compressed with zstd, which takes the package backports.zstd to read") from None
    return cast("_Decompressor", ZstdDecompressor())


def _bounded(decompressor: _Decompressor, data: bytes, size: int | None, most: int) -> bytes:
    """All that `data` decompresses to: exactly `size` bytes where that is given, else at most `most`."""
    found = bytearray()
    try:
        while not decompressor.eof:
            if not data and decompressor.needs_input:
                raise ElfError("what it holds compressed is cut short")
            found += decompressor.decompress(data, _PIECE)
            data = b""
            if len(found) > (most if size is None else size):
                raise ElfError(f"what it holds compressed takes more than {most if size is None else size} bytes")
    except ElfError:
        raise
    except Exception as error:  # lzma and zstd have errors of their own
        raise ElfError("what it holds compressed is damaged") from error
    if size is not None and len(found) != size:
        raise ElfError("what it holds compressed is damaged")
    return bytes(found)
