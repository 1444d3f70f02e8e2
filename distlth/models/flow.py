"""What flows along a network's wires, under a mask or with given weights: which are zero, constant, alive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from distlth.models.graph import ALIVE, ZERO, Constant, Graph, Join, Layer, Node, Norm, Operand, Pointwise

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
        found = _Masked(graph, kept, removed, spared)
        found.run()
        if not (quarrels := found.quarrels()):
            return Flow(found.values, {name: uses[0] for name, uses in found.dead.items() if uses[0].any()})
        for name, entries in quarrels.items():
            spared[name] = spared.get(name, torch.zeros_like(entries)) | entries


def settled(graph: Graph, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the value of each wire (float64; NaN where it is alive) with these parameters and buffers.

    In eval mode: a norm has its running statistics. A wire is constant whose value is the same for all images
    at all places, up to the border of an image.
    """
    return _Weighed(graph, tensors).run()


def connections(layer: Layer, kept: Mapping[str, Tensor]) -> Tensor:
    """Return which channels a layer's kept weights connect: bool, groups x C_out / groups x C_in / groups."""
    weights = kept.get(layer.name, torch.ones(layer.shape[:2], dtype=torch.bool))
    pairs = weights if weights.ndim == 2 else weights.flatten(2).any(dim=2)
    return pairs.reshape(layer.groups, -1, layer.shape[1])


def shift(layer: Layer, weight: Tensor, constants: Tensor) -> Tensor:
    """Return what input channels of these values add to each output channel, all float64."""
    by_groups = weight.double().reshape(layer.groups, -1, layer.shape[1], prod(layer.shape[2:]))
    return (by_groups.sum(dim=3) * constants.reshape(layer.groups, 1, -1)).sum(dim=2).flatten()


class _Pass(ABC):
    """One pass along the nodes."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self._graph = graph
        self.values = torch.full((graph.num_wires,), ALIVE, dtype=dtype)
        self.values[ZERO] = 0.0

    def run(self) -> Tensor:
        for node in self._graph.nodes:
            self.values[node.made] = self._value(node)
        return self.values

    def _value(self, node: Node) -> Tensor:
        if isinstance(node, Layer):
            return self._layer(node)
        if isinstance(node, Norm):
            return self._norm(node)
        if isinstance(node, Pointwise):
            return pointwise(node, [self.values[wires] for wires in node.operands])
        if isinstance(node, Join):
            return _join(node, self.values)
        if isinstance(node, Constant):
            return self._constant(node)
        return torch.full((node.count,), ALIVE)

    @abstractmethod
    def _layer(self, layer: Layer) -> Tensor: ...

    @abstractmethod
    def _norm(self, norm: Norm) -> Tensor: ...

    @abstractmethod
    def _constant(self, node: Constant) -> Tensor: ...


class _Masked(_Pass):
    """Parameters may have any value but where a mask or a removed channel zeroes them."""

    def __init__(
        self, graph: Graph, kept: Mapping[str, Tensor], removed: bool, spared: Mapping[str, Tensor]
    ) -> None:
        super().__init__(graph, torch.float32)
        self._kept, self._removed, self._spared = kept, removed, spared
        self.dead: dict[str, list[Tensor]] = {}

    def quarrels(self) -> dict[str, Tensor]:
        """Return the entries that one use of a parameter would zero and another would not."""
        stacked = {name: torch.stack(uses) for name, uses in self.dead.items() if len(uses) > 1}
        found = {name: uses.any(0) & ~uses.all(0) for name, uses in stacked.items()}
        return {name: entries for name, entries in found.items() if entries.any()}

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

    def _constant(self, node: Constant) -> Tensor:
        return torch.full((node.count,), node.value)

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


class _Weighed(_Pass):
    """Parameters and buffers have given values."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(graph, torch.float64)
        self._tensors = tensors

    def _layer(self, layer: Layer) -> Tensor:
        if layer.computes_bias:
            return torch.full((layer.count,), ALIVE)
        weight, values = self._tensors[layer.weight].detach(), self.values[layer.inputs]
        live = (values != 0 if layer.pads else values.isnan()).reshape(layer.groups, 1, -1)
        alive = (connections(layer, {layer.name: weight != 0}) & live).any(dim=2).flatten()
        constants = torch.zeros_like(values) if layer.pads else values.nan_to_num(0.0)
        return torch.where(alive, ALIVE, self._entries(layer.bias, 0.0) + shift(layer, weight, constants))

    def _norm(self, norm: Norm) -> Tensor:
        if norm.mean is None or norm.mixes:
            return torch.full((norm.count,), ALIVE)
        weight, bias = self._entries(norm.weight, 1.0), self._entries(norm.bias, 0.0)
        scale = weight / (self._entries(norm.var, 1.0) + norm.eps).sqrt()
        values = (self.values[norm.inputs] - self._entries(norm.mean, 0.0)) * scale
        return torch.where(scale == 0, 0.0, values) + bias  # an alive channel of scale zero is constant

    def _constant(self, node: Constant) -> Tensor:
        given = self._entries(node.name, node.value).flatten()
        return given if len(given) == node.count else torch.full((node.count,), node.value)

    def _entries(self, name: str | None, default: float) -> Tensor:
        """Return a tensor's entries (float64)."""
        if name is None:
            return torch.tensor([default], dtype=torch.float64)
        return self._tensors[name].detach().double()


def pointwise(node: Pointwise, values: Sequence[Tensor]) -> Tensor:
    """Return the value of each wire of a pointwise operator, from those of its operands."""
    rounds, typed = len(PROBES), zip(values, node.dtypes, strict=True)
    probed = [_probed(value, dtype, 3 * place) for place, (value, dtype) in enumerate(typed)]

    def fill(arg: Any) -> Any:
        return probed[arg.index].clone() if isinstance(arg, Operand) else arg

    results = _operator(node.op)(*map(fill, node.args), **{key: fill(arg) for key, arg in node.kwargs})
    results = results.expand(rounds, node.count).to(values[0].dtype)
    return torch.where((results == results[0]).all(dim=0), results[0], ALIVE)


def _probed(values: Tensor, dtype: torch.dtype, roll: int) -> Tensor:
    """Return values with several in turn in place of ALIVE: len(PROBES) x channels."""
    tried = torch.where(values.isnan(), torch.tensor(PROBES, dtype=values.dtype).roll(roll)[:, None], values)
    return tried if dtype.is_floating_point else tried.to(dtype)


@cache
def _operator(name: str) -> Any:
    space, packet, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, space), packet), overload)


def _join(node: Join, values: Tensor) -> Tensor:
    """Return a constant where all sources are the same one, else ALIVE."""
    blank, sources = torch.zeros(node.count, dtype=values.dtype), values[node.sources]
    lowest, highest = (
        blank.scatter_reduce(0, node.owners, sources, kind, include_self=False) for kind in ("amin", "amax")
    )
    return torch.where(lowest == highest, lowest, ALIVE)
