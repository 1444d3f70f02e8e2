"""SynFlow: pruning before training and without data, by synaptic flow (Tanaka et al., arXiv 2006.05467)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Calibration, Measurement, Untrained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distlth.prune.mask import Mask

ITERATIONS = 100


class Synflow(Untrained):
    """Single weights, by iterated synaptic flow at initialisation, without data; trained from there."""

    method: Literal["synflow"] = Field(description="single weights, chosen before training and without data")

    def measurement(self, density: float) -> Measurement:
        """Return the one of this density. Its weights are counted anew: plans round after each round."""
        name = f"synflow-{density:.9f}"
        return Measurement(name, partial(synaptic_flow, density), untrained=True)


def synaptic_flow(density: float, calibration: Calibration) -> dict[str, Tensor]:
    """Return which weights of each prunable layer are left at a density: bool, of the weight's shape.

    Algorithm 1 of the paper: the network with the absolute values of all that its state dict holds, in eval
    mode, so that BatchNorm is linear, gets an image of ones; with R the sum of its logits, a weight w scores
    |w x dR/dw|. In iteration k of 100 the density^(k/100) of all prunable weights that score best are left,
    over all layers together. In float64, since R is a product over all layers.
    """
    import torch

    from distlth.prune.mask import Mask, weight_name
    from distlth.prune.scores import keep_best

    network = _positive(calibration.model)
    weights = {name: network.get_parameter(weight_name(name)) for name in calibration.layers}
    left = Mask.dense({name: weight.shape for name, weight in weights.items()})
    image = next((images[:1] for images, _ in calibration.batches()), None)
    if image is None:  # a rank without images does not know their size: it takes what the others find
        return _agreed(left, calibration, has_found=False)
    ones = torch.ones_like(image, dtype=torch.float64)
    for iteration in range(1, ITERATIONS + 1):
        scores = _scores(network, weights, ones)
        left = keep_best(scores, left, round(left.total * density ** (iteration / ITERATIONS)))
        for name, weight in weights.items():
            weight.detach().mul_(left[name].to(weight.device))
    return _agreed(left, calibration, has_found=True)


def _positive(model: nn.Module) -> nn.Module:
    """Return a copy of a model in float64 and eval mode, with the absolute values of its state dict."""
    import copy

    network = copy.deepcopy(model).double().eval()
    for tensor in network.state_dict().values():
        tensor.abs_()
    return network


def _scores(network: nn.Module, weights: Mapping[str, nn.Parameter], image: Tensor) -> dict[str, Tensor]:
    import torch

    gradients = torch.autograd.grad(network(image).sum(), list(weights.values()))
    return {
        name: (weight.detach() * gradient).abs().cpu().contiguous()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def _agreed(left: Mask, calibration: Calibration, *, has_found: bool) -> dict[str, Tensor]:
    """Return what most of the ranks that found anything have left."""
    import torch

    device = next(calibration.model.parameters()).device
    found = calibration.total(torch.tensor([float(has_found)], device=device))
    votes = {name: calibration.total(has_found * kept.float().to(device)) for name, kept in left.items()}
    return {name: (vote > found / 2).cpu() for name, vote in votes.items()}
