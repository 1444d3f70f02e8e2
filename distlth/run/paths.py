"""Every file name of a run and of its submissions."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from distlth.files import entries, exists

# A round or a branch of it, of the run's seed or another. An id from outside must not lead out of the run.
JOB_ID = re.compile(r"(seed[0-9]+/)?[0-9]{2,}(/[A-Za-z0-9][A-Za-z0-9_.+-]*)?", re.ASCII)


@dataclass(frozen=True)
class JobPaths:
    """The files of one job: a trunk round (`rounds/03`), or a branch of it (`rounds/03/refill`).

    Those of seeds other than the run's own are in folders of their own: `rounds/seed2/03`.
    """

    root: Path

    @property
    def mask(self) -> Path:
        """The mask that the job trains with."""
        return self.root / "mask.safetensors"

    @property
    def structure(self) -> Path:
        """How the mask was made: the blocks of a regrouped one, the layers that could not be grouped."""
        return self.root / "structure.json"

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.root / "weights.safetensors"

    @property
    def best(self) -> Path:
        """The weights of the epoch that was best on val, where that epoch is reported."""
        return self.root / "best.safetensors"

    @property
    def activations(self) -> Path:
        """Per-channel scores of the trained weights on the calibration set, where a branch needs them."""
        return self.root / "activations.safetensors"

    @property
    def untrained(self) -> Path:
        """Scores of the network before its first step, where a branch prunes that."""
        return self.root / "untrained.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON line per epoch."""
        return self.root / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """The job's current state, rewritten every few seconds while it trains."""
        return self.root / "progress.json"

    @property
    def result(self) -> Path:
        """The job's result, written last: a job is done when this file exists."""
        return self.root / "result.json"

    @property
    def diverged(self) -> Path:
        """Why the job cannot be trained as it is configured; takes the place of a result."""
        return self.root / "diverged.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the job; the folder of a round also holds the folders of its branches."""
        made = (self.mask, self.structure, self.weights, self.best, self.activations, self.untrained)
        return (*made, self.metrics, self.progress, self.result, self.diverged)


@dataclass(frozen=True)
class SeedPaths:
    """The files that all jobs of one seed share: `seeds/0`."""

    root: Path

    @property
    def init(self) -> Path:
        """The weights before the first step."""
        return self.root / "init.safetensors"

    @property
    def rewind(self) -> Path:
        """The weights that tickets train from."""
        return self.root / "rewind.safetensors"

    @property
    def reinit(self) -> Path:
        """Other weights before the first step, where a branch trains from such."""
        return self.root / "reinit.safetensors"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the seed."""
        return (self.init, self.rewind, self.reinit)


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report, of one run or of several."""

    root: Path

    @property
    def page(self) -> Path:
        """All of it on one page, which needs no network."""
        return self.root / "report.html"

    @property
    def results_table(self) -> Path:
        """The results as a Markdown page."""
        return self.root / "results.md"

    @property
    def results_csv(self) -> Path:
        """A line for each job."""
        return self.root / "results.csv"

    @property
    def points_csv(self) -> Path:
        """A line for each method's ticket of each round, over the seeds."""
        return self.root / "points.csv"

    @property
    def times_csv(self) -> Path:
        """A line for each ticket that was measured, in each setting."""
        return self.root / "times.csv"

    @property
    def masks_picture(self) -> Path:
        """Structured masks, each beside the mask that it was made from."""
        return self.root / "masks.png"

    def accuracy_picture(self, axis: str) -> Path:
        """Return the picture of accuracy against sparsity, by density or another axis."""
        return self.root / ("accuracy.png" if axis == "density" else f"accuracy-{axis}.png")


