"""Regroup: turn an unstructured mask into dense blocks, each a group of rows times a set of columns.

A layer is seen as a matrix of C_out rows and F = C_in kh kw columns (arXiv 2202.04736, section 3.3). The
rows that keep anything are partitioned into groups, and each group gets one set of columns. Three choices:

`budget` (default) keeps no more cells than the mask did. Groups are 2 x `min_rows` rows high in layers of
8 x `min_rows` rows and more, `min_rows` high in layers of 2 x `min_rows` and more, and half that in smaller
ones (with `min_rows` = 16: 32, 16 and 8), so that small layers group too; rows that are left over make a
last, smaller group, or join the last one when fewer than half of `min_rows`. The hypergraph partition gives
the start, and row exchanges then raise the magnitude that the blocks keep.

`algorithm3` is the rule of the paper's text (see `algorithm3_blocks`). Density is not controlled.

`reference` is what the authors' code does, with its faults (see `distlth.prune.reference`): most layers of a
mask that keeps much come back as they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from distlth.prune.algorithm3 import Thresholds, algorithm3_blocks
from distlth.prune.blocks import Block, block_mask
from distlth.prune.columns import budget_pairs, group_sums
from distlth.prune.exchange import exchange_rows
from distlth.prune.mask import check_weight
from distlth.prune.partition import partition_rows
from distlth.prune.reference import GROUPS, reference_blocks

COLUMN_CHOICES = ("budget", "algorithm3", "reference")
MAX_CLUSTERS = 8
# Row exchange makes up for a coarse start: a sample of the columns costs no magnitude that could be measured.
START_HYPEREDGES = 12


NO_BLOCK = {
    "budget": "the partition gave no block of {} rows or more",
    "algorithm3": "the partition gave no block of {} rows or more",
    "reference": "the authors' code finds no block in it",
}


@dataclass(frozen=True, eq=False)
class LayerRegroup:
    """One layer, regrouped: its bool mask and the blocks whose union it is.

    Where `reason` is not None the layer could not be grouped for that reason: `mask` is then the one that
    came in, and `blocks` is empty.
    """

    mask: Tensor
    blocks: tuple[Block, ...]
    reason: str | None = None


def regroup_layer(
    weight: Tensor,
    mask: Tensor,
    *,
    columns: str = "budget",
    min_rows: int = 16,
    thresholds: Thresholds | None = None,
    budget: int | None = None,
    threads: int = 1,
) -> LayerRegroup:
    """Return one layer's mask as dense blocks, and nothing outside them.

    `weight` (float32) and `mask` (bool) have the shape C_out x C_in/groups x kh x kw. Each kept cell lies in
    exactly one block; cells inside blocks are kept whether `mask` kept them or not. `columns` is one of
    COLUMN_CHOICES, `min_rows` the rows that a block of `budget` should have at least, and `thresholds` are
    those of `algorithm3`. The blocks of `budget` have `budget` cells at most, by default as many as `mask`
    keeps. The `threads` of the partitioner change the speed but not the result.

    A layer that cannot be grouped comes back unchanged with the reason. Raises ValueError for an unknown
    column choice, parameters out of range, or a weight that does not fit the mask or is not finite.
    """
    _check_parameters(columns, min_rows, threads)
    check_weight("of the layer", mask, weight)
    kept = mask.numpy().reshape(mask.shape[0], -1)
    rows = np.flatnonzero(kept.any(axis=1))
    thresholds = thresholds or Thresholds()
    fewest = {"budget": min_rows // 2, "reference": GROUPS, "algorithm3": thresholds.min_rows}[columns]
    reason = _obstacle(mask, len(rows), fewest)
    if reason is not None:
        return LayerRegroup(mask, (), reason)
    if columns == "reference":
        blocks = reference_blocks(kept[rows], threads=threads)
    elif columns == "algorithm3":
        blocks = algorithm3_blocks(kept[rows], thresholds, threads=threads)
    else:
        magnitudes = weight.detach().abs().double().numpy().reshape(kept.shape) * kept
        blocks = _budget_blocks(
            magnitudes[rows], kept[rows], min_rows, int(kept.sum()) if budget is None else budget, threads
        )
    if not blocks:
        return LayerRegroup(mask, (), NO_BLOCK[columns].format(fewest))
    placed = tuple(Block(rows[block.rows], block.columns) for block in blocks)
    return LayerRegroup(block_mask(placed, mask.shape), placed)


def _check_parameters(columns: str, min_rows: int, threads: int) -> None:
    if columns not in COLUMN_CHOICES:
        raise ValueError(f"unknown column choice {columns!r}; known: {', '.join(COLUMN_CHOICES)}")
    if min_rows < 2:
        raise ValueError(f"min_rows must be at least 2, not {min_rows}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")


def _obstacle(mask: Tensor, num_rows: int, smallest: int) -> str | None:
    """Why a layer of `num_rows` non-empty rows cannot be grouped, if it cannot."""
    if mask.shape[1] == 1:
        return "each filter sees a single input channel (depthwise): its rows share no inputs"
    if num_rows == 0:
        return "it keeps no weights"
    if num_rows < smallest:
        return f"only {num_rows} rows keep any weights, a group needs {smallest}"
    return None


def _budget_blocks(
    magnitudes: npt.NDArray[np.float64],
    kept: npt.NDArray[np.bool_],
    min_rows: int,
    budget: int,
    threads: int,
) -> list[Block]:
    sizes = group_sizes(len(kept), min_rows)
    clusters = partition_rows(
        kept, min(len(sizes), MAX_CLUSTERS), max_hyperedges=START_HYPEREDGES, threads=threads
    )
    start = np.split(np.argsort(clusters, kind="stable"), np.cumsum(sizes)[:-1])
    groups = exchange_rows(magnitudes, [np.sort(rows) for rows in start], budget)
    pairs = budget_pairs(group_sums(magnitudes, groups), group_sums(kept, groups), np.array(sizes), budget)
    return [
        Block(rows, np.flatnonzero(taken)) for rows, taken in zip(groups, pairs, strict=True) if taken.any()
    ]


def group_sizes(num_rows: int, min_rows: int) -> list[int]:
    """The heights of the `budget` groups of a layer with `num_rows` non-empty rows; they sum to `num_rows`.

    Equal, but for the last one where they do not divide the rows. Expects `num_rows` >= `min_rows` // 2.
    """
    if num_rows >= 8 * min_rows:
        height = 2 * min_rows
    elif num_rows >= 2 * min_rows:
        height = min_rows
    else:
        height = min_rows // 2
    sizes = [height] * (num_rows // height)
    left = num_rows % height
    if left >= min_rows // 2:
        return [*sizes, left]
    return [*sizes[:-1], sizes[-1] + left]
