"""Where a run stands, read from its directory alone: at any time, on any machine that sees the files."""

from __future__ import annotations

import functools
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
from distlth.files import exists, file_system_time
from distlth.plan import Job, descendants, plan
from distlth.run.events import read_events
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, Progress, SplitName, load_divergences, load_progress
from distlth.run.store import load_record
from distlth.run.submission import load_submission

# A trainer reports its progress every few seconds; an older report was left by a process that is gone.
FRESH_SECONDS = 60.0
LOG_TAIL_BYTES = 64 * 1024

# Events after which a run does not continue by itself.
ENDINGS = ("failed", "stopped", "lost", "imported")

# The states of jobs that nothing is left to train of.
CLOSED = ("done", "diverged", "left out")

T = TypeVar("T")

RunState = Literal["done", "running", "stopped", "failed", "waiting"]
JobState = Literal["done", "running", "stopped", "waiting", "diverged", "left out"]


@dataclass(frozen=True)
class JobStatus:
    """One job of the plan: done, running, stopped before its end, or waiting for its turn.

    One that diverged has no result, and jobs that would be made from it are left out.
    `density` is a fraction: that of the result where there is one, else the planned one.
    """

    id: str
    seed: int
    round: int
    method: str
    density: float
    state: JobState
    progress: Progress | None
    result: JobResult | None

    @property
    def share_done(self) -> float:
        """The share of the job's steps that are done, 0..1."""
        if self.state == "done":
            return 1.0
        return self.progress.step / max(self.progress.steps, 1) if self.progress else 0.0


@dataclass(frozen=True)
class RunStatus:
    """A run at `time` (seconds since the epoch). `seconds_left` is None while nothing can be estimated."""

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
        """The jobs that are training now."""
        return tuple(job for job in self.jobs if job.state == "running")

    @property
    def current(self) -> JobStatus | None:
        """The job that is training, else the one that stopped before its end, else the last that is done."""
        for state in ("running", "stopped"):
            for job in self.jobs:
                if job.state == state:
                    return job
        return next((job for job in reversed(self.jobs) if job.state == "done"), None)

    @property
    def split(self) -> SplitName:
        """The split that results are reported on, as far as they show it."""
        return "test" if any(result.split == "test" for result in self.results) else "val"

    @property
    def results(self) -> tuple[JobResult, ...]:
        """The results so far, in plan order."""
        return tuple(job.result for job in self.jobs if job.result is not None)

    def to_json(self) -> str:
        """Return the status as one JSON document; numbers that are not finite become null."""
        document = {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "jobs_done": self.done,
            "jobs_total": len(self.jobs),
            "split": self.split,
            "seconds_left": self.seconds_left,
            "time": self.time,
            "last_event": self.last_event,
            "jobs": [asdict(job) for job in self.jobs],
        }
        return json.dumps(_finite(document), indent=1)


def read_status(run: RunPaths, *, now: float | None = None) -> RunStatus:
    """Return where a run stands, whatever state its directory is in.

    A run that was submitted and never started is `waiting`. A half-written file counts as absent. The age of
    a report is that of its file, since the clocks of the machines that write and read it may differ; `now`
    replaces the clock of the file system.

    Raises:
        RunError: the folder is missing, or holds no run.
    """
    clock = functools.cache(lambda: _file_time(run.root) if now is None else now)
    log_age = functools.partial(_age, run.log, clock)
    config = _config(run)
    last_event = _last_event(run.log)
    ended = last_event is not None and last_event["event"] in ENDINGS
    planned = plan(config)
    diverged = _tolerant(lambda: load_divergences(run, planned)) or {}
    closed: dict[str, JobState] = {
        **dict.fromkeys(descendants(planned, diverged), "left out"),
        **dict.fromkeys(diverged, "diverged"),
    }
    jobs = tuple(_job_status(run, job, clock, ended, closed.get(job.id)) for job in planned)
    return RunStatus(
        name=config.name,
        path=run.root,
        state=_run_state(planned, jobs, last_event, log_age) if exists(run.job_file) else "waiting",
        jobs=jobs,
        seconds_left=_seconds_left(config, planned, jobs),
        last_event=last_event,
        time=time.time() if now is None else now,
    )


