"""What head, coordinator and lanes hand each other; loads neither torch nor what only one of them needs."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.runtime.broadcast import Pieces
from distlth.config.schema import RunConfig
from distlth.plan import Job
from distlth.run.paths import RunPaths


@dataclass(frozen=True)
class LaneSpec:
    """What a lane's ranks are started with."""

    index: int
    coordinator: str
    config: RunConfig
    run: RunPaths
    device: str


@dataclass(frozen=True)
class Assignment:
    """A job for a lane. Each rank fetches the pieces of mask and weights (files, as bytes) itself."""

    job: Job
    mask_digest: str
    mask: Pieces
    weights: Pieces
