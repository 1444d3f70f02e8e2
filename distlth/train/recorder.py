"""What a job leaves on disk: curves, metrics, progress, checkpoints, weights, result; and its events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from distlth.files import append_json, remove_temporaries, save_tensors
from distlth.plan import Job
from distlth.run.paths import RunPaths
from distlth.run.results import EpochMetrics, JobResult, Progress, save_progress
from distlth.run.tickets import save_measured
from distlth.ticket import Measured
from distlth.train.checkpoint import CheckpointWriter, JobState, newest_state, snapshot
from distlth.train.evaluate import Evaluation
from distlth.train.meter import Means
from distlth.train.newest import NewestWriter

PROGRESS_SECONDS = 2.0


class EventSink(Protocol):
    """Takes what happens, for the run's log."""

    def __call__(self, event: str, **details: Any) -> None:
        """Note that `event` happened now."""


class CurveWriter(Protocol):
    """Draws a job's curves over its steps. Only `flush` and `close` raise OSError."""

    def train(
        self,
        step: int,
        *,
        loss: float,
        lr: float,
        images_per_second: float,
        data_wait: float,
        density: float,
    ) -> None:
        """Add a point to the training curves; `data_wait` and `density` are fractions."""

    def evaluation(self, split: str, step: int, *, loss: float, top1: float, top5: float) -> None:
        """Add a point to the curves of a split, val or test; `top1` and `top5` are fractions."""

    def flush(self) -> None:
        """Put all points so far on disk."""

    def close(self) -> None:
        """Put all points on disk and end."""


class OpenCurves(Protocol):
    """Opens a job's curves once it is known where the job resumes."""

    def __call__(self, *, first_step: int) -> CurveWriter:
        """Return a writer that continues after `first_step` steps; later points of an earlier attempt go."""


