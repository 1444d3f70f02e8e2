"""Which wires of a network are used: found backwards from the logits, through what can vary."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distlth.models.flow import connections
from distlth.models.graph import Graph, Join, Layer, Node, Norm, Pointwise


class Usage:
    """The wires that are used: `used` (bool), with `kept` weights (bool, by layer) and these `values`.

    A wire is used that anything alive depends on up to the logits; with `everything`, every wire.
    """

    def __init__(
        self, graph: Graph, kept: Mapping[str, Tensor], values: Tensor, *, everything: bool = False
    ) -> None:
        self._kept, self._values = kept, values
        self.used = torch.full((graph.num_wires,), everything)
        self.used[graph.outputs] = True
        for node in reversed(graph.nodes):
            self.used[self._needed(node)] = True

    def pairs(self, layer: Layer) -> Tensor:
        """Return which channels of a layer do anything for each other, through one of its weights.

        Bool, groups x C_out / groups x C_in / groups.
        """
        used = self.used[layer.made] & self._values[layer.made].isnan()
        fed = self._values[layer.inputs] != 0  # NaN too
        rows = used.reshape(layer.groups, -1, 1) & fed.reshape(layer.groups, 1, -1)
        return rows & connections(layer, self._kept)

    def read(self, layer: Layer) -> Tensor:
        """Return the input wires of a layer that are used."""
        return layer.inputs[self.pairs(layer).any(dim=1).flatten()]

    def _needed(self, node: Node) -> Tensor:
        """Return the wires that a node's used wires depend on."""
        if isinstance(node, Layer):
            return self.read(node)
        changing = self.used[node.made] & self._values[node.made].isnan()
        if isinstance(node, Pointwise):
            return torch.cat([wires[changing] for wires in node.operands])
        if isinstance(node, Norm) and not node.mixes:
            return node.inputs[changing]
        if isinstance(node, Join):
            return node.sources[changing[node.owners]]
        return node.reads[changing.any().expand(len(node.reads))]
