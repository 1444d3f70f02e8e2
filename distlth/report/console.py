"""What the command prints on a terminal or into a log: tables, live progress, errors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distlth.facts.rows import Results, read_results
from distlth.facts.status import JobStatus, RunStatus, read_events, read_status
from distlth.report.cells import DIGEST_COLUMNS, RESULT_COLUMNS, digest_cells, result_cells
from distlth.report.text import count, duration, memory, percent
from distlth.run.paths import RunPaths
from distlth.run.results import Progress

if TYPE_CHECKING:  # torch and matplotlib, which a login node should not have to load
    from distlth.facts.compare import Comparison, Finding
    from distlth.models.anatomy import ConvLayer

STATE_STYLES = {
    "done": "green",
    "running": "cyan",
    "starting": "cyan",
    "stopped": "yellow",
    "failed": "bold red",
    "waiting": "dim",
}

FACT_STYLES = {"same": "green", "differs": "bold red", "missing": "dim"}

# Of the tensors or layers of a job that differ, so many are named; `--json` has all.
SHOWN_DETAILS = 3

# A log gets a line at a new epoch, but not more often than this, and at least one in that many seconds.
BUSY_SECONDS = 10.0
QUIET_SECONDS = 60.0

WATCH_SECONDS = 1.0

# What the bars show anyway.
QUIET_EVENTS = ("job-start", "first-step", "last-step", "ray")

BAR_WIDTH = 28


@dataclass(frozen=True)
class PlannedJob:
    """A line of the plan: what a job needs. `memory_bytes` is an estimate for one rank."""

    job: str
    round: int
    method: str
    density: float
    epochs: int
    steps: int
    memory_bytes: float


def results_table(results: Results) -> Table:
    """Draw a line for each finished job, with a rule between rounds."""
    table = _table("results")
    _add_columns(table, left=RESULT_COLUMNS[:2], right=RESULT_COLUMNS[2:])
    for previous, row in zip([None, *results.rows], results.rows, strict=False):
        if previous is not None and previous.round != row.round:
            table.add_section()
        table.add_row(*result_cells(row))
    return table


def digests_table(results: Results) -> Table:
    """Draw the digests of each ticket's mask and trained weights: equal digests are equal bits."""
    table = _table("digests")
    _add_columns(table, left=DIGEST_COLUMNS, right=())
    for row in results.rows:
        table.add_row(*digest_cells(row))
    return table


def comparison_view(comparison: Comparison) -> Group:
    """Two runs beside each other: a line for each thing they ran on, a table of jobs, and what differs."""
    from distlth.facts.compare import RUN

    run_wide = [found for found in comparison.findings if found.place == RUN]
    parts: list[RenderableType] = [
        Text(f"first   {comparison.first_run}\nsecond  {comparison.second_run}"),
        Text.assemble(*[part for found in run_wide for part in _fact(found)]),
        _jobs_comparison(comparison),
    ]
    lines = [
        line for found in comparison.findings if found.state == "differs" for line in _differences(found)
    ]
    return Group(*parts, *map(Text, lines), _verdict(comparison))


def _fact(found: Finding) -> tuple[tuple[str, str], ...]:
    aside = "" if found.counts or found.state != "differs" else "  (does not count)"
    return ((f"{found.what:12}", ""), (found.state, FACT_STYLES[found.state]), (f"{aside}\n", "dim"))


def _jobs_comparison(comparison: Comparison) -> Table:
    from distlth.facts.compare import RUN

    table = _table(None)
    whats = ("mask", "metrics", "weights", "accuracy")
    _add_columns(table, left=("job", *whats), right=())
    states = {(found.place, found.what): found.state for found in comparison.findings}
    for job in dict.fromkeys(found.place for found in comparison.findings if found.place != RUN):
        cells = [states[job, what] for what in whats]
        table.add_row(job, *[Text(cell, style=FACT_STYLES[cell]) for cell in cells])
    return table


def _differences(found: Finding) -> list[str]:
    more = len(found.details) - SHOWN_DETAILS
    lines = [f"{found.place} {found.what}: {line}" for line in found.details[:SHOWN_DETAILS]]
    return [*lines, f"{found.place} {found.what}: and {more} more"] if more > 0 else lines


def _verdict(comparison: Comparison) -> Text:
    first, jobs = comparison.first_difference, comparison.jobs_compared
    if first is None:
        return Text(f"identical in all that both have; {jobs} jobs compared to their end", style="green")
    return Text(f"first difference: {first.place} {first.what}: {first.details[0]}", style="bold red")


