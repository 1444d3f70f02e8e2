"""A term of the loss that pulls weights towards few of them (`distlth.methods.admm`), in a job's steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from distlth.methods import Penalty
from distlth.prune.admm import dual, project, target
from distlth.prune.mask import weight_name
from distlth.train.checkpoint import snapshot


class Pull:
    """Pulls the weights of `layers` towards `kept` of them, over all layers together.

    The state is V = Z + U, on the CPU: the copy Z is its projection, the dual U what that leaves out.
    """

    def __init__(self, penalty: Penalty, model: nn.Module, layers: Mapping[str, Tensor], kept: int) -> None:
        self._penalty, self._kept = penalty, kept
        self._weights = {name: model.get_parameter(weight_name(name)) for name in layers}
        self._set(project(self._now(), kept))  # U is zero before the first update

    def _now(self) -> dict[str, Tensor]:
        return {name: value.contiguous() for name, value in snapshot(self._weights).items()}

    def _set(self, values: Mapping[str, Tensor]) -> None:
        """Take V, and have Z - U ready where the weights are."""
        self._values = dict(values)
        self._targets = [
            torch.empty_like(self._weights[name]).copy_(near)
            for name, near in target(self._values, self._kept).items()
        ]

    def add_gradients(self) -> None:
        """Add rho (W - Z + U) to the gradient of each weight."""
        with torch.no_grad():
            for weight, near in zip(self._weights.values(), self._targets, strict=True):
                assert weight.grad is not None
                weight.grad.add_(weight - near, alpha=self._penalty.rho)

    def end_epoch(self, epoch: int) -> None:
        """Update Z and U after an epoch, if it is one of those."""
        if (epoch + 1) % self._penalty.every == 0:
            carried = dual(self._values, self._kept)
            self._set({name: weight + carried[name] for name, weight in self._now().items()})

    def state(self) -> dict[str, Tensor]:
        """Return V by layer, to resume from."""
        return dict(self._values)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from V."""
        self._set(state)
