"""The coordinator: decides which job is next, makes its ticket, and hands it out.

It holds nothing that the run directory does not: killed and made anew, it goes on from the files.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.broadcast import Pieces, hand_out
from cluster.runtime.heartbeat import Beat, HangWatch, kill
from cluster.runtime.messages import Assignment
from distlth.config.schema import RunConfig
from distlth.errors import UserError
from distlth.files import append_json, format_tensors, remove_temporaries
from distlth.maker import TicketMaker, remarks
from distlth.plan import Job, plan, ready
from distlth.preflight import preflight
from distlth.report.board import RunBoard
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import load_results
from distlth.train.checkpoint import remove_states


@dataclass(frozen=True)
class Outcome:
    """How a run stands for the process that waits for it: `error` is what ended it, if anything did."""

    finished: bool
    error: str | None
    quiet: bool = False
    """Whether the run is to stop, and no rank has anything left to do."""
    unlogged: tuple[Mapping[str, Any], ...] = ()
    """Events that could not be written to the run's log so far."""


@ray.remote(num_cpus=0)
def _nicely(function: Callable[[Any], Any], item: Any) -> Any:
    """Run on the head node, out of the way of a lane that trains there."""
    os.nice(max(0, 10 - os.nice(0)))
    return function(item)


def map_on_head(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`map` over Ray tasks on this node, as many at a time as it has cores."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = _nicely.options(scheduling_strategy=here)
    reference = ray.put(function)
    results: dict[int, Any] = {}
    running: dict[Any, int] = {}
    waiting = list(enumerate(items))[::-1]
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            index, item = waiting.pop()
            running[task.remote(reference, item)] = index
        (finished, *_), _ = ray.wait(list(running), num_returns=1)
        results[running.pop(finished)] = ray.get(finished)
    return [results[index] for index in sorted(results)]


# Each rank that waits for a job is a call that is under way. Ray's default of 1,000 would let the ranks of a
# large lane lock out everyone else, their own heartbeats included.
@ray.remote(num_cpus=0, max_concurrency=100_000)  # type: ignore[call-overload]  # it takes it, untyped
class Coordinator:
    """The one actor that decides, prunes, refills, regroups and hands out masks."""

    def __init__(self, config: RunConfig, run: RunPaths) -> None:
        self.config, self.run = config, run
        self.maker = TicketMaker(config, preflight(config), run, self.waiting, map_on_head)
        self.jobs = plan(config)
        self.results = load_results(run, self.jobs)
        self.tickets: dict[str, Assignment] = {}
        self.answers: dict[tuple[int, str, int], Assignment | None] = {}
        self.taken: dict[str, int] = {}
        self.making: set[str] = set()
        self.weights: dict[str, Pieces] = {}
        self.stalled: dict[int, tuple[str, int]] = {}
        self.watch = HangWatch(config.cluster.hang_seconds)
        self.attempts: dict[int, str] = {}
        self.finished_by: dict[int, int] = {}
        self.stopping = False
        self.unlogged: list[dict[str, Any]] = []
        self.error: str | None = None
        self.changed = asyncio.Condition()
        self.started = asyncio.Event()
        self.board = RunBoard(run)
        self.background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Make what can be made from what is on disk; to be called once. Lanes wait for it."""
        self.note("run-start", done=len(self.results), jobs=len(self.jobs))
        await asyncio.to_thread(self.tidy)
        await self.draw(self.board.config, self.config.to_yaml())
        await asyncio.to_thread(self.maker.write_init)
        if self.results:  # an earlier coordinator may have been killed before it drew the last of them
            self.keep(self.draw(self.board.results, list(self.results.values()), self.config))
        self.advance()
        self.keep(self.watch_ranks())
        self.started.set()

    # -- what lanes call ------------------------------------------------------------------------------

    async def next_job(self, lane: int, attempt: str, turn: int) -> Assignment | None:
        """The lane's next job, None when there is none left. Every rank of an attempt gets the same."""
        key = (lane, attempt, turn)
        async with self.changed:
            await self.changed.wait_for(lambda: key in self.answers or self.is_closed or self.open_job())
            # A rank asks for a turn when all ranks have had the one before: its references can go.
            self.answers = {k: a for k, a in self.answers.items() if k[0] != lane or k[2] >= turn}
            if key not in self.answers:
                answer = None if self.is_closed else self.open_job()
                self.answers[key] = answer
                if answer:
                    self.taken[answer.job.id] = lane
            return self.answers[key]

    async def lane_started(self, lane: int, attempt: str, ranks: list[Beat]) -> None:
        """A lane's ranks are up, for the first time or again: what it took and has not done is open again.

        `ranks` holds a beat of each, in order: from here on each is missed when it is silent.
        """
        await self.started.wait()
        self.note("lane-start", lane=lane)
        for job in [job for job, owner in self.taken.items() if owner == lane]:
            if self.run.job(job).result.exists():  # its ranks died between the result and telling of it
                await self.job_done(job)
        self.watch.forget(lane)
        for rank, beat in enumerate(ranks):
            self.watch.hear(lane, rank, beat, time.monotonic())
        self.attempts[lane] = attempt
        async with self.changed:
            self.taken = {job: owner for job, owner in self.taken.items() if owner != lane}
            self.answers = {key: answer for key, answer in self.answers.items() if key[0] != lane}
            self.changed.notify_all()

    async def lane_failed(self, lane: int, error: str) -> None:
        """A lane's ranks died. Too many deaths in a row without a step of progress end the run."""
        progress = self.progress_of(lane)
        last, count = self.stalled.get(lane, ("", 0))
        count = count + 1 if progress == last else 1
        self.stalled[lane] = (progress, count)
        self.watch.forget(lane)
        self.attempts.pop(lane, None)
        self.note("lane-restart", lane=lane, error=error)
        if count > self.config.cluster.retries:
            await self.fail(f"lane {lane} died {count} times without progress; the last time: {error}")

    async def job_done(self, job_id: str) -> None:
        """A lane has written a job's result."""
        result = JobResult.load(self.run.job(job_id))
        assert result is not None, f"{job_id}: no result on disk"
        self.note("job-done", job=job_id, density=result.density, top1=result.top1, seconds=result.seconds)
        async with self.changed:
            self.results[job_id] = result
            self.tickets.pop(job_id, None)
            lane = self.taken.pop(job_id, -1)
            self.finished_by[lane] = self.finished_by.get(lane, 0) + 1
            self.changed.notify_all()
        self.clear_checkpoints(job_id)
        self.advance()
        await self.draw(self.board.results, list(self.results.values()), self.config)

    async def beat(self, lane: int, attempt: str, rank: int, beat: Beat) -> bool:
        """A rank is alive; returns whether the run is to stop."""
        if self.attempts.get(lane) == attempt:
            self.watch.hear(lane, rank, beat, time.monotonic())
        return self.stopping

    async def rank_done(self, lane: int, attempt: str, rank: int) -> None:
        """A rank ends as it should: it is not missed."""
        if self.attempts.get(lane) == attempt:
            self.watch.forget(lane, rank)

    async def fail(self, message: str) -> None:
        """End the run: what is on disk stays, lanes get no more jobs."""
        async with self.changed:
            if self.error is None:
                self.error = message
                self.note("failed", message=message)
            self.changed.notify_all()

    async def draw(self, drawing: Callable[..., None], *arguments: Any) -> None:
        """Show something on the board. No picture is worth a run: one that fails is noted in the log."""
        try:
            await asyncio.to_thread(drawing, *arguments)
        except Exception as error:
            self.note("drawing-failed", error=repr(error))

    def note(self, event: str, **details: Any) -> None:
        """Add a line to the run's log; one that a full disk does not take is kept, and tried again."""
        self.unlogged.append({"time": time.time(), "event": event, **details})
        with suppress(OSError):
            while self.unlogged:
                append_json(self.run.log, self.unlogged[0])
                del self.unlogged[0]

    def waiting(self, error: OSError, seconds: float) -> None:
        """What must be written cannot be: say so, once a try."""
        self.note("waiting-for-disk", error=f"{error}; next try in {seconds:g} s")

    # -- what the process that started the run calls --------------------------------------------------

    async def outcome(self, seconds: float) -> Outcome:
        """How the run stands; returns early when it has finished or failed."""
        async with self.changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: self.is_over), seconds)
        quiet = self.stopping and not self.watch.ranks
        return Outcome(self.is_over, self.error, quiet, tuple(self.unlogged))

    async def stop(self, why: str) -> None:
        """Have the ranks leave a checkpoint at their next step and end; nothing more is handed out."""
        self.note("stopping", message=f"by {why}")
        async with self.changed:
            self.stopping = True
            self.changed.notify_all()

    async def close(self) -> None:
        """Finish what is being written; what a run that stops was making is made again later."""
        if self.is_over:
            await asyncio.gather(*self.background)
        if self.is_over and self.error is None:
            self.note("run-done")
        await self.draw(self.board.close)

    # -- deciding -------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to hand out."""
        return self.error is not None or len(self.results) == len(self.jobs)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is handed out any more."""
        return self.stopping or self.is_over

    def open_job(self) -> Assignment | None:
        """The first job in plan order whose ticket is made and that no lane has taken."""
        open_ids = (job.id for job in self.jobs if job.id in self.tickets and job.id not in self.taken)
        first = next(open_ids, None)
        return None if first is None else self.tickets[first]

    def advance(self) -> None:
        """Start to make the tickets of all jobs whose parent is done."""
        for job in ready(self.jobs, self.results):
            if job.id not in self.making:
                self.making.add(job.id)
                self.keep(self.make(job))

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Have work done in the background."""
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def watch_ranks(self) -> None:
        """Kill ranks that hang, so that their lane starts again."""
        while not self.is_over:
            async with self.changed:
                with suppress(TimeoutError):
                    pause = min(5.0, self.config.cluster.hang_seconds / 4)
                    await asyncio.wait_for(self.changed.wait_for(lambda: self.is_over), pause)
            for (lane, rank), beat in self.watch.hung(time.monotonic()).items():
                self.watch.forget(lane, rank)
                self.note("hang", lane=lane, rank=rank, message=self.hang_of(beat))
                kill(beat)

    def hang_of(self, beat: Beat) -> str:
        """What is wrong with a rank that hangs, for people."""
        seconds = self.config.cluster.hang_seconds
        return (
            f"no progress for {seconds:g} s (process {beat.process.split()[0]}, {beat.steps} steps); killed"
        )

    async def make(self, job: Job) -> None:
        """Make a job's ticket and offer it."""
        try:
            start = time.perf_counter()
            structured, before = await asyncio.to_thread(self.maker.mask, job)
            seconds = time.perf_counter() - start
            self.note("mask", job=job.id, density=structured.mask.density, seconds=seconds)
            for remark in remarks(structured, before):
                self.note(**remark, job=job.id)
            ticket = Assignment(
                job=job,
                mask_digest=structured.mask.digest(),
                mask=await asyncio.to_thread(lambda: hand_out(self.run.job(job.id).mask.read_bytes())),
                weights=await asyncio.to_thread(self.weights_of, job),
            )
            async with self.changed:
                self.tickets[job.id] = ticket
                self.changed.notify_all()
            await self.draw(self.board.mask, job, structured.mask, before, structured.blocks)
        except UserError as error:
            await self.fail(str(error))
        except Exception as error:
            await self.fail(f"making the mask of job {job.id} failed: {error!r}")
            raise

    def tidy(self) -> None:
        """Remove what earlier processes of the run left half-done when they were killed."""
        remove_temporaries(self.run.root)
        for job_id in self.results:
            self.clear_checkpoints(job_id)

    def clear_checkpoints(self, job_id: str) -> None:
        """Remove the checkpoints of a job that is done: its ranks may have died before they could."""
        with suppress(OSError):
            remove_states(self.run.checkpoints(job_id))

    def weights_of(self, job: Job) -> Pieces:
        """The bytes of the weights that a job starts from: put once, fetched once per node."""
        if job.start == "trained":
            return hand_out(format_tensors(self.maker.weights(job)))
        if job.start not in self.weights:
            self.weights[job.start] = hand_out(format_tensors(self.maker.weights(job)))
        return self.weights[job.start]

    def progress_of(self, lane: int) -> str:
        """What a lane has reached: changes with every checkpoint and every finished job of its own."""
        states = [
            path.name
            for job_id, owner in sorted(self.taken.items())
            if owner == lane
            for path in sorted(self.run.checkpoints(job_id).glob("[0-9]*.safetensors"))
        ]
        return f"{self.finished_by.get(lane, 0)}:{states[-1] if states else ''}"
