"""The table of all runs of a folder, printed once or shown until none of them is active."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distlth.facts.overview import RunRow, no_runs, read_row, rows_to_json
from distlth.report.console import STATE_STYLES, output_console, plain_table
from distlth.report.text import count, duration, percent

__all__ = ["RunRow", "no_runs", "overview_table", "read_row", "rows_to_json", "watch_rows"]

WATCH_SECONDS = 5.0

QUEUE_STYLES = {"RUNNING": "cyan", "PENDING": "yellow", "COMPLETING": "yellow", "cancelled": "yellow"}


def overview_table(rows: Sequence[RunRow]) -> RenderableType:
    """Draw a line for each run, and below them why some cannot be read."""
    table: Table = plain_table(
        left=("run", "state", "queue", "job id"),
        right=("restarts", "jobs", "round", "job", "step", "left", "best top-1"),
    )
    for row in rows:
        table.add_row(*_cells(row), style="dim" if row.state == "waiting" else None)
    problems = [Text(f"{row.path}: {row.problem}", style="red") for row in rows if row.problem]
    return Group(table, *problems)


def watch_rows(read: Callable[[], Sequence[RunRow]]) -> None:
    """Show the table again and again, until no run is active any more."""
    with Live(console=output_console(), auto_refresh=False) as live:
        while True:
            rows = read()
            live.update(overview_table(rows), refresh=True)
            if not any(row.is_active for row in rows):
                return
            time.sleep(WATCH_SECONDS)


def _cells(row: RunRow) -> tuple[RenderableType, ...]:
    queue = row.queue
    return (
        row.name,
        Text(row.state, style=STATE_STYLES.get(row.state, "red")),
        Text(str(queue) if queue else "–", style=QUEUE_STYLES.get(queue.state, "dim") if queue else "dim"),
        row.job_id or "",
        count(row.restarts) if row.restarts else "",
        f"{row.jobs_done}/{row.jobs_total}" if row.jobs_total else "",
        "" if row.round is None else str(row.round),
        row.job or "",
        "" if row.step is None or row.steps is None else f"{count(row.step)}/{count(row.steps)}",
        duration(row.seconds_left) if row.state == "running" else "",
        "" if row.best is None else percent(row.best),
    )
