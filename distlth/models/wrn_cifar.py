"""WRN-32-2 as the code of arXiv 2202.04736 has it: ResNet-32, twice as wide, activated after the sum.

The network of the name in the literature (arXiv 1605.07146) puts norm and ReLU before each convolution; this
one does not. Modules are called as in the authors' code, so that their checkpoints fit.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from distlth.models.initialise import kaiming_fan_out

STAGE_CHANNELS = (32, 64, 128)
BLOCKS_PER_STAGE = 5


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution with a norm where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False))
            self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, channels, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        shortcut = x if self.downsample is None else self.bn3(self.downsample(x))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class WideResNet(nn.Module):
    """A 3x3 stem, three stages of five blocks at 32/64/128 channels, and one linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first, second, third = STAGE_CHANNELS
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, stride=1)
        self.layer2 = _stage(first, second, stride=2)
        self.layer3 = _stage(second, third, stride=2)
        self.linear = nn.Linear(third, num_classes)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, num_classes]."""
        x = F.relu(self.bn(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def wrn32_2(num_classes: int) -> WideResNet:
    """WRN-32-2: 1.86 million parameters with 10 classes."""
    return WideResNet(num_classes)


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = Block(in_channels, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(BLOCKS_PER_STAGE - 1)))
