"""Which channels stand for each other: added up, or carried on by norms, activations and pooling.

Streams are what follows for layers: those whose output channels are added to each other, channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import Tensor

from distlth.models.graph import NO_WIRES, ZERO, Graph, Join, Layer, Node, Norm, Pointwise

ADDITIONS = {"add"}
Stream = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]


def streams(graph: Graph, layers: Collection[str]) -> tuple[Stream, ...]:
    """Return the residual streams that several of these layers write to, all channels of each.

    A stream has for each of its layers the channel (int64) at each place: channels at one place end in the
    same sums, behind norms, activations and pooling. Layers that share some places alone, as where a shortcut
    pads channels, are of different streams.
    """
    places = together(graph.num_wires, from_layers(graph, _in_stream))
    found: dict[tuple[int, ...], Stream] = {}
    for layer in graph.layers:
        if layer.name in layers:
            ordered, order = places[layer.made].sort()
            if len(ordered.unique()) == layer.count:
                found.setdefault(tuple(ordered.tolist()), {}).setdefault(layer.name, order)
    return tuple(stream for stream in found.values() if len(stream) > 1)


def carried(node: Node) -> Iterator[Pair]:
    """Iterate over pairs of a wire that a node makes and one that it is made from, channel by channel.

    Of the operands of a pointwise operator those that have an entry for each channel.
    """
    made = torch.arange(node.first, node.first + node.count)
    if isinstance(node, Norm):
        yield made, node.inputs
    if isinstance(node, Pointwise):
        operands = zip(node.operands, node.spread, strict=True)
        yield from ((made, wires) for wires, is_spread in operands if not is_spread)
    if isinstance(node, Join):
        some = node.sources != ZERO
        owners, sources = node.owners[some], node.sources[some]
        single = owners.bincount(minlength=node.count)[owners] == 1
        yield made[owners[single]], sources[single]


def from_layers(graph: Graph, pairs_of: Callable[[Node], Iterable[Pair]]) -> Iterator[Pair]:
    """Iterate over the pairs of all nodes, without what depends on no layer.

    A class token, or a mask of positions, is one wire for all channels: it connects nothing.
    """
    computed = torch.zeros(graph.num_wires, dtype=torch.bool)
    for node in graph.nodes:
        if isinstance(node, Pointwise):
            computed[node.made] = torch.stack([computed[wires] for wires in node.operands]).any(dim=0)
        else:
            computed[node.made] = isinstance(node, Layer) or bool(computed[node.reads].any())
        for made, read in pairs_of(node):
            yield made[computed[read]], read[computed[read]]


def together(count: int, pairs: Iterable[Pair]) -> Tensor:
    """Return for each of `count` wires the lowest of those that pairs connect it with; ZERO connects none."""
    sides = list(pairs)
    made, read = (torch.cat([NO_WIRES, *(pair[side] for pair in sides)]) for side in (0, 1))
    both = read > ZERO
    made, read = made[both], read[both]
    places = torch.arange(count)
    while True:
        lowest = places.scatter_reduce(0, made, places[read], "amin")
        lowest = lowest.scatter_reduce(0, read, places[made], "amin")
        lowest = lowest[lowest]
        if torch.equal(lowest, places):
            return places
        places = lowest


def _in_stream(node: Node) -> list[Pair]:
    """Return the pairs of a node whose channels end in one sum: of a product the first factor."""
    pairs = list(carried(node))
    return pairs if not isinstance(node, Pointwise) or node.title in ADDITIONS else pairs[:1]
