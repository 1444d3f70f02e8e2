"""The CIFAR residual networks of He et al. (arXiv 1512.03385, section 4.2): 6n+2 layers, three stages."""

import torch.nn.functional as F
from torch import Tensor, nn

STAGE_CHANNELS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (option A of the paper).

    Where the block halves the map and widens it, the shortcut takes every second pixel and pads the new
    channels with zeros; if `projected`, it is a 1x1 convolution with a norm (option B).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, projected: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels
        self.projection: nn.Module | None = None
        if projected and (stride != 1 or self.new_channels):
            conv = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.projection = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def shortcut(self, x: Tensor) -> Tensor:
        """``x`` in the shape of the block's output; half of the zero channels on each side."""
        if self.stride == 1 and self.new_channels == 0:
            return x
        if self.projection is not None:
            projected: Tensor = self.projection(x)
            return projected
        before = self.new_channels // 2
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, channels, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of ``blocks_per_stage`` blocks at 16/32/64 channels, and one linear layer."""

    def __init__(self, blocks_per_stage: int, num_classes: int, projected: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STAGE_CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGE_CHANNELS[0])
        self.layer1 = _stage(STAGE_CHANNELS[0], STAGE_CHANNELS[0], blocks_per_stage, 1, projected)
        self.layer2 = _stage(STAGE_CHANNELS[0], STAGE_CHANNELS[1], blocks_per_stage, 2, projected)
        self.layer3 = _stage(STAGE_CHANNELS[1], STAGE_CHANNELS[2], blocks_per_stage, 2, projected)
        self.fc = nn.Linear(STAGE_CHANNELS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def resnet20(num_classes: int) -> CifarResNet:
    """ResNet-20: 0.27 million parameters with 10 classes."""
    return CifarResNet(3, num_classes)


def resnet56(num_classes: int) -> CifarResNet:
    """ResNet-56: 0.85 million parameters with 10 classes."""
    return CifarResNet(9, num_classes)


def resnet20_openlth(num_classes: int) -> CifarResNet:
    """ResNet-20 with projections as shortcuts, as OpenLTH has it: 0.27 million parameters with 10 classes."""
    return CifarResNet(3, num_classes, projected=True)


def resnet56_openlth(num_classes: int) -> CifarResNet:
    """ResNet-56 with projections as shortcuts, as OpenLTH has it: 0.86 million parameters with 10 classes."""
    return CifarResNet(9, num_classes, projected=True)


def _stage(
    in_channels: int, channels: int, num_blocks: int, stride: int, projected: bool = False
) -> nn.Sequential:
    first = Block(in_channels, channels, stride, projected)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(num_blocks - 1)))
