"""What jobs write while they train and when they are done, and how far a run has come by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distlth.files import exists, read_json, read_json_lines, write_json
from distlth.plan import Job, descendants
from distlth.run.paths import JobPaths, RunPaths, newest_checkpoint

SplitName = Literal["val", "test"]

FORMER_NAMES = {"eval_loss": "val_loss", "top1": "val_top1", "top5": "val_top5"}


@dataclass(frozen=True)
class EpochMetrics:
    """One line of `metrics.jsonl`: an epoch of training and the evaluation on val after it, if there was one.

    `step` is the job's step count at the end of the epoch, `loss` the mean training loss, `seconds` wall
    time, `data_wait` the fraction of the training time spent waiting for the loader. `val_top1` and
    `val_top5` are fractions.
    """

    epoch: int
    step: int
    loss: float
    lr: float
    images_per_second: float
    data_wait: float
    seconds: float
    val_loss: float | None = None
    val_top1: float | None = None
    val_top5: float | None = None


@dataclass(frozen=True)
class Progress:
    """The state of a job that trains, at `time` (seconds since the epoch).

    `epoch` of `epochs` counts from 1, `step` of `steps` are done, and `seconds_left` is an estimate of the
    time that the rest of the job takes.
    """

    job: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds_left: float
    time: float


@dataclass(frozen=True)
class JobResult:
    """The result of a job that is done.

    `density` and what is called top-1 and top-5 are fractions, `kept` and `total` count weights of prunable
    layers, `seconds` is wall time, `finished` is seconds since the epoch, digests are hexadecimal. Figures of
    `test` are None where the data set has no such split. They are of the same weights as those of `val`: the
    last epoch's, or those of `best_epoch` (from 1), with digest `best_digest`, where the best epoch on val is
    reported. `weights_digest` is that of the last epoch's in any case.
    `empty_layers` counts the prunable layers that keep no weight. `alive` counts the kept weights whose input
    can be non-zero and whose output is used, `alive_macs` the multiply-accumulates of one image that such
    weights cost, of the dense network's `macs`; `device` is what each rank computed on, `cpu` or the name of
    its GPU. None and empty in results of earlier versions. `imported` says what a file tells of a network
    that was trained elsewhere (docs/import.md); what was not measured here is NaN.
    """

    job: str
    round: int
    method: str
    density: float
    kept: int
    total: int
    val_top1: float
    val_top5: float
    val_loss: float
    train_loss: float
    epochs: int
    steps: int
    seconds: float
    world_size: int
    mask_digest: str
    weights_digest: str
    finished: float
    empty_layers: int = 0
    alive: int | None = None
    macs: int | None = None
    alive_macs: int | None = None
    test_top1: float | None = None
    test_top5: float | None = None
    test_loss: float | None = None
    best_epoch: int | None = None
    best_digest: str | None = None
    device: str = ""
    imported: Mapping[str, Any] | None = None

    @property
    def split(self) -> SplitName:
        """The split that the job is reported on: test where there is one, else val."""
        return "val" if self.test_top1 is None else "test"

    @property
    def top1(self) -> float:
        """The top-1 accuracy on `split`, a fraction."""
        return self.val_top1 if self.test_top1 is None else self.test_top1

    @property
    def top5(self) -> float:
        """The top-5 accuracy on `split`, a fraction."""
        return self.val_top5 if self.test_top5 is None else self.test_top5

    @property
    def alive_density(self) -> float | None:
        """Alive weights over all weights of prunable layers, a fraction."""
        return None if self.alive is None else self.alive / self.total

    @property
    def macs_share(self) -> float | None:
        """Alive multiply-accumulates over the dense network's, a fraction."""
        return self.alive_macs / self.macs if self.alive_macs is not None and self.macs else None

    def save(self, paths: JobPaths) -> None:
        """Mark the job as done. Everything else of the job must be on disk already."""
        known = {key: None if value != value else value for key, value in asdict(self).items()}
        write_json(paths.result, known)

    @classmethod
    def load(cls, paths: JobPaths) -> JobResult | None:
        """Return a job's result; None if the job is not done."""
        if not exists(paths.result):
            return None
        stored = _renamed(read_json(paths.result))
        unknown = {key: math.nan for key in MEASURED if stored.get(key, 0.0) is None}
        return cls(**{**stored, **unknown})


