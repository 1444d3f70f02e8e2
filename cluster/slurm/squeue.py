"""SLURM's own commands, asked from a login node."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Mapping

from distlth.errors import UserError
from distlth.run.submission import Standing

ANSWER_SECONDS = 30.0
FORMAT = "%i|%T|%r"
SPEAKER = re.compile(r"^\s*\w+: (error: |fatal: )?")


class SlurmError(UserError):
    """A SLURM command that is missing, does not answer, or refuses; the message has its own words."""


def has(command: str) -> bool:
    """Return whether a command is on PATH."""
    return shutil.which(command) is not None


def ask(*arguments: str) -> str:
    """Run a SLURM command and return its output.

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
    """Return what a SLURM command wrote to standard error as one line, without its name and `error:`."""
    said = [SPEAKER.sub("", line) for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line.strip().rstrip(".") for line in said if line.strip()))


def read_queue(users: Collection[str]) -> Mapping[str, Standing] | None:
    """Return how the SLURM jobs of some users stand, by job id; None where squeue gives no answer."""
    if not users:
        return {}
    try:
        # -r: each member of a job array on a line of its own.
        return parse_queue(ask("squeue", "-h", "-r", "-u", ",".join(sorted(users)), "-o", FORMAT))
    except SlurmError:
        return None


def parse_queue(text: str) -> dict[str, Standing]:
    """Return what `squeue -h -r -o '%i|%T|%r'` printed, by job id."""
    fields = [line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    return {
        job_id: Standing(state, "" if reason in ("None", "(null)") else reason)
        for job_id, state, reason in fields
    }
