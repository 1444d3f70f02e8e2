"""BlurPool: a fixed low-pass filter before convolutions that skip pixels (Zhang, arXiv 1904.11486).

In the form that ffcv-imagenet's ResNets have, and with the names of its checkpoints: the filter comes before
each strided convolution of at least 16 input channels, at full resolution; pooling stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_CHANNELS = 16


class BlurredConv2d(nn.Module):
    """A convolution of blurred maps. `blur_filter` is a buffer (C_in x 1 x 3 x 3) that never trains."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur_filter", torch.outer(line, line).repeat(conv.in_channels, 1, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return what the convolution makes of maps [N, C_in, H, W], each blurred by itself."""
        blur_filter = self.get_buffer("blur_filter")
        blurred = functional.conv2d(maps, blur_filter, padding=1, groups=self.conv.in_channels)
        return self.conv(blurred)  # type: ignore[no-any-return]


def give_blurpool(model: nn.Module) -> None:
    """Blur what each strided convolution of at least MIN_CHANNELS input channels reads, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1 and module.in_channels >= MIN_CHANNELS:
            model.set_submodule(name, BlurredConv2d(module))
