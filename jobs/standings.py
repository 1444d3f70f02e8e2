"""How submitted runs stand, for the commands that show them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cluster.slurm.squeue import read_queue
from cluster.slurm.standing import standing
from distlth.run.submission import Standing, Submission

QUEUE_SECONDS = 10.0


class Standings:
    """How submissions stand; one answer of squeue serves all of them, for some seconds."""

    def __init__(self) -> None:
        self._asked = float("-inf")
        self._users: set[str] = set()
        self._queue: Mapping[str, Standing] | None = {}

    def of(self, submission: Submission | None) -> Standing | None:
        """Return how a submission stands; None where there is none."""
        if submission is None:
            return None
        if submission.cluster == "slurm":
            is_old = time.monotonic() - self._asked > QUEUE_SECONDS
            if is_old or submission.user not in self._users:
                self._users.add(submission.user)
                self._queue, self._asked = read_queue(self._users), time.monotonic()
        return standing(submission, self._queue)


def standing_line(submission: Submission | None, standing: Standing | None) -> str | None:
    """Return one line for people about a submission and how it stands."""
    if submission is None or standing is None:
        return None
    nodes = f", {submission.nodes} nodes" if submission.nodes > 1 else ""
    return f"{submission}{nodes}: {standing}"
