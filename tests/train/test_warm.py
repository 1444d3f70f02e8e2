"""A rank trains one job after the other, each on the executable that belongs to it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.files import load_tensors
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.train.warm import WarmRank
from tests.small_job import WORLD, train, train_on


@pytest.fixture
def config(quickstart: Path, digits: Dataset) -> RunConfig:
    overrides = ["cluster.workers=1", "train.epochs=1", "train.schedule.warmup_epochs=0"]
    overrides += ["train.batch_size=480", "data.resolution=8", "prune.rewind_epoch=0"]
    return load_config(quickstart, [*overrides, f"data.path={digits.path}"])


def test_all_jobs_share_a_network_and_each_seed_has_its_order(config: RunConfig, digits: Dataset) -> None:
    first, second, *_ = plan(config)
    with closing(WarmRank(config, digits, WORLD)) as rank:
        shared = rank.executable(first)
        assert rank.executable(second) is shared
        other = rank.executable(replace(second, seed=1))
        assert other.replicas is shared.replicas  # nothing is built or compiled again
        orders = [
            each.loader.batch_indices(0, 0).tolist() for each in (shared, other, rank.executable(first))
        ]
        assert orders[0] == orders[2] != orders[1]
        with closing(shared.open_calibration()) as one, closing(other.open_calibration()) as two:
            assert one.indices.tolist() != two.indices.tolist()


def test_a_job_after_one_of_another_seed_has_the_bits_of_a_job_alone(
    config: RunConfig, digits: Dataset, tmp_path: Path
) -> None:
    first = plan(config)[0]
    other = replace(first, seed=1)
    alone = train(config, digits, RunPaths(tmp_path / "alone"), job=other)
    with closing(WarmRank(config, digits, WORLD)) as rank:
        before = train_on(rank, first, RunPaths(tmp_path / "before"))
        after = train_on(rank, other, RunPaths(tmp_path / "after"))
    assert after.weights_digest == alone.weights_digest != before.weights_digest


def test_a_seed_of_the_job_file_and_of_a_job_are_the_same_seed(
    config: RunConfig, digits: Dataset, tmp_path: Path
) -> None:
    by_file, by_job = RunPaths(tmp_path / "file"), RunPaths(tmp_path / "job")
    train(config.model_copy(update={"seed": 3}), digits, by_file)
    train(config, digits, by_job, job=replace(plan(config)[0], seed=3))
    assert load_tensors(by_file.job("00").weights)[1] == load_tensors(by_job.job("00").weights)[1]
    assert by_file.job("00").weights.read_bytes() == by_job.job("00").weights.read_bytes()
