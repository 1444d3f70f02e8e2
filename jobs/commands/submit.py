"""`distlth submit`: have a cluster run a job file."""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.arguments import Commands, add_job_file
from jobs.request import requested, seed_list
from jobs.submitting import add_submitting, make_batch, submit_batch


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "submit",
        help="have a cluster run a job file",
        description="Submit a run to SLURM, as one task a node. A run that is interrupted requeues itself.",
    )
    add_job_file(parser)
    parser.add_argument(
        "--seeds", type=seed_list, metavar="1,2,3", help="a job array: one run NAME-seedS for each"
    )
    add_submitting(parser)
    parser.set_defaults(command=_submit)


def _submit(options: argparse.Namespace) -> int:
    configs = requested(options)
    name = configs[0].name if len(configs) == 1 else configs[0].name.rpartition("-seed")[0]
    submit_batch(make_batch(name, configs, Path.cwd(), options.allow_change), options)
    return 0
