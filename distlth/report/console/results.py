"""The tables of a run's results."""

from __future__ import annotations

from rich.table import Table

from distlth.facts.rows import Results
from distlth.report.cells import DIGEST_COLUMNS, RESULT_COLUMNS, digest_cells, result_cells
from distlth.report.console.layout import new_table


def results_table(results: Results) -> Table:
    """Draw a line for each finished job, with a rule between rounds."""
    table = new_table(RESULT_COLUMNS[:2], RESULT_COLUMNS[2:], title="results")
    for previous, row in zip([None, *results.rows], results.rows, strict=False):
        if previous is not None and previous.round != row.round:
            table.add_section()
        table.add_row(*result_cells(row))
    return table


def digests_table(results: Results) -> Table:
    """Draw the digests of each ticket's mask and trained weights: equal digests are equal bits."""
    table = new_table(DIGEST_COLUMNS, title="digests")
    for row in results.rows:
        table.add_row(*digest_cells(row))
    return table
