"""The status of one run, printed once or shown until it ends."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from distlth.facts.status import JobStatus, RunStatus, read_status
from distlth.report.console.events import clock, describe
from distlth.report.console.layout import STATE_STYLES, new_table
from distlth.report.console.terminal import show, watch
from distlth.report.text import duration, percent
from distlth.run.paths import RunPaths

WATCH_SECONDS = 1.0


def status_table(status: RunStatus, queue: str | None = None) -> Group:
    """Draw where a run stands, with a line for each job; `queue` is a line about its submission."""
    scores = (f"{status.split} top-1", f"{status.split} top-5")
    table = new_table(("job", "method"), ("density", "state", "progress", *scores, "time", "left"))
    for previous, job in zip([None, *status.jobs], status.jobs, strict=False):
        if previous is not None and previous.round != job.round:
            table.add_section()
        table.add_row(*_cells(job), style="dim" if job.state == "waiting" else None)
    parts: list[RenderableType] = [_headline(status), *([Text(queue)] if queue else []), table]
    if status.last_event is not None:
        parts.append(
            Text(f"last: {clock(status.last_event['time'])}  {describe(status.last_event)}", style="dim")
        )
    return Group(*parts)


def print_status(status: RunStatus, queue: str | None = None) -> None:
    """Print where a run stands; `queue` is a line about its submission."""
    show(status_table(status, queue))


def watch_status(run: RunPaths, ask: Callable[[], tuple[str | None, bool]]) -> None:
    """Show where a run stands, again and again, until it neither runs nor waits to.

    `ask` returns the line about its submission, and whether the submission waits or runs.
    """

    def draw() -> tuple[RenderableType, bool]:
        status, (queue, is_active) = read_status(run), ask()
        return status_table(status, queue), status.state == "running" or is_active

    watch(draw, WATCH_SECONDS)


def _cells(job: JobStatus) -> tuple[RenderableType, ...]:
    result, progress = job.result, job.progress
    return (
        job.id,
        job.method,
        percent(job.density),
        Text("imported" if result and result.imported else job.state, style=STATE_STYLES[job.state]),
        f"{job.share_done:.0%}" if progress else "",
        percent(result.top1) if result else "",
        percent(result.top5) if result else "",
        duration(result.seconds) if result and not result.imported else "",
        duration(progress.seconds_left) if progress and job.state == "running" else "",
    )


def _headline(status: RunStatus) -> Text:
    left = f", {duration(status.seconds_left)} left" if status.state == "running" else ""
    return Text.assemble(
        (status.name, "bold"),
        "  ",
        (status.state, STATE_STYLES[status.state]),
        f"  {status.done} of {len(status.jobs)} jobs done{left}  {status.path}",
    )
