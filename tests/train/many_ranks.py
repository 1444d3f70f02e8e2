"""The ranks of test_many_ranks.py: python -m tests.train.many_ranks FOLDER JOB_FILE DATA.

Four processes are a world of four ranks, then three of them one of three. Each leaves its runs and findings.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from distlth.config.read import load_config
from distlth.config.schema import RunConfig, TrainSection
from distlth.data.dataset import Dataset
from distlth.data.load.order import part
from distlth.files import load_tensors, save_tensors
from distlth.plan import plan
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.ticket import Ticket
from distlth.train.evaluate import evaluate
from distlth.train.meter import Meter
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.step import StepState, train_step
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from distlth.train.world import World
from tests.forked import run_ranks
from tests.small_job import dense_ticket, ignore

WORLDS = (4, 3)
BATCH = 239  # parts of 60, 60, 60, 59 and of 80, 80, 79
JOB = (
    *(f"train.batch_size={BATCH}", "train.epochs=2", "train.eval_every=2", "data.resolution=8"),
    *("prune.rewind_epoch=1", "prune.branches=[]", "log_every=2", "checkpoint.every_steps=100"),
)
EVAL_BATCHES = ("null", "7", "1000")
PRECISIONS = ("off", "fp16")
PATIENCE = timedelta(seconds=60)
SMALL_BATCH = 8


@dataclass(frozen=True)
class Place:
    """Where the ranks find what they train on, and leave what they find."""

    folder: Path
    job_file: Path
    data: Path

    def run(self, name: str, size: int) -> RunPaths:
        """The run of a name that a world left."""
        return RunPaths(self.folder / f"{name}-{size}")

    def weights(self, amp: str, size: int) -> Path:
        """The weights of the network without BatchNorm."""
        return self.folder / f"small-{amp}-{size}.safetensors"

    def found(self, size: int) -> Path:
        """The findings of a world."""
        return self.folder / f"found-{size}.json"

    def config(self, size: int, *overrides: str) -> RunConfig:
        """The config of its runs."""
        options = [*JOB, f"cluster.workers={size}", f"data.path={self.data}", *overrides]
        return load_config(self.job_file, options)


def train_small(world: World, amp: str) -> tuple[nn.Module, float]:
    """Train a network without BatchNorm for a few steps; return it, and the mean loss over all images."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    )
    options: dict[str, Any] = {"label_smoothing": 0.1, "clip_norm": 0.5, "weight_decay": 1e-2, "amp": amp}
    section = TrainSection(epochs=1, batch_size=SMALL_BATCH, lr=0.2, **options)
    state = StepState.fresh(model, world.wrap(model), {}, section, world, seed=0)
    images = torch.randn(6, SMALL_BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 5, (6, SMALL_BATCH), generator=torch.Generator().manual_seed(2))
    own = part(SMALL_BATCH, world.rank, world.size)
    meter = Meter(world, SMALL_BATCH)
    for step in range(len(images)):
        loss = train_step(state, images[step][own], labels[step][own], step=step, lr=0.2)
        meter.count(loss, len(own), step)
    return model, meter.end_epoch().loss


def train_twice_and_resume(place: Place, world: World, data: Dataset) -> None:
    """Train the first job: twice on a warm rank, and on two more as one that is stopped and resumes."""
    config = place.config(world.size)
    with closing(WarmRank(config, data, world)) as rank:
        ticket = dense_ticket(rank, plan(config)[0])
        for name in ("whole", "again"):
            train(rank, ticket, place.run(name, world.size))
    stop_and_resume(config, data, world, ticket, place.run("parts", world.size))


def stop_and_resume(config: RunConfig, data: Dataset, world: World, ticket: Ticket, run: RunPaths) -> None:
    """Train the first job as one that stops after its first step, and resumes on ranks that are not warm."""
    with closing(WarmRank(config, data, world)) as rank, suppress(StoppedEarly):
        train(rank, ticket, run, Pulse(stop=True))
        raise AssertionError("not stopped")
    with closing(WarmRank(config, data, world)) as rank:
        train(rank, ticket, run)


def train(rank: WarmRank, ticket: Ticket, run: RunPaths, pulse: Pulse | None = None) -> None:
    """Train the first job."""
    job = plan(rank.config)[0]
    train_job(rank, job, ticket, run, ignore, partial(JobBoard, run, job.id), pulse=pulse)


def evaluated(world: World, config: RunConfig, data: Dataset, run: RunPaths) -> dict[str, Any]:
    """Evaluate a run's weights; return the scores, and which images each rank has seen."""
    with closing(WarmRank(config, data, world)) as rank:
        executable = rank.executable(plan(config)[0])
        executable.model.load_state_dict(load_tensors(run.job("00").weights)[0])
        precision = torch.autocast("cpu", enabled=False)
        scores = evaluate(executable.model, executable.eval_loader, world, precision)
        seen = world.texts(json.dumps(executable.eval_loader.indices.tolist()))
    return {**asdict(scores), "seen": [json.loads(indices) for indices in seen]}


def world_of(place: Place, rank: int, size: int) -> None:
    """Be a rank of a world: train, evaluate, and leave what was found."""
    store = f"file://{place.folder}/store-{size}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=PATIENCE)
    world, data = World.current(torch.device("cpu")), Dataset.load(place.data)
    losses = {}
    for amp in PRECISIONS:
        model, losses[amp] = train_small(world, amp)
        if world.is_main:
            save_tensors(place.weights(amp, size), model.state_dict(), {})
    train_twice_and_resume(place, world, data)
    evaluations = [
        evaluated(world, place.config(size, f"train.eval_batch_size={batch}"), data, place.run("whole", size))
        for batch in EVAL_BATCHES
    ]
    if world.is_main:
        place.found(size).write_text(json.dumps({"losses": losses, "evaluations": evaluations}))
    dist.destroy_process_group()


def rank_of_each(place: Place, rank: int) -> None:
    """Be a rank of each world that has one of this number."""
    torch.set_num_threads(1)
    for size in WORLDS:
        if rank < size:
            world_of(place, rank, size)


def main(folder: str, job_file: str, data: str) -> int:
    """Run all ranks to their end; return the highest exit code."""
    place = Place(Path(folder), Path(job_file), Path(data))
    return run_ranks(rank_of_each, max(WORLDS), place)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
