"""`distlth report`: write the table and pictures of a run, or of the seeds of an experiment."""

from __future__ import annotations

import argparse

from distlth.errors import UserError
from jobs.arguments import Commands, path_given


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="table and pictures of a run, or of several seeds",
        description="Write a run's table and pictures again; of several runs, each another seed of one "
        "experiment, those of means, spread and which tickets win.",
    )
    parser.add_argument("runs", type=path_given, nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument("--out", type=path_given, metavar="DIR", help="the folder for several runs' report")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from distlth.report.seeds import write_seeds_report
    from distlth.report.summary import write_report
    from distlth.run.paths import RunPaths

    runs = [RunPaths(path) for path in options.runs]
    if len(runs) > 1 and options.out is None:
        raise UserError("report: several runs have one report; say where with --out DIR")
    for path in write_report(runs[0]) if options.out is None else write_seeds_report(runs, options.out):
        print(path)
    return 0
