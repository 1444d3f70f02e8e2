"""Refill tickets of any network, as training leaves them: random channels, biases, norms and statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distlth.models import anatomy, build, prunable
from distlth.prune.mask import Mask
from distlth.ticket import Ticket
from distlth.train.masking import Masking, parameter_masks


def refilled(
    model: nn.Module, resolution: int, *, density: float = 0.6, seed: int = 0, remove: bool = True
) -> Mask:
    """Turn a network into a trained refill ticket and return its mask; `remove` as `bn: mask` does."""
    generator = torch.Generator().manual_seed(seed)
    body = anatomy(model, resolution)
    mask = Mask(
        {layer.name: _channels(layer.weight_shape, density, generator) for layer in prunable(body, "all")}
    )
    settle(model, resolution, generator)
    ticket = Ticket(mask, {}, remove_channels=remove)
    Masking(model, parameter_masks(ticket, body, dict(model.named_parameters())))
    settle(model, resolution, None)
    return mask


def settle(model: nn.Module, resolution: int, generator: torch.Generator | None) -> None:
    """Give norms the statistics of a batch, nearly; first, with a generator, parameters as training might."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)  # of dropout: networks are the same whatever ran before
        for parameter in model.parameters():
            if generator and parameter.ndim == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator).to(parameter) * 0.5)
            elif generator and not parameter.any():  # a head that begins with zeros
                parameter.normal_(0, 0.1, generator=generator)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = 1.0
        model.train()(images(resolution).to(next(model.parameters())))
    model.eval()


def images(resolution: int, count: int = 4) -> Tensor:
    """Random images, the same each time."""
    return torch.randn(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


def ticket_of(name: str, resolution: int) -> nn.Module:
    """A refill ticket of a network by name."""
    model = build(name, 10, seed=0)
    refilled(model, resolution)
    return model


def _channels(shape: tuple[int, ...], density: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(shape[0], generator=generator) < density
    return kept[:, None, None, None].expand(shape)
