"""Follow a program's channels along the network's graph: what belongs together, and which operators change.

What an operator does with channels is the graph's to know (`distlth.models.trace`). A rule here says no more
than whether the operator can be called with fewer of them, and with which arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, fx

from distlth.models.flow import settled
from distlth.models.graph import ZERO, Constant, Join, Layer, Node, Norm, Opaque, Pointwise
from distlth.models.labels import rows
from distlth.models.streams import Pair, carried, together
from distlth.models.usage import Usage
from distlth.slim.channels import Channels, Moving, Slots
from distlth.slim.edits import Edit, Part, Product, Shuffle, Sizes, Slices, Sum
from distlth.slim.program import concrete, operator_name, shape_of
from distlth.slim.traced import traced

# What becomes of a branch that lacks some channels of the stream that it is added to: rows of zeros in its
# last layer, or fewer rows, scattered into the stream.
Sums = Literal["zeros", "scatter"]

# Operators that take any number of channels.
SAME = {"_to_copy", "alias", "clone", "contiguous", "detach", "detach_", "dropout", "lift_fresh_copy"}
POOLS = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d", "mean"}
MOVES = {"flatten", "permute", "squeeze", "transpose", "unsqueeze"}
# Elementwise operators that torch does not mark as such.
ELEMENTWISE = {"hardswish", "relu6"}
# Operators whose second argument has the sizes of all dimensions.
VIEWS = {"reshape", "view"}
PRODUCTS = {"conv1d", "conv2d", "linear"}
SPLITS = {"chunk", "split", "split_with_sizes"}
# What makes a branch that can be scattered.
BRANCHES = {"batch_norm", "conv2d"}


class Unfollowed(Exception):  # noqa: N818  # no error: what is read is kept whole
    """An operator cannot be called with fewer channels."""


class Followed:
    """A program, and what each of its operators needs to compute fewer channels.

    `values` has the value of each wire (NaN where it is alive), `forced` the wires that are kept whoever
    uses them, and why.
    """

    def __init__(self, module: fx.GraphModule, resolution: int, sums: Sums) -> None:
        self._sums = sums
        self._traced = traced(module, resolution)
        self.graph = self._traced.graph
        self.values = settled(self.graph, self._traced.tensors)
        self.channels: dict[fx.Node, Channels] = {}
        self.edits: list[Edit] = []
        self.forced: list[tuple[Tensor, str]] = []
        self._moving: dict[fx.Node, Moving] = {}
        self._pairs: list[Pair] = []
        self._places: Tensor | None = None
        for node in module.graph.nodes:
            self._follow(node)

    @property
    def places(self) -> Tensor:
        """The lowest wire that each is kept together with."""
        if self._places is None:
            self._places = together(self.graph.num_wires, self._pairs)
        return self._places

    def slots(self, *, keeps_all: bool) -> Slots:
        """Return which wires are kept: those that are alive and used, with `keeps_all` all that are alive."""
        tensors = self._traced.tensors
        kept = {layer.name: tensors[layer.weight].detach() != 0 for layer in self.graph.layers}
        usage = Usage(self.graph, kept, self.values, everything=keeps_all)
        slots = Slots(self.places)
        for wires, reason in self.forced:
            slots.need(wires, reason)
        slots.need((usage.used & self.values.isnan()).nonzero().flatten())
        for layer in self.graph.layers:
            if layer.pads:
                altered = self.constants(usage.read(layer))
                slots.need(altered, "a constant channel meets the border of a convolution")
        for edit in self.edits:
            if isinstance(edit, Sum):
                changing = (usage.used & self.values.isnan())[edit.wires]
                slots.need(self.constants(edit.added[changing]))
        return slots

    def constants(self, wires: Tensor) -> Tensor:
        """Return those of these wires that are constant, and not zero."""
        values = self.values[wires]
        return wires[~values.isnan() & (values != 0)]

    # ---------------------------------------------------------------------------------------- one node

    def _follow(self, node: fx.Node) -> None:
        branch = self._branch(node) if self._sums == "scatter" else None
        for made in self._traced.nodes[node]:
            self._connect(made, node, branch)
        if operator_name(node) == "cat":
            self._put_side_by_side(node)
        if found := self._found(node):
            self.channels[node] = found
        if node.op == "output":
            self._keep_whole(node.all_input_nodes, "")
        if node.op == "call_function" and any(map(self._matters, [node, *node.all_input_nodes])):
            self._edit(node, branch)

    def _edit(self, node: fx.Node, branch: fx.Node | None) -> None:
        try:
            edit = self._sum(node, branch) if branch else self._rule(node)(self, node)
        except Unfollowed:
            self._keep_whole([node, *node.all_input_nodes], operator_name(node))
            return
        if edit is not None:
            self.edits.append(edit)
        if node not in self.channels and node not in self._moving:
            self._keep_whole([node], "a tensor must have a channel")

    def _rule(self, node: fx.Node) -> Rule:
        name = operator_name(node)
        if name in RULES:
            return RULES[name]
        if torch.Tag.pointwise in getattr(node.target, "tags", ()) or name in ELEMENTWISE:
            return Followed._elementwise
        raise Unfollowed

    def _matters(self, node: fx.Node) -> bool:
        """Return whether a node's result has channels that could be dropped."""
        labels = self._traced.labels.get(node)
        return labels is not None and bool((labels > ZERO).any())

    def _keep_whole(self, nodes: Sequence[fx.Node], reason: str) -> None:
        for node in nodes:
            if self._matters(node):
                self.forced.append((self._traced.labels[node].unique(), reason))

    def _found(self, node: fx.Node) -> Channels | None:
        """Return the channels of a node's result, where there is one at each index of one dimension."""
        labels = self._traced.labels.get(node)
        if labels is None:
            return None
        varying = [dim for dim, size in enumerate(labels.shape) if size > 1]
        if len(varying) == 1:
            return Channels(varying[0], labels.flatten())
        for dim in varying:
            if (wires := self._single(rows(labels, [dim]))) is not None:
                return Channels(dim, wires)
        return None

    def _single(self, matrix: Tensor) -> Tensor | None:
        """Return one wire of each row, zeros apart, where all of a row are kept together."""
        places = torch.where(matrix == ZERO, -1, self.places[matrix])
        top = places.max(dim=1, keepdim=True)
        is_single = bool(((places == top.values) | (matrix == ZERO)).all())
        return matrix.gather(1, top.indices).flatten() if is_single else None

    # ------------------------------------------------------------------------------------ what is joined

    def _connect(self, made: Node, node: fx.Node, branch: fx.Node | None) -> None:
        """Join the wires that a node of the graph makes with those that they are kept together with."""
        wires = torch.arange(made.first, made.first + made.count)
        if isinstance(made, Opaque) or (isinstance(made, Norm) and made.mixes):
            self.forced.append((torch.cat([wires, made.reads]), operator_name(node)))
        elif isinstance(made, Layer) and made.groups == made.count == len(made.inputs):
            self._join(wires, made.inputs, "the layer is grouped, and all that it reads is kept")
        elif isinstance(made, Join):
            self._join_rows(made, operator_name(node))
        elif isinstance(made, Pointwise) and branch:
            self._join(wires, made.operands[1 - list(node.args[:2]).index(branch)], "")
        elif not isinstance(made, Layer | Constant):
            reason = f"{operator_name(node)} takes them together with values that are kept whole"
            for ours, theirs in carried(made):
                self._join(ours, theirs, reason)

    def _join(self, ours: Tensor, theirs: Tensor, reason: str) -> None:
        """Keep wires together pair by pair; `reason` says why where one of a pair is always kept."""
        both = (ours > ZERO) & (theirs > ZERO)
        self._pairs.append((ours[both], theirs[both]))
        self._places = None
        if not both.all():
            self.forced.append((torch.cat([ours[~both], theirs[~both]]), reason))

    def _join_rows(self, made: Join, reason: str) -> None:
        """Join the sources of each wire with it where they are kept together, else keep all of them."""
        wires = torch.arange(made.first, made.first + made.count)
        some = made.sources != ZERO
        owners, sources = made.owners[some], made.sources[some]
        if not bool((owners.bincount(minlength=made.count) > 1).any()):
            self._join(wires[owners], sources, reason)
            return
        places, blank = self.places[sources], torch.zeros(made.count, dtype=torch.int64)
        lowest, highest = (
            blank.scatter_reduce(0, owners, places, kind, include_self=False) for kind in ("amin", "amax")
        )
        if torch.equal(lowest, highest):
            self._join(wires[owners], sources, reason)
        else:
            self.forced.append((torch.cat([wires, sources]), reason))

    def _put_side_by_side(self, node: fx.Node) -> None:
        """Join channels that are concatenated along another dimension than that of the channels."""
        reads: Sequence[fx.Node] = _args(node)[0]
        dim = concrete((*_args(node), 0)[1]) % len(shape_of(node))
        found = [self.channels.get(read) for read in reads]
        if found[0] is None or found[0].axis == dim:
            return
        for other in found[1:]:
            if other is not None and other.axis == found[0].axis and len(other) == len(found[0]):
                self._join(found[0].wires, other.wires, "cat")

    # ---------------------------------------------------------------------------------------- products

    def _product(self, node: fx.Node) -> Edit:
        found = [made for made in self._traced.nodes[node] if isinstance(made, Layer)]
        x, weight = _args(node)[:2]
        is_linear = operator_name(node) == "linear"
        if len(found) != 1 or found[0].weight != str(weight.target) or found[0].computes_bias:
            raise Unfollowed
        self._check_axis(x, len(shape_of(x)) - 1 if is_linear else 1)
        self._check_axis(node, len(shape_of(node)) - 1 if is_linear else 1)
        layer, tensors = found[0], self._traced.tensors
        bias = None if layer.bias is None else tensors[layer.bias]
        return Product(node, layer, tensors[layer.weight], bias, self.values[layer.inputs])

    def _check_axis(self, node: fx.Node, axis: int) -> None:
        """Raise Unfollowed where a node has channels along another dimension, or none that are apart."""
        found = self.channels.get(node)
        if node in self._moving or (found is not None and found.axis != axis):
            raise Unfollowed
        if found is None and self._matters(node) and self._traced.labels[node].numel() > 1:
            raise Unfollowed

    def _norm(self, node: fx.Node) -> Edit | None:
        self._check_axis(_first(node), 1)
        self._check_axis(node, 1)
        if not any(isinstance(made, Norm) and not made.mixes for made in self._traced.nodes[node]):
            raise Unfollowed
        constants = dict.fromkeys((read for read in _args(node)[1:5] if isinstance(read, fx.Node)), 0)
        return self._sliced(node, constants)

    def _sliced(self, node: fx.Node, constants: dict[fx.Node, int]) -> Edit | None:
        if node not in self.channels or not constants:
            return None
        if any(read.op != "get_attr" for read in constants):
            raise Unfollowed
        tensors = {read: self._traced.tensors[str(read.target)] for read in constants}
        return Slices(node, self.channels[node].wires, tensors, constants)

    # ------------------------------------------------------------------------------------- elementwise

    def _elementwise(self, node: fx.Node) -> Edit | None:
        if node not in self.channels:
            if any(read in self.channels or read in self._moving for read in node.all_input_nodes):
                raise Unfollowed
            return None
        place = self.channels[node].axis - len(shape_of(node))
        constants: dict[fx.Node, int] = {}
        for read in node.all_input_nodes:
            shape = shape_of(read) if read in self._traced.labels else ()
            if len(shape) < -place or shape[place] == 1:
                if read in self.channels or read in self._moving:
                    raise Unfollowed
            elif read.op == "get_attr":
                constants[read] = len(shape) + place
            else:
                self._check_axis(read, len(shape) + place)
        return self._sliced(node, constants)

    def _branch(self, node: fx.Node) -> fx.Node | None:
        """Return the summand that lacks most channels, if a layer or norm makes it for this sum alone."""
        reads = [read for read in node.all_input_nodes if read in self.channels]
        if operator_name(node) != "add" or node.kwargs or len(reads) != 2 or set(reads) != set(_args(node)):
            return None
        own = [
            read
            for read in reads
            if operator_name(read) in BRANCHES and len(read.users) == 1 and self._num_zeros(read)
        ]
        is_same = len({shape_of(read) for read in (node, *reads)}) == 1
        return max(own, key=self._num_zeros, default=None) if is_same else None

    def _num_zeros(self, node: fx.Node) -> int:
        return int((self.values[self.channels[node].wires] == 0).sum())

    def _sum(self, node: fx.Node, branch: fx.Node) -> Edit:
        (stream,) = set(_args(node)) - {branch}
        if not {node, branch, stream} <= self.channels.keys():
            raise Unfollowed
        own, added = self.channels[node], self.channels[branch]
        return Sum(node, own.axis, own.wires, stream, branch, added.wires)

    # ---------------------------------------------------------------------------------- cuts and moves

    def _copied(self, node: fx.Node) -> Edit | None:
        if moving := self._moving.get(_first(node)):
            return self._moved_on(node, moving)
        self._same(node)
        return None

    def _same(self, node: fx.Node) -> None:
        """Follow an operator that leaves the channels as they are."""
        own, read = self.channels.get(node), self.channels.get(_first(node))
        if own is None and read is None and self._traced.labels[_first(node)].numel() == 1:
            return None
        if own is None or read is None or not self._are_alike(own.wires, read.wires):
            raise Unfollowed
        return None

    def _are_alike(self, ours: Tensor, theirs: Tensor) -> bool:
        return len(ours) == len(theirs) and torch.equal(self.places[ours], self.places[theirs])

    def _concatenated(self, node: fx.Node) -> None:
        if node not in self.channels or any(read in self._moving for read in _args(node)[0]):
            raise Unfollowed
        for read in _args(node)[0]:
            if self._matters(read):
                self._check_axis(read, self.channels[node].axis)

    def _split(self, node: fx.Node) -> None:
        if _first(node) not in self.channels:
            raise Unfollowed

    def _taken(self, node: fx.Node) -> Edit | None:
        """Follow one of the tensors that a split gives."""
        split, index = _args(node)
        if operator_name(split) not in SPLITS:
            raise Unfollowed
        dim = concrete((*_args(split), *[0] * 3)[2]) % len(shape_of(_first(split)))
        sizes = [concrete(part.shape[dim]) for part in split.meta["val"]]
        start = sum(sizes[:index])
        return self._part(node, _first(split), dim, start, start + sizes[index])

    def _slice(self, node: fx.Node) -> Edit | None:
        given = [*_args(node), *(0, None, None, 1)[len(_args(node)) - 1 :]]
        dim, start, stop, step = concrete(given[1:5])
        dim %= len(shape_of(node))
        first, last, _ = slice(start, stop).indices(shape_of(_first(node))[dim])
        return self._part(node, _first(node), dim, first, last, step)

    def _narrow(self, node: fx.Node) -> Edit | None:
        dim, start, length = concrete(_args(node)[1:])
        return self._part(node, _first(node), dim % len(shape_of(node)), start, start + length)

    def _sized(self, node: fx.Node) -> None:
        """Follow a question for the size of a dimension."""
        read, dim = _args(node)
        if read not in self.channels or self.channels[read].axis == dim % len(shape_of(read)):
            raise Unfollowed

    def _part(
        self, node: fx.Node, read: fx.Node, dim: int, start: int, stop: int, step: int = 1
    ) -> Edit | None:
        whole = self.channels.get(read)
        if whole is None or (whole.axis == dim and step != 1):
            raise Unfollowed
        return Part(node, read, whole.axis, whole.wires, start, stop) if whole.axis == dim else None

    def _padded(self, node: fx.Node) -> Edit | None:
        own, sizes = self.channels.get(node), concrete(_args(node)[1])
        mode = (*_args(node)[2:], "constant")[0] if operator_name(node) == "pad" else "constant"
        if own is None or _first(node) in self._moving or mode != "constant":
            raise Unfollowed
        place = 2 * (len(shape_of(node)) - 1 - own.axis)
        before, behind = (*sizes, *[0] * (place + 2))[place : place + 2]
        if min(before, behind) < 0:
            raise Unfollowed
        if not before and not behind:
            return None
        ends = own.wires[:before], own.wires[len(own) - behind :]
        return Sizes(node, 1, dict(zip((place, place + 1), ends, strict=True)))

    def _moved(self, node: fx.Node) -> Edit | None:
        read = _first(node)
        if read in self._moving:
            return self._moved_on(node, self._moving[read])
        is_view = operator_name(node) in VIEWS
        if own := self.channels.get(node):
            return Sizes(node, 1, {own.axis: own.wires}) if is_view else None
        if read in self.channels and is_view:
            entries = torch.arange(prod(shape_of(read))).reshape(shape_of(read))
            self._moving[node] = Moving(read, _run(node, entries))
        elif read in self.channels:
            raise Unfollowed
        return None

    def _moved_on(self, node: fx.Node, value: Moving) -> Edit | None:
        entries, base = _run(node, value.entries.contiguous()), self.channels[value.base]
        order = _order(entries, shape_of(value.base), base.axis)
        if order is not None and node in self.channels and self.channels[node].axis == base.axis:
            return Shuffle(node, value.base, base.axis, base.wires, order)
        self._moving[node] = Moving(value.base, entries)
        self.channels.pop(node, None)
        return None


