"""The operators of a program: what each does with channels, which it uses, and how it is made smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from distlth.slim.channels import ALIVE, Channels, Slots


class Usage(Protocol):
    """Which channels somebody uses, found from the logits backwards."""

    slots: Slots

    def read(self, node: fx.Node, used: Tensor) -> None:
        """Note that these channels of a node's tensor are used (bool)."""


class Editor(Protocol):
    """A program that is being made smaller."""

    graph: fx.Graph
    slots: Slots

    def fetch(self, before: fx.Node, name: str, tensor: Tensor, cells: Tensor | None = None) -> fx.Node:
        """Return a new node that fetches a parameter or buffer of this name, the part of it in `cells`."""

    def current(self, node: fx.Node) -> fx.Node:
        """Return what took the place of a node, or the node."""

    def replace(self, node: fx.Node, operator: Callable[..., Any], read: fx.Node, *more: Any) -> None:
        """Call another operator instead, on `read` or on what took its place."""


@dataclass(frozen=True, eq=False)
class Step(ABC):
    """One operator, whose result has channels."""

    node: fx.Node
    result: Channels

    @abstractmethod
    def use(self, used: Tensor, usage: Usage) -> None:
        """Note which channels of its operands are used where these of its result are (bool)."""

    def rewrite(self, editor: Editor) -> None:  # noqa: B027  # most operators take any number of channels
        """Make the operator compute the kept channels alone."""

    def balance(self, slots: Slots) -> bool:
        """Keep more channels where those that are kept need them; return whether there were any."""
        return False

    def kept(self, editor: Editor) -> Tensor:
        """Return which channels of the result are kept (bool)."""
        return editor.slots.kept(self.result.slots)


@dataclass(frozen=True, eq=False)
class Constant:
    """A parameter or buffer, and the name that it has in the network."""

    name: str
    tensor: Tensor

    def sliced(self, editor: Editor, before: fx.Node, kept: Tensor, dim: int = 0) -> fx.Node:
        """Return a node that fetches the kept part of it along a dimension."""
        part = self.tensor.detach().index_select(dim, kept.nonzero().flatten())
        cells = kept.reshape([-1 if axis == dim else 1 for axis in range(dim + 1)])
        cells = cells.expand(*self.tensor.shape[:dim], len(kept))
        return editor.fetch(before, self.name, _like(self.tensor, part), cells)


def _like(old: Tensor, new: Tensor) -> Tensor:
    return torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new


