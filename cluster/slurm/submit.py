"""Submitting runs with submitit: to SLURM, or to this machine by the same way."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError
from submitit.local.local import LocalExecutor
from submitit.slurm.slurm import SlurmExecutor, SlurmJob, _make_sbatch_string

from cluster.runtime.placement import fewest_nodes, ranks_per_node
from cluster.slurm.squeue import SlurmError, ask, own_words, read_queue
from cluster.slurm.task import RunTask
from distlth.config.schema import ClusterSection, RunConfig
from distlth.errors import ConfigError, RunError
from distlth.process import identity
from distlth.run.paths import SubmissionPaths
from distlth.run.submission import Cluster

# A run requeues itself as often as it takes: lack of progress is what ends it (cluster.retries).
ENDLESS = 10**9
YEAR_MINUTES = 366 * 24 * 60

# Since SLURM 22.05 srun does not take over how
# many cores sbatch was asked for, and would give the task of a node one.
SRUN = ("--kill-on-bad-exit=0", "--wait=0")
SBATCH = {"requeue": True}

# Where fewer nodes may go on, a lost one ends neither the job nor its other nodes' tasks. Only there: SLURM
# does not requeue such a job either, not even when the node is lost that runs its batch script.
SURVIVE = "no-kill"

OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")


# A word of the scheduler's answer, and what helps.
ADVICE = {
    "unrecognized option": "correct --extra; `man sbatch` lists what there is",
    "partition": "take another one with --partition; `sinfo` lists them",
    "account": "name yours with --account; `sacctmgr show assoc user=$USER` lists them",
    "qos": "take another one with --qos; `sacctmgr show assoc user=$USER format=account,qos` lists them",
    "node configuration": "ask for less of a node; `sinfo -o '%P %D %c %m %G'` lists cores, MB and GPUs",
    "node name": "correct --nodelist or --exclude; `sinfo -N` lists the nodes",
    "node count": "ask for fewer --nodes; `sinfo -o '%P %D'` lists how many there are",
    "time limit": "shorten --time, a run requeues itself; `sinfo -o '%P %l'` lists the limits",
    "memory": "ask for less with --mem; `sinfo -o '%P %m'` lists the MB of nodes",
    "feature": "change --constraint; `sinfo -o '%P %f'` lists what nodes have",
    "dependency": "correct --dependency; `squeue --me` lists your jobs",
    "gres": "correct --gpus-per-node; `sinfo -o '%P %G'` lists the GPUs of nodes",
}

# Reasons for which a job waits that waiting does not mend, and what helps.
HOPELESS = {
    "PartitionNodeLimit": f"the partition does not give so many nodes; {ADVICE['node count']}",
    "PartitionTimeLimit": f"the partition does not give so much time; {ADVICE['time limit']}",
    "PartitionConfig": "the partition has no such nodes, or not as many; `sinfo -o '%P %D %c %m %G'` lists "
    "how many it has, their cores, MB and GPUs",
    "BadConstraints": f"no nodes have that; {ADVICE['node configuration']}",
    "InvalidAccount": ADVICE["account"],
    "InvalidQOS": ADVICE["qos"],
}


@dataclass(frozen=True)
class Batch:
    """Runs that are submitted together, as one job or as a job array, with one set of parameters.

    `folder` is submitit's, `directory` the one that paths of the job file are relative to; both absolute.
    """

    name: str
    configs: tuple[RunConfig, ...]
    folder: Path
    directory: Path
    allowed_changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.folder, self.directory):
            # A line break would begin a command of the batch script; SLURM replaces what follows a %.
            if not str(path).isprintable() or "%" in str(path):
                raise ConfigError(f"{str(path)!r}: a path with control characters or % is nothing for sbatch")

    @property
    def cluster(self) -> ClusterSection:
        """What each of the runs needs."""
        return self.configs[0].cluster

    @property
    def tasks(self) -> tuple[RunTask, ...]:
        """What the nodes of each run call."""
        return tuple(RunTask(config, self.allowed_changes) for config in self.configs)

    @property
    def python(self) -> str:
        """The shell command that starts Python on a node."""
        return self.cluster.slurm.python or shlex.quote(sys.executable)


@dataclass(frozen=True)
class Submitted:
    """A run that was taken: its job's id, its task in an array, and without SLURM its process."""

    job_id: str
    array_task: int | None = None
    process: str | None = None


