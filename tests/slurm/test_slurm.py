"""Runs on a real SLURM of two nodes: submitted, interrupted in every way, watched, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster.slurm.batch import QUEUE_AGAIN, Batch, sbatch_text
from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.facts.compare import compare_runs
from distlth.files import read_json_lines
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from tests.injected import inject
from tests.slurm.fixture import Slurm, wait_for
from tests.small_run import write_own_modules

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "jobs" / "recipes" / "quickstart.yaml"

# Two jobs of 220 steps, a checkpoint every 6.
JOBS = ["00", "01"]
OVERRIDES = (
    *("train.epochs=20", "train.batch_size=120", "train.eval_every=5", "data.resolution=8"),
    *("prune.rounds=1", "prune.rewind_epoch=1", "prune.branches=[]"),
    *("log_every=3", "checkpoint.every_steps=6"),
)

# A run has to last until SLURM interrupts it: ranks wait after each step, where the file `slow` says so.
SLOW = """
import os, time
take_step = module.Trainer.take_step
def take_it_slowly(self, images, labels):
    take_step(self, images, labels)
    if os.path.exists({mark!r}):
        time.sleep(0.25)
module.Trainer.take_step = take_it_slowly
"""

# What sites set for all their users: jobs start with an environment of their own, and take what breaks srun.
SITE = {"SBATCH_EXPORT": "NONE", "SBATCH_MEM_PER_CPU": "200", "SBATCH_PARTITION": "high"}
SITE |= {"SLURM_MEM_PER_CPU": "300", "SBATCH_CPUS_PER_GPU": "2", "SLURM_NTASKS": "5"}

# Python as in a container: without SLURM's commands, where the file `hidden` says so.
PYTHON = """#!/bin/sh
[ ! -e {folder}/hidden ] || export PATH={folder}/container
exec {python} "$@"
"""

# Ray restarts after each interruption, which takes a while on few cores.
PATIENCE_SECONDS = 300.0


class Cluster:
    """A login node: a folder with runs, from which `distlth` is called."""

    def __init__(self, slurm: Slurm, folder: Path, digits: Dataset) -> None:
        self.slurm, self.folder, self.digits = slurm, folder, digits
        self.paths = RunPaths(folder / "runs" / "run")
        write_own_modules(folder)
        self.python = folder / "python"
        self.python.write_text(PYTHON.format(folder=folder, python=sys.executable))
        self.python.chmod(0o755)
        (folder / "container").mkdir()
        (folder / "container" / "bash").symlink_to("/bin/bash")  # Ray starts processes by it
        self.slow = folder / "slow"
        self.slow.touch()
        change = SLOW.format(mark=str(self.slow))
        self.path = inject(folder / "inject", "distlth.train.trainer", change)

    def hide_slurm(self, hidden: bool) -> None:
        """Have the tasks that start from now on find no command of SLURM, as in a container."""
        mark = self.folder / "hidden"
        mark.touch() if hidden else mark.unlink()

    def distlth(self, *arguments: str, code: int = 0) -> str:
        """Return what a command prints; fail if it ends with another code than `code`."""
        ended = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments],
            env={**self.slurm.environment, **SITE, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stderr if code else ended.stdout

    def submit(self, *more: str, code: int = 0) -> str:
        """Submit two ranks on two nodes; return the SLURM job's id."""
        site = [*("cluster.node_wait_seconds=60", "cluster.stale_seconds=15", "--nodes", "2")]
        site += ["--partition", "low", f"cluster.slurm.python={self.python}"]
        site += [f"cluster.slurm.setup=[export PYTHONPATH={self.path}]"]
        printed = self.distlth("submit", str(RECIPE), *OVERRIDES, *site, *self.names, *more, code=code)
        return printed if code else job_of(printed)

    @property
    def names(self) -> tuple[str, ...]:
        return (f"data.path={self.digits.path}", "name=run")

    def without_slurm(self, folder: Path) -> RunPaths:
        """Run the same on this machine alone, undisturbed."""
        folder.mkdir()
        ended = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", str(RECIPE), *OVERRIDES, *self.names],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return RunPaths(folder / "runs" / "run")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_json_lines(self.paths.log) if event["event"] == kind]

    def wait_for(self, what: Callable[[], object], name: str) -> None:
        wait_for(what, name, PATIENCE_SECONDS)

    def starts_again(self) -> None:
        """Wait for the next start of the run."""
        starts = len(self.events("run-start"))
        self.wait_for(lambda: len(self.events("run-start")) > starts, "the start of the run")

    def trains_again(self) -> None:
        """Wait until a job starts or resumes."""
        starts = len(self.events("job-start"))
        self.wait_for(lambda: len(self.events("job-start")) > starts, "the start of a job")

    def restarts(self, job: str) -> int:
        return int(self.slurm.job(job)["Restarts"])

    def log(self) -> str:
        return self.distlth("logs", "runs/run")


