"""What `distlth submit` and `distlth resume` share: options, checks, submitting, and recording it."""

from __future__ import annotations

import argparse
import getpass
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.slurm.squeue import has
from cluster.slurm.standing import cancel
from distlth.config.schema import RunConfig
from distlth.errors import UserError
from distlth.run.paths import RunPaths, SubmissionPaths
from distlth.run.submission import Cluster, Submission, record_submission
from jobs.arguments import add_allow_change
from jobs.checks import check, writing
from jobs.request import add_options

if TYPE_CHECKING:
    from cluster.slurm.batch import Batch

NO_SBATCH = (
    "there is no sbatch on PATH, so this is no login node of a SLURM cluster; "
    "add --cluster local to submit to this machine, or use distlth run"
)


def add_submitting(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where and how to submit."""
    parser.add_argument(
        "--cluster",
        choices=("auto", "slurm", "local"),
        default="auto",
        help="local: this machine, in the same way, with a process for each node; auto: SLURM",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the batch script, start and write nothing"
    )
    add_allow_change(parser)
    add_options(parser)


def make_batch(name: str, configs: tuple[RunConfig, ...], directory: Path, allowed: Sequence[str]) -> Batch:
    """Return a batch whose submission gets the next folder."""
    from cluster.slurm.batch import Batch

    runs = configs[0].runs.absolute()
    with writing(runs):
        folder = SubmissionPaths.next(runs, name).root
    return Batch(name, configs, folder, directory, tuple(allowed))


def submit_batch(batch: Batch, options: argparse.Namespace, usual: Cluster | None = None) -> None:
    """Submit the runs of a batch and record it, or with --dry-run print what would be submitted.

    `usual` is the cluster to submit to where the options name none.
    """
    cluster = _cluster(options, usual)
    if options.dry_run:
        _print_request(batch, cluster)
        return
    for config in batch.configs:
        check(_run(config), config, batch.allowed_changes)
    with writing(batch.folder):
        _submit(batch, cluster)
    _print_next_steps(batch)


def _cluster(options: argparse.Namespace, usual: Cluster | None) -> Cluster:
    if options.cluster == "local" or (options.cluster == "auto" and usual == "local"):
        return "local"
    if not has("sbatch") and not options.dry_run:
        raise UserError(NO_SBATCH)
    return "slurm"


def _print_request(batch: Batch, cluster: Cluster) -> None:
    from cluster.slurm.batch import local_parameters, sbatch_text

    if cluster == "slurm":
        text = sbatch_text(batch)
        print(text, end="" if text.endswith("\n") else "\n")
        return
    print("# no batch script without SLURM; submitit is asked for")
    for key, value in local_parameters(batch).items():
        print(f"{key}: {value}")


def _submit(batch: Batch, cluster: Cluster) -> None:
    """Submit the runs; record each in its run directory, and print its job id.

    What cannot be recorded, on a full disk, is taken back: nobody could watch or cancel it.
    """
    from cluster.slurm.batch import PARAMETERS
    from cluster.slurm.submit import SUBMIT

    user, host, now = getpass.getuser(), socket.gethostname(), time.time()
    submissions = [
        Submission(
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
        for config, submitted in zip(batch.configs, SUBMIT[cluster](batch), strict=True)
    ]
    try:
        for config, submission in zip(batch.configs, submissions, strict=True):
            record_submission(_run(config), submission)
    except OSError:
        _take_back(batch, submissions)
        raise
    for config, submission in zip(batch.configs, submissions, strict=True):
        print(f"{submission}: {config.runs / config.name}")


def _take_back(batch: Batch, submissions: Sequence[Submission]) -> None:
    """End what was submitted a moment ago, and remove its folders."""
    for submission in submissions:
        cancel(submission)
    shutil.rmtree(batch.folder, ignore_errors=True)
    for config in batch.configs:
        with suppress(OSError):  # it is an older run's
            _run(config).root.rmdir()


def _print_next_steps(batch: Batch) -> None:
    first = batch.configs[0]
    path = first.runs / first.name
    print(f"watch it: distlth status --runs {first.runs} | distlth logs {path} -f")
    print(f"end it:   distlth cancel {path}, and distlth resume {path} goes on")


def _run(config: RunConfig) -> RunPaths:
    return RunPaths(config.runs.absolute() / config.name)
