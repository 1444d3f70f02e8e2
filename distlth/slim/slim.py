"""Build the slim network: follow its channels along the graph, then make every operator smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from distlth.slim.channels import Slots
from distlth.slim.edits import Edit, Product
from distlth.slim.follow import Followed, Sums
from distlth.slim.parts import Part
from distlth.slim.program import constant_of, graph_module, program

# What becomes of a channel that varies and that nobody uses.
Unused = Literal["remove", "keep"]


@dataclass(frozen=True)
class Whole:
    """A layer with channels that are constant and stay all the same: how many, and why."""

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class Slim:
    """A slim network, and what stayed that a smaller one would not have.

    `network` takes images of the resolution that it was made for, any number at a time. Its parameters have
    the names of those that they are parts of; what has no entry in `parts` is whole.
    """

    network: nn.Module
    parts: Mapping[str, Part]  # of parameters and buffers
    removed: Mapping[str, int]  # channels, by layer
    whole: Sequence[Whole]


def slim(
    model: nn.Module, resolution: int, sums: Sums = "zeros", multiple: int = 1, *, unused: Unused = "remove"
) -> Slim:
    """Return a dense network that computes what `model` does in eval mode, without its dead channels.

    A channel is dead that is constant, or that nobody uses: found from the exact zeros among the weights
    themselves. Channels that elementwise operators combine are kept or removed together, so that a residual
    stream keeps each channel that any block writes. With `sums` "zeros" the layers that write less have rows
    of zeros; with "scatter" they have fewer rows, and their sum is an index_add.
    A constant that is not zero goes into the bias of the layer that reads it. With `unused` "keep" channels
    that nobody uses stay where they are no constants. `model` is left as it was.
    Layers keep dead channels up to a `multiple`: a residual stream of 511 channels, all but one of 512, is
    slower than the whole one on a GPU, which loads 8 at a time.

    Raises:
        SlimError: the forward pass cannot be traced.
    """
    module = graph_module(program(model, resolution))
    followed = Followed(module, resolution, sums)
    slots = followed.slots(keeps_all=unused == "keep")
    _complete(followed, slots, multiple)
    report = _report(followed, slots)
    editor = _Editor(module, followed.edits, slots)
    return Slim(editor.run(), editor.parts, *report)


def _complete(followed: Followed, slots: Slots, multiple: int) -> None:
    """Keep at least one channel of each tensor, as many in each group of a convolution, and a multiple."""
    changed = True
    while changed:
        changed = False
        for channels in followed.channels.values():
            if not slots.kept(channels.wires).any():
                changed |= slots.need(channels.wires[:1], "a tensor must have a channel")
        for edit in followed.edits:
            changed |= edit.balance(slots)
            if isinstance(edit, Product):
                dropped = edit.made[~slots.kept(edit.made)]
                missing = (len(dropped) - len(edit.made)) % multiple
                changed |= slots.need(dropped[:missing], f"counts are multiples of {multiple}")


def _report(followed: Followed, slots: Slots) -> tuple[dict[str, int], list[Whole]]:
    removed, whole = {}, []
    for edit in followed.edits:
        if isinstance(edit, Product):
            kept = slots.kept(edit.made)
            removed[edit.layer.name] = int((~kept).sum())
            idle = kept & ~followed.values[edit.made].isnan()
            if idle.any():
                reasons = slots.reasons(edit.made[idle])
                reason = "; ".join(reasons) or "other layers' channels are added to them"
                whole.append(Whole(edit.layer.name, int(idle.sum()), reason))
    return removed, whole


class _Editor:
    """Makes a program smaller, in place."""

    def __init__(self, module: fx.GraphModule, edits: Sequence[Edit], slots: Slots) -> None:
        self.graph, self.slots = module.graph, slots
        self._module, self._edits = module, edits
        self.parts: dict[str, Part] = {}
        self._fetched: dict[str, Tensor] = {}
        self._replaced: dict[fx.Node, fx.Node] = {}

    def run(self) -> fx.GraphModule:
        for edit in self._edits:
            edit.rewrite(self)
        whole = fx.GraphModule(self._attributes(self.graph), self.graph)
        whole.graph.eliminate_dead_code()
        return fx.GraphModule(self._attributes(whole.graph), whole.graph, "Slim")

    def fetch(self, before: fx.Node, name: str, tensor: Tensor, cells: Tensor | None = None) -> fx.Node:
        """Return a new node that fetches a tensor, under another name where this one has another value."""
        free = name
        while free in self._fetched and not _same(self._fetched[free], tensor):
            free = f"{free}_"
        self._fetched[free] = tensor
        if cells is not None:
            self.parts[free] = Part(name, cells, tuple(tensor.shape))
        with self.graph.inserting_before(before):
            return self.graph.create_node("get_attr", free)

    def current(self, node: fx.Node) -> fx.Node:
        """Return what took the place of a node, or the node."""
        return self._replaced.get(node, node)

    def replace(self, node: fx.Node, operator: Callable[..., Any], read: fx.Node, *more: Any) -> None:
        """Call another operator instead, on `read` or on what took its place."""
        with self.graph.inserting_before(node):
            new = self.graph.call_function(operator, (self.current(read), *more))
        node.replace_all_uses_with(new)
        self._replaced[node] = new

    def _attributes(self, graph: fx.Graph) -> dict[str, Tensor]:
        """Return the parameters and buffers that the nodes of a graph fetch."""
        found = {}
        for node in graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                tensor = self._fetched[name] if name in self._fetched else constant_of(self._module, node)
                assert tensor is not None
                found[name] = tensor
        return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
