"""The schedule of a run: which lane trains which job next, and when the run ends. Plain values in and out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from distlth.plan import Job, descendants, ready


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
    """Consecutive deaths of a lane's ranks at the same progress; `nodes` saw all of them."""

    progress: tuple[int, str]
    count: int
    nodes: frozenset[str]


class Schedule:
    """The jobs of a run, from planned to done.

    A job is planned, then making (its ticket), then offered, then taken by a lane, then done or diverged. It
    survives the death of a lane's ranks as offered. What is made from a job that diverged is left out.
    With several lanes rounds are taken before branches, since more follows from them.
    `retries` is how many deaths without progress a lane may have in a row before the run is given up. `error`
    is for the user to fix; `lost` is what nobody has explained, and `suspects` are the nodes that may be the
    reason.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        done: Collection[str],
        retries: int,
        diverged: Collection[str] = (),
        lanes: int = 1,
    ) -> None:
        self.error: str | None = None
        self.lost: str | None = None
        self.suspects: frozenset[str] = frozenset()
        self.is_stopping = False
        self.jobs, self._retries = tuple(jobs), retries
        trunk_first = sorted(jobs, key=lambda job: not job.is_trunk) if lanes > 1 else jobs
        self._order = tuple(job.id for job in trunk_first)
        self._done = set(done)
        self._diverged = set(diverged)
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
        jobs = [job for job in ready(self.jobs, self._done) if job.id not in self._making | self._diverged]
        self._making.update(job.id for job in jobs)
        return jobs

    def offer(self, job_id: str) -> None:
        """Let lanes take a job: its ticket is made."""
        self._offered.add(job_id)

    def finish(self, job_id: str) -> None:
        """Count a job as done, and as progress of the lane that trained it."""
        self._done.add(job_id)
        self._close(job_id)

    def diverge(self, job_id: str) -> None:
        """Count a job as diverged: no result will come, nor anything that is made from it."""
        self._diverged.add(job_id)
        self._close(job_id)

    def _close(self, job_id: str) -> None:
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

    def lane_died(self, lane: int, checkpoint: str, reason: str, nodes: Collection[str] = ()) -> None:
        """Record that a lane's ranks died, on `nodes` where that is known.

        The run is given up at more than `retries` deaths in a row without progress. Progress is a finished
        job, or another newest `checkpoint` of the job that the lane trains.
        """
        self._attempts.pop(lane, None)
        progress = self._finished_by.get(lane, 0), checkpoint
        last = self._deaths.get(lane)
        if last is None or last.progress != progress:
            last = _Deaths(progress, 0, frozenset(nodes))
        deaths = self._deaths[lane] = _Deaths(progress, last.count + 1, last.nodes & set(nodes))
        if deaths.count > self._retries:
            where = f", each time on {', '.join(sorted(deaths.nodes))}" if deaths.nodes else ""
            message = f"lane {lane} died {deaths.count} times without progress{where}"
            self.give_up(f"{message}; the last time: {reason}", deaths.nodes)

    @property
    def is_waited_for(self) -> bool:
        """Whether a lane has nothing to train until one of the tickets that are being made is done."""
        settled = self._done | self._diverged
        being_made, untaken = self._making - self._offered - settled, self._offered - self._taken.keys()
        idle = self._attempts.keys() - self._taken.values()
        return bool(idle and being_made) and not untaken and not self.is_closed

    # -- the end --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Offer no more jobs; the lanes end after their next step."""
        self.is_stopping = True

    def fail(self, message: str) -> bool:
        """End the run with an error for the user; return False when an earlier one has ended it already."""
        is_first = not self.has_failed
        if is_first:
            self.error = message
        return is_first

    def give_up(self, message: str, suspects: Collection[str] = ()) -> None:
        """End the run over what nobody has explained: it may go on elsewhere, or later."""
        if not self.has_failed:
            self.lost, self.suspects = message, frozenset(suspects)

    @property
    def has_failed(self) -> bool:
        """Whether the run has ended before its last job."""
        return self.error is not None or self.lost is not None

    @property
    def is_ending(self) -> bool:
        """Whether ranks are to leave a checkpoint and end."""
        return self.is_stopping or self.has_failed

    @property
    def is_over(self) -> bool:
        """Whether no job is left to train, or the run has failed."""
        left_out = descendants(self.jobs, self._diverged)
        return self.has_failed or len(self._done) + len(self._diverged) + len(left_out) == len(self.jobs)

    @property
    def is_closed(self) -> bool:
        """Whether lanes get no more jobs: the run is over, or is stopping."""
        return self.is_stopping or self.is_over

    def _open_for(self, ask: Ask) -> str | None:
        """Return the first job in order that is offered and that no lane has taken.

        None for an attempt that is not current: its dead ranks' asks may still wait, and must not take the
        job of those that live. None as well while the lane's last job is not finished: ranks that have
        nothing to write wait here for the one that has.
        """
        if not self.is_current(ask.lane, ask.attempt) or self.taken_by(ask.lane):
            return None
        return next((job for job in self._order if job in self._offered and job not in self._taken), None)

    def _forget_earlier_turns(self, ask: Ask) -> None:
        """Drop answers that no rank needs: a rank asks for a turn when all ranks had the one before."""
        self._answers = {
            old: job for old, job in self._answers.items() if old.lane != ask.lane or old.turn >= ask.turn
        }
