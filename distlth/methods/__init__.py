"""The ways to make a ticket, one file each. To register one, add its line to METHODS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from distlth.methods.admm import Admm
from distlth.methods.base import Calibration, CountAlive, Map, Measurement, Method, Penalty, Source
from distlth.methods.grasp import Grasp
from distlth.methods.magnitude_channels import MagnitudeChannels
from distlth.methods.nm import Nm
from distlth.methods.one_shot import OneShot
from distlth.methods.random import Random
from distlth.methods.random_blocks import RandomBlocks
from distlth.methods.random_channels import RandomChannels
from distlth.methods.refill import Refill
from distlth.methods.regroup import Regroup
from distlth.methods.slimming import Slimming
from distlth.methods.snip import Snip
from distlth.methods.synflow import Synflow

__all__ = [
    "METHODS",
    "Branch",
    "Calibration",
    "CountAlive",
    "Map",
    "Measurement",
    "Method",
    "Penalty",
    "Source",
]

# `method:` in a branch of the job file -> its options and what they come to.
METHODS: dict[str, type[Method]] = {
    "refill": Refill,
    "regroup": Regroup,
    "nm": Nm,
    "one-shot": OneShot,
    "snip": Snip,
    "grasp": Grasp,
    "synflow": Synflow,
    "admm": Admm,
    "slimming": Slimming,
    "magnitude-channels": MagnitudeChannels,
    "random": Random,
    "random-channels": RandomChannels,
    "random-blocks": RandomBlocks,
}

if TYPE_CHECKING:
    Branch = Method
else:
    Branch = Annotated[Union[tuple(METHODS.values())], Field(discriminator="method")]  # noqa: UP007
