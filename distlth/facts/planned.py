"""What each job of a run needs, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from distlth.config.schema import RunConfig
from distlth.plan import plan


@dataclass(frozen=True)
class PlannedJob:
    """One job of the plan. `density` is a fraction, `memory_bytes` an estimate for one rank."""

    job: str
    round: int
    method: str
    density: float
    epochs: int
    steps: int
    memory_bytes: float


def planned_jobs(config: RunConfig, steps_per_epoch: int, memory_bytes: float) -> list[PlannedJob]:
    """Return a row for each job of a run, whose ranks need `memory_bytes` each."""
    rows = []
    for job in plan(config):
        epochs = config.train.epochs - job.first_epoch
        steps = epochs * steps_per_epoch
        rows.append(PlannedJob(job.id, job.round, job.method, job.density, epochs, steps, memory_bytes))
    return rows
