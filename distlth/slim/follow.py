"""Follow channels through a program: which there are, which belong together, which are constant."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, fx

from distlth.models.flow import PROBES
from distlth.slim.channels import ALIVE, Channels, Moving, Slots, Value
from distlth.slim.program import concrete, constant_of, operator_name, shape_of
from distlth.slim.steps import (
    Concatenation,
    Constant,
    Elementwise,
    Norm,
    Padding,
    Part,
    Product,
    Reshape,
    Shuffle,
    Step,
    Sum,
)

# What becomes of a branch that lacks some channels of the stream that it is added to: rows of zeros in its
# last layer, or fewer rows, scattered into the stream.
Sums = Literal["zeros", "scatter"]

# Operators whose result has the same entries at the same places.
SAME = {"_to_copy", "alias", "clone", "contiguous", "detach", "detach_", "dropout", "lift_fresh_copy"}
# Elementwise operators that torch does not mark as such.
ELEMENTWISE = {"hardswish", "relu6"}
POOLS = {"adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d"}
MOVES = {"flatten", "permute", "reshape", "squeeze", "transpose", "unflatten", "unsqueeze", "view"}
# Where operators that reshape have their sizes, and whether these are those of all dimensions.
SIZES = {"reshape": 1, "view": 1}


class Unfollowed(Exception):  # noqa: N818  # no error: what is read is kept whole
    """Nothing is known of what an operator does with channels."""


class Follower:
    """One pass along a program's operators."""

    def __init__(self, module: fx.GraphModule, sums: Sums) -> None:
        self._module, self._sums = module, sums
        self.slots = Slots()
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Value] = {}
        self.forced: list[tuple[Tensor, str]] = []
        self.whole: list[tuple[fx.Node, fx.Node]] = []  # who reads all of which tensor

    def run(self) -> Follower:
        """Follow every operator."""
        for node in self._module.graph.nodes:
            self.values[node] = self._value(node)
        self.slots.settle()
        for slots, reason in self.forced:
            self.slots.need(slots, reason)
        return self

    def _value(self, node: fx.Node) -> Value:
        if node.op == "output":
            for read in node.all_input_nodes:
                self._read_whole(node, read, "")
        if node.op != "call_function":
            return None
        try:
            return self._followed(node)
        except Unfollowed:
            return self._opaque(node)

    def _followed(self, node: fx.Node) -> Value:
        name = operator_name(node)
        if name in PRODUCTS and self._constant(_args(node)[1]) is not None:
            return self._product(node)
        if not self._reads_channels(node):
            return None
        if node.target is operator.getitem:
            return self._part_of_split(node)
        if name in HANDLERS:
            return HANDLERS[name](self, node)
        if not self._is_elementwise(node):
            raise Unfollowed
        return self._elementwise(node)

    def _reads_channels(self, node: fx.Node) -> bool:
        read = node.all_input_nodes
        if node.target is operator.getitem:
            return self._is_split(read[0]) and self._reads_channels(read[0])
        return any(self.values.get(other) is not None for other in read)

    def _is_elementwise(self, node: fx.Node) -> bool:
        tags = getattr(node.target, "tags", ())
        return torch.Tag.pointwise in tags or operator_name(node) in ELEMENTWISE

    def _step(self, step: Step) -> Channels:
        self.steps.append(step)
        return step.result

    def _channels(self, node: Any) -> Channels | None:
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        return value if isinstance(value, Channels) else None

    # ------------------------------------------------------------------------------------------- whole

    def _opaque(self, node: fx.Node) -> Value:
        """Keep all that an operator reads of which nothing is known."""
        for read in node.all_input_nodes:
            self._read_whole(node, read, operator_name(node))
        return None

    def _read_whole(self, node: fx.Node, read: fx.Node, reason: str) -> None:
        value = self.values.get(read)
        if value is None:
            return
        source = value.base if isinstance(value, Moving) else read
        channels = value.channels if isinstance(value, Moving) else value
        self.whole.append((node, source))
        self.forced.append((channels.slots, reason))

    # ---------------------------------------------------------------------------------------- products

    def _product(self, node: fx.Node) -> Value:
        x, weight, bias = (*_args(node), None)[:3]
        found, offset = self._constant(weight), self._constant(bias)
        value = self.values.get(x) if isinstance(x, fx.Node) else None
        if found is None or (bias is not None and offset is None):
            raise Unfollowed
        is_linear = operator_name(node) == "linear"
        axis = len(shape_of(node)) - 1 if is_linear else 1
        if isinstance(value, Channels) and value.axis != axis:
            raise Unfollowed
        if isinstance(value, Moving):
            self._opaque(node)
        read = value if isinstance(value, Channels) else None
        groups = 1 if is_linear else concrete(_args(node)[6]) if len(_args(node)) > 6 else 1
        result = self._slots_of(node, read, len(found.tensor), groups)
        blank = Channels(axis, result, torch.full((len(result),), ALIVE, dtype=torch.float64))
        step = Product(node, blank, read, found, offset, groups, not is_linear and _pads(node))
        filled = Channels(axis, result, step.values())
        return self._step(Product(node, filled, read, found, offset, groups, step.pads))

    def _slots_of(self, node: fx.Node, read: Channels | None, count: int, groups: int) -> Tensor:
        """Return the slots of a layer's output channels: those of its input where it is depthwise."""
        result = self.slots.new(count)
        if groups > 1 and read is None:
            self.forced.append((result, "the layer is grouped, and all that it reads is kept"))
        elif groups > 1 and groups == count == (0 if read is None else len(read)):
            assert read is not None
            self.slots.join(result, read.slots)
        return result

    def _norm(self, node: fx.Node) -> Value:
        read = self._channels(_args(node)[0])
        constants = [self._constant(arg) for arg in _args(node)[1:5]]
        if read is None or read.axis != 1 or _args(node)[5] or constants[2] is None or constants[3] is None:
            raise Unfollowed
        weight, bias, mean, var = (None if c is None else c.tensor.detach().double() for c in constants)
        assert mean is not None
        assert var is not None
        scale = (1.0 if weight is None else weight) / (var + _args(node)[7]).sqrt()
        shift = 0.0 if bias is None else bias
        # An alive channel of scale zero is constant.
        moved = torch.where(scale == 0, 0.0, (read.values - mean) * scale)
        named = {place: constant for place, constant in enumerate(constants, 1) if constant}
        return self._step(Norm(node, Channels(1, read.slots, moved + shift), named))

    # ------------------------------------------------------------------------------------- elementwise

    def _elementwise(self, node: fx.Node) -> Value:
        shape, reads = shape_of(node), list(node.all_input_nodes)
        followed = {read: found for read in reads if (found := self._channels(read))}
        axes = {len(shape) - len(shape_of(read)) + found.axis for read, found in followed.items()}
        if len(axes) != 1 or any(isinstance(self.values.get(read), Moving) for read in reads):
            raise Unfollowed
        axis = axes.pop()
        if any(len(found) != shape[axis] for found in followed.values()):
            raise Unfollowed
        constants: dict[fx.Node, tuple[Constant, int]] = {}
        operands: dict[fx.Node, Tensor] = {read: found.values for read, found in followed.items()}
        for read in reads:
            if read not in followed:
                operands[read] = self._other_operand(node, read, axis - len(shape), constants, followed)
        values = _probed(node, operands, shape[axis])
        if self._sums == "scatter" and (branch := self._branch(node, followed)):
            (stream,) = followed.keys() - {branch}
            result = Channels(axis, followed[stream].slots, values)
            return self._step(Sum(node, result, stream, branch, followed[branch]))
        first, *others = followed.values()
        for other in others:
            self.slots.join(first.slots, other.slots)
        return self._step(Elementwise(node, Channels(axis, first.slots, values), list(followed), constants))

    def _branch(self, node: fx.Node, followed: Mapping[fx.Node, Channels]) -> fx.Node | None:
        """Return the summand that lacks most channels, if a layer or norm makes it for this sum alone."""
        shapes = {shape_of(read) for read in (node, *followed)}
        if operator_name(node) != "add" or len(followed) != 2 or node.kwargs or len(shapes) > 1:
            return None
        own = [
            read
            for read in followed
            if operator_name(read) in BRANCHES and len(read.users) == 1 and (followed[read].values == 0).any()
        ]
        return max(own, key=lambda read: int((followed[read].values == 0).sum()), default=None)

    def _other_operand(
        self,
        node: fx.Node,
        read: fx.Node,
        axis: int,
        constants: dict[fx.Node, tuple[Constant, int]],
        followed: dict[fx.Node, Channels],
    ) -> Tensor:
        """Return the values of an operand without channels; `axis` counts from the end."""
        alive = torch.tensor([ALIVE], dtype=torch.float64)
        if not isinstance(read.meta.get("val"), Tensor):
            return alive
        shape, constant = shape_of(read), self._constant(read)
        if len(shape) < -axis or shape[axis] == 1:
            is_one = constant is not None and constant.tensor.numel() == 1
            return constant.tensor.detach().double().reshape(1) if constant and is_one else alive
        if constant is None:
            reason = f"{operator_name(node)} takes them together with values that are kept whole"
            self.forced.extend((channels.slots, reason) for channels in followed.values())
            return alive
        constants[read] = constant, len(shape) + axis
        is_vector = constant.tensor.numel() == shape[axis]
        return constant.tensor.detach().double().flatten() if is_vector else alive.expand(shape[axis])

    def _same(self, node: fx.Node) -> Value:
        value = self.values[_first(node)]
        if isinstance(value, Channels):
            return self._step(Elementwise(node, value, [_first(node)], {}))
        return value

    def _pooled(self, node: fx.Node) -> Value:
        read, name = self._channels(_args(node)[0]), operator_name(node)
        if read is None or read.axis != len(shape_of(node)) - 3:
            raise Unfollowed
        values = read.values
        if name == "avg_pool2d" and len(_args(node)) > 3 and any(concrete(_args(node)[3])):
            values = torch.where(values == 0, 0.0, ALIVE)
        return self._step(Elementwise(node, Channels(read.axis, read.slots, values), [_first(node)], {}))

    def _mean(self, node: fx.Node) -> Value:
        read, shape = self._channels(_args(node)[0]), shape_of(_first(node))
        dims = (*_args(node), None)[1]
        gone = [dim % len(shape) for dim in (dims if isinstance(dims, list | tuple) else [dims])]
        if read is None or not dims or read.axis in gone:
            raise Unfollowed
        keeps = len(shape_of(node)) == len(shape)
        axis = read.axis if keeps else read.axis - sum(dim < read.axis for dim in gone)
        return self._step(Elementwise(node, Channels(axis, read.slots, read.values), [_first(node)], {}))

    # ------------------------------------------------------------------------------------ cut and join

    def _concatenation(self, node: fx.Node) -> Value:
        reads: Sequence[fx.Node] = _args(node)[0]
        dim = concrete((*_args(node), 0)[1]) % len(shape_of(node))
        if any(isinstance(self.values.get(read), Moving) for read in reads):
            raise Unfollowed
        followed = [self._channels(read) for read in reads]
        if any(found is not None and found.axis != dim for found in followed):
            return self._side_by_side(node, followed)
        parts = [
            found or self._whole_channels(read, dim) for read, found in zip(reads, followed, strict=True)
        ]
        slots, values = torch.cat([part.slots for part in parts]), torch.cat([part.values for part in parts])
        counted = [(read, len(part)) for read, part in zip(reads, parts, strict=True)]
        return self._step(Concatenation(node, Channels(dim, slots, values), counted))

    def _side_by_side(self, node: fx.Node, followed: Sequence[Channels | None]) -> Value:
        """Follow a concatenation along another dimension than that of the channels."""
        parts = [found for found in followed if found is not None]
        first, *others = parts
        if len(parts) < len(followed) or any(other.axis != first.axis for other in others):
            raise Unfollowed
        values = first.values
        for other in others:
            self.slots.join(first.slots, other.slots)
            values = torch.where(values == other.values, values, ALIVE)
        result = Channels(first.axis, first.slots, values)
        return self._step(Elementwise(node, result, list(_args(node)[0]), {}))

    def _whole_channels(self, node: fx.Node, axis: int) -> Channels:
        """Return channels, all kept, for a tensor of which nothing is known."""
        slots = self.slots.new(shape_of(node)[axis])
        self.forced.append((slots, ""))
        return Channels(axis, slots, torch.full((len(slots),), ALIVE, dtype=torch.float64))

    def _is_split(self, node: fx.Node) -> bool:
        return isinstance(node.meta.get("val"), list | tuple)

    def _split(self, node: fx.Node) -> Value:
        read = self._channels(_args(node)[0])
        dim = concrete((*_args(node), *[0] * 3)[2])
        shape = shape_of(_first(node))
        if read is None or dim % len(shape) != read.axis:
            raise Unfollowed
        return None

    def _part_of_split(self, node: fx.Node) -> Value:
        split, index = _args(node)
        assert isinstance(split, fx.Node)
        whole = self._channels(_args(split)[0])
        if whole is None or operator_name(split) not in SPLITS:
            return None
        sizes = [concrete(part.shape[whole.axis]) for part in split.meta["val"]]
        start = sum(sizes[:index])
        return self._part(node, _args(split)[0], whole, start, start + sizes[index])

    def _slice(self, node: fx.Node) -> Value:
        read, shape = self._channels(_args(node)[0]), shape_of(_first(node))
        dim, start, stop, step = concrete((*_args(node), *(0, None, None, 1)[len(_args(node)) - 1 :])[1:5])
        if read is None:
            raise Unfollowed
        if dim % len(shape) != read.axis:
            return self._same(node)
        first, last, _ = slice(start, stop).indices(len(read))
        if step != 1:
            raise Unfollowed
        return self._part(node, _first(node), read, first, last)

    def _narrow(self, node: fx.Node) -> Value:
        read, shape = self._channels(_args(node)[0]), shape_of(_first(node))
        dim, start, length = concrete(_args(node)[1:])
        if read is None:
            raise Unfollowed
        if dim % len(shape) != read.axis:
            return self._same(node)
        return self._part(node, _first(node), read, start, start + length)

    def _part(self, node: fx.Node, read: fx.Node, whole: Channels, start: int, stop: int) -> Channels:
        result = Channels(whole.axis, whole.slots[start:stop], whole.values[start:stop])
        return self._step(Part(node, result, read, whole, start, stop))

    def _padding(self, node: fx.Node) -> Value:
        read, sizes = self._channels(_args(node)[0]), concrete(_args(node)[1])
        mode, value = _filling(node)
        if read is None or mode != "constant":
            raise Unfollowed
        place = 2 * (len(shape_of(node)) - 1 - read.axis)
        before, behind = (*sizes, *[0] * (place + 2))[place : place + 2]
        if before < 0 or behind < 0:
            raise Unfollowed
        around = any(size for index, size in enumerate(sizes) if index not in (place, place + 1))
        inner = torch.where(read.values == value, read.values, ALIVE) if around else read.values
        new = self.slots.new(before + behind)
        filled = torch.full((before + behind,), value, dtype=torch.float64)
        slots = torch.cat([new[:before], read.slots, new[before:]])
        values = torch.cat([filled[:before], inner, filled[before:]])
        if not before and not behind:
            return self._step(Elementwise(node, Channels(read.axis, slots, values), [_first(node)], {}))
        return self._step(Padding(node, Channels(read.axis, slots, values), before, behind, place))

    # ---------------------------------------------------------------------------------------- movement

    def _moved(self, node: fx.Node) -> Value:
        read = _first(node)
        value = self.values[read]
        if isinstance(value, Moving):
            return self._moved_on(node, value)
        assert isinstance(value, Channels)
        if operator_name(node) in ("permute", "transpose", "squeeze", "unsqueeze"):
            return self._transposed(node, value)
        if found := _reshaped(shape_of(read), shape_of(node), value.axis):
            axis, repeats = found
            result = Channels(
                axis, value.slots.repeat_interleave(repeats), value.values.repeat_interleave(repeats)
            )
            return self._step(Reshape(node, result, repeats, SIZES.get(operator_name(node)), axis))
        if operator_name(node) not in SIZES:
            raise Unfollowed
        entries = torch.arange(prod(shape_of(read))).reshape(shape_of(read))
        return Moving(read, value, _run(node, entries))

    def _transposed(self, node: fx.Node, value: Channels) -> Value:
        read = _first(node)
        shape = shape_of(read)
        # Strides tell where each dimension goes.
        marks = torch.arange(shape[value.axis]).reshape(
            [-1 if dim == value.axis else 1 for dim in range(len(shape))]
        )
        moved = _run(node, marks.expand(shape))
        axes = [dim for dim in range(moved.ndim) if moved.stride(dim) and moved.shape[dim] == len(value)]
        if len(axes) != 1:
            raise Unfollowed
        result = Channels(axes[0], value.slots, value.values)
        return self._step(Reshape(node, result, 1, None, axes[0]))

    def _moved_on(self, node: fx.Node, value: Moving) -> Value:
        entries, channels = _run(node, value.entries.contiguous()), value.channels
        order = _order(entries, shape_of(value.base), channels.axis)
        if order is None:
            return Moving(value.base, channels, entries)
        result = Channels(channels.axis, channels.slots[order], channels.values[order])
        return self._step(Shuffle(node, result, value.base, channels, order))

    def _constant(self, node: Any) -> Constant | None:
        tensor = constant_of(self._module, node)
        return None if tensor is None else Constant(str(node.target), tensor)


