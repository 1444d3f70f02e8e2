"""Measure a network on the calibration images, for the methods that need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor, nn

from distlth.methods import Measurement
from distlth.train.executable import Executable
from distlth.train.pulse import Pulse
from distlth.train.world import World


@dataclass(frozen=True)
class CalibrationRun:
    """The network and images of a measurement on one rank (see `distlth.methods.Calibration`)."""

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


def measure(
    measurements: Iterable[Measurement],
    executable: Executable,
    layers: Sequence[str],
    world: World,
    pulse: Pulse,
) -> dict[str, dict[str, Tensor]]:
    """Return what is measured on the network in eval mode: measurement -> layer -> tensor. Collective.

    The network is left in eval mode.
    """
    measured = {}
    for measurement in measurements:
        with closing(executable.open_calibration()) as images:
            run = CalibrationRun(executable.model.eval(), layers, images, world, pulse)
            measured[measurement.name] = measurement.measure(run)
    return measured
