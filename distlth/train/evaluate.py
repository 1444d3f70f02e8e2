"""Measuring a model: accuracy on a whole split, and channel scores on a calibration set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.train.world import World


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy and accuracies (fractions) over `count` images."""

    loss: float
    top1: float
    top5: float
    count: int


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World, precision: torch.autocast
) -> Evaluation:
    """Evaluate `model` on the images that all ranks' `batches` hold together, each counted once.

    With fewer than five classes, top-5 is the accuracy within all of them: 1.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)
    for images, labels in batches:
        with precision:
            logits = model(images)
        logits = logits.float()
        loss = functional.cross_entropy(logits, labels, reduction="none").double().sum()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == labels.unsqueeze(1)
        sums[:3] += torch.stack([loss, hits[:, 0].sum(), hits.any(dim=1).sum()])
        sums[3] += len(labels)
    loss_sum, top1, top5, count = world.sum(sums).tolist()
    return Evaluation(loss_sum / count, top1 / count, top5 / count, int(count))


class ChannelScores:
    """Sums, over images, what each output channel of some convolutions does.

    For a feature map a (before BatchNorm) and the gradient g of the cross-entropy with respect to it:
    `l1` is the mean over images of sum |a|, `l2` of the Euclidean norm of a, `saliency` of sum |a x g|.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], criterion: str, device: torch.device) -> None:
        self._criterion = criterion
        modules = {name: model.get_submodule(name) for name in layers}
        channels = {name: len(model.get_parameter(f"{name}.weight")) for name in layers}
        self.sums = {name: torch.zeros(c, dtype=torch.float64, device=device) for name, c in channels.items()}
        self._handles = [module.register_forward_hook(self._hook(name)) for name, module in modules.items()]

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def on_forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            maps = output.detach()
            if self._criterion == "saliency":
                output.register_hook(lambda g: self._add(name, (maps * g).abs().sum(dim=(2, 3))))
            elif self._criterion == "l1":
                self._add(name, maps.abs().sum(dim=(2, 3)))
            else:
                self._add(name, maps.float().pow(2).sum(dim=(2, 3)).sqrt())

        return on_forward

    def _add(self, name: str, per_image: Tensor) -> None:
        self.sums[name] += per_image.double().sum(dim=0)


def score_channels(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    layers: Sequence[str],
    criterion: str,
    world: World,
) -> dict[str, Tensor]:
    """Score each output channel of `layers` on the images of all ranks' `batches`, in eval mode.

    Returns a float64 CPU tensor of C_out scores for each layer; see `ChannelScores` for their meaning.
    """
    model.eval()
    scores = ChannelScores(model, layers, criterion, world.device)
    count = torch.zeros(1, dtype=torch.float64, device=world.device)
    try:
        with torch.set_grad_enabled(criterion == "saliency"):
            for images, labels in batches:
                logits = model(images)
                if criterion == "saliency":
                    functional.cross_entropy(logits, labels, reduction="sum").backward()
                count += len(labels)
    finally:
        scores.close()
        model.zero_grad(set_to_none=True)
    world.sum(count)
    return {name: (world.sum(sums) / count).cpu() for name, sums in scores.sums.items()}
