"""Several runs of one experiment, a seed each: means and spread of each method and round, and what wins."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from distlth.config.changes import changes
from distlth.config.schema import RunConfig
from distlth.errors import RunError
from distlth.models import build
from distlth.models.alive import alive_density, alive_macs, macs
from distlth.models.anatomy import anatomy
from distlth.models.graph import Graph
from distlth.plan import Job, plan
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_results
from distlth.run.store import RunRecord, load_record
from distlth.run.tickets import load_structured

# Winning is defined over so many seeds (DESIGN: mean >= dense mean - dense standard deviation).
LEAST_SEEDS = 3

# What may differ between the seeds of an experiment, besides what leaves all bits the same.
OF_A_SEED = ("seed", "cluster.device")

Axis = Literal["density", "alive_density", "alive_macs"]
Verdict = Literal["wins", "loses", "no verdict"]


@dataclass(frozen=True)
class SeedRow:
    """One finished job of one seed.

    `density` and `alive_density` (see `models.alive`) are fractions of the prunable weights, `alive_macs` a
    fraction of the dense network's multiply-accumulates, `top1` a fraction, `seconds` wall time.
    """

    seed: int
    job: str
    round: int
    method: str
    density: float
    alive_density: float
    alive_macs: float
    top1: float
    seconds: float
    weights_digest: str


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of one method in one round; `std` is None of a single seed.

    `density`, `alive_density` and `alive_macs` are means over the seeds.
    """

    method: str
    round: int
    count: int
    density: float
    alive_density: float
    alive_macs: float
    mean: float
    std: float | None

    @classmethod
    def of(cls, rows: Sequence[SeedRow]) -> Spread:
        """Return the spread of rows of one method and round."""
        top1 = [row.top1 for row in rows]
        return cls(
            rows[0].method,
            rows[0].round,
            len(rows),
            statistics.fmean(row.density for row in rows),
            statistics.fmean(row.alive_density for row in rows),
            statistics.fmean(row.alive_macs for row in rows),
            statistics.fmean(top1),
            statistics.stdev(top1) if len(rows) > 1 else None,
        )


@dataclass(frozen=True)
class Experiment:
    """The rows of all seeds, in the order of runs and plans."""

    name: str
    rows: tuple[SeedRow, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have a result."""
        return tuple(dict.fromkeys(row.seed for row in self.rows))

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """The spread of each method and round, dense first, methods in the order of the plan."""
        groups: dict[tuple[str, int], list[SeedRow]] = {}
        for row in self.rows:
            groups.setdefault((row.method, row.round), []).append(row)
        methods = list(dict.fromkeys(row.method for row in self.rows))
        ordered = sorted(groups, key=lambda key: (methods.index(key[0]), key[1]))
        return tuple(Spread.of(groups[key]) for key in ordered)

    @property
    def dense(self) -> Spread | None:
        """The dense network's spread."""
        return next((spread for spread in self.spreads if spread.round == 0), None)

    @property
    def curves(self) -> Mapping[str, tuple[Spread, ...]]:
        """The spreads of each method, round by round."""
        methods = dict.fromkeys(spread.method for spread in self.spreads)
        return {
            method: tuple(spread for spread in self.spreads if spread.method == method) for method in methods
        }

    @property
    def bar(self) -> float | None:
        """What a ticket's mean must reach to win; None while there are too few dense networks."""
        dense = self.dense
        if dense is None or dense.std is None or dense.count < LEAST_SEEDS:
            return None
        return dense.mean - dense.std

    def verdict(self, spread: Spread) -> Verdict:
        """Return whether a ticket wins: over at least three seeds, its mean reaches the bar."""
        if self.bar is None or spread.count < LEAST_SEEDS:
            return "no verdict"
        return "wins" if spread.mean >= self.bar else "loses"

    def sparsest_winner(self, method: str, axis: Axis = "alive_density") -> Spread | None:
        """Return the ticket of a method that wins with the least on an axis; None where none wins."""
        winners = [each for each in self.curves[method] if each.round and self.verdict(each) == "wins"]
        return min(winners, key=lambda each: float(getattr(each, axis)), default=None)


def read_experiment(runs: Sequence[RunPaths]) -> Experiment:
    """Return the results so far of runs that differ in their seed alone.

    Raises:
        RunError: a folder holds no run, or a damaged file; two runs are of different experiments or have the
            same seed; or no job is done.
    """
    records = [load_record(run) for run in runs]
    _check_same(runs, records)
    graph = _graph(records[0])
    rows = tuple(
        row for run, record in zip(runs, records, strict=True) for row in _rows(run, record.config, graph)
    )
    if not rows:
        raise RunError(f"{runs[0].root}: no job of these runs is done yet, so there is nothing to report")
    return Experiment(_common_name([record.config.name for record in records]), rows)


def as_dicts(rows: Iterable[SeedRow]) -> list[dict[str, str | int | float]]:
    """Return the rows with the names of their values: the columns of a CSV file."""
    return [asdict(row) for row in rows]


def _check_same(runs: Sequence[RunPaths], records: Sequence[RunRecord]) -> None:
    seen: dict[int, RunPaths] = {}
    for run, record in zip(runs, records, strict=True):
        for seed in dict.fromkeys(job.seed for job in plan(record.config)):
            if seed in seen:
                raise RunError(f"{run.root}: seed {seed} is that of {seen[seed].root} too; leave one out")
            seen[seed] = run
        for change in changes(records[0].flatten(), record.flatten()):
            if (
                change.kind != "free"
                and change.key not in OF_A_SEED
                and not change.key.startswith("versions.")
            ):
                raise RunError(
                    f"{run.root} is another experiment than {runs[0].root}: "
                    f"{change.key} is {change.new}, not {change.old}"
                )


def _graph(record: RunRecord) -> Graph:
    """Return the graph of the network that the runs train."""
    model, classes = record.config.model, int(record.data["classes"])
    network = build(model.name, classes, seed=record.config.seed, stem=model.stem)
    return anatomy(network, record.config.data.resolution).graph


def _rows(run: RunPaths, config: RunConfig, graph: Graph) -> Iterator[SeedRow]:
    jobs = plan(config)
    results = load_results(run, jobs)
    for job in jobs:
        if job.id in results:
            yield _row(run, job, results[job.id], graph)


def _row(run: RunPaths, job: Job, result: JobResult, graph: Graph) -> SeedRow:
    ticket = load_structured(run.job(job.id))
    if ticket is None:
        raise RunError(f"{run.job(job.id).mask}: missing, although the job is done")
    kept, removed = ticket.mask.layers, job.removes_channels
    return SeedRow(
        seed=job.seed,
        job=job.id,
        round=job.round,
        method=job.method,
        density=result.density,
        alive_density=alive_density(graph, kept, removed=removed),
        alive_macs=alive_macs(graph, kept, removed=removed) / macs(graph),
        top1=result.top1,
        seconds=result.seconds,
        weights_digest=result.weights_digest,
    )


def _common_name(names: Sequence[str]) -> str:
    """Return what the names of the runs begin with, without the end that tells them apart."""
    if len(names) == 1:
        return names[0]
    same = [letters[0] for letters in zip(*names, strict=False)]
    length = next(
        (i for i, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), len(same)
    )
    return names[0][:length].removesuffix("seed").rstrip("-_.") or names[0]
