"""What a job leaves: its metrics, its progress while it runs, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distlth.files import read_json, read_json_lines, write_json
from distlth.run.paths import JobPaths


@dataclass(frozen=True)
class EpochMetrics:
    """One line of `metrics.jsonl`: an epoch of training and, where made, the evaluation after it.

    `top1` and `top5` are fractions, `seconds` wall time, `data_wait` the share of the training
    time spent waiting for the loader (0..1), `step` the job's step count at the epoch's end.
    """

    epoch: int
    step: int
    loss: float
    lr: float
    images_per_second: float
    data_wait: float
    seconds: float
    eval_loss: float | None = None
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True)
class Progress:
    """Where a job stands; `time` is seconds since the epoch, `seconds_left` an estimate for the job."""

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
    """The end of a job. Densities and accuracies are fractions; digests are hex.

    `empty_layers` is the number of prunable layers that keep no weight.
    """

    job: str
    round: int
    method: str
    density: float
    kept: int
    total: int
    top1: float
    top5: float
    eval_loss: float
    train_loss: float
    epochs: int
    steps: int
    seconds: float
    world_size: int
    mask_digest: str
    weights_digest: str
    finished: float
    empty_layers: int = 0

    def save(self, paths: JobPaths) -> None:
        """Mark the job as done. Everything else of the job must be on disk before."""
        write_json(paths.result, asdict(self))

    @classmethod
    def load(cls, paths: JobPaths) -> JobResult | None:
        """The result of a job that is done, None of one that is not."""
        return cls(**read_json(paths.result)) if paths.result.exists() else None


def load_progress(paths: JobPaths) -> Progress | None:
    """Where a running job stands, None before its first report."""
    return Progress(**read_json(paths.progress)) if paths.progress.exists() else None


def save_progress(paths: JobPaths, progress: Progress) -> None:
    """Report where a job stands: seen whole by readers, not worth an fsync."""
    write_json(paths.progress, asdict(progress), durable=False)


def load_metrics(paths: JobPaths) -> list[EpochMetrics]:
    """The epochs of a job so far. Of an epoch that was trained again after an interruption, the last."""
    lines: list[dict[str, Any]] = read_json_lines(paths.metrics)
    by_epoch = {line["epoch"]: EpochMetrics(**line) for line in lines}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
