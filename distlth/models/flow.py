"""What flows along a network's wires under a mask: which are exactly zero, which constant, which alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from distlth.models.graph import ZERO, Graph, Join, Layer, Node, Norm, Operand, Pointwise

# The value of a wire that is no constant.
ALIVE = float("nan")

# What a live operand is tried with: an operator whose result is the same for all is constant. Signs and
# magnitudes vary, so that clamps and comparisons are not taken for constants; operands get other orders.
PROBES = (1.37, -0.83, 0.011, -0.029, 127.3, -211.7, 1e6, -3e6)


@dataclass(frozen=True, eq=False)
class Flow:
    """The value of each wire (float32; NaN where it is alive), and what makes it so.

    `dead` says for parameters which entries must be zero (bool, one a channel) for the values to hold.
    """

    values: Tensor
    dead: Mapping[str, Tensor]

    def of(self, node: Node) -> Tensor:
        """Return the values of the wires that a node makes."""
        return self.values[node.made]


def flow(graph: Graph, kept: Mapping[str, Tensor], *, removed: bool = True) -> Flow:
    """Return what flows along the wires when each layer of `kept` has these weights (bool) alone.

    A channel is removed where all its weights are dropped, or read zeros: with `removed` its layer's bias and
    the weights and biases of norms that read a constant are zero too, and so is whatever that makes zero.
    A parameter that is used several times loses an entry only where every use allows it. Without `removed`
    biases and norms may put out anything. The layer that makes the logits always may.
    """
    spared: dict[str, Tensor] = {}
    while True:
        found = _Pass(graph, kept, removed, spared).run()
        if not (quarrels := found.quarrels()):
            return Flow(found.values, {name: uses[0] for name, uses in found.dead.items() if uses[0].any()})
        for name, entries in quarrels.items():
            spared[name] = spared.get(name, torch.zeros_like(entries)) | entries


def connections(layer: Layer, kept: Mapping[str, Tensor]) -> Tensor:
    """Return which channels a layer's kept weights connect: bool, groups x C_out / groups x C_in / groups."""
    weights = kept.get(layer.name, torch.ones(layer.shape[:2], dtype=torch.bool))
    pairs = weights if weights.ndim == 2 else weights.flatten(2).any(dim=2)
    return pairs.reshape(layer.groups, -1, layer.shape[1])


class _Pass:
    """One pass along the nodes."""

    def __init__(
        self, graph: Graph, kept: Mapping[str, Tensor], removed: bool, spared: Mapping[str, Tensor]
    ) -> None:
        self._graph, self._kept, self._removed, self._spared = graph, kept, removed, spared
        self.values = torch.full((graph.num_wires,), ALIVE)
        self.values[ZERO] = 0.0
        self.dead: dict[str, list[Tensor]] = {}

    def run(self) -> _Pass:
        for node in self._graph.nodes:
            self.values[node.made] = self._value(node)
        return self

    def quarrels(self) -> dict[str, Tensor]:
        """Return the entries that one use of a parameter would zero and another would not."""
        stacked = {name: torch.stack(uses) for name, uses in self.dead.items() if len(uses) > 1}
        found = {name: uses.any(0) & ~uses.all(0) for name, uses in stacked.items()}
        return {name: entries for name, entries in found.items() if entries.any()}

    def _value(self, node: Node) -> Tensor:
        if isinstance(node, Layer):
            return self._layer(node)
        if isinstance(node, Norm):
            return self._norm(node)
        if isinstance(node, Pointwise):
            return pointwise(node, [self.values[wires] for wires in node.operands])
        if isinstance(node, Join):
            return _join(node, self.values)
        return torch.full((node.count,), ALIVE)

    def _layer(self, layer: Layer) -> Tensor:
        fed = (self.values[layer.inputs] != 0).reshape(layer.groups, 1, -1)  # NaN too
        if self._stays_alive(layer):
            return torch.full((layer.count,), ALIVE)
        constant = ~(connections(layer, self._kept) & fed).any(dim=2).flatten()
        return self._removed_where(constant, [layer.bias])

    def _stays_alive(self, layer: Layer) -> bool:
        """Return whether no output channel of a layer can be removed."""
        whole = layer.name not in self._kept and layer.groups == 1
        return whole or layer.computes_bias or layer.name in self._graph.logits

    def _norm(self, norm: Norm) -> Tensor:
        constant = ~self.values[norm.inputs].isnan()
        if norm.weight is None:
            return torch.full((norm.count,), ALIVE)
        return self._removed_where(constant, [norm.weight, norm.bias])

    def _removed_where(self, constant: Tensor, parameters: Sequence[str | None]) -> Tensor:
        """Zero the entries of parameters where a channel is constant; return the channels' values."""
        names = [name for name in parameters if name is not None]
        if names and not self._removed:
            return torch.full((len(constant),), ALIVE)
        for name in names:
            constant = constant & ~self._spared.get(name, torch.zeros_like(constant))
        for name in names:
            self.dead.setdefault(name, []).append(constant)
        return torch.where(constant, 0.0, ALIVE)


def pointwise(node: Pointwise, values: Sequence[Tensor]) -> Tensor:
    """Return the value of each wire of a pointwise operator, from those of its operands."""
    rounds = len(PROBES)
    probed = [
        torch.where(value.isnan(), torch.tensor(PROBES).roll(3 * index)[:, None], value).to(dtype)
        for index, (value, dtype) in enumerate(zip(values, node.dtypes, strict=True))
    ]

    def fill(arg: Any) -> Any:
        return probed[arg.index].clone() if isinstance(arg, Operand) else arg

    results = _operator(node.op)(*map(fill, node.args), **{key: fill(arg) for key, arg in node.kwargs})
    results = results.expand(rounds, node.count).to(torch.float32)
    return torch.where((results == results[0]).all(dim=0), results[0], ALIVE)


@cache
def _operator(name: str) -> Any:
    space, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, space), packet), overload)


def _join(node: Join, values: Tensor) -> Tensor:
    """Return zero where all sources are, a constant where none is alive, else ALIVE."""
    sources = values[node.sources]
    return torch.zeros(node.count).scatter_reduce_(0, node.owners, sources.abs(), "amax")
