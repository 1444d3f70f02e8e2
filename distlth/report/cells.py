"""The results as words: the columns and cells that the console's tables and the Markdown ones share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distlth.facts.axes import SHARES, Axis, TimeAxes
from distlth.facts.cost import Cost
from distlth.facts.overlaps import Overlap
from distlth.facts.points import Point
from distlth.facts.published import Comparison
from distlth.facts.rows import ResultRow, Results
from distlth.facts.times import TicketTime
from distlth.report.text import duration, hours, milliseconds, percent, points

RESULT_COLUMNS = ("round", "method", "density", "alive", "MACs", "top-1", "vs dense", "top-5", "time")
POINT_COLUMNS = ("round", "method", "density", "alive", "MACs", "seeds", "top-1", "vs dense", "top-5", "wins")
WINNER_COLUMNS = ("method", "round", "density", "alive", "MACs", "top-1", "vs dense")
PRINTED_COLUMNS = ("round", "method", "density", "paper's", "top-1", "seeds", "paper's top-1", "difference")
COST_COLUMNS = ("method", "device", "jobs", "time", "images/s")
DIGEST_COLUMNS = ("job", "mask", "weights")
TIME_COLUMNS = (
    *("job", "fastest as", "ms", "dense: eager", "fastest"),
    *("saved of eager", "of fastest", "MACs saved"),
)


def result_columns(results: Results, measured: TimeAxes | None = None) -> tuple[str, ...]:
    """Return RESULT_COLUMNS, after the seed where there are several, before that of val and the times."""
    seed = ("seed",) if len(results.seeds) > 1 else ()
    val = ("val top-1",) if results.split == "test" else ()
    return (*seed, *_of_split(RESULT_COLUMNS, results), *val, *_saved_columns(measured))


def result_rows(results: Results, measured: TimeAxes | None = None) -> Iterator[tuple[str, ...]]:
    """Iterate over the cells of each row, one for each of `result_columns`."""
    several = len(results.seeds) > 1
    for row in results.rows:
        seed = (str(row.seed),) if several else ()
        val = (percent(row.val_top1),) if results.split == "test" else ()
        yield (*seed, *result_cells(row), *val, *_saved_cells(row.job, measured))


def point_columns(results: Results, measured: TimeAxes | None = None) -> tuple[str, ...]:
    """Return POINT_COLUMNS, with the name of the split, and those of the times of a setting."""
    return (*_of_split(POINT_COLUMNS, results), *_saved_columns(measured))


def point_rows(results: Results, measured: TimeAxes | None = None) -> Iterator[tuple[str, ...]]:
    """Iterate over the cells of each ticket over the seeds, by round, one for each of `point_columns`."""
    for point in sorted(results.points, key=lambda point: point.round):
        yield (*point_cells(point), *(percent(axis.value(point), 1) for axis in _axes(measured)))


def winner_columns(results: Results, measured: TimeAxes | None = None) -> tuple[str, ...]:
    """Return what is shown of the best winning ticket of each method."""
    return (*_of_split(WINNER_COLUMNS, results), *_saved_columns(measured))


def winner_rows(results: Results, axis: Axis, measured: TimeAxes | None = None) -> Iterator[tuple[str, ...]]:
    """Iterate over the cells of each method's best winning ticket on an axis, one for each column."""
    for method, best in results.best_winners(axis.best).items():
        if best is None:
            yield (method, "none", *("" for _ in winner_columns(results, measured)[2:]))
            continue
        shares = (percent(share.value(best)) for share in SHARES)
        saved = (percent(each.value(best), 1) for each in _axes(measured))
        yield (method, str(best.round), *shares, _mean(best), _difference(best.vs_dense), *saved)


def printed_columns(results: Results) -> tuple[str, ...]:
    """Return what is shown of tickets beside printed ones."""
    return _of_split(PRINTED_COLUMNS, results)


def _of_split(columns: Iterable[str], results: Results) -> tuple[str, ...]:
    """Return columns, those of accuracies with the name of the split."""
    return tuple(
        f"{results.split} {column}" if column in ("top-1", "top-5") else column for column in columns
    )


def result_cells(row: ResultRow) -> tuple[str, ...]:
    """Return a cell for each of RESULT_COLUMNS; that of `vs dense` is empty where there is no difference."""
    return (
        str(row.round),
        row.method,
        _density(row),
        percent(row.alive_density),
        percent(row.macs_share),
        percent(row.top1),
        _difference(row.vs_dense),
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
        _mean(point),
        _difference(point.vs_dense),
        percent(point.top5),
        "" if point.wins is None else ("yes" if point.wins else "no"),
    )


def time_cells(time: TicketTime) -> tuple[str, ...]:
    """Return a cell for each of TIME_COLUMNS: milliseconds of a batch, and shares of the dense network's."""
    return (
        time.job,
        f"{time.network}, {time.runtime}",
        milliseconds(time.milliseconds),
        milliseconds(time.dense_eager),
        f"{milliseconds(time.dense_fastest)} ({time.fastest_runtime})",
        percent(time.saved_of_eager, 1),
        percent(time.saved_of_fastest, 1),
        percent(time.macs_saved, 1),
    )


def printed_cells(comparison: Comparison) -> tuple[str, ...]:
    """Return a cell for each of `printed_columns`; a density that is not printed is IMP's, after a tilde."""
    printed = comparison.printed
    return (
        str(comparison.round),
        comparison.method,
        percent(comparison.density),
        f"{'' if printed.density_is_printed else '~'}{percent(printed.density)}",
        f"{percent(comparison.top1)} ± {100 * comparison.std:.2f}",
        str(comparison.count),
        percent(printed.top1),
        points(comparison.difference),
    )


def cost_cells(cost: Cost) -> tuple[str, ...]:
    """Return a cell for each of COST_COLUMNS."""
    device = cost.device or "not recorded"
    speed = "" if cost.images_per_second is None else f"{cost.images_per_second:,.0f}"
    return (cost.method, device, str(cost.jobs), f"{hours(cost.hours)} {cost.unit}", speed)


def overlap_cell(found: Overlap | None) -> str:
    """Return the share that two masks have in common, and chance's in parentheses."""
    return "" if found is None else f"{percent(found.iou, 1)} ({percent(found.chance, 1)})"


def _axes(measured: TimeAxes | None) -> tuple[Axis, ...]:
    return measured.axes if measured else ()


def _saved_columns(measured: TimeAxes | None) -> tuple[str, ...]:
    return tuple(axis.column for axis in _axes(measured))


def _saved_cells(job: str, measured: TimeAxes | None) -> tuple[str, ...]:
    if measured is None:
        return ()
    return tuple(percent(share, 1) for share in measured.saved(job))


def _mean(point: Point) -> str:
    return f"{percent(point.top1.mean)} ± {100 * point.top1.std:.2f}"


def _difference(value: float | None) -> str:
    return "" if value is None else points(value)


def _density(row: ResultRow) -> str:
    """Return the density, and how many layers keep nothing where there are any."""
    if not row.empty_layers:
        return percent(row.density)
    layers = "1 layer" if row.empty_layers == 1 else f"{row.empty_layers} layers"
    return f"{percent(row.density)} ({layers} empty)"


def digest_cells(row: ResultRow) -> tuple[str, ...]:
    """Return a cell for each of DIGEST_COLUMNS."""
    return (row.job, row.mask_digest, row.weights_digest)