def plan_table(jobs: Sequence[PlannedJob]) -> Table:
    """The jobs of a run before it starts, with the steps and the memory that each needs."""
    table = _table("jobs", footer=True)
    _add_columns(table, left=("job", "method"), right=("density", "epochs", "steps", "memory a rank"))
    for job in jobs:
        table.add_row(
            job.job,
            job.method,
            percent(job.density),
            count(job.epochs),
            count(job.steps),
            memory(job.memory_bytes),
        )
    totals = (
        f"{len(jobs)} jobs",
        "",
        "",
        sum(job.epochs for job in jobs),
        sum(job.steps for job in jobs),
        "",
    )
    _add_footer(table, totals)
    return table


def layers_table(layers: Sequence[ConvLayer]) -> Table:
    """The prunable layers: the weight's shape, how many weights, and the work of one image."""
    table = _table("prunable layers", footer=True)
    _add_columns(table, left=("layer",), right=("weight", "groups", "weights", "M multiply-adds"))
    for layer in layers:
        table.add_row(
            layer.name,
            " × ".join(map(str, layer.weight_shape)),
            str(layer.groups),
            count(layer.num_weights),
            f"{layer.macs / 1e6:,.1f}",
        )
    weights, macs = sum(layer.num_weights for layer in layers), sum(layer.macs for layer in layers)
    _add_footer(table, (f"{len(layers)} layers", "", "", weights, f"{macs / 1e6:,.1f}"))
    return table


def status_table(status: RunStatus, queue: str | None = None) -> Group:
    """All of a run: its state, how its submission stands, what runs now, and a line for each job."""
    table = _table(None)
    _add_columns(
        table,
        left=("job", "method"),
        right=("density", "state", "progress", "top-1", "top-5", "time", "left"),
    )
    for previous, job in zip([None, *status.jobs], status.jobs, strict=False):
        if previous is not None and previous.round != job.round:
            table.add_section()
        table.add_row(*_status_row(job), style="dim" if job.state == "waiting" else None)
    parts: list[RenderableType] = [_headline(status), *([Text(queue)] if queue else []), table]
    if status.last_event is not None:
        parts.append(
            Text(f"last: {_clock(status.last_event['time'])}  {describe(status.last_event)}", style="dim")
        )
    return Group(*parts)


def describe(event: Mapping[str, Any]) -> str:
    """One line for an event of a run's log, of a kind that is known or not."""
    words = [str(event["job"])] if "job" in event else []
    words.append(str(event["event"]).replace("-", " "))
    for key, value in event.items():
        if key not in ("time", "event", "job"):
            words.append(_detail(key, value))
    return "  ".join(words)


def describe_line(event: Mapping[str, Any]) -> str:
    """One line for an event of a run's log, with its time."""
    return f"{_clock(event['time'])}  {describe(event)}"


def show(renderable: RenderableType) -> None:
    """Print a table or a line to standard output, plain where that is not a terminal."""
    output_console().print(renderable)


def print_status(status: RunStatus, queue: str | None = None) -> None:
    """Print where a run stands; `queue` is a line about its submission."""
    show(status_table(status, queue))


def watch_status(run: RunPaths, ask: Callable[[], tuple[str | None, bool]]) -> None:
    """Show where a run stands, again and again, until it neither runs nor waits to.

    `ask` gives the line about its submission, and whether that waits or runs.
    """
    with Live(console=output_console(), auto_refresh=False) as live:
        while True:
            status, (queue, is_active) = read_status(run), ask()
            live.update(status_table(status, queue), refresh=True)
            if status.state != "running" and not is_active:
                return
            time.sleep(WATCH_SECONDS)


