"""The coordinator: the actor that hands jobs to lanes, has their tickets made, and finds ranks that hang.

All its state can be derived from the run directory: a new coordinator resumes where a killed one was. What
is next is decided in `schedule`, tickets are made in `assignments`; here both meet Ray's calls and the clock.

The process that holds Ray imports this module too, to start the actor. It should not wait for torch, which is
imported where only the actor comes by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray

from cluster.runtime.heartbeat import Beat, HangWatch, kill, kill_rank
from cluster.runtime.messages import Assignment, Outcome
from cluster.runtime.ray_watch import living_nodes
from cluster.runtime.schedule import Ask, Schedule
from cluster.runtime.start_watch import Started, StartWatch
from distlth.config.schema import RunConfig
from distlth.errors import UserError
from distlth.files import remove_temporaries
from distlth.plan import Job, plan
from distlth.process import memory_shortage
from distlth.run.events import EventLog
from distlth.run.paths import RunPaths, newest_checkpoint
from distlth.run.results import Divergence, JobResult, load_divergences, load_results

if TYPE_CHECKING:
    from distlth.report.board import RunBoard

# How often ranks that hang are looked for, at most.
WATCH_SECONDS = 5.0


# Each rank that waits for a job is a pending call. Ray's default limit of 1,000 would let the waiting ranks
# of a large lane lock out everyone else, their own heartbeats included.
@ray.remote(num_cpus=0, max_concurrency=100_000)  # type: ignore[call-overload]  # it takes it, untyped
class Coordinator:
    """The one actor that decides, prunes, refills, regroups and hands out masks."""

    def __init__(self, config: RunConfig, run: RunPaths) -> None:
        from cluster.runtime.assignments import AssignmentMaker
        from distlth.report.board import RunBoard

        jobs = plan(config)
        self.config, self.run = config, run
        self.results = load_results(run, jobs)
        diverged = load_divergences(run, jobs)
        self.schedule = Schedule(jobs, self.results, config.cluster.retries, diverged, config.cluster.lanes)
        self.log = EventLog(run.log)
        self.maker = AssignmentMaker(config, run, self.log)
        self.assignments: dict[str, Assignment] = {}
        self.watch = HangWatch(config.cluster.hang_seconds)
        self.starts = StartWatch(config.cluster.start_seconds)
        self.board = RunBoard(run)
        self.changed = asyncio.Condition()
        self.drawing = asyncio.Lock()
        self.started = asyncio.Event()
        self.caught_up = asyncio.Event()  # masks of done jobs are drawn: a curve's rounds come in their order
        self.undrawn: set[str] = set()  # jobs whose tickets are made here, until their masks are drawn
        self.background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Make the tickets that can be made from what is on disk. To be called once; lanes wait for it."""
        self.log.note("run-start", done=len(self.results), jobs=len(self.schedule.jobs))
        await asyncio.to_thread(_tidy, self.run, tuple(self.results))
        await self.draw(self.board.config, self.config.to_yaml())
        await asyncio.to_thread(self.maker.write_init)
        if self.results:
            self.keep(self.draw_earlier())
        else:
            self.caught_up.set()
        self.make_tickets()
        for lane in range(self.config.cluster.lanes):
            self.starts.begin(lane, time.monotonic())
        self.keep(self.watch_ranks())
        self.started.set()

    # -- called by lanes ------------------------------------------------------------------------------

    async def next_job(self, lane: int, attempt: str, turn: int) -> Assignment | None:
        """Return the lane's next job, None when no job is left. Every rank of an attempt gets the same."""
        ask = Ask(lane, attempt, turn)
        async with self.changed:
            await self.changed.wait_for(lambda: self.schedule.can_answer(ask))
            job_id = self.schedule.answer(ask)
            return None if job_id is None else self.assignments[job_id]

    async def lane_starting(self, lane: int, ranks: list[Started]) -> None:
        """Hear which ranks a lane has started; they have not met yet."""
        self.starts.started(lane, ranks, time.monotonic())

    async def lane_started(self, lane: int, attempt: str, ranks: list[Beat]) -> None:
        """Begin an attempt of a lane; its unfinished job is open again.

        `ranks` holds the first beat of each rank, in order: from here on a silent rank counts as hung.
        """
        await self.started.wait()
        self.log.note("lane-start", lane=lane)
        self.starts.met(lane)
        for job_id in self.schedule.taken_by(lane):
            # Its ranks may have died after writing a result, before `job_done`.
            if result := await asyncio.to_thread(JobResult.load, self.run.job(job_id)):
                await self.job_done(result)
        self.watch.forget(lane)
        for rank, beat in enumerate(ranks):
            self.watch.hear(lane, rank, beat, time.monotonic())
        async with self.changed:
            self.schedule.start_lane(lane, attempt)
            self.changed.notify_all()

    async def lane_failed(self, lane: int, error: str, ranks: Sequence[int] = ()) -> None:
        """Record that `ranks` of a lane died, and the others with them.

        After too many deaths without progress the run is given up.
        """
        if self.starts.is_given_up(lane):
            return  # it was counted then
        nodes = _names_of([self.starts.ranks(lane)[rank].node for rank in ranks if self.starts.ranks(lane)])
        self.starts.begin(lane, time.monotonic())
        checkpoint = await asyncio.to_thread(_newest_checkpoint, self.run, self.schedule.taken_by(lane))
        self.watch.forget(lane)
        error += memory_shortage()
        self.log.note("lane-restart", lane=lane, error=error)
        async with self.changed:
            self.schedule.lane_died(lane, checkpoint, error, nodes)
            self.changed.notify_all()

    async def lane_ended(self, lane: int, error: str, actor: str | None) -> None:
        """Record that Ray Train ended a lane, of which an `actor` died where that is known."""
        ranks = [rank for rank, started in enumerate(self.starts.ranks(lane)) if started.actor == actor]
        await self.lane_failed(lane, error, ranks)

    async def job_done(self, result: JobResult) -> None:
        """Take in the result that a lane has written on its node; make the tickets that depend on it."""
        self.log.note(
            "job-done",
            job=result.job,
            density=result.density,
            split=result.split,
            top1=result.top1,
            seconds=result.seconds,
        )
        async with self.changed:
            self.results[result.job] = result
            self.assignments.pop(result.job, None)
            self.schedule.finish(result.job)
            self.changed.notify_all()
        self.make_tickets()
        self.keep(self.tidy_up_after(result.job, list(self.results.values())))

    async def job_diverged(self, job_id: str, message: str) -> None:
        """Record that a job's loss was not finite, and go on with the jobs that are not made from it."""
        divergence = Divergence(job_id, message, time.time())
        await asyncio.to_thread(self.maker.insist, lambda: divergence.save(self.run.job(job_id)))
        self.log.note("diverged", job=job_id, message=message)
        async with self.changed:
            self.assignments.pop(job_id, None)
            self.schedule.diverge(job_id)
            self.changed.notify_all()

    async def beat(self, lane: int, attempt: str, rank: int, beat: Beat) -> bool:
        """Hear a rank's sign of life; return whether it is to leave a checkpoint and end."""
        if self.schedule.is_current(lane, attempt):
            self.watch.hear(lane, rank, beat, time.monotonic())
        return self.schedule.is_ending

    async def rank_done(self, lane: int, attempt: str, rank: int) -> None:
        """Expect no more beats of a rank that ends as it should."""
        if self.schedule.is_current(lane, attempt):
            self.watch.forget(lane, rank)

    async def fail(self, message: str) -> None:
        """End the run with an error: results stay on disk, lanes get no more jobs."""
        async with self.changed:
            if self.schedule.fail(message):
                self.log.note("failed", message=message)
            self.changed.notify_all()

    def note(self, event: str, **details: Any) -> None:
        """Add an event to the run's log."""
        self.log.note(event, **details)

    # -- called by the process that holds Ray ---------------------------------------------------------

    async def outcome(self, seconds: float) -> Outcome:
        """Return where the run stands after `seconds`, or as soon as it is over."""
        is_over = await self.is_over_within(seconds)
        quiet = self.schedule.is_ending and not self.watch.ranks
        at = self.schedule
        return Outcome(is_over, at.error, at.lost, at.suspects, quiet, self.log.unwritten)

    async def stop(self, why: str) -> None:
        """Have the ranks write a checkpoint at their next step and end; hand out no more jobs."""
        self.log.note("stopping", message=f"by {why}")
        async with self.changed:
            self.schedule.stop()
            self.changed.notify_all()

    async def close(self) -> None:
        """Finish what is being written, where the run is over.

        A run that stops makes its unfinished tickets again when it resumes.
        """
        if self.schedule.is_over:
            await asyncio.gather(*self.background)
        is_done = self.schedule.is_over and not self.schedule.has_failed
        if is_done:
            self.log.note("run-done")
        await self.draw(self.board.close)
        if is_done:
            await asyncio.to_thread(_report, self.run)

    # -- in the background ----------------------------------------------------------------------------

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work in the background."""
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    def make_tickets(self) -> None:
        """Start to make the tickets of all jobs whose parent is done."""
        for job in self.schedule.start_making():
            self.undrawn.add(job.id)
            self.keep(self.make(job))

    async def make(self, job: Job) -> None:
        """Make a job's ticket and offer it to the lanes."""
        try:
            made = await asyncio.to_thread(self.maker.make, job)
            async with self.changed:
                self.assignments[job.id] = made.assignment
                self.schedule.offer(job.id)
                self.changed.notify_all()
            structured = made.structured
            await self.earlier_are_drawn(job)
            await self.draw(self.board.mask, job, structured.mask, made.parent_mask, structured.blocks)
        except UserError as error:
            await self.fail(str(error))
        except Exception as error:
            async with self.changed:
                self.schedule.give_up(f"making the mask of job {job.id} failed: {error!r}")
                self.changed.notify_all()
            raise
        finally:
            async with self.changed:
                self.undrawn.discard(job.id)
                self.changed.notify_all()

    async def earlier_are_drawn(self, job: Job) -> None:
        """Wait until the masks of earlier rounds are drawn: the points of a curve come in their order.

        A run that resumes may make the tickets of several rounds at once.
        """
        await self.caught_up.wait()
        curve = [one for one in self.schedule.jobs if (one.seed, one.method) == (job.seed, job.method)]
        earlier = {one.id for one in curve if one.round < job.round}
        async with self.changed:
            await self.changed.wait_for(lambda: self.undrawn.isdisjoint(earlier))

    async def watch_ranks(self) -> None:
        """Kill ranks that hang, and those that do not meet, so that their lane restarts."""
        pause = min(WATCH_SECONDS, self.config.cluster.hang_seconds / 4)
        while not await self.is_over_within(pause):
            for lane in self.starts.overdue(time.monotonic()):
                await self.give_up_start(lane)
            for (lane, rank), beat in self.watch.hung(time.monotonic()).items():
                self.watch.forget(lane, rank)
                message = _describe_hang(beat, self.config.cluster.hang_seconds)
                self.log.note("hang", lane=lane, rank=rank, message=message)
                kill(beat)

    async def give_up_start(self, lane: int) -> None:
        """End an attempt whose ranks did not meet in time."""
        ranks = self.starts.ranks(lane)
        what = f"its {len(ranks)} ranks did not all meet" if ranks else "its ranks did not start"
        await self.lane_failed(lane, f"{what} in {self.starts.seconds:g} s (cluster.start_seconds)")
        self.starts.give_up(lane)
        for rank in ranks:
            kill_rank(rank.node, rank.pid)

    async def is_over_within(self, seconds: float) -> bool:
        """Wait until the run is over, or for `seconds`; return whether it is over."""
        async with self.changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.schedule.is_over), seconds)
        return self.schedule.is_over

    async def draw(self, drawing: Callable[..., None], *arguments: Any) -> None:
        """Draw something on the board. A drawing that fails does not end the run: the log says so."""
        try:
            await asyncio.to_thread(drawing, *arguments)
        except Exception as error:
            self.log.note("drawing-failed", error=repr(error))

    async def tidy_up_after(self, job_id: str, results: Sequence[JobResult]) -> None:
        """Remove a done job's checkpoints, and draw the results so far once no lane waits for a ticket.

        A picture takes a second of Python, in which the threads that make tickets hardly get a turn.
        """
        await asyncio.to_thread(_clear_checkpoints, self.run, job_id)
        async with self.drawing:  # one after the other, each with the results of its time
            async with self.changed:
                await self.changed.wait_for(lambda: not self.schedule.is_waited_for)
            await self.draw(self.board.results, results, self.config)

    async def draw_earlier(self) -> None:
        """Draw what an earlier coordinator did not live to draw."""
        results = sorted(self.results.values(), key=lambda result: result.finished)
        done = [job for job in self.schedule.jobs if job.id in self.results]
        async with self.drawing:
            for job in done:
                await self.draw(draw_mask, self.board, self.run, job)
            self.caught_up.set()
            await self.draw(self.board.catch_up, results, self.config)


