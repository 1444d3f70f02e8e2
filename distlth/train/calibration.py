"""Measuring a network on the calibration images, for the methods that need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from distlth.train.pulse import Pulse
from distlth.train.world import World


@dataclass(frozen=True)
class CalibrationRun:
    """What a measurement gets on one rank (see `distlth.methods.Calibration`)."""

    model: nn.Module
    layers: Sequence[str]
    images: Iterable[tuple[Tensor, Tensor]]
    world: World
    pulse: Pulse

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Iterate over this rank's images and labels, from the start."""
        return self.pulse.watched(self.images)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the ranks, on every rank."""
        return self.world.sum(values)