def job_of(printed: str) -> str:
    return printed.split(":")[0].removeprefix("job ")


def test_interrupted_in_every_way_it_ends_with_the_same_bits(
    slurm: Slurm, digits: Dataset, tmp_path: Path
) -> None:
    cluster = Cluster(slurm, tmp_path, digits)
    with ThreadPoolExecutor() as pool:  # SLURM waits so often that there is time for it
        undisturbed = pool.submit(cluster.without_slurm, tmp_path / "undisturbed")
        interrupt_in_every_way(cluster)
    compared = compare_runs(undisturbed.result(), cluster.paths)
    assert (compared.first_difference, compared.jobs_compared) == (None, len(JOBS))
    assert not cluster.paths.rendezvous.exists()
    assert not cluster.paths.lock.exists()
    assert "run done" in cluster.log()


def interrupt_in_every_way(cluster: Cluster) -> None:
    """Preempt it, let its time run out, kill a node; then cancel it and submit it again."""
    slurm = cluster.slurm
    cluster.hide_slurm(True)
    job = cluster.submit("--time", "60", "--comment", "it's $(date) `x`")
    cluster.trains_again()
    refused = cluster.submit(code=2)
    assert f"submitted already: job {job} is RUNNING" in refused
    assert refused.count("\n") == 1
    (shown,) = json.loads(cluster.distlth("status", "--json"))
    assert (shown["name"], shown["queue"]["state"]) == ("run", "RUNNING")

    # A SLURM job of higher priority takes the nodes. The batch script queues the run again.
    cluster.hide_slurm(False)
    slurm.sbatch("-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "srun sleep 1")
    cluster.wait_for(lambda: cluster.restarts(job) == 1, "a restart after preemption")
    assert cluster.events("stopped")[-1]["message"].startswith("by SIGTERM; ")

    # The time limit is near. SLURM looks every 30 s; the two jobs take longer. Now the task queues it again.
    cluster.starts_again()
    minutes = int(slurm.run("squeue", "-h", "-j", job, "-o", "%M").strip().split(":")[-2])
    slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")
    cluster.wait_for(lambda: cluster.restarts(job) == 2, "a restart at the time limit")
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert cluster.events("stopped")[-1]["message"].startswith("by SIGUSR2; ")

    # A node's power goes off.
    cluster.trains_again()
    slurm.kill_node("n2")
    cluster.wait_for(lambda: cluster.restarts(job) == 3, "a restart after a lost node")
    slurm.up()

    # The user cancels, and changes their mind.
    cluster.trains_again()
    cluster.distlth("cancel", "runs/run")
    slurm.wait(job, "CANCELLED", timeout=PATIENCE_SECONDS)
    wait_for(lambda: not slurm.processes(), "the processes of a cancelled job to end")
    assert "cancelled" in cluster.distlth("status")
    cluster.slow.unlink()
    again = job_of(cluster.distlth("resume", "runs/run"))
    slurm.wait(again, "COMPLETED", timeout=PATIENCE_SECONDS)
    assert cluster.restarts(again) == 0


def test_the_batch_script_queues_a_job_array_again(slurm: Slurm, tmp_path: Path) -> None:
    """Each of its jobs where its task asks for that, and once: not the one that was cancelled."""
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\necho start >> {tmp_path}/$SLURM_ARRAY_TASK_ID\n"
        '[ "$SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT" != 01 ] || exit 0\n'
        '[ "$SLURM_ARRAY_TASK_ID" = 0 ] || sleep 100\n'
        f"exit {QUEUE_AGAIN}\n"
    )
    python.chmod(0o755)
    overrides = ("cluster.workers=1", f"cluster.slurm.python={python}", "cluster.slurm.setup=[set -eu]")
    configs = tuple(load_config(RECIPE, [f"name=run{seed}", *overrides]) for seed in (0, 1))
    script = tmp_path / "script.sh"
    script.write_text(sbatch_text(Batch("run", configs, tmp_path, tmp_path)))
    job = slurm.sbatch(*("--output=/dev/null", str(script)))
    wait_for(lambda: all((tmp_path / f"{task}").exists() for task in (0, 1)), "the first starts")
    slurm.run("scancel", f"{job}_1")
    assert slurm.wait(f"{job}_0", "COMPLETED")["Restarts"] == "1"
    assert slurm.job(f"{job}_1")["JobState"] == "CANCELLED"
    assert [(tmp_path / f"{task}").read_text().split() for task in (0, 1)] == [["start"] * 2, ["start"]]


