"""What SLURM is asked for: the runs of one submission, sbatch's parameters, and the batch script. Pure."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from cluster.runtime.placement import check_cores, cores_to_ask, fewest_nodes, ranks_per_node
from distlth.config.schema import ClusterSection, RunConfig
from distlth.errors import ConfigError
from distlth.run.submission import Cluster

YEAR_MINUTES = 366 * 24 * 60

# The task of one node must not end those of the others: the head node's says when the run is over.
SRUN = ("--kill-on-bad-exit=0", "--wait=0")
SBATCH = {"requeue": True}

# A task cannot queue its SLURM job again where its container has no scontrol: by this exit code it asks the
# batch script, which runs outside. srun returns the highest code of its tasks, and a killed one's is 137.
QUEUE_AGAIN = 250
TEARDOWN = f"""\
# A task without scontrol, as in a container, asks for this job to be queued again.
if [ "${{code:=0}}" = {QUEUE_AGAIN} ]; then
    code={os.EX_TEMPFAIL}
    until state=$(squeue -h -j "$SLURM_JOB_ID" -o %T); do sleep 5; done
    [ "$state" != RUNNING ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code\""""

# With this, a lost node ends neither the SLURM job nor the tasks of its other nodes. It is only asked for
# where the run may continue on fewer nodes (cluster.min_nodes), since SLURM does not requeue such a job,
# not even when it loses the node that runs the batch script.
NO_KILL = "no-kill"


@dataclass(frozen=True)
class Batch:
    """Runs that are submitted together, as one SLURM job or one job array, with the same parameters.

    `folder` is where submitit keeps this submission, `directory` what the job file's paths are relative to;
    both are absolute.
    """

    name: str
    configs: tuple[RunConfig, ...]
    folder: Path
    directory: Path
    allowed_changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.folder, self.directory):
            # A line break would start a command in the batch script; SLURM expands % in paths.
            if not str(path).isprintable() or "%" in str(path):
                raise ConfigError(f"{str(path)!r}: a path with control characters or % is nothing for sbatch")
        cpus_per_node(self.configs[0])

    @property
    def cluster(self) -> ClusterSection:
        """Return the section `cluster`, which all runs have in common."""
        return self.configs[0].cluster

    @property
    def python(self) -> str:
        """Return the shell command that starts Python on a node."""
        return self.cluster.slurm.python or shlex.quote(sys.executable)


def cpus_per_node(config: RunConfig) -> int:
    """Return how many cores to ask of each node: on GPUs enough for the loaders, which feed them.

    Raises:
        ConfigError: the job file asks for fewer than its ranks on GPUs need.
    """
    cluster, slurm = config.cluster, config.cluster.slurm
    if not asks_for_gpus(cluster):
        return slurm.cpus_per_node or ranks_per_node(cluster) * cluster.cpus_per_worker
    if slurm.cpus_per_node:
        check_cores(config, slurm.cpus_per_node, "cluster.slurm.cpus_per_node asks for")
        return slurm.cpus_per_node
    return ranks_per_node(cluster) * cores_to_ask(config, "cuda")


def asks_for_gpus(cluster: ClusterSection) -> bool:
    """Return whether a SLURM job has GPUs for its ranks."""
    asked = cluster.slurm.num_gpus or any(key.startswith(("gpus", "gres")) for key in cluster.slurm.extra)
    return bool(asked) and cluster.device != "cpu"


def slurm_parameters(batch: Batch) -> dict[str, Any]:
    """Return submitit's names and values of sbatch's parameters, without those that the cluster decides."""
    cluster, slurm = batch.cluster, batch.cluster.slurm
    cpus = cpus_per_node(batch.configs[0])
    survives = fewest_nodes(cluster) < cluster.nodes
    srun = [*([f"--{NO_KILL}"] if survives else []), *SRUN, *_whole_job(cluster.nodes, cpus)]
    sbatch = {**SBATCH, NO_KILL: survives, **slurm.extra}
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
        "srun_args": [*srun, *slurm.srun_args],
        "teardown": TEARDOWN.splitlines(),
        "additional_parameters": {
            "chdir": str(batch.directory),
            **{key: value for key, value in sbatch.items() if value is not False},
        },
    }
    return {key: value for key, value in given.items() if value is not None}


def _whole_job(nodes: int, cpus: int) -> list[str]:
    """Return the arguments of srun that give its tasks all that the SLURM job has, and its environment.

    srun takes them from variables, which sites set for sbatch (SBATCH_EXPORT=NONE) and users for srun. Since
    SLURM 22.05 it no longer takes the cores of a task from sbatch: it would give each task one.
    """
    return ["--export=ALL", f"--nodes={nodes}", f"--ntasks={nodes}", f"--cpus-per-task={cpus}", "--mem=0"]


def sbatch_flags(text: str) -> list[str]:
    """Return the parameters in a batch script as arguments of sbatch, which win over SBATCH_ variables."""
    lines = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    return [flag for line in lines for flag in shlex.split(line)[1:]]


def sbatch_text(batch: Batch) -> str:
    """Return the batch script of a SLURM job, or of a job array where there are several runs.

    Python's -P: no module in the user's folder takes the place of one of ours.
    """
    parameters = {"time": None, "wckey": None, **slurm_parameters(batch)}  # not submitit's defaults
    if len(batch.configs) > 1:
        parameters["map_count"] = len(batch.configs)
    folder = shlex.quote(str(batch.folder))
    text: str = _make_sbatch_string(
        command=f"{batch.python} -P -u -m submitit.core._submit {folder} || code=$?",
        folder=batch.folder,
        stderr_to_stdout=True,
        **parameters,
    )
    return f"{text}\n"


def local_parameters(batch: Batch) -> dict[str, Any]:
    """Return the parameters of submitit's local executor: a task for each node; all tasks see all GPUs."""
    cluster = batch.cluster
    return {
        "tasks_per_node": cluster.nodes,
        "gpus_per_node": cluster.nodes * cluster.slurm.num_gpus,
        "timeout_min": cluster.slurm.minutes or YEAR_MINUTES,
        "signal_delay_s": cluster.slurm.signal_seconds,
        "setup": list(cluster.slurm.setup),
        "stderr_to_stdout": True,
    }


PARAMETERS: Mapping[Cluster, Callable[[Batch], dict[str, Any]]] = {
    "slurm": slurm_parameters,
    "local": local_parameters,
}
