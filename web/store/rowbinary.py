"""ClickHouse's RowBinary: large results straight into numpy, without a Python object per value.

Format: https://clickhouse.com/docs/interfaces/formats/RowBinary (numbers little-endian; strings and
arrays preceded by their length as unsigned LEB128).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class RowBinary:
    """Reads values one after the other, in the order of the query's columns, row after row."""

    __slots__ = ("_data", "_at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def length(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def string(self) -> str:
        size = self.length()
        value = self._data[self._at : self._at + size]
        self._at += size
        return value.decode(errors="replace")

    def array(self, dtype: type[np.generic]) -> NDArray[Any]:
        """An Array of fixed-width numbers, as a read-only view of the answer."""
        size = self.length()
        values = np.frombuffer(self._data, dtype, size, self._at)
        self._at += size * values.itemsize
        return values
