"""Finding the processes that a fault targets, by the environment that all processes of a run inherit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"

# Target -> how the command lines of its processes begin (Ray's actors set their titles).
COMMANDS = {
    "one rank": "ray::RayTrainWorker",
    "all ranks": "ray::RayTrainWorker",
    "coordinator": "ray::Coordinator",
    "lane controller": "ray::TrainController",
    "lane holder": "ray::hold_lane",
}
DAEMONS = ("raylet", "gcs_server")
OTHERS = ("itself", "its parent", "head", "run")
TARGETS = (*COMMANDS, *DAEMONS, *OTHERS)


def victims(target: str, folder: Path | None) -> list[psutil.Process]:
    """Return the processes of a target in the session of `folder`, relative to this process.

    Raises LookupError for a target in a session when `folder` is None.
    """
    if target == "itself":
        return [psutil.Process()]
    if target == "its parent":
        return [psutil.Process(os.getppid())]
    if folder is None:
        raise LookupError(f"{target}: this process is of no session")
    if target == "run":
        return [psutil.Process(int(_owner(folder)))]
    found = [process for process in of_session(folder) if _is(process, target)]
    return found[:1] if target == "one rank" else found


def of_session(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes that were started for a session."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(TOKEN_PATH, "").startswith(f"{folder}/"):
                yield process


def session_of(run: int) -> Path | None:
    """Return the folder of the session that the `distlth run` process with this PID holds."""
    for owner in Path(tempfile.gettempdir()).glob("distlth-*/owner"):
        with suppress(OSError):
            if _owner(owner.parent) == str(run):
                return owner.parent
    return None


def _owner(folder: Path) -> str:
    """Return the PID of the process that holds a session; empty while the session is being set up."""
    return (folder / "owner").read_text().rpartition("\n")[0].rpartition("\n")[2].partition(" ")[0]


def _is(process: psutil.Process, target: str) -> bool:
    with suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if target == "head":
            return "cluster.runtime.head" in process.cmdline()
        if target in DAEMONS:
            return process.name() == target
        return "".join(process.cmdline()[:1]).startswith(COMMANDS[target])  # empty while it dies
    return False
