"""The table of all runs of a folder, printed once or shown until none of them is active."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from distlth.facts.overview import RunRow
from distlth.report.console.layout import STATE_STYLES, new_table
from distlth.report.console.terminal import watch
from distlth.report.text import count, duration, percent

WATCH_SECONDS = 5.0

QUEUE_STYLES = {"RUNNING": "cyan", "PENDING": "yellow", "COMPLETING": "yellow", "cancelled": "yellow"}


def overview_table(rows: Sequence[RunRow]) -> RenderableType:
    """Draw a line for each run, and below them why some cannot be read."""
    table = new_table(
        ("run", "state", "queue", "job id"),
        ("restarts", "jobs", "round", "job", "step", "left", "best top-1"),
    )
    for row in rows:
        table.add_row(*_cells(row), style="dim" if row.state == "waiting" else None)
    problems = [Text(f"{row.path}: {row.problem}", style="red") for row in rows if row.problem]
    return Group(table, *problems)


def watch_rows(read: Callable[[], Sequence[RunRow]]) -> None:
    """Show the table again and again, until no run is active any more."""

    def draw() -> tuple[RenderableType, bool]:
        rows = read()
        return overview_table(rows), any(row.is_active for row in rows)

    watch(draw, WATCH_SECONDS)


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
        "" if row.best is None else f"{percent(row.best)} {row.best_split}",
    )
