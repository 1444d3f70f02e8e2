"""Images as people have them: one file a layout, and its line in `LAYOUTS`."""

from __future__ import annotations

from pathlib import Path

from distlth.data.layouts import class_folders, split_folders, tiny_imagenet
from distlth.data.layouts.base import Draw, Layout, Source, printable
from distlth.errors import DataError

# The first that matches reads the source.
LAYOUTS: tuple[Layout, ...] = (
    tiny_imagenet.LAYOUT,
    split_folders.LAYOUT,
    class_folders.LAYOUT,
)


def scan(path: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Source:
    """Return the images under `path`, in one of the layouts; `Draw` has the last two arguments.

    DataError says what is missing, what is ambiguous, or which folder cannot be read.
    """
    path, draw = Path(path), Draw(val_fraction, seed)
    try:
        layout = next((layout for layout in LAYOUTS if layout.matches(path)), None)
        if layout is None:
            raise DataError(f"{printable(path)}: no such folder of images")
        return layout.read(path, draw)
    except OSError as error:
        place = printable(error.filename or path)
        raise DataError(f"{place}: cannot be read ({error.strerror or error})") from None
