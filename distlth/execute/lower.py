"""Lower a traced network to the CPU engine: norms, sums and clamps go into the convolutions before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from distlth.execute.blocks import Form, forms
from distlth.execute.cpu import Network, Window
from distlth.execute.measure import Choice
from distlth.execute.product import Doubles, Product
from distlth.slim.program import concrete, constant_of, operator_name, shape_of

# Operators whose result is what they read, in eval mode.
SAME = {"_to_copy", "alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift_fresh_copy"}


class Unsupported(Exception):  # noqa: N818  # no error: torch runs it then
    """The engine has no such operator."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A norm or sum, and what is done to its result."""

    source: fx.Node
    scale: Doubles | None = None
    shift: Doubles | None = None
    add: int | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def scaled(self, scale: Doubles, shift: Doubles) -> Affine:
        """Return it with a norm behind it."""
        if self.scale is None or self.shift is None:
            return replace(self, scale=scale, shift=shift)
        return replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)

    def emit(self, network: Network, source: int) -> int:
        """Add it to a network."""
        parts = [None if part is None else part.astype(np.float32) for part in (self.scale, self.shift)]
        return network.affine(source, *parts, add=self.add, bounds=self.bounds)


Pending = Product | Affine


class Lowering:
    """One pass over a program's operators, which adds them to a network.

    Products and norms wait for what comes behind them: where they have a single reader that is a norm, sum or
    clamp, this becomes a part of them.
    """

    def __init__(
        self, module: fx.GraphModule, masks: Mapping[str, Tensor], network: Network, choice: Choice
    ) -> None:
        self.network = network
        self.forms: dict[str, Form] = {}
        self._choice = choice
        self._module, self._masks = module, masks
        self._numbers: dict[fx.Node, int] = {}
        self._pending: dict[fx.Node, Pending] = {}

    def begin(self, node: fx.Node) -> None:
        """Let a node be the network's input."""
        self._numbers[node] = 0

    def lower(self, node: fx.Node) -> None:
        """Lower one operator.

        Raises:
            Unsupported: the engine does not have it.
        """
        handler = HANDLERS.get(operator_name(node))
        if handler is None:
            raise Unsupported(f"{operator_name(node)} is not in the engine")
        handler(self, node)

    def number(self, node: Any) -> int:
        """Return the number of a node's result in the network, adding what waits for it."""
        if node not in self._numbers:
            if node not in self._pending:
                raise Unsupported("it reads what is no image")
            waiting = self._pending.pop(node)
            self._numbers[node] = waiting.emit(self.network, self.number(waiting.source))
            if isinstance(waiting, Product):
                self.forms[waiting.layer] = waiting.form
        return self._numbers[node]

    def finish(self, node: fx.Node) -> None:
        """Let a node's result be the network's."""
        number = self.number(node)
        if number < max(self._numbers.values()):  # the last one makes the result
            self.network.affine(number)

    # --------------------------------------------------------------------------------------- helpers

    def _constant(self, node: Any) -> Tensor | None:
        return constant_of(self._module, node)

    def _doubles(self, node: Any) -> Doubles | None:
        constant = self._constant(node)
        return None if constant is None else constant.detach().double().numpy()

    def _is_image(self, node: Any) -> bool:
        return node in self._numbers or node in self._pending

    def _grown(self, node: fx.Node, read: Any, condition: bool = True) -> Pending:
        """Return what waits at `read`, taken over by `node`; an affine operator that does nothing else."""
        waiting = self._pending.get(read)
        if waiting is not None and condition and len(read.users) == 1:
            del self._pending[read]
            return waiting
        if not self._is_image(read):
            raise Unsupported("it reads what is no image")
        return Affine(read)

    def _window(self, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool = False) -> Window:
        return Window(_pair(size), _pair(stride), _pair(padding), _pair(dilation), ceil)

    # -------------------------------------------------------------------------------------- handlers

    def _convolution(self, node: fx.Node) -> None:
        source, weight, bias, stride, padding, dilation, groups = _filled(node, None, None, None, 1, 0, 1, 1)
        if isinstance(padding, str):
            raise Unsupported(f"padding {padding!r}")
        self._product(node, source, weight, bias, (stride, padding, dilation), groups)

    def _linear(self, node: fx.Node) -> None:
        source, weight, bias = _filled(node, None, None, None)
        if len(shape_of(node)) != 2:
            raise Unsupported("a linear layer on more than rows")
        self._product(node, source, weight, bias, (1, 0, 1), 1)

    def _product(
        self, node: fx.Node, source: Any, weight: Any, bias: Any, rest: tuple[Any, Any, Any], groups: int
    ) -> None:
        found, offset = self._doubles(weight), self._doubles(bias)
        if found is None or (bias is not None and offset is None) or not self._is_image(source):
            raise Unsupported("its weights are computed")
        found = found.reshape(*found.shape, *[1] * (4 - found.ndim))
        name = str(weight.target)
        kept = self._masks.get(name, torch.from_numpy(found != 0)).reshape(found.shape)
        both = forms(kept, groups)
        product = Product(
            layer=name.removesuffix(".weight"),
            source=source,
            weight=found,
            bias=np.zeros(len(found)) if offset is None else offset,
            form=both.by_cost,
            channels=(found.shape[1] * groups, len(found)),
            window=self._window(found.shape[2:], *rest),
        )
        self._pending[node] = replace(product, form=self._choice.of(product, both, shape_of(source)))

    def _norm(self, node: fx.Node) -> None:
        read, weight, bias, mean, var, training, _, eps = _args(node)[:8]
        average, variance = self._doubles(mean), self._doubles(var)
        if average is None or variance is None or training:
            raise Unsupported("a norm by the batch's own statistics")
        scale = 1 / np.sqrt(variance + eps)
        if (factor := self._doubles(weight)) is not None:
            scale = scale * factor
        shift = -average * scale
        if (offset := self._doubles(bias)) is not None:
            shift = shift + offset
        waiting = self._pending.get(read)
        plain = waiting is not None and waiting.add is None and not _is_bounded(waiting)
        self._pending[node] = self._grown(node, read, plain).scaled(scale, shift)

    def _clamp(self, node: fx.Node) -> None:
        low, high = _bounds(node)
        waiting = self._grown(node, _args(node)[0])
        old = waiting.bounds
        self._pending[node] = replace(
            waiting, bounds=(min(max(old[0], low), high), max(min(old[1], high), low))
        )

    def _add(self, node: fx.Node) -> None:
        reads = _args(node)
        if (
            node.kwargs
            or len({shape_of(read) for read in reads if isinstance(read, fx.Node)} | {shape_of(node)}) > 1
        ):
            raise Unsupported("a sum that is not of two images of one size")
        if not all(self._is_image(read) for read in reads):
            raise Unsupported("a sum with what is no image")
        first, second = sorted(reads, key=self._can_add, reverse=True)
        if self._can_add(first):  # both operands' last layers next to each other
            self.number(self._pending[first].source)
        number = self.number(second)
        self._pending[node] = replace(self._grown(node, first, self._can_add(first)), add=number)

    def _can_add(self, read: fx.Node) -> bool:
        waiting = self._pending.get(read)
        return (
            waiting is not None and waiting.add is None and not _is_bounded(waiting) and len(read.users) == 1
        )

    def _max_pool(self, node: fx.Node) -> None:
        read, size, stride, padding, dilation, ceil = _filled(node, None, None, [], 0, 1, False)
        window = self._window(size, stride or size, padding, dilation, ceil)
        self._numbers[node] = self.network.pool(self.number(read), "max", window)

    def _average_pool(self, node: fx.Node) -> None:
        read, size, stride, padding, ceil, counts, divisor = _filled(
            node, None, None, [], 0, False, True, None
        )
        if divisor is not None:
            raise Unsupported("a divisor")
        window = self._window(size, stride or size, padding, 1, ceil)
        kind = "mean with padding" if counts else "mean"
        self._numbers[node] = self.network.pool(self.number(read), kind, window)  # type: ignore[arg-type]

    def _adaptive_pool(self, node: fx.Node) -> None:
        read, size = _args(node)
        self._numbers[node] = self.network.mean(self.number(read), _pair(concrete(size)))

    def _mean(self, node: fx.Node) -> None:
        read, dims = _args(node)[:2]
        if {dim % 4 for dim in dims} != {2, 3} or len(shape_of(read)) != 4 or node.kwargs:
            raise Unsupported("a mean over other than pixels")
        self._numbers[node] = self.network.mean(self.number(read))

    def _concatenated(self, node: fx.Node) -> None:
        reads, dim = _filled(node, None, 0)
        if dim % len(shape_of(node)) != 1:
            raise Unsupported("a concatenation of other than channels")
        self._numbers[node] = self.network.concatenation([self.number(read) for read in reads])

    def _flatten(self, node: fx.Node) -> None:
        read, shape = _args(node)[0], shape_of(node)
        if len(shape) != 2 or shape[0] != shape_of(read)[0]:
            raise Unsupported("a reshape to other than rows")
        self._numbers[node] = self.network.flatten(self.number(read))

    def _same(self, node: fx.Node) -> None:
        read = _args(node)[0]
        if read in self._pending and len(read.users) == 1:
            self._pending[node] = self._pending.pop(read)
        else:
            self._numbers[node] = self.number(read)

    def _slice(self, node: fx.Node) -> None:
        """Take every n-th row or column, as shortcuts do."""
        read, dim, start, end, step = _filled(node, None, 0, None, None, 1)
        if start not in (None, 0) or (end is not None and concrete(end) < shape_of(read)[dim]):
            raise Unsupported("a slice of a part")
        if step == 1:
            self._same(node)
        elif dim % 4 in (2, 3) and len(shape_of(read)) == 4:
            stride = (step, 1) if dim % 4 == 2 else (1, step)
            self._numbers[node] = self.network.pool(self.number(read), "max", Window((1, 1), stride))
        else:
            raise Unsupported("a slice of channels")

    def _pad(self, node: fx.Node) -> None:
        """Append channels of zeros."""
        read, padding, mode, value = _filled(node, None, None, "constant", None)
        before, after = [*padding, 0, 0, 0, 0, 0, 0][4:6]
        if mode != "constant" or value or any(padding[:4]) or any(padding[6:]) or len(shape_of(node)) != 4:
            raise Unsupported("padding of other than channels by zeros")
        self._numbers[node] = self.network.pad(self.number(read), before, after)


