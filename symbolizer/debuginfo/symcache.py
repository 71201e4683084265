"""Reading the SymCache that `symbolic` makes of debug information: arrays by address, checked once for all.

The layout is that of symbolic-symcache/src/v9/raw.rs (github.com/getsentry/symbolic) and of v7.rs there: a header,
then files, functions, source locations, ranges and strings, each aligned to 8 bytes, uint32 throughout, 2**32 - 1
where there is none. The last locations belong to the ranges, one each; the ones before are only called from.
Addresses are relative to the first PT_LOAD segment's.
"""

from __future__ import annotations

import posixpath
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symbolizer.debuginfo.symfile import MAX_INLINED, SymFileError

_HEADER = struct.Struct("<4sI32s6I16x")
_MAGIC = b"SYMC"[::-1]
_FILE_FIELDS = {8: 3, 9: 6}
_NONE = 2**32 - 1
_I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SymCache:
    """`start` and `location` are of ranges, ascending, a location being -1 where there is no code.

    `function`, `file`, `line`, `caller`, `root` and `depth` are of locations: indices, -1 where there is none, a
    caller's depth being one less, a root's 0. `name` and `entry` are of functions: the offset of the name in the
    strings, and the first address (-1 of inlined ones). `path` has three offsets of a file's: compilation directory,
    directory, name.
    """

    start: _I64
    location: _I64
    function: _I64
    file: _I64
    line: _I64
    caller: _I64
    root: _I64
    depth: _I64
    name: _I64
    entry: _I64
    path: _I64
    strings: bytes

    def text(self, offset: int) -> bytes:
        """A string: its length as ULEB128, then its bytes. b"" where there is none."""
        size = shift = 0
        while 0 <= offset < len(self.strings) and shift < 35:
            byte = self.strings[offset]
            size |= (byte & 127) << shift
            offset, shift = offset + 1, shift + 7
            if byte < 128:
                return self.strings[offset : offset + size].replace(b"\0", b"")
        return b""

    def file_path(self, file: int) -> bytes:
        """The whole path of a file, without "." and ".." where that can be told from the path alone."""
        start, folder, name = (self.text(offset) for offset in self.path[file].tolist())
        if folder == start:  # the first directory of a line table is the compilation directory
            start = b""
        path = posixpath.join(start, folder, name)
        return posixpath.normpath(b"/" + path.lstrip(b"/") if path.startswith(b"//") else path) if path else b""


def read_symcache(data: bytes) -> SymCache:
    """The parts of a SymCache of version 8 or 9. Raises SymFileError."""
    if len(data) < _HEADER.size or data[:4] not in (_MAGIC, _MAGIC[::-1]):
        raise SymFileError("symbolic gave no SymCache")
    _, version, _, _, files, functions, locations, ranges, string_bytes = _HEADER.unpack_from(data)
    if version not in _FILE_FIELDS:
        raise SymFileError(f"symbolic made a SymCache of version {version}; this program reads 8 and 9")
    at = _HEADER.size
    parts = []
    for count, fields in ((files, _FILE_FIELDS[version]), (functions, 4), (locations, 4), (ranges, 1)):
        size = 4 * count * fields
        if at + size > len(data):
            raise SymFileError("symbolic made a SymCache that is cut short")
        words = np.frombuffer(data, "<u4", count * fields, at).astype(np.int64)
        parts.append(np.where(words == _NONE, -1, words).reshape(-1, fields))
        at += (size + 7) & ~7
    file, function, location, start = parts
    if ranges > locations:
        raise SymFileError("symbolic made a damaged SymCache")
    of_range = np.arange(locations - ranges, locations)
    index = {"file": location[:, 0], "function": location[:, 2], "caller": location[:, 3]}
    for name, most in (("file", files), ("function", functions), ("caller", locations)):
        index[name] = np.where(index[name] < most, index[name], -1)
    root, depth = _roots(index["caller"])
    # Functions without a language are symbols by symbolic's own rule, each reaching to the next one. -1: no function.
    language = np.append(function[:, 3], -1)
    return SymCache(
        start[:, 0],
        np.where((language[index["function"][of_range]] >= 0) & (root[of_range] >= 0), of_range, -1),
        index["function"],
        index["file"],
        np.maximum(location[:, 1], 0),
        index["caller"],
        root,
        depth,
        function[:, 0],
        function[:, 2],
        file[:, :3],
        data[at : at + string_bytes],
    )


def _roots(caller: _I64) -> tuple[_I64, _I64]:
    """The outermost caller of each location and how many callers lie on the way; -1 where there are too many."""
    root, depth = np.arange(len(caller)), np.zeros(len(caller), np.int64)
    left = np.flatnonzero(caller >= 0)
    for _ in range(MAX_INLINED):
        if not len(left):
            break
        root[left] = caller[root[left]]
        depth[left] += 1
        left = left[caller[root[left]] >= 0]
    root[left] = -1
    return root, depth
