"""Every file name of a run stands here, and nowhere else."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

# A round, or a branch of it. What comes from elsewhere than a plan must not lead out of the run.
JOB_ID = re.compile(r"[0-9]{2,}(/[A-Za-z0-9][A-Za-z0-9_.+-]*)?", re.ASCII)


@dataclass(frozen=True)
class JobPaths:
    """The files of one job: a trunk round (`rounds/03`) or a branch of it (`rounds/03/refill`)."""

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
    def activations(self) -> Path:
        """Per-channel scores of the trained weights on the calibration set, where a branch needs them."""
        return self.root / "activations.safetensors"

    @property
    def untrained(self) -> Path:
        """Scores of the network before its first step, where a branch prunes that."""
        return self.root / "untrained.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON line an epoch."""
        return self.root / "metrics.jsonl"

    @property
    def progress(self) -> Path:
        """Where the job stands now; rewritten every few seconds while it trains."""
        return self.root / "progress.json"

    @property
    def result(self) -> Path:
        """Written last: a job is done when this exists."""
        return self.root / "result.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them; the folder of a round holds its branches' folders besides."""
        made = (self.mask, self.structure, self.weights, self.activations, self.untrained)
        return (*made, self.metrics, self.progress, self.result)


@dataclass(frozen=True)
class RunPaths:
    """The files of one run."""

    root: Path

    @property
    def job_file(self) -> Path:
        """The resolved config with the versions and the data it runs on."""
        return self.root / "job.yaml"

    @property
    def init(self) -> Path:
        """The weights before the first step."""
        return self.root / "init.safetensors"

    @property
    def rewind(self) -> Path:
        """The weights that tickets train from."""
        return self.root / "rewind.safetensors"

    @property
    def log(self) -> Path:
        """What happened and when: one JSON line an event."""
        return self.root / "log.jsonl"

    @property
    def lock(self) -> Path:
        """Which process holds the run; there while one does."""
        return self.root / "run.lock"

    @property
    def submission(self) -> Path:
        """What was submitted, where to and when; of a run that waits in a queue it is the only file."""
        return self.root / "submission.json"

    @property
    def attempts(self) -> Path:
        """How often a submitted run was started, and how far it had come: one JSON line a start."""
        return self.root / "attempts.jsonl"

    @property
    def meetings(self) -> Path:
        """Where the nodes of an allocation find each other; nothing is in it while none runs."""
        return self.root / "nodes"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's log folder."""
        return self.root / "tensorboard"

    @property
    def report(self) -> Path:
        """Tables and pictures for people."""
        return self.root / "report"

    @property
    def results_table(self) -> Path:
        """The results as a Markdown table."""
        return self.report / "results.md"

    @property
    def accuracy_picture(self) -> Path:
        """Accuracy against density, one curve a method."""
        return self.report / "accuracy.png"

    @property
    def masks_picture(self) -> Path:
        """Structured masks, beside those they were made from."""
        return self.report / "masks.png"

    def job(self, job_id: str) -> JobPaths:
        """The files of the job named `03` or `03/refill`; ValueError for what is no job's name."""
        return JobPaths(self.root / "rounds" / _checked(job_id))

    @property
    def all_checkpoints(self) -> Path:
        """The folder of all jobs' mid-job states."""
        return self.root / "checkpoints"

    def checkpoints(self, job_id: str) -> Path:
        """The folder of a job's mid-job states."""
        return self.all_checkpoints / _checked(job_id).replace("/", "-")

    def checkpoint(self, job_id: str, step: int) -> Path:
        """The state of a job after `step` steps."""
        return self.checkpoints(job_id) / f"{step:09d}.safetensors"


def runs_in(folder: Path) -> tuple[RunPaths, ...]:
    """The runs of a folder of runs, those that only wait in a queue included, by name."""
    runs = [RunPaths(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []
    return tuple(run for run in runs if run.job_file.exists() or run.submission.exists())


@dataclass(frozen=True)
class SubmissionPaths:
    """The folder of one submission, beside the runs: `runs/.submitit/NAME/3` is the third of NAME.

    No run is called like the folder of submissions, since names do not begin with a dot.
    """

    root: Path

    @classmethod
    def next(cls, runs: Path, name: str) -> SubmissionPaths:
        """The one that a submission of the run `name` would get now."""
        folder = runs / ".submitit" / name
        taken = [int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()]
        return cls(folder / str(max(taken, default=0) + 1))

    def pickle(self, index: int) -> Path:
        """The `index`-th task, until it has a job's number."""
        return self.root / f"{index}.pkl"

    def log(self, job_id: str, task: int) -> Path:
        """What a task printed, in each start of the job after the other, under the name that submitit has."""
        return self.root / f"{job_id}_{task}_log.out"

    @property
    def controller_log(self) -> Path:
        """What the process printed that starts tasks without SLURM."""
        return self.root / "controller.log"


def site_file() -> Path:
    """A user's own defaults for the section `cluster` of job files."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # As the XDG specification says, a path that is not absolute counts as none.
    folder = Path(home) if os.path.isabs(home) else Path.home() / ".config"
    return folder / "distlth" / "cluster.yaml"


def _checked(job_id: str) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise ValueError(f"{job_id!r} is not the name of a job, such as 03 or 03/refill")
    return job_id


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a job's folder, whole or not."""
    return max(folder.glob("[0-9]*.safetensors"), default=None)
