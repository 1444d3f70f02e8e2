"""A very small run for benchmarks: the quick start's config, and images of noise. Without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions, build

CLASSES = 10
SIZE = 16  # pixels


def small_run(folder: Path) -> RunConfig:
    """Return the config of a very small run, and build its data set in `folder`."""
    return small_config("resnet20", images_of_noise(folder, 2 * CLASSES, size=SIZE))


def small_config(model: str, dataset: Dataset) -> RunConfig:
    """Return the quick start's config, with epochs without end."""
    document = {
        "name": "bench",
        "data": {"path": dataset.path, "resolution": SIZE, "crop": "pad", "flip": False, "threads": 1},
        "model": {"name": model, "stem": "cifar"},
        "train": {"epochs": 10**6, "batch_size": min(64, dataset.split("train").count), "lr": 0.01},
        "prune": {"rounds": 0},
    }
    return parse_config(document, source="bench")


def images_of_noise(folder: Path, images: int, *, size: int) -> Dataset:
    """Build a data set of so many square images to train on, and ten for val, in `folder`; return it."""
    random = np.random.default_rng(0)
    for split, number in (("train", images), ("val", CLASSES)):
        for index in range(number):
            place = folder / "images" / split / str(index % CLASSES)
            place.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")
    return build(folder / "images", folder / "packed", BuildOptions(workers=1))
