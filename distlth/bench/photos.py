"""Real photographs, cut from those that installed packages bring along."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 400, 500
# matplotlib is always there, scikit-learn where the extra `quickstart` is.
SOURCES = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
SMALLEST = 0.6


def source_files() -> list[Path]:
    """Return the photographs that are there."""
    files = []
    for package, name in SOURCES:
        spec = importlib.util.find_spec(package)
        files += [Path(folder, name) for folder in (spec and spec.submodule_search_locations) or ()]
    return [file for file in files if file.is_file()]


def photo(number: int) -> Image.Image:
    """Return a photograph of 500 x 400 pixels: another part, at another scale, for each number."""
    sources = _sources()
    source = sources[number % len(sources)]
    rng = np.random.default_rng(number)
    largest = min(source.width / WIDTH, source.height / HEIGHT)
    scale = largest * rng.uniform(SMALLEST, 1)
    width, height = scale * WIDTH, scale * HEIGHT
    left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
    box = (left, top, left + width, top + height)
    return source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)


@cache
def _sources() -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in source_files()]