def test_a_run_survives_lost_nodes_where_that_is_allowed(
    slurm: Slurm, digits: Dataset, tmp_path: Path
) -> None:
    cluster = Cluster(slurm, tmp_path, digits)
    site = ("cluster.min_nodes=1", "cluster.node_wait_seconds=15")
    job = cluster.submit("--time", "60", "train.epochs=6", *site)

    # The head node: only the node that is left can tell SLURM.
    cluster.trains_again()
    slurm.kill_node("n1")
    cluster.wait_for(lambda: cluster.restarts(job) == 1, "a restart after the head node was lost")
    slurm.up()

    # The other one: the head node continues alone, with the same global batches.
    cluster.trains_again()
    slurm.kill_node("n2")
    cluster.slow.unlink()
    slurm.wait(job, "COMPLETED", timeout=PATIENCE_SECONDS)
    assert cluster.restarts(job) == 1
    assert "is lost, 1 of 2 left" in cluster.events("node-lost")[0]["message"]
    changed = cluster.events("changed")[-1]
    assert "cluster.workers: 2 -> 1" in changed["changes"]
    assert changed["same_bits"] is False
    results = [JobResult.load(cluster.paths.job(job_id)) for job_id in JOBS]
    assert [result.world_size for result in results if result] == [1, 1]


def test_runs_of_several_seeds_share_the_nodes(slurm: Slurm, digits: Dataset, tmp_path: Path) -> None:
    """Two Rays run at once on each of two nodes, with their own ports, folder and token."""
    cluster = Cluster(slurm, tmp_path, digits)
    cluster.submit("--time", "60", "--seeds", "1,2", "train.epochs=6", "prune.rounds=0")
    runs = [RunPaths(tmp_path / "runs" / f"run-seed{seed}") for seed in (1, 2)]
    cluster.wait_for(
        lambda: all(JobResult.load(run.job("00")) for run in runs) and not slurm.run("squeue", "-h").strip(),
        "both runs",
    )
    starts, ends = (
        [next(event["time"] for event in read_json_lines(run.log) if event["event"] == kind) for run in runs]
        for kind in ("run-start", "run-done")
    )
    assert max(starts) < min(ends), "they did not run at the same time"
    first, second = (JobResult.load(run.job("00")) for run in runs)
    assert first is not None
    assert second is not None
    assert first.weights_digest != second.weights_digest


def test_what_slurm_refuses_is_told_in_its_words(slurm: Slurm, digits: Dataset, tmp_path: Path) -> None:
    cluster = Cluster(slurm, tmp_path, digits)
    for options, words in (
        (["--partition", "nowhere"], "invalid partition specified: nowhere"),
        (["--nodes", "9", "cluster.workers=30"], "(PartitionConfig)"),
        (["--gpus-per-node", "64", "cluster.workers=2"], "Requested node configuration is not available"),
    ):
        refused = cluster.submit(*options, code=2)
        assert words in refused
        assert refused.count("\n") == 1
    assert not list((tmp_path / "runs").rglob("*"))
