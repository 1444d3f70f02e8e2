"""SNIP: single-shot pruning by connection sensitivity, before training (Lee et al., arXiv 1810.02340)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Calibration, Measurement, Untrained

if TYPE_CHECKING:
    from torch import Tensor


SENSITIVITY = "snip"


class Snip(Untrained):
    """Single weights, by their connection sensitivity at initialisation; trained from there."""

    method: Literal["snip"] = Field(description="single weights, chosen before training")

    def measurement(self, density: float) -> Measurement:
        """Return the one of connection sensitivity."""
        return Measurement(SENSITIVITY, connection_sensitivity, untrained=True)


def connection_sensitivity(calibration: Calibration) -> dict[str, Tensor]:
    """Return |g x w| for each weight w of each prunable layer: float32, of the weight's shape.

    g is the gradient of the mean cross-entropy over the calibration images of all ranks. With the network
    in eval mode, as in the authors' code, BatchNorm does nothing yet. The paper divides by the sum over all
    weights, which changes no rank.
    """
    import torch
    from torch.nn import functional

    from distlth.prune.mask import weight_name

    weights = [calibration.model.get_parameter(weight_name(name)) for name in calibration.layers]
    sums = [torch.zeros(w.shape, dtype=torch.float64, device=w.device) for w in weights]
    count = torch.zeros(1, dtype=torch.float64, device=weights[0].device)
    for images, labels in calibration.batches():
        loss = functional.cross_entropy(calibration.model(images), labels, reduction="sum")
        # Not backward(), which would add to .grad and wake DDP.
        for total, gradient in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += gradient
        count += len(labels)
    count = calibration.total(count)
    means = [calibration.total(total) / count for total in sums]
    return {
        name: (mean * weight.detach()).abs().float().cpu().contiguous()
        for name, mean, weight in zip(calibration.layers, means, weights, strict=True)
    }
