"""What head, coordinator and lanes hand each other; loads neither torch nor what only one of them needs."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.runtime.broadcast import Pieces
from distlth.config.schema import RunConfig
from distlth.plan import Job
from distlth.run.events import Event
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


@dataclass(frozen=True)
class Outcome:
    """Where a run stands.

    `finished` says that it is over, `error` what ended it early. With `quiet` it is stopping, and no rank
    has anything left to do. `unwritten` are the events that its log has not taken yet.
    """

    finished: bool
    error: str | None
    quiet: bool = False
    unwritten: tuple[Event, ...] = ()
