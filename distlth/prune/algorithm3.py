"""Regroup as in the paper's text (arXiv 2202.04736, Algorithm 3): dense blocks, as long as one is found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from distlth.prune.blocks import Block
from distlth.prune.columns import Rows
from distlth.prune.partition import partition_rows


@dataclass(frozen=True)
class Thresholds:
    """The four numbers of Algorithm 3: `groups` is its t1, `min_kept` t2, `min_rows` b1, `min_columns` b2.

    The paper prints no values; these defaults are ours. Raises ValueError for one below 1.
    """

    groups: int = 8
    min_kept: int = 8
    min_rows: int = 16
    min_columns: int = 8

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


def algorithm3_blocks(kept: npt.NDArray[np.bool_], least: Thresholds, *, threads: int = 1) -> list[Block]:
    """Return the dense blocks of a layer's mask (rows x columns); none where none is found.

    The rows are partitioned into `groups`. A group of at least `min_rows` rows takes the columns of which it
    keeps at least `min_kept` weights; at least `min_columns` of them are a block. What blocks hold is taken
    out of the mask, and the same is done again with what is left, until a partition gives no block.

    The paper does not say what becomes of a cell that two blocks want. Here it belongs to the earlier one: a
    later block takes only columns of which no row of its group is in a block.
    """
    left = kept.copy()
    held = np.zeros_like(kept)
    blocks: list[Block] = []
    while found := _find(left, held, least, threads):
        for block in found:
            cells = np.ix_(block.rows, block.columns)
            left[cells], held[cells] = False, True
        blocks += found
    return blocks


def _find(
    left: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_], least: Thresholds, threads: int
) -> list[Block]:
    """Return the blocks that one partition of the rows that keep anything gives."""
    rows = np.flatnonzero(left.any(axis=1))
    if len(rows) < least.min_rows:
        return []
    num_groups = min(least.groups, len(rows))
    labels = partition_rows(left[rows], num_groups, threads=threads)
    blocks = []
    for group in (rows[labels == label] for label in range(num_groups)):
        columns = _dense_columns(left[group], held[group], least.min_kept)
        if len(group) >= least.min_rows and len(columns) >= least.min_columns:
            blocks.append(Block(group, columns))
    return blocks


def _dense_columns(left: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_], min_kept: int) -> Rows:
    """Return the columns that a group's rows keep `min_kept` weights of, and have none of in a block."""
    return np.flatnonzero((left.sum(axis=0) >= min_kept) & ~held.any(axis=0))
