"""Removing channels: what else must go so that a removed channel is exactly zero wherever it leads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distlth.models.flow import flow, pointwise
from distlth.models.graph import ALIVE, NO_WIRES, ZERO, Graph, Join, Layer, Node, Norm, Opaque, Pointwise

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Leak:
    """A layer whose removed channels do not stay zero up to the layers that read them, and why."""

    layer: str
    reason: str


def removal(graph: Graph, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which entries of biases and norms train (bool, flat), for each parameter that loses some.

    `kept` has for each masked layer its weights (bool). An output channel that keeps no weight, or whose
    kept weights read zeros alone, is removed: with these entries at zero it is exactly zero, in training and
    in evaluation, behind its layer and behind norms, activations, pooling and depthwise convolutions, until
    a channel that is alive is added to it. `leaks` has the exceptions.
    """
    return {name: ~entries for name, entries in flow(graph, kept).dead.items()}


def returning(graph: Graph, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which entries of biases and norms (bool, flat) one mask removes and another brings back."""
    lost, left = removal(graph, before), removal(graph, after)
    return {name: ~kept & left.get(name, torch.ones_like(kept)) for name, kept in lost.items()}


def leaks(graph: Graph, layers: Shapes) -> tuple[Leak, ...]:
    """Return the layers, of those given with their weights' shapes, whose removed channels may leak.

    Found without a mask, for the worst one: a particular ticket may have no channel that leaks.
    """
    return _Worst(graph, layers).leaks()


def gates(graph: Graph, layers: Shapes) -> tuple[str, ...]:
    """Return the layers, of those given, whose removed channels become constant factors of other channels.

    So does a channel that a squeeze-and-excitation block puts through a sigmoid: its layer's output is zero,
    sigmoid(0) = 0.5, and the channel that it gates is halved. Nothing is added and nothing of it trains.
    """
    return _Worst(graph, layers).gates()


class _Worst:
    """A network in which all layers in question have lost every channel."""

    def __init__(self, graph: Graph, layers: Shapes) -> None:
        self._graph, self._layers = graph, layers
        empty = {name: torch.zeros(shape[:2], dtype=torch.bool) for name, shape in layers.items()}
        self._values = flow(graph, empty).values

    def leaks(self) -> tuple[Leak, ...]:
        plain = {layer.name for layer in self._graph.layers if not layer.computes_bias}
        found = {name: "its weight or bias is computed" for name in self._layers if name not in plain}
        for node in self._graph.nodes:
            for wires, reason in (self._leak(node), self._mixed(node)):
                for name in self._origins(wires):
                    found.setdefault(name, reason)
        for name in self._unequal_uses():
            found.setdefault(name, "the norm behind it serves other layers too")
        return tuple(Leak(name, found[name]) for name in self._layers if name in found)

    def gates(self) -> tuple[str, ...]:
        found: set[str] = set()
        for node in self._graph.nodes:
            if isinstance(node, Pointwise) and len(node.operands) > 1:
                found |= self._gates_of(node)
        return tuple(name for name in self._layers if name in found)

    def _gates_of(self, node: Pointwise) -> set[str]:
        """Return the layers that a constant factor of a node comes from, and its other factors do not."""
        found: set[str] = set()
        for place, factor in enumerate(node.operands):
            if names := self._origins(self._constants(factor)):
                others = [wires for other, wires in enumerate(node.operands) if other != place]
                found |= names - self._origins(torch.cat(others))
        return found

    def _leak(self, node: Node) -> tuple[Tensor, str]:
        """Return the wires of removed channels that do not stay zero in a node, and what it does."""
        if isinstance(node, Layer) or (isinstance(node, Opaque) and node.adds_up):
            wires = self._constants(node.reads)
            reader = node.name if isinstance(node, Layer) else node.title
            return wires, f"a removed channel is {self._value(wires)}, not zero, where {reader} reads it"
        if isinstance(node, Norm) and node.weight is None:
            return self._removed(node.inputs), "a removed channel goes into a norm without weights"
        if isinstance(node, Opaque):
            return self._removed(node.sources), f"a removed channel goes into {node.title}"
        if isinstance(node, Pointwise) and node.parameter and self._values[node.made].isnan().any():
            return self._removed(node.reads), f"the parameter {node.parameter} is added to a removed channel"
        if isinstance(node, Pointwise):
            return self._taken(node, torch.cat([NO_WIRES, *self._addends(node)]))
        if isinstance(node, Join):
            return self._taken(node, node.sources[self._unequal(node)])
        return NO_WIRES, ""

    def _taken(self, node: Node, wires: Tensor) -> tuple[Tensor, str]:
        found = self._constants(wires)
        return found, f"a removed channel is {self._value(found)}, not zero, where {node.title} takes it"

    def _unequal(self, node: Join) -> Tensor:
        """Return which sources of a node are joined with other constants, such as zeros around an image."""
        live = self._values[node.sources].isnan()
        with_live = torch.zeros(node.count, dtype=torch.bool)
        with_live[node.owners[live]] = True
        return (self._values[node.made].isnan() & ~with_live)[node.owners]

    def _mixed(self, node: Node) -> tuple[Tensor, str]:
        """Return the removed channels among those that share one weight of a layer or norm."""
        found = [NO_WIRES]
        if isinstance(node, Layer) or (isinstance(node, Norm) and node.weight):
            for join in self._graph.upstream(node.reads, lambda _: NO_WIRES):
                if isinstance(join, Join):
                    found.append(self._removed(join.mixed))
        return torch.cat(found), f"{node.title} treats a removed channel and others alike"

    def _addends(self, node: Pointwise) -> list[Tensor]:
        """Return the operands that a node does not multiply, where it puts out anything alive."""
        if not self._values[node.made].isnan().any():
            return []
        tried = [[torch.full((node.count,), ALIVE) for _ in node.operands] for _ in node.operands]
        for place, values in enumerate(tried):
            values[place].zero_()
        return [
            wires
            for wires, values in zip(node.operands, tried, strict=True)
            if pointwise(node, values).isnan().any()
        ]

    def _unequal_uses(self) -> set[str]:
        """Return the layers behind which a norm runs that runs behind others, too."""
        uses: dict[str, list[Norm]] = defaultdict(list)
        for node in self._graph.nodes:
            if isinstance(node, Norm) and node.weight:
                uses[node.weight].append(node)
        found = [[self._origins(norm.inputs) for norm in norms] for norms in uses.values() if len(norms) > 1]
        return {name for sets in found for names in sets if names != sets[0] for name in names | sets[0]}

    def _origins(self, wires: Tensor) -> set[str]:
        """Return the layers in question that these wires have their constant values from."""
        if not len(wires):
            return set()
        makers = self._graph.upstream(self._removed(wires), self._passed)
        return {node.name for node in makers if isinstance(node, Layer)} & self._layers.keys()

    def _passed(self, node: Node) -> Tensor:
        stops = isinstance(node, Layer) and node.groups == 1
        return NO_WIRES if stops else self._removed(node.reads)

    def _removed(self, wires: Tensor) -> Tensor:
        return wires[~self._values[wires].isnan() & (wires > ZERO)]

    def _constants(self, wires: Tensor) -> Tensor:
        values = self._values[wires]
        return wires[~values.isnan() & (values != 0)]

    def _value(self, wires: Tensor) -> str:
        return f"{self._values[wires[0]]:.3g}" if len(wires) else ""
