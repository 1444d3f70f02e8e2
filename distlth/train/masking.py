"""Apply a mask to a model in training: in place, with nothing in the forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distlth.models import Anatomy, removal
from distlth.prune.mask import weight_name
from distlth.ticket import Ticket


def parameter_masks(ticket: Ticket, anatomy: Anatomy, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which entries of each named parameter train: bool tensors, for parameters that lose some."""
    masks = {weight_name(layer): kept for layer, kept in ticket.mask.items() if not bool(kept.all())}
    if ticket.remove_channels:
        found = removal(anatomy.graph, ticket.mask.layers)
        masks.update({name: kept.reshape(parameters[name].shape) for name, kept in found.items()})
    return masks


class Masking:
    """Keeps masked entries of a model's parameters at exactly zero while it trains.

    Weights are zeroed once, when this is made; then `mask_gradients` after each backward pass is enough:
    with an optimizer that remembers nothing yet, gradient, decay and what is remembered of a masked weight
    are all zero, so it stays zero.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self._parameters = [parameters[name] for name in masks]
        # In each parameter's own memory format and type, so that the product in place is one pass.
        self._factors = [
            torch.empty_like(parameter).copy_(kept)
            for parameter, kept in zip(self._parameters, masks.values(), strict=True)
        ]
        with torch.no_grad():
            for parameter, factor in zip(self._parameters, self._factors, strict=True):
                parameter.masked_fill_(factor == 0, 0.0)

    def kept(self) -> dict[nn.Parameter, Tensor]:
        """Return which entries train, of the parameters that lose some: bool tensors."""
        return {p: factor != 0 for p, factor in zip(self._parameters, self._factors, strict=True)}

    def mask_gradients(self) -> None:
        """Zero the gradients of masked weights, in place."""
        both = zip(self._parameters, self._factors, strict=True)
        if pairs := [(p.grad, factor) for p, factor in both if p.grad is not None]:
            gradients, factors = zip(*pairs, strict=True)
            torch._foreach_mul_(gradients, factors)

    def check_zeros(self) -> None:
        """Raise RuntimeError unless every masked weight is exactly zero."""
        for parameter, factor in zip(self._parameters, self._factors, strict=True):
            if bool(((parameter != 0) & (factor == 0)).any()):
                raise RuntimeError("a masked weight is not zero: it trained although its mask drops it")
