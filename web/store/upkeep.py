"""What the store needs from time to time: functions of hours that are over, and names that must not expire."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from web.store.functions import catch_up
from web.store.stackcache import StackCache
from web.store.store import BadQuery, Store, StoreUnavailable
from web.store.writer import Writer

_EVERY_S: Final = 300
_CACHED: Final = 64 << 20
_REFRESH_DAYS: Final = 20  # less than what content outlives its samples by, see retention.py

log = logging.getLogger("pilotlight.upkeep")


class Upkeep:
    """Does it in a thread of its own, every few minutes."""

    def __init__(self, store: Store, writer: Writer, every: float = _EVERY_S) -> None:
        self._store, self._writer, self._every = store, writer, every
        self._cache = StackCache(store, _CACHED)
        self._renamed = store.renamed.number
        self._names_kept = 0.0
        self._stop = threading.Event()
        self.hours = 0  # whose functions were made so far
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.once()
            except (StoreUnavailable, BadQuery) as error:
                log.warning("upkeep is put off: %s", error)
            except Exception:  # the next time may do better
                log.exception("upkeep failed")

    def once(self) -> None:
        """Raises StoreUnavailable, BadQuery."""
        renamed = self._store.renamed.number
        kept_since = time.time() - self._writer.retention.samples * 86400
        made = catch_up(
            self._store, self._cache, kept_since, renamed=renamed != self._renamed, stopped=self._stop.is_set
        )
        self._renamed = renamed
        self.hours += len(made)
        if time.time() - self._names_kept > 86400:
            keep_names(self._store)
            self._names_kept = time.time()


def keep_names(store: Store) -> None:
    """Better names of locations that are still seen are written again before they expire: they came only once."""
    columns = "id, build_id, address, functions, system_names, files, lines, kinds, reasons, version"
    store.command(
        f"INSERT INTO names ({columns}, seen) SELECT {columns}, today() FROM"
        f" (SELECT {columns}, seen FROM names ORDER BY version DESC, seen DESC LIMIT 1 BY id)"
        f" WHERE seen < today() - {_REFRESH_DAYS:d} AND (build_id, address) IN"
        f" (SELECT build_id, address FROM frames WHERE nameable AND seen >= today() - {_REFRESH_DAYS:d})"
    )
