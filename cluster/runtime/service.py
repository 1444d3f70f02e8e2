"""A run from start to end, as the `distlth run` process sees it: lock, a process that holds Ray, signals."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.runtime.allocation import Allocation
from cluster.runtime.placement import sized
from cluster.runtime.rendezvous import Call, Rendezvous, sweep_rendezvous
from cluster.runtime.session import LOOPBACK, environment, new_token, resolve_device, session_folder
from cluster.runtime.signals import StopSignals, shielded
from distlth.config.schema import RunConfig
from distlth.errors import RunError, RunInterrupted
from distlth.files import append_json, read_json_lines
from distlth.plan import plan
from distlth.preflight import preflight
from distlth.report.console import describe
from distlth.run.lock import RunLock, hold
from distlth.run.paths import RunPaths
from distlth.run.store import load_results, open_run, progress

POLL_SECONDS = 0.5

# A stop waits for the step, the evaluation or the mask that is under way.
STOP_SECONDS = 600.0

# Nodes that are alive join again within seconds after one was lost.
REJOIN_SECONDS = 30.0

AGAIN = "the same command goes on from there"


def run(
    config: RunConfig,
    show: Callable[[RunPaths], None],
    allowed_changes: Collection[str] = (),
    allocation: Allocation | None = None,
) -> RunPaths:
    """Run or go on with a job until all its tickets are trained; calls `show` now and then.

    `allowed_changes` names what may differ from the run on disk, as `open_run` takes it. With an `allocation`
    the run is spread over its nodes, without one it has this machine alone, whatever `cluster.nodes` says.

    Raises:
        UserError: the job cannot run as it is, a job of it cannot go on, or the run is alive elsewhere.
        RunInterrupted: a signal stopped the run, or Ray died; says where it goes on.
    """
    if allocation is None:
        config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"nodes": 1})})
    with StopSignals() as stop:
        found = preflight(config)
        paths = RunPaths(config.runs.absolute() / config.name)
        job = _Job(config, paths, resolve_device(config.cluster), found.data, allowed_changes, allocation)
        if _is_done(config, paths) and _is_shown(paths):
            job.open(config)
        else:
            # Nobody watches an allocation that starts while the lock of a lost node is not stale yet.
            patience = 2 * config.cluster.stale_seconds if allocation else 0.0
            with hold(paths.lock, config.cluster.stale_seconds, patience) as lock:
                if allocation is None or not paths.job_file.exists():
                    job.open(config)
                _go_on(job, show, _Watch(stop, lock))
    show(paths)
    return paths


@dataclass(frozen=True)
class _Job:
    """What a run is asked to do, and where."""

    config: RunConfig
    paths: RunPaths
    device: str
    data: Mapping[str, Any]
    allowed_changes: Collection[str]
    allocation: Allocation | None

    def open(self, config: RunConfig) -> None:
        """Open the run directory for `config`: this job's, on as many ranks as there are."""
        open_run(self.paths, config, self.data, self.allowed_changes)


def _is_done(config: RunConfig, paths: RunPaths) -> bool:
    return paths.job_file.exists() and len(load_results(paths, plan(config))) == len(plan(config))


def _is_shown(paths: RunPaths) -> bool:
    """Whether the last coordinator drew all its results; one that was killed at the end did not."""
    ends = [e["event"] for e in read_json_lines(paths.log) if e["event"] in ("run-start", "run-done")]
    return ends[-1:] != ["run-start"]


class _Watch:
    """What can end a run from outside."""

    def __init__(self, stop: StopSignals, lock: RunLock) -> None:
        self.stop, self.lock = stop, lock
        self.stopped_at = float("inf")

    @property
    def order(self) -> str | None:
        """The name of the signal that asks the run to stop."""
        return self.stop.received.name if self.stop.received else None

    def check(self) -> None:
        """Raise RunInterrupted where the run cannot wait for its ranks."""
        if self.lock.is_lost:
            raise RunInterrupted(
                "another process has taken this run over, because this one gave no sign of life for long"
            )
        if self.order and self.stopped_at == float("inf"):
            self.stopped_at = time.monotonic()
        if time.monotonic() - self.stopped_at > STOP_SECONDS:
            raise RunInterrupted(f"{self.order}: the ranks did not stop in {STOP_SECONDS:.0f} s")


