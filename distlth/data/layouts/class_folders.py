"""`CLASS/**/*`: a folder a class, and no splits."""

from __future__ import annotations

from pathlib import Path

from distlth.data.layouts.base import Draw, Layout, Source
from distlth.data.layouts.splits import divide, read_classes
from distlth.data.layouts.walk import Walk


def _read(path: Path, draw: Draw) -> Source:
    walk = Walk()
    classes = read_classes(walk, path)
    return divide(path, "class folders", {"train": classes}, draw, walk.passed)


LAYOUT = Layout("class-folders", "a folder for each class, CLASS/*.jpg", Path.is_dir, _read)
