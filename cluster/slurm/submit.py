"""Submitting runs with submitit: to SLURM, or to this machine in the same way."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError
from submitit.local.local import LocalExecutor
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from cluster.runtime.session import SAFE_PATH
from cluster.slurm.advice import HOPELESS, refusal
from cluster.slurm.batch import YEAR_MINUTES, Batch, local_parameters, sbatch_flags, sbatch_text
from cluster.slurm.detached import in_new_session
from cluster.slurm.squeue import SlurmError, ask, read_queue
from cluster.slurm.task import RunTask
from distlth.errors import RunError
from distlth.process import identity
from distlth.run.paths import SubmissionPaths
from distlth.run.submission import Cluster

# A run may requeue itself any number of times; only lack of progress ends it (cluster.retries).
ENDLESS = 10**9

# Variables that describe the SLURM job which this process runs in.
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")

# What a site may set for sbatch that no argument of ours wins over: it contradicts --cpus-per-task, makes an
# array of one run, and would have `distlth submit` wait for the end of the run.
CONTRADICTS = ("SBATCH_CPUS_PER_GPU", "SBATCH_ARRAY_INX", "SBATCH_WAIT")


@dataclass(frozen=True)
class Submitted:
    """A run that was accepted: its SLURM job's id, its task in a job array; without SLURM its process."""

    job_id: str
    array_task: int | None = None
    process: str | None = None


class _Executor(SlurmExecutor):
    """submitit's executor, with our batch script for one SLURM job and for a job array."""

    def __init__(self, batch: Batch) -> None:
        if not self.affinity() > 0:
            raise SlurmError("there is sbatch, but no srun on PATH, which starts a job's tasks")
        super().__init__(batch.folder, max_num_timeout=ENDLESS, python=batch.python)
        self._request = batch  # `batch` is a method of submitit's
        self.parameters = {"nodes": batch.cluster.nodes, "time": batch.cluster.slurm.minutes or YEAR_MINUTES}

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return sbatch_text(self._request)

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", *sbatch_flags(submission_file_path.read_text()), str(submission_file_path)]

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
        """Submit one SLURM job or an array. submitit would make arrays with an executor of its own text."""
        paths = SubmissionPaths(self._request.folder)
        for index, delayed in enumerate(delayed_submissions):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(paths.pickle(index))
        first = self._submit_command(self._submitit_command_str)
        ids = [first.job_id]
        if len(delayed_submissions) > 1:
            ids = [f"{first.job_id}_{index}" for index in range(len(delayed_submissions))]
        jobs: list[SlurmJob[Any]] = [SlurmJob(self.folder, job_id, range(first.num_tasks)) for job_id in ids]
        for index, job in enumerate(jobs):
            job.paths.move_temporary_file(paths.pickle(index), "submitted_pickle")
        return jobs


def submit_slurm(batch: Batch) -> list[Submitted]:
    """Submit to SLURM; return one entry for each run, in order.

    Raises:
        SlurmError: the scheduler refuses; has its own words, and what to do. Nothing is left behind.
    """
    with _folder(batch):
        try:
            with outside_of_jobs(), redirect_stderr(StringIO()):  # where submitit repeats what it raises
                jobs = _Executor(batch).submit_array(_tasks(batch))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(refusal(str(error), partitions())) from None
        _refuse_hopeless(jobs[0].job_id)
    is_array = len(jobs) > 1
    return [Submitted(job.job_id, index if is_array else None) for index, job in enumerate(jobs)]


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the SLURM job that this process runs in, if it runs in one, while entered.

    sbatch would take the new job's sizes from them. What contradicts our own request is hidden, too.
    """
    inside = "SLURM_JOB_ID" in os.environ
    of_a_job = [name for name in os.environ if inside and name.startswith(OF_A_JOB)]
    hidden = {name: os.environ[name] for name in (*of_a_job, *CONTRADICTS) if name in os.environ}
    hidden.pop("SLURM_CONF", None)  # which says where the cluster is
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _refuse_hopeless(job_id: str) -> None:
    """Take a SLURM job that can never start out of the queue again; many clusters accept such jobs."""
    queue = read_queue([getpass.getuser()]) or {}
    reason = queue[job_id].reason if job_id in queue else ""
    if reason in HOPELESS:
        ask("scancel", job_id.partition("_")[0])
        raise SlurmError(f"SLURM would leave it in the queue for ever ({reason}): {HOPELESS[reason]}")


def partitions() -> list[str]:
    """Return the names of the cluster's partitions, none where sinfo gives no answer."""
    with suppress(SlurmError):
        return sorted(set(ask("sinfo", "-h", "-o", "%R").split()))
    return []


def submit_local(batch: Batch) -> list[Submitted]:
    """Start the runs on this machine, with a task for each node, in a session that outlives this shell.

    Raises:
        OSError: the submission's folder cannot be written.
        RunError: they could not be started.
    """
    with _folder(batch):
        log = SubmissionPaths(batch.folder).controller_log
        try:
            started = in_new_session(lambda: _start(batch), batch.directory, log)
        except RuntimeError as error:
            raise RunError(f"{batch.name}: could not be started here: {error}") from None
    return [Submitted(job_id, process=process) for job_id, process in started]


def _start(batch: Batch) -> list[tuple[str, str]]:
    """Start each run's controller; return its process number and identity.

    This process is a fork: its environment is that of the controllers and of what they start.
    """
    os.environ |= SAFE_PATH
    executor = LocalExecutor(batch.folder, max_num_timeout=ENDLESS, python=batch.python)
    executor.update_parameters(**local_parameters(batch))
    jobs = [executor.submit(task) for task in _tasks(batch)]
    return [(job.job_id, identity(int(job.job_id))) for job in jobs]


def _tasks(batch: Batch) -> list[RunTask]:
    """Return what every node of a run calls, for each run."""
    return [RunTask(config, batch.allowed_changes) for config in batch.configs]


@contextmanager
def _folder(batch: Batch) -> Iterator[None]:
    """Make the folder of a submission; remove it where the submission fails."""
    try:
        batch.folder.mkdir(parents=True)
        with _removed_on_error(batch.folder):
            yield
    except BaseException:
        for parent in (batch.folder.parent, batch.folder.parent.parent):
            with suppress(OSError):  # it holds other submissions
                parent.rmdir()
        raise


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


SUBMIT: Mapping[Cluster, Callable[[Batch], list[Submitted]]] = {"slurm": submit_slurm, "local": submit_local}