@dataclass(frozen=True, eq=False)
class Product(Step):
    """A convolution or a linear layer; `read` are the channels that it reads, None if all of them are kept.

    `pads` where the convolution reads zeros beyond the border, so that a constant channel is not constant.
    """

    read: Channels | None
    weight: Constant
    bias: Constant | None
    groups: int
    pads: bool

    @property
    def layer(self) -> str:
        """The module's name."""
        return self.weight.name.removesuffix(".weight")

    @property
    def weights(self) -> Tensor:
        """The weights by groups (float64): groups x C_out / groups x C_in / groups x positions."""
        weight = self.weight.tensor.detach().double()
        return weight.reshape(self.groups, -1, weight.shape[1], prod(weight.shape[2:]))

    def values(self) -> Tensor:
        """Return the value of each output channel: constant where no weight meets an alive channel."""
        alive = (self._connected() & self._live()).any(dim=2).flatten()
        bias = torch.zeros(len(alive)) if self.bias is None else self.bias.tensor.detach()
        return torch.where(alive, ALIVE, bias.double() + self._shift(self._solid()))

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the channels that meet a weight of a row that is used; keep constants that borders alter."""
        if self.read is None:
            usage.read(self.node.args[0], torch.tensor([]))  # type: ignore[arg-type]
            return
        rows = (used & self.result.alive).reshape(self.groups, -1, 1)
        columns = (rows & self._connected()).any(dim=1).flatten()
        usage.read(self.node.args[0], columns)  # type: ignore[arg-type]
        if self.pads:
            altered = columns & ~self.read.alive & (self.read.values != 0)
            usage.slots.need(self.read.slots[altered], "a constant channel meets the border of a convolution")

    def balance(self, slots: Slots) -> bool:
        """Keep more channels until all groups have as many; return whether there were more to keep."""
        if self.groups == 1 or self.read is None:
            return False
        sides = [side.slots.reshape(self.groups, -1) for side in (self.read, self.result)]
        kept = [slots.kept(side.flatten()).reshape(side.shape) for side in sides]
        there = (kept[0].any(dim=1) | kept[1].any(dim=1)).nonzero().flatten().tolist()
        changed = False
        for side, is_kept in zip(sides, kept, strict=True):
            wanted = max(1, int(is_kept.sum(dim=1).max()))
            for group in there:
                missing = wanted - int(is_kept[group].sum())
                more = side[group][~is_kept[group]][:missing] if missing > 0 else side[group][:0]
                changed |= slots.need(more, "groups of one convolution must have as many channels each")
        return changed

    def rewrite(self, editor: Editor) -> None:
        """Take the kept rows and columns, and add what dropped constant channels gave to the bias."""
        rows = self.kept(editor)
        weight, groups = self._new_weight(editor, rows)
        cells = self._cells(editor, rows)
        node = editor.fetch(self.node, self.weight.name, _like(self.weight.tensor, weight), cells)
        self.node.update_arg(1, node)
        if (bias := self._new_bias(editor, rows)) is not None:
            name = self.bias.name if self.bias else f"{self.layer}.bias"
            _set_argument(self.node, 2, editor.fetch(self.node, name, _like(self.weight.tensor, bias), rows))
        if groups != self.groups:
            self.node.update_arg(6, groups)

    def _new_weight(self, editor: Editor, rows: Tensor) -> tuple[Tensor, int]:
        """Return the kept rows and columns of the weight, and the number of groups left."""
        weight, cells = self.weight.tensor.detach(), self._cells(editor, rows)
        left = weight[cells].reshape(int(rows.sum()), -1, *weight.shape[2:])
        return left, int(rows.reshape(self.groups, -1).any(dim=1).sum())

    def _cells(self, editor: Editor, rows: Tensor) -> Tensor:
        """Return which pairs of output and input channels are kept: bool, C_out x C_in / groups."""
        columns = torch.ones(self.groups, self.weight.tensor.shape[1], dtype=torch.bool)
        if self.read is not None:
            columns = editor.slots.kept(self.read.slots).reshape(self.groups, -1)
        return rows[:, None] & columns.repeat_interleave(len(rows) // self.groups, dim=0)

    def _new_bias(self, editor: Editor, rows: Tensor) -> Tensor | None:
        dropped = self._solid()
        if self.read is not None:
            dropped = torch.where(editor.slots.kept(self.read.slots), 0.0, dropped)
        if self.bias is None and not bool(dropped.any()):
            return None
        old = torch.zeros(len(self.result)) if self.bias is None else self.bias.tensor.detach()
        return (old.double() + self._shift(dropped)).to(self.weight.tensor.dtype)[rows]

    def _connected(self) -> Tensor:
        """Return which channels the weights connect: bool, groups x C_out / groups x C_in / groups."""
        return (self.weight.tensor.detach() != 0).reshape(*self.weights.shape).any(dim=3)

    def _live(self) -> Tensor:
        """Return which channels that are read vary within an image: bool, groups x 1 x C_in / groups."""
        if self.read is None:
            return torch.ones(1, 1, 1, dtype=torch.bool)
        live = self.read.values != 0 if self.pads else self.read.alive
        return live.reshape(self.groups, 1, -1)

    def _solid(self) -> Tensor:
        """Return the values of the constant channels that are read, zero for any other (float64)."""
        if self.read is None or self.pads:
            return torch.zeros(self.groups * self.weight.tensor.shape[1], dtype=torch.float64)
        return torch.where(self.read.alive, 0.0, self.read.values)

    def _shift(self, constants: Tensor) -> Tensor:
        """Return what constant channels add to each output channel."""
        return (self.weights.sum(dim=3) * constants.reshape(self.groups, 1, -1)).sum(dim=2).flatten()


@dataclass(frozen=True, eq=False)
class Norm(Step):
    """A batch normalisation with running statistics; its constants by the place of their argument."""

    constants: dict[int, Constant]

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels, where the result is no constant."""
        usage.read(self.node.args[0], used & self.result.alive)  # type: ignore[arg-type]

    def rewrite(self, editor: Editor) -> None:
        """Take the kept entries."""
        kept = self.kept(editor)
        for place, constant in self.constants.items():
            self.node.update_arg(place, constant.sliced(editor, self.node, kept))


