"""VGG-16 with BatchNorm and one linear layer, for small images, as the code of arXiv 2202.04736 has it.

The convolutions are those of Simonyan and Zisserman's configuration D (arXiv 1409.1556), biases included;
torchvision's `vgg16_bn` has three linear layers of 120 million weights behind them. Modules are called as in
the authors' code, so that their checkpoints fit.
"""

from torch import Tensor, nn

from distlth.models.initialise import kaiming_fan_out

# Output channels of the convolutions, by the stage that a pooling ends.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVgg(nn.Module):
    """Thirteen 3x3 convolutions in five stages, each halved by max pooling, and one linear layer.

    With `averaged` the last stage is not halved: the mean before the linear layer is over all of its map.
    """

    def __init__(self, num_classes: int, averaged: bool = False) -> None:
        super().__init__()
        self.features = _features()[:-1] if averaged else _features()
        self.classifier = nn.Linear(STAGES[-1][-1], num_classes)
        kaiming_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, num_classes]; H and W are at least 32."""
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


def vgg16_bn_cifar(num_classes: int) -> CifarVgg:
    """VGG-16 with BatchNorm: 14.73 million parameters with 10 classes."""
    return CifarVgg(num_classes)


def vgg16_bn_openlth(num_classes: int) -> CifarVgg:
    """VGG-16 with BatchNorm as OpenLTH has it, with average in place of max pooling at the end."""
    return CifarVgg(num_classes, averaged=True)


def _features() -> nn.Sequential:
    layers: list[nn.Module] = []
    in_channels = 3
    for stage in STAGES:
        for channels in stage:
            conv = nn.Conv2d(in_channels, channels, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
