"""Streams: layers whose output channels are added to each other, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from distlth.models.graph import NO_WIRES, Graph, Join, Layer, Node, Norm, Pointwise

ADDITIONS = {"add"}
Stream = dict[str, Tensor]


def streams(graph: Graph, layers: Collection[str]) -> tuple[Stream, ...]:
    """Return the residual streams that several of these layers write to, all channels of each.

    A stream has for each of its layers the channel (int64) at each place: channels at one place end in the
    same sums, behind norms, activations and pooling. Layers that share some places alone, as where a shortcut
    pads channels, are of different streams.
    """
    place = places(graph, _pairs)
    found: dict[tuple[int, ...], Stream] = {}
    for layer in graph.layers:
        if layer.name in layers:
            ordered, order = place[layer.made].sort()
            if len(ordered.unique()) == layer.count:
                found.setdefault(tuple(ordered.tolist()), {}).setdefault(layer.name, order)
    return tuple(stream for stream in found.values() if len(stream) > 1)


def places(graph: Graph, pairs_of: Callable[[Node], list[tuple[Tensor, Tensor]]]) -> Tensor:
    """Return for each wire the lowest of those that pairs of wires connect it to, directly or on the way.

    What depends on no layer, such as a class token or a mask of positions, connects nothing.
    """
    pairs = [pair for node in graph.nodes for pair in pairs_of(node)]
    made, read = (
        (torch.cat([NO_WIRES, *side]) for side in zip(*pairs, strict=True)) if pairs else (NO_WIRES,) * 2
    )
    computed = _computed(graph)[read]
    made, read = made[computed], read[computed]
    lowest = torch.arange(graph.num_wires)
    while True:
        lower = lowest.scatter_reduce(0, made, lowest[read], "amin").scatter_reduce(
            0, read, lowest[made], "amin"
        )
        lower = lower[lower]
        if torch.equal(lower, lowest):
            return lowest
        lowest = lower


def _computed(graph: Graph) -> Tensor:
    """Return which wires depend on a layer (bool)."""
    found = torch.zeros(graph.num_wires, dtype=torch.bool)
    for node in graph.nodes:
        if isinstance(node, Pointwise):
            found[node.made] = torch.stack([found[wires] for wires in node.operands]).any(dim=0)
        else:
            found[node.made] = isinstance(node, Layer) or bool(found[node.reads].any())
    return found


def _pairs(node: Node) -> list[tuple[Tensor, Tensor]]:
    """Return the wires that a node makes with those that stand for the same channels before it."""
    made = torch.arange(node.first, node.first + node.count)
    if isinstance(node, Norm) and len(node.inputs) == node.count:
        return [(made, node.inputs)]
    if isinstance(node, Pointwise):
        operands = node.operands if node.title in ADDITIONS else node.operands[:1]
        return [(made, wires) for wires in operands]
    if isinstance(node, Join) and torch.equal(node.owners.sort().values, torch.arange(node.count)):
        return [(made[node.owners], node.sources)]
    return []
