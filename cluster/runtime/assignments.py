"""Turning jobs into assignments: make a job's ticket, put its bytes where lanes fetch them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.runtime.broadcast import Pieces, hand_out
from cluster.runtime.head_tasks import map_on_head
from cluster.runtime.messages import Assignment
from distlth.config.schema import RunConfig
from distlth.files import format_tensors, retry_until_written
from distlth.maker import TicketMaker, remarks
from distlth.plan import Job
from distlth.preflight import preflight
from distlth.prune.mask import Mask
from distlth.run.events import EventLog
from distlth.run.paths import RunPaths
from distlth.ticket import Structured


@dataclass(frozen=True, eq=False)
class Made:
    """An assignment, and the mask in it: as it was made, and (None in round 0) its parent's."""

    assignment: Assignment
    structured: Structured
    parent_mask: Mask | None


class AssignmentMaker:
    """Makes the assignments of one run. Methods block; several threads may call them at the same time."""

    def __init__(self, config: RunConfig, run: RunPaths, log: EventLog) -> None:
        self._run, self._log = run, log
        self._tickets = TicketMaker(config, preflight(config), run, self._note_full_disk, map_on_head)
        self._shared: dict[tuple[str, int], Pieces] = {}
        self._sharing = threading.Lock()

    def write_init(self) -> None:
        """Write the weights before the first step, unless they are there."""
        self._tickets.write_init()

    def make(self, job: Job) -> Made:
        """Make a job's ticket, or read it where an earlier process has made it, and hand its bytes out.

        Raises:
            RunError: a file of the parent, or of the mask, is missing or damaged.
        """
        start = time.perf_counter()
        structured, parent_mask = self._tickets.mask(job)
        seconds = time.perf_counter() - start
        self._log.note("mask", job=job.id, density=structured.mask.density, seconds=seconds)
        for remark in remarks(structured, parent_mask):
            self._log.note(**remark, job=job.id)
        assignment = Assignment(
            job=job,
            mask_digest=structured.mask.digest(),
            mask=hand_out(self._run.job(job.id).mask.read_bytes()),
            weights=self._hand_out_weights(job),
        )
        return Made(assignment, structured, parent_mask)

    def insist(self, write: Callable[[], None]) -> None:
        """Call `write` until a full disk has taken what it writes."""
        retry_until_written(write, self._note_full_disk)

    def _hand_out_weights(self, job: Job) -> Pieces:
        """Put the weights that a job starts from; those that many jobs share only once."""
        if job.start == "trained":
            return hand_out(format_tensors(self._tickets.weights(job)))
        key = job.start, job.seed
        with self._sharing:
            if key not in self._shared:
                self._shared[key] = hand_out(format_tensors(self._tickets.weights(job)))
            return self._shared[key]

    def _note_full_disk(self, error: OSError, seconds: float) -> None:
        self._log.note("waiting-for-disk", error=f"{error}; next try in {seconds:g} s")
