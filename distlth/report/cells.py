"""The results as words: the columns and cells that the console's tables and the Markdown ones share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distlth.facts.points import Point
from distlth.facts.rows import ResultRow, Results
from distlth.report.text import duration, percent, points

RESULT_COLUMNS = ("round", "method", "density", "alive", "MACs", "top-1", "vs dense", "top-5", "time")
POINT_COLUMNS = ("round", "method", "density", "alive", "MACs", "seeds", "top-1", "vs dense", "top-5", "wins")
DIGEST_COLUMNS = ("job", "mask", "weights")


def result_columns(results: Results) -> tuple[str, ...]:
    """Return RESULT_COLUMNS, after the seed where there are several, and that of val beside test."""
    seed = ("seed",) if len(results.seeds) > 1 else ()
    val = ("val top-1",) if results.split == "test" else ()
    return (*seed, *_of_split(RESULT_COLUMNS, results.split), *val)


def point_columns(results: Results) -> tuple[str, ...]:
    """Return POINT_COLUMNS, with the name of the split."""
    return _of_split(POINT_COLUMNS, results.split)


def _of_split(columns: Iterable[str], split: str) -> tuple[str, ...]:
    return tuple(f"{split} {column}" if column in ("top-1", "top-5") else column for column in columns)


def result_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """Iterate over the cells of each row, one for each of `result_columns`."""
    several = len(results.seeds) > 1
    for row in results.rows:
        val = (percent(row.val_top1),) if results.split == "test" else ()
        yield (*((str(row.seed),) if several else ()), *result_cells(row), *val)


def result_cells(row: ResultRow) -> tuple[str, ...]:
    """Return a cell for each of RESULT_COLUMNS; that of `vs dense` is empty where there is no difference."""
    return (
        str(row.round),
        row.method,
        _density(row),
        percent(row.alive_density),
        percent(row.macs_share),
        percent(row.top1),
        "" if row.vs_dense is None else points(row.vs_dense),
        percent(row.top5),
        duration(row.seconds),
    )


def point_cells(point: Point) -> tuple[str, ...]:
    """Return a cell for each of `point_columns`: means over the seeds, top-1 with its standard deviation."""
    return (
        str(point.round),
        point.method,
        percent(point.density),
        percent(point.alive_density),
        percent(point.macs_share),
        str(point.top1.count),
        f"{percent(point.top1.mean)} ± {100 * point.top1.std:.2f}",
        "" if point.vs_dense is None else points(point.vs_dense),
        percent(point.top5),
        "" if point.wins is None else ("yes" if point.wins else "no"),
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
