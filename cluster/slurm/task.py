"""A run on the nodes that a batch system gave it: what each node's task does, from its start to its end.

The task only starts a process and speaks with the batch system, so nothing here may load torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from cluster.runtime.rendezvous import Rendezvous
from cluster.runtime.session import LOOPBACK
from cluster.runtime.signals import shielded
from distlth.config.schema import RunConfig
from distlth.errors import RunError
from distlth.files import append_json, read_json_lines
from distlth.plan import plan
from distlth.report.ending import exit_code
from distlth.run.paths import RunPaths
from distlth.run.store import progress

SQUEUE_TRIES = 3

# What SLURM says of a job that was cancelled or ends anyway, and what `job_state` says without SLURM.
ENDING = ("COMPLETING", "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "ENDED")


class RunTask:
    """What submitit calls on every node of an allocation. The first node runs the run, the others join it.

    The run is a process of its own: submitit's handler of the batch system's notice, which asks for
    `checkpoint` and queues the job again, interrupts this one wherever it is.
    """

    def __init__(self, config: RunConfig, allowed_changes: Collection[str] = ()) -> None:
        self.config, self.allowed_changes = config, tuple(allowed_changes)
        self._child: subprocess.Popen[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "allowed_changes": self.allowed_changes, "_child": None}

    def __call__(self) -> None:
        """Take part until the run is over or cannot go on here; exits with its exit code."""
        task = JobEnvironment()
        rendezvous = Rendezvous(self._paths.meetings / attempt_name(task))
        if task.global_rank == 0:
            self._lead(task, rendezvous)
        else:
            self._join(rendezvous)

    def checkpoint(self) -> DelayedSubmission:
        """Have the run leave a checkpoint and end; what is to be submitted next is the same again."""
        self._stop_child(signal.SIGUSR2)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which comes with being queued again
        return DelayedSubmission(self)

    @property
    def _paths(self) -> RunPaths:
        return RunPaths(self.config.runs.absolute() / self.config.name)

    # -- the first node -------------------------------------------------------------------------------

    def _lead(self, task: JobEnvironment, rendezvous: Rendezvous) -> None:
        signal.signal(signal.SIGTERM, self._terminate)
        try:
            code = exit_code(lambda: self._run(task, rendezvous))
        finally:
            rendezvous.close()
        if code == os.EX_TEMPFAIL:
            submit_again()
        sys.exit(code)

    def _run(self, task: JobEnvironment, rendezvous: Rendezvous) -> int:
        check_progress(self.config, self._paths, task.job_id)
        rendezvous.open()
        order = {
            "config": self.config.model_dump(mode="json"),
            "allowed_changes": self.allowed_changes,
            "rendezvous": str(rendezvous.folder),
            "address": head_address(),
        }
        return self._run_child("cluster.slurm.head_node", order)

    def _terminate(self, *_: object) -> None:
        """SIGTERM: the job is preempted, or cancelled.

        In its grace time a preempted job runs on, but would not be queued again if it just ended. Where the
        batch system does not say how the job stands, it is waited for: it ends this process either way.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._stop_child(signal.SIGTERM)
        state = job_state()
        print(f"ended by SIGTERM; the batch system says that the job is {state or 'unknown'}", flush=True)
        if state in ENDING:
            sys.exit(128 + signal.SIGTERM)
        if state:
            submit_again()
        while True:
            signal.pause()

    # -- the others -----------------------------------------------------------------------------------

    def _join(self, rendezvous: Rendezvous) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first node says when it is over
        order = {"config": self.config.model_dump(mode="json"), "rendezvous": str(rendezvous.folder)}
        code = self._run_child("cluster.slurm.worker_node", order)
        if code == os.EX_TEMPFAIL:
            requeue(JobEnvironment().job_id)
        sys.exit(code)

    # -- both -----------------------------------------------------------------------------------------

    def _run_child(self, module: str, order: dict[str, Any]) -> int:
        """Run a module that ends when this process does; returns its exit code."""
        with shielded():
            self._child = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, text=True)
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        self._wait_for_child()
        return self._child.wait()

    def _stop_child(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            assert self._child.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, and nobody has reaped it yet
                print(number.name, file=self._child.stdin, flush=True)
            self._wait_for_child()

    def _wait_for_child(self) -> None:
        """Leaves it to be reaped: a signal's handler, which waits too, may interrupt this anywhere."""
        assert self._child is not None
        os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)


def attempt_name(task: JobEnvironment) -> str:
    """A name for this start of this job, the same on all its nodes."""
    return f"{task.job_id}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def head_address() -> str:
    """The first node's address, as the others reach it: where it started them from."""
    return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", LOOPBACK)


def job_state() -> str:
    """How SLURM says that this job stands, empty where it does not say; ENDED without SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "ENDED"
    for _ in range(SQUEUE_TRIES):
        answer = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
        time.sleep(1.0)
    return ""


def submit_again() -> None:
    """Have submitit queue this job again; where it cannot, say so and wait for the batch system to end it.

    A job that ends by itself while it is preempted would not be queued again at all.
    """
    if "SLURM_JOB_ID" in os.environ and shutil.which("scontrol") is None:
        print("no scontrol on this node to requeue this job with; distlth resume goes on", flush=True)
        while True:
            signal.pause()
    os.kill(os.getpid(), getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))


def requeue(job_id: str) -> None:
    """Queue a job again that has lost its head node: with --no-kill the batch system does not."""
    if "SLURM_JOB_ID" in os.environ:
        subprocess.run(["scontrol", "requeue", job_id], check=False)


def check_progress(config: RunConfig, paths: RunPaths, job_id: str) -> None:
    """Note that the run starts once more.

    Raises:
        RunError: the last starts of this job, as many as `cluster.retries`, all began where this one does.
    """
    reached = progress(paths, plan(config))
    starts = [start for start in read_json_lines(paths.attempts) if start["job"] == job_id]
    stalled = 0
    while stalled < len(starts) and starts[-1 - stalled]["reached"] == reached:
        stalled += 1
    if stalled > config.cluster.retries:
        raise RunError(
            f"{paths.root}: job {job_id} was started {stalled} times without coming further ({reached}); its "
            "logs say why (distlth logs); when that is mended: distlth resume"
        )
    append_json(
        paths.attempts,
        {"time": time.time(), "job": job_id, "node": socket.gethostname(), "reached": reached},
    )
