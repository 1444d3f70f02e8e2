"""What a network consists of, layer by layer: shapes, costs and pairings, found without computing."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from distlth.errors import ConfigError

Scope = Literal["all", "no-stem"]

# BatchNorm in training mode needs more than one value a channel, even where the map is 1x1.
BATCH = 2


@dataclass(frozen=True)
class ConvLayer:
    """One Conv2d of a network, at one input resolution."""

    name: str
    weight_shape: tuple[int, int, int, int]  # C_out, C_in / groups, kh, kw
    groups: int
    stride: tuple[int, int]
    batch_norm: str | None  # the BatchNorm whose input is exactly this layer's output
    output_size: tuple[int, int]  # H, W
    macs: int  # multiply-accumulates an image

    @property
    def num_weights(self) -> int:
        """Entries of the weight tensor."""
        return prod(self.weight_shape)

    @property
    def fan_in(self) -> int:
        """Weights of one output channel: C_in / groups x kh x kw."""
        return prod(self.weight_shape[1:])

    @property
    def channel_parameters(self) -> tuple[str, ...]:
        """Names of the parameters with one entry an output channel; a layer may lack any of them."""
        norm = () if self.batch_norm is None else (f"{self.batch_norm}.weight", f"{self.batch_norm}.bias")
        return (f"{self.name}.bias", *norm)


@dataclass(frozen=True)
class Anatomy:
    """A whole network at one input resolution."""

    convs: tuple[ConvLayer, ...]  # in the order of named_modules()
    stem: str | None  # the first convolution that the forward pass runs
    num_parameters: int
    macs: int  # multiply-accumulates of one image's forward pass: convolutions and matrix products
    activation_bytes: int  # float32 bytes an image that the forward pass keeps for the backward pass


def anatomy(model: nn.Module, resolution: int) -> Anatomy:
    """Run ``model`` once on shapes alone (the meta device) with ``resolution`` x ``resolution`` RGB images.

    The model itself is neither run nor changed. A convolution that the forward pass never runs is left out.
    ``activation_bytes`` counts each storage that autograd saves once, parameters not included: what training
    needs at least, before the allocator's waste, the gradients and the convolution's work space.

    Raises ConfigError when the model does not accept images of this size.
    """
    ghost = copy.deepcopy(model).to("meta").train()
    recorder = _Recorder()
    recorder.watch(ghost)
    saved = _SavedBytes(ghost)
    images = torch.empty(BATCH, 3, resolution, resolution, device="meta")
    try:
        with FlopCounterMode(display=False) as flops, saved:
            ghost(images)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"this model does not accept {resolution}x{resolution} images: {reason}") from error
    return Anatomy(
        convs=recorder.conv_layers(ghost),
        stem=next(iter(recorder.convs), None),
        num_parameters=sum(parameter.numel() for parameter in ghost.parameters()),
        macs=flops.get_total_flops() // 2 // BATCH,
        activation_bytes=saved.total // BATCH,
    )


def prunable(network: Anatomy, scope: Scope) -> tuple[ConvLayer, ...]:
    """The layers that pruning may touch: every Conv2d, all but the stem with ``no-stem``; never a Linear."""
    return tuple(conv for conv in network.convs if scope == "all" or conv.name != network.stem)


class _Recorder:
    """Notes, by forward hooks, what each convolution puts out and which BatchNorm takes exactly that."""

    def __init__(self) -> None:
        self.convs: dict[str, list[Tensor]] = {}  # outputs, a list in case a layer runs more than once
        self.batch_norms: dict[str, str] = {}

    def watch(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._conv_hook(name))
            elif isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(self._norm_hook(name))

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
            batch_norm=self.batch_norms.get(name),
            output_size=(outputs[0].shape[2], outputs[0].shape[3]),
            macs=sum(out[0].numel() for out in outputs) * c_in * kernel_h * kernel_w,
        )

    def _conv_hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.convs.setdefault(name, []).append(output)

        return note

    def _norm_hook(self, norm: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for conv, outputs in self.convs.items():
                if any(output is inputs[0] for output in outputs):
                    self.batch_norms.setdefault(conv, norm)

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
