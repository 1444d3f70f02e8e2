"""How much of a masked network does anything: alive weights, and the multiply-accumulates that they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distlth.models.flow import connections, flow
from distlth.models.graph import Graph, Join, Layer, Node, Norm, Pointwise


def alive(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> dict[str, Tensor]:
    """Return the alive weights (bool) of each layer of `kept`, which has the kept ones.

    A kept weight is alive if its input can be non-zero and its output is used. With `removed` the channels
    that keep nothing are gone (`removal`); else their biases and norms may still put out anything.
    """
    return _Usage(graph, kept, removed).alive()


@dataclass(frozen=True)
class Alive:
    """The number of alive weights in masked layers, and the multiply-accumulates of one image that cost time.

    `macs` has other layers' too, with the channels that can be non-zero and are used.
    """

    weights: int
    macs: int


def count_alive(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> Alive:
    """Return both counts of a mask; see `alive`."""
    usage, found, work = _Usage(graph, kept, removed), dict[str, Tensor](), 0
    for layer in graph.layers:
        own = usage.weights(layer)
        work += layer.positions * int(torch.count_nonzero(own))
        if layer.name in kept:  # a layer may run several times
            found[layer.name] = found[layer.name] | own if layer.name in found else own
    work += sum(int(product.costs[usage.changing(product)].sum()) for product in graph.products)
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


class _Usage:
    """Which wires are used, found backwards from the logits, under a mask."""

    def __init__(self, graph: Graph, kept: Mapping[str, Tensor], removed: bool) -> None:
        self._graph, self._kept = graph, kept
        self._values = flow(graph, kept, removed=removed).values
        self._used = torch.zeros(graph.num_wires, dtype=torch.bool)
        self._used[graph.outputs] = True
        for node in reversed(graph.nodes):
            self._used[self._needed(node)] = True

    def alive(self) -> dict[str, Tensor]:
        found = {name: torch.zeros_like(kept) for name, kept in self._kept.items()}
        for layer in self._graph.layers:
            if layer.name in found:
                found[layer.name] |= self.weights(layer)
        return found

    def weights(self, layer: Layer) -> Tensor:
        """Return the alive weights of a layer, as it runs this time."""
        pairs = self._pairs(layer).reshape(*layer.shape[:2], *[1] * (len(layer.shape) - 2))
        return pairs & self._kept.get(layer.name, torch.ones(layer.shape, dtype=torch.bool))

    def changing(self, node: Node) -> Tensor:
        """Return which of the wires that a node makes are used and no constants (bool)."""
        return self._used[node.made] & self._values[node.made].isnan()

    def _needed(self, node: Node) -> Tensor:
        """Return the wires that a node's used wires depend on."""
        if isinstance(node, Layer):
            read = self._pairs(node).any(dim=1).flatten()
            return node.inputs[read]
        changing = self.changing(node)
        if isinstance(node, Pointwise):
            return torch.cat([wires[changing] for wires in node.operands])
        if isinstance(node, Norm) and not node.mixes:
            return node.inputs[changing]
        if isinstance(node, Join):
            return node.sources[changing[node.owners]]
        return node.reads[changing.any().expand(len(node.reads))]

    def _pairs(self, layer: Layer) -> Tensor:
        """Return which input and output channels of a layer do anything for each other, by groups."""
        used = self._used[layer.made] & self._values[layer.made].isnan()
        fed = self._values[layer.inputs] != 0  # NaN too
        rows = used.reshape(layer.groups, -1, 1) & fed.reshape(layer.groups, 1, -1)
        return rows & connections(layer, self._kept)
