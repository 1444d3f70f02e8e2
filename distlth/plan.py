"""Which jobs a run consists of, and which of them can start: pure functions of config and what is done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from distlth.config.schema import Refill, Regroup, RunConfig

TRUNK = "imp"


@dataclass(frozen=True)
class Job:
    """One training of one ticket.

    `parent` is the job whose result this one's mask is made from; `start` says which weights it trains
    from (`init`, `rewind`, or the parent's `trained` ones), `first_epoch` where in the schedule it starts.
    `structure` is how a magnitude mask becomes this job's mask; None leaves it unstructured.
    """

    id: str
    round: int
    method: str
    parent: str | None
    start: Literal["init", "rewind", "trained"]
    first_epoch: int
    structure: Refill | Regroup | None

    @property
    def is_trunk(self) -> bool:
        """Whether the chain of rounds runs through this job."""
        return "/" not in self.id


def trunk_id(number: int) -> str:
    """The id of a round's trunk job."""
    return f"{number:02d}"


def plan(config: RunConfig) -> tuple[Job, ...]:
    """All jobs of a run, in the order in which one lane takes them."""
    jobs = [Job(trunk_id(0), 0, TRUNK, None, "init", 0, None)]
    for number in range(1, config.prune.rounds + 1):
        jobs.append(_trunk(config, number))
        if config.prune.mode == "branch":
            jobs += [
                _branch(config, number, branch)
                for branch in config.prune.branches
                if branch.rounds is None or number in branch.rounds
            ]
    return tuple(jobs)


def _trunk(config: RunConfig, number: int) -> Job:
    structure = config.prune.branches[0] if config.prune.mode == "inline" else None
    method = f"{TRUNK}-{structure.label}" if structure else TRUNK
    return _ticket(config, trunk_id(number), number, method, trunk_id(number - 1), structure)


def _branch(config: RunConfig, number: int, branch: Refill | Regroup) -> Job:
    trunk = trunk_id(number)
    return _ticket(config, f"{trunk}/{branch.label}", number, branch.label, trunk, branch)


def _ticket(
    config: RunConfig, job_id: str, number: int, method: str, parent: str, structure: Refill | Regroup | None
) -> Job:
    prune = config.prune
    start: Literal["rewind", "trained"] = "trained" if prune.after_rewind == "lr-rewind" else "rewind"
    first_epoch = 0 if prune.after_rewind == "restart" else prune.rewind_epoch
    return Job(job_id, number, method, parent, start, first_epoch, structure)


def ready(jobs: Collection[Job], done: Collection[str]) -> list[Job]:
    """The jobs whose parent is done and that are not done themselves, in plan order."""
    return [job for job in jobs if job.id not in done and (job.parent is None or job.parent in done)]


def criteria_needed(jobs: Collection[Job], job: Job) -> tuple[str, ...]:
    """The activation criteria by which tickets made from `job` choose channels, each once."""
    criteria = [
        child.structure.criterion
        for child in jobs
        if child.parent == job.id
        and isinstance(child.structure, Refill)
        and child.structure.needs_activations
    ]
    return tuple(dict.fromkeys(criteria))


def planned_density(job: Job, rate: float) -> float:
    """The density that the schedule gives a job, a fraction; structured masks come close to it."""
    return float((1 - rate) ** job.round)
