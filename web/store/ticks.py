"""How many ticks each frame was on, as array work over all stacks of a selection."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from web.store.ragged import Ragged
from web.store.stackcache import Stacks
from web.store.sums import Sums

_AT_A_TIME: Final = 1 << 14  # stacks


def weights(sums: Sums, stacks: Stacks) -> NDArray[np.float64]:
    """What each stack weighs: whole numbers, exact up to 2**53."""
    return np.bincount(stacks.rows, sums.counts, len(stacks.ids)).astype(np.float64, copy=False)


def ticks(sums: Sums, stacks: Stacks) -> NDArray[np.float64]:
    """By number of the frame; twice as many where it was twice in their stacks."""
    found = np.zeros(len(stacks.of))
    order = np.argsort(stacks.frames.start)
    start, length, weight = stacks.frames.start[order], stacks.frames.length[order], weights(sums, stacks)[order]
    for at in range(0, len(order), _AT_A_TIME):
        part = slice(at, at + _AT_A_TIME)
        begin, end = int(start[part][0]), int(start[part][-1] + length[part][-1])
        if end - begin <= 2 * int(length[part].sum()):
            # Reading what is in between as well, at no weight, takes less than picking out what is not.
            bounds = np.stack((start[part], start[part] + length[part]), 1).reshape(-1)
            each = np.repeat(
                np.stack((weight[part], np.zeros_like(weight[part])), 1).reshape(-1), np.diff(bounds, append=end)
            )
            flat = stacks.frames.flat[begin:end]
        else:
            flat, _ = Ragged(stacks.frames.flat, start[part], length[part]).packed()
            each = np.repeat(weight[part], length[part])
        found += np.bincount(flat, each, len(found))
    return found
