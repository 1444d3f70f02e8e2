"""Masks by chance: random weights, channels and blocks, as many as a method keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from distlth.prune.blocks import Block
from distlth.prune.mask import Mask

Shape = tuple[int, ...]


def generator(seed: int, kept: int) -> np.random.Generator:
    """Return where all random choices of one ticket come from: other ones for each seed and planned size."""
    return np.random.default_rng([seed, kept])


def random_weights(counts: Mapping[str, int], shapes: Mapping[str, Shape], rng: np.random.Generator) -> Mask:
    """Return the mask that keeps `counts` weights of each layer, drawn without regard to anything."""
    return Mask({name: random_cells(shape, counts[name], rng) for name, shape in shapes.items()})


def random_cells(shape: Sequence[int], count: int, rng: np.random.Generator) -> Tensor:
    """Return a bool tensor of this shape with `count` True cells, drawn."""
    cells = torch.zeros(prod(shape), dtype=torch.bool)
    cells[torch.from_numpy(rng.permutation(prod(shape))[:count])] = True
    return cells.view(*shape)


def random_channels(counts: Mapping[str, int], shapes: Mapping[str, Shape], rng: np.random.Generator) -> Mask:
    """Return the mask of `counts` whole output channels of each layer, drawn."""
    layers = {}
    for name, shape in shapes.items():
        kept = random_cells(shape[:1], counts[name], rng)
        layers[name] = kept.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    return Mask(layers)


def random_blocks(blocks: Sequence[Block], shape: Shape, rng: np.random.Generator) -> tuple[Block, ...]:
    """Return blocks of the same heights and widths for a layer of this shape, of drawn rows and columns.

    `blocks` share no row, and neither do those returned.
    """
    ends = np.cumsum([len(block.rows) for block in blocks])
    rows = np.split(rng.permutation(shape[0]), ends)[: len(blocks)]
    return tuple(
        Block(np.sort(group), np.sort(rng.permutation(prod(shape[1:]))[: len(block.columns)]))
        for group, block in zip(rows, blocks, strict=True)
    )
