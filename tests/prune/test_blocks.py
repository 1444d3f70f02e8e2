"""The dense blocks that a mask alone shows."""

import numpy as np
import torch

from distlth.prune.blocks import Block, block_mask, dense_blocks
from distlth.prune.columns import Rows


def indices(*values: int) -> Rows:
    return np.array(values, dtype=np.int64)


def test_rows_with_the_same_columns_are_one_block() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    first, second = dense_blocks(mask.view(4, 1, 2, 2))
    assert (first.rows.tolist(), first.columns.tolist()) == ([0, 2], [1, 2])
    assert (second.rows.tolist(), second.columns.tolist()) == ([1], [0])


def test_regrouped_blocks_come_back() -> None:
    blocks = [Block(indices(0, 3, 5), indices(1, 2, 7)), Block(indices(1, 2), indices(0, 1))]
    found = dense_blocks(block_mask(blocks, torch.Size((6, 2, 2, 2))))
    assert [(b.rows.tolist(), b.columns.tolist()) for b in found] == [
        (b.rows.tolist(), b.columns.tolist()) for b in blocks
    ]


def test_an_empty_layer_has_no_blocks() -> None:
    assert dense_blocks(torch.zeros(4, 2, 3, 3, dtype=torch.bool)) == ()
