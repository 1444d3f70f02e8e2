"""A run's folder `report/`: a table and pictures, written when the run ends or when asked for."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from distlth.facts.summary import read_summary
from distlth.files import replacing, write_text
from distlth.report.markdown import summary_markdown
from distlth.report.pictures import accuracy_figure, masks_figure, png
from distlth.run.paths import RunPaths


def write_report(run: RunPaths) -> list[Path]:
    """Write `results.md`, `accuracy.png` and, where tickets are structured, `masks.png`; return their paths.

    Raises:
        RunError: the folder holds no run, a run without a result yet, or a damaged file.
    """
    summary = read_summary(run)
    figures = {run.accuracy_picture: accuracy_figure(summary.results)}
    if summary.layers:
        figures[run.masks_picture] = masks_figure(summary.layers)
    write_text(run.results_table, summary_markdown(summary))
    for path, figure in figures.items():
        _write_figure(path, figure)
    return [run.results_table, *figures]


def _write_figure(path: Path, figure: Figure) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))
