"""Making a job's ticket from what is on disk, and leaving it there: the same files, the same ticket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

from torch import Tensor

from distlth.config import RunConfig
from distlth.errors import RunError
from distlth.files import await_file, exists, load_tensors, retry_until_written, save_tensors
from distlth.imp import magnitude_mask, next_mask, rewind_refilled
from distlth.methods import Map
from distlth.models import build, returning
from distlth.models.alive import count_alive
from distlth.models.heads import heads
from distlth.models.streams import streams
from distlth.plan import Job
from distlth.preflight import Preflight
from distlth.prune.mask import Mask, empty_layers, weight_name
from distlth.run.paths import RunPaths
from distlth.run.tickets import load_structured, load_trained, save_structured
from distlth.ticket import Structured, Trained
from distlth.transfer import take_over

# Sets the seed of a second initialisation apart from those that people choose for runs.
REINIT = 2**31


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
        self._loaded: tuple[str, Trained] | None = None
        self._loading = Lock()

    def write_init(self) -> None:
        """Write each seed's weights before the first step, unless they are there, and those of `reinit`.

        In a run that takes its masks over from another, write these and their early weights, too.
        """
        again = any(branch.weights == "reinit" for branch in self._config.prune.branches)
        for seed in self._config.all_seeds:
            self._write_weights(self._run.seed(seed).init, seed)
            if again:
                self._write_weights(self._run.seed(seed).reinit, seed ^ REINIT)
        logits = self._found.anatomy.graph.logits
        retry_until_written(lambda: take_over(self._config, self._run, logits), self._waiting)

    def _write_weights(self, path: Path, seed: int) -> None:
        """Write a network as a seed initialises it, unless the file is there."""
        if exists(path):
            return
        model, classes = self._config.model, self._found.dataset.num_classes
        network = build(model.name, classes, seed=seed, stem=model.stem, blurpool=model.blurpool)
        retry_until_written(lambda: save_tensors(path, network.state_dict()), self._waiting)

    def mask(self, job: Job) -> tuple[Structured, Mask | None]:
        """Return the job's mask, and its parent's; one that an earlier call left is read from disk.

        Raises:
            RunError: a file of the parent, or of the mask, is missing or damaged.
        """
        parent = self._parent(job)
        made = load_structured(self._run.job(job.id))
        if made is None and job.given:
            raise RunError(
                f"{self._run.job(job.id).mask}: missing; it came from outside of the run, put it back"
            )
        if made is None:
            rate = self._config.prune.rate
            made = self._next(job, parent, rate) if parent else Structured(self._found.dense)
            self._save(job, made)
        return made, parent.mask if parent else None

    def _next(self, job: Job, parent: Trained, rate: float) -> Structured:
        graph, layers = self._found.anatomy.graph, parent.mask.names
        units = heads(graph, layers) if job.structure is not None else {}
        needs = job.structure is not None and job.structure.needs_streams
        found = streams(graph, layers - units.keys()) if needs else ()
        return next_mask(job, parent, rate, self._run_map, partial(count_alive, graph), found, units)

    def weights(self, job: Job) -> dict[str, Tensor]:
        """Return the whole state dict that a job trains from; its mask must have been made.

        Raises:
            RunError: a file that it is made from is missing or damaged.
        """
        weights, _ = load_tensors(self._start(job))
        if job.start != "trained" or job.structure is None:
            return weights
        rewound, _ = load_tensors(await_file(self._run.seed(job.seed).rewind))
        made, parent = load_structured(self._run.job(job.id)), self._parent(job)
        assert made is not None
        assert parent is not None
        before = magnitude_mask(job, parent, self._config.prune.rate)
        found = returning(self._found.anatomy.graph, before.layers, made.mask.layers)
        return rewind_refilled(weights, rewound, before=before, after=made.mask, returning=found)

    def _start(self, job: Job) -> Path:
        if job.start == "trained":
            assert job.start_job is not None
            return await_file(self._run.job(job.start_job).weights)
        seed = self._run.seed(job.seed)
        return await_file({"init": seed.init, "rewind": seed.rewind, "reinit": seed.reinit}[job.start])

    def _parent(self, job: Job) -> Trained | None:
        """Return what the job's mask is made from."""
        if job.parent is None:
            return None
        trained = self._trained(job.parent)
        if job.structure is None or job.structure.made_from != "untrained":
            return trained
        initial, _ = load_tensors(await_file(self._run.seed(job.seed).init))
        return replace(trained, weights={layer: initial[weight_name(layer)] for layer in trained.mask})

    def _trained(self, job_id: str) -> Trained:
        """Return what a job has left, read once for all tickets of a round, which several threads make."""
        with self._loading:
            if self._loaded is None or self._loaded[0] != job_id:
                self._loaded = job_id, load_trained(self._run.job(job_id))
            return self._loaded[1]

    def _save(self, job: Job, made: Structured) -> None:
        retry_until_written(lambda: save_structured(self._run.job(job.id), made), self._waiting)


def remarks(made: Structured, before: Mask | None) -> Iterator[dict[str, str]]:
    """Iterate over what a run's log should say about a mask: an event and its details each.

    `before` is the parent's mask: a layer that had no weight there is no news.
    """
    for event, message in made.costs.items():
        yield {"event": event, "message": message}
    for layer, reason in made.ungrouped.items():
        yield {"event": "ungrouped", "layer": layer, "reason": reason}
    for layer in empty_layers(made.mask, before):
        yield {"event": "emptied", "layer": layer, "message": "it keeps no weight from here on"}
