"""`distlth submit`, `resume` and `cancel`: runs that a cluster runs."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import time
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.slurm.squeue import has
from cluster.slurm.standing import cancel, find
from distlth.config.schema import RunConfig
from distlth.errors import DataError, RunError, UserError
from distlth.plan import plan
from distlth.run.lock import held_by
from distlth.run.paths import RunPaths, SubmissionPaths
from distlth.run.store import check_run, load_results
from distlth.run.submission import (
    Cluster,
    Submission,
    load_submission,
    record_cancelled,
    record_submission,
)
from jobs.request import add_allow_change, add_options, find_run, requested, requested_again, seed_list

if TYPE_CHECKING:
    from cluster.slurm.batch import Batch

NO_SBATCH = (
    "there is no sbatch on PATH, so this is no login node of a SLURM cluster; "
    "add --cluster local to submit to this machine, or use distlth run"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    submit = commands.add_parser(
        "submit",
        help="have a cluster run a job",
        description="Submit a job to SLURM, as one task a node. A run that is interrupted requeues itself.",
    )
    submit.add_argument("job", type=Path, metavar="JOB.yaml")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=3")
    submit.add_argument(
        "--seeds", type=seed_list, metavar="1,2,3", help="a job array: one run NAME-seedS for each"
    )
    _add_common(submit)
    submit.set_defaults(command=_submit)

    resume = commands.add_parser(
        "resume",
        help="submit a run again",
        description="Submit a run again, with what it was submitted with, and what is given here.",
    )
    resume.add_argument("run", type=Path, metavar="RUN", help="a run directory, or its name in runs")
    resume.add_argument("overrides", nargs="*", metavar="key=value", help="such as cluster.lanes=2")
    _add_common(resume)
    resume.set_defaults(command=_resume)

    parser = commands.add_parser(
        "cancel", help="end a submitted run", description="End a submitted run; distlth resume goes on."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory, or its name in runs")
    parser.set_defaults(command=_cancel)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster",
        choices=("auto", "slurm", "local"),
        default="auto",
        help="local: this machine, by the same way, with a process for each node; auto: SLURM",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the batch script, start and write nothing"
    )
    add_allow_change(parser)
    add_options(parser)


def _submit(options: argparse.Namespace) -> int:
    configs = requested(options)
    name = configs[0].name if len(configs) == 1 else configs[0].name.rpartition("-seed")[0]
    directory = Path.cwd()
    return _hand_in(_batch(name, configs, directory, options.allow_change), options, "auto")


def _resume(options: argparse.Namespace) -> int:
    run = RunPaths(find_run(options.run))
    submission = load_submission(run)
    if submission is None:
        raise RunError(f"{options.run}: was not submitted; go on with distlth run, or distlth submit")
    directory = Path(submission.directory)
    if not directory.is_dir():
        raise RunError(f"{directory}: the folder that {options.run} was submitted from is not there any more")
    with chdir(directory):
        configs = requested_again(submission.config, options, _near(run.root, submission))
        allowed = dict.fromkeys((*submission.allowed_changes, *options.allow_change))
        batch = _batch(configs[0].name, configs, directory, tuple(allowed))
        return _hand_in(batch, options, submission.cluster)


def _near(root: Path, submission: Submission) -> Path:
    """The run directory as it was written when it was submitted, unless it was moved."""
    config = submission.config
    as_written = Path(config["runs"]) / config["name"]
    return as_written if as_written.absolute() == root else root


def _batch(name: str, configs: tuple[RunConfig, ...], directory: Path, allowed: Sequence[str]) -> Batch:
    from cluster.slurm.batch import Batch

    folder = SubmissionPaths.next(configs[0].runs.absolute(), name).root
    return Batch(name, configs, folder, directory, tuple(allowed))


def _hand_in(batch: Batch, options: argparse.Namespace, usual: Cluster | str) -> int:
    """Submit, or show what would be submitted."""
    from cluster.slurm.batch import PARAMETERS, sbatch_text
    from cluster.slurm.submit import SUBMIT

    cluster = _cluster(options.cluster if options.cluster != "auto" else usual, options.dry_run)
    if options.dry_run:
        text = sbatch_text(batch) if cluster == "slurm" else _lines(PARAMETERS[cluster](batch))
        print(text, end="" if text.endswith("\n") else "\n")
        return 0
    for config in batch.configs:
        check(config, batch.allowed_changes)
    user, host, now = getpass.getuser(), socket.gethostname(), time.time()
    for config, submitted in zip(batch.configs, SUBMIT[cluster](batch), strict=True):
        submission = Submission(
            cluster=cluster,
            job_id=submitted.job_id,
            array_task=submitted.array_task,
            nodes=config.cluster.nodes,
            time=now,
            user=user,
            host=host,
            directory=str(batch.directory),
            folder=str(batch.folder),
            parameters=PARAMETERS[cluster](batch),
            config=config.model_dump(mode="json"),
            allowed_changes=batch.allowed_changes,
            process=submitted.process,
        )
        record_submission(_run(config), submission)
        print(f"{submission}: {config.runs / config.name}")
    _say_what_next(batch)
    return 0


def _cluster(asked: str, dry_run: bool) -> Cluster:
    if asked == "local":
        return "local"
    if not has("sbatch") and not dry_run:
        raise UserError(NO_SBATCH)
    return "slurm"


def _lines(parameters: dict[str, object]) -> str:
    return "\n".join(
        ["# no batch script without SLURM; submitit is asked for"]
        + [f"{key}: {value}" for key, value in parameters.items()]
    )


def _say_what_next(batch: Batch) -> None:
    first = batch.configs[0]
    path = first.runs / first.name
    print(f"watch it: distlth status --runs {first.runs} | distlth logs {path} -f")
    print(f"end it:   distlth cancel {path}, and distlth resume {path} goes on")


def _run(config: RunConfig) -> RunPaths:
    return RunPaths(config.runs.absolute() / config.name)


def check(config: RunConfig, allowed: Sequence[str]) -> None:
    """Look at what a run needs, from the login node and without training libraries' start-up where possible.

    Raises:
        UserError: the run is queued, alive or done; its data is not there, too few or not readable; its
            model is not known; or the run on disk cannot go on with this config.
    """
    run = _run(config)
    _check_is_free(run, config)
    from distlth.data.dataset import SPLITS, Dataset

    dataset = Dataset.load(config.data.path)
    for split in SPLITS:
        if not os.access(dataset.file(split), os.R_OK):
            raise DataError(f"{dataset.file(split)}: you may not read it")
    if config.train.batch_size > dataset.split("train").count:
        raise DataError(
            f"train.batch_size: {config.train.batch_size} is larger than the train split of "
            f"{config.data.path} ({dataset.split('train').count} images)"
        )
    check_run(run, config, {"digest": dataset.digest, "classes": dataset.num_classes}, allowed)
    if not run.job_file.exists():
        from distlth.models.zoo import check_name  # loads torch

        check_name(config.model.name)


def _check_is_free(run: RunPaths, config: RunConfig) -> None:
    submission = load_submission(run)
    standing = find(submission)
    if standing and standing.is_active:
        is_ending = submission and submission.cancelled
        advice = "it was cancelled, try again when it has ended" if is_ending else "distlth cancel ends it"
        raise RunError(f"{run.root}: submitted already: {submission} is {standing}; {advice}")
    holder = held_by(run.lock, config.cluster.stale_seconds) if run.root.is_dir() else None
    if holder:
        raise RunError(
            f"{run.root}: this run is alive, held by {holder}; end that one first (what was killed holds a "
            f"run for {config.cluster.stale_seconds:.0f} s more)"
        )
    if run.job_file.exists() and len(load_results(run, plan(config))) == len(plan(config)):
        raise RunError(f"{run.root}: all {len(plan(config))} jobs are done; see distlth status {run.root}")


def _cancel(options: argparse.Namespace) -> int:
    run = RunPaths(find_run(options.run))
    submission = load_submission(run)
    standing = find(submission)
    if submission is None or standing is None:
        raise RunError(f"{options.run}: was not submitted; end distlth run where it runs, by Ctrl-C")
    if submission.cluster == "local" and standing.state == "unknown":
        raise RunError(f"{options.run}: {submission}; cancel it there")
    if not standing.is_active and standing.state != "unknown":
        raise RunError(f"{options.run}: nothing to cancel: {submission} has {_past(standing.state)}")
    has_ended = cancel(submission)
    record_cancelled(run, time.time())
    print(
        f"{submission}, which was {standing}: {_what_cancelling_did(submission, standing.state, has_ended)}"
    )
    print(f"it stays cancelled; distlth resume {options.run} goes on")
    return 0


def _past(state: str) -> str:
    return "ended" if state == "ended" else f"been {state}"


def _what_cancelling_did(submission: Submission, state: str, has_ended: bool) -> str:
    if submission.cluster == "local":
        return "has left a checkpoint and ended" if has_ended else "is told to end, and still at it"
    if state == "PENDING":
        return "taken out of the queue"
    return "is told to end; it leaves a checkpoint first if the cluster's grace time (KillWait) allows it"
