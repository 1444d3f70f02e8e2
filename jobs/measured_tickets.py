"""Which tickets of a run `distlth bench infer` measures, and where it keeps what it finds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from distlth.bench.infer import InferRow
from distlth.bench.runtimes import Device
from distlth.bench.timings import TimingWriter
from distlth.config.schema import RunConfig
from distlth.errors import UserError
from distlth.facts.times import read_times
from distlth.plan import plan
from distlth.report.board import RunBoard
from distlth.report.console import times_table
from distlth.report.ending import complain
from distlth.run.lock import held_by
from distlth.run.paths import RunPaths
from distlth.run.results import load_results
from distlth.run.store import load_record


@dataclass(frozen=True)
class MeasuredTickets:
    """Tickets of a run, in the order in which they are measured.

    What is found is kept in the run where `keeps` says so, and drawn in its TensorBoard.
    """

    config: RunConfig
    writer: TimingWriter
    tickets: tuple[str, ...]
    keeps: bool

    @classmethod
    def of(cls, path: Path, tickets: Sequence[str], device: Device, *, keeps: bool) -> MeasuredTickets:
        """Return the tickets that are named, or all that are finished where none is.

        Raises:
            UserError: there is none.
            RunError: the folder holds no run, or a damaged file.
        """
        run = RunPaths(path)
        config = load_record(run).config
        results = load_results(run, plan(config))
        chosen = tuple(tickets) or tuple(job for job, result in results.items() if result.round > 0)
        if not chosen:
            raise UserError(f"{path}: no ticket is finished yet; the dense network is measured beside each")
        command = shlex.join(["distlth", *sys.argv[1:]])
        writer = TimingWriter(run, results, config.data.resolution, device, command)
        return cls(config, writer, chosen, keeps)

    @property
    def folder(self) -> Path:
        """Where the records are kept."""
        return self.writer.run.timings

    @property
    def is_one(self) -> bool:
        """Whether it is a single ticket, all of whose forms can be shown."""
        return len(self.tickets) == 1

    @property
    def are_summed_up(self) -> bool:
        """Whether a line a ticket is shown, from what was kept, in place of all its forms."""
        return self.keeps and not self.is_one

    @property
    def options(self) -> dict[str, Any]:
        """The options of `distlth.bench.infer.bench`."""
        return {
            "run": self.writer.run,
            "tickets": self.tickets,
            "keep": self._keep if self.keeps else None,
        }

    def table(self) -> Group:
        """Return a line for each ticket that was measured, in its fastest form."""
        times = read_times(self.writer.run, self.writer.results)
        return times_table([time for time in times if time.job in self.tickets])

    def draw(self) -> None:
        """Draw what is known of the run's times in its TensorBoard, unless its own process does."""
        run = self.writer.run
        if held_by(run.lock, self.config.cluster.stale_seconds) is None:
            board = RunBoard(run)
            board.results(tuple(self.writer.results.values()), self.config)
            board.close()

    def _keep(self, rows: Sequence[InferRow]) -> None:
        self.writer.keep(rows)
        ticket = rows[0].ticket
        if not self.is_one and ticket is not None:
            number = self.tickets.index(ticket) + 1
            complain(f"{ticket}, batch {rows[0].batch} ({number} of {len(self.tickets)})")
