"""A run's report as a Markdown page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from distlth.facts.axes import TimeAxes, describe, not_measured
from distlth.facts.cost import total
from distlth.facts.published import beside
from distlth.facts.rows import Results
from distlth.facts.summary import RunSummary
from distlth.report.cells import (
    DIGEST_COLUMNS,
    TIME_COLUMNS,
    digest_cells,
    point_columns,
    point_rows,
    printed_cells,
    printed_columns,
    result_columns,
    result_rows,
    time_cells,
)
from distlth.report.text import hours

# Columns that hold words, not numbers.
WORDS = ("method", "job", "fastest as")


def summary_markdown(summary: RunSummary, measured: Sequence[TimeAxes] = ()) -> str:
    """Return the page: results, times, what diverged or was imported, digests, ungrouped layers.

    The tables have the times of the first of the settings in `measured`.
    """
    first = measured[0] if measured else None
    lines = [
        f"# {summary.name}",
        "",
        *_points_lines(summary.results, first),
        *_results_lines(summary.results, first),
        "",
        f"{summary.results.verdict}; {summary.results.figures}. `vs dense` is in percentage points of top-1; "
        "`alive` counts the kept weights that read and feed something, `MACs` the multiply-accumulates that "
        "they cost.",
        "",
        *_printed_lines(summary),
        *_times_lines(summary, measured),
        *_cost_lines(summary),
        *_list_lines("Diverged", summary.diverged),
        *_list_lines("Imported", summary.imported),
        *_digests_lines(summary.results),
        *_ungrouped_lines(summary.ungrouped),
    ]
    return "\n".join([*lines, ""])


def _results_lines(results: Results, measured: TimeAxes | None) -> list[str]:
    return table_lines(result_columns(results, measured), result_rows(results, measured))


def _points_lines(results: Results, measured: TimeAxes | None) -> list[str]:
    """Return the table of means, where there are several seeds."""
    if len(results.seeds) < 2:
        return []
    note = "A ticket wins if its mean top-1 is at least the dense network's less its standard deviation."
    return [*table_lines(point_columns(results, measured), point_rows(results, measured)), "", note, ""]


def _printed_lines(summary: RunSummary) -> list[str]:
    """Return the run beside the paper's figures, where it has any of the same experiment."""
    printed = summary.printed
    if printed is None:
        return []
    title = f"Beside the paper ({printed.name}; {printed.source}), difference in percentage points:"
    rows = map(printed_cells, beside(summary.results, printed))
    return [title, "", *table_lines(printed_columns(summary.results), rows), ""]


def _times_lines(summary: RunSummary, measured: Sequence[TimeAxes]) -> list[str]:
    """Return the measured times, a table for each setting."""
    lines: list[str] = []
    for each in measured:
        times = [time for time in summary.times if time.setting == each.setting]
        lines += [f"Measured, milliseconds of a batch in float32: {describe(each.setting)}.", ""]
        lines += [*table_lines(TIME_COLUMNS, map(time_cells, times)), ""]
        if missing := not_measured(summary.results, each.times):
            lines += [f"Not measured: {', '.join(missing)}.", ""]
    return lines


def _cost_lines(summary: RunSummary) -> list[str]:
    rows = [cost for details in summary.details for cost in total(details.costs)]
    return [f"Training took {', '.join(f'{hours(cost.hours)} {cost.unit}' for cost in rows)}.", ""]


def _list_lines(title: str, found: Iterable[str]) -> list[str]:
    lines = [f"- {message}" for message in found]
    return [f"{title}:", "", *lines, ""] if lines else []


def _digests_lines(results: Results) -> list[str]:
    rows = [digest_cells(row) for row in results.rows]
    return [
        "Digests: equal ones are equal bits.",
        "",
        _line(DIGEST_COLUMNS),
        "| :-- | :-- | :-- |",
        *[_line((job, *[f"`{digest}`" for digest in digests])) for job, *digests in rows],
    ]


def _ungrouped_lines(ungrouped: Mapping[str, Mapping[str, str]]) -> list[str]:
    if not ungrouped:
        return []
    lines = [
        f"- {job}: {len(layers)} x {reason}: {', '.join(layers)}"
        for job, reasons in ungrouped.items()
        for reason, layers in _by_reason(reasons).items()
    ]
    return ["", "Layers that could not be grouped:", "", *lines]


def _by_reason(reasons: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    """Return the layers of each reason."""
    return {
        reason: [layer for layer, other in reasons.items() if other == reason] for reason in reasons.values()
    }


def table_lines(
    columns: Sequence[str], rows: Iterable[Iterable[str]], words: Collection[str] = WORDS
) -> list[str]:
    """Return a table, its numbers to the right, and the columns of `words` to the left."""
    ruler = [":---" if column in words else "---:" for column in columns]
    return [_line(columns), _line(ruler), *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
