"""GraSP: pruning before training, by what is kept of the gradient flow (Wang et al., arXiv 2002.07376)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import Calibration, Measurement, Untrained

if TYPE_CHECKING:
    from torch import Tensor, nn


FLOW = "grasp"

# As in the authors' code: logits are divided by it.
TEMPERATURE = 200

# Images that share batch statistics and one double backward pass; the authors take 5 a class.
CHUNK = 64


class Grasp(Untrained):
    """Single weights whose removal would cost most gradient flow at initialisation; trained from there."""

    method: Literal["grasp"] = Field(description="single weights, chosen before training")

    def measurement(self, density: float) -> Measurement:
        """Return the one of gradient flow."""
        return Measurement(FLOW, gradient_flow, untrained=True)


def gradient_flow(calibration: Calibration) -> dict[str, Tensor]:
    """Return w x (H g), signed, for each weight w of each prunable layer: float32, of the weight's shape.

    g is the gradient of the mean cross-entropy over the calibration images of all ranks, H its Hessian, both
    with respect to the prunable weights alone. The paper's score is the negative, -w x (H g), and its
    weights of highest score are removed: so the best here are the highest. As in the authors' code the
    logits are divided by 200, and norms use the statistics of a batch, here of up to 64 images. (The code of
    arXiv 2202.04736 takes the score's absolute value, which is another method.)
    """
    import torch

    from distlth.prune.mask import weight_name

    network = _with_batch_statistics(calibration.model)
    weights = [network.get_parameter(weight_name(name)) for name in calibration.layers]
    images = sum(len(labels) for _, labels in _chunks(calibration))
    count = calibration.total(torch.tensor([float(images)], dtype=torch.float64, device=weights[0].device))
    gradient = [total.float() for total in _mean(calibration, weights, _Loss(network, weights), count)]
    products = _mean(calibration, weights, _Loss(network, weights, gradient), count)
    return {
        name: (weight.detach() * product).float().cpu().contiguous()
        for name, weight, product in zip(calibration.layers, weights, products, strict=True)
    }


def _mean(
    calibration: Calibration, weights: list[nn.Parameter], derive: _Loss, count: Tensor
) -> list[Tensor]:
    """Return the mean over the images of all ranks of what `derive` has summed over a chunk: float64."""
    import torch

    sums = [torch.zeros(weight.shape, dtype=torch.float64, device=weight.device) for weight in weights]
    for images, labels in _chunks(calibration):
        for total, part in zip(sums, derive(images, labels), strict=True):
            total += part
    return [calibration.total(total) / count for total in sums]


@dataclass(frozen=True)
class _Loss:
    """Derivatives of the summed loss of a chunk: its gradient g, or with `along` v the product H v."""

    network: nn.Module
    weights: list[nn.Parameter]
    along: list[Tensor] | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        import torch
        from torch.nn import functional
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
            logits = self.network(images) / TEMPERATURE
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        gradient = torch.autograd.grad(loss, self.weights, create_graph=self.along is not None)
        if self.along is None:
            return gradient
        # Not backward(), which would add to .grad.
        flow = torch.stack([(v * g).sum() for v, g in zip(self.along, gradient, strict=True)]).sum()
        return torch.autograd.grad(flow, self.weights)


def _with_batch_statistics(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose norms have no running statistics, so that they use each batch's."""
    import copy

    from torch.nn.modules.batchnorm import _BatchNorm

    network = copy.deepcopy(model).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean = module.running_var = None
    return network


def _chunks(calibration: Calibration) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over this rank's images, CHUNK at a time; one that is left alone has no statistics."""
    for batch in calibration.batches():
        for images, labels in zip(*(each.split(CHUNK) for each in batch), strict=True):
            if len(labels) > 1:
                yield images, labels
