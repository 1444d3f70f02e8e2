"""Trace a network into its graph of channels, by running it once on shapes alone (the meta device).

What each operator does with channels stands here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from distlth.models.graph import (
    ALIVE,
    LIVE,
    ZERO,
    Constant,
    Graph,
    Join,
    Layer,
    Node,
    Norm,
    Opaque,
    Operand,
    Pointwise,
    Product,
)
from distlth.models.labels import compact, distinct, live, reshaped, rows

# Operators whose (first) result has the first argument's entries in the same places.
SAME = {"_to_copy", "alias", "clone", "detach", "lift_fresh", "native_dropout"}
# Operators that move entries without looking at them, beside views.
MOVES = {"channel_shuffle", "flip", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"}
MOVES |= {"repeat", "roll", "stack"}
RESHAPES = {"_reshape_copy", "_unsafe_view", "view"}
# Pointwise operators that torch does not mark as such.
POINTWISE = {"hardswish", "hardswish_", "_prelu_kernel"}
# Operators on [..., C, H, W] that leave channels apart, and give zeros for a channel of zeros.
POOLS = {"_adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d_with_indices"}
POOLS |= {"upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d"}
# Reductions over dimensions that give zeros for zeros.
REDUCTIONS = {"amax", "amin", "mean", "sum"}
# Operators that look at no entry of their arguments.
FRESH = {"bernoulli_", "empty_like", "full_like", "new_empty", "new_full", "new_ones", "normal_", "ones_like"}
FRESH |= {"rand_like", "randn_like", "uniform_"}
ZEROS = {"new_zeros", "zero_", "zeros", "zeros_like"}
# What a linear layer may do to its transposed weight before it multiplies a batch of matrices with it.
REPEATS = {"expand", "view"}
# Products of matrices whose entries have more labels than this, in all, are not followed.
MOST_PAIRS = 2**22
BATCH_NORMS = {"_batch_norm_with_update", "_native_batch_norm_legit", "cudnn_batch_norm", "native_batch_norm"}

Labels = Sequence[Tensor | None]


def trace(model: nn.Module, images: Tensor) -> Graph:
    """Return the graph of a network, all of whose tensors are on the meta device, as are `images`.

    The model runs once in the mode that it is in, without gradients: use training mode, in which attention
    layers run step by step. Whatever the forward pass asks Python (branches on options, loops) is decided as
    it runs, and what cannot be followed becomes an Opaque node.
    """
    tracer = Tracer(dict(model.named_parameters()), dict(model.named_buffers()), len(images))
    with torch.no_grad(), tracer:
        returned = model(images)
    return tracer.graph([output for output in tree_leaves(returned) if isinstance(output, Tensor)])


@dataclass(frozen=True)
class _Call:
    """One operator as it ran."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Tensor]

    @property
    def name(self) -> str:
        return str(self.func._schema.name).partition("::")[2]

    @property
    def tensors(self) -> list[Tensor]:
        return [arg for arg in tree_leaves((self.args, self.kwargs)) if isinstance(arg, Tensor)]

    @property
    def writes_in_place(self) -> bool:
        return bool(self.func._schema.is_mutable)


