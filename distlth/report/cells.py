"""The results as words: the columns and cells that the console's tables and the Markdown ones share."""

from __future__ import annotations

from distlth.facts.rows import ResultRow
from distlth.report.text import duration, percent, points

RESULT_COLUMNS = ("round", "method", "density", "top-1", "vs dense", "top-5", "time")
DIGEST_COLUMNS = ("job", "mask", "weights")


def result_cells(row: ResultRow) -> tuple[str, ...]:
    """Return a cell for each of RESULT_COLUMNS; that of `vs dense` is empty where there is no difference."""
    return (
        str(row.round),
        row.method,
        _density(row),
        percent(row.top1),
        "" if row.vs_dense is None else points(row.vs_dense),
        percent(row.top5),
        duration(row.seconds),
    )


def _density(row: ResultRow) -> str:
    """Return the density, and how many layers keep nothing where there are any."""
    if not row.empty_layers:
        return percent(row.density)
    layers = "1 layer" if row.empty_layers == 1 else f"{row.empty_layers} layers"
    return f"{percent(row.density)} ({layers} empty)"


def digest_cells(row: ResultRow) -> tuple[str, ...]:
    """Return a cell for each of DIGEST_COLUMNS."""
    return (row.job, row.mask_digest, row.weights_digest)
