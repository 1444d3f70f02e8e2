"""`distlth cancel`: end a submitted run."""

from __future__ import annotations

import argparse
import time

from cluster.slurm.standing import cancel, find
from distlth.errors import RunError
from distlth.run.paths import RunPaths
from distlth.run.submission import Standing, Submission, load_submission, record_cancelled
from jobs.arguments import Commands, add_run, find_run
from jobs.checks import writing


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "cancel", help="end a submitted run", description="End a submitted run; distlth resume goes on."
    )
    add_run(parser)
    parser.set_defaults(command=_cancel)


def _cancel(options: argparse.Namespace) -> int:
    run = RunPaths(find_run(options.run))
    submission = load_submission(run)
    standing = find(submission)
    if submission is None or standing is None:
        raise RunError(f"{options.run}: was not submitted; end distlth run where it runs, by Ctrl-C")
    _check_can_be_cancelled(options, submission, standing)
    has_ended = cancel(submission)
    print(f"{submission}, which was {standing}: {_effect(submission, standing.state, has_ended)}")
    with writing(run.submission):
        record_cancelled(run, time.time())
    print(f"it stays cancelled; distlth resume {options.run} goes on")
    return 0


def _check_can_be_cancelled(options: argparse.Namespace, submission: Submission, standing: Standing) -> None:
    if submission.cluster == "local" and standing.state == "unknown":
        raise RunError(f"{options.run}: {submission}; cancel it there")
    if not standing.is_active and standing.state != "unknown":
        past = "ended" if standing.state == "ended" else f"been {standing.state}"
        raise RunError(f"{options.run}: nothing to cancel: {submission} has {past}")


def _effect(submission: Submission, state: str, has_ended: bool) -> str:
    """Say what cancelling a submission that was in `state` did."""
    if submission.cluster == "local":
        return "has left a checkpoint and ended" if has_ended else "is told to end, and still at it"
    if state == "PENDING":
        return "taken out of the queue"
    return "is told to end; it leaves a checkpoint first if the cluster's grace time (KillWait) allows it"
