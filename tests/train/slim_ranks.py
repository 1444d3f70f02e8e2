"""Two ranks that train a refill ticket in each of RUNS: python -m tests.train.slim_ranks.

The arguments are a folder for their runs, a job file and a data set.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.models import build
from distlth.plan import plan
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from distlth.train.world import World
from tests.forked import run_ranks
from tests.small_job import ignore
from tests.train.many_ranks import JOB, PATIENCE
from tests.train.test_slim_training import refilled

SIZE = 2
JOB_ID = "01/refill"
OPTIONS = (*JOB[1:], "train.batch_size=240", "train.lr=0.005", f"cluster.workers={SIZE}", "prune.rounds=1")
# A run's name, its options, and whether it stops once.
RUNS = (
    ("masked", ("train.execution=masked",), False),
    ("kept", ("train.execution=masked", "train.all_reduce.send=kept"), True),
    ("slim", ("train.execution=slim",), False),
    ("parts", ("train.execution=slim",), True),
)


def train(config: RunConfig, data: Dataset, world: World, run: RunPaths, *, stop: bool = False) -> None:
    """Train a refill ticket on ranks that are not warm, to its end or to its first checkpoint."""
    job = next(job for job in plan(config) if job.id == JOB_ID)
    model = build(config.model.name, data.num_classes, seed=0, stem=config.model.stem)
    ticket = refilled(model, config.data.resolution, torch.float32)
    with closing(WarmRank(config, data, world)) as rank:
        try:
            pulse = Pulse(stop=stop)
            train_job(rank, job, ticket, run, ignore, partial(JobBoard, run, job.id), pulse=pulse)
        except StoppedEarly:
            assert stop


def rank_of(folder: Path, job_file: Path, data: Dataset, rank: int) -> None:
    """Be a rank."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=SIZE, timeout=PATIENCE)
    world = World.current(torch.device("cpu"))
    branches = "prune.branches=[{method: refill}]"
    options = [option for option in OPTIONS if not option.startswith("prune.branches")]
    for name, own, stops in RUNS:
        config = load_config(job_file, [*options, branches, f"data.path={data.path}", *own])
        for stop in [True, False] if stops else [False]:
            train(config, data, world, RunPaths(folder / name), stop=stop)
    dist.destroy_process_group()


def main(folder: str, job_file: str, data: str) -> int:
    """Run both ranks to their end; return the highest exit code."""
    return run_ranks(rank_of, SIZE, Path(folder), Path(job_file), Dataset.load(data))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
