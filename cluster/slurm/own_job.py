"""The SLURM job that this process runs in: its name, its state, and how to queue it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import NoReturn

from submitit import JobEnvironment

from cluster.runtime.session import LOOPBACK
from cluster.slurm.batch import QUEUE_AGAIN
from cluster.slurm.squeue import ANSWER_SECONDS, SlurmError, ask

SQUEUE_TRIES = 3

# States of a SLURM job that was cancelled or is ending anyway; ENDED is what `job_state` says without SLURM.
ENDING = ("COMPLETING", "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "ENDED")


def attempt_name(task: JobEnvironment) -> str:
    """Return a name for this start of the SLURM job, the same on all its nodes."""
    return f"{task.job_id}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def head_address() -> str:
    """Return the address from which the head node started the tasks, by which the others reach it."""
    return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", LOOPBACK)


def job_state() -> str:
    """Return SLURM's state of this job, empty where there is no answer; ENDED without SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "ENDED"
    for _ in range(SQUEUE_TRIES):
        with suppress(SlurmError):
            if state := ask("squeue", "-h", "-j", job, "-o", "%T").strip():
                return state
        time.sleep(1.0)
    return ""


def submit_again() -> NoReturn:
    """Have this job queued again, and end: by SLURM, or without it by submitit.

    SLURM requeues a preempted job by itself only if it is still there when its grace time is over.
    """
    if "SLURM_JOB_ID" in os.environ:
        sys.exit(os.EX_TEMPFAIL if requeue() else QUEUE_AGAIN)
    os.kill(os.getpid(), getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
    sys.exit(os.EX_TEMPFAIL)


def requeue() -> bool:
    """Have SLURM queue this job again; return whether it will. False where there is no scontrol."""
    try:
        asked = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
        return subprocess.run(asked, timeout=ANSWER_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"cannot requeue this job from here: {error}", flush=True)
        return False
