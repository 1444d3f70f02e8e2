"""The table of a benchmark: a line for each row that it measured, each column in its own unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Group
from rich.table import Table

from distlth.facts.axes import describe
from distlth.facts.times import TicketTime
from distlth.report.cells import TIME_COLUMNS, time_cells
from distlth.report.console.layout import new_table
from distlth.report.text import memory, percent

# What says how it was measured, and needs no column where it is the same in all rows.
SETTINGS = ("ticket", "batch", "threads", "cores", "warm_ups", "rounds", "resolution")
WORDS = str | None

# Heads that are shorter than the names of the fields.
HEADS = {
    "milliseconds": "ms",
    "images_per_second": "images/s",
    "peak_memory": "peak",
    "parameters": "weights",
    "file_bytes": "file",
    "macs": "MACs",
    "macs_saved": "MACs saved",
    "saved_of_own": "saved",
    "saved_of_eager": "of eager",
    "saved_of_fastest": "of fastest",
}


def measured_table(title: str, rows: Sequence[Any]) -> Table:
    """Draw rows, dataclasses of one type: words to the left, then numbers; what all share in the title."""
    names = [field.name for field in fields(rows[0])]
    shared = [name for name in names if name in SETTINGS and len({str(getattr(r, name)) for r in rows}) == 1]
    shown = [name for name in names if name not in shared]
    words = [name for name in shown if all(isinstance(getattr(row, name), WORDS) for row in rows)]
    numbers = [name for name in shown if name not in words]
    known = [name for name in shared if getattr(rows[0], name) is not None]
    setting = [f"{_head(name)} {cell(name, getattr(rows[0], name))}" for name in known]
    table = new_table(
        [_head(name) for name in words],
        [_head(name) for name in numbers],
        title=", ".join([title, *setting]),
    )
    for row in rows:
        table.add_row(*(cell(name, getattr(row, name)) for name in (*words, *numbers)))
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


def cell(name: str, value: Any) -> str:
    """Return the value of a field as people read it: its name says what it is."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ("–" if name == "quartiles" else " ").join(cell("", each) for each in value)
    if name.startswith("saved") or name.endswith("saved"):
        return percent(value, 1)
    if name.endswith(("bytes", "memory")):
        return memory(value)
    if name in ("macs", "parameters"):
        return f"{value / 1e6:,.2f} M"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def _head(name: str) -> str:
    return HEADS.get(name, name.replace("_", " "))