def _config(run: RunPaths) -> RunConfig:
    submission = None if exists(run.job_file) else load_submission(run)
    if submission is None:
        return load_record(run).config
    return parse_config(submission.config, source=str(run.submission))


def _file_time(folder: Path) -> float:
    try:
        return file_system_time(folder)
    except OSError:  # somebody who may only read
        return time.time()


def _age(path: Path, clock: Callable[[], float]) -> float:
    """Return the seconds since a file was written; infinite where there is none."""
    try:
        return clock() - path.stat().st_mtime
    except OSError:
        return math.inf


def _job_status(
    run: RunPaths, job: Job, clock: Callable[[], float], ended: bool, closed: JobState | None
) -> JobStatus:
    paths = run.job(job.id)
    result = _tolerant(lambda: JobResult.load(paths))
    progress = None if result else _tolerant(lambda: load_progress(paths))
    return JobStatus(
        id=job.id,
        seed=job.seed,
        round=job.round,
        method=job.method,
        density=result.density if result else job.density,
        state=closed or _job_state(result, progress, lambda: _age(paths.progress, clock), ended),
        progress=progress,
        result=result,
    )


def _tolerant(read: Callable[[], T | None]) -> T | None:
    try:
        return read()
    except (RunError, OSError, TypeError, UnicodeDecodeError):
        return None


def _job_state(
    result: JobResult | None, progress: Progress | None, age: Callable[[], float], ended: bool
) -> JobState:
    if result is not None:
        return "done"
    if progress is None:
        return "waiting"
    return "running" if not ended and age() < FRESH_SECONDS else "stopped"


def _run_state(
    planned: Sequence[Job],
    jobs: Sequence[JobStatus],
    last_event: Mapping[str, Any] | None,
    log_age: Callable[[], float],
) -> RunState:
    if all(job.state in CLOSED for job in jobs):
        # A branch may diverge; a round that has, or what is left out, leaves the experiment incomplete.
        trunk = {job.id for job in planned if job.is_trunk}
        broken = any(job.state == "left out" or (job.state == "diverged" and job.id in trunk) for job in jobs)
        return "failed" if broken else "done"
    if last_event is not None and last_event["event"] == "failed":
        return "failed"
    if last_event is not None and last_event["event"] in ENDINGS:
        return "stopped"
    if any(job.state == "running" for job in jobs):
        return "running"
    # Between two jobs, and while a lane starts, the log is what is fresh.
    fresh = last_event is not None and log_age() < FRESH_SECONDS
    return "running" if fresh else "stopped"


def _last_event(log: Path) -> Mapping[str, Any] | None:
    try:
        start = max(0, log.stat().st_size - LOG_TAIL_BYTES)
    except FileNotFoundError:
        return None
    events, _ = read_events(log, start)
    return events[-1] if events else None


def _seconds_left(config: RunConfig, planned: Sequence[Job], jobs: Sequence[JobStatus]) -> float | None:
    """Estimate the rest of a run: the lanes' share of all jobs, or the longest chain where that is more."""
    epochs = {job.id: config.train.epochs - job.first_epoch for job in planned}
    pace = _seconds_per_epoch(jobs, epochs)
    if pace is None:
        return None
    left = {job.id: _job_seconds_left(job, pace * epochs[job.id]) for job in jobs}
    return max(sum(left.values()) / config.cluster.lanes, _longest_chain(planned, left))


def _longest_chain(planned: Sequence[Job], seconds: Mapping[str, float]) -> float:
    """The seconds of the jobs, each made from the one before, that take longest together."""
    chains: dict[str, float] = {}
    for job in planned:  # parents come first
        chains[job.id] = seconds[job.id] + (chains[job.parent] if job.parent is not None else 0.0)
    return max(chains.values())


def _job_seconds_left(job: JobStatus, whole: float) -> float:
    if job.state in CLOSED:
        return 0.0
    if job.progress is None:
        return whole
    if job.state == "running" and math.isfinite(job.progress.seconds_left):
        return job.progress.seconds_left
    return whole * (1 - job.share_done)


def _seconds_per_epoch(jobs: Sequence[JobStatus], epochs: Mapping[str, int]) -> float | None:
    trained = [job for job in jobs if job.result is not None and job.result.imported is None]
    finished = [(job.result.seconds, epochs[job.id]) for job in trained if job.result is not None]
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
