"""The results of a run as rows: one row a finished job, the same for every table, curve and page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distlth.plan import Job, plan
from distlth.run.paths import RunPaths
from distlth.run.results import Divergence, JobResult, load_divergences, load_results
from distlth.run.store import load_record


@dataclass(frozen=True)
class ResultRow:
    """One finished job.

    `density`, `top1` and `top5` are fractions, `seconds` is wall time. `vs_dense` is `top1` minus that of the
    seed's dense network; None for the dense network itself, and while it is not trained yet. `empty_layers`
    counts the layers that keep no weight: their outputs are constant.
    """

    job: str
    seed: int
    round: int
    method: str
    is_trunk: bool
    density: float
    empty_layers: int
    top1: float
    vs_dense: float | None
    top5: float
    seconds: float
    mask_digest: str
    weights_digest: str


@dataclass(frozen=True)
class Results:
    """The rows of a run, in the order of its results; the others are compared with `dense`."""

    rows: tuple[ResultRow, ...]
    dense: ResultRow | None

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have a result, each once."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def curves(self) -> Mapping[str, tuple[ResultRow, ...]]:
        """The rows of each method, densest first: its curve of accuracy against density."""
        densest_first = sorted(self.rows, key=lambda row: -row.density)
        return {
            method: tuple(row for row in densest_first if row.method == method) for method in self.methods
        }

    @property
    def verdict(self) -> str:
        """Whether tickets win. A run has one seed, and winning is defined over at least three."""
        return "1 seed, no verdict on winning"


def derive_results(jobs: Iterable[Job], results: Iterable[JobResult]) -> Results:
    """Return the rows of `results`, in their order; `jobs` is the plan that they belong to."""
    results, by_id = tuple(results), {job.id: job for job in jobs}
    dense = {by_id[result.job].seed: result for result in results if result.round == 0}
    rows = {
        result.job: _row(by_id[result.job], result, dense.get(by_id[result.job].seed)) for result in results
    }
    return Results(tuple(rows.values()), next((rows[each.job] for each in dense.values()), None))


def read_results(run: RunPaths) -> Results:
    """Return the rows of a run's results so far, in plan order.

    Raises:
        RunError: the folder holds no run, or a damaged file.
    """
    jobs = plan(load_record(run).config)
    return derive_results(jobs, load_results(run, jobs).values())


def read_divergences(run: RunPaths) -> tuple[Divergence, ...]:
    """Return the jobs of a run that diverged, in plan order; they have no row."""
    return tuple(load_divergences(run, plan(load_record(run).config)).values())


def _row(job: Job, result: JobResult, dense: JobResult | None) -> ResultRow:
    return ResultRow(
        job=result.job,
        seed=job.seed,
        round=result.round,
        method=result.method,
        is_trunk=job.is_trunk,
        density=result.density,
        empty_layers=result.empty_layers,
        top1=result.top1,
        vs_dense=None if dense is None or result.round == 0 else result.top1 - dense.top1,
        top5=result.top5,
        seconds=result.seconds,
        mask_digest=result.mask_digest,
        weights_digest=result.weights_digest,
    )
