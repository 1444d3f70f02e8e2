"""Measure the accuracy on a whole split."""

from __future__ import annotations

from collections.abc import Iterable
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

    def scores(self, split: str) -> dict[str, Any]:
        """Return the values under their names in metrics and results: `val_top1` and so on."""
        return {f"{split}_loss": self.loss, f"{split}_top1": self.top1, f"{split}_top5": self.top5}


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World, precision: torch.autocast
) -> Evaluation:
    """Evaluate `model` on the images of all ranks' `batches` together, each counted once. Collective.

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