def cpus_per_node(cluster: ClusterSection) -> int:
    """The cores that a node is asked for."""
    return cluster.slurm.cpus_per_node or ranks_per_node(cluster) * cluster.cpus_per_worker


def slurm_parameters(batch: Batch) -> dict[str, Any]:
    """What submitit is asked for: its names for sbatch's parameters, without those left to the cluster."""
    cluster, slurm = batch.cluster, batch.cluster.slurm
    cpus = cpus_per_node(cluster)
    survives = fewest_nodes(cluster) < cluster.nodes
    node_loss = [f"--{SURVIVE}"] if survives else []
    sbatch = {**SBATCH, SURVIVE: survives, **slurm.extra}
    given = {
        "job_name": batch.name,
        **slurm.model_dump(include={"partition", "account", "qos", "constraint", "comment"}),
        **slurm.model_dump(include={"dependency", "nodelist", "exclude", "gpus_per_node"}),
        "time": slurm.minutes,
        "nodes": cluster.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "mem": slurm.mem_per_node,
        "exclusive": slurm.exclusive or None,
        "signal_delay_s": slurm.signal_seconds,
        "setup": list(slurm.setup) or None,
        "srun_args": [*node_loss, *SRUN, f"--cpus-per-task={cpus}", *slurm.srun_args],
        "additional_parameters": {
            "chdir": str(batch.directory),
            **{key: value for key, value in sbatch.items() if value is not False},
        },
    }
    return {key: value for key, value in given.items() if value is not None}


def sbatch_text(batch: Batch) -> str:
    """The batch script of a job, or of a job array where there are several runs."""
    parameters = {"time": None, "wckey": None, **slurm_parameters(batch)}  # else submitit has its own
    if len(batch.configs) > 1:
        parameters["map_count"] = len(batch.configs)
    folder = shlex.quote(str(batch.folder))
    text: str = _make_sbatch_string(
        command=f"{batch.python} -u -m submitit.core._submit {folder}",
        folder=batch.folder,
        stderr_to_stdout=True,
        **parameters,
    )
    return text


