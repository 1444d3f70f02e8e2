"""A real SLURM of two nodes for tests: `slurm`, started once per session, cleared after each test."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

SCRIPTS = Path(__file__).parent.parent.parent / "cluster" / "devslurm"
NODES = ("n1", "n2")
NOT_AVAILABLE = os.EX_UNAVAILABLE  # the exit code of up.sh where the packages cannot be installed

# Short, so that tests are quick; real sites have minutes here.
SETTINGS = {"DEVSLURM_GRACE": "10", "DEVSLURM_KILL_WAIT": "3", "DEVSLURM_REQUEUE": "5"}

# A SLURM job's processes may end a little after it has left the queue: srun's do if a node did not answer.
LINGER_SECONDS = 10.0

# Final states of a SLURM job.
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass
class Slurm:
    """A SLURM that up.sh started, and the jobs on it."""

    folder: Path
    settings: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a login node: SLURM's commands in PATH, no variables of an outer allocation."""
        outer = ("SLURM", "SBATCH", "SALLOC", "SQUEUE", "SINFO")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        return {
            **clean,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    def up(self) -> None:
        """Start the daemons that do not run, such as those of a killed node."""
        done = _script("up.sh", self.folder, self.settings)
        if done.returncode == NOT_AVAILABLE:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        """Stop it and remove its folder."""
        done = _script("down.sh", self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *command: str) -> str:
        """Return what a SLURM command prints; fail with its error message."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def sbatch(self, *options: str) -> str:
        """Submit a SLURM job; return its id."""
        return self.run("sbatch", "--parsable", *options).strip()

    def job(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says: JobState, Reason, Restarts, NodeList and so on."""
        text = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait(self, job: str, *states: str, timeout: float = 60) -> dict[str, str]:
        """Wait until a SLURM job is in one of `states`; fail at once if it ended in another."""

        def reached() -> bool:
            state = self.job(job)["JobState"]
            assert state in states or state not in ENDED, f"job {job} is {state}, not {' or '.join(states)}"
            return state in states

        wait_for(reached, f"job {job} to be {' or '.join(states)}", timeout)
        return self.job(job)

    def set_node(self, node: str, state: str) -> None:
        """Set a node's state as an administrator does: `DOWN`, `DRAIN`, `RESUME`."""
        self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def node_state(self, node: str) -> str:
        """Return `idle`, `mixed`, `down`; with a star if the node does not answer."""
        return self.run("sinfo", "-h", "-p", "low", "-n", node, "-o", "%T").strip()

    def kill_node(self, node: str) -> None:
        """Kill the daemons of a node and everything that runs there, like a power failure."""
        for process in (*self.daemons(node), *self.processes(node), *self.daemons(node)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_for(lambda: not self.daemons(node) and not self.processes(node), f"the end of {node}", 10)

    def daemons(self, node: str | None = None) -> list[psutil.Process]:
        """Return the daemons of a node (slurmd, slurmstepd), or all, found by the log they have open."""
        logs = {str(self.folder / "log" / node)} if node else None
        return [process for process in psutil.process_iter() if self._is_daemon(process, logs)]

    def processes(self, node: str | None = None) -> list[psutil.Process]:
        """Return the processes of SLURM jobs, on one node or on both."""
        return [process for process in psutil.process_iter() if self._is_of_a_job(process, node)]

    def clear(self, linger: float = LINGER_SECONDS) -> list[str]:
        """End all SLURM jobs, bring both nodes back, and kill what is left; return that as command lines."""
        self.run("scancel", "--user", str(os.getuid()))
        self.up()
        for node in NODES:
            if self.node_state(node) not in ("idle", "mixed", "allocated", "completing"):
                self.set_node(node, "RESUME")
        wait_for(lambda: not self.run("squeue", "-h").strip(), "the queue to be empty")
        wait_for(lambda: all(self.node_state(node) == "idle" for node in NODES), "both nodes to be idle")
        with suppress(TimeoutError):
            wait_for(lambda: not self.processes(), "jobs' processes to end", linger)
        return [_end(process) for process in self.processes()]

    def _is_daemon(self, process: psutil.Process, logs: set[str] | None) -> bool:
        with suppress(psutil.Error):
            if not process.name().startswith(("munged", "slurm")):
                return False
            opened = {file.path for file in process.open_files()}
            return bool(opened & logs) if logs else any(Path(o).is_relative_to(self.folder) for o in opened)
        return False

    def _is_of_a_job(self, process: psutil.Process, node: str | None) -> bool:
        with suppress(psutil.Error):
            environment = process.environ()
            here = environment.get("SLURM_CONF") == str(self.folder / "slurm.conf")
            where = environment.get("SLURMD_NODENAME")
            return here and (where == node if node else where is not None)
        return False


def wait_for(condition: Callable[[], object], what: str, timeout: float = 60) -> None:
    """Poll until `condition` returns something true; raise TimeoutError."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.2)


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Slurm]:
    """The cluster, for the whole session; fails if it leaves a process or a file."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as parent:  # pytest's own are too long for sockets
        slurm = Slurm(Path(parent).resolve() / "c")
        try:
            slurm.up()
            yield slurm
        finally:
            slurm.down()
        assert not slurm.daemons() + slurm.processes()
        assert not slurm.folder.exists()


@pytest.fixture
def slurm(slurm_session: Slurm) -> Iterator[Slurm]:
    """The cluster with both nodes idle; fails if the test's SLURM jobs leave processes behind."""
    yield slurm_session
    left = slurm_session.clear()
    assert not left, "processes were left behind:\n" + "\n".join(left)


def _script(
    name: str, folder: Path, settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPTS / name, folder],
        env={**os.environ, **(settings or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _end(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        line = f"{process.pid} {' '.join(process.cmdline())}"
        process.kill()
        return line
    return f"{process.pid} (ended)"
