"""Files as other codes leave them, written with torch and torch.nn.utils.prune by the described layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from distlth.models import build

RATE = 0.2


def trained_like(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network whose parameters and running means have moved, as training moves them."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.05 * torch.rand(tensor.shape, generator=draw)
                tensor.add_(noise if "running" in name else noise - 0.025)
    return network


def pruned(network: nn.Module, times: int, *, stem: bool = False) -> nn.Module:
    """The network after `times` global prunings of 20% of its convolutions, by torch.nn.utils.prune."""
    layers = [
        (module, "weight")
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and (stem or name != "conv1")
    ]
    for _ in range(times):
        prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=RATE)
    return network


def paper_document(
    times: int, *, model: str = "resnet20", classes: int = 10, prefix: str = "", **more: Any
) -> dict[str, Any]:
    """What the paper's CIFAR code saves at the end of pruning state `times`."""
    network = build(model, classes, seed=3)
    early = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network = pruned(trained_like(network), times)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[80, 120])
    scale = {"normalize.mean": torch.full((3,), 0.5), "normalize.std": torch.full((3,), 0.25)}
    return {
        "state": times,
        "result": {"train": [99.0], "ta": [91.0], "test_ta": [90.5]},
        "epoch": 160,
        "state_dict": {f"{prefix}{name}": each for name, each in {**network.state_dict(), **scale}.items()},
        "best_sa": 91.25,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "init_weight": {**early, **scale},
        **more,
    }


def saved(path: Path, document: Any) -> Path:
    """The file of a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path)
    return path


class OpenBlock(nn.Module):
    """A block as OpenLTH has it: the shortcut is a convolution where the shape changes."""

    def __init__(self, before: int, channels: int, downsample: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, 2 if downsample else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        changes = downsample or before != channels
        parts = [nn.Conv2d(before, channels, 1, 2, bias=False), nn.BatchNorm2d(channels)] if changes else []
        self.shortcut = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class OpenResNet(nn.Module):
    """OpenLTH's cifar_resnet_20."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*(OpenBlock(sizes[i], sizes[i + 1], i in (3, 6)) for i in range(9)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        out = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(F.avg_pool2d(out, out.size(3)).flatten(1))
        return logits


class OpenVggLayer(nn.Module):
    """A convolution of OpenLTH's VGG."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps to maps."""
        return F.relu(self.bn(self.conv(x)))


class OpenVgg(nn.Module):
    """OpenLTH's cifar_vgg_16."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
            layers.append(OpenVggLayer(before, channels) if channels else nn.MaxPool2d(2, 2))
            before = channels or before
        self.layers, self.fc = nn.Sequential(*layers), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.fc(F.avg_pool2d(self.layers(x), 2).flatten(1))
        return logits


def write_openlth(folder: Path, network: nn.Module, levels: int) -> Path:
    """A replicate's folder with its levels: masks as integers, first and last models, a logger."""
    early = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = [
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    trained_like(network)
    mask = {name: torch.ones_like(early[name]) for name in names}
    for level in range(levels):
        main = folder / f"level_{level}" / "main"
        mask = {
            name: (each * _larger(network.state_dict()[name], level)).int() for name, each in mask.items()
        }
        saved(main / "mask.pth", mask)
        saved(main / "model_ep1_it0.pth", _under(early, mask))
        saved(main / "model_ep160_it0.pth", _under(network.state_dict(), mask))
        (main / "logger").write_text(
            f"test_loss,391,2.0\ntest_accuracy,391,0.1\ntest_accuracy,62560,0.9{level}"
        )
    return folder


def _larger(weight: Tensor, level: int) -> Tensor:
    """The larger weights of a layer, fewer with each level."""
    cut = weight.abs().flatten().quantile(1 - (1 - RATE) ** level) if level else weight.abs().min()
    return weight.abs() >= cut


def _under(state: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor * mask[name] if name in mask else tensor for name, tensor in state.items()}