def _go_on(job: _Job, show: Callable[[RunPaths], None], watch: _Watch) -> None:
    def note(event: str, **details: Any) -> None:
        with suppress(OSError):  # a full disk: the command's last line says the same
            append_json(job.paths.log, {"time": time.time(), "event": event, **details})

    sweep_rendezvous(job.paths.meetings)
    if watch.lock.taken_from:
        note("taken-over", message=f"from {watch.lock.taken_from}")
    ending = _hold_session(job, show, watch, job.config.cluster.node_wait_seconds)
    while ending["again"] and not watch.order:
        note("node-lost", message=ending["lost"])
        ending = _hold_session(job, show, watch, min(REJOIN_SECONDS, job.config.cluster.node_wait_seconds))
    if ending["error"]:
        raise RunError(ending["error"])
    done = _is_done(job.config, job.paths)
    where = f"{progress(job.paths, plan(job.config))}; {AGAIN}"
    if ending["lost"] and not (done and _is_shown(job.paths)):
        note("lost", message=ending["lost"])
        show(job.paths)
        raise RunInterrupted(f"{ending['lost']}; {where}")
    if not done:
        note("stopped", message=f"by {watch.order}; {where}")
        show(job.paths)
        raise RunInterrupted(f"stopped by {watch.order}; {where}", watch.stop.exit_code)


def _hold_session(
    job: _Job, show: Callable[[RunPaths], None], watch: _Watch, node_wait_seconds: float
) -> dict[str, Any]:
    """Hold one Ray session until the run ends, stops or loses Ray; return its `Ending`."""
    token = new_token()
    with session_folder(token) as folder, _HeadProcess(job, folder, token, node_wait_seconds) as head:
        while not watch.order and head.is_alive:
            show(job.paths)
            head.wait(POLL_SECONDS)
            watch.check()
        if watch.order:
            head.send({"stop": watch.order})
        while head.is_alive:
            show(job.paths)
            head.wait(POLL_SECONDS)
            watch.check()
        return head.ending()


class _HeadProcess:
    """The process that holds Ray. It has a session of its own: no signal of a terminal or a batch system
    that is meant for the run reaches Ray's processes, which would end at once."""

    def __init__(self, job: _Job, folder: Path, token: str, node_wait_seconds: float) -> None:
        self._job, self._token, self._node_wait_seconds = job, token, node_wait_seconds
        self._errors = folder / "head.err"
        address = job.allocation.address if job.allocation else LOOPBACK
        alone = job.config.cluster.nodes == 1
        with open(self._errors, "wb") as errors, shielded():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cluster.runtime.head", str(folder), address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=environment(folder, address, alone=alone),
            )
        self.is_alive = True
        self._ending: dict[str, Any] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._send_job(job.config)

    def _listen(self) -> None:
        """Queue its lines as they come, and at its end an empty one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")

    def _send_job(self, config: RunConfig) -> None:
        allocation = self._job.allocation
        order = {
            "node_wait_seconds": self._node_wait_seconds,
            "config": config.model_dump(mode="json"),
            "run": str(self._job.paths.root),
            "device": self._job.device,
            "rendezvous": str(allocation.rendezvous) if allocation else None,
        }
        self.send(order)

    def __enter__(self) -> _HeadProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill -9 it and what it started: Ray's processes stay in its session, whatever became of it."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self._process.pid:
                    process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # an order that it did not live to read
                pipe.close()

    def send(self, order: Mapping[str, Any]) -> None:
        """Send a line of JSON; a process that is dead is found by `wait`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{json.dumps(order)}\n")
            self._process.stdin.flush()

    def wait(self, seconds: float) -> None:
        """Return when it has said something or ended, or after `seconds`."""
        try:
            line = self._replies.get(timeout=seconds)
        except queue.Empty:
            return
        reply: dict[str, Any] = json.loads(line) if line.endswith("\n") else {"ending": None}
        if "unlogged" in reply:
            print(f"the run's log cannot be written: {describe(reply['unlogged'])}", file=sys.stderr)
        elif "started" in reply:
            self._call_nodes(reply["started"])
        elif "nodes" in reply:
            config = sized(self._job.config, reply["nodes"])
            self._job.open(config)
            self._send_job(config)
        else:
            self._ending = reply["ending"]
            self.is_alive = False

    def _call_nodes(self, head: str) -> None:
        """Have the other nodes of the allocation join Ray."""
        if self._job.allocation:
            Rendezvous(self._job.allocation.rendezvous).call(Call(head, self._token))

    def ending(self) -> dict[str, Any]:
        """How it ended: what it said, or that it died without a word."""
        if self._ending is not None:
            return self._ending
        code = self._process.wait()
        last = "".join(self._errors.read_text(errors="replace").strip().splitlines()[-1:])
        died = f"the process that holds Ray died (exit code {code}) {last}".strip()
        return {"error": None, "lost": died, "again": False}
