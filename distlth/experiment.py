"""Run a whole experiment in sequence, as the method says; `cluster.runtime` does the same on lanes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from distlth.config import RunConfig
from distlth.files import exists
from distlth.maker import TicketMaker, remarks
from distlth.plan import Job, measurements, plan
from distlth.preflight import preflight
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import open_run
from distlth.ticket import Ticket
from distlth.train.checkpoint import remove_states
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from distlth.train.world import World


def run_experiment(config: RunConfig, world: World) -> RunPaths:
    """Run every job of a plan, one after the other; pass over those that are done. Return the run's files.

    Every rank of `world` calls this; rank 0 writes.
    """
    run = RunPaths(config.runs.absolute() / config.name)
    found = preflight(config)
    maker = TicketMaker(config, found, run, waiting)
    if world.is_main:
        open_run(run, config, found.identity)
        maker.write_init()
    jobs = plan(config)
    with closing(WarmRank(config, found.dataset, world)) as rank:
        for job in jobs:
            if not exists(run.job(job.id).result):
                run_job(rank, maker, run, jobs, job)
            world.barrier()
            if world.is_main:
                remove_states(run.checkpoints(job.id))
    return run


def run_job(rank: WarmRank, maker: TicketMaker, run: RunPaths, jobs: Sequence[Job], job: Job) -> JobResult:
    """Make the ticket of one of `jobs`, whose parent is done, and train it. Every rank calls this."""
    ticket = make_ticket(maker, job, rank.world)
    curves = partial(JobBoard, run, job.id)
    return train_job(rank, job, ticket, run, note, curves, needed=measurements(jobs, job))


def make_ticket(maker: TicketMaker, job: Job, world: World) -> Ticket:
    """Prune the parent's network, make its mask structured, rewind its weights."""
    if world.is_main:
        for remark in remarks(*maker.mask(job)):
            note(**remark, job=job.id)
    world.barrier()
    structured, _ = maker.mask(job)
    return Ticket(structured.mask, maker.weights(job), job.removes_channels)


def note(event: str, **details: Any) -> None:
    """Print an event of a job."""
    print(event, *(f"{key} {value}" for key, value in details.items()), flush=True)


def waiting(error: OSError, seconds: float) -> None:
    """Print that a full disk is waited for."""
    note("waiting-for-disk", error=f"{error}; next try in {seconds:g} s")
