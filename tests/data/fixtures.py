"""Small image folders and data sets, made of real files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distlth.data.beton import NO_CHECKSUMS, Beton
from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions, build

VAL_FRACTION = 0.25


def picture(height: int, width: int, seed: int) -> Image.Image:
    """A smooth, coloured field with some texture: what a JPEG encoder is made for."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    texture = rng.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + texture, 0, 255).astype(np.uint8))


def image_folder(
    root: Path, classes: int = 3, per_class: int = 8, sizes: tuple[int, int] = (40, 90), suffix: str = "jpg"
) -> Path:
    """`root`/CLASS/*.jpg with images of various sizes between the two sides (pixels)."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(per_class):
            height, width = (int(side) for side in rng.integers(sizes[0], sizes[1] + 1, 2))
            image = picture(height, width, 1000 * label + number)
            image.save(root / f"class{label}" / f"{number:03}.{suffix}", quality=92)
    return root


def small_dataset(folder: Path, write_mode: str = "jpg", **shape: object) -> Dataset:
    """A built data set of `image_folder(**shape)`."""
    source = image_folder(folder / "images", **shape)  # type: ignore[arg-type]
    options = BuildOptions(workers=2, write_mode=write_mode, val_fraction=VAL_FRACTION)  # type: ignore[arg-type]
    return build(source, folder / "built", options)


def index(path: Path, offsets: np.ndarray, size: int, page_size: int = 1 << 23) -> Beton:
    """The index of a file with images of `size` bytes each at these places."""
    ones = np.ones(len(offsets), np.int64)
    return Beton(path, page_size, ones.astype(np.uint8), ones, ones, offsets, size * ones, ones, NO_CHECKSUMS)


@contextmanager
def small_pages() -> Iterator[int]:
    """Build files with pages of 64 KiB, so that small ones have many: their size."""
    size = 1 << 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distlth.data.pack.writer.PAGE_SIZE", size)
        yield size
