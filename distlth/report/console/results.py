"""The tables of a run's results."""

from __future__ import annotations

from rich.table import Table

from distlth.facts.rows import Results
from distlth.report.cells import (
    DIGEST_COLUMNS,
    digest_cells,
    point_cells,
    point_columns,
    result_columns,
    result_rows,
)
from distlth.report.console.layout import new_table


def results_table(results: Results) -> Table:
    """Draw a line for each finished job, with a rule between rounds."""
    columns = result_columns(results)
    words = columns.index("density")
    table = new_table(columns[:words], columns[words:], title="results")
    before = [None, *results.rows]
    for previous, row, cells in zip(before, results.rows, result_rows(results), strict=False):
        if previous is not None and previous.round != row.round:
            table.add_section()
        table.add_row(*cells)
    return table


def points_table(results: Results) -> Table:
    """Draw a line for each method's ticket of each round over the seeds, with a rule between rounds."""
    columns = point_columns(results)
    table = new_table(columns[:2], columns[2:], title=f"means over {len(results.seeds)} seeds")
    points = sorted(results.points, key=lambda point: point.round)
    for previous, point in zip([None, *points], points, strict=False):
        if previous is not None and previous.round != point.round:
            table.add_section()
        table.add_row(*point_cells(point))
    return table


def digests_table(results: Results) -> Table:
    """Draw the digests of each ticket's mask and trained weights: equal digests are equal bits."""
    table = new_table(DIGEST_COLUMNS, title="digests")
    for row in results.rows:
        table.add_row(*digest_cells(row))
    return table
