"""Training steps of a refilled network, masked and slim, in turn (arXiv 2202.04736, Table A2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from distlth.bench.step import Shape, Step, default_shape, time_steps
from distlth.config.schema import TrainSection
from distlth.models import Anatomy, anatomy, prunable
from distlth.models.alive import count_alive, macs
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask, weight_name
from distlth.prune.refill import refill
from distlth.slim import Sums
from distlth.slim.trainable import trainable
from distlth.ticket import Ticket
from distlth.train.masking import parameter_masks
from distlth.train.step import StepState, train_step
from distlth.train.world import World

MASKED = "masked"
# Slim, by what becomes of residual streams.
SLIM: dict[str, Sums] = {"slim": "zeros", "slim, scattered": "scatter"}


@dataclass(frozen=True)
class SlimTrainingRow:
    """A step at a density of the refilled network: median milliseconds, and the share saved of masked ones.

    `time_saved` is a median over rounds; `alive_macs_saved` the share of the network's multiply-accumulates
    that are by zeros.
    """

    density: float
    name: str
    milliseconds: float
    images_per_second: float
    time_saved: float
    alive_macs_saved: float


def bench(
    *,
    shape: Shape | None = None,
    resolution: int | None = None,
    densities: Sequence[float] = (0.64, 0.51, 0.41),
    rounds: int = 15,
) -> list[SlimTrainingRow]:
    """Time the steps that jobs take, of a network refilled to each density, on the same images in turn."""
    shape = shape or default_shape()
    shape = Shape(shape.model, resolution or shape.resolution, shape.batch, shape.amp, shape.device)
    return [row for density in densities for row in _rows(shape, density, rounds)]


def _rows(shape: Shape, density: float, rounds: int) -> list[SlimTrainingRow]:
    model = shape.network().cpu()
    body = anatomy(model, shape.resolution)
    dense = Mask.dense({layer.name: layer.weight_shape for layer in prunable(body, "all")})
    weights = {name: model.get_parameter(weight_name(name)).detach().contiguous() for name in dense}
    mask = refill(prune_magnitude(weights, dense, 1 - density), weights, count="exact")
    ticket = Ticket(mask, {}, remove_channels=True)
    steps = {MASKED: _masked(shape, ticket, body)}
    steps |= {name: _slim(shape, ticket, body, sums) for name, sums in SLIM.items()}
    times = time_steps(steps, rounds, 1 if shape.device.type == "cpu" else 5, shape.device)
    saved = 1 - count_alive(body.graph, mask.layers).macs / macs(body.graph)
    return [_row(name, times[name], times[MASKED], mask.density, shape.batch, saved) for name in steps]


def _row(
    name: str, own: Sequence[float], masked: Sequence[float], density: float, batch: int, saved: float
) -> SlimTrainingRow:
    middle = median(own)
    ratio = median(mine / other for mine, other in zip(own, masked, strict=True))
    return SlimTrainingRow(density, name, 1e3 * middle, batch / middle, 1 - ratio, saved)


def _masked(shape: Shape, ticket: Ticket, body: Anatomy) -> Step:
    model = shape.network()
    return _step(shape, model, parameter_masks(ticket, body, dict(model.named_parameters())))


def _slim(shape: Shape, ticket: Ticket, body: Anatomy, sums: Sums) -> Step:
    model = shape.network().cpu()
    masks = parameter_masks(ticket, body, dict(model.named_parameters()))
    found = trainable(model, shape.resolution, masks, sums)
    found.network.to(shape.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _step(shape, found.network.train(), found.take(masks))


def _step(shape: Shape, model: torch.nn.Module, masks: dict[str, torch.Tensor]) -> Step:
    section = TrainSection(epochs=1, batch_size=shape.batch, lr=0.01, amp=shape.amp)
    state = StepState.fresh(model, model, masks, section, World(0, 1, shape.device), seed=0)
    images, labels = shape.images()

    def step() -> None:
        train_step(state, images, labels, step=0, lr=0.01)

    return step
