"""A run's `report/`: the table and the pictures that are made when a run ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from distlth.errors import RunError
from distlth.facts.rows import Results, derive_results
from distlth.files import replacing, write_text
from distlth.plan import Job, plan
from distlth.report.cells import DIGEST_COLUMNS, RESULT_COLUMNS, digest_cells, result_cells
from distlth.report.pictures import LayerPicture, accuracy_figure, masks_figure, png, representative_layers
from distlth.run.paths import RunPaths
from distlth.run.store import load_record, load_results
from distlth.run.tickets import load_structured


def write_report(run: RunPaths) -> list[Path]:
    """Write `results.md`, `accuracy.png` and, where tickets are structured, `masks.png`; their paths.

    Raises:
        RunError: the folder holds no run, or a run without a result yet.
    """
    config = load_record(run).config
    jobs = plan(config)
    found = load_results(run, jobs)
    if not found:
        raise RunError(f"{run.root}: no job of this run is done yet, so there is nothing to report")
    table, accuracy = run.results_table, run.accuracy_picture
    done = [job for job in jobs if job.id in found]
    results = derive_results(jobs, found.values())
    write_text(table, results_markdown(config.name, results) + _ungrouped_markdown(run, done))
    _write_figure(accuracy, accuracy_figure(results))
    written = [table, accuracy]
    if pictures := _pictures(run, done):
        _write_figure(run.masks_picture, masks_figure(pictures))
        written.append(run.masks_picture)
    return written


def results_markdown(name: str, results: Results) -> str:
    """The results as a Markdown table, with the distance from the dense network in percentage points."""
    lines = [
        f"# {name}",
        "",
        _line(RESULT_COLUMNS),
        "| ---: | :--- | ---: | ---: | ---: | ---: | ---: |",
        *[_line(result_cells(row)) for row in results.rows],
    ]
    notes = f"{results.verdict}. `vs dense` is in percentage points of top-1."
    return "\n".join([*lines, "", notes, "", *_digest_lines(results), ""])


def _digest_lines(results: Results) -> list[str]:
    """A table of what each ticket is to the bit."""
    rows = [digest_cells(row) for row in results.rows]
    return [
        "Digests: equal ones are equal bits.",
        "",
        _line(DIGEST_COLUMNS),
        "| :-- | :-- | :-- |",
        *[_line((job, *[f"`{digest}`" for digest in digests])) for job, *digests in rows],
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ungrouped_markdown(run: RunPaths, done: Sequence[Job]) -> str:
    """The layers that were left as they were because they have no blocks, with the reasons."""
    lines = []
    for job in done:
        ticket = load_structured(run.job(job.id)) if job.structure is not None else None
        if ticket is not None and ticket.ungrouped:
            layers = "; ".join(f"{name} ({reason})" for name, reason in ticket.ungrouped.items())
            lines.append(f"- {job.id}: {layers}")
    return "\n".join(["", "Layers that could not be grouped:", "", *lines, ""]) if lines else ""


def _pictures(run: RunPaths, done: Sequence[Job]) -> list[LayerPicture]:
    """One layer of each structured ticket of the latest round that has any."""
    structured = [job for job in done if job.structure is not None]
    latest = max((job.round for job in structured), default=None)
    pictures = [_picture(run, job) for job in structured if job.round == latest]
    return [picture for picture in pictures if picture is not None]


def _picture(run: RunPaths, job: Job) -> LayerPicture | None:
    ticket = load_structured(run.job(job.id))
    if ticket is None:
        return None
    telling = representative_layers(ticket.mask)
    layer = next((name for name in reversed(telling) if ticket.blocks.get(name)), telling[-1])
    parent = load_structured(run.job(job.parent)) if job.parent is not None else None
    before = None if parent is None else parent.mask[layer]
    return LayerPicture(job.method, layer, before, ticket.mask[layer], ticket.blocks.get(layer, ()))


def _write_figure(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))
