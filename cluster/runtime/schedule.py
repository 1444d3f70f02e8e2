"""The schedule of a run: which lane trains which job next, and when the run ends. Plain values in and out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from distlth.plan import Job, ready


@dataclass(frozen=True)
class Ask:
    """A rank's request for its lane's next job: the `turn`-th job of this `attempt`, counted from 0.

    An attempt is one start of a lane's ranks. All ranks of an attempt send equal asks.
    """

    lane: int
    attempt: str
    turn: int


@dataclass(frozen=True)
class _Deaths:
    """Consecutive deaths of a lane's ranks that left the lane at the same progress."""

    progress: tuple[int, str]
    count: int


class Schedule:
    """The jobs of a run, from planned to done.

    A job is planned, then making (its ticket), then offered, then taken by a lane, then done. It survives
    the death of a lane's ranks as offered. `retries` is how many deaths without progress a lane may have in
    a row before the run fails.
    """

    def __init__(self, jobs: Sequence[Job], done: Collection[str], retries: int) -> None:
        self.error: str | None = None
        self.is_stopping = False
        self.jobs, self._retries = tuple(jobs), retries
        self._done = set(done)
        self._making: set[str] = set()
        self._offered: set[str] = set()
        self._taken: dict[str, int] = {}
        self._attempts: dict[int, str] = {}
        self._answers: dict[Ask, str | None] = {}
        self._finished_by: dict[int, int] = {}
        self._deaths: dict[int, _Deaths] = {}

    # -- jobs -----------------------------------------------------------------------------------------

    def start_making(self) -> list[Job]:
        """Return the jobs whose ticket can be made now, each only once, in plan order."""
        jobs = [job for job in ready(self.jobs, self._done) if job.id not in self._making]
        self._making.update(job.id for job in jobs)
        return jobs

    def offer(self, job_id: str) -> None:
        """Let lanes take a job: its ticket is made."""
        self._offered.add(job_id)

    def finish(self, job_id: str) -> None:
        """Count a job as done, and as progress of the lane that trained it."""
        self._done.add(job_id)
        self._offered.discard(job_id)
        lane = self._taken.pop(job_id, None)
        if lane is not None:
            self._finished_by[lane] = self._finished_by.get(lane, 0) + 1

    # -- lanes ----------------------------------------------------------------------------------------

    def start_lane(self, lane: int, attempt: str) -> None:
        """Begin an attempt of a lane: the job that its last attempt took and did not finish is open again."""
        self._attempts[lane] = attempt
        self._taken = {job: owner for job, owner in self._taken.items() if owner != lane}
        self._answers = {ask: job for ask, job in self._answers.items() if ask.lane != lane}

    def is_current(self, lane: int, attempt: str) -> bool:
        """Return whether this is the attempt of the lane that runs now."""
        return self._attempts.get(lane) == attempt

    def taken_by(self, lane: int) -> list[str]:
        """Return the ids of the jobs that a lane has taken and not finished."""
        return sorted(job for job, owner in self._taken.items() if owner == lane)

    def can_answer(self, ask: Ask) -> bool:
        """Return whether `answer` has a job for this ask, or none will come."""
        return ask in self._answers or self.is_closed or self._open_for(ask) is not None

    def answer(self, ask: Ask) -> str | None:
        """Return the id of the lane's next job, None when no job is left. Equal asks get equal answers."""
        self._forget_earlier_turns(ask)
        if ask not in self._answers:
            job = None if self.is_closed else self._open_for(ask)
            self._answers[ask] = job
            if job is not None:
                self._taken[job] = ask.lane
        return self._answers[ask]

    def lane_died(self, lane: int, checkpoint: str, reason: str) -> str | None:
        """Record that a lane's ranks died; return why the run must fail, None where it need not.

        The run fails at more than `retries` deaths in a row without progress. Progress is a finished job, or
        another newest `checkpoint` of the job that the lane trains.
        """
        self._attempts.pop(lane, None)
        progress = self._finished_by.get(lane, 0), checkpoint
        last = self._deaths.get(lane)
        count = last.count + 1 if last and last.progress == progress else 1
        self._deaths[lane] = _Deaths(progress, count)
        if count <= self._retries:
            return None
        return f"lane {lane} died {count} times without progress; the last time: {reason}"

    # -- the end --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Offer no more jobs; the lanes end after their next step."""
        self.is_stopping = True

    def fail(self, message: str) -> bool:
        """End the run with an error; return False when an earlier error has ended it already."""
        is_first = self.error is None
        if is_first:
            self.error = message
        return is_first

    @property
    def is_over(self) -> bool:
        """Whether all jobs are done, or the run has failed."""
        return self.error is not None or len(self._done) == len(self.jobs)

    @property
    def is_closed(self) -> bool:
        """Whether lanes get no more jobs: the run is over, or is stopping."""
        return self.is_stopping or self.is_over

    def _open_for(self, ask: Ask) -> str | None:
        """Return the first job in plan order that is offered and that no lane has taken.

        None for an attempt that is not current: its dead ranks' asks may still wait, and must not take the
        job of those that live. None as well while the lane's last job is not finished: ranks that have
        nothing to write wait here for the one that has.
        """
        if not self.is_current(ask.lane, ask.attempt) or self.taken_by(ask.lane):
            return None
        ids = (job.id for job in self.jobs)
        return next((job for job in ids if job in self._offered and job not in self._taken), None)

    def _forget_earlier_turns(self, ask: Ask) -> None:
        """Drop answers that no rank needs: a rank asks for a turn when all ranks had the one before."""
        self._answers = {
            old: job for old, job in self._answers.items() if old.lane != ask.lane or old.turn >= ask.turn
        }