PRODUCTS = {"conv1d", "conv2d", "linear"}
BRANCHES = {"batch_norm", "conv2d"}
SPLITS = {"chunk", "split", "split_with_sizes"}
HANDLERS: dict[str, Callable[[Follower, fx.Node], Value]] = {
    "batch_norm": Follower._norm,
    "cat": Follower._concatenation,
    "constant_pad_nd": Follower._padding,
    "mean": Follower._mean,
    "narrow": Follower._narrow,
    "pad": Follower._padding,
    "slice": Follower._slice,
    **dict.fromkeys(MOVES, Follower._moved),
    **dict.fromkeys(POOLS, Follower._pooled),
    **dict.fromkeys(SAME, Follower._same),
    **dict.fromkeys(SPLITS, Follower._split),
}


def _args(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments that a call gives by position."""
    return node.args


def _first(node: fx.Node) -> fx.Node:
    """Return the node whose tensor an operator has as its first argument."""
    read = _args(node)[0]
    assert isinstance(read, fx.Node)
    return read


def _pads(node: fx.Node) -> bool:
    """Return whether a convolution reads beyond the border."""
    padding = _args(node)[4] if len(_args(node)) > 4 else 0
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, list | tuple) else bool(padding)


def _filling(node: fx.Node) -> tuple[str, float]:
    """Return the mode of a padding, and the value that it fills in."""
    more = _args(node)[2:]
    if operator_name(node) == "constant_pad_nd":
        return "constant", float(more[0]) if more else 0.0
    mode = more[0] if more else "constant"
    value = more[1] if len(more) > 1 else None
    return str(mode), float(value or 0.0)


def _run(node: fx.Node, tensor: Tensor) -> Tensor:
    """Return what an operator that moves entries does with a tensor of entries."""
    operator_: Any = node.target
    moved: Tensor = operator_(tensor, *concrete(_args(node)[1:]), **node.kwargs)
    return moved


def _probed(node: fx.Node, operands: dict[fx.Node, Tensor], count: int) -> Tensor:
    """Return the value of each channel of an elementwise operator's result, ALIVE where it varies."""
    probes = torch.tensor(PROBES, dtype=torch.float64)
    places = {read: place for place, read in enumerate(operands)}

    def fill(argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        values = operands[argument]
        return torch.where(values.isnan(), probes.roll(3 * places[argument])[:, None], values)

    operator_: Any = node.target
    results = operator_(*map(fill, _args(node)), **{key: fill(value) for key, value in node.kwargs.items()})
    results = results.to(torch.float64).expand(len(PROBES), count)
    return torch.where((results == results[0]).all(dim=0), results[0], ALIVE)


def _reshaped(old: Sequence[int], new: Sequence[int], axis: int) -> tuple[int, int] | None:
    """Return where a reshape takes a dimension, and with how many entries of those behind it it is merged."""
    behind = {prod(old[axis + 1 : end]) for end in range(axis + 1, len(old) + 1)}
    for place in _ahead(new, prod(old[:axis])):
        repeats, rest = divmod(new[place], old[axis])
        if not rest and repeats in behind:
            return place, repeats
    return None


def _ahead(shape: Sequence[int], size: int) -> Iterator[int]:
    """Iterate over the dimensions that have so many entries ahead of them; those of size 1 come last."""
    places = [place for place in range(len(shape)) if prod(shape[:place]) == size]
    yield from sorted(places, key=lambda place: (shape[place] == 1, place))


def _order(entries: Tensor, shape: Sequence[int], axis: int) -> Tensor | None:
    """Return which of the old channels each new one is, where nothing but channels has moved."""
    if list(entries.shape) != list(shape):
        return None
    rows = entries.movedim(axis, 0).flatten(1)
    old = torch.arange(prod(shape)).reshape(tuple(shape)).movedim(axis, 0).flatten(1)
    order = torch.searchsorted(old[:, 0].contiguous(), rows[:, 0].contiguous()).clamp(max=len(old) - 1)
    return order if torch.equal(old[order], rows) else None
