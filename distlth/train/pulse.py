"""Progress and stop flag shared with the watchdog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Batch = TypeVar("Batch")


class StoppedEarly(Exception):  # noqa: N818  # not an error: the job resumes later
    """Raised by a job that was asked to stop, and left a checkpoint at `step`."""

    def __init__(self, job: str, step: int) -> None:
        super().__init__(f"job {job} stopped at step {step}")
        self.job, self.step = job, step


@dataclass
class Pulse:
    """Written by the training loop, read by the watchdog from another thread.

    `steps` counts steps and batches of evaluations. While `in_steps` is set, the next one must follow soon;
    it is not set while a rank starts, waits, compiles or writes results. `stop` is set from outside and asks
    the job to stop; only rank 0's is heard.
    """

    steps: int = 0
    in_steps: bool = False
    stop: bool = False

    def step(self) -> None:
        """Count a step that another one follows."""
        self.steps += 1
        self.in_steps = True

    def rest(self) -> None:
        """Suspend hang detection."""
        self.in_steps = False

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and count each as a step."""
        try:
            for batch in batches:
                self.step()
                yield batch
        finally:
            self.rest()