# What is measured on a network that is trained here; of an imported one nobody has measured it.
MEASURED = ("val_top1", "val_top5", "val_loss", "train_loss")


@dataclass(frozen=True)
class Divergence:
    """A job whose loss was not finite; `message` says where, `time` is seconds since the epoch."""

    job: str
    message: str
    time: float

    def save(self, paths: JobPaths) -> None:
        """Record that the job diverged: it is not trained again until its config changes."""
        write_json(paths.diverged, asdict(self))

    @classmethod
    def load(cls, paths: JobPaths) -> Divergence | None:
        """Return a job's divergence; None if it has not diverged."""
        return cls(**read_json(paths.diverged)) if exists(paths.diverged) else None


def load_divergences(run: RunPaths, jobs: Sequence[Job]) -> dict[str, Divergence]:
    """Return the divergences among `jobs`, by job id and in their order."""
    found = {job.id: Divergence.load(run.job(job.id)) for job in jobs}
    return {job_id: divergence for job_id, divergence in found.items() if divergence is not None}


def is_settled(run: RunPaths, jobs: Sequence[Job]) -> bool:
    """Return whether nothing is left to train: each job is done, diverged, or made from one that is."""
    done, diverged = load_results(run, jobs), load_divergences(run, jobs)
    return all(job.id in {*done, *diverged, *descendants(jobs, diverged)} for job in jobs)


def load_results(run: RunPaths, jobs: Sequence[Job]) -> dict[str, JobResult]:
    """Return the results of those of `jobs` that are done, by job id and in their order."""
    found = {job.id: JobResult.load(run.job(job.id)) for job in jobs}
    return {job_id: result for job_id, result in found.items() if result is not None}


def trained_here(results: Mapping[str, JobResult]) -> dict[str, JobResult]:
    """Return the results that were measured in this run, without those of imported networks."""
    return {job_id: result for job_id, result in results.items() if result.imported is None}


def run_progress(run: RunPaths, jobs: Sequence[Job]) -> str:
    """Return in words how far a run has come; they change with every result and every checkpoint."""
    done, diverged = load_results(run, jobs), load_divergences(run, jobs)
    open_jobs = [job.id for job in jobs if job.id not in {*done, *diverged}]
    newest = {job_id: newest_checkpoint(run.checkpoints(job_id)) for job_id in open_jobs}
    steps = [f", job {job_id} from step {int(path.stem)}" for job_id, path in newest.items() if path]
    failed = f", {len(diverged)} diverged" if diverged else ""
    return f"{len(done)} of {len(jobs)} jobs are done{failed}{''.join(steps)}"


def load_progress(paths: JobPaths) -> Progress | None:
    """Return the state of a job that trains; None before its first report."""
    return Progress(**read_json(paths.progress)) if paths.progress.exists() else None


def save_progress(paths: JobPaths, progress: Progress) -> None:
    """Write a job's state in one step, without fsync: nothing depends on it."""
    write_json(paths.progress, asdict(progress), durable=False)


def load_metrics(paths: JobPaths) -> list[EpochMetrics]:
    """Return the metrics of a job's epochs so far; of an epoch that was trained again, the last ones."""
    lines: list[dict[str, Any]] = read_json_lines(paths.metrics)
    by_epoch = {line["epoch"]: EpochMetrics(**_renamed(line)) for line in lines}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _renamed(stored: dict[str, Any]) -> dict[str, Any]:
    """Return values under their names of now: earlier versions knew no test split, and did not say val."""
    return {FORMER_NAMES.get(name, name): value for name, value in stored.items()}
