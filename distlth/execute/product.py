"""A convolution or linear layer in the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import fx

from distlth.execute.blocks import Form
from distlth.execute.cpu import Network, Window

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Product:
    """A convolution or linear layer, and what is done to its result."""

    layer: str
    source: fx.Node
    weight: Doubles
    bias: Doubles
    form: Form
    channels: tuple[int, int]
    window: Window
    add: int | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def scaled(self, scale: Doubles, shift: Doubles) -> Product:
        """Return the product with a norm behind it."""
        weight = self.weight * scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        return replace(self, weight=weight, bias=self.bias * scale + shift)

    def emit(self, network: Network, source: int) -> int:
        """Add it to a network."""
        number = network.convolution(source, self.channels, self.window, add=self.add, bounds=self.bounds)
        width = self.weight[0].size
        matrix = self.weight.reshape(-1, width).astype(np.float32)
        groups = self.channels[0] * math.prod(self.window.size) // width
        first = np.arange(len(matrix)) // (len(matrix) // groups) * width  # column of each row
        for block in self.form.blocks:
            weights = matrix[np.ix_(block.rows, block.columns - first[block.rows[0]])]
            network.block(
                number, block.rows, block.columns, weights, self.bias[block.rows].astype(np.float32)
            )
        if len(rows := self.form.empty_rows):
            nothing = np.empty(0, np.int64)
            zeros = np.zeros((len(rows), 0), np.float32)
            network.block(number, rows, nothing, zeros, self.bias[rows].astype(np.float32))
        return number
