"""`distlth resume`: submit a run again."""

from __future__ import annotations

import argparse
from contextlib import chdir
from pathlib import Path

from distlth.errors import RunError
from distlth.run.paths import RunPaths
from distlth.run.submission import Submission, load_submission
from jobs.arguments import Commands, add_overrides, add_run, find_run
from jobs.request import requested_again
from jobs.submitting import add_submitting, make_batch, submit_batch


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "resume",
        help="submit a run again",
        description="Submit a run again, with what it was submitted with, and what is given here.",
    )
    add_run(parser)
    add_overrides(parser, "cluster.lanes=2")
    add_submitting(parser)
    parser.set_defaults(command=_resume)


def _resume(options: argparse.Namespace) -> int:
    run = RunPaths(find_run(options.run))
    submission = load_submission(run)
    if submission is None:
        raise RunError(f"{options.run}: was not submitted; go on with distlth run, or distlth submit")
    directory = Path(submission.directory)
    if not directory.is_dir():
        raise RunError(f"{directory}: the folder that {options.run} was submitted from is not there any more")
    with chdir(directory):
        configs = requested_again(submission.config, options, _as_written(run.root, submission))
        allowed = dict.fromkeys((*submission.allowed_changes, *options.allow_change))
        batch = make_batch(configs[0].name, configs, directory, tuple(allowed))
        submit_batch(batch, options, submission.cluster)
    return 0


def _as_written(root: Path, submission: Submission) -> Path:
    """Return the run directory as the submission wrote it, unless the run has been moved since."""
    config = submission.config
    as_written = Path(config["runs"]) / config["name"]
    return as_written if as_written.absolute() == root else root
