"""Average pooling to a fixed size, with a backward pass that has a deterministic form on GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FixedSizeAvgPool2d(nn.Module):
    """`nn.AdaptiveAvgPool2d`, whose backward pass torch has no deterministic kernel for on CUDA.

    It gives the same values, by operators whose backward pass has one: nothing at all for maps that have
    the size already, windows where they are equal, and means of slices elsewhere. Like torch's, it computes
    in the type of its input. No network of torchvision has it before anything but a flattening, so that the
    memory format of its result is left open.
    """

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [..., H, W] averaged to the output size."""
        height, width = _pair(self.output_size)
        old = maps.shape[-2], maps.shape[-1]
        new = old[0] if height is None else height, old[1] if width is None else width
        if old == new:
            return maps
        if old[0] % new[0] == 0 and old[1] % new[1] == 0:
            return functional.avg_pool2d(maps, (old[0] // new[0], old[1] // new[1]))
        return _averaged(_averaged(maps, -2, new[0]), -1, new[1])

    def extra_repr(self) -> str:
        """Return what the module's line says in parentheses."""
        return f"output_size={self.output_size}"


def give_fixed_size_pools(model: nn.Module) -> None:
    """Replace every adaptive average pooling in place, except those to 1x1, which torch does by a mean."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and _pair(module.output_size) != (1, 1):
            model.set_submodule(name, FixedSizeAvgPool2d(module.output_size))


def _pair(size: int | Sequence[int | None] | None) -> tuple[int | None, int | None]:
    return (size[0], size[1]) if isinstance(size, Sequence) else (size, size)


def _averaged(maps: Tensor, dim: int, size: int) -> Tensor:
    """Return maps averaged along a dimension over the bins that torch defines, which may overlap."""
    old = maps.shape[dim]
    bins = [(i * old // size, -(-(i + 1) * old // size)) for i in range(size)]
    means = [maps.narrow(dim, start, end - start).mean(dim, keepdim=True) for start, end in bins]
    return torch.cat(means, dim)
