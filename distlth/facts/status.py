"""Where a run stands, told by its directory alone: at any time, from anywhere that sees the files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.errors import RunError
from distlth.plan import Job, plan
from distlth.run.events import read_events as read_events
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, Progress, load_progress
from distlth.run.store import load_record
from distlth.run.submission import load_submission

# A trainer reports every few seconds; what is older than this was left by a run that is not there any more.
FRESH_SECONDS = 60.0
LOG_TAIL_BYTES = 64 * 1024

# Events after which a run does not go on by itself.
ENDINGS = ("failed", "stopped", "lost")

T = TypeVar("T")

RunState = Literal["done", "running", "stopped", "failed", "waiting"]
JobState = Literal["done", "running", "stopped", "waiting"]


@dataclass(frozen=True)
class JobStatus:
    """One job of the plan: done, running now, stopped on its way, or waiting for its turn."""

    id: str
    round: int
    method: str
    density: float  # of the result where there is one, else as planned
    state: JobState
    progress: Progress | None
    result: JobResult | None


@dataclass(frozen=True)
class RunStatus:
    """A run at `time` (seconds since the epoch). `seconds_left` is None where nothing is known yet."""

    name: str
    path: Path
    state: RunState
    jobs: tuple[JobStatus, ...]
    seconds_left: float | None
    last_event: Mapping[str, Any] | None
    time: float

    @property
    def done(self) -> int:
        """The number of jobs that are done."""
        return len(self.results)

    @property
    def running(self) -> tuple[JobStatus, ...]:
        """The jobs that train now."""
        return tuple(job for job in self.jobs if job.state == "running")

    @property
    def results(self) -> tuple[JobResult, ...]:
        """The results so far, in plan order."""
        return tuple(job.result for job in self.jobs if job.result is not None)

    def to_json(self) -> str:
        """The status as one JSON document; numbers that are not finite become null."""
        document = {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "jobs_done": self.done,
            "jobs_total": len(self.jobs),
            "seconds_left": self.seconds_left,
            "time": self.time,
            "last_event": self.last_event,
            "jobs": [asdict(job) for job in self.jobs],
        }
        return json.dumps(_finite(document), indent=1)


def read_status(run: RunPaths, *, now: float | None = None) -> RunStatus:
    """Read a run directory, whatever state it is in; `now` replaces the clock.

    A run that was submitted and never started is `waiting`. A file that is half-written counts as one that
    is not there yet.

    Raises:
        RunError: the folder is missing, or holds no run.
    """
    now = time.time() if now is None else now
    config = _config(run)
    last_event = _last_event(run.log)
    ended = last_event is not None and last_event["event"] in ENDINGS
    jobs = tuple(_job_status(run, config, job, now, ended) for job in plan(config))
    return RunStatus(
        name=config.name,
        path=run.root,
        state=_run_state(jobs, last_event, now) if run.job_file.exists() else "waiting",
        jobs=jobs,
        seconds_left=_seconds_left(config, jobs),
        last_event=last_event,
        time=now,
    )


def _config(run: RunPaths) -> RunConfig:
    submission = None if run.job_file.exists() else load_submission(run)
    if submission is None:
        return load_record(run).config
    return parse_config(submission.config, source=str(run.submission))


def _job_status(run: RunPaths, config: RunConfig, job: Job, now: float, ended: bool) -> JobStatus:
    paths = run.job(job.id)
    result = _tolerant(lambda: JobResult.load(paths))
    progress = None if result else _tolerant(lambda: load_progress(paths))
    return JobStatus(
        id=job.id,
        round=job.round,
        method=job.method,
        density=result.density if result else (1 - config.prune.rate) ** job.round,
        state=_job_state(result, progress, now, ended),
        progress=progress,
        result=result,
    )


def _tolerant(read: Callable[[], T | None]) -> T | None:
    try:
        return read()
    except (RunError, OSError, TypeError, UnicodeDecodeError):
        return None


def _job_state(result: JobResult | None, progress: Progress | None, now: float, ended: bool) -> JobState:
    if result is not None:
        return "done"
    if progress is None:
        return "waiting"
    return "running" if not ended and now - progress.time < FRESH_SECONDS else "stopped"


def _run_state(jobs: Sequence[JobStatus], last_event: Mapping[str, Any] | None, now: float) -> RunState:
    if all(job.state == "done" for job in jobs):
        return "done"
    if last_event is not None and last_event["event"] == "failed":
        return "failed"
    if last_event is not None and last_event["event"] in ENDINGS:
        return "stopped"
    if any(job.state == "running" for job in jobs):
        return "running"
    # Between two jobs, and while a lane starts, the log is what is fresh.
    fresh = last_event is not None and now - last_event["time"] < FRESH_SECONDS
    return "running" if fresh else "stopped"


def _last_event(log: Path) -> Mapping[str, Any] | None:
    try:
        start = max(0, log.stat().st_size - LOG_TAIL_BYTES)
    except FileNotFoundError:
        return None
    events, _ = read_events(log, start)
    return events[-1] if events else None


def _seconds_left(config: RunConfig, jobs: Sequence[JobStatus]) -> float | None:
    """What is left, by the epochs that each job trains: the lanes' share of it, or the longest chain."""
    epochs = {job.id: config.train.epochs - job.first_epoch for job in plan(config)}
    pace = _seconds_per_epoch(jobs, epochs)
    if pace is None:
        return None
    left = {job.id: _job_seconds_left(job, pace * epochs[job.id]) for job in jobs}
    chain = sum(seconds for job_id, seconds in left.items() if "/" not in job_id)
    last_round = max(job.round for job in jobs)
    last_branch = max(
        (left[job.id] for job in jobs if "/" in job.id and job.round == last_round), default=0.0
    )
    return max(sum(left.values()) / config.cluster.lanes, chain + last_branch)


def _job_seconds_left(job: JobStatus, whole: float) -> float:
    if job.state == "done":
        return 0.0
    if job.progress is None:
        return whole
    if job.state == "running" and math.isfinite(job.progress.seconds_left):
        return job.progress.seconds_left
    return whole * (1 - job.progress.step / max(job.progress.steps, 1))


def _seconds_per_epoch(jobs: Sequence[JobStatus], epochs: Mapping[str, int]) -> float | None:
    finished = [(job.result.seconds, epochs[job.id]) for job in jobs if job.result is not None]
    if finished:
        return sum(seconds for seconds, _ in finished) / sum(number for _, number in finished)
    for job in jobs:
        progress = job.progress
        if progress and progress.step < progress.steps and math.isfinite(progress.seconds_left):
            whole = progress.seconds_left * progress.steps / (progress.steps - progress.step)
            return whole / epochs[job.id]
    return None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
