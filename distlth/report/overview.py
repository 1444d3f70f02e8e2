"""All runs of a folder in one table, each told by its directory and by how its submission stands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distlth.errors import UserError
from distlth.facts.status import JobStatus, RunStatus, read_events, read_status
from distlth.report.console import STATE_STYLES, output_console, plain_table
from distlth.report.text import count, duration, percent
from distlth.run.paths import RunPaths
from distlth.run.submission import Standing, load_submission

WATCH_SECONDS = 5.0

QUEUE_STYLES = {"RUNNING": "cyan", "PENDING": "yellow", "COMPLETING": "yellow", "cancelled": "yellow"}


@dataclass(frozen=True)
class RunRow:
    """A line of the table.

    `queue` is how the submission stands, None of a run that was not submitted; `restarts` counts the starts
    after the first; `round`, `job` and `step` are of the job that trains, or of the last that did; `best`
    is the highest top-1 of a finished job (0..1). `problem` is set alone, of a run that cannot be read.
    """

    name: str
    path: str
    state: str
    queue: Standing | None = None
    job_id: str | None = None
    restarts: int = 0
    jobs_done: int = 0
    jobs_total: int = 0
    round: int | None = None
    job: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds_left: float | None = None
    best: float | None = None
    problem: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether it trains or waits to."""
        return self.state in ("running", "starting") or (self.queue is not None and self.queue.is_active)


def read_row(run: RunPaths, queue: Standing | None, *, now: float | None = None) -> RunRow:
    """The line of a run, whatever state it is in; `queue` is how its submission stands."""
    try:
        return row(read_status(run, now=now), queue, _job_id(run), restarts(run))
    except UserError as error:
        return RunRow(run.root.name, str(run.root), "unreadable", queue, problem=str(error))


def row(status: RunStatus, queue: Standing | None, job_id: str | None, restarts: int) -> RunRow:
    """The line of a run that was read."""
    job = _current(status.jobs)
    is_starting = status.state in ("stopped", "waiting") and queue is not None and queue.state == "RUNNING"
    progress = job.progress if job else None
    return RunRow(
        name=status.path.name,
        path=str(status.path),
        state="starting" if is_starting else status.state,
        queue=queue,
        job_id=job_id,
        restarts=restarts,
        jobs_done=status.done,
        jobs_total=len(status.jobs),
        round=job.round if job else None,
        job=job.id if job else None,
        step=progress.step if progress else None,
        steps=progress.steps if progress else None,
        seconds_left=status.seconds_left if status.state == "running" else None,
        best=max((result.top1 for result in status.results), default=None),
    )


def restarts(run: RunPaths) -> int:
    """How often a run was started again, by itself, by SLURM or by a person."""
    events, _ = read_events(run.log)
    return max(0, sum(1 for event in events if event["event"] == "run-start") - 1)


def overview_table(rows: Sequence[RunRow]) -> RenderableType:
    """The table of all runs."""
    table: Table = plain_table(
        left=("run", "state", "queue", "job id"),
        right=("restarts", "jobs", "round", "job", "step", "left", "best top-1"),
    )
    for each in rows:
        table.add_row(*_cells(each), style="dim" if each.state == "waiting" else None)
    problems = [Text(f"{each.path}: {each.problem}", style="red") for each in rows if each.problem]
    return Group(table, *problems)


def rows_to_json(rows: Iterable[RunRow]) -> str:
    """The rows as one JSON list."""
    return json.dumps([asdict(each) for each in rows], indent=1)


def watch_rows(read: Callable[[], Sequence[RunRow]]) -> None:
    """Show the table again and again, until no run trains or waits any more."""
    with Live(console=output_console(), auto_refresh=False) as live:
        while True:
            rows = read()
            live.update(overview_table(rows), refresh=True)
            if not any(each.is_active for each in rows):
                return
            time.sleep(WATCH_SECONDS)


def _current(jobs: Sequence[JobStatus]) -> JobStatus | None:
    """The job that trains, else the one that was left half-way, else the last that is done."""
    by_state: Mapping[str, list[JobStatus]] = {
        state: [job for job in jobs if job.state == state] for state in ("running", "stopped", "done")
    }
    if by_state["running"] or by_state["stopped"]:
        return (by_state["running"] or by_state["stopped"])[0]
    return by_state["done"][-1] if by_state["done"] else None


def _cells(each: RunRow) -> tuple[RenderableType, ...]:
    queue = each.queue
    return (
        each.name,
        Text(each.state, style=STATE_STYLES.get(each.state, "red")),
        Text(str(queue) if queue else "–", style=QUEUE_STYLES.get(queue.state, "dim") if queue else "dim"),
        each.job_id or "",
        count(each.restarts) if each.restarts else "",
        f"{each.jobs_done}/{each.jobs_total}" if each.jobs_total else "",
        "" if each.round is None else str(each.round),
        each.job or "",
        "" if each.step is None or each.steps is None else f"{count(each.step)}/{count(each.steps)}",
        duration(each.seconds_left) if each.state == "running" else "",
        "" if each.best is None else percent(each.best),
    )


def _job_id(run: RunPaths) -> str | None:
    submission = load_submission(run)
    return submission.job_id if submission else None


def no_runs(folder: Path) -> UserError:
    """The error for a folder without runs."""
    return UserError(f"{folder}: no runs here; say where they are with --runs DIR")
