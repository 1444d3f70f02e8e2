"""What submitit calls on every node of an allocation: starts the run's process there, and talks to SLURM.

The run is another process, so nothing here may load torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

from cluster.runtime.allocation import Allocation
from cluster.runtime.rendezvous import Rendezvous
from cluster.runtime.signals import shielded
from cluster.slurm.attempts import check_progress
from cluster.slurm.batch import QUEUE_AGAIN
from cluster.slurm.order import Order
from cluster.slurm.own_job import ENDING, attempt_name, head_address, job_state, requeue, submit_again
from distlth.config.schema import RunConfig
from distlth.report.ending import exit_code
from distlth.run.paths import RunPaths


class RunTask:
    """One run on the nodes of an allocation: the head node runs it, the worker nodes join.

    The run is a process of its own, since submitit interrupts this one wherever it is: its signal handler,
    which gets SLURM's notice of the time limit, calls `checkpoint` and requeues the SLURM job.
    """

    def __init__(self, config: RunConfig, allowed_changes: Collection[str] = ()) -> None:
        self.config, self.allowed_changes = config, tuple(allowed_changes)
        self._child: subprocess.Popen[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "allowed_changes": self.allowed_changes, "_child": None}

    def __call__(self) -> None:
        """Take part until the run is over or cannot continue here; exit with its exit code."""
        task = JobEnvironment()
        rendezvous = Rendezvous(self._paths.rendezvous / attempt_name(task))
        order = Order(self.config, Allocation(rendezvous.folder, head_address()), self.allowed_changes)
        if task.global_rank == 0:
            self._lead(task, rendezvous, order)
        else:
            self._join(order)

    def checkpoint(self) -> DelayedSubmission:
        """Have the run write a checkpoint and end; return this task again, to be submitted next.

        Under SLURM this requeues the job, and ends: submitit fails where there is no scontrol.
        """
        self._stop_child(signal.SIGUSR2)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it to a job that is requeued
        if "SLURM_JOB_ID" in os.environ:
            submit_again()
        return DelayedSubmission(self)

    @property
    def _paths(self) -> RunPaths:
        return RunPaths(self.config.runs.absolute() / self.config.name)

    # -- the head node --------------------------------------------------------------------------------

    def _lead(self, task: JobEnvironment, rendezvous: Rendezvous, order: Order) -> None:
        signal.signal(signal.SIGTERM, self._terminate)

        def run() -> int:
            check_progress(self.config, self._paths, task.job_id)
            rendezvous.open()
            return self._run_child("cluster.slurm.head_node", order)

        try:
            code = exit_code(run)
        finally:
            rendezvous.close()
        if code == os.EX_TEMPFAIL:
            submit_again()
        sys.exit(code)

    def _terminate(self, *_: object) -> None:
        """Stop the run after SIGTERM: the SLURM job is preempted, or cancelled.

        A preempted job must requeue itself within its grace time: SLURM would not requeue it if it just
        ended. Where SLURM does not say how the job stands, the batch script asks until it does.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._stop_child(signal.SIGTERM)
        state = job_state()
        print(f"ended by SIGTERM; the batch system says that the job is {state or 'unknown'}", flush=True)
        if state in ENDING:
            sys.exit(128 + signal.SIGTERM)
        if not state:
            sys.exit(QUEUE_AGAIN)
        submit_again()

    # -- the worker nodes -----------------------------------------------------------------------------

    def _join(self, order: Order) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the head node says when the run is over
        code = self._run_child("cluster.slurm.worker_node", order)
        if code == os.EX_TEMPFAIL and "SLURM_JOB_ID" in os.environ:
            requeue()  # the batch script was on the head node
        sys.exit(code)

    # -- both -----------------------------------------------------------------------------------------

    def _run_child(self, module: str, order: Order) -> int:
        """Run a module that ends with this process, give it its order, and return its exit code."""
        with shielded():
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", module], stdin=subprocess.PIPE, text=True
            )
        assert self._child.stdin is not None
        print(order.to_json(), file=self._child.stdin, flush=True)
        self._wait_for_child()
        return self._child.wait()

    def _stop_child(self, number: signal.Signals) -> None:
        """Pass a signal on, and wait until the child has ended."""
        if self._child is not None and self._child.returncode is None:
            assert self._child.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, and nobody has reaped it yet
                print(number.name, file=self._child.stdin, flush=True)
            self._wait_for_child()

    def _wait_for_child(self) -> None:
        """Wait without reaping it: the handler of a signal, which waits too, may interrupt this anywhere."""
        assert self._child is not None
        os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
