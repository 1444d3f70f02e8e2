"""What is found before a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.preflight import check_memory, memory, preflight


def check(quickstart: Path, digits: Dataset, *more: str) -> None:
    overrides = (
        f"data.path={digits.path}",
        "data.resolution=16",
        "model.name=resnet18",
        "model.stem=imagenet",
    )
    preflight(load_config(quickstart, [*overrides, *more]))


def test_a_rank_with_one_image_on_a_map_of_one_pixel_is_refused(quickstart: Path, digits: Dataset) -> None:
    """BatchNorm has one value a channel then: every rank would fail at its first step, however often."""
    refused = (
        "train.batch_size, cluster.workers: one image of 16 px on 3 of 4 ranks leaves a BatchNorm of"
        " resnet18 one value a channel; give each rank at least 2 images"
    )
    with pytest.raises(ConfigError) as caught:
        check(quickstart, digits, "cluster.workers=4", "train.batch_size=5")
    assert str(caught.value) == refused
    check(quickstart, digits, "cluster.workers=4", "train.batch_size=8")
    check(quickstart, digits, "cluster.workers=4", "train.batch_size=4", "data.resolution=64")


def test_memory_is_that_of_the_rank_with_the_largest_part(quickstart: Path, digits: Dataset) -> None:
    config = load_config(
        quickstart,
        [f"data.path={digits.path}", "train.batch_size=1024", "cluster.nodes=8", "cluster.workers=64"],
    )
    found = preflight(config)

    def needed(workers: int) -> int:
        update = {"cluster": config.cluster.model_copy(update={"workers": workers})}
        return memory(config.model_copy(update=update), found.anatomy)

    image = found.anatomy.activation_bytes
    assert needed(56) - needed(64) == (19 - 16) * image
    check_memory(config, found.anatomy, found.memory)
    with pytest.raises(ConfigError, match=r"^train\.batch_size: 16 images of 16 px on each of 64 ranks need"):
        check_memory(config, found.anatomy, found.memory - 1)
    least = config.model_copy(update={"cluster": config.cluster.model_copy(update={"min_nodes": 8})})
    with pytest.raises(ConfigError, match=r"use more ranks \(cluster\.min_nodes above 8\), a smaller batch"):
        check_memory(least, found.anatomy, found.memory - 1)
