"""The table of a benchmark: a line for each row that it measured, each column in its own unit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from distlth.facts.axes import describe
from distlth.facts.times import TicketTime
from distlth.report.cells import TIME_COLUMNS, time_cells
from distlth.report.console.layout import new_table
from distlth.report.measured import Measured, cell, head


def measured_table(measured: Measured) -> Table:
    """Draw rows: words to the left, then numbers; what all share in the title."""
    names = (*measured.words, *measured.numbers)
    words, numbers = ([head(name) for name in side] for side in (measured.words, measured.numbers))
    table = new_table(words, numbers, title=measured.title)
    for row in measured.rows:
        table.add_row(*(cell(name, row[name]) for name in names))
    return table


def times_table(times: Sequence[TicketTime]) -> Group:
    """Draw a table for each setting, with a line for each ticket in its fastest form."""
    tables = []
    for setting in dict.fromkeys(time.setting for time in times):
        table = new_table(TIME_COLUMNS[:2], TIME_COLUMNS[2:], title=describe(setting))
        for time in times:
            if time.setting == setting:
                table.add_row(*time_cells(time))
        tables.append(table)
    return Group(*tables)
