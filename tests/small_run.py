"""The quick start made small, as several files test it: 2 ranks, 8 jobs of 12 steps."""

from __future__ import annotations

import subprocess
from pathlib import Path

from distlth.data.dataset import Dataset
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from tests.chaos.harness import run_arguments

BRANCHES = "[{method: refill, criterion: l1}, {method: refill, extra: 0.2, rounds: [2]}, {method: regroup}]"
JOBS = ["00", "01", "01/refill", "01/regroup", "02", "02/refill", "02/refill+", "02/regroup"]
TIMEOUT_SECONDS = 300.0
OVERRIDES = (
    *("train.epochs=2", "train.batch_size=240", "train.eval_every=1", "data.resolution=8"),
    *("prune.rounds=2", "prune.rewind_epoch=1", f"prune.branches={BRANCHES}"),
    *("prune.calibration_images=100", "checkpoint.every_steps=2", "log_every=2", "cluster.retries=1"),
)


def small_run(digits: Dataset, runs: Path, *more: str) -> list[str]:
    """The command of a small run in `runs`/run."""
    return run_arguments(runs, "run", digits.path, *OVERRIDES, *more)


def write_own_modules(folder: Path) -> None:
    """Put modules into a user's folder whose names are those of ours, of Python's and of libraries."""
    for name in ("cluster", "distlth", "jobs", "queue", "ray", "submitit", "torch"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported the {name} of the working folder')\n")


def run(digits: Dataset, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    arguments = small_run(digits, runs, *more)
    return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)


def results(paths: RunPaths, jobs: list[str] = JOBS) -> dict[str, JobResult]:
    """The results of jobs that must be done."""
    found = {job: JobResult.load(paths.job(job)) for job in jobs}
    assert all(found.values()), f"not done: {[job for job, result in found.items() if result is None]}"
    return {job: result for job, result in found.items() if result is not None}
