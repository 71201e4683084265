"""Stacks by id, kept between queries as arrays of numbers, so that merging many of them is array work.

A stack is kept twice: as the numbers of its locations, leaf first, and as the numbers of its frames, root first. What
the numbers stand for is kept once. Better names may come for a location at any time (see locations.py): its frames are
then read anew, and those of the stacks it is in.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profiler.better_names import key_of, size
from profiler.model import NumberedFrames
from symbolizer.types import Frame, Location
from web.store.locations import read_locations
from web.store.ragged import Growing, Integers, Ragged, csr
from web.store.renamed import Key
from web.store.store import BadQuery, Store, StoreUnavailable

Ids = NDArray[np.uint64]

LIMIT: Final = 256 << 20  # bytes that are kept between queries
MAX_STACKS: Final = 2_000_000  # of one query
PREFIX: Final = 16  # frames that many stacks begin with alike, as programs go
_AT_A_TIME: Final = 20_000
_BY_ID: Final = 5_000
_OBJECTS: Final = 400  # bytes of a location's Python objects, about, without its names


@dataclass(frozen=True, slots=True)
class Stacks:
    """Distinct stacks of a selection, by id (ascending), as numbers of `known` (locations and frames).

    `rows` has the place of each id that was asked for. `locations` is leaf first, `frames` root first. `frame_list`,
    `binaries` and `known` may hold more than is used. Frame j belongs to the function of[j] (int32) of `functions` and
    `function_binaries`, which are in the order of name, kind and binary, each as the first of its frames. told[j]
    (int8) says whether frame j has a line (2) and a file (1), line[j] (int32) which one: a number for each file and
    line, 0 for none. prefix[i] is a hash of the functions of stack i's first PREFIX frames.
    """

    ids: Ids
    rows: Integers
    locations: Ragged
    frames: Ragged
    known: list[Location]
    frame_list: list[Frame]
    binaries: list[str]
    of: NDArray[np.int32]
    functions: list[Frame]
    function_binaries: list[str]
    told: NDArray[np.int8]
    line: NDArray[np.int32]
    prefix: NDArray[np.uint64]


class StackCache:
    """Safe to use from any thread. Once it holds more than `limit` bytes it begins anew, with the next query."""

    def __init__(self, store: Store, limit: int = LIMIT) -> None:
        self._store = store
        self._limit = limit
        self._lock = threading.Lock()  # for what is below, which is changed by one at a time
        self._loading = threading.Lock()  # so that many who miss the same read it once
        self._as_of = store.renamed.number
        self._generation = 0
        self._renamings = 0
        # Whoever chooses names does not know them, and so cannot make two prefixes meet.
        self._factors = [np.uint64(secrets.randbits(64) | 1) for _ in range(PREFIX)]
        self._clear()

    def _clear(self) -> None:
        self._generation += 1
        self._ids: Ids = np.empty(0, np.uint64)
        self._rows: Integers = np.empty(0, np.int64)
        self._location_numbers, self._frame_numbers = Growing(), Growing()
        nothing = Ragged(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))
        self._locations = self._frames = nothing
        self._frames_of_locations = nothing
        self._location_frames = Growing()
        self._numbered = NumberedFrames()
        self._known: list[Location] = []
        self._id_of: list[int] = []
        self._number_of: dict[int, int] = {}
        self._by_key: dict[Key, list[int]] = {}
        self._stale: set[int] = set()
        self._objects = 0
        self._functions: dict[tuple[str, str, str], int] = {}
        self._sorted: list[tuple[tuple[str, str, str], int, int]] = []  # function, its number, its first frame's
        self._lines: dict[tuple[str, int], int] = {}
        self._number_of_function = self._of = self._line = np.empty(0, np.int32)
        self._told = np.empty(0, np.int8)
        self._prefix = np.empty(0, np.uint64)
        self._in_order: list[Frame] = []
        self._binaries_in_order: list[str] = []

    @property
    def nbytes(self) -> int:
        """About how much is kept."""
        arrays = (self._ids, self._rows, self._prefix, self._locations, self._frames, self._frames_of_locations)
        return sum(array.nbytes for array in arrays) + self._objects

    def get(self, asked: Ids) -> Stacks:
        """The stacks of `asked`, in any order. Raises BadQuery where they are too many, StoreUnavailable."""
        ids, rows = np.unique(asked, return_inverse=True)
        if len(ids) > MAX_STACKS:
            raise BadQuery(
                f"this is more than {MAX_STACKS:,} distinct stacks: choose a shorter range, one host or one service"
            )
        with self._lock:
            self._mark_renamed()
            if not self._stale and not len(self._missing(ids)):
                return self._chosen(ids, rows)
        with self._loading:
            with self._lock:
                self._mark_renamed()
                missing, stale, as_of = self._missing(ids), sorted(self._stale), self._as_of
            self._load(missing, stale, as_of)
            with self._lock:
                chosen = self._chosen(ids, rows)
                if self.nbytes > self._limit:
                    self._clear()
                return chosen

    def names_version(self) -> str:
        """A text that changes when anything kept has got another name, or is not kept any more."""
        with self._lock:
            self._mark_renamed()
            is_stale = bool(self._stale)
        if is_stale:
            with self._loading:
                with self._lock:
                    stale, as_of = sorted(self._stale), self._as_of
                self._load(np.empty(0, np.uint64), stale, as_of)
        with self._lock:
            return f"{self._generation}.{self._renamings}"

    def _missing(self, ids: Ids) -> Ids:
        if not len(self._ids):
            return ids
        known: NDArray[np.bool_] = self._ids.take(np.searchsorted(self._ids, ids), mode="clip") == ids
        return ids[~known]

    def _chosen(self, ids: Ids, rows: Integers) -> Stacks:
        places = self._rows[np.searchsorted(self._ids, ids)]
        self._number_functions()
        if len(self._prefix) < len(self._frames):
            new = self._prefixes(np.arange(len(self._prefix), len(self._frames)))
            self._prefix = np.concatenate((self._prefix, new))
        return Stacks(
            ids,
            rows,
            self._locations.take(places),
            self._frames.take(places),
            self._known,
            self._numbered.frames,
            self._numbered.binaries,
            self._of,
            self._in_order,
            self._binaries_in_order,
            self._told,
            self._line,
            self._prefix[places],
        )

    def _number_functions(self) -> None:
        """Bring what is known of functions up to the frames there are; what was given out stays as it is."""
        first = len(self._of)
        frames, binaries = self._numbered.frames, self._numbered.binaries
        if first == len(frames):
            return
        numbers, told, lines = [], [], []
        for j in range(first, len(frames)):
            frame = frames[j]
            key = frame.function, frame.kind.value, binaries[j]
            number = self._functions.setdefault(key, len(self._sorted))
            if number == len(self._sorted):
                self._sorted.append((key, number, j))
            numbers.append(number)
            told.append(2 * (frame.line > 0) + (frame.file != ""))
            lines.append(self._lines.setdefault((frame.file, frame.line), 1 + len(self._lines)) if frame.line else 0)
        self._number_of_function = np.concatenate((self._number_of_function, np.array(numbers, np.int32)))
        self._told = np.concatenate((self._told, np.array(told, np.int8)))
        self._line = np.concatenate((self._line, np.array(lines, np.int32)))
        if len(self._in_order) < len(self._sorted):
            self._sorted.sort()  # little work, as nearly all of it is sorted
            self._in_order = [frames[j] for _, _, j in self._sorted]
            self._binaries_in_order = [binaries[j] for _, _, j in self._sorted]
        place = np.empty(len(self._sorted), np.int32)
        place[[number for _, number, _ in self._sorted]] = np.arange(len(self._sorted))
        self._of = place[self._number_of_function]

    def _prefixes(self, rows: Integers) -> NDArray[np.uint64]:
        """The hashes of what stacks begin with; functions are numbered already."""
        of = self._frames.take(rows)
        found = np.zeros(len(rows), np.uint64)
        for depth, factor in enumerate(self._factors):
            there = np.flatnonzero(of.length > depth)
            functions = self._number_of_function[of.flat[of.start[there] + depth]]
            found[there] += factor * (functions + 1).astype(np.uint64)
        return found

    def _mark_renamed(self) -> None:
        if self._as_of == self._store.renamed.number:
            return
        self._as_of, renamed = self._store.renamed.since(self._as_of)
        if renamed is None:
            self._stale.update(range(len(self._known)))
        elif len(renamed) < len(self._by_key):
            self._stale.update(number for key in renamed for number in self._by_key.get(key, ()))
        else:
            self._stale.update(number for key in renamed & self._by_key.keys() for number in self._by_key[key])

    def _load(self, missing: Ids, stale: list[int], as_of: int) -> None:
        """Read what is missing or no longer up to date; `as_of` is the number of renamings that is known of."""
        if stale:
            read = read_locations(self._store, [self._id_of[number] for number in stale])
            with self._lock:
                self._rename({number: read[self._id_of[number]] for number in stale})
                if self._as_of == as_of:
                    self._stale.difference_update(stale)
        for at in range(0, len(missing), _AT_A_TIME):
            ids, flat, lengths = _read_stacks(self._store, missing[at : at + _AT_A_TIME])
            distinct, places = np.unique(flat, return_inverse=True)
            new = [number for number in distinct.tolist() if number not in self._number_of]
            found = read_locations(self._store, new)
            with self._lock:
                first = len(self._known)
                self._add_locations(new, [found[number] for number in new])
                numbers = np.array([self._number_of[number] for number in distinct.tolist()], np.int32)
                self._add_stacks(ids, numbers[places], lengths)
                # Had others heard of new names in the meantime, what was read might be what they replace.
                if self._as_of != as_of:
                    self._stale.update(range(first, len(self._known)))

    def _add_locations(self, ids: list[int], locations: list[Location]) -> None:
        for number, (location_id, location) in enumerate(zip(ids, locations, strict=True), len(self._known)):
            self._number_of[location_id] = number
            key = key_of(location)
            if key is not None:
                self._by_key.setdefault(key, []).append(number)
            self._objects += _OBJECTS + size(location)
        self._known.extend(locations)
        self._id_of.extend(ids)
        of = self._frames_of_locations
        flat, start, length = self._numbered_frames(locations)
        self._frames_of_locations = Ragged(flat, np.concatenate((of.start, start)), np.concatenate((of.length, length)))

    def _numbered_frames(self, locations: list[Location]) -> tuple[NDArray[np.int32], Integers, Integers]:
        """The frames of locations, root first, appended to those of all; where each begins and its length."""
        numbers = [
            self._numbered.number(frame, location.binary.path if location.binary else "")
            for location in locations
            for frame in reversed(location.frames)
        ]
        length = np.fromiter((len(location.frames) for location in locations), np.int64, len(locations))
        flat, begin = self._location_frames.append(np.array(numbers, np.int32))
        return flat, csr(length)[:-1] + begin, length

    def _add_stacks(self, ids: Ids, numbers: NDArray[np.int32], lengths: Integers) -> None:
        flat, begin = self._location_numbers.append(numbers)
        new = Ragged(flat, csr(lengths)[:-1] + begin, lengths)
        old = self._locations
        self._locations = Ragged(flat, np.concatenate((old.start, new.start)), np.concatenate((old.length, lengths)))
        frames, start, length = self._framed(new)
        old = self._frames
        self._frames = Ragged(frames, np.concatenate((old.start, start)), np.concatenate((old.length, length)))
        rows = np.arange(len(self._rows), len(self._rows) + len(ids))
        places = np.searchsorted(self._ids, ids)
        self._ids = np.insert(self._ids, places, ids)
        self._rows = np.insert(self._rows, places, rows)

    def _framed(self, stacks: Ragged) -> tuple[NDArray[np.int32], Integers, Integers]:
        """The frames of stacks of locations, root first, appended to those of all; where each begins, its length."""
        numbers, offsets = stacks.packed()
        backwards = np.repeat(offsets[:-1] + offsets[1:] - 1, stacks.length) - np.arange(len(numbers))
        flat, entries = self._frames_of_locations.take(numbers[backwards]).packed()
        frames, begin = self._frame_numbers.append(flat)
        return frames, entries[offsets[:-1]] + begin, np.diff(entries[offsets])

    def _rename(self, locations: dict[int, Location]) -> None:
        """Give locations, by number, other frames; what was given out keeps those it has."""
        changed = {number: location for number, location in locations.items() if location != self._known[number]}
        if not changed:
            return
        self._renamings += 1
        known = self._known.copy()
        for number, location in changed.items():
            known[number] = location
        self._known = known
        numbers = np.fromiter(changed, np.int64, len(changed))
        flat, start, length = self._numbered_frames(list(changed.values()))
        self._frames_of_locations = _replaced(self._frames_of_locations, numbers, flat, start, length)
        is_changed = np.zeros(len(known), bool)
        is_changed[numbers] = True
        # Stacks lie one after the other in the order of their rows.
        hits = np.flatnonzero(is_changed[self._locations.flat])
        rows = np.unique(np.searchsorted(self._locations.start, hits, side="right") - 1)
        self._frames = _replaced(self._frames, rows, *self._framed(self._locations.take(rows)))
        self._number_functions()
        rows = rows[rows < len(self._prefix)]
        self._prefix = self._prefix.copy()
        self._prefix[rows] = self._prefixes(rows)


def _replaced(old: Ragged, rows: Integers, flat: NDArray[np.int32], start: Integers, length: Integers) -> Ragged:
    starts, lengths = old.start.copy(), old.length.copy()
    starts[rows], lengths[rows] = start, length
    return Ragged(flat, starts, lengths)


def _read_stacks(store: Store, ids: Ids) -> tuple[Ids, NDArray[Any], Integers]:
    """The locations' ids of stacks that are asked for by ascending ids: one after the other, and each one's length."""
    if len(ids) <= _BY_ID:
        which, parameters = "id IN {ids:Array(UInt64)}", {"ids": ids.tolist()}
    else:  # a list that long is no parameter any more, and they are most of those between its ends
        which = "id >= {first:UInt64} AND id <= {last:UInt64}"
        parameters = {"first": int(ids[0]), "last": int(ids[-1])}
    answer = store.raw(
        "SELECT groupArray(id), groupArray(toUInt32(length(locations))), groupArrayArray(locations)"
        f" FROM (SELECT id, locations FROM stacks WHERE {which} ORDER BY id LIMIT 1 BY id)",
        parameters,
    )
    found: Ids = answer.array(np.uint64)
    lengths = answer.array(np.uint32).astype(np.int64)
    flat = answer.array(np.uint64)
    order = np.argsort(found, kind="stable")
    order = order[np.isin(found[order], ids)]
    if len(order) < len(ids):
        raise StoreUnavailable("the store holds samples of stacks that are missing from it")
    offsets = csr(lengths)
    lengths = lengths[order]
    places = np.arange(lengths.sum()) + np.repeat(offsets[:-1][order] - csr(lengths)[:-1], lengths)
    return found[order], flat[places], lengths
