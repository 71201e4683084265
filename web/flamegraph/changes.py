"""Which functions weigh more or less in one profile than in another, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.model import StackTable, functions_of
from symbolizer.types import Frame
from web.flamegraph.diff import joined, z_scores


@dataclass(frozen=True, slots=True)
class Changes:
    """The functions of two profiles, told apart by name, kind and binary.

    For function i: `own` is what it ran itself and `total` what it ran with all that it called, each sample counted
    once, both as counts before (row 0) and after (row 1), float64. `whole` is all of either profile. `own_z` and
    `total_z` are by how many standard errors those grew, as in diff.significance().
    """

    frames: list[Frame]
    binaries: list[str]
    own: NDArray[np.float64]
    total: NDArray[np.float64]
    whole: NDArray[np.float64]
    own_z: NDArray[np.float64]
    total_z: NDArray[np.float64]
    absolute: bool

    @property
    def scale(self) -> NDArray[np.float64]:
        """What counts before and after are multiplied with to be compared: per cent of either side, or 1."""
        return np.ones(2) if self.absolute else 100 / np.maximum(self.whole, 1)

    @property
    def own_change(self) -> NDArray[np.float64]:
        """In points, or in counts where `absolute`; likewise total_change."""
        return self._change(self.own)

    @property
    def total_change(self) -> NDArray[np.float64]:
        return self._change(self.total)

    def _change(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = counts * self.scale[:, None]
        return np.asarray(scaled[1] - scaled[0])

    def largest(self, *, by_total: bool = False) -> list[int]:
        """The functions that changed, the largest change of what they ran themselves first (or of their totals)."""
        first, then = np.abs(self.own_change), np.abs(self.total_change)
        if by_total:
            first, then = then, first
        order = sorted(range(len(first)), key=lambda i: (-first[i], -then[i], self.frames[i].function))
        return [i for i in order if first[i] or then[i]]


def changes_of(before: StackTable, after: StackTable, *, absolute: bool = False) -> Changes:
    """Shares are compared, or counts where `absolute`."""
    table, stacks = joined(before, after), len(before.counts)
    functions = functions_of(table)
    own, total = np.zeros((2, len(functions.frames))), np.zeros((2, len(functions.frames)))
    for side, (first, stop) in enumerate(((0, stacks), (stacks, len(table.counts)))):
        _add(table, functions.of, first, stop, own[side], total[side])
    whole = np.array([before.counts.sum(), after.counts.sum()], np.float64)
    each = before.per_sample, after.per_sample
    return Changes(
        functions.frames,
        functions.binaries,
        own,
        total,
        whole,
        z_scores(own[0], own[1], whole[0], whole[1], absolute=absolute, per_sample=each),
        z_scores(total[0], total[1], whole[0], whole[1], absolute=absolute, per_sample=each),
        absolute,
    )


def _add(
    table: StackTable,
    function_of: NDArray[np.int64],
    first: int,
    stop: int,
    own: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Adds what each function ran itself, and with all that it called, in stacks `first` to `stop`."""
    step = 1 << 16  # stacks: what is made for them at a time stays small
    for at in range(first, stop, step):
        end = min(at + step, stop)
        offsets = table.offsets[at : end + 1]
        counts = table.counts[at:end]
        depths = np.diff(offsets)
        some = depths > 0
        leaf = function_of[table.index[offsets[1:][some] - 1]]
        own += np.bincount(leaf, counts[some], len(own))
        pairs = np.unique(
            np.repeat(np.arange(end - at), depths) * len(own) + function_of[table.index[offsets[0] : offsets[-1]]]
        )
        total += np.bincount(pairs % max(len(own), 1), counts[pairs // max(len(own), 1)], len(own))