Rule = Callable[[Followed, fx.Node], Edit | None]
RULES: dict[str, Rule] = {
    "batch_norm": Followed._norm,
    "cat": Followed._concatenated,
    "constant_pad_nd": Followed._padded,
    "getitem": Followed._taken,
    "narrow": Followed._narrow,
    "pad": Followed._padded,
    "slice": Followed._slice,
    "sym_size": Followed._sized,
    **dict.fromkeys({*MOVES, *VIEWS}, Followed._moved),
    **dict.fromkeys(POOLS, Followed._same),
    **dict.fromkeys(SAME, Followed._copied),
    **dict.fromkeys(PRODUCTS, Followed._product),
    **dict.fromkeys(SPLITS, Followed._split),
}


def _args(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments that a call gives by position."""
    return node.args


def _first(node: fx.Node) -> fx.Node:
    """Return the node whose tensor an operator has as its first argument."""
    read = _args(node)[0]
    assert isinstance(read, fx.Node)
    return read


def _run(node: fx.Node, tensor: Tensor) -> Tensor:
    """Return what an operator that moves entries does with a tensor of entries."""
    operator_: Any = node.target
    moved: Tensor = operator_(tensor, *concrete(_args(node)[1:]), **node.kwargs)
    return moved


def _order(entries: Tensor, shape: Sequence[int], axis: int) -> Tensor | None:
    """Return which of the old channels each new one is, where nothing but channels has moved."""
    if list(entries.shape) != list(shape):
        return None
    new = entries.movedim(axis, 0).flatten(1)
    old = torch.arange(prod(shape)).reshape(tuple(shape)).movedim(axis, 0).flatten(1)
    order = torch.searchsorted(old[:, 0].contiguous(), new[:, 0].contiguous()).clamp(max=len(old) - 1)
    return order if torch.equal(old[order], new) else None
