"""Word of new names, from the writer to readers that keep the names they had."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Final

Key = tuple[str, int]  # build id and address

_KEPT_KEYS: Final = 100_000


class Renamed:
    """Which addresses were given names lately. Safe to use from any thread."""

    def __init__(self, limit: int = _KEPT_KEYS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._number = 0
        self._lately: deque[frozenset[Key]] = deque()
        self._kept = 0

    @property
    def number(self) -> int:
        """How often names came so far."""
        return self._number

    def add(self, keys: Collection[Key]) -> None:
        """To be called once the names of `keys` can be read."""
        with self._lock:
            self._number += 1
            self._lately.append(frozenset(keys))
            self._kept += len(keys)
            while self._kept > self._limit:
                self._kept -= len(self._lately.popleft())

    def since(self, number: int) -> tuple[int, frozenset[Key] | None]:
        """The number by now, and what was renamed after `number`; None where that is no longer remembered."""
        with self._lock:
            missed = self._number - number
            if missed > len(self._lately):
                return self._number, None
            recent = list(self._lately)[len(self._lately) - missed :]
            return self._number, frozenset[Key]().union(*recent)
