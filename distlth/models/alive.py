"""How much of a masked network does anything: alive weights, and the multiply-accumulates that they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distlth.models.flow import flow
from distlth.models.graph import Graph, Layer, Product
from distlth.models.usage import Usage


def alive(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> dict[str, Tensor]:
    """Return the alive weights (bool) of each layer of `kept`, which has the kept ones.

    A kept weight is alive if its input can be non-zero and its output is used. With `removed` the channels
    that keep nothing are gone (`removal`); else their biases and norms may still put out anything.
    """
    counted = _Counted(graph, kept, removed)
    found = {name: torch.zeros_like(weights) for name, weights in kept.items()}
    for layer in graph.layers:  # a layer may run several times
        if layer.name in found:
            found[layer.name] |= counted.weights(layer)
    return found


@dataclass(frozen=True)
class Alive:
    """The number of alive weights in masked layers, and the multiply-accumulates of one image that cost time.

    `macs` has other layers' too, with the channels that can be non-zero and are used.
    """

    weights: int
    macs: int


def count_alive(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> Alive:
    """Return both counts of a mask; see `alive`."""
    counted, found, work = _Counted(graph, kept, removed), dict[str, Tensor](), 0
    for layer in graph.layers:
        own = counted.weights(layer)
        work += layer.positions * int(torch.count_nonzero(own))
        if layer.name in kept:
            found[layer.name] = found[layer.name] | own if layer.name in found else own
    work += sum(int(product.costs[counted.changing(product)].sum()) for product in graph.products)
    return Alive(sum(int(torch.count_nonzero(weights)) for weights in found.values()), work)


def known_alive(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> Alive | None:
    """Return both counts of a mask; None where an operator is not followed (`Graph.unfollowed`)."""
    return None if graph.unfollowed else count_alive(graph, kept, removed=removed)


def alive_density(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> float:
    """Return alive weights over all weights of the layers of `kept`, a fraction."""
    total = sum(weights.numel() for weights in kept.values())
    return count_alive(graph, kept, removed=removed).weights / total


def macs(graph: Graph) -> int:
    """Return the multiply-accumulates of one image in convolutions, linear layers and attention."""
    return sum(layer.macs for layer in graph.layers) + sum(product.macs for product in graph.products)


class _Counted:
    """The alive weights of a network under a mask."""

    def __init__(self, graph: Graph, kept: Mapping[str, Tensor], removed: bool) -> None:
        self._kept, self._values = kept, flow(graph, kept, removed=removed).values
        self._usage = Usage(graph, kept, self._values)

    def weights(self, layer: Layer) -> Tensor:
        """Return the alive weights (bool) of a layer, as it runs this time."""
        pairs = self._usage.pairs(layer).reshape(*layer.shape[:2], *[1] * (len(layer.shape) - 2))
        return pairs & self._kept.get(layer.name, torch.ones(layer.shape, dtype=torch.bool))

    def changing(self, product: Product) -> Tensor:
        """Return which products (bool) are used and no constants."""
        return self._usage.used[product.made] & self._values[product.made].isnan()
