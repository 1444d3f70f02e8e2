"""Making a job's ticket from what is on disk, and leaving it there: the same files, the same ticket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distlth.config import RunConfig
from distlth.files import await_file, exists, retry_until_written, save_tensors
from distlth.imp import next_mask
from distlth.methods import Map
from distlth.models import build
from distlth.plan import Job
from distlth.preflight import Preflight
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.tickets import load_structured, load_trained, save_structured
from distlth.ticket import Structured


class TicketMaker:
    """Makes the tickets of one run. `waiting` hears of each try that a full disk made fail."""

    def __init__(
        self,
        config: RunConfig,
        found: Preflight,
        run: RunPaths,
        waiting: Callable[[OSError, float], None],
        run_map: Map = map,
    ) -> None:
        self._config, self._found, self._run = config, found, run
        self._waiting, self._run_map = waiting, run_map

    def write_init(self) -> None:
        """Write the weights before the first step, unless they are there."""
        init = self._run.seed(self._config.seed).init
        if exists(init):
            return
        model, classes = self._config.model, self._found.dataset.num_classes
        network = build(model.name, classes, seed=self._config.seed, stem=model.stem)
        retry_until_written(lambda: save_tensors(init, network.state_dict()), self._waiting)

    def mask(self, job: Job) -> tuple[Structured, Mask | None]:
        """Return the job's mask, and its parent's; one that an earlier call left is read from disk.

        Raises:
            RunError: a file of the parent, or of the mask, is missing or damaged.
        """
        parent = load_trained(self._run.job(job.parent)) if job.parent is not None else None
        made = load_structured(self._run.job(job.id))
        if made is None:
            rate = self._config.prune.rate
            made = next_mask(job, parent, rate, self._run_map) if parent else Structured(self._found.dense)
            self._save(job, made)
        return made, parent.mask if parent else None

    def start(self, job: Job) -> Path:
        """Return the file of the weights that a job trains from; RunError where it is missing."""
        if job.start == "trained":
            assert job.parent is not None
            return await_file(self._run.job(job.parent).weights)
        seed = self._run.seed(self._config.seed)
        return await_file(seed.init if job.start == "init" else seed.rewind)

    def _save(self, job: Job, made: Structured) -> None:
        retry_until_written(lambda: save_structured(self._run.job(job.id), made), self._waiting)
