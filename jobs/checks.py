"""What is checked on the login node before a run is submitted, so that it does not fail after the queue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.slurm.standing import find
from distlth.config.schema import RunConfig
from distlth.errors import RunError
from distlth.plan import plan
from distlth.run.lock import held_by
from distlth.run.paths import RunPaths
from distlth.run.results import load_results
from distlth.run.store import check_run
from distlth.run.submission import load_submission

ELSEWHERE = "make room for it, or put runs elsewhere with runs=DIR"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while entered into one line that names the file, or else `path`, and what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or path}: {error.strerror or error}; {ELSEWHERE}") from None


def check(run: RunPaths, config: RunConfig, allowed: Sequence[str]) -> None:
    """Check that a run could train. torch is loaded only for a new run, to check the model's name.

    Raises:
        UserError: the run directory cannot be written; the run is queued, alive or done; its data is
            missing, too small or not readable; its model is not known; or the run on disk cannot be resumed
            with this config.
    """
    _check_can_be_written(run.root)
    with writing(run.root):
        _check_is_free(run, config)
    data = _check_data(config)
    check_run(run, config, data, allowed)
    if not run.job_file.exists():
        from distlth.models.zoo import check_name  # loads torch

        check_name(config.model.name)


def _check_can_be_written(folder: Path) -> None:
    """Check that a folder can be made, or be written into. A disk that is full is not found out here."""
    found = next(path for path in (folder, *folder.parents) if path.exists())
    if not found.is_dir():
        raise RunError(f"{found}: a file, where a folder for runs is needed; {ELSEWHERE}")
    if not os.access(found, os.W_OK | os.X_OK):
        raise RunError(f"{found}: you may not write there; {ELSEWHERE}")


def _check_data(config: RunConfig) -> dict[str, object]:
    """Return what identifies the data set, as `check_run` takes it."""
    from distlth.data.dataset import Dataset
    from distlth.data.identity import identity

    dataset = Dataset.load(config.data.path)
    config.steps_per_epoch(dataset.split("train").count)  # refuses a batch that is larger
    return identity(dataset, config.data.shuffle)


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