class RunView:
    """The live view of `distlth run`, told by the run directory: bars on a terminal, else plain lines.

    Events of the run's log from the moment on that the view is made are printed as lines that stay.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or output_console()
        self._live: Live | None = None
        self._since = time.time()
        self._log_offset = 0
        self._shown: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, run: RunPaths) -> None:
        """Print what happened since the last call, and show where the run stands."""
        events, self._log_offset = read_events(run.log, self._log_offset)
        for event in events:
            if event["time"] >= self._since and event["event"] not in QUIET_EVENTS:
                self.event(describe(event), event["time"])
        self.update(read_status(run))

    def update(self, status: RunStatus) -> None:
        """Show where the run stands."""
        if self._console.is_terminal:
            self._update_bars(status)
        else:
            self._update_lines(status)

    def event(self, line: str, seconds: float | None = None) -> None:
        """Print a line that stays, with its time (now, unless given)."""
        clock = _clock(time.time() if seconds is None else seconds)
        self._console.print(f"{clock}  {line}", markup=False, soft_wrap=True)

    def summary(self, run: RunPaths) -> None:
        """Write the run's report, and print the table of its results and where everything lies."""
        from distlth.report.summary import write_report

        self.close()
        written = write_report(run)
        results = read_results(run)
        self._console.print(results_table(results))
        self._console.print(digests_table(results))
        places = {"run": run.root, "tensorboard": run.tensorboard, "report": written[0].parent}
        for name, path in places.items():
            self._console.print(f"{name:12}{path}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bars away; the lines stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _update_bars(self, status: RunStatus) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(_bars(status), refresh=True)

    def _update_lines(self, status: RunStatus) -> None:
        for job in status.running:
            assert job.progress is not None
            epoch, shown = self._shown.get(job.id, (-1, 0.0))
            pause = QUIET_SECONDS if job.progress.epoch == epoch else BUSY_SECONDS
            if status.time - shown >= pause:
                self._shown[job.id] = (job.progress.epoch, status.time)
                self.event(_line(status, job, job.progress))


def _bars(status: RunStatus) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=12, no_wrap=True)
    grid.add_column(width=BAR_WIDTH)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for job in status.running:
        if job.progress is not None:
            grid.add_row(job.id, _bar(job.progress.step, job.progress.steps), _job_words(job, job.progress))
    done = sum(job.share_done for job in status.jobs)
    grid.add_row(Text(status.name, style="bold"), _bar(done, len(status.jobs)), _run_words(status))
    return grid


def _bar(completed: float, total: float) -> ProgressBar:
    return ProgressBar(
        total=total, completed=completed, width=BAR_WIDTH, complete_style="cyan", finished_style="green"
    )


def _job_words(job: JobStatus, progress: Progress) -> str:
    return (
        f"round {job.round} {job.method} {percent(job.density)}  {_position(progress)}  "
        f"loss {progress.loss:.3f}  {progress.images_per_second:,.0f} images/s  "
        f"{duration(progress.seconds_left)} left"
    )


def _run_words(status: RunStatus) -> str:
    return f"{status.done} of {len(status.jobs)} jobs  {duration(status.seconds_left)} left"


def _line(status: RunStatus, job: JobStatus, progress: Progress) -> str:
    return f"{job.id}  {_job_words(job, progress)}  (run: {_run_words(status)})"


def _position(progress: Progress) -> str:
    return f"epoch {progress.epoch}/{progress.epochs} step {progress.step:,}/{progress.steps:,}"


def _status_row(job: JobStatus) -> tuple[RenderableType, ...]:
    result, progress = job.result, job.progress
    return (
        job.id,
        job.method,
        percent(job.density),
        Text(job.state, style=STATE_STYLES[job.state]),
        f"{job.share_done:.0%}" if progress else "",
        percent(result.top1) if result else "",
        percent(result.top5) if result else "",
        duration(result.seconds) if result else "",
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


def _detail(key: str, value: Any) -> str:
    if key in ("density", "top1", "top5") and isinstance(value, float):
        return f"{key} {percent(value)}"
    if key == "seconds" and isinstance(value, int | float):
        return duration(value)
    if key in ("error", "message"):
        return str(value)
    return f"{key} {value}"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S")


def output_console() -> Console:
    """Standard output."""
    # Into a file or a pipe nothing is cut to the width of a terminal that is not there.
    width = None if sys.stdout.isatty() else 140
    return Console(highlight=False, width=width)


def plain_table(left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table with columns of words, then columns of numbers."""
    table = _table(None)
    _add_columns(table, left, right)
    return table


def _table(title: str | None, *, footer: bool = False) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_footer=footer,
        header_style="bold",
        footer_style="bold",
        pad_edge=False,
    )


def _add_columns(table: Table, left: Sequence[str], right: Sequence[str]) -> None:
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)


def _add_footer(table: Table, cells: Sequence[str | int]) -> None:
    for column, cell in zip(table.columns, cells, strict=True):
        column.footer = cell if isinstance(cell, str) else count(cell)
