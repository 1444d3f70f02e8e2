"""A run's report as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from distlth.facts.rows import Results
from distlth.facts.summary import RunSummary
from distlth.report.cells import (
    DIGEST_COLUMNS,
    digest_cells,
    point_cells,
    point_columns,
    result_columns,
    result_rows,
)


def summary_markdown(summary: RunSummary) -> str:
    """Return the page: the results, what diverged, the digests, and the layers that could not be grouped."""
    lines = [
        f"# {summary.name}",
        "",
        *_points_lines(summary.results),
        *_results_lines(summary.results),
        "",
        f"{summary.results.verdict}; {summary.results.figures}. `vs dense` is in percentage points of top-1; "
        "`alive` counts the kept weights that read and feed something, `MACs` the multiply-accumulates that "
        "they cost.",
        "",
        *_diverged_lines(summary.diverged),
        *_digests_lines(summary.results),
        *_ungrouped_lines(summary.ungrouped),
    ]
    return "\n".join([*lines, ""])


def _results_lines(results: Results) -> list[str]:
    return _table(result_columns(results), result_rows(results))


def _points_lines(results: Results) -> list[str]:
    """Return the table of means, where there are several seeds."""
    if len(results.seeds) < 2:
        return []
    points = sorted(results.points, key=lambda point: point.round)
    note = "A ticket wins if its mean top-1 is at least the dense network's less its standard deviation."
    return [*_table(point_columns(results), map(point_cells, points)), "", note, ""]


def _diverged_lines(diverged: Iterable[str]) -> list[str]:
    lines = [f"- {message}" for message in diverged]
    return ["Diverged:", "", *lines, ""] if lines else []


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


def _table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table, its numbers to the right."""
    ruler = [":---" if column == "method" else "---:" for column in columns]
    return [_line(columns), _line(ruler), *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
