"""Measure which form of a layer is faster: both run in the engine by themselves, in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distlth.execute.blocks import Form, Forms
from distlth.execute.cpu import Network, run
from distlth.execute.cpu.engine import InstructionSet
from distlth.execute.product import Product

ROUNDS = 3
# Processor time for all layers of a network; what is left when it is used up goes by what forms cost.
SECONDS = 1.5


@dataclass(frozen=True)
class LayerTime:
    """A layer's seconds for one image in either form: medians of one thread's processor time.

    `cells` is the share of the weights that the blocks have.
    """

    dense: float
    by_blocks: float
    cells: float


class Choice:
    """Chooses the form of each layer, once: by what forms cost, or by measuring for `seconds` in all.

    `times` has what was measured, by layer.
    """

    def __init__(self, instructions: InstructionSet, seconds: float = 0.0, rounds: int = ROUNDS) -> None:
        self.times: dict[str, LayerTime] = {}
        self._instructions, self._left, self._rounds = instructions, seconds, rounds
        self._chosen: dict[str, Form] = {}

    def of(self, product: Product, forms: Forms, shape: Sequence[int]) -> Form:
        """Return the form of a layer that reads images of this shape: N x C x H x W, or N x C."""
        if product.layer not in self._chosen:
            self._chosen[product.layer] = self._choose(product, forms, shape)
        return self._chosen[product.layer]

    def _choose(self, product: Product, forms: Forms, shape: Sequence[int]) -> Form:
        if self._left <= 0 or not forms.differ:
            return forms.by_cost
        start = time.thread_time()
        found = self._measured(product, forms, torch.zeros(1, *shape[1:], *[1] * (4 - len(shape))))
        self._left -= time.thread_time() - start
        self.times[product.layer] = found
        return forms.dense if found.dense <= found.by_blocks else forms.by_blocks

    def _measured(self, product: Product, forms: Forms, image: Tensor) -> LayerTime:
        networks = [Network(self._instructions) for _ in range(2)]
        for network, form in zip(networks, (forms.dense, forms.by_blocks), strict=True):
            replace(product, form=form).emit(network, 0)
            run(image, network, 1)  # its plan is made, its weights are read
        turns = [[_seconds(network, image) for network in networks] for _ in range(self._rounds)]
        dense, by_blocks = (statistics.median(times) for times in zip(*turns, strict=True))
        return LayerTime(dense, by_blocks, forms.by_blocks.num_cells / forms.dense.num_cells)


def measuring(instructions: InstructionSet, *, measured: bool) -> Choice:
    """Return a choice by measuring, or by what forms cost."""
    return Choice(instructions, SECONDS if measured else 0.0)


def thorough(instructions: InstructionSet = "auto", rounds: int = 15) -> Choice:
    """Return a choice that measures every layer, however long it takes."""
    return Choice(instructions, math.inf, rounds)


def _seconds(network: Network, image: Tensor) -> float:
    start = time.thread_time()
    run(image, network, 1)
    return time.thread_time() - start