@dataclass(frozen=True)
class RunPaths:
    """The files of one run."""

    root: Path

    @property
    def job_file(self) -> Path:
        """The resolved config, with the versions and the data that the run uses."""
        return self.root / "job.yaml"

    @property
    def log(self) -> Path:
        """The event log: one JSON line per event."""
        return self.root / "log.jsonl"

    @property
    def lock(self) -> Path:
        """The process that holds the run; exists only while one does."""
        return self.root / "run.lock"

    @property
    def submission(self) -> Path:
        """The run's submissions; the only file of a run that still waits in a queue."""
        return self.root / "submission.json"

    @property
    def attempts(self) -> Path:
        """The starts of a submitted run and its progress at each: one JSON line per start."""
        return self.root / "attempts.jsonl"

    @property
    def rendezvous(self) -> Path:
        """The folder in which the nodes of an allocation find each other; absent while none runs."""
        return self.root / "nodes"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's log folder."""
        return self.root / "tensorboard"

    @property
    def report(self) -> ReportPaths:
        """The files of the run's report."""
        return ReportPaths(self.root / "report")

    @property
    def origin(self) -> Path:
        """Where masks and weights came from that were not made in the run, with their digests."""
        return self.root / "origin.json"

    @property
    def imported_job(self) -> Path:
        """The job file that `distlth import` leaves for `distlth run`."""
        return self.root / "imported.yaml"

    @property
    def timings(self) -> Path:
        """The folder of measured inference: `distlth bench infer`."""
        return self.root / "inference"

    def timing(self, job_id: str, how: str) -> Path:
        """Return the file of a ticket's measured inference, `how` being the machine, the batch and so on."""
        return self.timings / path_component(job_id) / f"{how}.json"

    def trace(self, job_id: str, rank: int) -> Path:
        """Return the file of the trace of a job's steps on one rank."""
        return self.root / "profile" / f"{path_component(job_id)}-rank{rank}.json.gz"

    @property
    def all_seeds(self) -> Path:
        """The folder of all seeds' weights."""
        return self.root / "seeds"

    def seed(self, seed: int) -> SeedPaths:
        """Return the files that the jobs of a seed share."""
        return SeedPaths(self.all_seeds / str(seed))

    def job(self, job_id: str) -> JobPaths:
        """Return the files of the job `03`, `03/refill` or `seed2/03`; ValueError for what is no job's id."""
        return JobPaths(self.root / "rounds" / _checked(job_id))

    @property
    def all_checkpoints(self) -> Path:
        """The folder of all jobs' checkpoints."""
        return self.root / "checkpoints"

    def checkpoints(self, job_id: str) -> Path:
        """Return the folder of a job's checkpoints; ValueError for what is not a job's id."""
        return self.all_checkpoints / path_component(job_id)

    def checkpoint(self, job_id: str, step: int) -> Path:
        """Return the file of a job's checkpoint after `step` steps."""
        return self.checkpoints(job_id) / f"{step:09d}.safetensors"


def path_component(job_id: str) -> str:
    """Return a job's id as one part of a path: `03-refill` for `03/refill`.

    Raises:
        ValueError: not a job's id.
    """
    return _checked(job_id).replace("/", "-")


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in a job's folder, intact or not, the oldest first."""
    return [path for path in entries(folder) if path.match("[0-9]*.safetensors")]


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in a job's folder, intact or not."""
    return next(reversed(checkpoint_files(folder)), None)


def runs_in(folder: Path) -> tuple[RunPaths, ...]:
    """Return the runs in a folder by name, those that still wait in a queue included."""
    runs = [RunPaths(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return tuple(run for run in runs if run.job_file.exists() or exists(run.submission))


@dataclass(frozen=True)
class SubmissionPaths:
    """The folder of one submission, beside the runs: `runs/.submitit/NAME/3` is the third of NAME.

    No run can have the name of this folder, since names do not begin with a dot.
    """

    root: Path

    @classmethod
    def next(cls, runs: Path, name: str) -> SubmissionPaths:
        """Return the folder for the next submission of the run `name`."""
        folder = runs / ".submitit" / name
        taken = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()]
        return cls(folder / str(max(taken, default=0) + 1))

    def pickle(self, index: int) -> Path:
        """Return the file of the `index`-th task, until it has a SLURM job's number."""
        return self.root / f"{index}.pkl"

    def log(self, job_id: str, task: int) -> Path:
        """Return submitit's log of a task: its output in all starts of the SLURM job, in order."""
        return self.root / f"{job_id}_{task}_log.out"

    @property
    def controller_log(self) -> Path:
        """The output of the process that starts tasks where there is no SLURM."""
        return self.root / "controller.log"


def site_file() -> Path:
    """Return the path of a user's defaults for the section `cluster` of job files."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification ignores relative paths.
    folder = Path(home) if os.path.isabs(home) else Path.home() / ".config"
    return folder / "distlth" / "cluster.yaml"


def _checked(job_id: str) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is not the name of a job, such as 03, 03/refill or seed2/03")
    return job_id
