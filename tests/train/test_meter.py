"""Means of what a rank counts: of the stretch since the last point, and of the epoch."""

from __future__ import annotations

import time

import pytest
import torch

from distlth.train.meter import Meter
from distlth.train.world import World

WORLD = World(0, 1, torch.device("cpu"))


def counted(*losses: float, images: int = 4) -> Meter:
    meter = Meter(WORLD, images)
    for step, loss in enumerate(losses, 10):
        meter.count(torch.tensor(loss), images, step)
    return meter


def test_points_and_epochs_are_means_over_images_and_are_summed_apart() -> None:
    meter = counted(1.0, 3.0)
    meter.count(torch.tensor(8.0), 2, 12)
    assert meter.end_point().loss == pytest.approx((4 * 1 + 4 * 3 + 2 * 8) / 10)
    meter.count(torch.tensor(0.5), 2, 13)
    assert meter.end_point().loss == meter.loss == 0.5
    assert meter.end_epoch().loss == meter.loss == pytest.approx((4 * 1 + 4 * 3 + 2 * 8 + 1) / 12)
    meter.count(torch.tensor(7.0), 1, 14)
    assert meter.end_epoch().loss == 7.0


def test_restored_sums_go_on() -> None:
    first, second = counted(1.0, 2.0), counted()
    (sums,) = first.sums()
    second.restore(sums)
    for meter in (first, second):
        meter.count(torch.tensor(6.0), 4, 12)
    assert first.end_epoch().loss == second.end_epoch().loss == 3.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_step_that_is_not_finite_is_found(bad: float) -> None:
    assert counted(1.0, 2.0).first_bad_step() is None
    assert counted(1.0, bad, 2.0, bad).first_bad_step() == 11


def test_waiting_for_batches_and_images_of_all_ranks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter(World(2, 3, torch.device("cpu")), 13)  # parts of 5, 4 and 4 images
    meter.start_epoch()
    batches = iter([(torch.zeros(4, 3), torch.zeros(4))] * 2)
    assert len(meter.next_batch(batches)[1]) == 4
    meter.next_batch(batches)
    now += 2.0
    assert meter.images_per_second == 2 * 13 / 2.0
    with pytest.raises(StopIteration):
        meter.next_batch(batches)
