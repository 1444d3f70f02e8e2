"""`distlth report`: write the tables, pictures and page of a run, or of several runs together."""

from __future__ import annotations

import argparse
from pathlib import Path

from distlth.errors import UserError
from distlth.run.paths import RunPaths
from distlth.run.store import load_record
from jobs.arguments import Commands, path_given


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="tables, pictures and a page of one or more runs",
        description="Write a run's report again; or the report of several runs of one experiment, which "
        "differ in their seeds alone, with means, spread and a verdict.",
    )
    parser.add_argument("runs", type=path_given, metavar="RUN", nargs="+", help="a run directory")
    parser.add_argument("--out", type=path_given, metavar="DIR", help="default, of one run: its own report/")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    runs = [RunPaths(path) for path in options.runs]
    if len(runs) > 1 and options.out is None:
        raise UserError(
            "the report of several runs belongs to none of them; say where it goes with --out DIR"
        )
    for run in runs:
        load_record(run)  # what is no run is told without waiting for torch
    from distlth.report.summary import write_joint_report, write_report

    written = write_report(runs[0]) if options.out is None else write_joint_report(runs, Path(options.out))
    for path in written:
        print(path)
    return 0
