"""Where two runs first differ: in what was asked, in what they ran on, then in what each job left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from distlth.config.changes import VERSIONS, Change, changes, covers
from distlth.files import load_tensors
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.run.curves import read_losses
from distlth.run.paths import JobPaths, RunPaths
from distlth.run.results import EpochMetrics, JobResult, load_metrics
from distlth.run.store import RunRecord, load_record
from distlth.run.tickets import load_structured

RUN = "run"
WORLD_SIZE = "cluster.workers"

# What equal epochs have in common; the other metrics are speeds.
METRICS = ("step", "loss", "lr", "val_loss", "val_top1", "val_top5")
SCORES = (
    *("val_top1", "val_top5", "val_loss"),
    *("test_top1", "test_top5", "test_loss"),
    "best_epoch",
)

State = Literal["same", "differs", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing of two runs, compared.

    `place` is `run` or a job's id, `what` one of config, settings, data, versions, world size, init, rewind,
    mask, metrics, weights, accuracy. `missing` means that at least one run does not have it. A difference
    `counts` if it is in what was asked or in what came out; one in how the run was executed does not.
    """

    place: str
    what: str
    state: State
    details: tuple[str, ...] = ()
    counts: bool = True


@dataclass(frozen=True)
class Comparison:
    """The findings on two runs, ordered so that a cause stands before its effects."""

    first_run: Path
    second_run: Path
    findings: tuple[Finding, ...]

    @property
    def first_difference(self) -> Finding | None:
        """The first finding that counts and differs; later ones may follow from it."""
        return next((found for found in self.findings if found.counts and found.state == "differs"), None)

    @property
    def jobs_compared(self) -> int:
        """The number of jobs that both runs have finished."""
        return len({found.place for found in self.findings if _is_result(found)})

    @property
    def of_run(self) -> tuple[Finding, ...]:
        """The findings on the runs as wholes."""
        return tuple(found for found in self.findings if found.place == RUN)

    @property
    def of_jobs(self) -> Mapping[str, Mapping[str, Finding]]:
        """The findings on each job, by the job's id and by `what`; all jobs have the same ones."""
        jobs = dict.fromkeys(found.place for found in self.findings if found.place != RUN)
        return {job: {found.what: found for found in self.findings if found.place == job} for job in jobs}

    @property
    def differences(self) -> tuple[Finding, ...]:
        """The findings that differ, whether they count or not."""
        return tuple(found for found in self.findings if found.state == "differs")

    def to_json(self) -> str:
        """Return the comparison as one JSON document."""
        first = self.first_difference
        document = {
            "runs": [str(self.first_run), str(self.second_run)],
            "identical": first is None,
            "jobs_compared": self.jobs_compared,
            "first_difference": None if first is None else asdict(first),
            "findings": [asdict(found) for found in self.findings],
        }
        return json.dumps(document, indent=1)


def _is_result(found: Finding) -> bool:
    return found.what == "weights" and found.state != "missing"


def compare_runs(first: RunPaths, second: RunPaths) -> Comparison:
    """Compare two runs, finished or not, in what both have.

    Raises:
        RunError: one of the folders holds no run, or a damaged file.
    """
    files = load_record(first), load_record(second)
    jobs = [{job.id: job for job in plan(file.config)} for file in files]
    findings = compare_records(*files)
    for job_id in dict.fromkeys([*jobs[0], *jobs[1]]):
        begun = [own[job_id] for own in jobs if job_id in own and own[job_id].round == 0]
        seeds = [run.seed(job.seed) for run, job in zip((first, second), begun, strict=False)]
        if len(seeds) == 2:
            findings.append(_compare_files(_of_seed("init", job_id), seeds[0].init, seeds[1].init))
        findings += _compare_job(first, second, job_id)
        if len(seeds) == 2:
            findings.append(_compare_files(_of_seed("rewind", job_id), seeds[0].rewind, seeds[1].rewind))
    return Comparison(first.root, second.root, tuple(findings))


def _of_seed(what: str, first_job: str) -> str:
    """Return `init` of the run's own seed, `init seed2` of another."""
    return f"{what} {first_job.rpartition('/')[0]}".strip()


def compare_records(first: RunRecord, second: RunRecord) -> list[Finding]:
    """Compare what was asked of two runs, the data they ran on, and what they were executed with."""
    found = changes(first.flatten(), second.flatten())
    data = [change for change in found if covers(("data.digest", "data.classes"), change.key)]
    versions = [change for change in found if covers((VERSIONS,), change.key)]
    ranks = [change for change in found if change.key == WORLD_SIZE]
    asked = [change for change in found if change not in (*data, *versions, *ranks)]
    return [
        _of_changes("config", [c for c in asked if _is_of_the_jobs(c)]),
        _of_changes("settings", [c for c in asked if not _is_of_the_jobs(c)], counts=False),
        _of_changes("data", data),
        _of_changes("versions", versions, counts=False),
        _of_changes("world size", ranks, counts=False),
    ]


