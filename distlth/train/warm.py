"""What a rank of a lane keeps warm from job to job."""

from __future__ import annotations

import os

import torch

from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.plan import Job
from distlth.ticket import Ticket
from distlth.train.executable import Executable, make_executable, open_splits, reseed
from distlth.train.form import Form, Masked, slimmed
from distlth.train.world import World


class WarmRank:
    """One rank of a lane: process group, opened splits, torch's settings, and the network."""

    def __init__(self, config: RunConfig, dataset: Dataset, world: World) -> None:
        set_determinism(config.train.deterministic)
        self.config, self.world = config, world
        self._splits = open_splits(config, dataset, world.device)
        self._made: Executable | None = None

    def executable(self, job: Job) -> Executable:
        """Return what a job trains on: the network of the jobs before it, in its seed's order. Collective."""
        if self._made is None:
            self._made = make_executable(self.config, self._splits, self.world, job.seed)
        elif self._made.seed != job.seed:
            self._made = reseed(self._made, self.config, self._splits, self.world, job.seed)
        return self._made

    @property
    def num_classes(self) -> int:
        """The number of classes of the data set."""
        return self._splits["train"].dataset.num_classes

    def form(self, job: Job, ticket: Ticket) -> Form:
        """Return the form in which a job trains its ticket. Collective."""
        executable = self.executable(job)
        if self.config.train.execution == "slim" and ticket.remove_channels:
            return slimmed(self.config, self.world, executable, ticket, self.num_classes)
        return Masked(executable, ticket)

    def close(self) -> None:
        """End the decoding threads and release the mappings."""
        self._made = None
        for split in self._splits.values():
            split.close()


def set_determinism(deterministic: bool) -> None:
    """Allow deterministic kernels only, or all and the fastest."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may vary from run to run
    torch.use_deterministic_algorithms(deterministic)
    # Filling fresh memory is a debugging aid; all of ours is written before it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
