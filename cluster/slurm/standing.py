"""How a submitted run stands, and cancelling it: under SLURM, or as a process of this machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress

import psutil

from cluster.slurm.squeue import ask, read_queue
from distlth.process import is_alive
from distlth.run.submission import Standing, Submission

CANCEL_SECONDS = 60.0


def standing(submission: Submission, queue: Mapping[str, Standing] | None) -> Standing:
    """Return how a submission stands: SLURM's state while it is in the queue, then `ended` or `cancelled`.

    `unknown` is what cannot be found out from here: without squeue, or of a process on another machine.
    """
    after = Standing("cancelled" if submission.cancelled else "ended")
    if submission.cluster == "local":
        if submission.host != socket.gethostname():
            return Standing("unknown", f"runs on {submission.host}")
        return Standing("RUNNING") if submission.process and is_alive(submission.process) else after
    if queue is None:
        return Standing("unknown", "no answer from squeue")
    return queue.get(submission.job_id, after)


def find(submission: Submission | None) -> Standing | None:
    """Return how one submission stands now; None where there was none."""
    if submission is None:
        return None
    return standing(submission, read_queue([submission.user]) if submission.cluster == "slurm" else {})


def cancel(submission: Submission) -> bool:
    """End a submitted run; return whether it has ended already.

    SLURM sends its tasks SIGTERM and kills them some time later. Without SLURM the process that started the
    tasks is sent SIGTERM repeatedly, since a task that is just starting does not handle it yet.

    Raises:
        SlurmError: scancel is not there, or refuses.
    """
    if submission.cluster == "slurm":
        ask("scancel", submission.job_id)
        return False
    deadline = time.monotonic() + CANCEL_SECONDS
    while standing(submission, None).is_active and time.monotonic() < deadline:
        for process in _controllers(submission):
            with suppress(psutil.Error):
                process.terminate()
        time.sleep(1.0)
    return not standing(submission, None).is_active


def _controllers(submission: Submission) -> list[psutil.Process]:
    """Return the process that starts a local submission's tasks, which may be the child of a shell."""
    try:
        process = psutil.Process(int(submission.job_id))
        family = [process, *process.children(recursive=True)]
        return [member for member in family if "submitit.local._local" in member.cmdline()]
    except psutil.Error:
        return []
