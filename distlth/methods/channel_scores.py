"""Scores of output channels, measured on the calibration images (arXiv 2202.04736, appendix A2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.methods.base import Calibration


def channel_scores(criterion: str) -> Callable[[Calibration], dict[str, Tensor]]:
    """Return the measurement of `l1`, `l2` or `saliency`: C_out scores (float64) for each prunable layer.

    For a layer's feature map a (before BatchNorm) and the gradient g of the cross-entropy with respect to it:
    `l1` is the mean over images of sum |a|, `l2` of the Euclidean norm of a, `saliency` of sum |a x g|.
    """
    return partial(_measure, criterion)


def _measure(criterion: str, calibration: Calibration) -> dict[str, Tensor]:
    model = calibration.model
    sums = _Sums(criterion)
    hooks = [model.get_submodule(name).register_forward_hook(sums.hook(name)) for name in calibration.layers]
    count = 0
    try:
        with torch.set_grad_enabled(criterion == "saliency"):
            for images, labels in calibration.batches():
                logits = model(images)
                if criterion == "saliency":
                    functional.cross_entropy(logits, labels, reduction="sum").backward()
                count += len(labels)
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
    return _means(sums, count, calibration)


def _means(sums: _Sums, count: int, calibration: Calibration) -> dict[str, Tensor]:
    """Return the means over all ranks' images. A rank may have had none: its sums are zeros."""
    weights = {name: calibration.model.get_parameter(f"{name}.weight") for name in calibration.layers}
    total = {
        name: torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        for name, weight in weights.items()
    }
    for name, values in sums.by_layer.items():
        total[name] += values
    device = next(iter(total.values())).device
    images = calibration.total(torch.tensor([count], dtype=torch.float64, device=device))
    return {name: (calibration.total(values) / images).cpu() for name, values in total.items()}


class _Sums:
    """Sums over images of what each output channel does."""

    def __init__(self, criterion: str) -> None:
        self._criterion = criterion
        self.by_layer: dict[str, Tensor] = {}

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """Return a forward hook that adds a layer's feature maps."""

        def on_forward(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps = output.detach()
            if self._criterion == "saliency":
                output.register_hook(lambda g: self._add(name, (maps * g).abs().sum(dim=(2, 3))))
            elif self._criterion == "l1":
                self._add(name, maps.abs().sum(dim=(2, 3)))
            else:
                self._add(name, maps.float().pow(2).sum(dim=(2, 3)).sqrt())

        return on_forward

    def _add(self, name: str, per_image: Tensor) -> None:
        sums = per_image.double().sum(dim=0)
        self.by_layer[name] = self.by_layer[name] + sums if name in self.by_layer else sums
