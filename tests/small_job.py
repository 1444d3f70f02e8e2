"""One job in this process, as several files test it: a dense ticket, trained on one rank."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import torch

from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.models import build, prunable
from distlth.plan import Job, plan
from distlth.prune.mask import Mask
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.ticket import Ticket
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from distlth.train.world import World

WORLD = World(0, 1, torch.device("cpu"))


def ignore(event: str, **details: Any) -> None:
    """Take an event and leave it."""


def dense_ticket(rank: WarmRank, job: Job) -> Ticket:
    """All weights of a job's network, as its seed initialises them."""
    executable, model = rank.executable(job), rank.config.model
    layers = prunable(executable.anatomy, rank.config.prune.scope)
    fresh = build(model.name, rank.num_classes, seed=job.seed, stem=model.stem, blurpool=model.blurpool)
    mask = Mask.dense({layer.name: layer.weight_shape for layer in layers})
    return Ticket(mask, fresh.state_dict())


def train(
    config: RunConfig,
    data: Dataset,
    run: RunPaths,
    note: Callable[..., None] = ignore,
    job: Job | None = None,
) -> JobResult:
    """Train a job, by default the first one of the plan, on a rank that was not warm."""
    with closing(WarmRank(config, data, WORLD)) as rank:
        return train_on(rank, job or plan(config)[0], run, note)


def train_on(rank: WarmRank, job: Job, run: RunPaths, note: Callable[..., None] = ignore) -> JobResult:
    """Train a job on a warm rank, from initial weights."""
    return train_job(rank, job, dense_ticket(rank, job), run, note, partial(JobBoard, run, job.id))
