"""What the report of a run shows: its results, the layers left as they were, and layers to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from distlth.errors import RunError
from distlth.facts.details import RunDetails, read_details
from distlth.facts.masks import LayerMasks, layer_masks, representative_layers
from distlth.facts.overlaps import Overlaps, read_overlaps
from distlth.facts.published import Published, published
from distlth.facts.rows import Results, check_one_experiment, derive_results, join_results
from distlth.facts.times import TicketTime, read_times
from distlth.plan import Job, plan
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_divergences, load_results, trained_here
from distlth.run.store import load_record
from distlth.run.tickets import load_structured


@dataclass(frozen=True)
class RunSummary:
    """A run with at least one result.

    `diverged` says of each job that diverged where, `imported` of each network that was trained elsewhere
    what its file says of it. `ungrouped` has the jobs with layers that could not be
    grouped: job id -> layer -> reason. `layers` are one layer of each structured ticket of the latest round
    that has any. `times` are the measured ones, `printed` what the paper has of the same experiment and
    `unlike` the settings in which the paper's differs.
    """

    name: str
    results: Results
    diverged: tuple[str, ...]
    ungrouped: Mapping[str, Mapping[str, str]]
    layers: tuple[LayerMasks, ...]
    overlaps: Overlaps | None
    times: tuple[TicketTime, ...]
    printed: Published | None
    unlike: tuple[str, ...]
    details: tuple[RunDetails, ...]
    imported: tuple[str, ...] = ()


def read_summary(run: RunPaths) -> RunSummary:
    """Return what is to be reported of a run, finished or not.

    Raises:
        RunError: the folder holds no run, a run without a result yet, or a damaged file.
    """
    return _with_overlaps(_read_one(run))


def read_summaries(runs: Sequence[RunPaths]) -> RunSummary:
    """Return what is to be reported of several runs of one experiment, which have different seeds.

    The layers to look at are those of the first run.

    Raises:
        RunError: as of `read_summary`; the runs are not one experiment, or share a seed.
    """
    if len(runs) == 1:
        return read_summary(runs[0])
    check_one_experiment(runs)
    found = {name: _read_one(run) for name, run in zip(_names(runs), runs, strict=True)}
    first = next(iter(found.values()))
    joint = RunSummary(
        name=" + ".join(found),
        results=join_results({name: each.results for name, each in found.items()}),
        diverged=tuple(f"{name}: {line}" for name, each in found.items() for line in each.diverged),
        ungrouped={
            f"{name}/{job}": layers for name, each in found.items() for job, layers in each.ungrouped.items()
        },
        layers=first.layers,
        overlaps=None,
        times=tuple(
            replace(time, job=f"{name}/{time.job}") for name, each in found.items() for time in each.times
        ),
        printed=first.printed,
        unlike=first.unlike,
        details=tuple(details for each in found.values() for details in each.details),
        imported=tuple(f"{name}: {line}" for name, each in found.items() for line in each.imported),
    )

    return _with_overlaps(joint)


def imported_line(result: JobResult) -> str:
    """Return what is known of an imported network: our counts of its mask, and what its file says."""
    said = result.imported or {}
    top1 = said.get("top1")
    accuracy = "no accuracy" if top1 is None else f"top-1 {top1:.2%} ({said['top1_is']})"
    shares = f"density {result.density:.2%}, alive {result.alive_density or 0.0:.2%}"
    return (
        f"{result.job}: imported from {said['file']}, {shares}; its file says {accuracy}, not measured here"
    )


def _read_one(run: RunPaths) -> RunSummary:
    record = load_record(run)
    jobs = plan(record.config)
    results = load_results(run, jobs)
    if not trained_here(results):
        came = ", ".join(results)
        only = f" (imported: {came}; train its tickets with distlth run {run.imported_job})" if came else ""
        raise RunError(f"{run.root}: no job of this run is done yet, so there is nothing to report{only}")
    structured = [job for job in jobs if job.id in results and job.structure is not None]
    printed = published(record)
    return RunSummary(
        name=record.config.name,
        results=derive_results(jobs, results.values()),
        diverged=tuple(each.message for each in load_divergences(run, jobs).values()),
        ungrouped=_read_ungrouped(run, structured),
        layers=tuple(_read_layers(run, structured)),
        overlaps=None,
        times=read_times(run, results),
        printed=printed,
        unlike=printed.differences(record.config) if printed else (),
        details=(read_details(run, jobs, results),),
        imported=tuple(imported_line(result) for result in results.values() if result.imported is not None),
    )


def _with_overlaps(summary: RunSummary) -> RunSummary:
    masks = [mask for details in summary.details for mask in details.masks]
    return replace(summary, overlaps=read_overlaps(masks))


def _names(runs: Sequence[RunPaths]) -> list[str]:
    """Return the names of the runs' folders, or their paths where two folders are called the same.

    Raises:
        RunError: a run is given twice.
    """
    paths = [run.root.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise RunError(f"{path}: given twice; expected runs with different seeds")
    names = [path.name for path in paths]
    return names if len({*names}) == len(names) else [str(run.root) for run in runs]


def _read_ungrouped(run: RunPaths, structured: Sequence[Job]) -> Mapping[str, Mapping[str, str]]:
    tickets = ((job.id, load_structured(run.job(job.id))) for job in structured)
    return {job_id: ticket.ungrouped for job_id, ticket in tickets if ticket and ticket.ungrouped}


def _read_layers(run: RunPaths, structured: Sequence[Job]) -> Iterator[LayerMasks]:
    latest = max((job.round for job in structured), default=None)
    for job in structured:
        if job.round == latest and not job.of_seed and (layer := _read_layer(run, job)):
            yield layer


def _read_layer(run: RunPaths, job: Job) -> LayerMasks | None:
    """Return the last representative layer that has blocks, or the last of all where none has."""
    ticket = load_structured(run.job(job.id))
    if ticket is None:
        return None
    candidates = representative_layers(ticket.mask)
    layer = next((name for name in reversed(candidates) if ticket.blocks.get(name)), candidates[-1])
    parent = load_structured(run.job(job.parent)) if job.parent is not None else None
    return layer_masks(job.method, layer, ticket.mask, parent.mask if parent else None, ticket.blocks)
