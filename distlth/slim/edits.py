"""How each kind of operator is called with fewer channels: the arguments that change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from distlth.models.flow import shift
from distlth.models.graph import Layer
from distlth.slim.channels import Slots


class Editor(Protocol):
    """A program that is being made smaller."""

    slots: Slots

    def fetch(self, before: fx.Node, name: str, tensor: Tensor, cells: Tensor | None = None) -> fx.Node:
        """Return a new node that fetches a parameter or buffer of this name, the part of it in `cells`."""

    def current(self, node: fx.Node) -> fx.Node:
        """Return what took the place of a node, or the node."""

    def replace(self, node: fx.Node, operator: Callable[..., Any], read: fx.Node, *more: Any) -> None:
        """Call another operator instead, on `read` or on what took its place."""


@dataclass(frozen=True, eq=False)
class Edit(ABC):
    """What makes one operator of a program smaller. Wires are the graph's (int64)."""

    node: fx.Node

    @abstractmethod
    def rewrite(self, editor: Editor) -> None:
        """Make the operator compute the kept channels alone."""

    def balance(self, slots: Slots) -> bool:
        """Keep more channels where those that are kept need them; return whether there were any."""
        return False


@dataclass(frozen=True, eq=False)
class Product(Edit):
    """A convolution or a linear layer; `values` are those of the channels that it reads, NaN if alive."""

    layer: Layer
    weight: Tensor
    bias: Tensor | None
    values: Tensor

    @property
    def made(self) -> Tensor:
        """The wires of the output channels."""
        return torch.arange(self.layer.first, self.layer.first + self.layer.count)

    def balance(self, slots: Slots) -> bool:
        """Keep more channels until all groups have as many; return whether there were more to keep."""
        groups = self.layer.groups
        if groups == 1:
            return False
        sides = [side.reshape(groups, -1) for side in (self.layer.inputs, self.made)]
        kept = [slots.kept(side) for side in sides]
        there = (kept[0].any(dim=1) | kept[1].any(dim=1)).nonzero().flatten().tolist()
        changed = False
        for side, is_kept in zip(sides, kept, strict=True):
            wanted = max(1, int(is_kept.sum(dim=1).max()))
            for group in there:
                missing = wanted - int(is_kept[group].sum())
                if missing > 0:
                    more = side[group][~is_kept[group]][:missing]
                    changed |= slots.need(more, "groups of one convolution must have as many channels each")
        return changed

    def rewrite(self, editor: Editor) -> None:
        """Take the kept rows and columns, and add what dropped constant channels gave to the bias."""
        rows, columns = editor.slots.kept(self.made), editor.slots.kept(self.layer.inputs)
        by_groups = columns.reshape(self.layer.groups, -1)
        cells = rows[:, None] & by_groups.repeat_interleave(len(rows) // self.layer.groups, dim=0)
        weight = self.weight.detach()
        left = weight[cells].reshape(int(rows.sum()), -1, *weight.shape[2:])
        self.node.update_arg(1, self._fetch(editor, self.layer.weight, left, cells))
        if (bias := self._new_bias(rows, columns)) is not None:
            name = self.layer.bias or f"{self.layer.name}.bias"
            _set_argument(self.node, 2, self._fetch(editor, name, bias, rows))
        groups = int(rows.reshape(self.layer.groups, -1).any(dim=1).sum())
        if groups != self.layer.groups:
            self.node.update_arg(6, groups)

    def _fetch(self, editor: Editor, name: str, tensor: Tensor, cells: Tensor) -> fx.Node:
        return editor.fetch(self.node, name, _like(self.weight, tensor), cells)

    def _new_bias(self, rows: Tensor, columns: Tensor) -> Tensor | None:
        stays = columns | self.values.isnan() | self.layer.pads  # with borders, no constant goes into a bias
        dropped = torch.where(stays, 0.0, self.values)
        if self.bias is None and not bool(dropped.any()):
            return None
        old = torch.zeros(len(rows)) if self.bias is None else self.bias.detach()
        return (old.double() + shift(self.layer, self.weight.detach(), dropped)).to(self.weight.dtype)[rows]


@dataclass(frozen=True, eq=False)
class Slices(Edit):
    """An operator that has constants with an entry a channel: `tensors`, along the dimensions `dims`."""

    wires: Tensor
    tensors: Mapping[fx.Node, Tensor]
    dims: Mapping[fx.Node, int]

    def rewrite(self, editor: Editor) -> None:
        """Take the kept entries of the constants."""
        kept = editor.slots.kept(self.wires)
        for node, tensor in self.tensors.items():
            dim = self.dims[node]
            part = tensor.detach().index_select(dim, kept.nonzero().flatten())
            cells = kept.reshape([-1 if axis == dim else 1 for axis in range(dim + 1)])
            cells = cells.expand(*tensor.shape[:dim], len(kept))
            new = editor.fetch(self.node, str(node.target), _like(tensor, part), cells)
            self.node.replace_input_with(node, new)


@dataclass(frozen=True, eq=False)
class Sum(Edit):
    """A sum of a stream and a branch that has channels of its own, `added`, scattered into the stream's."""

    axis: int
    wires: Tensor
    stream: fx.Node
    branch: fx.Node
    added: Tensor

    def balance(self, slots: Slots) -> bool:
        """Keep each channel that something is added to; return whether there were more to keep."""
        return slots.need(self.wires[slots.kept(self.added)])

    def rewrite(self, editor: Editor) -> None:
        """Add the kept channels of the branch where they belong."""
        kept, added = editor.slots.kept(self.wires), editor.slots.kept(self.added)
        if torch.equal(kept, added):
            return
        places = added[kept].nonzero().flatten()
        index = editor.fetch(self.node, f"{self.node.name}.places", places)
        more = (self.axis, index, editor.current(self.branch))
        editor.replace(self.node, torch.ops.aten.index_add.default, self.stream, *more)


@dataclass(frozen=True, eq=False)
class Part(Edit):
    """Channels `start` to `stop` of a tensor with these wires along `axis`."""

    read: fx.Node
    axis: int
    wires: Tensor
    start: int
    stop: int

    def rewrite(self, editor: Editor) -> None:
        """Cut between the kept channels."""
        kept = editor.slots.kept(self.wires)
        start, stop = int(kept[: self.start].sum()), int(kept[: self.stop].sum())
        editor.replace(self.node, torch.ops.aten.slice.Tensor, self.read, self.axis, start, stop)


@dataclass(frozen=True, eq=False)
class Sizes(Edit):
    """An operator with a list of sizes as argument `place`; entries of it count these `wires`."""

    place: int
    wires: Mapping[int, Tensor]

    def rewrite(self, editor: Editor) -> None:
        """Write the numbers of kept channels into the sizes."""
        sizes: list[Any] = list(self.node.args[self.place])  # type: ignore[arg-type]
        for entry, wires in self.wires.items():
            if sizes[entry] != -1:
                sizes[entry] = int(editor.slots.kept(wires).sum())
        self.node.update_arg(self.place, sizes)


@dataclass(frozen=True, eq=False)
class Shuffle(Edit):
    """The channels of a tensor in another order: the last of the operators that shuffle them."""

    read: fx.Node
    axis: int
    wires: Tensor
    order: Tensor

    def rewrite(self, editor: Editor) -> None:
        """Select the kept channels in their new order."""
        kept = editor.slots.kept(self.wires)
        places = kept.cumsum(0) - 1
        index = editor.fetch(self.node, f"{self.node.name}.order", places[self.order[kept[self.order]]])
        editor.replace(self.node, torch.ops.aten.index_select.default, self.read, self.axis, index)


def _like(old: Tensor, new: Tensor) -> Tensor:
    return torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new


def _set_argument(node: fx.Node, place: int, value: Any) -> None:
    """Set a positional argument that a call may have left out."""
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.args = (*node.args, value)
