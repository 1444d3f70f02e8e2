"""Layers of structured masks beside the masks that they were made from: what became of each weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from distlth.prune.blocks import Block, row_order
from distlth.prune.mask import Mask

Cells = npt.NDArray[np.uint8]
Order = npt.NDArray[np.intp]

EMPTY, KEPT, ADDED, DROPPED = range(4)

NUM_REPRESENTATIVE_LAYERS = 3


@dataclass(frozen=True)
class LayerMasks:
    """One layer of a structured mask.

    `before` is the layer in the mask that the structured one was made from, where that is known, `after` in
    the structured one (bool, C_out x ...); `blocks` are its dense blocks where it was regrouped, the one with
    the most cells first.
    """

    method: str
    layer: str
    before: Tensor | None
    after: Tensor
    blocks: tuple[Block, ...]

    @property
    def cells(self) -> tuple[Cells, Cells]:
        """The layer before and after, as `ordered_cells` has them."""
        return ordered_cells(self.before, self.after, self.blocks)


def layer_masks(
    method: str, layer: str, mask: Mask, before: Mask | None, blocks: Mapping[str, Sequence[Block]]
) -> LayerMasks:
    """Return a layer of `mask`, which was made from `before`; `blocks` has the dense blocks of each layer."""
    largest_first = sorted(blocks.get(layer, ()), key=lambda block: -block.num_cells)
    old = None if before is None else before[layer]
    return LayerMasks(method, layer, old, mask[layer], tuple(largest_first))


def representative_layers(mask: Mask) -> tuple[str, ...]:
    """Return the largest layer of each third of the network: the same ones for all masks of a run."""
    names = list(mask)
    thirds = np.array_split(np.arange(len(names)), NUM_REPRESENTATIVE_LAYERS)
    return tuple(
        max((names[index] for index in third), key=lambda name: mask[name].numel())
        for third in thirds
        if len(third)
    )


def ordered_cells(before: Tensor | None, after: Tensor, blocks: Sequence[Block]) -> tuple[Cells, Cells]:
    """Return a layer before and after as matrices, with rows and columns ordered so that the structure shows.

    The matrices are C_out x (C_in kh kw). Cells are KEPT (in both), ADDED (only after), DROPPED (only before)
    or EMPTY. Rows of a block are adjacent, and so are its columns as far as blocks allow it; without blocks,
    the rows that keep most come first.
    """
    new = after.flatten(1).numpy()
    old = new if before is None else before.flatten(1).numpy()
    cells = np.ix_(*_orders(new, blocks))
    first = np.where(old, np.where(new, KEPT, DROPPED), EMPTY).astype(np.uint8)
    second = np.where(new, np.where(old, KEPT, ADDED), EMPTY).astype(np.uint8)
    return first[cells], second[cells]


def kept_share(cells: Cells) -> float:
    """Return the share of cells that are not EMPTY, 0..1: the density of the layer that they show."""
    return float(np.count_nonzero(cells)) / cells.size


def _orders(new: npt.NDArray[np.bool_], blocks: Sequence[Block]) -> tuple[Order, Order]:
    num_rows, num_columns = new.shape
    if not blocks:
        return np.argsort(-new.sum(axis=1), kind="stable"), np.arange(num_columns)
    member = np.zeros((len(blocks), num_columns), dtype=bool)
    for index, block in enumerate(blocks):
        member[index, block.columns] = True
    return np.asarray(row_order(blocks, num_rows)), np.lexsort(~member[::-1])
