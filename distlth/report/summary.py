"""A report: tables, pictures and one page, of a run when it ends or of several runs when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distlth.facts.axes import DENSITY, share_axes, time_axes
from distlth.facts.summary import RunSummary, read_summaries, read_summary
from distlth.files import replacing, write_text
from distlth.report.html import page
from distlth.report.markdown import summary_markdown
from distlth.report.pictures import accuracy_figure, masks_figure, png
from distlth.report.tables import points_csv, results_csv, times_csv
from distlth.run.paths import ReportPaths, RunPaths


def write_report(run: RunPaths) -> list[Path]:
    """Write the report of a run into its directory; return the paths of its files, the page first.

    Raises:
        RunError: the folder holds no run, a run without a result yet, or a damaged file.
    """
    return write_summary(read_summary(run), run.report)


def write_joint_report(runs: Sequence[RunPaths], folder: Path) -> list[Path]:
    """Write the report of several runs of one experiment, which have different seeds, into a folder.

    Raises:
        RunError: as of `write_report`; the runs are not one experiment, or share a seed.
    """
    return write_summary(read_summaries(runs), ReportPaths(folder))


def write_summary(summary: RunSummary, paths: ReportPaths) -> list[Path]:
    """Write the files of a report; return their paths, the page first."""
    results = summary.results
    measured = time_axes(results, summary.times)
    shares = share_axes(results)
    axes = [*shares, *(axis for each in measured for axis in each.axes)]
    printed = {DENSITY.name: summary.printed}
    figures = {
        paths.accuracy_picture(axis.name): accuracy_figure(results, axis, printed.get(axis.name))
        for axis in axes
    }
    if summary.layers:
        figures[paths.masks_picture] = masks_figure(summary.layers)
    texts = {
        paths.page: page(summary, axes, measured),
        paths.results_table: summary_markdown(summary, measured),
        paths.results_csv: results_csv(results),
        paths.points_csv: points_csv(results, axes[len(shares) :]),
    }
    if summary.times:
        texts[paths.times_csv] = times_csv(summary.times)
    for path, figure in figures.items():
        with replacing(path) as temporary:
            temporary.write_bytes(png(figure))
    for path, text in reversed(texts.items()):  # where the page is, all is
        write_text(path, text)
    return [*texts, *figures]
