"""A run from start to end, as the `distlth run` process sees it: lock, sessions of Ray, signals."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.runtime import fork_server
from cluster.runtime.allocation import Allocation
from cluster.runtime.checks import run_checks
from cluster.runtime.folders import check_temporary_folder, ray_folder
from cluster.runtime.head_process import HeadProcess
from cluster.runtime.messages import Ending, Joined, Order, Reply, Started, StartRay, Stop, Unwritten
from cluster.runtime.placement import sized
from cluster.runtime.rendezvous import Call, Rendezvous, guest_folder, sweep_rendezvous
from cluster.runtime.session import (
    LOOPBACK,
    end_processes,
    environment,
    guest_environment,
    known_device,
    new_token,
    session_folder,
)
from cluster.runtime.signals import StopSignals
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import RunError, RunInterrupted
from distlth.files import exists, read_json_lines
from distlth.plan import descendants, plan
from distlth.process import memory_shortage
from distlth.report.console import describe
from distlth.report.ending import complain
from distlth.run.events import EventLog
from distlth.run.lock import RunLock, hold
from distlth.run.paths import RunPaths
from distlth.run.results import is_settled, load_divergences, run_progress
from distlth.run.store import check_run, open_run

POLL_SECONDS = 0.5

# A stop waits for the step, the evaluation or the mask that is under way.
STOP_SECONDS = 600.0

# Nodes that are alive join again within seconds after one was lost.
REJOIN_SECONDS = 30.0

AGAIN = "the same command goes on from there"

Show = Callable[[RunPaths], None]


def run(
    config: RunConfig,
    show: Show,
    allowed_changes: Collection[str] = (),
    allocation: Allocation | None = None,
) -> RunPaths:
    """Start or resume a run, and train until all its jobs are done; return the run's files.

    `show` is called a few times a second; its errors end nothing. `allowed_changes` names what may differ
    from the run on disk, as `open_run` takes it. With an `allocation` the run is spread over its nodes;
    without one it has this machine alone, whatever `cluster.nodes` says, or the Ray cluster `cluster.ray`.

    Raises:
        UserError: the run cannot start as it is, one of its jobs cannot be trained, or another process holds
            the run.
        RunError: a round diverged, so that others could not be made. A branch that diverged is a result.
        RunInterrupted: a signal stopped the run, or Ray died; says where it resumes.
    """
    show = _without_errors(show)
    if allocation is None:
        update = {"nodes": 1, "min_nodes": None}
        config = config.model_copy(update={"cluster": config.cluster.model_copy(update=update)})
    with StopSignals() as stop, ExitStack() as ahead:
        check_temporary_folder()
        Dataset.load(config.data.path)  # what is wrong most often is told at once
        place = ahead.enter_context(_place(config, allocation))
        found = run_checks(config, place.environment)
        paths = RunPaths(config.runs.absolute() / config.name)
        asked = _Asked(config, paths, found.device, found.data, allowed_changes, allocation)
        if is_over := asked.is_done and _is_shown(paths):
            asked.open_finished()
            is_over = asked.is_done  # a change that is allowed opens jobs that diverged again
        if not is_over:
            # Nobody watches an allocation that starts while the lock of a lost node is not stale yet.
            patience = 2 * config.cluster.stale_seconds if allocation else 0.0
            with _none_left_empty(paths), hold(paths.lock, config.cluster.stale_seconds, patience) as lock:
                if config.cluster.ray is not None:
                    asked.check(config)
                elif allocation is None or not exists(paths.job_file):
                    asked.open(config)
                _train(asked, show, _Watch(stop, lock), place, ahead)
    show(paths)
    _refuse_broken_trunk(asked)
    return paths


@dataclass(frozen=True)
class _Place:
    """Where a session of Ray can start: its token, its processes' environment, and the one that holds it.

    `has_ray` says that Ray starts there already.
    """

    token: str
    environment: Mapping[str, str]
    head: HeadProcess
    has_ray: bool


@contextmanager
def _place(config: RunConfig, allocation: Allocation | None) -> Iterator[_Place]:
    """Start what a session needs and takes long to start, Ray included where the device is known: ahead."""
    token, address = new_token(), allocation.address if allocation else LOOPBACK
    is_guest = config.cluster.ray is not None
    device = None if is_guest else known_device(config.cluster.device)
    with session_folder(token) as folder, ExitStack() as processes:
        alone = config.cluster.nodes == 1
        settings = guest_environment() if is_guest else environment(folder, address, alone=alone)
        if fork_server.is_wanted(device):
            processes.enter_context(fork_server.start(ray_folder(folder), settings))
        head = processes.enter_context(HeadProcess(folder, address, settings))
        processes.callback(end_processes, folder)
        if device is not None:
            head.send(StartRay(config.cluster, device))
        yield _Place(token, settings, head, has_ray=device is not None)


@contextmanager
def _none_left_empty(paths: RunPaths) -> Iterator[None]:
    """Remove the directory of a run that could not start."""
    try:
        yield
    finally:
        with suppress(OSError):  # there is a run in it
            paths.root.rmdir()


def _without_errors(show: Show) -> Show:
    """Return a `show` that ends no run: it says once what it could not show."""
    told = False

    def carefully(paths: RunPaths) -> None:
        nonlocal told
        try:
            show(paths)
        except Exception as error:
            if not told:
                complain(f"the run goes on, and cannot be shown: {error!r}")
            told = True

    return carefully


def _refuse_broken_trunk(asked: _Asked) -> None:
    """Raise RunError where a round diverged: the rounds and branches that are made from it are missing."""
    jobs = plan(asked.config)
    diverged = load_divergences(asked.paths, jobs)
    for job in jobs:
        if job.is_trunk and job.id in diverged:
            missing = len(descendants(jobs, [job.id]))
            left = f"; {missing} jobs that are made from it were left out" if missing else ""
            raise RunError(f"{diverged[job.id].message}{left}")


@dataclass(frozen=True)
class _Asked:
    """The run that the user asks for, and where it takes place."""

    config: RunConfig
    paths: RunPaths
    device: str
    data: Mapping[str, Any]
    allowed_changes: Collection[str]
    allocation: Allocation | None

    @property
    def is_done(self) -> bool:
        """Whether nothing of the run is left to train."""
        return exists(self.paths.job_file) and is_settled(self.paths, plan(self.config))

    @property
    def progress(self) -> str:
        """How far the run has come and how to resume it, in words."""
        return f"{run_progress(self.paths, plan(self.config))}; {AGAIN}"

    def open(self, config: RunConfig) -> None:
        """Open the run directory for `config`: that of the run, sized to the nodes that there are."""
        open_run(self.paths, config, self.data, self.allowed_changes)

    def open_finished(self) -> None:
        """Open the run directory of a run that has all its results, which may be kept where nobody writes."""
        try:
            self.open(self.config)
        except OSError as error:
            if self.allowed_changes:  # which may open jobs again
                raise
            complain(f"{self.paths.job_file}: what has changed cannot be recorded ({error.strerror})")

    def check(self, config: RunConfig) -> None:
        """Raise what `open` would raise; write nothing."""
        check_run(self.paths, config, self.data, self.allowed_changes)

    @contextmanager
    def meeting(self) -> Iterator[Path | None]:
        """Yield the folder through which the nodes of a session meet; None where there is but one."""
        if self.config.cluster.ray is None:
            yield self.allocation.rendezvous if self.allocation else None
            return
        with guest_folder(self.paths.rendezvous, self.config.name) as folder:
            yield folder


def _is_shown(paths: RunPaths) -> bool:
    """Return whether the last coordinator drew all its results; one that was killed at the end did not."""
    ends = [e["event"] for e in read_json_lines(paths.log) if e["event"] in ("run-start", "run-done")]
    return ends[-1:] != ["run-start"]


class _Watch:
    """What can end a run from outside: signals, and the loss of its lock."""

    def __init__(self, stop: StopSignals, lock: RunLock) -> None:
        self.stop, self.lock = stop, lock
        self.stopped_at = float("inf")

    @property
    def signal(self) -> str | None:
        """The name of the signal that asked the run to stop, None where none did."""
        return self.stop.received.name if self.stop.received else None

    def check(self) -> None:
        """Raise RunInterrupted where the run cannot wait for its ranks any longer."""
        if self.lock.is_lost:
            raise RunInterrupted(
                "another process has taken this run over, because this one gave no sign of life for long"
            )
        if self.signal and self.stopped_at == float("inf"):
            self.stopped_at = time.monotonic()
        if time.monotonic() - self.stopped_at > STOP_SECONDS:
            raise RunInterrupted(f"{self.signal}: the ranks did not stop in {STOP_SECONDS:.0f} s")


def _train(asked: _Asked, show: Show, watch: _Watch, place: _Place, ahead: ExitStack) -> None:
    """Hold one session of Ray after the other, as long as nodes are lost that the run can do without.

    The first one in the `place` that was made ahead. A node on which ranks died again and again is left out
    of the next sessions.
    """
    log = EventLog(asked.paths.log)
    sweep_rendezvous(asked.paths.rendezvous)
    if watch.lock.taken_from:
        log.note("taken-over", message=f"from {watch.lock.taken_from}")
    node_wait_seconds = asked.config.cluster.node_wait_seconds
    without: tuple[str, ...] = ()
    with ahead.pop_all():
        ending = _hold_session(asked, show, watch, place, node_wait_seconds, without)
    while ending.again and not watch.signal:
        log.note("node-left-out" if ending.without else "node-lost", message=ending.lost)
        without += ending.without
        patience = min(REJOIN_SECONDS, node_wait_seconds)
        with _place(asked.config, asked.allocation) as place:
            ending = _hold_session(asked, show, watch, place, patience, without)
    _judge(ending, asked, show, watch, log)


def _judge(ending: Ending, asked: _Asked, show: Show, watch: _Watch, log: EventLog) -> None:
    """Raise RunError or RunInterrupted unless the run is done."""
    if ending.error:
        raise RunError(ending.error)
    is_done = asked.is_done
    if ending.lost and not (is_done and _is_shown(asked.paths)):
        log.note("lost", message=ending.lost)
        show(asked.paths)
        raise RunInterrupted(f"{ending.lost}; {asked.progress}")
    if not is_done:
        where = asked.progress
        log.note("stopped", message=f"by {watch.signal}; {where}")
        show(asked.paths)
        raise RunInterrupted(f"stopped by {watch.signal}; {where}", watch.stop.exit_code)


def _hold_session(
    asked: _Asked,
    show: Show,
    watch: _Watch,
    place: _Place,
    node_wait_seconds: float,
    without: tuple[str, ...],
) -> Ending:
    """Hold a session of Ray until the run ends, stops or loses Ray; return how it ended."""
    with asked.meeting() as meeting:
        if not place.has_ray and asked.config.cluster.ray is None:
            place.head.send(StartRay(asked.config.cluster, asked.device))
        session = _Session(asked, place, meeting, node_wait_seconds, without)
        session.order(asked.config)
        while True:
            session.pass_stop_on(watch)
            if session.is_open:
                show(asked.paths)
            reply = place.head.receive(POLL_SECONDS)
            watch.check()
            if isinstance(reply, Ending):
                # While what died still holds its share of it.
                return replace(reply, lost=reply.lost + memory_shortage()) if reply.lost else reply
            session.answer(reply)


class _Session:
    """The conversation with the process that holds Ray."""

    def __init__(
        self,
        asked: _Asked,
        place: _Place,
        meeting: Path | None,
        node_wait_seconds: float,
        without: tuple[str, ...],
    ) -> None:
        self._asked, self._place, self._meeting = asked, place, meeting
        self._node_wait_seconds, self._without = node_wait_seconds, without
        self._told_to_stop = False
        self.is_open = asked.paths.job_file.exists()
        """Whether there is a run to show: in a Ray cluster it is opened when that fits."""

    def order(self, config: RunConfig) -> None:
        """Have it train with `config`."""
        asked = self._asked
        self._place.head.send(
            Order(config, asked.paths, asked.device, self._meeting, self._node_wait_seconds, self._without)
        )

    def pass_stop_on(self, watch: _Watch) -> None:
        """Have it stop, once a signal has asked for that."""
        if watch.signal and not self._told_to_stop:
            self._place.head.send(Stop(watch.signal))
            self._told_to_stop = True

    def answer(self, reply: Reply | None) -> None:
        """Do what a reply asks for."""
        match reply:
            case Unwritten(event):
                complain(f"the run's log cannot be written: {describe(event)}")
            case Started(address):
                self._call_nodes(address)
            case Joined(nodes):
                config = sized(self._asked.config, nodes)
                self._asked.open(config)
                self.is_open = True
                self.order(config)

    def _call_nodes(self, head: str) -> None:
        """Have the worker nodes of the allocation join Ray."""
        if self._asked.allocation:
            Rendezvous(self._asked.allocation.rendezvous).call(Call(head, self._place.token))
