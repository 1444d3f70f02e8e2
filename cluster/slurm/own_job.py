"""The SLURM job that this process runs in: its name, its state, and how to queue it again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

from submitit import JobEnvironment

from cluster.runtime.session import LOOPBACK

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
    """Return SLURM's state of this job, empty where SLURM does not say; ENDED without SLURM."""
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
    """Have submitit requeue this job. Where there is no scontrol, say so and wait to be ended.

    SLURM requeues a preempted job only if it is still there when its grace time is over.
    """
    if "SLURM_JOB_ID" in os.environ and shutil.which("scontrol") is None:
        print("no scontrol on this node to requeue this job with; distlth resume goes on", flush=True)
        while True:
            signal.pause()
    os.kill(os.getpid(), getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))


def requeue(job_id: str) -> None:
    """Requeue a SLURM job that has lost its head node: with --no-kill SLURM does not."""
    if "SLURM_JOB_ID" in os.environ:
        subprocess.run(["scontrol", "requeue", job_id], check=False)
