"""`cache: gpu`: batches of a split that lies decoded on a device are those that are read; here on the CPU."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.data.load import resident
from distlth.data.load.loader import EvalLoader, TrainLoader
from distlth.data.load.order import part
from distlth.data.load.packed import PackedSplit
from distlth.data.load.storage import Cache
from distlth.errors import ConfigError, DataError
from distlth.run.paths import RunPaths
from tests.data.fixtures import small_dataset
from tests.small_job import train

BATCH, RESOLUTION = 7, 24

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {"crop": "none"},
    "pad": {"crop": "pad"},
    "pad-wide": {"crop": "pad", "pad": RESOLUTION, "fill": "black", "flip": False},
    "rotate": {"crop": "none", "rotate": 30.0},
    "pad-rotate": {"crop": "pad", "pad": 4, "rotate": 180.0, "fill": "black"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """27 JPEGs of various sizes to train on and 9 to validate."""
    return small_dataset(tmp_path_factory.mktemp("data"), per_class=12)


def loader(dataset: Dataset, cache: Cache, **more: Any) -> TrainLoader:
    options = {"batch_size": BATCH, "resolution": RESOLUTION, "seed": 5, "threads": 1, **more}
    return TrainLoader(dataset, cache=cache, **options)


def read(loader: TrainLoader, epoch: int = 0, first_step: int = 0) -> list[tuple[Tensor, Tensor]]:
    with closing(loader), loader.epoch(epoch, first_step) as batches:
        return list(batches)


def assert_same(found: list[tuple[Tensor, Tensor]], expected: list[tuple[Tensor, Tensor]]) -> None:
    assert len(found) == len(expected) > 0
    for (images, labels), (like, true) in zip(found, expected, strict=True):
        assert torch.equal(images, like)
        assert torch.equal(labels, true)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_batches_are_those_that_are_read_to_the_bit(dataset: Dataset, augmentation: dict[str, Any]) -> None:
    for epoch in (0, 3):
        expected = read(loader(dataset, "os", **augmentation), epoch)
        assert_same(read(loader(dataset, "gpu", **augmentation), epoch), expected)


def test_an_epoch_resumes_at_any_step(dataset: Dataset) -> None:
    whole = read(loader(dataset, "os", crop="pad"), epoch=1)
    for step in range(len(whole)):
        assert_same(read(loader(dataset, "gpu", crop="pad"), 1, step), whole[step:])
    assert read(loader(dataset, "gpu", crop="pad"), 1, len(whole)) == []


def test_parts_of_ranks_make_the_global_batch(dataset: Dataset) -> None:
    whole = read(loader(dataset, "os", crop="pad"))
    for rank in range(3):
        place = part(BATCH, rank, 3)
        expected = [
            (images[place.start : place.stop], labels[place.start : place.stop]) for images, labels in whole
        ]
        found = read(loader(dataset, "gpu", crop="pad", rank=rank, world_size=3))
        for (images, labels), (like, true) in zip(found, expected, strict=True):
            assert torch.equal(images, like)
            assert torch.equal(labels, true)


@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_evaluation_has_each_image_once_and_the_last_batch_is_short(dataset: Dataset, ratio: float) -> None:
    for rank in range(2):
        options: dict[str, Any] = {"batch_size": 2, "rank": rank, "world_size": 2, "resolution": RESOLUTION}
        options |= {"ratio": ratio, "threads": 1}
        found = list(EvalLoader(dataset, cache="gpu", **options))
        assert_same(found, list(EvalLoader(dataset, cache="os", **options)))
        assert [len(labels) for _, labels in found] == ([2, 2, 1] if rank == 0 else [2, 2])


def test_a_split_is_decoded_once_for_all_its_loaders(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(resident, "_check_fits", lambda packed, size, device: decoded.append(size))
    options: dict[str, Any] = {"batch_size": BATCH, "resolution": RESOLUTION, "crop": "pad"}
    with closing(PackedSplit(dataset, "train", threads=1, cache="gpu")) as packed:
        first = TrainLoader(dataset, packed=packed, seed=1, **options)
        other = TrainLoader(dataset, packed=packed, seed=2, flip=False, **options)
        chosen = EvalLoader(dataset, split="train", packed=packed, indices=[3], batch_size=1, resolution=32)
        assert len(decoded) == 1
        assert_same(list(first.epoch(0)), read(loader(dataset, "os", crop="pad", seed=1)))
        assert_same(list(other.epoch(0)), read(loader(dataset, "os", crop="pad", seed=2, flip=False)))
        assert len(list(chosen)) == 1
        TrainLoader(dataset, packed=packed, seed=1, **{**options, "resolution": 32})
    assert decoded == [27 * 30 * 30 * 3, 27 * 40 * 40 * 3]


def test_what_does_not_fit_is_one_line(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 40_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(DataError, match=r"train images of \S+ need 5.5e-05 GiB, cpu has 3.73e-05 GiB free"):
        loader(dataset, "gpu", crop="pad", pad=1, resolution=25)


def test_random_resized_crops_are_refused(dataset: Dataset, quickstart: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cache: gpu decodes each image once and fits crop: pad and crop: none"
    ):
        load_config(quickstart, ["data.cache=gpu", "data.crop=random-resized"])
    with pytest.raises(DataError, match="'random-resized'"):
        loader(dataset, "gpu")


def test_a_job_trains_to_the_same_bits(digits: Dataset, quickstart: Path, tmp_path: Path) -> None:
    """The calibration images of a method, a part of the split, are read as always."""
    small = [
        f"data.path={digits.path}",
        "data.resolution=8",
        "train.epochs=2",
        "train.batch_size=300",
        "prune.rewind_epoch=0",
    ]
    results = []
    for cache in ("os", "gpu"):
        config = load_config(quickstart, [*small, f"data.cache={cache}", "data.rotate=10"])
        results.append(train(config, digits, RunPaths(tmp_path / cache)))
    assert results[0].weights_digest == results[1].weights_digest
