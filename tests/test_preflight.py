"""What is found before a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.preflight import preflight


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
        "train.batch_size, cluster.workers: one image of 16 px on each of 4 ranks leaves a BatchNorm of"
        " resnet18 one value a channel; give a rank at least 2 images"
    )
    with pytest.raises(ConfigError) as caught:
        check(quickstart, digits, "cluster.workers=4", "train.batch_size=4")
    assert str(caught.value) == refused
    check(quickstart, digits, "cluster.workers=4", "train.batch_size=8")
    check(quickstart, digits, "cluster.workers=4", "train.batch_size=4", "data.resolution=64")
