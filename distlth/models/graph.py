"""A network as a graph of channels: which layer's output channels reach what. Values; nothing is run here.

The one graph of the code: masks are followed along it (`distlth.models.flow`, `removal`, `alive`, `streams`),
and slim networks are cut out by it (`distlth.slim`). What each torch operator does with channels stands in
`distlth.models.trace` alone.

A *wire* is one channel of one intermediate result. Reshapes, slices, concatenations and transpositions only
carry wires along, so they are no nodes: a channel shuffle costs nothing here. Wires are numbered in the order
in which the forward pass makes them; `distlth.models.trace` makes the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

# The first two wires: whatever can take any value (images, buffers, random numbers), and exact zeros.
LIVE, ZERO = 0, 1
# The value of a wire that is no constant.
ALIVE = float("nan")
NO_WIRES = torch.tensor([], dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Node(ABC):
    """Something that reads wires and makes `count` new ones, numbered from `first` on.

    `op` is the operator's name, such as `aten.sigmoid.default`.
    """

    op: str
    first: int
    count: int

    @property
    def made(self) -> slice:
        """The wires that this node makes, as a slice of a tensor over all wires."""
        return slice(self.first, self.first + self.count)

    @property
    @abstractmethod
    def reads(self) -> Tensor:
        """Every wire that this node reads (int64)."""

    @property
    def title(self) -> str:
        """The operator's name as people write it."""
        return self.op.split(".")[1].strip("_") if "." in self.op else self.op


@dataclass(frozen=True, eq=False)
class Layer(Node):
    """A convolution or a linear layer, once for each time it runs: C_in wires to C_out.

    `weight` and `bias` are the names of its parameters, or `weight` that of a buffer, a fixed filter that
    leaves channels apart; `positions` are the output positions of one image. `computes_bias` where something
    is added that is no parameter itself, `pads` where it reads zeros beyond the border: there a constant
    channel is none.
    """

    weight: str
    bias: str | None
    computes_bias: bool
    shape: tuple[int, ...]  # of the weight: C_out, C_in / groups, ...
    groups: int
    positions: int
    pads: bool
    inputs: Tensor

    @property
    def name(self) -> str:
        """The module's name."""
        return self.weight.removesuffix(".weight")

    @property
    def reads(self) -> Tensor:
        """The wire of each input channel."""
        return self.inputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return prod(self.shape) * self.positions


@dataclass(frozen=True, eq=False)
class Norm(Node):
    """A normalisation with one weight and one bias a channel; `mixes` where channels share statistics.

    `mean` and `var` are the names of running statistics, where it norms by those.
    """

    weight: str | None
    bias: str | None
    mean: str | None
    var: str | None
    eps: float
    mixes: bool
    inputs: Tensor

    @property
    def reads(self) -> Tensor:
        """The wire of each normalised channel."""
        return self.inputs


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """What no image changes, one wire a channel: entries of a parameter or buffer, or `value` everywhere."""

    name: str | None
    value: float

    @property
    def reads(self) -> Tensor:
        """No wires."""
        return NO_WIRES


@dataclass(frozen=True)
class Operand:
    """The place of a tensor among the arguments of a pointwise operator."""

    index: int


@dataclass(frozen=True, eq=False)
class Pointwise(Node):
    """An operator that computes each entry from the entries at the same place.

    `args` and `kwargs` are the call's, with an Operand for each tensor. `spread` says which operands have
    one entry for all channels. `parameter` names a parameter with one entry a channel among the operands.
    """

    operands: tuple[Tensor, ...]  # each of `count` wires
    spread: tuple[bool, ...]
    dtypes: tuple[torch.dtype, ...]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    parameter: str | None

    @property
    def reads(self) -> Tensor:
        """The wires of all operands."""
        return torch.cat(self.operands)


@dataclass(frozen=True, eq=False)
class Product(Pointwise):
    """Products of two results, entry by entry, that a product of matrices then adds up, as in attention.

    `costs` are the multiply-accumulates of one image that each takes.
    """

    costs: Tensor  # int64

    @property
    def title(self) -> str:
        """What people call the operator."""
        return "a product of matrices"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return int(self.costs.sum())


@dataclass(frozen=True, eq=False)
class Join(Node):
    """Wires that are joined into one each, as by a mean over channels: `sources[i]` goes into `owners[i]`.

    Where zeros around an image are joined with a channel, ZERO is among the sources.
    """

    sources: Tensor
    owners: Tensor  # 0 .. count - 1

    @property
    def reads(self) -> Tensor:
        """The wires that are joined."""
        return self.sources

    @property
    def mixed(self) -> Tensor:
        """Those that are joined with others than exact zeros."""
        some = self.sources != ZERO
        several = self.owners[some].bincount(minlength=self.count) > 1
        return self.sources[some & several[self.owners]]


@dataclass(frozen=True, eq=False)
class Opaque(Node):
    """An operator that nothing is known of: anything it makes may depend on anything it reads.

    `adds_up` where that is a sum of products: a channel of zeros adds nothing.
    """

    sources: Tensor
    adds_up: bool = False

    @property
    def reads(self) -> Tensor:
        """All wires that go in."""
        return self.sources


@dataclass(frozen=True, eq=False)
class Graph:
    """What feeds what in a network, at one input resolution. Nodes stand in the order in which they ran."""

    nodes: tuple[Node, ...]
    num_wires: int
    outputs: Tensor  # the wires of what the network returns

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The convolutions and linear layers, each as often as it runs."""
        return tuple(node for node in self.nodes if isinstance(node, Layer))

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """The products of two results, such as those of attention."""
        return tuple(node for node in self.nodes if isinstance(node, Product))

    @cached_property
    def unfollowed(self) -> tuple[str, ...]:
        """The operators of which nothing is known, by name: behind them nobody can say what is alive."""
        return tuple(dict.fromkeys(node.title for node in self.nodes if isinstance(node, Opaque)))

    @cached_property
    def logits(self) -> frozenset[str]:
        """The layers whose output channels are the logits, also through pooling and activations."""
        found = self.upstream(self.outputs, lambda node: NO_WIRES if isinstance(node, Layer) else node.reads)
        return frozenset(node.name for node in found if isinstance(node, Layer))

    def upstream(self, wires: Tensor, passes: Callable[[Node], Tensor]) -> tuple[Node, ...]:
        """Return the nodes that `wires` come from; of each, those that the wires it `passes` come from."""
        seen: set[int] = set()
        waiting = [wires]
        while waiting:
            for index in self._makers(waiting.pop()) - seen:
                seen.add(index)
                waiting.append(passes(self.nodes[index]))
        return tuple(self.nodes[index] for index in sorted(seen))

    @cached_property
    def _firsts(self) -> list[int]:
        return [node.first for node in self.nodes]

    def _makers(self, wires: Tensor) -> set[int]:
        made = (wire for wire in wires.unique().tolist() if wire > ZERO)
        return {bisect_right(self._firsts, wire) - 1 for wire in made}
