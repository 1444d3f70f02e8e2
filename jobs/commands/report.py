"""`distlth report`: write a run's table and pictures."""

from __future__ import annotations

import argparse

from jobs.arguments import Commands, path_given


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report", help="table and pictures of a run", description="Write a run's table and pictures again."
    )
    parser.add_argument("run", type=path_given, metavar="RUN", help="a run directory")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from distlth.report.summary import write_report
    from distlth.run.paths import RunPaths

    for path in write_report(RunPaths(options.run)):
        print(path)
    return 0
