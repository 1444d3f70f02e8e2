"""`distlth tensorboard`: start TensorBoard on a login node, and say how to reach it."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from distlth.errors import UserError
from distlth.run.paths import RunPaths, runs_in
from jobs.arguments import Commands, add_runs, find_run, path_given


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tensorboard",
        help="show the curves of runs",
        description="Start TensorBoard for some runs, or all of a folder, and say how to reach it.",
    )
    parser.add_argument("runs_shown", type=path_given, nargs="*", metavar="RUN", help="default: all runs")
    add_runs(parser)
    parser.add_argument("--port", type=int, metavar="PORT", help="default: 6006, or the next free one")
    parser.add_argument("--host", default="localhost", help="where it listens; default: this machine alone")
    parser.set_defaults(command=_tensorboard)


def _tensorboard(options: argparse.Namespace) -> int:
    runs = [RunPaths(find_run(path, options.runs)) for path in options.runs_shown] or [
        RunPaths(run.root.absolute()) for run in runs_in(options.runs)
    ]
    if not runs:
        raise UserError(f"{options.runs}: no runs here; say where they are with --runs DIR")
    port = options.port or free_port()
    folder = runs[0].tensorboard if len(runs) == 1 else links(runs)
    print(f"http://{options.host}:{port}  ({len(runs)} runs; Ctrl-C ends it)")
    print("from your own machine, through a tunnel:")
    print(f"  ssh -L {port}:localhost:{port} {getpass.getuser()}@{this_host()}", flush=True)
    program = [sys.executable, "-P", "-m", "tensorboard.main"]
    os.execv(program[0], [*program, "--logdir", str(folder), "--port", str(port), "--host", options.host])


def this_host() -> str:
    """Return this machine's name as others may know it."""
    full = socket.getfqdn()
    return socket.gethostname() if full.startswith("localhost") else full


def free_port(first: int = 6006, tries: int = 200) -> int:
    """Return the first port from `first` on that nothing listens on here.

    Raises:
        UserError: all that were tried are taken.
    """
    for port in range(first, first + tries):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port from {first} to {first + tries - 1}; choose one with --port")


def links(runs: Sequence[RunPaths]) -> Path:
    """Return a new folder with a link to the curves of each run, under the run's name.

    A later command removes it, when this process, which becomes TensorBoard, has ended.
    """
    from cluster.runtime.folders import new_folder
    from cluster.runtime.session import sweep

    sweep()
    folder = new_folder() / "runs"
    folder.mkdir()
    for run in runs:
        link = folder / run.root.name
        if link.is_symlink():  # runs of one name in two folders
            link = folder / f"{run.root.parent.name}-{run.root.name}"
        link.symlink_to(run.tensorboard)
    return folder
