"""What a tiny run asks for and leaves, made up: nothing of it was trained."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.files import write_text
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, Progress
from distlth.run.store import RunRecord
from distlth.run.submission import Submission

NOW = 1_000_000.0
SEED = re.compile(r"^seed[0-9]+/")
TRAIN = {"epochs": 4, "batch_size": 8, "lr": 0.1}
MINIMAL = {
    "name": "a",
    "data": {"path": "data"},
    "model": {"name": "resnet20"},
    "train": TRAIN,
    "prune": {"rounds": 2, "branches": [{"method": "refill"}, {"method": "regroup"}]},
}


def make_config() -> RunConfig:
    """Two rounds, each with a branch of refill and one of regroup: seven jobs."""
    return parse_config({**MINIMAL, "name": "tiny"}, "test")


def new_run(root: Path) -> RunPaths:
    """A run that was started and has left nothing but its job.yaml."""
    paths = RunPaths(root)
    write_text(paths.job_file, RunRecord(make_config(), {}, {}, NOW).to_yaml())
    return paths


def make_result(job: str = "00", density: float = 1.0, top1: float = 0.9, seconds: float = 10.0) -> JobResult:
    """What a job of that run found."""
    number, _, branch = SEED.sub("", job).partition("/")
    return JobResult(
        job=job,
        round=int(number),
        method=branch or "imp",
        density=density,
        kept=round(1000 * density),
        total=1000,
        val_top1=top1,
        val_top5=0.99,
        val_loss=0.3,
        train_loss=0.2,
        epochs=4,
        steps=40,
        seconds=seconds,
        world_size=1,
        mask_digest="m",
        weights_digest="w",
        finished=NOW,
    )


def make_progress(step: int, epoch: int) -> Progress:
    """Where the job of round 1 stands."""
    return Progress("01", epoch, 4, step, 40, 1.25, 512.0, 65.0, time.time())


def make_submission(job_id: str, **changes: Any) -> Submission:
    """A submission to SLURM."""
    values = {
        **{"cluster": "slurm", "job_id": job_id, "array_task": None, "nodes": 1, "time": 1.0, "user": "ann"},
        **{"host": "login", "directory": "d", "folder": "f", "parameters": {}, "config": {}},
        **{"allowed_changes": [], "process": None, "cancelled": None},
    }
    return Submission(**{**values, **changes})
