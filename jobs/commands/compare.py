"""`distlth compare`: find where two runs first differ."""

from __future__ import annotations

import argparse

from distlth.run.paths import RunPaths
from distlth.run.store import load_record
from jobs.arguments import Commands, path_given

DIFFERENT = 1


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="where two runs first differ",
        description="Say where two runs first differ. Exit code: 0 identical in what both have, 1 different.",
    )
    parser.add_argument("first", type=path_given, metavar="RUN_A", help="a run directory, finished or not")
    parser.add_argument("second", type=path_given, metavar="RUN_B", help="another one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_compare)


def _compare(options: argparse.Namespace) -> int:
    first, second = RunPaths(options.first), RunPaths(options.second)
    for run in (first, second):
        load_record(run)  # what is no run is told without waiting for torch
    from distlth.facts.compare import compare_runs
    from distlth.report.console import comparison_view, show

    comparison = compare_runs(first, second)
    if options.json:
        print(comparison.to_json())
    else:
        show(comparison_view(comparison))
    return 0 if comparison.first_difference is None else DIFFERENT