class Tracer(TorchDispatchMode):
    """Labels every entry of every tensor with its wire, while it is entered.

    A tensor without labels is LIVE everywhere. Parameters and buffers have none; their names are known, those
    of parameters also behind a transposition. `batch` is the number of images.
    """

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._batch = batch
        self._weights = {id(parameter): (name, parameter) for name, parameter in parameters.items()}
        self._buffers = {id(buffer): (name, buffer) for name, buffer in buffers.items()}
        self._transposed: dict[int, tuple[str, Tensor]] = {}
        self._nodes: list[Node] = []
        self._next = ZERO + 1
        self._labels: dict[int, Tensor] = {}
        self._written: dict[int, list[Tensor]] = {}  # what was written in place into a tensor's storage
        self._sharing: dict[int, dict[int, Tensor]] = {}  # storage -> its tensors, held: no id is used twice

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes so far."""
        return self._nodes

    def labels(self, tensor: Tensor) -> Tensor:
        """Return the wire of each entry of a tensor (int64), in compact form."""
        return self._of(tensor)

    def graph(self, outputs: Sequence[Tensor]) -> Graph:
        """Return the graph of all that has run."""
        wires = [self._of(output).flatten() for output in outputs]
        return Graph(tuple(self._nodes), self._next, torch.cat([*wires, torch.tensor([LIVE])]).unique())

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = _run(func, args, kwargs or {})
        results = [result for result in tree_leaves(out) if isinstance(result, Tensor)]
        call = _Call(func, args, kwargs or {}, results)
        labels = self._labels_of(call)
        for index, result in enumerate(results):
            self._put(result, labels[index] if index < len(labels) else None, call.writes_in_place)
        return out

    def _labels_of(self, call: _Call) -> Labels:
        """Return the labels of an operator's results; None, or too few, for those that are LIVE."""
        name = call.name
        if name in ("t", "transpose") and id(call.args[0]) in self._weights:
            self._transposed[id(call.results[0])] = self._weights[id(call.args[0])]
        if name in REPEATS and id(call.args[0]) in self._transposed:
            self._transposed[id(call.results[0])] = self._transposed[id(call.args[0])]
        if name in OWN_PARAMETERS:
            return OWN_PARAMETERS[name](self, call)
        if name in ZEROS:
            return [torch.full([1] * call.results[0].ndim, ZERO)]
        if name in FRESH or not any(self._is_labelled(tensor) for tensor in call.tensors):
            return []
        if not all(result.numel() for result in call.results):
            return []
        if name in FOLLOWED:
            return FOLLOWED[name](self, call)
        if call.func.is_view and not name.startswith("as_strided"):
            return self._moved(call)
        if torch.Tag.pointwise in call.func.tags:
            return self._pointwise(call)
        return self._opaque(call)

    # ------------------------------------------------------------------------------------------- labels

    def _put(self, tensor: Tensor, labels: Tensor | None, in_place: bool) -> None:
        mates = self._sharing.setdefault(tensor.untyped_storage()._cdata, {})
        mates[id(tensor)] = tensor
        if in_place:
            for mate in mates.keys() - {id(tensor)}:
                self._written.setdefault(mate, []).append(live(1) if labels is None else labels.flatten())
        if labels is None:
            self._labels.pop(id(tensor), None)
        else:
            self._labels[id(tensor)] = compact(labels)

    def _is_labelled(self, tensor: Tensor) -> bool:
        return id(tensor) in self._labels or id(tensor) in self._written

    def _of(self, tensor: Tensor) -> Tensor:
        """Return a tensor's labels. Writes through views of the same memory are seen, but not where."""
        labels = self._labels.get(id(tensor), live(tensor.ndim))
        if written := self._written.pop(id(tensor), None):
            written.append(labels.flatten())
            labels = self._anything("an in-place write", written).reshape([1] * tensor.ndim)
            self._labels[id(tensor)] = labels
        return labels

    def _spread(self, tensor: Tensor) -> Tensor:
        return self._of(tensor).expand(tensor.shape)

    def _channels(self, op: str, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        """Return one wire for each index of `dims`, flattened."""
        labels = self._of(tensor)
        shape = [tensor.shape[dim] if dim in dims else labels.shape[dim] for dim in range(tensor.ndim)]
        return self._joined(op, rows(labels.expand(shape), dims))

    def _joined(self, op: str, matrix: Tensor) -> Tensor:
        """Return one wire for each row of labels, a new one for each where a row has several."""
        if bool((matrix == matrix[:, :1]).all()):
            return matrix[:, 0]
        keys = (matrix + self._next * torch.arange(len(matrix))[:, None]).unique()
        owners, sources = keys // self._next, keys % self._next
        return self._add(lambda first: Join(op, first, len(matrix), sources, owners))

    def _distinct_rows(self, op: str, matrix: Tensor) -> Tensor:
        """Return one wire for each row of labels, the same for equal rows: images do not differ."""
        distinct_rows, places = torch.unique(matrix, dim=0, return_inverse=True)
        return self._joined(op, distinct_rows)[places]

    def _summed(self, op: str, matrix: Tensor) -> Tensor:
        """Return one wire for the sum over each row of labels, zero where all of it is."""
        return self._distinct_rows(op, torch.cat([matrix, torch.full((len(matrix), 1), ZERO)], dim=1))

    def _anything(self, op: str, labels: Sequence[Tensor], *, adds_up: bool = False) -> Tensor:
        wires = torch.cat(list(labels)).unique()
        if wires[-1] <= ZERO:
            return live(1)
        return self._add(lambda first: Opaque(op, first, 1, wires, adds_up))

    def _add(self, make: Callable[[int], Node]) -> Tensor:
        """Append a node and return the wires that it makes."""
        node = make(self._next)
        self._nodes.append(node)
        self._next += node.count
        return torch.arange(node.first, node.first + node.count)

    # ---------------------------------------------------------------------------------------- operators

    def _convolution(self, call: _Call) -> Labels:
        x, weight, bias, _, padding, _, transposed, _, groups = call.args
        named: tuple[str, Tensor] | None = self._weights.get(id(weight))
        if groups == len(weight) and bias is None:  # a fixed filter on each channel, as of BlurPool
            named = named or self._buffers.get(id(weight))
        if named is None or transposed:
            return self._opaque(call, adds_up=groups == 1 and not self._is_labelled(weight))
        channels = self._channels(str(call.func), x, [x.ndim - weight.ndim + 1])
        positions = call.results[0].numel() // len(weight) // self._batch
        wires = self._layer(call, named, bias, channels, positions, groups, any(padding))
        return [wires.reshape([1] * (x.ndim - weight.ndim + 1) + [-1] + [1] * (weight.ndim - 2))]

    def _product(self, call: _Call) -> Labels:
        *bias, x, weight = call.args
        if id(weight) not in self._transposed:
            return self._opaque(call, adds_up=not self._is_labelled(weight))
        channels = self._channels(str(call.func), x, [1])
        named = self._transposed[id(weight)]
        positions = max(1, len(x) // self._batch)
        return [self._layer(call, named, bias[0] if bias else None, channels, positions, 1, False)[None]]

    def _layer(
        self,
        call: _Call,
        weight: tuple[str, Tensor],
        bias: Tensor | None,
        channels: Tensor,
        positions: int,
        groups: int,
        pads: bool,
    ) -> Tensor:
        shape, op = tuple(weight[1].shape), str(call.func)
        named = weight[0], self._name(bias), self._is_computed(bias)
        return self._add(
            lambda first: Layer(op, first, shape[0], *named, shape, groups, positions, pads, channels)
        )

    def _biased(self, call: _Call) -> Labels:
        """Follow an addition; one of a parameter to what a layer has just made is the layer's own bias.

        So does torch add the bias of a linear layer whose input is not contiguous.
        """
        layer, (x, bias) = self._nodes[-1] if self._nodes else None, call.args[:2]
        if not isinstance(layer, Layer) or layer.bias is not None or layer.computes_bias or call.kwargs:
            return self._pointwise(call)
        if not isinstance(bias, Tensor) or id(bias) not in self._weights or bias.shape != (layer.count,):
            return self._pointwise(call)
        made = torch.arange(layer.first, layer.first + layer.count)
        if not torch.equal(self._of(x).flatten(), made) or x.shape[-1] != layer.count:
            return self._pointwise(call)
        self._nodes[-1] = replace(layer, bias=self._name(bias))
        return [self._of(x)]

    def _matrices(self, call: _Call) -> Labels:
        """Follow a product of two batches of matrices, batch x n x k and batch x k x m.

        So does torch multiply the weight of a linear layer whose input is not contiguous.
        """
        x, y = call.args
        if id(y) in self._transposed:
            channels, positions = (
                self._channels(str(call.func), x, [2]),
                x.shape[0] * x.shape[1] // self._batch,
            )
            wires = self._layer(call, self._transposed[id(y)], None, channels, positions, 1, False)
            return [wires.reshape(1, 1, -1)]
        labels = torch.broadcast_tensors(self._of(x)[..., None], self._of(y)[:, None])
        if labels[0].numel() > MOST_PAIRS:
            return self._opaque(call)
        operands, places = distinct([label.flatten() for label in labels])
        repeats = prod((*x.shape, y.shape[2])) // len(places)
        costs = places.bincount(minlength=len(operands[0])) * repeats // self._batch
        count, types, args = len(operands[0]), (x.dtype, y.dtype), (Operand(0), Operand(1))
        wires = self._add(
            lambda first: Product(
                "aten.mul.Tensor", first, count, operands, (False, False), types, args, (), None, costs
            )
        )
        batch, n, _, m = labels[0].shape
        sums = self._summed(str(call.func), rows(wires[places].reshape(labels[0].shape), [0, 1, 3]))
        return [sums.reshape(batch, n, m)]

    def _softmaxed(self, call: _Call) -> Labels:
        """Follow a softmax: of scores that are all the same it is uniform, whatever they are."""
        x, dim = call.args[:2]
        labels, others = self._of(x), [other for other in range(x.ndim) if other != dim % x.ndim]
        scores = self._distinct_rows(str(call.func), rows(labels, others))
        args = Operand(0), Operand(1)
        apart = self._alike("aten.sub.Tensor", (scores, scores), x.dtype, args)
        wires = self._alike("aten.add.Scalar", (apart,), x.dtype, (Operand(0), 1 / x.shape[dim]))
        return [wires.reshape([labels.shape[other] if other in others else 1 for other in range(x.ndim)])]

    def _alike(
        self, op: str, operands: tuple[Tensor, ...], dtype: torch.dtype, args: tuple[Any, ...]
    ) -> Tensor:
        """Return the wires of a pointwise operator on operands of one type."""
        count, spread = len(operands[0]), (False,) * len(operands)
        dtypes = (dtype,) * len(operands)
        return self._add(lambda first: Pointwise(op, first, count, operands, spread, dtypes, args, (), None))

    def _batch_norm(self, call: _Call) -> Labels:
        x, weight, bias, *statistics = call.args
        means = statistics[:2] if statistics[2:3] != [True] else [None, None]  # the batch's own
        return self._norm(call, x, (weight, bias), [1], mixes=False, statistics=means)

    def _layer_norm(self, call: _Call) -> Labels:
        x, shape, *affine = call.args[:4]
        return self._norm(call, x, affine, range(x.ndim - len(shape), x.ndim), mixes=True)

    def _group_norm(self, call: _Call) -> Labels:
        x, *affine = call.args[:3]
        return self._norm(call, x, affine, [1], mixes=True)

    def _norm(
        self,
        call: _Call,
        x: Tensor,
        affine: Sequence[Tensor | None],
        dims: Sequence[int],
        *,
        mixes: bool,
        statistics: Sequence[Any] = (None, None),
    ) -> Labels:
        if self._is_computed(*affine):
            return self._opaque(call)
        channels, op = self._channels(str(call.func), x, dims), str(call.func)
        weight, bias, mean, var = (self._name(tensor) for tensor in (*affine, *statistics))
        count, eps = len(channels), float(call.args[-1])
        wires = self._add(lambda first: Norm(op, first, count, weight, bias, mean, var, eps, mixes, channels))
        return [wires.reshape([x.shape[dim] if dim in dims else 1 for dim in range(x.ndim)])]

    def _name(self, tensor: Tensor | None) -> str | None:
        found = self._weights.get(id(tensor)) or self._buffers.get(id(tensor))
        return found[0] if found else None

    def _is_computed(self, *tensors: Tensor | None) -> bool:
        return any(tensor is not None and id(tensor) not in self._weights for tensor in tensors)

    def _same(self, call: _Call) -> Labels:
        return [self._of(call.args[0])]

    def _copied(self, call: _Call) -> Labels:
        return [self._spread(call.args[1]).expand(call.args[0].shape)]

    def _restrided(self, call: _Call) -> Labels:
        x, size = call.args[:2]  # x has its new size already
        labels = self._of(x)
        kept = [1 if along == 1 else full for along, full in zip(labels.shape, size, strict=False)]
        return [labels] if list(labels.shape) == kept and len(size) == len(kept) else self._opaque(call)

    def _reshaped(self, call: _Call) -> Labels:
        if call.func._overloadname != "default":  # another type: other entries
            return self._opaque(call)
        return [reshaped(self._of(call.args[0]), call.args[0].shape, call.results[0].shape)]

    def _moved(self, call: _Call) -> Labels:
        args, kwargs = tree_map(
            lambda arg: self._spread(arg) if isinstance(arg, Tensor) else arg, (call.args, call.kwargs)
        )
        return tree_leaves(call.func(*args, **kwargs))

    def _concatenated(self, call: _Call) -> Labels:
        tensors, dim = [x for x in call.args[0] if x.numel()], (*call.args, call.kwargs.get("dim", 0))[1]
        labels = [self._of(tensor) for tensor in tensors]
        dim %= tensors[0].ndim
        shape = [max(sizes) for sizes in zip(*(label.shape for label in labels), strict=True)]
        parts = [
            label.expand([*shape[:dim], tensor.shape[dim], *shape[dim + 1 :]])
            for label, tensor in zip(labels, tensors, strict=True)
        ]
        return [torch.cat(parts, dim)]

    def _padded(self, call: _Call) -> Labels:
        x, padding, value = (*call.args, 0)[:3]
        labels = self._of(x)
        grown = {x.ndim - 1 - place // 2 for place, size in enumerate(padding) if size}
        along = [dim for dim in grown if labels.shape[dim] > 1]
        labels = labels.expand([x.shape[dim] if dim in grown else labels.shape[dim] for dim in range(x.ndim)])
        if len(along) == 1 and min(padding) >= 0:
            return [self._with_channels(call, labels, along[0], padding, value)]
        return [pad(labels, padding, value=ZERO if value == 0 else LIVE)]

    def _with_channels(
        self, call: _Call, labels: Tensor, dim: int, padding: Sequence[int], value: float
    ) -> Tensor:
        """Return labels with new wires of `value` before and behind those of the channels."""
        place = 2 * (labels.ndim - 1 - dim)
        before, behind = padding[place : place + 2]
        around = [*padding[:place], 0, 0, *padding[place + 2 :]]
        inner = pad(labels, around, value=ZERO if value == 0 else LIVE)
        count = before + behind
        wires = self._add(lambda first: Constant(str(call.func), first, count, None, float(value)))
        shape = [-1 if axis == dim else 1 for axis in range(labels.ndim)]
        whole = [*inner.shape[:dim], -1, *inner.shape[dim + 1 :]]
        ends = [part.reshape(shape).expand(whole) for part in (wires[:before], wires[before:])]
        return torch.cat([ends[0], inner, ends[1]], dim)

    def _pooled(self, call: _Call) -> Labels:
        x, op = call.args[0], str(call.func)
        dim = x.ndim - 3
        wires = self._channels(op, x, [dim])
        if _averages_zeros(call):
            wires = self._zeros_only(op, wires)
        return [wires.reshape(-1, 1, 1)[(None,) * dim]]

    def _zeros_only(self, op: str, wires: Tensor) -> Tensor:
        """Return wires for what leaves zeros as they are, but no other constant."""
        return self._joined(op, torch.stack([wires, torch.full_like(wires, ZERO)], dim=1))

    def _reduced(self, call: _Call) -> Labels:
        x, dims = (*call.args, None)[:2]
        gone = [dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims or range(x.ndim))]
        labels, left = self._of(x), [dim for dim in range(x.ndim) if dim not in gone]
        op = str(call.func)
        wires = self._joined(op, rows(labels, left))
        if call.name == "sum":
            wires = self._zeros_only(op, wires)
        keep = call.results[0].ndim == x.ndim
        return [
            wires.reshape(
                [labels.shape[dim] if dim in left else 1 for dim in (range(x.ndim) if keep else left)]
            )
        ]

    def _pointwise(self, call: _Call) -> Labels:
        tensors: list[Tensor] = []

        def hole(arg: Any) -> Any:
            if isinstance(arg, Tensor):
                tensors.append(arg)
                return Operand(len(tensors) - 1)
            return arg

        args = tuple(hole(arg) for arg in call.args)
        kwargs = tuple((key, hole(arg)) for key, arg in call.kwargs.items())
        if len(tensors) != len(call.tensors) or len(call.results) != 1:
            return self._opaque(call)
        compacted = self._operands(call, tensors)
        labels = torch.broadcast_tensors(*compacted)
        operands, places = distinct([label.flatten() for label in labels])
        spread = tuple(_is_spread(tensor, labels[0]) for tensor in tensors)
        wires = self._add(
            lambda first: Pointwise(
                str(call.func),
                first,
                len(operands[0]),
                operands,
                spread,
                tuple(tensor.dtype for tensor in tensors),
                args,
                kwargs,
                next((name for name in map(self._channel_parameter, tensors) if name), None),
            )
        )
        return [wires[places].reshape(labels[0].shape)]

    def _operands(self, call: _Call, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the labels of operands: parameters and buffers have wires along the others' channels."""
        labels = [self._of(tensor) for tensor in tensors]
        varying = {dim - label.ndim for label in labels for dim, size in enumerate(label.shape) if size > 1}
        if len(varying) > 1:
            return labels
        for place, tensor in enumerate(tensors):
            if (name := self._name(tensor)) and not self._is_labelled(tensor):
                labels[place] = self._constant(call, name, tensor, varying)
        return labels

    def _constant(self, call: _Call, name: str, tensor: Tensor, varying: set[int]) -> Tensor:
        shape = [size if dim - tensor.ndim in varying else 1 for dim, size in enumerate(tensor.shape)]
        wires = self._add(lambda first: Constant(str(call.func), first, prod(shape), name, ALIVE))
        return wires.reshape(shape)

    def _channel_parameter(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter that has one entry a channel."""
        is_parameter = id(tensor) in self._weights and sum(size > 1 for size in tensor.shape) <= 1
        return self._name(tensor) if is_parameter else None

    def _opaque(self, call: _Call, *, adds_up: bool = False) -> Labels:
        read = [self._of(tensor).flatten() for tensor in call.tensors]
        wires = self._anything(str(call.func), read, adds_up=adds_up)
        return [wires.reshape([1] * result.ndim) for result in call.results]


OWN_PARAMETERS: dict[str, Callable[[Tracer, _Call], Labels]] = {
    "addmm": Tracer._product,
    "convolution": Tracer._convolution,
    "mm": Tracer._product,
    "native_group_norm": Tracer._group_norm,
    "native_layer_norm": Tracer._layer_norm,
    **dict.fromkeys(BATCH_NORMS, Tracer._batch_norm),
}
FOLLOWED: dict[str, Callable[[Tracer, _Call], Labels]] = {
    "_safe_softmax": Tracer._softmaxed,
    "_softmax": Tracer._softmaxed,
    "add": Tracer._biased,
    "as_strided_": Tracer._restrided,
    "bmm": Tracer._matrices,
    "cat": Tracer._concatenated,
    "constant_pad_nd": Tracer._padded,
    "copy_": Tracer._copied,
    **dict.fromkeys(MOVES, Tracer._moved),
    **dict.fromkeys(POINTWISE, Tracer._pointwise),
    **dict.fromkeys(POOLS, Tracer._pooled),
    **dict.fromkeys(REDUCTIONS, Tracer._reduced),
    **dict.fromkeys(RESHAPES, Tracer._reshaped),
    **dict.fromkeys(SAME, Tracer._same),
}


def _averages_zeros(call: _Call) -> bool:
    """Return whether a pooling averages zeros around the image, too, or divides by another number."""
    if call.name != "avg_pool2d":
        return False
    given = dict(enumerate(call.args))
    counts_padding = any(given.get(3, [])) and given.get(5, True)
    return counts_padding or given.get(6) is not None


def _is_spread(tensor: Tensor, labels: Tensor) -> bool:
    """Return whether an operand has one entry for all channels of a result with these labels."""
    sizes = [1] * (labels.ndim - tensor.ndim) + list(tensor.shape)
    return all(size == 1 for size, along in zip(sizes, labels.shape, strict=True) if along > 1)


def _run(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.aten.native_batch_norm.default:  # its shapes alone would take 20 ms to find
        return torch.empty_like(args[0]), *(args[0].new_empty(args[0].shape[1]) for _ in range(2))
    return func(*args, **kwargs)
