"""The SLURM that other tests use treats jobs as a real one does, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.slurm.fixture import SCRIPTS, Slurm, wait_for

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--output=/dev/null")

# A task that logs what happens to it, in one file per node and start. SIGTERM ends it if it is called with
# "leave", or if its SLURM job was requeued.
TASK = """
import os, signal, sys, time
def note(word):
    name = os.environ["SLURMD_NODENAME"] + "." + os.environ.get("SLURM_RESTART_COUNT", "0")
    with open(os.path.join(sys.argv[1], name), "a") as file:
        file.write(word + "\\n")
def leave(number, frame):
    note(signal.Signals(number).name)
    os._exit(0)
leaves = "leave" in sys.argv or "SLURM_RESTART_COUNT" in os.environ
signal.signal(signal.SIGTERM, leave if leaves else lambda number, frame: note("SIGTERM"))
signal.signal(signal.SIGUSR2, leave)
note("start")
time.sleep(float(sys.argv[2]))
note("end")
"""


def task(folder: Path, seconds: float = 100, *words: str) -> str:
    """Return an option of sbatch that runs TASK once per node."""
    (folder / "task.py").write_text(TASK)
    return f"--wrap=srun {sys.executable} {folder / 'task.py'} {folder} {seconds} {' '.join(words)}"


def notes(folder: Path, node: str, restart: int = 0) -> list[str]:
    """Return what a task logged."""
    file = folder / f"{node}.{restart}"
    return file.read_text().split() if file.exists() else []


def started(folder: Path, restart: int = 0) -> bool:
    return all(notes(folder, node, restart) for node in ("n1", "n2"))


def test_a_job_runs_on_both_nodes_with_gpus_and_ends(slurm: Slurm, tmp_path: Path) -> None:
    show = "srun printenv SLURMD_NODENAME CUDA_VISIBLE_DEVICES"
    job = slurm.sbatch("--nodes=2", "--gpus-per-node=2", f"--output={tmp_path}/out", f"--wrap={show}")
    ended = slurm.wait(job, "COMPLETED")
    assert (ended["NodeList"], ended["Restarts"], ended["ExitCode"]) == ("n[1-2]", "0", "0:0")
    assert sorted((tmp_path / "out").read_text().split()) == ["0,1", "0,1", "n1", "n2"]


def test_a_job_of_the_high_partition_takes_the_nodes_and_the_other_is_requeued(
    slurm: Slurm, tmp_path: Path
) -> None:
    low = slurm.sbatch(*TWO_NODES, "--cpus-per-task=4", "--open-mode=append", task(tmp_path))
    wait_for(lambda: started(tmp_path), "both tasks")
    high = slurm.sbatch("-p", "high", *TWO_NODES, "--cpus-per-task=4", "--wrap=sleep 1")
    wait_for(lambda: "SIGTERM" in notes(tmp_path, "n2"), "the notice")
    assert slurm.job(low)["JobState"] == "RUNNING"  # it has its grace time
    slurm.wait(high, "COMPLETED")
    wait_for(lambda: started(tmp_path, restart=1), "the second start")
    assert slurm.job(low)["Restarts"] == "1"
    assert "end" not in notes(tmp_path, "n1") + notes(tmp_path, "n2")


def test_the_signal_comes_before_the_time_limit(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.sbatch(*TWO_NODES, "--time=1", "--signal=USR2@60", task(tmp_path))
    slurm.wait(job, "COMPLETED")
    assert {node: notes(tmp_path, node) for node in ("n1", "n2")} == {
        "n1": ["start", "SIGUSR2"],
        "n2": ["start", "SIGUSR2"],
    }


def test_a_cancelled_job_gets_sigterm_and_stays_cancelled(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.sbatch(*TWO_NODES, task(tmp_path, 100, "leave"))
    wait_for(lambda: started(tmp_path), "both tasks")
    slurm.run("scancel", job)
    assert slurm.wait(job, "CANCELLED")["Restarts"] == "0"
    assert notes(tmp_path, "n1") == notes(tmp_path, "n2") == ["start", "SIGTERM"]


def test_a_lost_node_requeues_a_job_or_ends_it(slurm: Slurm, tmp_path: Path) -> None:
    again = slurm.sbatch(*TWO_NODES, "--requeue", task(tmp_path, 100, "leave"))
    (tmp_path / "once").mkdir()
    once = slurm.sbatch(*TWO_NODES, "--no-requeue", task(tmp_path / "once", 100, "leave"))
    wait_for(lambda: started(tmp_path) and started(tmp_path / "once"), "all tasks")
    slurm.set_node("n2", "DOWN")
    assert slurm.wait(once, "NODE_FAIL")["Reason"] == "NodeDown"
    assert slurm.node_state("n2") == "down"
    assert slurm.wait(again, "PENDING")["Restarts"] == "1"


def test_a_node_can_be_killed_and_come_back(slurm: Slurm, tmp_path: Path) -> None:
    slurm.sbatch(*TWO_NODES, task(tmp_path, 100, "leave"))
    wait_for(lambda: started(tmp_path), "both tasks")
    assert slurm.processes("n2")
    slurm.kill_node("n2")
    assert not slurm.processes("n2")
    assert slurm.processes("n1")
    slurm.up()
    assert not slurm.node_state("n2").endswith("*")
    assert [process.name() for process in slurm.daemons("n2")] == ["slurmd"]


def test_what_outlives_its_job_is_found_and_ended(slurm: Slurm, tmp_path: Path) -> None:
    job = slurm.sbatch("--output=/dev/null", "--wrap=(setsid sleep 1000 &); true")
    slurm.wait(job, "COMPLETED")
    assert [line.split(maxsplit=1)[1] for line in slurm.clear(linger=1)] == ["sleep 1000"]
    wait_for(lambda: not slurm.processes(), "its end", 5)


@pytest.mark.usefixtures("slurm_session")  # it skips where the packages are missing
@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left_after_down(killed: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="slurm-") as parent:
        slurm = Slurm(Path(parent).resolve() / "c")
        slurm.up()
        slurm.up()  # again changes nothing
        assert len({process.pid for process in slurm.daemons() if process.name() == "slurmd"}) == 2
        slurm.sbatch(*TWO_NODES, "--wrap=(setsid sleep 1000 &); srun sleep 1000")
        wait_for(lambda: len(slurm.processes()) >= 6, "the job's processes")
        for process in slurm.daemons() if killed else []:
            process.kill()
        slurm.down()
        assert not slurm.folder.exists()
        assert not slurm.processes()
        assert not slurm.daemons()
        assert not [line for line in _command_lines() if str(slurm.folder) in line]
        slurm.down()  # again is no error


def _command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]


def test_a_folder_that_is_not_a_clusters_is_left_alone(slurm_session: Slurm, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        (Path(folder) / "mine").write_text("precious")
        for script, code in (("up.sh", 1), ("down.sh", 0)):
            done = subprocess.run(
                ["bash", SCRIPTS / script, folder], capture_output=True, text=True, check=False
            )
            assert done.returncode == code
        assert (Path(folder) / "mine").read_text() == "precious"


def test_without_packages_and_apt_one_line_says_what_to_ask_for() -> None:
    """`command` finds nothing, so every program is missing."""
    environment = {**os.environ, "BASH_FUNC_command%%": "() { return 1; }"}
    done = subprocess.run(
        ["bash", SCRIPTS / "install.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == os.EX_UNAVAILABLE
    assert len(done.stderr.splitlines()) == 1
    assert "lacks: munge slurm-wlm" in done.stderr
