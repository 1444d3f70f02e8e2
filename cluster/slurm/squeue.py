"""SLURM's own commands, asked from a login node, and how a submission stands."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from contextlib import suppress

import psutil

from distlth.errors import UserError
from distlth.process import is_alive
from distlth.run.submission import Standing, Submission

ANSWER_SECONDS = 30.0
CANCEL_SECONDS = 60.0
FORMAT = "%i|%T|%r"
SPEAKER = re.compile(r"^\s*\w+: (error: |fatal: )?")


class SlurmError(UserError):
    """A command of SLURM that is missing, does not answer or refuses; the message has its own words."""


def has(command: str) -> bool:
    """Whether a command is on PATH."""
    return shutil.which(command) is not None


def ask(*arguments: str) -> str:
    """The output of a command of SLURM.

    Raises:
        SlurmError: it is not there, gives no answer in time, or refuses.
    """
    program = arguments[0]
    try:
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except FileNotFoundError:
        raise SlurmError(f"there is no {program} on PATH; is this a login node of a SLURM cluster?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{program} gave no answer in {ANSWER_SECONDS:.0f} s; try again") from None
    if ended.returncode:
        raise SlurmError(f"{program}: {own_words(ended.stderr) or f'exit code {ended.returncode}'}")
    return ended.stdout


def own_words(text: str) -> str:
    """What a command of SLURM said on standard error, as one line: without its name and `error:`."""
    said = [SPEAKER.sub("", line) for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line.strip().rstrip(".") for line in said if line.strip()))


def read_queue(users: Collection[str]) -> Mapping[str, Standing] | None:
    """How the jobs of some users stand, by job id; None where the queue cannot be read."""
    if not users:
        return {}
    try:
        # Each member of an array on a line of its own.
        return parse_queue(ask("squeue", "-h", "-r", "-u", ",".join(sorted(users)), "-o", FORMAT))
    except SlurmError:
        return None


def parse_queue(text: str) -> dict[str, Standing]:
    """The lines of `squeue -h -r -o '%i|%T|%r'`, by job id."""
    fields = [line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    return {
        job_id: Standing(state, "" if reason in ("None", "(null)") else reason)
        for job_id, state, reason in fields
    }


def standing(submission: Submission, queue: Mapping[str, Standing] | None) -> Standing:
    """How a submission stands: in SLURM's words while it is queued or runs, else `ended`, `cancelled`.

    What cannot be known from here is `unknown`: no squeue, or a process on another machine.
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
    """How one submission stands now; None where there was none."""
    if submission is None:
        return None
    return standing(submission, read_queue([submission.user]) if submission.cluster == "slurm" else {})


def cancel(submission: Submission) -> bool:
    """End a submitted run; returns whether it has ended already.

    SLURM tells its tasks by SIGTERM and kills them some time later. Without SLURM the process that started
    the tasks is told, again and again, since a task that just starts does not listen yet.

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
    """The process that starts a local submission's tasks, which may be a child of a shell."""
    try:
        process = psutil.Process(int(submission.job_id))
        family = [process, *process.children(recursive=True)]
        return [member for member in family if "submitit.local._local" in member.cmdline()]
    except psutil.Error:
        return []
