"""`distlth run`: train a run on this machine or in a Ray cluster, or resume it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.arguments import Commands, add_allow_change, add_job_file

if TYPE_CHECKING:
    from distlth.config.schema import RunConfig


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "run",
        help="run a job file, or resume its run",
        description="Run a job file on this machine, or in a Ray cluster of which it is a node. Resume its "
        "run where it was interrupted.",
    )
    add_job_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the plan and start nothing")
    add_allow_change(parser)
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train in a Ray cluster that is there already: HOST:6379, or auto (the key cluster.ray)",
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    config = _config(options)
    if options.dry_run:
        from jobs.dry_run import show_plan

        _check_device(config)
        show_plan(config)
        return 0

    from cluster.runtime.service import run
    from distlth.report.console import RunView

    with RunView() as view:
        view.summary(run(config, view.show, options.allow_change))
    return 0


def _config(options: argparse.Namespace) -> RunConfig:
    """Return the config of the job file, the overrides and the options."""
    from distlth.config.documents import put
    from distlth.config.read import parse_config, read_job

    document = read_job(options.job, options.overrides)
    if options.ray is not None:
        put(document, "cluster.ray", options.ray)
    return parse_config(document, source=str(options.job))


def _check_device(config: RunConfig) -> None:
    """Raise ConfigError where this machine, by `cluster.device`, cannot train as the job file says.

    What a Ray cluster has is found out there.
    """
    import torch

    if config.cluster.device == "auto" and config.cluster.ray is None:
        config.check_device("cuda" if torch.cuda.is_available() else "cpu")
