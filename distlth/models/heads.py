"""Heads: the output channels of a layer that attention multiplies with each other."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from distlth.models.graph import ZERO, Graph, Join, Node, Norm, Pointwise
from distlth.models.streams import Pair, from_layers, together


def heads(graph: Graph, layers: Collection[str]) -> dict[str, Tensor]:
    """Return the channels of each head (int64, heads x channels) for those of these layers that have any.

    A head is what is connected by products of matrices, softmax and whatever else computes entry by entry,
    without a layer in between, or a norm that looks at several channels: its rows of query, key and value,
    where one layer makes all three. A layer whose heads are of different sizes is left out.
    """
    if not graph.products:
        return {}
    place = together(graph.num_wires, from_layers(graph, _pairs))
    multiplied = torch.cat([place[product.made] for product in graph.products])
    found = {}
    for layer in graph.layers:
        own = place[layer.made]
        _, sizes = own.unique(return_counts=True)
        if layer.name in layers and bool(torch.isin(own, multiplied).all()) and len(sizes.unique()) == 1:
            found[layer.name] = own.argsort(stable=True).reshape(len(sizes), -1)
    return {name: rows for name, rows in found.items() if rows.shape[1] > 1}


def _pairs(node: Node) -> list[Pair]:
    """Return the wires that a node makes with those that it connects them to."""
    made = torch.arange(node.first, node.first + node.count)
    if isinstance(node, Pointwise):
        return [(made, wires) for wires in node.operands]
    if isinstance(node, Join):
        some = node.sources > ZERO
        return [(made[node.owners[some]], node.sources[some])]
    if isinstance(node, Norm) and not node.mixes:
        return [(made, node.inputs)]
    return []