class Recorder:
    """Writes the files of one job on the rank that writes; on the other ranks its methods do nothing.

    A full disk ends no job: curves, metrics, progress and checkpoints are tried again with the next ones,
    and what must not be lost is tried until it is written.
    """

    def __init__(
        self,
        run: RunPaths,
        job: Job,
        note: EventSink,
        open_curves: OpenCurves,
        *,
        keep: int,
        is_main: bool,
    ) -> None:
        self._run, self._job, self._note, self._is_main = run, job, note, is_main
        self._open_curves = open_curves
        self._paths = run.job(job.id)
        self._unwritten: list[dict[str, Any]] = []
        self._curves: CurveWriter | None = None
        self._progress: NewestWriter[Progress] = NewestWriter(partial(save_progress, self._paths))
        self._progress_shown = 0.0
        self._checkpoints = CheckpointWriter(run.checkpoints(job.id), keep, self._checkpoint_failed)

    def event(self, event: str, step: int, **details: Any) -> None:
        """Log an event of the job, once for all ranks."""
        if self._is_main:
            self._note(event, job=self._job.id, step=step, **details)

    def newest_state(self, step: int) -> JobState | None:
        """Return the newest whole checkpoint, on every rank; damaged ones are logged and passed over."""
        return newest_state(
            self._run.checkpoints(self._job.id),
            lambda message: self.event("checkpoint-damaged", step, message=message),
        )

    @property
    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint on disk when all are written, for messages."""
        self._checkpoints.wait()
        return self._checkpoints.newest()

    def open(self, step: int, density: float) -> None:
        """Clear what a killed attempt left half-written, and continue the curves after `step` steps."""
        if self._is_main:
            remove_temporaries(self._run.checkpoints(self._job.id))
            remove_temporaries(self._paths.root)
            self._curves = self._open_curves(first_step=step)
        self.event("job-start", step, density=density)

    def untrained(self, step: int, measured: Measured) -> None:
        """Write what was measured before the first step, if anything was."""
        if self._is_main and measured:
            self._insist(lambda: save_measured(self._paths.untrained, measured), step)

    def rewind_point(self, step: int, model: nn.Module) -> None:
        """Write the weights of now, for the tickets to come."""
        if self._is_main:
            weights = snapshot(model.state_dict())
            rewind = self._run.seed(self._job.seed).rewind
            self._insist(lambda: save_tensors(rewind, weights), step)

    def point(self, step: int, means: Means, *, lr: float, density: float) -> None:
        """Add a point to the training curves."""
        if self._curves:
            self._curves.train(
                step,
                loss=means.loss,
                lr=lr,
                images_per_second=means.images_per_second,
                data_wait=means.data_wait,
                density=density,
            )

    def progress(self, progress: Progress, *, now: bool = False) -> None:
        """Report where the job stands, every few seconds."""
        shown_lately = time.perf_counter() - self._progress_shown < PROGRESS_SECONDS
        if not self._is_main or (shown_lately and not now):
            return
        self._progress_shown = time.perf_counter()
        self._progress.put(progress)

    def epoch(self, metrics: EpochMetrics, evaluation: Evaluation | None) -> None:
        """Add an epoch's line to the metrics, and the evaluation on val, where made, to the curves."""
        if not self._is_main:
            return
        scores = {} if evaluation is None else evaluation.scores("val")
        self._unwritten.append({**asdict(metrics), **scores})
        if evaluation is not None:
            self.evaluation("val", metrics.step, evaluation)
        with suppress(OSError):  # the next checkpoint tries again, and says so
            self.write_curves()

    def evaluation(self, split: str, step: int, found: Evaluation) -> None:
        """Add an evaluation to the curves of its split."""
        if self._curves:
            self._curves.evaluation(split, step, loss=found.loss, top1=found.top1, top5=found.top5)

    def write_curves(self) -> None:
        """Put metrics and points so far on disk: a resume from a later checkpoint does not repeat them."""
        while self._unwritten:
            append_json(self._paths.metrics, self._unwritten[0])
            del self._unwritten[0]
        if self._curves:
            self._curves.flush()

    def checkpoint(self, state: JobState) -> None:
        """Write a state in the background, once the curves up to it are on disk."""
        try:
            self.write_curves()
        except OSError as error:
            self._checkpoint_failed(state.step, error)
            return
        self._checkpoints.write(state)

    def weights(self, weights: Mapping[str, Tensor], digest: Callable[[], str], step: int) -> None:
        """Start to write the trained weights, with their `digest`; they count once `finish` is done."""
        if self._is_main:
            path = self._paths.weights
            self._insist(lambda: save_tensors(path, weights, digest=digest()), step)

    def finish(
        self,
        result: JobResult,
        best: Mapping[str, Tensor] | None,
        measured: Measured,
        step: int,
    ) -> None:
        """Write the rest of what a done job leaves, last the result. Checkpoints stay until that is known.

        `best` are the weights of the best epoch on val, where that is reported. The other ranks do not wait
        here: this may take as long as the disk is full.
        """
        if self._is_main:
            self._insist(lambda: self._write_result(result, best, measured), step)
            self._checkpoints.wait()

    def flush(self) -> None:
        """Return when the last checkpoint is written."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Finish what is being written."""
        self._progress.close()
        self.flush()
        if self._curves:
            with suppress(OSError):
                self._curves.close()

    def _write_result(
        self,
        result: JobResult,
        best: Mapping[str, Tensor] | None,
        measured: Measured,
    ) -> None:
        self.write_curves()
        if measured:
            save_measured(self._paths.activations, measured)
        if best is not None:
            save_tensors(self._paths.best, best, digest=result.best_digest)
        result.save(self._paths)

    def _insist(self, write: Callable[[], None], step: int) -> None:
        """Call `write` in the background until it succeeds; log each try that a full disk made fail."""

        def waiting(error: OSError, seconds: float) -> None:
            self.event("waiting-for-disk", step, error=f"{error}; next try in {seconds:g} s")

        self._checkpoints.insist(write, waiting)

    def _checkpoint_failed(self, step: int, error: Exception) -> None:
        self.event("checkpoint-failed", step, error=str(error))
