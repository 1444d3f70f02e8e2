"""`distlth status`: where a run stands, or all runs of a folder, by their files and by squeue."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from cluster.slurm.standing import find
from distlth.errors import UserError
from distlth.run.paths import RunPaths, runs_in
from distlth.run.submission import Standing, Submission, load_submission
from jobs.arguments import Commands, add_runs, path_given, run_as_given
from jobs.standings import Standings, standing_line


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "status", help="where runs stand", description="Where a run stands, or all runs of a folder."
    )
    parser.add_argument(
        "run",
        type=path_given,
        nargs="?",
        metavar="RUN",
        help="a run directory or its name; default: all",
    )
    add_runs(parser)
    parser.add_argument("--watch", action="store_true", help="show it again and again until nothing runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_status)


def _status(options: argparse.Namespace) -> int:
    return _status_of_all(options) if options.run is None else _status_of_one(options)


def _status_of_one(options: argparse.Namespace) -> int:
    from distlth.facts.status import read_status
    from distlth.report.console import print_status, watch_status

    run = RunPaths(run_as_given(options.run, options.runs))
    submission = load_submission(run)
    standings = Standings()

    def ask() -> tuple[str | None, bool]:
        standing = standings.of(submission)
        return standing_line(submission, standing), bool(standing and standing.is_active)

    if options.json:
        document = json.loads(read_status(run).to_json())
        print(json.dumps({**document, "submission": _document(submission, find(submission))}, indent=1))
    elif options.watch:
        watch_status(run, ask)
    else:
        print_status(read_status(run), ask()[0])
    return 0


def _document(submission: Submission | None, standing: Standing | None) -> Mapping[str, object] | None:
    if submission is None or standing is None:
        return None
    return {
        "cluster": submission.cluster,
        "job_id": submission.job_id,
        "nodes": submission.nodes,
        "state": standing.state,
        "reason": standing.reason,
        "submitted": submission.time,
    }


def _status_of_all(options: argparse.Namespace) -> int:
    from distlth.facts.overview import RunRow, no_runs, read_row, rows_to_json
    from distlth.report.console import overview_table, show, watch_rows

    standings = Standings()

    def read() -> Sequence[RunRow]:
        runs = runs_in(options.runs)
        return [read_row(run, standings.of(_readable_submission(run))) for run in runs]

    if not runs_in(options.runs) and not options.json:
        raise no_runs(options.runs)
    if options.json:
        print(rows_to_json(read()))
    elif options.watch:
        watch_rows(read)
    else:
        show(overview_table(read()))
    return 0


def _readable_submission(run: RunPaths) -> Submission | None:
    try:
        return load_submission(run)
    except UserError:
        return None
