"""MobileNet-v1 (arXiv 1704.04861) for small images, as the code of arXiv 2202.04736 has it.

The stem and the first block keep the resolution, so that maps of 32x32 images end at 2x2. Weights are drawn
as torch's layers do it. Modules are called as in the authors' code, so that their checkpoints fit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = 32
# Output channels and stride of the blocks.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class Block(nn.Module):
    """A 3x3 convolution of each channel by itself (depthwise), then a 1x1 one over all (pointwise)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, channels, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)))


class CifarMobileNet(nn.Module):
    """A 3x3 stem, thirteen blocks, and one linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.layers = _blocks()
        self.linear = nn.Linear(BLOCKS[-1][0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, num_classes]."""
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def mobilenet_v1(num_classes: int) -> CifarMobileNet:
    """MobileNet-v1: 3.22 million parameters with 10 classes."""
    return CifarMobileNet(num_classes)


def _blocks() -> nn.Sequential:
    inputs = (STEM_CHANNELS, *(channels for channels, _ in BLOCKS))
    return nn.Sequential(
        *(Block(before, channels, stride) for before, (channels, stride) in zip(inputs, BLOCKS, strict=False))
    )