def draw_mask(board: RunBoard, run: RunPaths, job: Job) -> None:
    """Draw a done job's mask from its files, unless the coordinator that made it lived to draw it."""
    from distlth.run.tickets import load_structured

    if board.shows_mask(job):
        return
    made = load_structured(run.job(job.id))
    before = load_structured(run.job(job.parent)) if job.parent else None
    if made is not None:
        board.mask(job, made.mask, before.mask if before else None, made.blocks)


def _report(run: RunPaths) -> None:
    """Write a run's report here, where torch is loaded. The command tries again, and says what fails."""
    from distlth.report.summary import write_report

    with suppress(Exception):
        write_report(run)


def _tidy(run: RunPaths, done: Iterable[str]) -> None:
    """Remove what killed processes of the run have left half-done."""
    remove_temporaries(run.root)
    for job_id in done:
        _clear_checkpoints(run, job_id)


def _clear_checkpoints(run: RunPaths, job_id: str) -> None:
    """Remove the checkpoints of a job whose result this process knows."""
    from distlth.train.checkpoint import remove_states

    with suppress(OSError):
        remove_states(run.checkpoints(job_id))


def _newest_checkpoint(run: RunPaths, job_ids: Iterable[str]) -> str:
    """Return the name of the newest checkpoint of the job that a lane trains, empty where there is none."""
    newest = [newest_checkpoint(run.checkpoints(job_id)) for job_id in job_ids]
    return "".join(path.name for path in newest if path)


def _names_of(node_ids: Iterable[str]) -> list[str]:
    """Return the names of nodes that Ray knows, each once."""
    node_ids = set(node_ids)
    return sorted({name for node, name in living_nodes().items() if node in node_ids}) if node_ids else []


def _describe_hang(beat: Beat, seconds: float) -> str:
    return f"no progress for {seconds:g} s (process {beat.process.split()[0]}, {beat.steps} steps); killed"
