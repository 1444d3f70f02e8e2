"""All runs of a folder, one row each, read from their directories and from how their submissions stand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from distlth.errors import UserError
from distlth.facts.status import RunStatus, read_status
from distlth.run.events import read_events
from distlth.run.paths import RunPaths
from distlth.run.results import SplitName
from distlth.run.submission import Standing, load_submission


@dataclass(frozen=True)
class RunRow:
    """One run.

    `queue` is how its submission stands, None of a run that was not submitted; `restarts` counts the starts
    after the first; `round`, `job`, `step` and `steps` are those of its current job; `best` is the highest
    top-1 of a finished job (0..1), on `best_split`. A run that cannot be read has a `problem`, and nothing
    else but its name, path and queue.
    """

    name: str
    path: str
    state: str
    queue: Standing | None = None
    job_id: str | None = None
    restarts: int = 0
    jobs_done: int = 0
    jobs_total: int = 0
    round: int | None = None
    job: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds_left: float | None = None
    best: float | None = None
    best_split: SplitName | None = None
    problem: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether the run is training or waiting to."""
        return self.state in ("running", "starting") or (self.queue is not None and self.queue.is_active)


def read_row(run: RunPaths, queue: Standing | None, *, now: float | None = None) -> RunRow:
    """Return the row of a run, readable or not.

    `queue` is how its submission stands; `now` (seconds since the epoch) replaces the clock.
    """
    try:
        return _row(read_status(run, now=now), queue, _job_id(run), restarts(run))
    except (UserError, OSError) as error:
        return RunRow(run.root.name, str(run.root), "unreadable", queue, problem=str(error))


def restarts(run: RunPaths) -> int:
    """Return how often a run was started again: by itself, by SLURM or by a person."""
    events, _ = read_events(run.log)
    return max(0, sum(1 for event in events if event["event"] == "run-start") - 1)


def rows_to_json(rows: Iterable[RunRow]) -> str:
    """Return the rows as one JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def no_runs(folder: Path) -> UserError:
    """Return the error for a folder without runs."""
    return UserError(f"{folder}: no runs here; say where they are with --runs DIR")


def _row(status: RunStatus, queue: Standing | None, job_id: str | None, restarts: int) -> RunRow:
    job = status.current
    progress = job.progress if job else None
    return RunRow(
        name=status.path.name,
        path=str(status.path),
        state="starting" if _is_starting(status, queue) else status.state,
        queue=queue,
        job_id=job_id,
        restarts=restarts,
        jobs_done=status.done,
        jobs_total=len(status.jobs),
        round=job.round if job else None,
        job=job.id if job else None,
        step=progress.step if progress else None,
        steps=progress.steps if progress else None,
        seconds_left=status.seconds_left if status.state == "running" else None,
        best=max((each.top1 for each in status.results if each.imported is None), default=None),
        best_split=status.split if status.results else None,
    )


def _is_starting(status: RunStatus, queue: Standing | None) -> bool:
    """Whether SLURM runs the submission and the run has not written anything yet."""
    return status.state in ("stopped", "waiting") and queue is not None and queue.state == "RUNNING"


def _job_id(run: RunPaths) -> str | None:
    submission = load_submission(run)
    return submission.job_id if submission else None
