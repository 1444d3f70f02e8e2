"""When the ranks leave a checkpoint and when they stop: rank 0 decides, all hear of it at the same step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distlth.config.schema import CheckpointSection
from distlth.train.pulse import Pulse
from distlth.train.world import World

# How often the ranks agree on what rank 0's clock and signals say. Each time costs one tiny all-reduce.
AGREE_SECONDS = 1.0


@dataclass(frozen=True)
class Due:
    """What follows a step: a checkpoint, and the end of the job where it is asked to stop."""

    checkpoint: bool
    stop: bool


class Agreement:
    """Tells every rank the same after each step of a job that begins, or resumes, after `step` steps.

    Between two exchanges are as many steps as rank 0 makes in about a second: a step without one costs
    nothing, and all ranks know which step has one. `clock` returns seconds.
    """

    def __init__(
        self,
        section: CheckpointSection,
        world: World,
        pulse: Pulse,
        step: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._section, self._world, self._pulse, self._clock = section, world, pulse, clock
        self._next = step + 1
        self._last_step, self._last_time = step, clock()
        self._checkpointed = clock()

    def after(self, step: int) -> Due:
        """Return what is due after `step` steps. Collective: all ranks ask after the same steps."""
        every_steps = self._section.every_steps
        late, stop = self._exchange(step) if step >= self._next else (False, False)
        due = Due(late or stop or (every_steps is not None and step % every_steps == 0), stop)
        if due.checkpoint:
            self._checkpointed = self._clock()
        return due

    def _exchange(self, step: int) -> tuple[bool, bool]:
        """Return rank 0's word: whether a checkpoint is late, and whether to stop."""
        said = torch.tensor([self._is_late(), self._pulse.stop, self._gap(step)], dtype=torch.float32)
        heard = self._world.sum(said.to(self._world.device) * self._world.is_main).tolist()
        self._last_step, self._last_time = step, self._clock()
        self._next = step + int(heard[2])
        return bool(heard[0]), bool(heard[1])

    def _is_late(self) -> bool:
        """Return whether this rank's clock calls for a checkpoint."""
        seconds = self._clock() - self._checkpointed
        return self._section.every_steps is None and seconds > 60 * self._section.every_minutes

    def _gap(self, step: int) -> int:
        """Return the steps of about a second, at most twice as many as since the last exchange."""
        steps, seconds = step - self._last_step, self._clock() - self._last_time
        return max(1, min(int(steps / max(seconds, 1e-9) * AGREE_SECONDS), 2 * steps))
