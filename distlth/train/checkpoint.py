"""Write the state of a job between two steps: whole, with a digest, the newest few kept."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distlth.errors import RunError
from distlth.files import exists, load_tensors, retry_until_written, save_tensors
from distlth.run.paths import checkpoint_files, newest_checkpoint
from distlth.train.evaluate import Evaluation

log = logging.getLogger(__name__)

# How long training may wait for the checkpoint before: less than the other ranks wait in a collective.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Best:
    """The network after the epoch that was best on val so far (`epoch` from 0), and how good it was."""

    epoch: int
    evaluation: Evaluation
    model: Mapping[str, Tensor]


@dataclass(frozen=True)
class JobState:
    """A job after `step` steps: with the same ranks, all that the steps after it depend on.

    Steps count from the schedule's start, which a job with `first_epoch` does not begin at. The schedule's
    and the loader's position follow from `step`, and so does the random state: every step draws from a
    generator seeded by (seed, step, rank). `sums` are each rank's running metric sums, shape (world size, n).
    `best` is None unless the best epoch is reported, and one was evaluated; `penalty` is the state of what a
    method adds to the loss, `sends_kept` whether the gradients of kept weights alone travel between ranks.
    """

    job: str
    step: int
    mask_digest: str
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    scaler: Mapping[str, Any]
    sums: Tensor
    best: Best | None = None
    penalty: Mapping[str, Tensor] = field(default_factory=dict)
    sends_kept: bool = False

    def sums_of(self, rank: int, world_size: int) -> Tensor:
        """Return a rank's running sums, shape (n,). Where the number of ranks changed, rank 0 has all."""
        if len(self.sums) == world_size:
            return self.sums[rank]
        return self.sums.sum(0) if rank == 0 else torch.zeros_like(self.sums[0])

    def save(self, path: Path) -> None:
        """Write the state whole or not at all."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.items()}
        tensors |= {f"penalty/{name}": tensor for name, tensor in self.penalty.items()}
        about = {"job": self.job, "step": self.step, "mask": self.mask_digest, "scaler": dict(self.scaler)}
        about["sends_kept"] = self.sends_kept
        if self.best is not None:
            tensors |= {f"best/{name}": tensor for name, tensor in self.best.model.items()}
            about["best"] = {"epoch": self.best.epoch, "evaluation": asdict(self.best.evaluation)}
        save_tensors(path, {**tensors, "sums": self.sums}, {"state": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> JobState:
        """Read a state; RunError when the file is torn or altered."""
        tensors, metadata = load_tensors(path)
        about = json.loads(metadata["state"])
        return cls(
            job=about["job"],
            step=about["step"],
            mask_digest=about["mask"],
            model=_part(tensors, "model/"),
            optimizer=_part(tensors, "optimizer/") | _part(tensors, "momentum/", "momentum_buffer/"),
            scaler=about["scaler"],
            sums=tensors["sums"],
            best=_best(about.get("best"), _part(tensors, "best/")),
            penalty=_part(tensors, "penalty/"),
            sends_kept=about.get("sends_kept", False),
        )


def _best(about: Mapping[str, Any] | None, model: Mapping[str, Tensor]) -> Best | None:
    return Best(about["epoch"], Evaluation(**about["evaluation"]), model) if about else None


def _part(tensors: Mapping[str, Tensor], prefix: str, instead: str = "") -> dict[str, Tensor]:
    return {instead + name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def newest_state(folder: Path, warn: Callable[[str], None] = log.warning) -> JobState | None:
    """Return the newest whole state in a job's checkpoint folder; warn of a damaged one and pass over it."""
    for path in reversed(checkpoint_files(folder)):
        try:
            return JobState.load(path)
        except RunError as error:
            warn(f"{error}; going back to the checkpoint before it")
    return None


def remove_states(folder: Path) -> None:
    """Remove the checkpoint folder, if there is one, of a job that is done."""
    if exists(folder):
        shutil.rmtree(folder)


class CheckpointWriter:
    """Writes in the background, one thing at a time and in order; of states, it keeps the newest `keep`.

    The rank that writes must not wait for a slow or full disk while the others wait for it in a collective.
    """

    def __init__(
        self, folder: Path, keep: int, failed: Callable[[int, Exception], None] | None = None
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._failed = failed or self._log_failure
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, state: JobState) -> None:
        """Start to write a state, whose tensors must not change any more.

        It is left out, and reported as failed, where what is being written is not on disk in a short while.
        """
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)
            if self._thread.is_alive():
                self._failed(state.step, TimeoutError("what is to be written before it is not on disk yet"))
                return
        self._start(lambda: self._write(state))

    def insist(self, write: Callable[[], None], waiting: Callable[[OSError, float], None]) -> None:
        """Start to call `write` until it succeeds, after what is being written; each failure is `waiting`'s.

        A state that is written later is on disk only after it. Any error but OSError is raised by `wait`.
        """
        self._start(lambda: retry_until_written(write, waiting))

    def wait(self) -> None:
        """Return when nothing is being written; raise what ended an `insist`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _start(self, work: Callable[[], None]) -> None:
        before = self._thread

        def run() -> None:
            if before is not None:
                before.join()
            try:
                work()
            except BaseException as error:  # no thread's end is heard of by itself
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def newest(self) -> Path | None:
        """Return the newest checkpoint on disk, for messages."""
        return newest_checkpoint(self._folder)

    @staticmethod
    def _log_failure(step: int, error: Exception) -> None:
        log.warning("checkpoint at step %d not written: %s", step, error)

    def _write(self, state: JobState) -> None:
        try:
            state.save(self._folder / f"{state.step:09d}.safetensors")
        except Exception as error:
            # A full disk, or whatever else it is, must be heard of and must not end days of training: the
            # last good checkpoint stays, the next is tried.
            self._failed(state.step, error)
            return
        with suppress(OSError):
            for old in checkpoint_files(self._folder)[: -self._keep]:
                old.unlink()


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU that later steps do not change."""
    return {name: torch.empty_like(t, device="cpu").copy_(t.detach()) for name, t in tensors.items()}
