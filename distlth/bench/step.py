"""The cost of a mask in a training step: masked against unmasked steps of the same model, in one run."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from distlth.config.schema import TrainSection
from distlth.models import anatomy, build
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.ticket import Ticket
from distlth.train.masking import parameter_masks
from distlth.train.step import StepState, train_step
from distlth.train.world import World


@dataclass(frozen=True)
class StepRow:
    """Median milliseconds of a step, and its ratio to the step without a mask: the median over pairs."""

    name: str
    milliseconds: float
    ratio: float


def bench(
    *, model: str = "resnet18", resolution: int = 64, batch: int = 16, density: float = 0.3, steps: int = 40
) -> list[StepRow]:
    """Time `steps` pairs of steps, one with and one without a mask of `density`, in turn.

    Two copies of the model train on the same images; the order within a pair alternates, so that a drift of
    the machine's speed falls on both.
    """
    runs = {name: _Run(model, resolution, batch, d) for name, d in (("no mask", None), ("mask", density))}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(-3, steps):
        for name in list(runs)[:: 1 if index % 2 else -1]:
            seconds = runs[name].step()
            if index >= 0:
                times[name].append(seconds)
    base = times["no mask"]
    return [
        StepRow(
            name,
            1e3 * statistics.median(seconds),
            statistics.median(own / plain for own, plain in zip(seconds, base, strict=True)),
        )
        for name, seconds in times.items()
    ]


class _Run:
    """A model that trains on one batch of images, again and again."""

    def __init__(self, name: str, resolution: int, batch: int, density: float | None) -> None:
        model = build(name, 1000, seed=0).to(memory_format=torch.channels_last)
        config = TrainSection(epochs=1, batch_size=batch, lr=0.01)
        masks = _masks(model, resolution, density)
        self._state = StepState.fresh(model, model, masks, config, World(0, 1, torch.device("cpu")), seed=0)
        self._step = 0
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, resolution, resolution, generator=generator)
        self._images = images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.randint(0, 1000, (batch,), generator=generator)

    def step(self) -> float:
        """Return the seconds of one training step."""
        start = time.perf_counter()
        train_step(self._state, self._images, self._labels, step=self._step, lr=self._state.config.lr)
        self._step += 1
        return time.perf_counter() - start


def _masks(model: nn.Module, resolution: int, density: float | None) -> dict[str, torch.Tensor]:
    if density is None:
        return {}
    body = anatomy(model, resolution)
    dense = Mask.dense({conv.name: conv.weight_shape for conv in body.convs})
    weights = {name: model.get_parameter(f"{name}.weight").detach().contiguous() for name in dense}
    ticket = Ticket(prune_magnitude(weights, dense, 1 - density), {})
    return parameter_masks(ticket, body, dict(model.named_parameters()))
