"""The results of a run as rows: one row a finished job, the same for every table, curve and page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from distlth.config.changes import DEVICE, VERSIONS, changes, covers
from distlth.errors import RunError
from distlth.facts.points import Point, Spread, point
from distlth.plan import Job, plan
from distlth.run.paths import RunPaths
from distlth.run.results import Divergence, JobResult, SplitName, load_divergences, load_results
from distlth.run.store import load_record

# Winning is defined over this many seeds or more.
SEEDS_FOR_A_VERDICT = 3


@dataclass(frozen=True)
class ResultRow:
    """One finished job.

    `density`, `alive_density`, `macs_share`, `top1` and `top5` are fractions, `seconds` is wall time. `top1`
    and `top5` are of the `split` that the job is reported on: test where there is one, else val; `val_top1`
    is of val in any case. They are of the last epoch, or of `best_epoch` where the best on val is reported.
    Weights
    are alive if their input can be non-zero and their output is used; `macs_share` is the share of the dense
    network's multiply-accumulates that alive weights cost; both are None of a job that recorded neither.
    `vs_dense` is `top1` minus that of the seed's dense network; None for the dense network itself, and while
    it is not trained yet. `empty_layers` counts the layers that keep no weight: their outputs are constant.
    """

    job: str
    seed: int
    round: int
    method: str
    is_trunk: bool
    density: float
    alive_density: float | None
    macs_share: float | None
    empty_layers: int
    split: SplitName
    top1: float
    vs_dense: float | None
    top5: float
    val_top1: float
    best_epoch: int | None
    seconds: float
    mask_digest: str
    weights_digest: str


@dataclass(frozen=True)
class Results:
    """The rows of one run, or of several runs of one experiment, in the order of their results."""

    rows: tuple[ResultRow, ...]

    @property
    def split(self) -> SplitName:
        """The split that the rows, and what is derived from them, are of."""
        return "test" if any(row.split == "test" for row in self.rows) else "val"

    @property
    def figures(self) -> str:
        """Which images and which epoch the accuracies are of, in a sentence."""
        if all(row.best_epoch is None for row in self.rows):
            return f"accuracies are on {self.split}, after the last epoch"
        chosen = ", which are chosen by the same images" if self.split == "val" else ""
        return f"accuracies are on {self.split}, after the best epoch on val of each job{chosen}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have a result, each once."""
        return tuple(dict.fromkeys(row.seed for row in self.rows))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have a result, each once."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def dense(self) -> Spread | None:
        """The top-1 of the dense network over the seeds; None while it is not trained yet."""
        found = [row.top1 for row in self.rows if row.round == 0]
        return Spread.of(found) if found else None

    @property
    def points(self) -> tuple[Point, ...]:
        """Each method's ticket of each round over the seeds, in the order of the rows."""
        groups: dict[tuple[str, int], list[ResultRow]] = {}
        for row in self.rows:
            groups.setdefault((row.method, row.round), []).append(row)
        return tuple(point(rows, self._floor, SEEDS_FOR_A_VERDICT) for rows in groups.values())

    @property
    def curves(self) -> Mapping[str, tuple[Point, ...]]:
        """The points of each method, densest first: its curve of accuracy against density."""
        densest_first = sorted(self.points, key=lambda each: -each.density)
        return {
            method: tuple(each for each in densest_first if each.method == method) for method in self.methods
        }

    def best_winners(self, best: Callable[[Sequence[Point]], Point | None]) -> Mapping[str, Point | None]:
        """Return the best of the winning tickets of each method, None where none wins."""
        # All weights, as in ADMM's training, are no ticket.
        tickets = [point for point in self.points if point.round > 0 and point.density < 1.0]
        methods = dict.fromkeys(point.method for point in tickets)
        return {
            method: best([point for point in tickets if point.method == method and point.wins])
            for method in methods
        }

    @property
    def verdict(self) -> str:
        """Whether tickets win, in a sentence; winning is defined over at least three seeds."""
        count = len(self.seeds)
        if self.dense is None or self.dense.count < SEEDS_FOR_A_VERDICT:
            return f"{count} seed{'s' if count != 1 else ''}, no verdict on winning"
        winning = dict.fromkeys(point.method for point in self.points if point.wins)
        return f"over {count} seeds winning tickets were found by {', '.join(winning) or 'no method'}"

    @property
    def _floor(self) -> float | None:
        """The least mean top-1 that wins: the dense network's mean less its standard deviation."""
        dense = self.dense
        if dense is None or dense.count < SEEDS_FOR_A_VERDICT:
            return None
        return dense.mean - dense.std


def derive_results(jobs: Iterable[Job], results: Iterable[JobResult]) -> Results:
    """Return the rows of `results`, in their order; `jobs` is the plan that they belong to.

    A network that was trained elsewhere has no row: its accuracy was not measured here.
    """
    results = tuple(result for result in results if result.imported is None)
    by_id = {job.id: job for job in jobs}
    dense = {by_id[result.job].seed: result for result in results if result.round == 0}
    return Results(
        tuple(
            _row(by_id[result.job], result, dense.get(by_id[result.job].seed))
            for result in {result.job: result for result in results}.values()
        )
    )


def read_results(run: RunPaths) -> Results:
    """Return the rows of a run's results so far, in plan order.

    Raises:
        RunError: the folder holds no run, or a damaged file.
    """
    jobs = plan(load_record(run).config)
    return derive_results(jobs, load_results(run, jobs).values())


def join_results(found: Mapping[str, Results]) -> Results:
    """Return the rows of several runs (by name) of one experiment with different seeds.

    Raises:
        RunError: two runs have results of the same seed.
    """
    owners: dict[int, str] = {}
    for name, results in found.items():
        for seed in results.seeds:
            if owners.setdefault(seed, name) != name:
                raise RunError(f"{owners[seed]} and {name} both have seed {seed}; expected different seeds")
    return Results(
        tuple(
            replace(row, job=f"{name}/{row.job}") for name, results in found.items() for row in results.rows
        )
    )


def check_one_experiment(runs: Sequence[RunPaths]) -> None:
    """Raise RunError unless the runs differ in their seeds alone, and in how they were executed."""
    first, *others = [load_record(run) for run in runs]
    for run, record in zip(runs[1:], others, strict=True):
        found = [
            change
            for change in changes(first.flatten(), record.flatten())
            if change.kind in ("guarded", "fixed")
            and not covers(("seed", "seeds", VERSIONS, DEVICE), change.key)
        ]
        if found:
            raise RunError(
                f"{runs[0].root} and {run.root} are not one experiment with different seeds: "
                f"{'; '.join(map(str, found))}"
            )


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
        alive_density=result.alive_density,
        macs_share=result.macs_share,
        empty_layers=result.empty_layers,
        split=result.split,
        top1=result.top1,
        vs_dense=None if dense is None or result.round == 0 else result.top1 - dense.top1,
        top5=result.top5,
        val_top1=result.val_top1,
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        mask_digest=result.mask_digest,
        weights_digest=result.weights_digest,
    )
