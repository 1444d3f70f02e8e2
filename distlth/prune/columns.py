"""Column choice for regroup: which columns of each group of rows become its dense block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def group_sums(matrix: npt.NDArray[Any], groups: Sequence[Rows]) -> npt.NDArray[Any]:
    """The column sums of each group of rows, groups x columns: int64 for a bool or integer matrix."""
    dtype = np.int64 if matrix.dtype.kind in "biu" else matrix.dtype
    return np.stack([matrix[rows].sum(axis=0, dtype=dtype) for rows in groups])


def budget_pairs(
    magnitudes: npt.NDArray[Any], counts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], budget: int
) -> npt.NDArray[np.bool_]:
    """The (group, column) pairs of best magnitude per cell that fit into `budget` cells together.

    `magnitudes` and `counts` (groups x columns) say how much magnitude and how many kept weights a pair
    holds; it costs `sizes[group]` cells. Among equal magnitudes the pair with more kept weights per cell
    comes first, then the lower group and column. A pair that no longer fits is passed over, so that no
    pair left out with a kept weight in it would still fit; pairs without any are never taken.
    """
    per_cell = (magnitudes / sizes[:, None]).ravel()
    kept_per_cell = (counts / sizes[:, None]).ravel()
    order = np.lexsort((-kept_per_cell, -per_cell))
    order = order[kept_per_cell[order] > 0]
    cells = np.repeat(sizes, magnitudes.shape[1])[order]
    taken = np.zeros(magnitudes.size, dtype=np.bool_)
    while len(order):
        num_fitting = int(np.searchsorted(np.cumsum(cells), budget, side="right"))
        taken[order[:num_fitting]] = True
        budget -= int(cells[:num_fitting].sum())
        fits = cells[num_fitting:] <= budget
        order, cells = order[num_fitting:][fits], cells[num_fitting:][fits]
    return taken.reshape(magnitudes.shape)
