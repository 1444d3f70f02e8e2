"""The network of a finished job, with all that a file of it should say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distlth.data.dataset import Dataset
from distlth.data.load.loader import eval_ratio
from distlth.errors import RunError
from distlth.files import await_file, load_tensors
from distlth.methods.channels import Channels
from distlth.models import build
from distlth.plan import Job, plan
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_results
from distlth.run.store import RunRecord, load_record
from distlth.run.tickets import load_trained


@dataclass(frozen=True, eq=False)
class Source:
    """A trained ticket: its network with the zeros of its mask, in eval mode on the CPU."""

    run: RunPaths
    record: RunRecord
    job: Job
    result: JobResult
    mask: Mask
    model: nn.Module

    @property
    def resolution(self) -> int:
        """The side of the images that it was evaluated on, in pixels."""
        return self.record.config.data.eval_side

    @property
    def multiple(self) -> int:
        """What the channel counts of its layers are multiples of, as its branch asked for."""
        return self.job.structure.multiple if isinstance(self.job.structure, Channels) else 1

    @property
    def stored_bytes(self) -> int:
        """The size of the file with its trained weights."""
        return _reported_weights(self.run, self.result).stat().st_size

    def about(self) -> dict[str, Any]:
        """Return what a file of the network says beside its weights, as a JSON document."""
        config = self.record.config
        data = Dataset.load_unchanged(config.data.path, self.record.data.get("digest"))
        return {
            "model": {
                "name": config.model.name,
                "stem": config.model.stem,
                "blurpool": config.model.blurpool,
                "num_classes": self.record.data["classes"],
                "classes": list(data.classes) if data else None,
            },
            "preprocessing": {
                "max_side": data.options.get("max_resolution") if data else None,
                "resolution": self.resolution,
                "centre_crop": config.data.eval_ratio or eval_ratio(config.data.crop),
                "channels": "RGB",
                "range": [0, 1],
                "mean": list(data.mean) if data else None,
                "std": list(data.std) if data else None,
            },
            "provenance": {
                "run": config.name,
                "ticket": self.job.id,
                "round": self.job.round,
                "method": self.job.method,
                "density": self.result.density,
                "split": None if self.result.imported else self.result.split,
                "top1": None if self.result.imported else self.result.top1,
                "imported": dict(self.result.imported) if self.result.imported else None,
                "best_epoch": self.result.best_epoch,
                "mask_digest": self.result.mask_digest,
                "weights_digest": self.result.best_digest or self.result.weights_digest,
                "data_digest": self.record.data.get("digest"),
                "versions": dict(self.record.versions),
            },
        }


def load_source(run: RunPaths, job_id: str) -> Source:
    """Return the network of a job that is done, as it was when it was reported: last, or best on val.

    Raises:
        RunError: the folder holds no run, or no such job, or the job is not done, or a file is damaged.
    """
    record = load_record(run)
    jobs = {job.id: job for job in plan(record.config)}
    if job_id not in jobs:
        raise RunError(f"{run.root}: no ticket {job_id!r}; there are {', '.join(jobs)}")
    done = load_results(run, tuple(jobs.values()))
    if job_id not in done:
        finished = ", ".join(done) or "none"
        raise RunError(f"{run.root}: ticket {job_id} is not trained to its end; finished: {finished}")
    job, paths = jobs[job_id], run.job(job_id)
    config = record.config
    asked, classes = config.model, record.data["classes"]
    model = build(asked.name, classes, seed=job.seed, stem=asked.stem, blurpool=asked.blurpool)
    file = _reported_weights(run, done[job_id])
    state, _ = load_tensors(await_file(file))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{file}: not weights of {config.model.name} ({reason})") from None
    return Source(run, record, job, done[job_id], load_trained(paths).mask, model.eval())


def _reported_weights(run: RunPaths, result: JobResult) -> Path:
    """Return the file with the weights that a job's accuracies are of."""
    paths = run.job(result.job)
    return paths.weights if result.best_epoch is None else paths.best
