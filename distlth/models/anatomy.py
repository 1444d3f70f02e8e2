"""What a network consists of, layer by layer: shapes, costs and connections, found without computing."""

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distlth.errors import ConfigError
from distlth.models.graph import Graph
from distlth.models.trace import trace
from distlth.prune.mask import weight_name

Scope = Literal["all", "no-stem"]
Kinds = Literal["conv", "conv+linear"]

# BatchNorm in training mode needs more than one value a channel, even where the map is 1x1.
BATCH = 2


@dataclass(frozen=True)
class WeightLayer:
    """A layer with a weight, at one input resolution; `name` is the key of its mask (see `weight_name`)."""

    name: str
    weight_shape: tuple[int, ...]  # C_out, C_in / groups, ...
    groups: int
    macs: int  # multiply-accumulates an image

    @property
    def num_weights(self) -> int:
        """Entries of the weight tensor."""
        return prod(self.weight_shape)

    @property
    def fan_in(self) -> int:
        """Weights of one output channel: C_in / groups x kh x kw."""
        return prod(self.weight_shape[1:])


@dataclass(frozen=True)
class ConvLayer(WeightLayer):
    """One Conv2d of a network: its weight is C_out x C_in / groups x kh x kw."""

    stride: tuple[int, int]
    output_size: tuple[int, int]  # H, W


@dataclass(frozen=True)
class LinearLayer(WeightLayer):
    """A linear layer, or the packed projection of an `nn.MultiheadAttention`: its weight is C_out x C_in."""


@dataclass(frozen=True)
class Anatomy:
    """A whole network at one input resolution."""

    layers: tuple[ConvLayer | LinearLayer, ...]  # in the order of named_modules()
    stem: str | None  # the first convolution that the forward pass runs
    num_parameters: int
    macs: int  # multiply-accumulates of one image's forward pass: convolutions and matrix products
    activation_bytes: int  # float32 bytes an image that the forward pass keeps for the backward pass
    graph: Graph  # what feeds what

    @property
    def convs(self) -> tuple[ConvLayer, ...]:
        """The convolutions."""
        return tuple(layer for layer in self.layers if isinstance(layer, ConvLayer))


def anatomy(model: nn.Module, resolution: int) -> Anatomy:
    """Run ``model`` once on shapes alone (the meta device) with ``resolution`` x ``resolution`` RGB images.

    The model itself is neither run nor changed. A layer that the forward pass never runs is left out.
    ``activation_bytes`` counts each storage that autograd saves once, parameters not included: what training
    needs at least, before the allocator's waste, the gradients and the convolution's work space.

    Raises ConfigError when the model does not accept images of this size.
    """
    ghost = copy.deepcopy(model).to("meta").train()
    recorder = _Recorder()
    recorder.watch(ghost)
    saved = _SavedBytes(ghost)
    images = torch.empty(BATCH, 3, resolution, resolution, device="meta")
    with FlopCounterMode(display=False) as flops, saved:
        _run(ghost, images)
    convs = recorder.conv_layers(ghost)  # before the model runs again
    graph = trace(ghost, images)
    return Anatomy(
        layers=_ordered(ghost, (*convs, *_linears(graph))),
        stem=next(iter(recorder.convs), None),
        num_parameters=sum(parameter.numel() for parameter in ghost.parameters()),
        macs=flops.get_total_flops() // 2 // BATCH,
        activation_bytes=saved.total // BATCH,
        graph=graph,
    )


def check_accepts(model: nn.Module, resolution: int) -> None:
    """Raise ConfigError where ``model`` does not accept images of this size, found on shapes alone."""
    ghost = copy.deepcopy(model).to("meta").train()
    with torch.no_grad():
        _run(ghost, torch.empty(BATCH, 3, resolution, resolution, device="meta"))


def _run(ghost: nn.Module, images: Tensor) -> None:
    try:
        ghost(images)
    except (RuntimeError, AssertionError, ValueError) as error:
        size, reason = images.shape[-1], str(error).strip().splitlines()[0]
        raise ConfigError(f"this model does not accept {size}x{size} images: {reason}") from error


def trains_on(model: nn.Module, resolution: int, batch: int) -> bool:
    """Return whether ``model`` can train on ``batch`` images at a time, on shapes alone.

    BatchNorm cannot where it has one value a channel: one image whose map is 1x1.
    """
    ghost = copy.deepcopy(model).to("meta").train()
    try:
        ghost(torch.empty(batch, 3, resolution, resolution, device="meta"))
    except ValueError:
        return False
    return True


def prunable(network: Anatomy, scope: Scope, kinds: Kinds = "conv") -> tuple[WeightLayer, ...]:
    """Return the layers that pruning may touch: every Conv2d, with ``no-stem`` all but the first that runs.

    With ``conv+linear`` linear layers, too. Never the layer that makes the logits, be it a convolution, as in
    SqueezeNet.
    """
    left_whole = {network.stem} if scope == "no-stem" else set()
    left_whole |= network.graph.logits
    layers = network.convs if kinds == "conv" else network.layers
    return tuple(layer for layer in layers if layer.name not in left_whole)


def _linears(graph: Graph) -> list[LinearLayer]:
    """Return the linear layers that a graph has, each once."""
    found: dict[str, LinearLayer] = {}
    for layer in graph.layers:
        if len(layer.shape) == 2:
            earlier = found[layer.name].macs if layer.name in found else 0
            found[layer.name] = LinearLayer(layer.name, layer.shape, 1, earlier + layer.macs)
    return list(found.values())


def _ordered(
    model: nn.Module, layers: Iterable[ConvLayer | LinearLayer]
) -> tuple[ConvLayer | LinearLayer, ...]:
    """Return the layers in the order in which a model has their weights."""
    by_weight = {weight_name(layer.name): layer for layer in layers}
    return tuple(by_weight[name] for name, _ in model.named_parameters() if name in by_weight)


class _Recorder:
    """Notes, by forward hooks, what each convolution puts out."""

    def __init__(self) -> None:
        self.convs: dict[str, list[Tensor]] = {}  # outputs, a list in case a layer runs more than once

    def watch(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._conv_hook(name))

    def conv_layers(self, model: nn.Module) -> tuple[ConvLayer, ...]:
        return tuple(
            self._layer(name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and name in self.convs
        )

    def _layer(self, name: str, conv: nn.Conv2d) -> ConvLayer:
        outputs = self.convs[name]
        c_out, c_in, kernel_h, kernel_w = conv.weight.shape
        return ConvLayer(
            name=name,
            weight_shape=(c_out, c_in, kernel_h, kernel_w),
            groups=conv.groups,
            stride=(conv.stride[0], conv.stride[1]),
            output_size=(outputs[0].shape[2], outputs[0].shape[3]),
            macs=sum(out[0].numel() for out in outputs) * c_in * kernel_h * kernel_w,
        )

    def _conv_hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.convs.setdefault(name, []).append(output)

        return note


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the storages that autograd saves inside the block: each once, those of parameters never."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._pack, lambda tensor: tensor)
        self.total = 0
        # Keyed by address; holding the tensors keeps the addresses from being used again.
        own = itertools.chain(model.parameters(), model.buffers())
        self._seen: dict[int, Tensor] = {tensor.untyped_storage()._cdata: tensor for tensor in own}

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor
            self.total += storage.nbytes()
        return tensor