def _is_of_the_jobs(change: Change) -> bool:
    """Whether other jobs were asked for, or jobs with other results."""
    return change.kind in ("guarded", "fixed") or change.adds_jobs


def _of_changes(what: str, found: Sequence[Change], *, counts: bool = True) -> Finding:
    details = tuple(f"{change.key}: {_values(change.old, change.new)}" for change in found)
    return _finding(RUN, what, details, counts=counts)


def _finding(place: str, what: str, details: Iterable[str], *, counts: bool = True) -> Finding:
    lines = tuple(details)
    return Finding(place, what, "differs" if lines else "same", lines, counts)


def _missing(place: str, what: str, first: object, second: object) -> Finding:
    where = (
        "in neither" if first is None and second is None else f"only in the {'first' if first else 'second'}"
    )
    return Finding(place, what, "missing", (where,))


def _compare_files(what: str, first: Path, second: Path) -> Finding:
    if not (first.exists() and second.exists()):
        return _missing(RUN, what, first.exists() or None, second.exists() or None)
    return _finding(RUN, what, tensor_differences(load_tensors(first)[0], load_tensors(second)[0]))


def _compare_job(first: RunPaths, second: RunPaths, job_id: str) -> Iterator[Finding]:
    paths = first.job(job_id), second.job(job_id)
    yield _compare_masks(job_id, _mask(paths[0]), _mask(paths[1]))
    metrics = _compare_metrics(job_id, load_metrics(paths[0]), load_metrics(paths[1]))
    if metrics.state == "differs":
        steps = step_difference(read_losses(first, job_id), read_losses(second, job_id))
        metrics = replace(metrics, details=(*metrics.details, *steps))
    yield metrics
    results = [JobResult.load(path) for path in paths]
    if results[0] is None or results[1] is None:
        yield _missing(job_id, "weights", *results)
        yield _missing(job_id, "accuracy", *results)
        return
    found = tensor_differences(*(load_tensors(path.weights)[0] for path in paths))
    if all(result.best_epoch is not None for result in results if result):
        best = tensor_differences(*(load_tensors(path.best)[0] for path in paths))
        found += [f"best epoch's {line}" for line in best]
    yield _finding(job_id, "weights", found)
    yield _finding(job_id, "accuracy", _field_differences(SCORES, results[0], results[1]))


def _mask(paths: JobPaths) -> Mask | None:
    structured = load_structured(paths)
    return structured.mask if structured else None


def _compare_masks(job_id: str, first: Mask | None, second: Mask | None) -> Finding:
    if first is None or second is None:
        return _missing(job_id, "mask", first and "mask", second and "mask")
    return _finding(job_id, "mask", first.differences(second))


def _compare_metrics(job_id: str, first: Sequence[EpochMetrics], second: Sequence[EpochMetrics]) -> Finding:
    if not first or not second:
        return _missing(job_id, "metrics", first or None, second or None)
    return _finding(job_id, "metrics", metric_differences(first, second))


def metric_differences(first: Sequence[EpochMetrics], second: Sequence[EpochMetrics]) -> list[str]:
    """Return a line on the first epoch that both have and whose metrics differ, or no line."""
    others = {line.epoch: line for line in second}
    for line in first:
        other = others.get(line.epoch)
        if other and (details := _field_differences(METRICS, line, other)):
            return [f"epoch {line.epoch + 1} (up to step {line.step}): {'; '.join(details)}"]
    return []


def step_difference(first: Mapping[int, float], second: Mapping[int, float]) -> list[str]:
    """Return a line on the steps in which two loss curves (step -> loss) first differ, or no line."""
    before = 0
    for step in sorted(first.keys() & second.keys()):
        if not _equal(first[step], second[step]):
            return [f"the loss first differs in steps {before + 1} to {step}"]
        before = step
    return []


def tensor_differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each tensor that only one side has or whose bits differ, in their order."""
    lines = [f"{name}: only in the first" for name in first if name not in second]
    lines += [f"{name}: only in the second" for name in second if name not in first]
    shared = [name for name in first if name in second]
    return lines + [line for name in shared for line in _tensor_difference(name, first[name], second[name])]


def _tensor_difference(name: str, first: Tensor, second: Tensor) -> list[str]:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return [f"{name}: {_layout(first)} | {_layout(second)}"]
    differ = (_bytes(first) != _bytes(second)).reshape(first.numel(), -1).any(1)
    if not differ.any():
        return []
    apart = (first.double() - second.double()).abs().max().item()
    return [f"{name}: {int(differ.sum()):,} of {first.numel():,} values, by up to {apart:.3g}"]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _layout(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _field_differences(names: Iterable[str], first: Any, second: Any) -> list[str]:
    pairs = ((name, getattr(first, name), getattr(second, name)) for name in names)
    return [f"{name} {_values(old, new)}" for name, old, new in pairs if not _equal(old, new)]


def _equal(first: Any, second: Any) -> bool:
    """Whether two values are equal or both not a number."""
    return bool(first == second or (first != first and second != second))


def _values(first: Any, second: Any) -> str:
    return f"{first!r} | {second!r}"
