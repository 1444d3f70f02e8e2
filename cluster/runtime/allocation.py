"""The nodes that a batch system gave a run, as the run's process on the first of them knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Allocation:
    """Where the run's process on the head node finds the worker nodes, and they find it."""

    rendezvous: Path
    """The folder through which the nodes find each other."""
    address: str
    """The head node's address, as the worker nodes reach it."""
