"""What a report shows of a run beside its results: settings, training curves, layers, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distlth.config.changes import Change
from distlth.facts.cost import Cost, costs
from distlth.facts.overlaps import KeptMask, kept_masks
from distlth.plan import Job
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.results import EpochMetrics, JobResult, load_metrics
from distlth.run.store import load_record
from distlth.run.tickets import load_structured


@dataclass(frozen=True)
class RunDetails:
    """The details of one run.

    `config` is the job file as YAML, `data` the digest of the data set. `training` has the method and the
    epochs of each finished job, `layers` the kept share of each layer in the tickets of the latest round of
    the run's own seed, by method. `changes` are those that a resume was allowed, `masks` where the finished
    tickets' masks are.
    """

    name: str
    config: str
    versions: Mapping[str, str]
    data: str
    training: Sequence[tuple[str, Sequence[EpochMetrics]]]
    layers: Mapping[str, Mapping[str, float]]
    costs: Sequence[Cost]
    changes: Sequence[str]
    masks: Sequence[KeptMask]


def read_details(run: RunPaths, jobs: Sequence[Job], results: Mapping[str, JobResult]) -> RunDetails:
    """Return the details of a run; `results` are those of its `jobs` that are done.

    Raises:
        RunError: a file is damaged.
    """
    record = load_record(run)
    done = [job for job in jobs if job.id in results]
    trained = [job for job in done if results[job.id].imported is None]
    training = [(job.method, load_metrics(run.job(job.id))) for job in trained]
    finished = [
        (job.method, results[job.id], epochs) for job, (_, epochs) in zip(trained, training, strict=True)
    ]
    masks = _latest_masks(run, [job for job in done if not job.of_seed])
    return RunDetails(
        name=record.config.name,
        config=record.config.to_yaml(),
        versions=record.versions,
        data=str(record.data.get("digest", "")),
        training=training,
        layers={method: mask.layer_density() for method, mask in masks.items()},
        costs=costs(record.config, finished),
        changes=[str(Change(**change)) for entry in record.history for change in entry["changes"]],
        masks=kept_masks(run, done),
    )


def _latest_masks(run: RunPaths, done: Sequence[Job]) -> dict[str, Mask]:
    latest = max((job.round for job in done), default=0)
    found = ((job.method, load_structured(run.job(job.id))) for job in done if job.round == latest > 0)
    return {method: made.mask for method, made in found if made is not None}
