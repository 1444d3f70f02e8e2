"""Scores of output channels, measured on the calibration images (arXiv 2202.04736, appendix A2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.methods.base import Calibration
from distlth.prune.mask import weight_name


def channel_scores(criterion: str) -> Callable[[Calibration], dict[str, Tensor]]:
    """Return the measurement of `l1`, `l2` or `saliency`: C_out scores (float64) for each prunable layer.

    For a layer's feature map a (before BatchNorm) and the gradient g of the cross-entropy with respect to it:
    `l1` is the mean over images of sum |a|, `l2` of the Euclidean norm of a, `saliency` of sum |a x g|. The
    map of a linear layer is what it puts out for all tokens of an image.
    """
    return partial(_measure, criterion)


def _measure(criterion: str, calibration: Calibration) -> dict[str, Tensor]:
    model = calibration.model
    sums = _Sums(criterion)
    count = 0
    try:
        with torch.set_grad_enabled(criterion == "saliency"), _watched(calibration, sums):
            for images, labels in calibration.batches():
                sums.num_images = len(labels)
                logits = model(images)
                if criterion == "saliency":
                    functional.cross_entropy(logits, labels, reduction="sum").backward()
                count += len(labels)
    finally:
        model.zero_grad(set_to_none=True)
    return _means(sums, count, calibration)


@contextmanager
def _watched(calibration: Calibration, sums: _Sums) -> Iterator[None]:
    """Add up what the prunable layers put out inside the block.

    Attention hands its weights to functions: no hook of a module sees what a linear layer makes of them, and
    torch's fused form of attention calls no function that could be watched.
    """
    model, linear, fused = calibration.model, functional.linear, torch.backends.mha.get_fastpath_enabled()
    modules = dict(model.named_modules())
    convs = [name for name in calibration.layers if isinstance(modules.get(name), nn.Conv2d)]
    hooks = [modules[name].register_forward_hook(sums.see_maps(name)) for name in convs]
    names = {id(model.get_parameter(weight_name(name))): name for name in calibration.layers}

    def watched(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        output = linear(input, weight, bias)
        if name := names.get(id(weight)):
            owner = modules.get(name.rpartition(".")[0])
            sums.see_tokens(name, output, batch=1 if isinstance(owner, nn.MultiheadAttention) else 0)
        return output

    functional.linear = watched
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        functional.linear = linear
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()


def _means(sums: _Sums, count: int, calibration: Calibration) -> dict[str, Tensor]:
    """Return the means over all ranks' images. A rank may have had none: its sums are zeros."""
    weights = {name: calibration.model.get_parameter(weight_name(name)) for name in calibration.layers}
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
        self.num_images = 0  # of the batch that runs
        self.by_layer: dict[str, Tensor] = {}

    def see_maps(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """Return a forward hook that adds a convolution's feature maps."""

        def on_forward(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._see(name, output, lambda maps: maps, dims=(2, 3))

        return on_forward

    def see_tokens(self, name: str, output: Tensor, *, batch: int) -> None:
        """Add what a linear layer puts out, ... x C_out; `batch` is the dimension with the images."""

        def by_image(tokens: Tensor) -> Tensor:
            return tokens.movedim(batch, 0).reshape(self.num_images, -1, tokens.shape[-1])

        self._see(name, output, by_image, dims=(1,))

    def _see(
        self, name: str, output: Tensor, arrange: Callable[[Tensor], Tensor], dims: tuple[int, ...]
    ) -> None:
        maps = arrange(output.detach())
        if self._criterion == "saliency":
            output.register_hook(lambda g: self._add(name, (maps * arrange(g)).abs().sum(dim=dims)))
        elif self._criterion == "l1":
            self._add(name, maps.abs().sum(dim=dims))
        else:
            self._add(name, maps.float().pow(2).sum(dim=dims).sqrt())

    def _add(self, name: str, per_image: Tensor) -> None:
        sums = per_image.double().sum(dim=0)
        self.by_layer[name] = self.by_layer[name] + sums if name in self.by_layer else sums
