"""Dense blocks: a group of a layer's rows times a set of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distlth.prune.columns import Rows


@dataclass(frozen=True, eq=False)
class Block:
    """One dense block of a layer's C_out x F matrix: all cells of these rows and columns.

    Both are non-empty, strictly ascending int64 arrays of indices; ValueError otherwise.
    """

    rows: Rows
    columns: Rows

    def __post_init__(self) -> None:
        for name, indices in (("rows", self.rows), ("columns", self.columns)):
            if indices.dtype != np.int64 or indices.ndim != 1 or not len(indices):
                raise ValueError(f"block {name} must be a non-empty one-dimensional int64 array")
            if indices[0] < 0 or (np.diff(indices) <= 0).any():
                raise ValueError(f"block {name} must be ascending indices, each once")

    @property
    def num_cells(self) -> int:
        """The number of weights in the block."""
        return len(self.rows) * len(self.columns)


def row_order(blocks: Sequence[Block], num_rows: int) -> Rows:
    """All rows of a layer, those of the same block together and rows of no block last: for pictures."""
    in_blocks = np.concatenate([np.empty(0, dtype=np.int64), *(block.rows for block in blocks)])
    return np.concatenate([in_blocks, np.setdiff1d(np.arange(num_rows), in_blocks)])


def dense_blocks(mask: Tensor) -> tuple[Block, ...]:
    """Return the dense blocks of a layer's bool mask: its non-empty rows, grouped by the columns they keep.

    `mask` has the weight's shape, rows first. Each kept cell lies in exactly one block, those with the most
    cells come first, then by first row. A regrouped mask comes back as its blocks; an unstructured one as
    blocks of a row each.
    """
    kept = mask.numpy().reshape(mask.shape[0], -1)
    rows = np.flatnonzero(kept.any(axis=1))
    groups: dict[bytes, list[int]] = {}
    for row, pattern in zip(rows.tolist(), np.packbits(kept[rows], axis=1), strict=True):
        groups.setdefault(pattern.tobytes(), []).append(row)
    blocks = [Block(np.array(group), np.flatnonzero(kept[group[0]])) for group in groups.values()]
    return tuple(sorted(blocks, key=lambda block: (-block.num_cells, block.rows[0])))


def block_mask(blocks: Sequence[Block], shape: torch.Size) -> Tensor:
    """Return the bool mask of a layer of this weight shape that keeps the cells of the blocks."""
    kept = np.zeros((shape[0], shape.numel() // shape[0]), dtype=np.bool_)
    for block in blocks:
        kept[np.ix_(block.rows, block.columns)] = True
    return torch.from_numpy(kept).view(shape)
