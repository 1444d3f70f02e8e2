"""Progressive resizing: each epoch's size, the same bits after a resume, and what it costs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distlth.config.read import load_config
from distlth.config.resize import ResizeSection
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.data.load.loader import TrainLoader
from distlth.errors import ConfigError
from distlth.facts.forecast import forecast
from distlth.models.pooling import FixedSizeAvgPool2d
from distlth.plan import plan
from distlth.preflight import check_slim_training, memory, preflight
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.slim.trainable import trainable
from distlth.train.evaluate import evaluate
from distlth.train.trainer import Trainer
from tests.small_job import ignore, train
from tests.tiny_run import make_result
from tests.train.test_executable import small_network

# Sizes 8, 8, 12, 16 in epochs 0 to 3.
RESIZE = "data.resize={start: 8, from_epoch: 1, to_epoch: 3, multiple: 4}"


def sides(end: int, epochs: int, **resize: int) -> list[int]:
    section = ResizeSection(**resize)
    return [section.side(epoch, end) for epoch in range(epochs)]


def test_sides_by_hand() -> None:
    assert sides(192, 16, start=160, from_epoch=11, to_epoch=13) == [160] * 12 + [192] * 4  # 176 rounds up
    assert sides(192, 40, start=160, from_epoch=29, to_epoch=34) == [160] * 32 + [192] * 8  # 172.8, 179.2
    ramp = sides(256, 7, start=128, from_epoch=1, to_epoch=5)
    assert ramp == [128, 128, 160, 192, 224, 256, 256]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 20), st.integers(1, 20), st.integers(1, 8))
def test_sides_rise_in_multiples_between_their_ends(
    start: int, more: int, first: int, span: int, multiple: int
) -> None:
    start, end = 4 * start * multiple, (4 * start + more) * multiple
    found = sides(
        end, first + span + 2, start=start, from_epoch=first, to_epoch=first + span, multiple=multiple
    )
    assert found == sorted(found)
    assert {side % multiple for side in found} == {0}
    assert (found[: first + 1], found[first + span :]) == ([start] * (first + 1), [end] * 2)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("data.resize.start=16", "resize.start (16) must be below resolution (16)"),
        ("data.resize.start=10", "resize.start (10) is no multiple of resize.multiple (4)"),
        ("data.resize.to_epoch=1", "from_epoch (1) must be below to_epoch (1)"),
        ("train.epochs=3", "data.resize.to_epoch: 3 must be below train.epochs = 3"),
        ("data.pad=9", "pad (9) is more than resolution (8)"),
        ("data.cache=gpu", "with resize use cache: os"),
        ("train.compile=true data.resize.multiple=1", "train.compile compiles the network for each of 9"),
    ],
)
def test_what_does_not_fit_is_one_line(quickstart: Path, more: str, said: str) -> None:
    long = ["train.epochs=20", "data.resize.to_epoch=12"] if "multiple=1" in more else []
    with pytest.raises(ConfigError) as caught:
        load_config(quickstart, [RESIZE, *long, *more.split()])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ranks_share_the_batches_of_an_epochs_size(digits: Dataset) -> None:
    def batch(rank: int, world_size: int, epoch: int) -> Tensor:
        loader = TrainLoader(
            digits,
            batch_size=30,
            rank=rank,
            world_size=world_size,
            resolution=16,
            side=lambda epoch: 8 if epoch == 0 else 16,
            seed=0,
            threads=1,
        )
        with closing(loader), loader.epoch(epoch, first_step=3) as batches:
            return next(batches)[0]

    for epoch, side in ((0, 8), (1, 16), (0, 8)):
        whole = batch(0, 1, epoch)
        assert whole.shape == (30, 3, side, side)
        assert torch.equal(torch.cat([batch(rank, 2, epoch) for rank in (0, 1)]), whole)


class Pooled(nn.Module):
    """Two layers and a pooling to 4 x 4 between them, which differs with the size of what it reads."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = FixedSizeAvgPool2d(side)
        self.head = nn.Linear(4 * side * side, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.body(images)).flatten(1))
        return logits


def test_slim_training_takes_sizes_that_run_the_same_program(quickstart: Path) -> None:
    """Windows and slices differ with the size, a mean over the whole map does not."""
    asked = [RESIZE, "train.execution=slim"]
    config = load_config(quickstart, asked)
    with pytest.raises(ConfigError, match=r"cannot train slim on images of several sizes \(8, 12, 16 px\)"):
        check_slim_training(config, Pooled(4))
    network = small_network("", 10, seed=0, stem="", blurpool=False)
    check_slim_training(config, network)
    traced = trainable(network, 16, {})
    traced.network.load_state_dict({**traced.network.state_dict(), **traced.take(network.state_dict())})
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(traced.network.eval()(images), network.eval()(images))


