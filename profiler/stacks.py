"""The stacks of a window as they come out of the kernel: addresses, how each walk ended, and by which means it went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symbolizer.types import Reason

# The layouts of bpf/sampler.h.
MAX_FRAMES = 127
STACK = np.dtype([("length", "<u4"), ("end", "<u4"), ("by_frame_pointer", "<u8", 2), ("addresses", "<u8", MAX_FRAMES)])
CUT_MARK = 1
WALK_ENDS = (  # enum walk_end; END_UNKNOWN: nobody looked
    None,
    None,
    Reason.MAPPINGS_NOT_KNOWN,
    Reason.NO_MAPPING,
    Reason.NO_UNWIND_TABLE,
    Reason.UNWIND_TABLE_NOT_LOADED,
    Reason.NO_UNWIND_ROW,
    Reason.UNWIND_RULE_UNSUPPORTED,
    Reason.STACK_UNREADABLE,
    Reason.STACK_BROKEN,
    Reason.TRUNCATED,
)
END_UNKNOWN, END_ROOT = 0, 1


@dataclass(frozen=True, slots=True)
class Stacks:
    """Address stacks by id: stack i has ids[i] (ascending) and addresses[offsets[i]:offsets[i + 1]], leaf first.

    Addresses are those to look up: return addresses less one. CUT_MARK stands where frames were left out. `ends` says
    how each stack ended (WALK_ENDS), `by_frame_pointer` of each address whether its caller was found so.
    """

    ids: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    addresses: NDArray[np.uint64]
    ends: NDArray[np.uint32]
    by_frame_pointer: NDArray[np.bool_]

    def find(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The position of each id, or -1 where there is no such stack."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        positions = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[positions] == ids, positions, -1)


NO_STACKS = Stacks(
    np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint32), np.empty(0, bool)
)


def to_look_up(chunks: Iterable[tuple[NDArray[np.uint64], NDArray[Any]]]) -> Stacks:
    """Stacks of STACK under their ids, none of them twice. Those that the kernel walked (END_UNKNOWN) come as return
    addresses. A chunk is done with when the next one is asked for."""
    parts = [_without_leftovers(ids, stacks) for ids, stacks in chunks]
    if not parts:
        return NO_STACKS
    ids, lengths, addresses, ends, marks = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(ids)
    begins, lengths = (np.cumsum(lengths) - lengths)[order], lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
    return Stacks(ids[order], offsets, addresses[index], ends[order], marks[index])


def _without_leftovers(ids: NDArray[np.uint64], stacks: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Copies of ids, lengths and, end to end, addresses, then of ends and, end to end, which were by frame pointer."""
    lengths = stacks["length"].astype(np.int64)
    used = np.arange(MAX_FRAMES) < lengths[:, None]
    addresses = stacks["addresses"][used]
    returns = (np.arange(MAX_FRAMES) > 0) & (stacks["end"] == END_UNKNOWN)[:, None]
    addresses -= returns[used].astype(np.uint64)
    marks = np.unpackbits(stacks["by_frame_pointer"].view(np.uint8), axis=1, bitorder="little")[:, :MAX_FRAMES]
    return ids.copy(), lengths, addresses, stacks["end"].copy(), marks[used].astype(bool)
