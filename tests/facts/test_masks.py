"""Which layers of a mask are shown, and how their weights are ordered and told apart."""

from __future__ import annotations

import numpy as np
import torch

from distlth.facts.masks import (
    ADDED,
    DROPPED,
    EMPTY,
    KEPT,
    kept_share,
    layer_masks,
    ordered_cells,
    representative_layers,
)
from distlth.prune.blocks import Block
from distlth.prune.mask import Mask


def test_ordered_cells_show_planted_blocks_as_rectangles() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(12), rng.permutation(20)
    blocks = [
        Block(np.sort(rows[:5]).astype(np.int64), np.sort(columns[:8]).astype(np.int64)),
        Block(np.sort(rows[5:9]).astype(np.int64), np.sort(columns[8:14]).astype(np.int64)),
    ]
    after = torch.zeros(12, 20, dtype=torch.bool)
    for block in blocks:
        after[np.ix_(block.rows, block.columns)] = True
    _, cells = ordered_cells(None, after.reshape(12, 5, 2, 2), blocks)
    expected = np.full((12, 20), EMPTY)
    expected[:5, :8] = KEPT
    expected[5:9, 8:14] = KEPT
    assert (cells == expected).all()


def test_ordered_cells_say_what_became_of_each_weight() -> None:
    before = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    after = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    first, second = ordered_cells(before, after, ())
    assert first.tolist() == [[KEPT, KEPT, EMPTY], [DROPPED, EMPTY, EMPTY], [EMPTY, EMPTY, DROPPED]]
    assert second.tolist() == [[KEPT, KEPT, ADDED], [EMPTY] * 3, [EMPTY] * 3]


def test_a_layer_has_its_largest_block_first() -> None:
    columns = np.arange(4, dtype=np.int64)
    small, large = Block(np.array([0]), columns), Block(np.array([1, 2]), columns)
    mask = Mask.dense({"conv": (3, 4, 1, 1), "fc": (2, 3)})
    layer = layer_masks("regroup", "conv", mask, None, {"conv": (small, large)})
    assert layer.blocks == (large, small)
    assert layer_masks("refill", "fc", mask, mask, {}).blocks == ()
    assert kept_share(layer.cells[1]) == 1.0


def test_the_largest_layer_of_each_third_stands_for_it() -> None:
    shapes = {"a": (2, 1), "b": (4, 1), "c": (9, 1), "d": (8, 1), "e": (1, 1), "f": (3, 1)}
    assert representative_layers(Mask.dense(shapes)) == ("b", "c", "f")
    assert representative_layers(Mask.dense({"a": (2, 1)})) == ("a",)
