"""Tiny-ImageNet as it is downloaded: `train/CLASS/images/*`, `val/images/*` and `val/val_annotations.txt`."""

from __future__ import annotations

from pathlib import Path

from distlth.data.layouts.base import Draw, Layout, Source
from distlth.data.layouts.splits import divide, read_classes, split_folders
from distlth.data.layouts.walk import Walk
from distlth.data.reading import open_regular
from distlth.errors import DataError

ANNOTATIONS = "val_annotations.txt"


def _matches(path: Path) -> bool:
    splits = split_folders(path)
    return "val" in splits and (splits["val"] / ANNOTATIONS).is_file()


def _read(path: Path, draw: Draw) -> Source:
    splits = split_folders(path)
    walk = Walk()
    walk.pass_beside(path, (splits["train"], splits["val"]))
    train = read_classes(walk, splits["train"])
    val = _annotated(splits["val"] / ANNOTATIONS)
    there = walk.images(splits["val"] / "images")
    walk.pass_files(f"images that {ANNOTATIONS} does not name", len(set(there) - set().union(*val.values())))
    return divide(path, "Tiny-ImageNet", {"train": train, "val": val}, draw, walk.passed)


def _annotated(annotations: Path) -> dict[str, list[Path]]:
    """Return the val images by class. The lines are: file name, tab, class, tab, box."""
    found: dict[str, list[Path]] = {}
    seen: set[str] = set()
    for number, line in enumerate(_lines(annotations), 1):
        name, *fields = line.split("\t")
        if not fields:
            raise DataError(f"{annotations}: line {number} is not 'file<TAB>class'")
        if name in seen:
            raise DataError(f"{annotations}: line {number} names {name} again")
        seen.add(name)
        found.setdefault(fields[0], []).append(annotations.parent / "images" / name)
    return {name: sorted(files) for name, files in found.items()}


def _lines(annotations: Path) -> list[str]:
    with open_regular(annotations) as file:
        try:
            return file.read().decode().splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{annotations}: not UTF-8 text") from None


LAYOUT = Layout(
    "tiny-imagenet", "train/CLASS/images/, val/images/ and val/val_annotations.txt", _matches, _read
)
