"""What a report shows of a run beside its results: settings, training curves, layers, overlaps, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from distlth.plan import Job
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.results import EpochMetrics, JobResult, load_metrics, trained_here
from distlth.run.store import load_record
from distlth.run.tickets import load_structured


@dataclass(frozen=True)
class RunDetails:
    """The details of one run.

    `config` is the job file as YAML, `data` the digest of the data set. `training` has the method and the
    epochs of each finished job, `layers` the kept share of each layer in the tickets of the latest round of
    the run's own seed, by method, and `overlaps` the intersection over union of these tickets' kept weights:
    (method, method) -> fraction. `rank_hours` is the time that ranks have trained, all together.
    """

    name: str
    config: str
    versions: Mapping[str, str]
    data: str
    training: Sequence[tuple[str, Sequence[EpochMetrics]]]
    layers: Mapping[str, Mapping[str, float]]
    overlaps: Mapping[tuple[str, str], float]
    rank_hours: float


def read_details(run: RunPaths, jobs: Sequence[Job], results: Mapping[str, JobResult]) -> RunDetails:
    """Return the details of a run; `results` are those of its `jobs` that are done.

    Raises:
        RunError: a file is damaged.
    """
    record = load_record(run)
    trained = trained_here(results)
    masks = _latest_masks(run, [job for job in jobs if job.id in results and not job.of_seed])
    return RunDetails(
        name=record.config.name,
        config=record.config.to_yaml(),
        versions=record.versions,
        data=str(record.data.get("digest", "")),
        training=[(job.method, load_metrics(run.job(job.id))) for job in jobs if job.id in trained],
        layers={method: mask.layer_density() for method, mask in masks.items()},
        overlaps=_overlaps(masks),
        rank_hours=sum(each.seconds * each.world_size for each in results.values()) / 3600,
    )


def overlap(first: Mask, second: Mask) -> float:
    """Return the intersection over union of two masks' kept weights, 0..1."""
    both = sum(int(torch.count_nonzero(kept & second[name])) for name, kept in first.items())
    return both / max(1, first.kept + second.kept - both)


def _latest_masks(run: RunPaths, done: Sequence[Job]) -> dict[str, Mask]:
    latest = max((job.round for job in done), default=0)
    found = ((job.method, load_structured(run.job(job.id))) for job in done if job.round == latest > 0)
    return {method: made.mask for method, made in found if made is not None}


def _overlaps(masks: Mapping[str, Mask]) -> dict[tuple[str, str], float]:
    return {(a, b): overlap(masks[a], masks[b]) for a in masks for b in masks}
