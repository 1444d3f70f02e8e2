"""What a run has done and has left, in rank-hours, from the time that a step takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from distlth.config.schema import RunConfig
from distlth.plan import Job, plan
from distlth.run.results import JobResult

HOUR = 3600.0


@dataclass(frozen=True)
class JobForecast:
    """One job of the plan; `hours` are those of all its ranks, None where no step was timed."""

    job: Job
    epochs: int
    steps: int
    done: bool
    hours: float | None


@dataclass(frozen=True)
class Forecast:
    """All jobs of a run; `step_seconds` is the wall time of a step that `hours` were made from.

    That is a step with images of `data.resolution` pixels; smaller ones take less time, as they have pixels.
    """

    jobs: tuple[JobForecast, ...]
    step_seconds: float | None

    @property
    def hours(self) -> float | None:
        """The rank-hours of all jobs."""
        return _sum(self.jobs)

    @property
    def hours_left(self) -> float | None:
        """The rank-hours of the jobs that are not done."""
        return _sum(tuple(each for each in self.jobs if not each.done))


def forecast(
    config: RunConfig,
    steps_per_epoch: int,
    results: Mapping[str, JobResult],
    step_seconds: float | None = None,
) -> Forecast:
    """Return what each job of a run takes.

    What is done counts with the time it took, the rest with `step_seconds`, by default the mean over the
    steps of `results`.
    """
    jobs = plan(config)
    pixels = {job.id: _relative_pixels(config, job) for job in jobs}
    pace = step_seconds or _mean_step(results, pixels)
    found = []
    for job in jobs:
        epochs = config.train.epochs - job.first_epoch
        steps, result = epochs * steps_per_epoch, results.get(job.id)
        hours = None if pace is None else steps * pixels[job.id] * pace * config.cluster.workers / HOUR
        if result is not None:
            hours = result.seconds * result.world_size / HOUR
        found.append(JobForecast(job, epochs, steps, result is not None, hours))
    return Forecast(tuple(found), pace)


def _relative_pixels(config: RunConfig, job: Job) -> float:
    """Return the mean over a job's epochs of an image's pixels, as a share of those of the largest."""
    return fmean(config.data.relative_cost(epoch) for epoch in range(job.first_epoch, config.train.epochs))


def _mean_step(results: Mapping[str, JobResult], pixels: Mapping[str, float]) -> float | None:
    """Return the seconds of a step with the largest images, from jobs with these shares of their pixels."""
    done = [result for name, result in results.items() if name in pixels]
    steps = sum(result.steps * pixels[result.job] for result in done)
    return sum(result.seconds for result in done) / steps if steps else None


def _sum(jobs: tuple[JobForecast, ...]) -> float | None:
    known = [each.hours for each in jobs if each.hours is not None]
    return sum(known) if len(known) == len(jobs) else None
