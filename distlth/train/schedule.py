"""Compute the learning rate of a step: a pure function of the schedule."""

from __future__ import annotations

import math

from distlth.config.schema import ScheduleSection


def learning_rate(
    schedule: ScheduleSection, base: float, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """Return the learning rate of step `step` (0-based) of a job of `epochs` epochs.

    It rises linearly over the warm-up, reaching `base` on the warm-up's last step, and then follows the
    schedule's curve; `cosine` and `linear` end at zero one step after the job's last.
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return base * min(1.0, (step + 1) / warmup)
    epoch = step / steps_per_epoch
    if schedule.name == "constant":
        return base
    if schedule.name == "step":
        return float(base * schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones))
    done = (step - warmup) / (epochs * steps_per_epoch - warmup)
    if schedule.name == "linear":
        return base * (1 - done)
    return base * 0.5 * (1 + math.cos(math.pi * done))
