"""What a rank of a lane keeps warm from job to job."""

from __future__ import annotations

import os

import torch

from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.plan import Job
from distlth.ticket import Ticket
from distlth.train.executable import Executable, ExecutableKey, make_executable, open_splits
from distlth.train.form import Form, Masked, slimmed
from distlth.train.world import World


class WarmRank:
    """One rank of a lane: process group, opened splits, torch's settings, and the last job's executable."""

    def __init__(self, config: RunConfig, dataset: Dataset, world: World) -> None:
        set_determinism(config.train.deterministic)
        self.config, self.world = config, world
        self._splits = open_splits(config, dataset, world.device)
        self._last: Executable | None = None

    def executable(self, job: Job) -> Executable:
        """Return what a job trains on: the last one where it can share that, else a new one. Collective."""
        key = ExecutableKey.of(self.config, job)
        if self._last is None or self._last.key != key:
            self._last = None  # first, or both would be on the device at once
            self._last = make_executable(self.config, self._splits, self.world, key)
        return self._last

    def form(self, job: Job, ticket: Ticket) -> Form:
        """Return the form in which a job trains its ticket. Collective."""
        executable = self.executable(job)
        if self.config.train.execution == "slim" and ticket.remove_channels:
            num_classes = self._splits["train"].dataset.num_classes
            return slimmed(self.config, self.world, executable, ticket, num_classes)
        return Masked(executable, ticket)

    def close(self) -> None:
        """End the decoding threads and release the mappings."""
        self._last = None
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
