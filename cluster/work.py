"""What head, coordinator and lanes hand each other; loads neither torch nor what only one of them needs."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.broadcast import Pieces
from distlth.run.config import JobConfig
from distlth.run.paths import RunPaths
from distlth.run.plan import Job


@dataclass(frozen=True)
class LaneSpec:
    """What a lane's ranks are started with."""

    index: int
    coordinator: str
    config: JobConfig
    run: RunPaths
    device: str


@dataclass(frozen=True)
class Assignment:
    """A job for a lane. Each rank fetches the pieces of mask and weights (files, as bytes) itself."""

    job: Job
    mask_digest: str
    mask: Pieces
    weights: Pieces
    criteria: tuple[str, ...]
