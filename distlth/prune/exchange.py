"""Row exchange: a local search that moves rows between groups so that dense blocks keep more magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from distlth.kernels import kernels
from distlth.prune.columns import Rows, budget_pairs, group_sums

kernel = kernels(__file__)

MAX_SWEEPS = 6
MIN_GAIN = 1e-3
# What uint16 holds: half the bytes to read make the search nearly twice as fast.
_LEVELS = 2**16 - 1


def exchange_rows(magnitudes: npt.NDArray[np.float64], groups: Sequence[Rows], budget: int) -> list[Rows]:
    """Groups of the same sizes whose best blocks within `budget` cells keep at least as much magnitude.

    `magnitudes` is rows x columns, zero where nothing is kept; `groups` hold each row once. A sweep gives
    each row in turn the exchange with a row of another group that gains most, if any gains. What gains is
    the blocks' value at the going price of a cell: the sum over all (group, column) pairs of
    max(0, magnitude - price x rows). Sweeps end when one adds less than 0.1% magnitude, or after six.

    Magnitudes count as integers of 16 bits here, so that every sum is exact: the result is the same on
    every machine and for any number of threads.
    """
    levels = _integer_levels(magnitudes)
    labels = np.empty(len(levels), dtype=np.int64)
    for index, rows in enumerate(groups):
        labels[rows] = index
    best = list(groups)
    best_value, surplus = _appraise(levels, best, budget)
    for _ in range(MAX_SWEEPS if len(best) > 1 else 0):
        _sweep(levels, surplus, labels)
        candidate = [np.flatnonzero(labels == index) for index in range(len(best))]
        value, surplus = _appraise(levels, candidate, budget)
        is_last = value <= best_value * (1 + MIN_GAIN)
        if value > best_value:
            best, best_value = candidate, value
        if is_last:
            break
    return best


def _integer_levels(magnitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Magnitudes as integers, coarse enough that the sum of a row or of a column stays below 2^30."""
    num_levels = min(_LEVELS, 2**30 // max(magnitudes.shape))
    peak = magnitudes.max()
    return np.rint(magnitudes * (num_levels / peak if peak > 0 else 0.0)).astype(np.uint16)


def _appraise(
    levels: npt.NDArray[np.uint16], groups: Sequence[Rows], budget: int
) -> tuple[int, npt.NDArray[np.int32]]:
    """What the best blocks keep, and each (group, column) pair's worth above the price of its cells."""
    sums = group_sums(levels, groups)
    sizes = np.array([len(rows) for rows in groups], dtype=np.int64)
    taken = budget_pairs(sums, sums, sizes, budget)
    per_cell = sums / sizes[:, None]
    price = per_cell[taken].min() if taken.any() else per_cell.max()
    surplus = sums - np.rint(price * sizes).astype(np.int64)[:, None]
    return int(sums[taken].sum()), surplus.astype(np.int32)


# The sums below are cut to 32 bits at every step, which keeps the loops in vector registers. What overflows
# on the way cancels: no column gains more than one magnitude, so the difference of two sums is below 2^30.
@kernel
def _worth(surplus: Any) -> Any:
    """The worth of a group by itself."""
    worth = numba.int32(0)
    for column in range(surplus.shape[0]):
        worth = numba.int32(worth + max(surplus[column], numba.int32(0)))
    return worth


@kernel
def _worth_with(other: Any, without: Any, joined: Any) -> Any:
    """The worth of two groups once `other` has gone from the second, `joined`, to the first, `without`."""
    zero = numba.int32(0)
    worth = numba.int32(0)
    for column in range(other.shape[0]):
        moved = numba.int32(other[column])
        here = numba.int32(without[column] + moved)
        there = numba.int32(joined[column] - moved)
        worth = numba.int32(worth + numba.int32(max(here, zero) + max(there, zero)))
    return worth


@kernel
def _sweep(levels: Any, surplus: Any, labels: Any) -> None:
    """Give each row in turn its best exchange; `surplus` and `labels` change in place."""
    worth = np.empty(len(surplus), dtype=np.int32)
    for index in range(len(surplus)):
        worth[index] = _worth(surplus[index])
    for row in range(len(levels)):
        group = labels[row]
        own = levels[row].astype(np.int32)
        without, joined = surplus[group] - own, surplus + own
        best, best_gain = -1, numba.int32(0)
        for other in range(len(levels)):
            to = labels[other]
            if to != group:
                after = _worth_with(levels[other], without, joined[to])
                gain = numba.int32(after - numba.int32(worth[group] + worth[to]))
                if gain > best_gain:
                    best, best_gain = other, gain
        if best >= 0:
            to = labels[best]
            change = levels[best].astype(np.int32) - own
            surplus[group] += change
            surplus[to] -= change
            worth[group], worth[to] = _worth(surplus[group]), _worth(surplus[to])
            labels[row], labels[best] = to, group
