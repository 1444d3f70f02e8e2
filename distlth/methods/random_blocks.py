"""Random blocks: of regroup's shapes, at drawn rows and columns; the control of regrouped tickets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Source
from distlth.methods.blocks import Blocks, regroup_layers, structured

if TYPE_CHECKING:
    import numpy as np

    from distlth.prune.regroup import LayerRegroup
    from distlth.ticket import Structured


class RandomBlocks(Blocks):
    """Dense blocks of the heights and widths that `regroup` (`columns: budget`) finds, drawn by chance.

    A layer that cannot be grouped keeps as many weights, drawn.
    """

    method: Literal["random-blocks"] = Field(description="dense blocks, drawn")

    def make(self, source: Source) -> Structured:
        """Return the mask of drawn blocks."""
        from distlth.prune.draw import generator

        mask, rng = self.source_mask(source), generator(source.seed, source.kept)
        regrouped = regroup_layers(source, mask, {"min_rows": self.min_rows})
        return structured(mask, {name: _drawn(layer, rng) for name, layer in regrouped.items()})


def _drawn(layer: LayerRegroup, rng: np.random.Generator) -> LayerRegroup:
    from distlth.prune.blocks import block_mask
    from distlth.prune.draw import random_blocks, random_cells
    from distlth.prune.regroup import LayerRegroup

    shape = layer.mask.shape
    if not layer.blocks:
        return LayerRegroup(random_cells(shape, int(layer.mask.sum()), rng), (), layer.reason)
    blocks = random_blocks(layer.blocks, tuple(shape), rng)
    return LayerRegroup(block_mask(blocks, shape), blocks)