@dataclass(frozen=True, eq=False)
class Elementwise(Step):
    """An operator that computes each entry from those at the same place of `read`.

    `constants` are those with an entry a channel, and the dimension along which they have them.
    """

    read: Sequence[fx.Node]
    constants: dict[fx.Node, tuple[Constant, int]]

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels, where the result is no constant."""
        for node in self.read:
            usage.read(node, used & self.result.alive)

    def rewrite(self, editor: Editor) -> None:
        """Take the kept entries of constants."""
        kept = self.kept(editor)
        for node, (constant, dim) in self.constants.items():
            self.node.replace_input_with(node, constant.sliced(editor, self.node, kept, dim))


@dataclass(frozen=True, eq=False)
class Sum(Step):
    """A sum of a stream and a branch that has channels of its own, which are scattered into the stream."""

    stream: fx.Node
    branch: fx.Node
    added: Channels

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels of both; keep constants that are added to alive channels."""
        changing = used & self.result.alive
        usage.read(self.stream, changing)
        usage.read(self.branch, changing)
        usage.slots.need(self.added.slots[changing & ~self.added.alive & (self.added.values != 0)])

    def balance(self, slots: Slots) -> bool:
        """Keep each channel that something is added to; return whether there were more to keep."""
        return slots.need(self.result.slots[slots.kept(self.added.slots)])

    def rewrite(self, editor: Editor) -> None:
        """Add the kept channels of the branch where they belong."""
        kept, added = self.kept(editor), editor.slots.kept(self.added.slots)
        if torch.equal(kept, added):
            return
        places = added[kept].nonzero().flatten()
        index = editor.fetch(self.node, f"{self.node.name}.places", places)
        more = (self.result.axis, index, editor.current(self.branch))
        editor.replace(self.node, torch.ops.aten.index_add.default, self.stream, *more)


@dataclass(frozen=True, eq=False)
class Part(Step):
    """Channels `start` to `stop` of a tensor."""

    read: fx.Node
    whole: Channels
    start: int
    stop: int

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels of the whole."""
        found = torch.zeros(len(self.whole), dtype=torch.bool)
        found[self.start : self.stop] = used & self.result.alive
        usage.read(self.read, found)

    def rewrite(self, editor: Editor) -> None:
        """Cut between the kept channels."""
        kept = editor.slots.kept(self.whole.slots)
        start, stop = int(kept[: self.start].sum()), int(kept[: self.stop].sum())
        editor.replace(self.node, torch.ops.aten.slice.Tensor, self.read, self.whole.axis, start, stop)


@dataclass(frozen=True, eq=False)
class Concatenation(Step):
    """Tensors one after the other along their channels; those without channels have their number instead."""

    read: Sequence[tuple[fx.Node, int]]

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels of each tensor."""
        changing = used & self.result.alive
        for (node, _), part in zip(self.read, changing.split([count for _, count in self.read]), strict=True):
            usage.read(node, part)


@dataclass(frozen=True, eq=False)
class Padding(Step):
    """Channels that are set before and behind those of a tensor."""

    before: int
    behind: int
    place: int  # of the first of the two numbers in the argument

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels."""
        inner = slice(self.before, len(self.result) - self.behind)
        usage.read(self.node.args[0], (used & self.result.alive)[inner])  # type: ignore[arg-type]

    def rewrite(self, editor: Editor) -> None:
        """Set as many as are kept."""
        kept, sizes = self.kept(editor), list(self.node.args[1])  # type: ignore[arg-type]
        sizes[self.place] = int(kept[: self.before].sum())
        sizes[self.place + 1] = int(kept[len(kept) - self.behind :].sum())
        self.node.update_arg(1, sizes)


@dataclass(frozen=True, eq=False)
class Reshape(Step):
    """A view, each of whose channels is part of one of `read`'s: `repeats` for each."""

    repeats: int
    sizes: int | None  # the place of the argument that has the sizes, if there is one
    entry: int  # of the channels among the sizes

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the channels that are part of it."""
        changing = (used & self.result.alive).reshape(-1, self.repeats).any(dim=1)
        usage.read(self.node.args[0], changing)  # type: ignore[arg-type]

    def rewrite(self, editor: Editor) -> None:
        """Write the number of kept channels into the sizes."""
        if self.sizes is not None:
            sizes: list[Any] = list(self.node.args[self.sizes])  # type: ignore[arg-type]
            if sizes[self.entry] != -1:
                sizes[self.entry] = int(self.kept(editor).sum())
            self.node.update_arg(self.sizes, sizes)


@dataclass(frozen=True, eq=False)
class Shuffle(Step):
    """The channels of a tensor in another order: the last of the operators that shuffle them."""

    read: fx.Node
    whole: Channels
    order: Tensor

    def use(self, used: Tensor, usage: Usage) -> None:
        """Use the same channels where they come from."""
        found = torch.zeros(len(self.whole), dtype=torch.bool)
        found[self.order[used & self.result.alive]] = True
        usage.read(self.read, found)

    def rewrite(self, editor: Editor) -> None:
        """Select the kept channels in their new order."""
        kept = editor.slots.kept(self.whole.slots)
        places = kept.cumsum(0) - 1
        order = places[self.order[kept[self.order]]]
        index = editor.fetch(self.node, f"{self.node.name}.order", order)
        editor.replace(self.node, torch.ops.aten.index_select.default, self.read, self.result.axis, index)


def _set_argument(node: fx.Node, place: int, value: Any) -> None:
    """Set a positional argument that a call may have left out."""
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.args = (*node.args, value)
