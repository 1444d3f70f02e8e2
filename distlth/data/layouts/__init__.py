"""Images as people have them: one file a layout, and its line in `LAYOUTS`."""

from __future__ import annotations

import os
from pathlib import Path

from distlth.data.layouts import (
    cifar,
    class_folders,
    idx,
    imagenet_kaggle,
    imagenet_tars,
    parquet,
    split_folders,
    tiny_imagenet,
    webdataset,
)
from distlth.data.layouts.base import Draw, Layout, Source, few, printable
from distlth.data.layouts.walk import is_hidden
from distlth.errors import DataError

# The first that matches reads the source.
LAYOUTS: tuple[Layout, ...] = (
    imagenet_tars.LAYOUT,
    imagenet_kaggle.LAYOUT,
    cifar.LAYOUT,
    idx.LAYOUT,
    webdataset.LAYOUT,
    parquet.LAYOUT,
    tiny_imagenet.LAYOUT,
    split_folders.LAYOUT,
    class_folders.LAYOUT,
)


def scan(
    path: str | Path,
    val_fraction: float | None = None,
    seed: int = 0,
    layout: str | None = None,
    val_images: int | None = None,
) -> Source:
    """Return the images under `path`, in the layout of that name or the first that matches.

    `Draw` has the other three arguments. DataError says what is missing, what is ambiguous, or which folder
    cannot be read.
    """
    path, draw = Path(path), Draw(val_fraction, seed, val_images)
    try:
        return _chosen(path, layout).read(path, draw)
    except OSError as error:
        place = printable(error.filename or path)
        raise DataError(f"{place}: cannot be read ({error.strerror or error})") from None


def _chosen(path: Path, name: str | None) -> Layout:
    if name is not None:
        check_layout(name)
    allowed = [layout for layout in LAYOUTS if name in (None, layout.name)]
    if chosen := next((layout for layout in allowed if layout.matches(path)), None):
        return chosen
    if name is None:
        raise DataError(f"{printable(path)}: no such folder of images")
    raise DataError(f"{printable(path)}: not {name}: {allowed[0].parts}; {_there(path)}")


def check_layout(name: str) -> None:
    """Raise DataError for a name that no layout has, with those that there are."""
    known = [layout.name for layout in LAYOUTS]
    if name not in known:
        raise DataError(f"layout {name!r} is not known; choose one of {', '.join(known)}")


def _there(path: Path) -> str:
    """Return in words what lies in a folder, or that it is none."""
    if not path.is_dir():
        return "it is a file" if path.exists() else "there is nothing"
    names = sorted(printable(name) for name in os.listdir(path) if not is_hidden(name))
    return f"there is {few(names)}" if names else "it is empty"
