"""A run's `report/`: the table and the pictures that are made when a run ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from distlth.errors import RunError
from distlth.files import replacing, write_text
from distlth.plan import Job, plan
from distlth.report.pictures import LayerPicture, accuracy_figure, masks_figure, png, representative_layers
from distlth.report.text import duration, percent, points
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult, load_results
from distlth.run.store import load_record
from distlth.run.tickets import load_structured


def write_report(run: RunPaths) -> list[Path]:
    """Write `results.md`, `accuracy.png` and, where tickets are structured, `masks.png`; their paths.

    Raises:
        RunError: the folder holds no run, or a run without a result yet.
    """
    config = load_record(run).config
    jobs = plan(config)
    results = load_results(run, jobs)
    if not results:
        raise RunError(f"{run.root}: no job of this run is done yet, so there is nothing to report")
    table, accuracy = run.results_table, run.accuracy_picture
    done = [job for job in jobs if job.id in results]
    text = results_markdown(config.name, list(results.values())) + _ungrouped_markdown(run, done)
    write_text(table, text)
    _write_figure(accuracy, accuracy_figure(list(results.values())))
    written = [table, accuracy]
    if pictures := _pictures(run, done):
        _write_figure(run.masks_picture, masks_figure(pictures))
        written.append(run.masks_picture)
    return written


def results_markdown(name: str, results: Sequence[JobResult]) -> str:
    """The results as a Markdown table, with the distance from the dense network in percentage points."""
    dense = next((result.top1 for result in results if result.round == 0), None)
    lines = [
        f"# {name}",
        "",
        "| round | method | density | top-1 | vs dense | top-5 | time |",
        "| ---: | :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        cells = (
            str(result.round),
            result.method,
            percent(result.density),
            percent(result.top1),
            "" if dense is None or result.round == 0 else points(result.top1 - dense),
            percent(result.top5),
            duration(result.seconds),
        )
        lines.append(f"| {' | '.join(cells)} |")
    notes = "1 seed, no verdict on winning. `vs dense` is in percentage points of top-1."
    return "\n".join([*lines, "", notes, "", *_digest_lines(results), ""])


def _digest_lines(results: Sequence[JobResult]) -> list[str]:
    """A table of what each ticket is to the bit."""
    rows = [f"| {result.job} | `{result.mask_digest}` | `{result.weights_digest}` |" for result in results]
    return [
        "Digests: equal ones are equal bits.",
        "",
        "| job | mask | weights |",
        "| :-- | :-- | :-- |",
        *rows,
    ]


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