class _Executor(SlurmExecutor):
    """Submitit's, with our text for a job and for an array."""

    def __init__(self, batch: Batch) -> None:
        if not self.affinity() > 0:
            raise SlurmError("there is sbatch, but no srun on PATH, which starts a job's tasks")
        super().__init__(batch.folder, max_num_timeout=ENDLESS, python=batch.python)
        self._request = batch  # `batch` is a method of submitit's
        self.parameters = {"nodes": batch.cluster.nodes, "time": batch.cluster.slurm.minutes or YEAR_MINUTES}

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return sbatch_text(self._request)

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
        """Its own makes arrays with another executor, which would not have our text."""
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
    """Submit to SLURM; one for each run, in order.

    Raises:
        SlurmError: the scheduler refuses: its own words, and what to do. Nothing is left.
    """
    with _folder(batch):
        try:
            with outside_of_jobs(), redirect_stderr(StringIO()):  # where submitit repeats what it raises
                jobs = _Executor(batch).submit_array(batch.tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(refusal(str(error), partitions())) from None
        _refuse_hopeless(jobs[0].job_id)
    is_array = len(jobs) > 1
    return [Submitted(job.job_id, index if is_array else None) for index, job in enumerate(jobs)]


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """While entered, what an allocation that this process runs in says of itself is not in the environment.

    A job that is submitted from within another one would take over sizes of that one.
    """
    inside = "SLURM_JOB_ID" in os.environ
    hidden = {name: os.environ[name] for name in os.environ if inside and name.startswith(OF_A_JOB)}
    hidden.pop("SLURM_CONF", None)  # which says where the cluster is
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _refuse_hopeless(job_id: str) -> None:
    """Take a job out of the queue that could never start; many clusters accept it all the same."""
    queue = read_queue([getpass.getuser()]) or {}
    reason = queue[job_id].reason if job_id in queue else ""
    if reason in HOPELESS:
        ask("scancel", job_id.partition("_")[0])
        raise SlurmError(f"SLURM would leave it in the queue for ever ({reason}): {HOPELESS[reason]}")


def partitions() -> list[str]:
    """The names of the cluster's partitions; none where they cannot be told."""
    with suppress(SlurmError):
        return sorted(set(ask("sinfo", "-h", "-o", "%R").split()))
    return []


def refusal(stderr: str, partitions: Sequence[str]) -> str:
    """One line for a submission that sbatch refused: its own words, and what to do."""
    words = own_words(stderr)
    advice = next((advice for word, advice in ADVICE.items() if word in words.lower()), None)
    if advice == ADVICE["partition"] and partitions:
        advice = f"take one of {', '.join(partitions)} with --partition"
    return f"sbatch: {words or 'no reason given'}; {advice or 'nothing was submitted, correct the request'}"


def submit_local(batch: Batch) -> list[Submitted]:
    """Start the runs on this machine, each with a task a node, in a session that outlives this shell.

    Raises:
        RunError: they could not be started.
    """
    with _folder(batch):
        answer = _in_new_session(batch, lambda: _start(batch))
        if isinstance(answer, str):
            raise RunError(f"{batch.name}: could not be started here: {answer}")
    return [Submitted(job_id, process=process) for job_id, process in answer]


def local_parameters(batch: Batch) -> dict[str, Any]:
    """What submitit's local executor is asked for: nodes are tasks, and see all GPUs together."""
    cluster = batch.cluster
    return {
        "tasks_per_node": cluster.nodes,
        "gpus_per_node": cluster.nodes * cluster.slurm.num_gpus,
        "timeout_min": cluster.slurm.minutes or YEAR_MINUTES,
        "signal_delay_s": cluster.slurm.signal_seconds,
        "setup": list(cluster.slurm.setup),
        "stderr_to_stdout": True,
    }


def _start(batch: Batch) -> list[tuple[str, str]]:
    executor = LocalExecutor(batch.folder, max_num_timeout=ENDLESS, python=batch.python)
    executor.update_parameters(**local_parameters(batch))
    jobs = [executor.submit(task) for task in batch.tasks]
    return [(job.job_id, identity(int(job.job_id))) for job in jobs]


def _in_new_session(batch: Batch, work: Callable[[], Any]) -> Any:
    """What `work` returns, or the error as text, from a process with a session and a log of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            _redirect(SubmissionPaths(batch.folder).controller_log)
            os.chdir(batch.directory)
            answer = work()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf8") as file:
        answer = json.loads(file.read())
    os.waitpid(child, 0)
    return answer


def _redirect(log: Path) -> None:
    """Give this process no input, and have what it prints go to a file."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)


@contextmanager
def _folder(batch: Batch) -> Iterator[None]:
    """While entered, the folder of a submission is there; it goes if the submission fails."""
    batch.folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(batch.folder, ignore_errors=True)
        for parent in (batch.folder.parent, batch.folder.parent.parent):
            with suppress(OSError):  # it holds others
                parent.rmdir()
        raise


SUBMIT: Mapping[Cluster, Callable[[Batch], list[Submitted]]] = {"slurm": submit_slurm, "local": submit_local}
PARAMETERS: Mapping[Cluster, Callable[[Batch], dict[str, Any]]] = {
    "slurm": slurm_parameters,
    "local": local_parameters,
}
