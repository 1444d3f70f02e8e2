"""The forms that a layer can run in: by the blocks of its mask, or all of it as one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from torch import Tensor

from distlth.prune.blocks import Block, dense_blocks
from distlth.prune.columns import Rows

# Rows that the engine sums at a time; a block of more rows runs as several.
TILE_ROWS = 14
# Blocks of fewer rows are given to one with more columns, where that is faster.
FEW_ROWS = 8


@dataclass(frozen=True, eq=False)
class Form:
    """How a layer runs: its blocks, and the rows that keep nothing. Columns count all input channels."""

    blocks: tuple[Block, ...]
    empty_rows: Rows
    is_dense: bool

    @property
    def num_cells(self) -> int:
        """The number of weights that are multiplied for a pixel."""
        return sum(block.num_cells for block in self.blocks)


@dataclass(frozen=True, eq=False)
class Forms:
    """Both forms that a layer could run in."""

    dense: Form
    by_blocks: Form

    @property
    def by_cost(self) -> Form:
        """The form that should take fewer cycles in the engine (`cost`)."""
        return self.dense if _total(self.dense.blocks) <= _total(self.by_blocks.blocks) else self.by_blocks

    @property
    def differ(self) -> bool:
        """Whether the blocks leave anything out."""
        return self.by_blocks.num_cells < self.dense.num_cells


def forms(kept: Tensor, groups: int = 1) -> Forms:
    """Return the forms of a layer whose mask is `kept` (bool, C_out x C_in/groups x ...)."""
    by_blocks, dense = tuple(_joined(list(_in_groups(kept, groups)))), tuple(_whole(kept, groups))
    in_blocks = [block.rows for block in by_blocks]
    empty = np.setdiff1d(np.arange(len(kept)), np.concatenate(in_blocks) if in_blocks else [])
    nothing = np.empty(0, np.int64)
    return Forms(Form(dense, nothing, True), Form(by_blocks, empty.astype(np.int64), False))


def cost(num_rows: int, num_columns: int) -> float:
    """Return about how many cycles the engine takes for 32 pixels of a block, with AVX-512.

    Measured: a column costs two products a row, or the loads of its pixels where there are few rows.
    """
    tiles = ceil(num_rows / TILE_ROWS)
    rows = num_rows / tiles
    return tiles * (num_columns * max(2 * rows + 0.5, rows + 4.5) + 30 + 6 * rows)


def _total(blocks: Sequence[Block]) -> float:
    return sum(cost(len(block.rows), len(block.columns)) for block in blocks)


def _in_groups(kept: Tensor, groups: int) -> Iterator[Block]:
    """Iterate over the blocks of each group of a grouped convolution."""
    flat = kept.reshape(len(kept), -1)
    for number, part in enumerate(flat.chunk(groups)):
        for block in dense_blocks(part):
            first_row, first_column = number * len(part), number * flat.shape[1]
            yield Block(block.rows + first_row, block.columns + first_column)


def _whole(kept: Tensor, groups: int) -> Iterator[Block]:
    """Iterate over one block for each group: all of its rows and columns."""
    height, width = len(kept) // groups, kept[0].numel()
    for number in range(groups):
        yield Block(np.arange(height) + number * height, np.arange(width) + number * width)


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Give the rows of small blocks to larger ones that have all of their columns, where that is faster."""
    tall = [block for block in blocks if len(block.rows) >= FEW_ROWS]
    small = [block for block in blocks if len(block.rows) < FEW_ROWS]
    width = max((block.columns[-1] + 1 for block in blocks), default=0)
    has = np.zeros((len(tall), width), np.bool_)
    for index, block in enumerate(tall):
        has[index, block.columns] = True
    alone = []
    for block in small:
        hosts = np.flatnonzero(has[:, block.columns].all(axis=1))
        more = [_more(tall[host], len(block.rows)) for host in hosts]
        if more and min(more) < cost(len(block.rows), len(block.columns)):
            host = hosts[int(np.argmin(more))]
            tall[host] = replace(tall[host], rows=np.sort(np.concatenate([tall[host].rows, block.rows])))
        else:
            alone.append(block)
    return [*tall, *alone]


def _more(block: Block, num_rows: int) -> float:
    """Return what further rows cost in a block."""
    height, columns = len(block.rows), len(block.columns)
    return cost(height + num_rows, columns) - cost(height, columns)
