"""`distlth run`: train a run on this machine, or resume it."""

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
        description="Run a job file on this machine, or resume its run where it was interrupted.",
    )
    add_job_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the plan and start nothing")
    add_allow_change(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from distlth.config.read import load_config

    config = load_config(options.job, options.overrides)
    if options.dry_run:
        from jobs.dry_run import show_plan

        _check_device(config)
        show_plan(config)
        return 0

    from cluster.runtime.service import run
    from distlth.report.console import RunView

    _check_device(config)
    with RunView() as view:
        view.summary(run(config, view.show, options.allow_change))
    return 0


def _check_device(config: RunConfig) -> None:
    """Raise ConfigError where this machine, by `cluster.device`, cannot train as the job file says."""
    import torch

    if config.cluster.device == "auto":
        config.check_device("cuda" if torch.cuda.is_available() else "cpu")
