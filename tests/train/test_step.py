"""One optimisation step: its random draws, its learning rate, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distlth.config.schema import TrainSection
from distlth.train.step import StepState, train_step
from distlth.train.world import World

IMAGES = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def step(*, rank: int = 0, number: int = 3, lr: float = 0.5, seed: int = 1, **config: Any) -> list[Tensor]:
    """The loss and the parameters after one step of a small network with dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    masks = {"0.weight": torch.arange(64).view(8, 8) % 2 == 0}
    section = TrainSection(epochs=1, batch_size=6, lr=0.1, **config)
    world = World(rank, 2, torch.device("cpu"))
    state = StepState.fresh(model, model, masks, section, world, seed)
    torch.manual_seed(number)  # what was drawn before does not matter
    loss = train_step(state, IMAGES, LABELS, step=number, lr=lr)
    return [loss, *(parameter.detach() for parameter in model.parameters())]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_a_step_draws_follows_from_seed_step_and_rank() -> None:
    assert same(step(), step())
    for other in (step(rank=1), step(number=4), step(seed=2)):
        assert not torch.equal(step()[0], other[0])


def test_a_step_takes_the_learning_rate_that_it_is_given() -> None:
    assert not same(step(lr=0.5), step(lr=0.25))
    started, still = step(lr=0.5), step(lr=0.0)
    assert torch.equal(started[0], still[0])  # the loss is from before the step
    moved, kept = step(lr=1e-3, weight_decay=0.0), step(lr=0.0)
    assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(moved, kept, strict=True))


def test_masked_weights_are_zero_and_large_gradients_clipped() -> None:
    _, weight, *_ = step()
    assert not weight.flatten()[1::2].any()
    before = step(lr=0.0)
    after = step(lr=1.0, clip_norm=1e-3, momentum=0.0, weight_decay=0.0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(after[1:], before[1:], strict=True)])
    assert 0.99e-3 < moved.norm() < 1.01e-3
