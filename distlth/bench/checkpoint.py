"""The cost of checkpoints: steps of the quick start's job with and without one in a hundred, in one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distlth.bench.small import SIZE, images_of_noise, small_config
from distlth.models import prunable
from distlth.plan import plan
from distlth.prune.mask import Mask
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.ticket import Ticket
from distlth.train.pulse import Pulse
from distlth.train.recorder import Recorder
from distlth.train.trainer import Trainer
from distlth.train.warm import WarmRank
from distlth.train.world import World


@dataclass(frozen=True)
class CheckpointRow:
    """Steps with one checkpoint, or without: medians over pairs.

    `stall_share` is the share of the time that the training loop spent in the checkpoint, `time_ratio` the
    ratio of the whole time to that without a checkpoint (the writer in the background competes for the
    cores), `rounds` that ratio for each pair.
    """

    name: str
    steps: int
    seconds: float
    stall_milliseconds: float = 0.0
    stall_share: float = 0.0
    time_ratio: float = 1.0
    rounds: tuple[float, ...] = ()


def bench(
    *, model: str = "resnet20", steps: int = 100, pairs: int = 4, images: int = 1437
) -> list[CheckpointRow]:
    """Train `pairs` pairs of `steps` steps as a rank of the quick start does, on random images.

    The order within a pair alternates, so that a drift of the machine's speed falls on both.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _bench(model, steps, pairs, images)
    finally:
        torch.set_num_threads(threads)


def _bench(model: str, steps: int, pairs: int, images: int) -> list[CheckpointRow]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = images_of_noise(folder, images, size=SIZE)
        rank = WarmRank(small_config(model, dataset), dataset, World(0, 1, torch.device("cpu")))
        training = _training(folder, rank)
        with closing(rank), closing(_batches(training)) as batches:
            _segment(training, batches, min(steps, 20), checkpoint=True)
            rows = []
            for index in range(pairs):
                order = (True, False) if index % 2 else (False, True)
                both = {
                    with_one: _segment(training, batches, steps, checkpoint=with_one) for with_one in order
                }
                rows.append((*both[True], both[False][0]))
        training.recorder.close()
    ratios = tuple(own / plain for own, _, plain in rows)
    return [
        CheckpointRow("no checkpoint", steps, statistics.median(plain for *_, plain in rows)),
        CheckpointRow(
            "one checkpoint",
            steps,
            statistics.median(own for own, *_ in rows),
            1e3 * statistics.median(stall for _, stall, _ in rows),
            statistics.median(stall / own for own, stall, _ in rows),
            statistics.median(ratios),
            ratios,
        ),
    ]


def _segment(
    training: Trainer, batches: Iterator[tuple[Tensor, Tensor]], steps: int, *, checkpoint: bool
) -> tuple[float, float]:
    """Return the seconds of `steps` steps, and those that the checkpoint after the first held them up."""
    training.recorder.flush()
    stall, start = 0.0, time.perf_counter()
    for index in range(steps):
        training.take_step(*next(batches))
        training.step += 1
        if checkpoint and index == 0:
            before = time.perf_counter()
            training.checkpoint()
            stall = time.perf_counter() - before
    return time.perf_counter() - start, stall


def _batches(training: Trainer) -> Generator[tuple[Tensor, Tensor], None, None]:
    for epoch in count():
        with closing(training.executable.loader.epoch(epoch, 0)) as batches:
            yield from batches


def _training(folder: Path, rank: WarmRank) -> Trainer:
    job = plan(rank.config)[0]
    executable = rank.executable(job)
    layers = prunable(executable.anatomy, "no-stem")
    mask = Mask.dense({conv.name: conv.weight_shape for conv in layers})
    weights = {name: tensor.clone() for name, tensor in executable.model.state_dict().items()}
    run = RunPaths(folder / "run")
    curves = partial(JobBoard, run, job.id)
    recorder = Recorder(run, job, _ignore, curves, keep=rank.config.checkpoint.keep, is_main=True)
    training = Trainer(rank, job, Ticket(mask, weights), recorder, (), Pulse())
    training.begin()
    training.model.train()
    return training


def _ignore(event: str, **details: Any) -> None:
    pass
