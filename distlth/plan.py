"""Which jobs a run consists of, and which of them can start: pure functions of config and what is done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from distlth.config import RunConfig
from distlth.methods import Measurement, Method

TRUNK = "imp"


@dataclass(frozen=True)
class Job:
    """One training of one ticket.

    `parent` is the job whose result this one's mask is made from; `start` says which weights it trains
    from (`init`, `rewind`, `reinit`, or those that `start_job` has `trained`), `first_epoch` where in the
    schedule it starts. A branch starts where the trunk's job of its round does, so that both are trained
    equally long; from weights that saw no step it trains for the whole schedule.
    `method` is its name in tables and curves, `structure` what makes its mask from the magnitude mask (None
    leaves that as it is). `density` is the planned one, a fraction; structured masks come close to it.
    """

    id: str
    round: int
    method: str
    parent: str | None
    start: Literal["init", "rewind", "reinit", "trained"]
    first_epoch: int
    structure: Method | None
    seed: int
    density: float
    start_job: str | None = None

    @property
    def is_trunk(self) -> bool:
        """Whether the chain of rounds runs through this job."""
        return "/" not in self.id

    @property
    def removes_channels(self) -> bool:
        """Whether a channel that keeps no weight is removed from the network."""
        return self.structure is not None and self.structure.removes_channels


def plan(config: RunConfig) -> tuple[Job, ...]:
    """Return all jobs of a run, in the order in which one lane takes them."""
    jobs = [Job(trunk_id(0), 0, TRUNK, None, "init", 0, None, config.seed, 1.0)]
    for number in range(1, config.prune.rounds + 1):
        jobs.append(_trunk(config, number))
        if config.prune.mode == "branch":
            jobs += [
                _branch(config, number, branch)
                for branch in config.prune.branches
                if branch.rounds is None or number in branch.rounds
            ]
    return tuple(jobs)


def trunk_id(number: int) -> str:
    """Return the id of a round's trunk job."""
    return f"{number:02d}"


def ready(jobs: Collection[Job], done: Collection[str]) -> list[Job]:
    """Return the jobs whose parent is done and that are not done themselves, in plan order."""
    return [job for job in jobs if job.id not in done and (job.parent is None or job.parent in done)]


def descendants(jobs: Collection[Job], of: Collection[str]) -> list[str]:
    """Return the ids of the jobs whose chain of parents leads to one of `of`, in plan order."""
    found = set(of)
    for job in jobs:  # parents come first
        if job.parent in found:
            found.add(job.id)
    return [job.id for job in jobs if job.id in found and job.id not in of]


def measurements(jobs: Collection[Job], job: Job) -> tuple[Measurement, ...]:
    """Return what the methods of tickets that are made from `job` need measured on it, each once."""
    children = [(child.structure, child.density) for child in jobs if child.parent == job.id]
    needed = [each for method, density in children if method for each in method.measurements(density)]
    return tuple({measurement.name: measurement for measurement in needed}.values())


def _trunk(config: RunConfig, number: int) -> Job:
    structure = config.prune.branches[0] if config.prune.mode == "inline" else None
    method = f"{TRUNK}-{structure.label}" if structure else TRUNK
    before = trunk_id(number - 1)
    return _ticket(config, trunk_id(number), number, method, before, before, structure)


def _branch(config: RunConfig, number: int, branch: Method) -> Job:
    """Return the job of a branch; what is made from round 0's network alone is one round away from it."""
    of_round = branch.made_from == "round"
    parent, start_job = (trunk_id(number), trunk_id(number - 1)) if of_round else (trunk_id(0), trunk_id(0))
    job_id = f"{trunk_id(number)}/{branch.label}"
    job = _ticket(config, job_id, number, branch.label, parent, start_job, branch)
    if branch.weights == "reinit":
        return replace(job, start="reinit", first_epoch=0, start_job=None)
    if branch.made_from == "untrained":
        return replace(job, start="init", first_epoch=0, start_job=None)
    return job


def _ticket(
    config: RunConfig,
    job_id: str,
    number: int,
    method: str,
    parent: str,
    start_job: str,
    structure: Method | None,
) -> Job:
    """Return a job of a round; `start_job` is the one whose trained weights it keeps with `lr-rewind`."""
    prune = config.prune
    first_epoch = 0 if prune.after_rewind == "restart" else prune.rewind_epoch
    density = planned_density(config, number)
    job = Job(job_id, number, method, parent, "rewind", first_epoch, structure, config.seed, density)
    return replace(job, start="trained", start_job=start_job) if prune.after_rewind == "lr-rewind" else job


def planned_density(config: RunConfig, number: int) -> float:
    """Return the density that round `number` trains at, a fraction."""
    return float((1 - config.prune.rate) ** number)
