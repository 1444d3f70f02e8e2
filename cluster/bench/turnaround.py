"""Benchmark of the time between two jobs: from a lane's last step of one to its first of the next."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from cluster.runtime.service import run
from distlth.bench.small import images_of_noise
from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.plan import plan
from distlth.run.events import Event, read_events
from distlth.run.paths import RunPaths


@dataclass(frozen=True)
class TurnaroundRow:
    """Seconds from a lane's last step to its first of the next job: medians over `count` jobs of a method.

    `finish` ends with the result on disk (it has an evaluation of ten images), `ticket` with the next ticket
    made, `start` with its weights loaded on all ranks; `first_step` has that step, too. Of a `ticket` that is
    made while another job trains, only what the lane waits for counts. A `step` of the next job is for scale.
    """

    method: str
    count: int
    seconds: float
    finish: float
    ticket: float
    start: float
    first_step: float
    step: float


def bench(
    *, model: str = "resnet50", ranks: int = 1, steps: int = 8, batch: int = 4, rounds: int = 2
) -> list[TurnaroundRow]:
    """Train a run under Ray, with a branch of refill and one of regroup in each round; read its log."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(folder, model, ranks, steps, batch, rounds)
        paths = run(config, lambda _: None)
        return rows(config, paths)


def _config(folder: Path, model: str, ranks: int, steps: int, batch: int, rounds: int) -> RunConfig:
    """Return the config of the run, and build its data set in `folder`."""
    dataset = images_of_noise(folder, steps * batch, size=32)
    document = {
        "name": "bench",
        "runs": folder / "runs",
        "data": {"path": dataset.path, "resolution": 32, "crop": "pad", "flip": False, "threads": 1},
        "model": {"name": model, "stem": "cifar"},
        "train": {"epochs": 1, "batch_size": batch, "lr": 0.01},
        "prune": {
            "rounds": rounds,
            "rewind_epoch": 0,
            "branches": [{"method": "refill"}, {"method": "regroup"}],
        },
        "cluster": {"workers": ranks},
    }
    return parse_config(document, source="bench")


def rows(config: RunConfig, paths: RunPaths) -> list[TurnaroundRow]:
    """Return what the log of a run says of the jobs of each method."""
    methods = {job.id: job.method for job in plan(config)}
    found: dict[str, list[_Turn]] = {}
    for turn in turns(read_events(paths.log)[0]):
        found.setdefault(methods[turn.job], []).append(turn)
    return [_row(method, each) for method, each in found.items()]


@dataclass(frozen=True)
class _Turn:
    """When a lane made its last step, its result was known, and its next `job` was made, loaded, begun."""

    job: str
    last_step: float
    done: float
    made: float
    loaded: float
    first_step: float
    step: float


def turns(events: Sequence[Event]) -> Iterator[_Turn]:
    """Iterate over the turns between jobs that a log of one undisturbed lane has."""
    times = {(event["event"], event.get("job")): event["time"] for event in events}
    counts = {event["job"]: event["step"] for event in events if event["event"] == "last-step"}
    jobs = [event["job"] for event in events if event["event"] == "job-start"]
    for before, job in pairwise(jobs):
        done, first = times["job-done", before], times["first-step", job]
        yield _Turn(
            job,
            times["last-step", before],
            done,
            max(done, times["mask", job]),
            times["job-start", job],
            first,
            (times["last-step", job] - first) / max(1, counts[job] - 1),
        )


def _row(method: str, found: Sequence[_Turn]) -> TurnaroundRow:
    return TurnaroundRow(
        method,
        len(found),
        median(turn.first_step - turn.last_step for turn in found),
        median(turn.done - turn.last_step for turn in found),
        median(turn.made - turn.done for turn in found),
        median(turn.loaded - turn.made for turn in found),
        median(turn.first_step - turn.loaded for turn in found),
        median(turn.step for turn in found),
    )