class StoppedError(Exception):
    """Thrown into a job to end it."""


class TestJobs:
    @pytest.fixture
    def config(self, quickstart: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
        for module in ("distlth.train.executable", "tests.small_job"):
            monkeypatch.setattr(f"{module}.build", small_network)
        asked = [
            *(RESIZE, "data.eval_resolution=12", "cluster.workers=1", "train.epochs=4"),
            *("train.batch_size=160", "train.eval_every=2", "prune.rewind_epoch=2"),
            *("prune.after_rewind=continue", "checkpoint.every_steps=5", f"data.path={digits.path}"),
        ]
        return load_config(quickstart, asked)

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
        """The sides of the images that jobs train and evaluate on, a training one for each epoch."""
        found: dict[str, list[int]] = {"train": [], "eval": []}
        take_step = Trainer.take_step

        def note_step(self: Trainer, images: Tensor, labels: Tensor) -> None:
            found["train"].append(images.shape[-1])
            take_step(self, images, labels)

        def note_batches(model: Any, batches: Any, *more: Any) -> Any:
            kept = list(batches)
            found["eval"] += [images.shape[-1] for images, _ in kept]
            return evaluate(model, kept, *more)

        monkeypatch.setattr(Trainer, "take_step", note_step)
        monkeypatch.setattr("distlth.train.trainer.evaluate", note_batches)
        return found

    def test_a_job_that_resumes_amid_an_epoch_ends_with_the_same_bits(
        self, config: RunConfig, digits: Dataset, tmp_path: Path, seen: dict[str, list[int]]
    ) -> None:
        whole = train(config, digits, RunPaths(tmp_path / "whole"))
        steps = whole.steps // 4
        assert seen["train"] == [8] * 2 * steps + [12] * steps + [16] * steps
        assert set(seen["eval"]) == {12}
        parts, taken = RunPaths(tmp_path / "parts"), len(seen["train"])

        def stop(event: str, **_details: Any) -> None:
            if event == "last-step":
                raise StoppedError

        with pytest.raises(StoppedError):
            train(config, digits, parts, stop)
        resumed = train(config, digits, parts)
        assert 0 < len(seen["train"]) - 2 * taken < steps  # a checkpoint amid the last epoch
        assert self.bits(resumed) == self.bits(whole)

    def test_a_rewound_job_goes_on_at_its_own_epoch(
        self, config: RunConfig, digits: Dataset, tmp_path: Path, seen: dict[str, list[int]]
    ) -> None:
        job = plan(config)[1]
        assert job.first_epoch == 2
        result = train(config, digits, RunPaths(tmp_path), ignore, replace(job, structure=None))
        assert seen["train"] == [12] * (result.steps // 2) + [16] * (result.steps // 2)

    def bits(self, result: JobResult) -> tuple[str, float, float]:
        return result.weights_digest, result.train_loss, result.top1


def test_costs_follow_the_pixels(quickstart: Path, digits: Dataset) -> None:
    asked = [f"data.path={digits.path}", "train.epochs=4", "prune.branches=[]", "prune.after_rewind=continue"]
    config = load_config(quickstart, [*asked, RESIZE, "prune.rounds=1"])
    share = (2 * 0.25 + 0.5625 + 1) / 4
    found = forecast(config, 10, {}, step_seconds=3600.0)
    hours = config.cluster.workers * 40 * share
    later = config.cluster.workers * 20 * (0.5625 + 1) / 2
    assert [job.hours for job in found.jobs] == pytest.approx([hours, later])
    done = replace(make_result("00", seconds=40 * share), steps=40, world_size=2)
    assert forecast(config, 10, {"00": done}).step_seconds == pytest.approx(1.0)
    smaller = preflight(load_config(quickstart, [*asked, RESIZE, "data.eval_resolution=8"]))
    larger = preflight(load_config(quickstart, asked))
    assert larger.anatomy.macs > 3 * smaller.anatomy.macs  # counted where it is evaluated
    assert smaller.memory == pytest.approx(larger.memory, rel=0.05)  # by the largest training images
    assert memory(config, larger.anatomy) == larger.memory
