"""TensorBoard event files: written by a background thread, and the curves of each job over its steps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

from distlth.files import exists
from distlth.run.paths import RunPaths, path_component

# A job that is killed loses at most the points of this many seconds.
FLUSH_SECONDS = 10

LOSS = "train/loss"


class JobBoard:
    """The curves of one job over its steps, written by its rank 0 in the background.

    `first_step` is the number of steps that are done, 0 for a new job. Points beyond it, left by an
    interrupted attempt, are dropped, so that none doubles when those steps are trained again.
    """

    def __init__(self, run: RunPaths, job_id: str, *, first_step: int) -> None:
        self._writer = Writer(job_folder(run, job_id))
        self._writer.forget_from(first_step + 1)

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
        values = {
            LOSS: loss,
            "train/lr": lr,
            "speed/images_per_second": images_per_second,
            "speed/data_wait": data_wait,
            "ticket/density": density,
        }
        self._writer.add(step, scalars(values))

    def evaluation(self, split: str, step: int, *, loss: float, top1: float, top5: float) -> None:
        """Add a point to the curves of a split, val or test; `top1` and `top5` are fractions."""
        values = {"loss": loss, "top1": top1, "top5": top5}
        self._writer.add(step, scalars({f"{split}/{name}": value for name, value in values.items()}))

    def flush(self) -> None:
        """Write all points to disk: before a checkpoint, since a resume from it does not repeat them."""
        self._writer.flush()

    def close(self) -> None:
        """Write all points to disk and end the background thread."""
        self._writer.close()


def read_losses(run: RunPaths, job_id: str) -> dict[int, float]:
    """Return the loss curve of a job, step -> mean loss since the previous point; empty if there is none."""
    folder = job_folder(run, job_id)
    if not exists(folder):
        return {}
    points = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    known = LOSS in points.Tags()["scalars"]
    return {event.step: event.value for event in points.Scalars(LOSS)} if known else {}


def picture_steps(folder: Path, tag: str) -> set[int]:
    """Return the steps at which a folder has a picture."""
    if not exists(folder):
        return set()
    points = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return {event.step for event in points.Images(tag)} if tag in points.Tags()["images"] else set()


class Writer:
    """A new event file in `folder`, filled by a background thread.

    Events that a full disk does not take are kept, and the next `flush` that succeeds writes them into
    another file. Only `flush` and `close` raise OSError.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self._folder, self._suffix = folder, suffix
        self._unflushed: list[Event] = []
        self._file: EventFileWriter | None = None
        with suppress(OSError):
            self._file = self._open()

    def forget_from(self, step: int) -> None:
        """Make readers drop the folder's points from `step` on, whichever file they are in."""
        start = SessionLog(status=SessionLog.START)
        self._add(Event(wall_time=time.time(), step=step, session_log=start))

    def add(self, step: int, values: Iterable[Summary.Value]) -> None:
        """Add the values of several curves at a step."""
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        """Write all that was added to disk; raise OSError if that fails."""
        if self._file is None:
            self._file = self._open()
            events, self._unflushed = self._unflushed, []
            # Some of them may be in the file that failed.
            self.forget_from(min((event.step for event in events), default=0))
            for event in events:
                self._add(event)
        try:
            if self._file is not None:
                self._file.flush()
        except OSError:
            self._file = None
            raise
        self._unflushed.clear()

    def close(self) -> None:
        """Write all that was added to disk and end the background thread; raise OSError if that fails."""
        self.flush()
        if self._file is not None:
            self._file.close()

    def _open(self) -> EventFileWriter:
        return EventFileWriter(str(self._folder), flush_secs=FLUSH_SECONDS, filename_suffix=self._suffix)

    def _add(self, event: Event) -> None:
        self._unflushed.append(event)
        try:
            if self._file is not None:
                self._file.add_event(event)
        except OSError:
            self._file = None


def job_folder(run: RunPaths, job_id: str) -> Path:
    """Return the folder of a job's curves."""
    return run.tensorboard / "jobs" / path_component(job_id)


def scalars(values: Mapping[str, float]) -> Iterable[Summary.Value]:
    """Return one point of each curve, by its tag."""
    return [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
