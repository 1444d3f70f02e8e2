"""Which jobs a run consists of, and which of them can start: pure functions of config and what is done."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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
    A `given` job's mask was brought into the run, and is made from nothing in it.
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
    given: bool = False

    @property
    def makes_rewind_weights(self) -> bool:
        """Whether the tickets of its seed start from this job's early weights."""
        return self.parent is None and self.start == "init"

    @property
    def is_trunk(self) -> bool:
        """Whether the chain of rounds runs through this job."""
        return "/" not in self.id.removeprefix(f"{self.of_seed}/")

    @property
    def of_seed(self) -> str:
        """The part of the id that says the seed, such as `seed2`; empty where it is the run's own."""
        prefix = f"seed{self.seed}"
        return prefix if self.id.startswith(f"{prefix}/") else ""

    @property
    def removes_channels(self) -> bool:
        """Whether a channel that keeps no weight is removed from the network."""
        return self.structure is not None and self.structure.removes_channels


def plan(config: RunConfig) -> tuple[Job, ...]:
    """Return all jobs of a run, seed by seed, in the order in which one lane takes them."""
    return tuple(job for seed in config.all_seeds for job in _Planner(config, seed).jobs())


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


@dataclass(frozen=True)
class _Planner:
    """The jobs of one seed."""

    config: RunConfig
    seed: int

    def jobs(self) -> Iterator[Job]:
        """Iterate over the jobs: each round's trunk job before its branches."""
        if self.config.prune.transfer is None:
            yield from self.made_here()
        else:
            yield from self.transferred(self.config.prune.transfer.tickets)

    def made_here(self) -> Iterator[Job]:
        """Iterate over the jobs of a run that makes its tickets, but for rounds that were imported."""
        yield self.dense()
        for number in self.rounds():
            yield self.trunk(number)
            if self.config.prune.mode == "branch":
                yield from self.branches(number)

    def transferred(self, tickets: Collection[str]) -> Iterator[Job]:
        """Iterate over the jobs of a run that has its masks, of `tickets` or all, from another run."""
        trainings = {job.parent for job in self.made_here() if not job.is_trunk}
        for job in self.made_here():
            if job.id in trainings and not job.is_trunk:  # their masks are there already
                continue
            name = job.id.removeprefix(f"{job.of_seed}/")
            start = job.start if job.start == "reinit" else "rewind"
            if job.round == 0 or not tickets or name in tickets:
                yield replace(
                    job, parent=None, start=start, first_epoch=0, start_job=None, given=job.round > 0
                )

    def rounds(self) -> Iterator[int]:
        """Iterate over the rounds after the first; before the last imported one, over the imported."""
        imported = self.config.prune.imported
        for number in range(1, self.config.prune.rounds + 1):
            if not imported or number in imported or number > imported[-1]:
                yield number

    def dense(self) -> Job:
        """Return round 0's job; beside imported rounds it starts from their rewind weights, as they do."""
        job = Job(self.trunk_id(0), 0, TRUNK, None, "init", 0, None, self.seed, 1.0)
        imported = self.config.prune.imported
        if not imported:
            return job
        return replace(job, start="rewind", first_epoch=self.first_epoch, given=0 in imported)

    def trunk_id(self, number: int) -> str:
        """Return the id of a round's trunk job. Those of the run's own seed say no seed."""
        return f"{'' if self.seed == self.config.seed else f'seed{self.seed}/'}{number:02d}"

    def trunk(self, number: int) -> Job:
        """Return the trunk job of a round after the first."""
        inline = self.config.prune.mode == "inline"
        structure = self.config.prune.branches[0] if inline else None
        method = f"{TRUNK}-{structure.label}" if structure else TRUNK
        before = self.trunk_id(number - 1)
        job = self.ticket(self.trunk_id(number), number, method, before, before, structure)
        return replace(job, parent=None, given=True) if number in self.config.prune.imported else job

    def branches(self, number: int) -> Iterator[Job]:
        """Iterate over a round's branches, each after the training that it is made from, if it has one."""
        trainings: dict[str, Job] = {}
        for branch in self.config.prune.branches:
            if branch.rounds is not None and number not in branch.rounds:
                continue
            job, training = self.branch(number, branch), branch.training
            if training is None:
                yield job
                continue
            first = replace(self.branch(number, training), density=1.0)
            if first.id not in trainings:  # branches of one kind share it
                trainings[first.id] = first
                yield first
            yield replace(job, parent=first.id)

    def branch(self, number: int, branch: Method) -> Job:
        """Return the job of a branch; what is made from round 0's network alone is one round away from it."""
        of_round = branch.made_from == "round"
        parent, start_job = (
            self.trunk_id(number if of_round else 0),
            self.trunk_id(number - 1 if of_round else 0),
        )
        job_id = f"{self.trunk_id(number)}/{branch.label}"
        job = self.ticket(job_id, number, branch.label, parent, start_job, branch)
        if branch.weights == "reinit":
            return replace(job, start="reinit", first_epoch=0, start_job=None)
        if branch.made_from == "untrained":
            return replace(job, start="init", first_epoch=0, start_job=None)
        return job

    def ticket(
        self, job_id: str, number: int, method: str, parent: str, start_job: str, structure: Method | None
    ) -> Job:
        """Return a job of a round; `start_job` is the one whose trained weights it keeps with `lr-rewind`."""
        density = planned_density(self.config, number)
        job = Job(job_id, number, method, parent, "rewind", self.first_epoch, structure, self.seed, density)
        if self.config.prune.after_rewind == "lr-rewind":
            return replace(job, start="trained", start_job=start_job)
        return job

    @property
    def first_epoch(self) -> int:
        """The epoch of the schedule at which jobs start from the rewind weights."""
        prune = self.config.prune
        return 0 if prune.after_rewind == "restart" else prune.rewind_epoch


def planned_density(config: RunConfig, number: int) -> float:
    """Return the density that round `number` trains at, a fraction."""
    return float((1 - config.prune.rate) ** number)
