"""2:4 tickets on a GPU: linear layers and 1x1 convolutions by torch's semi-structured kernels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.sparse import to_sparse_semi_structured

from distlth.errors import UserError

# What both libraries behind torch, CUTLASS and cuSPARSELt, take of half-precision weights.
ROWS, COLUMNS = 32, 64
DTYPES = (torch.float16, torch.bfloat16)
CAPABILITY = (8, 0)


@dataclass(frozen=True, eq=False)
class SemiStructured:
    """A network whose 2:4 layers run as such: their names, and why each other layer stays dense."""

    network: nn.Module
    sparse: tuple[str, ...]
    dense: Mapping[str, str]


def semi_structured(network: nn.Module) -> SemiStructured:
    """Return a copy of a network, for evaluation, whose 2:4 linear layers and 1x1 convolutions run sparsely.

    The weights are compressed to half of their entries and 2-bit indices, which needs a GPU of compute
    capability 8.0 or newer and float16 or bfloat16. Other layers stay as they are. See torch.sparse's
    to_sparse_semi_structured.

    Raises:
        UserError: the network is elsewhere, or of another type.
    """
    _check_place(next(network.parameters()))
    network = copy.deepcopy(network).eval()
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    dense = {name: reason for name, layer in layers.items() if (reason := obstacle(layer))}
    sparse = tuple(name for name in layers if name not in dense)
    for name in sparse:
        network.set_submodule(name, MatrixLayer.of(layers[name]))
    return SemiStructured(network, sparse, dense)


def obstacle(layer: nn.Linear | nn.Conv2d) -> str | None:
    """Return why a layer cannot run by 2:4 kernels, None where it can."""
    if isinstance(layer, nn.Conv2d) and not _is_product(layer):
        return "not a 1x1 convolution without groups and padding"
    matrix = layer.weight.detach().flatten(1)
    if matrix.shape[0] % ROWS or matrix.shape[1] % COLUMNS:
        rows, columns = matrix.shape
        return f"{rows} x {columns} weights are not multiples of {ROWS} x {COLUMNS}"
    if (matrix.reshape(-1, 4) != 0).sum(dim=1).max() > 2:
        return "its weights are not 2:4"
    return None


def _is_product(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "valid", "same")


class MatrixLayer(nn.Module):
    """A linear layer or 1x1 convolution as one product with a matrix, C_out x C_in."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride = stride  # None for a linear layer

    @classmethod
    def of(cls, layer: nn.Module) -> MatrixLayer:
        """Return the layer with its weight compressed."""
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        weight = to_sparse_semi_structured(layer.weight.detach().flatten(1).contiguous())
        stride = layer.stride if isinstance(layer, nn.Conv2d) else None
        return cls(weight, None if layer.bias is None else layer.bias.detach(), stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output, of a convolution as channels-last maps."""
        if self.stride is None:
            return functional.linear(inputs, self.weight, self.bias)
        pixels = inputs[:, :, :: self.stride[0], :: self.stride[1]].permute(0, 2, 3, 1)
        flat = pixels.reshape(-1, pixels.shape[3])
        maps = functional.linear(flat, self.weight, self.bias)
        return maps.reshape(*pixels.shape[:3], -1).permute(0, 3, 1, 2)


def _check_place(parameter: Tensor) -> None:
    if parameter.device.type != "cuda":
        raise UserError(f"2:4 kernels run on a GPU; this network is on the {parameter.device.type.upper()}")
    if torch.cuda.get_device_capability(parameter.device) < CAPABILITY:
        name = torch.cuda.get_device_name(parameter.device)
        raise UserError(f"2:4 kernels need a GPU of compute capability 8.0 or newer, not {name}")
    if parameter.dtype not in DTYPES:
        raise UserError(f"2:4 kernels take float16 and bfloat16; this network is {parameter.dtype}")
