"""What each node of an allocation runs: the callable that submitit starts, and requeues."""

from __future__ import annotations

from dataclasses import dataclass

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from cluster.service import run
from distlth.run.config import JobConfig


@dataclass(frozen=True)
class RunTask:
    """A run, as one of its nodes sees it."""

    config: JobConfig
    allowed_changes: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Run or go on with the job, on the first node."""
        if JobEnvironment().global_rank == 0:
            run(self.config, lambda _: None, self.allowed_changes)

    def checkpoint(self) -> DelayedSubmission:
        """What is submitted again: the same."""
        return DelayedSubmission(self)
