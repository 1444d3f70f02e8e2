"""The look that all tables share."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from distlth.report.text import count

STATE_STYLES = {
    "done": "green",
    "running": "cyan",
    "starting": "cyan",
    "stopped": "yellow",
    "failed": "bold red",
    "waiting": "dim",
    "diverged": "bold red",
    "left out": "dim",
}


def new_table(
    left: Sequence[str], right: Sequence[str] = (), *, title: str | None = None, footer: bool = False
) -> Table:
    """Return an empty table with columns of words, aligned left, then columns of numbers, aligned right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_footer=footer,
        header_style="bold",
        footer_style="bold",
        pad_edge=False,
    )
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def set_footer(table: Table, cells: Sequence[str | int]) -> None:
    """Set the footer of each column."""
    for column, cell in zip(table.columns, cells, strict=True):
        column.footer = cell if isinstance(cell, str) else count(cell)