HANDLERS: Mapping[str, Callable[[Lowering, fx.Node], None]] = {
    "adaptive_avg_pool2d": Lowering._adaptive_pool,
    "add": Lowering._add,
    "avg_pool2d": Lowering._average_pool,
    "batch_norm": Lowering._norm,
    "cat": Lowering._concatenated,
    "conv2d": Lowering._convolution,
    "flatten": Lowering._flatten,
    "hardtanh": Lowering._clamp,
    "linear": Lowering._linear,
    "max_pool2d": Lowering._max_pool,
    "mean": Lowering._mean,
    "pad": Lowering._pad,
    "relu": Lowering._clamp,
    "relu6": Lowering._clamp,
    "reshape": Lowering._flatten,
    "slice": Lowering._slice,
    "view": Lowering._flatten,
    **dict.fromkeys(SAME, Lowering._same),
}


def _args(node: fx.Node) -> tuple[Any, ...]:
    """Return a node's arguments in order, defaults filled in as far as the last one that is given."""
    schema = getattr(node.target, "_schema", None)
    if not node.kwargs or schema is None:
        return tuple(node.args)
    values = list(node.args)
    for argument in schema.arguments[len(values) :]:
        if argument.kwarg_only:
            break
        values.append(node.kwargs.get(argument.name, argument.default_value))
    return tuple(values)


def _filled(node: fx.Node, *defaults: Any) -> tuple[Any, ...]:
    """Return a node's arguments by place, those that are not given from `defaults`."""
    given = _args(node)
    return (*given, *defaults[len(given) :])[: len(defaults)]


def _pair(value: Any) -> tuple[int, int]:
    numbers = [int(number) for number in (value if isinstance(value, list | tuple) else [value])]
    return (numbers[0], numbers[-1])


def _bounds(node: fx.Node) -> tuple[float, float]:
    name = operator_name(node)
    if name == "relu":
        return 0.0, math.inf
    if name == "relu6":
        return 0.0, 6.0
    _, low, high = _filled(node, None, -1.0, 1.0)
    return float(low), float(high)


def _is_bounded(waiting: Pending) -> bool:
    return waiting.bounds != (-math.inf, math.inf)
