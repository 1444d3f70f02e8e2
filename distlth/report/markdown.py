"""A run's report as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distlth.facts.rows import Results
from distlth.facts.summary import RunSummary
from distlth.report.cells import DIGEST_COLUMNS, RESULT_COLUMNS, digest_cells, result_cells


def summary_markdown(summary: RunSummary) -> str:
    """Return the page: the results, what diverged, the digests, and the layers that could not be grouped."""
    lines = [
        f"# {summary.name}",
        "",
        *_results_lines(summary.results),
        "",
        f"{summary.results.verdict}. `vs dense` is in percentage points of top-1.",
        "",
        *_diverged_lines(summary.diverged),
        *_digests_lines(summary.results),
        *_ungrouped_lines(summary.ungrouped),
    ]
    return "\n".join([*lines, ""])


def _results_lines(results: Results) -> list[str]:
    return [
        _line(RESULT_COLUMNS),
        "| ---: | :--- | ---: | ---: | ---: | ---: | ---: |",
        *[_line(result_cells(row)) for row in results.rows],
    ]


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
        f"- {job}: " + "; ".join(f"{layer} ({reason})" for layer, reason in reasons.items())
        for job, reasons in ungrouped.items()
    ]
    return ["", "Layers that could not be grouped:", "", *lines]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
