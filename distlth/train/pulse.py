"""What a rank shows of itself while it trains, and the wish to stop that reaches it: plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Batch = TypeVar("Batch")


class StoppedEarly(Exception):  # noqa: N818  # not an error: a checkpoint was written, the job goes on later
    """A job that was asked to stop, and left a checkpoint at `step`."""

    def __init__(self, job: str, step: int) -> None:
        super().__init__(f"job {job} stopped at step {step}")
        self.job, self.step = job, step


@dataclass
class Pulse:
    """Shared by the training loop, which counts its steps, and whoever watches it from another thread.

    A batch of an evaluation counts as a step. `in_steps` tells that the next one must follow soon: not while
    a rank starts, waits, compiles or writes results. `stop` is set from outside; rank 0's counts.
    """

    steps: int = 0
    in_steps: bool = False
    stop: bool = False

    def step(self) -> None:
        """A step is done, another follows."""
        self.steps += 1
        self.in_steps = True

    def rest(self) -> None:
        """What follows may take its time."""
        self.in_steps = False

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; each is a step."""
        try:
            for batch in batches:
                self.step()
                yield batch
        finally:
            self.rest()
