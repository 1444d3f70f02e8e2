"""What the ranks agree on after each step: a checkpoint, a stop, and when to ask again."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from distlth.config.schema import CheckpointSection
from distlth.train.agreement import Agreement, Due
from distlth.train.pulse import Pulse
from distlth.train.world import World

NOTHING = Due(checkpoint=False, stop=False)


@dataclass(frozen=True)
class Recorded(World):
    """A rank that adds what the others said, and remembers the sums."""

    others: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)

    def sum(self, values: Tensor) -> Tensor:
        self.sums.append(values + self.others[len(self.sums)] if self.others else values)
        return self.sums[-1]


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def rank(number: int = 0, others: list[Tensor] | None = None) -> Recorded:
    return Recorded(number, 2, torch.device("cpu"), others or [])


def test_a_checkpoint_is_due_every_so_many_steps() -> None:
    agreement = Agreement(CheckpointSection(every_steps=3), rank(), Pulse(), 0)
    assert [step for step in range(1, 10) if agreement.after(step).checkpoint] == [3, 6, 9]


def test_a_checkpoint_is_due_by_the_clock() -> None:
    clock = Clock()
    agreement = Agreement(CheckpointSection(every_minutes=1), rank(), Pulse(), 0, clock)
    found = []
    for step in range(1, 100):
        clock.now += 2.0
        found += [step] if agreement.after(step).checkpoint else []
    assert found == [31, 62, 93]


def test_a_stop_leaves_a_checkpoint_and_only_rank_0_is_heard() -> None:
    pulse = Pulse(stop=True)
    assert Agreement(CheckpointSection(), rank(), pulse, 5).after(6) == Due(checkpoint=True, stop=True)
    silent = [torch.tensor([0.0, 0.0, 1.0])]
    assert Agreement(CheckpointSection(), rank(1, silent), pulse, 5).after(6) == NOTHING


@pytest.mark.parametrize("begin", [0, 100_000])
def test_the_ranks_ask_about_once_a_second_wherever_they_begin(begin: int) -> None:
    clock, world = Clock(), rank()
    agreement = Agreement(CheckpointSection(), world, Pulse(), begin, clock)
    asked = []
    for step in range(begin + 1, begin + 400):
        clock.now += 0.02
        before = len(world.sums)
        assert agreement.after(step) == NOTHING
        asked += [step - begin] if len(world.sums) > before else []
    assert asked[:5] == [1, 3, 7, 15, 31]
    gaps = [late - early for early, late in pairwise(asked[6:])]
    assert all(49 <= gap <= 50 for gap in gaps)


def test_all_ranks_ask_again_at_the_step_that_rank_0_names() -> None:
    others = [torch.tensor([0.0, 0.0, 7.0])] * 2
    world = rank(1, others)
    agreement = Agreement(CheckpointSection(), world, Pulse(), 0)
    for step in range(1, 9):
        agreement.after(step)
        assert len(world.sums) == (1 if step < 8 else 2)
