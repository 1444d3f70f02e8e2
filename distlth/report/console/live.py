"""The live view of `distlth run`: bars on a terminal, else a line now and then."""

from __future__ import annotations

import time
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distlth.facts.rows import read_divergences, read_results
from distlth.facts.status import JobStatus, RunStatus, read_status
from distlth.report.console.events import clock, describe
from distlth.report.console.results import digests_table, points_table, results_table
from distlth.report.console.terminal import run_console
from distlth.report.ending import complain
from distlth.report.text import duration, percent
from distlth.run.events import read_events
from distlth.run.paths import RunPaths
from distlth.run.results import Progress

# Without a terminal, a job gets a line when it begins an epoch, but at most one in BUSY_SECONDS, and within
# an epoch one in QUIET_SECONDS.
BUSY_SECONDS = 10.0
QUIET_SECONDS = 60.0

# What the bars show anyway.
QUIET_EVENTS = ("job-start", "first-step", "last-step", "ray")

BAR_WIDTH = 28


class RunView:
    """The live view of a run, read from its directory.

    The events that are logged after the view is made are printed as lines that stay.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or run_console()
        self._live: Live | None = None
        self._since = time.time()
        self._log_offset = 0
        self._shown: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> RunView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, run: RunPaths) -> None:
        """Print the events since the last call, and show where the run stands."""
        events, self._log_offset = read_events(run.log, self._log_offset)
        for event in events:
            if event["time"] >= self._since and event["event"] not in QUIET_EVENTS:
                self._print_line(describe(event), event["time"])
        self.update(read_status(run))

    def update(self, status: RunStatus) -> None:
        """Show where the run stands."""
        if self._console.is_terminal:
            self._update_bars(status)
        else:
            self._update_lines(status)

    def summary(self, run: RunPaths) -> None:
        """Write the run's report, unless it is new; print its results and where everything is.

        The results are there already: a report that cannot be written is said, and is no error.
        """
        self.close()
        if not self._has_new_report(run):
            self._write_report(run)
        results = read_results(run)
        self._console.print(results_table(results))
        if len(results.seeds) > 1:
            self._console.print(points_table(results))
            self._console.print(results.verdict, markup=False, soft_wrap=True)
        self._console.print(digests_table(results))
        for divergence in read_divergences(run):
            self._console.print(f"diverged: {divergence.message}", markup=False, soft_wrap=True)
        places = {"run": run.root, "tensorboard": run.tensorboard, "report": run.report.page}
        for name, path in places.items():
            self._console.print(f"{name:12}{path}", markup=False, soft_wrap=True)

    def _has_new_report(self, run: RunPaths) -> bool:
        """Return whether the coordinator has written the report since this view was made."""
        with suppress(OSError):
            return run.report.page.stat().st_mtime > self._since
        return False

    def _write_report(self, run: RunPaths) -> None:
        from distlth.report.summary import write_report  # matplotlib, which nothing before this needs

        try:
            write_report(run)
        except Exception as error:
            complain(f"the report cannot be written ({error}); distlth report {run.root} tries again")

    def close(self) -> None:
        """Remove the bars; the lines stay."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print_line(self, line: str, seconds: float) -> None:
        """Print a line that stays, with its time (seconds since the epoch)."""
        self._console.print(f"{clock(seconds)}  {line}", markup=False, soft_wrap=True)

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
                self._print_line(_line(status, job, job.progress), time.time())


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
