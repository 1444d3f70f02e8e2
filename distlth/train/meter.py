"""Running means of a training: loss, images per second, and the share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distlth.train.world import World

# Positions in a rank's running sums: loss and images since the epoch began, and since the last point.
EPOCH_LOSS, EPOCH_IMAGES, POINT_LOSS, POINT_IMAGES = range(4)


@dataclass(frozen=True)
class Means:
    """Means over a stretch of training: of the loss over all ranks' images, of the rest on this rank.

    `images_per_second` counts the images of all ranks; `data_wait` is a share of `seconds`, 0..1.
    """

    loss: float
    images_per_second: float
    data_wait: float
    seconds: float


@dataclass
class _Clock:
    """Wall time since `start`, and what of it was spent waiting, in seconds."""

    start: float
    waited: float = 0.0
    images: int = 0

    @classmethod
    def now(cls) -> _Clock:
        return cls(time.perf_counter())

    def means(self, loss: float) -> Means:
        seconds = time.perf_counter() - self.start
        return Means(loss, self.images / max(seconds, 1e-9), self.waited / max(seconds, 1e-9), seconds)


class Meter:
    """Counts one rank's steps. Sums stay on the device, so that no step waits for it.

    A point is a stretch of a curve; points and epochs are summed apart. `batch_size` is global: the images
    of all ranks in a step. `loss` is the mean of the last point or epoch that was read.
    """

    def __init__(self, world: World, batch_size: int) -> None:
        self._world, self._batch_size = world, batch_size
        self._sums = torch.zeros(4, dtype=torch.float64, device=world.device)
        self._bad_step = torch.full((), float("inf"), dtype=torch.float64, device=world.device)
        self._epoch, self._point = _Clock.now(), _Clock.now()
        self.loss = float("nan")

    def start_epoch(self) -> None:
        """Start both clocks."""
        self._epoch, self._point = _Clock.now(), _Clock.now()

    def next_batch(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return this rank's part of the next global batch; the wait for it is counted."""
        start = time.perf_counter()
        images, labels = next(batches)
        waited = time.perf_counter() - start
        for clock in (self._epoch, self._point):
            clock.waited += waited
            clock.images += self._batch_size
        return images, labels

    def count(self, loss: Tensor, images: int, step: int) -> None:
        """Add a step's mean loss (a scalar tensor) over this rank's images."""
        total = loss.double() * images
        self._sums += torch.stack([total, torch.full_like(total, images)]).repeat(2)
        failed = torch.where(torch.isfinite(total), float("inf"), float(step))
        self._bad_step = torch.minimum(self._bad_step, failed)

    def first_bad_step(self) -> int | None:
        """Return the first step with a loss that is not finite on any rank, if there was one. Collective."""
        step = self._world.gather(self._bad_step).min().item()
        return None if step == float("inf") else int(step)

    def end_point(self) -> Means:
        """Return the means since the point before, and begin the next one. Collective."""
        means = self._point.means(self._mean_loss(POINT_LOSS, POINT_IMAGES))
        self._point = _Clock.now()
        return means

    def end_epoch(self) -> Means:
        """Return the means since the epoch began, or since its sums were restored. Collective."""
        return self._epoch.means(self._mean_loss(EPOCH_LOSS, EPOCH_IMAGES))

    @property
    def images_per_second(self) -> float:
        """Images of all ranks a second in this epoch so far."""
        return self._epoch.means(self.loss).images_per_second

    def sums(self) -> Tensor:
        """Return all ranks' running sums, to resume from: CPU, shape (world size, 4). Collective."""
        return self._world.gather(self._sums).cpu()

    def restore(self, sums: Tensor) -> None:
        """Resume from this rank's running sums, shape (4,)."""
        self._sums.copy_(sums)

    def _mean_loss(self, loss: int, images: int) -> float:
        sums = self._world.sum(self._sums.clone())
        self._sums[[loss, images]] = 0
        self.loss = float(sums[loss] / sums[images])
        return self.loss
