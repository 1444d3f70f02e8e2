"""`submission.json`: the submissions of a run, to watch, cancel and repeat them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distlth.errors import RunError
from distlth.files import exists, read_json, write_json
from distlth.run.paths import RunPaths, SubmissionPaths

Cluster = Literal["slurm", "local"]


@dataclass(frozen=True)
class Submission:
    """One submission of a run.

    `job_id` is the SLURM job's id, with its task in a job array (`1234_0`); without SLURM it is a process id,
    and `process` is the `process.identity` of it. `time` and `cancelled` are seconds since the epoch,
    `directory` is the working directory of the submission, `folder` holds its logs, `parameters` are
    submitit's, `config` is the resolved job file.
    """

    cluster: Cluster
    job_id: str
    array_task: int | None
    nodes: int
    time: float
    user: str
    host: str
    directory: str
    folder: str
    parameters: Mapping[str, Any]
    config: Mapping[str, Any]
    allowed_changes: Sequence[str] = ()
    process: str | None = None
    cancelled: float | None = None

    @property
    def paths(self) -> SubmissionPaths:
        """The files of the submission."""
        return SubmissionPaths(Path(self.folder))

    def __str__(self) -> str:
        return f"job {self.job_id}" if self.cluster == "slurm" else f"process {self.job_id} on {self.host}"


@dataclass(frozen=True)
class Standing:
    """The state of a submission: SLURM's state and reason, or `ended`, `cancelled`, `unknown`."""

    state: str
    reason: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the submission waits or runs, as far as is known."""
        return self.state not in ("ended", "cancelled", "unknown")

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


def load_submission(run: RunPaths) -> Submission | None:
    """The newest submission of a run; None of one that was not submitted.

    Raises:
        RunError: the file is damaged.
    """
    history = _load(run)
    return history[-1] if history else None


def record_submission(run: RunPaths, submission: Submission) -> None:
    """Add a submission to those of a run; make the run directory if there is none yet."""
    _save(run, [*_load(run), submission])


def record_cancelled(run: RunPaths, seconds: float) -> None:
    """Record that the newest submission was cancelled at `seconds` since the epoch."""
    *earlier, newest = _load(run)
    _save(run, [*earlier, replace(newest, cancelled=seconds)])


def _load(run: RunPaths) -> list[Submission]:
    if not exists(run.submission):
        return []
    try:
        return [Submission(**entry) for entry in read_json(run.submission)["submissions"]]
    except (KeyError, TypeError) as error:
        raise RunError(f"{run.submission}: damaged ({error})") from None


def _save(run: RunPaths, history: Sequence[Submission]) -> None:
    write_json(run.submission, {"submissions": [asdict(entry) for entry in history]})
