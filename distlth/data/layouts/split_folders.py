"""`train/CLASS/**/*` and `val/CLASS/**/*`, as ImageNet has them, or the first alone."""

from __future__ import annotations

from pathlib import Path

from distlth.data.layouts.base import Draw, Layout, Source
from distlth.data.layouts.splits import draw_val, images_of, labelled, read_classes, split_folders
from distlth.data.layouts.walk import LOOSE, Walk
from distlth.errors import DataError


def _matches(path: Path) -> bool:
    return bool(split_folders(path))


def _read(path: Path, draw: Draw) -> Source:
    splits = split_folders(path)
    walk = Walk()
    walk.pass_beside(path, {folder for split, folder in splits.items() if split != "test"})
    if "val" not in splits:
        classes = read_classes(walk, splits["train"])
        return draw_val(path, f"{splits['train'].name}/ with class folders", classes, draw, walk.passed)
    # All class folders first: a link from one into another is then recognised.
    folders = {"train": walk.class_folders(splits["train"])}
    loose = walk.passed.files.get(LOOSE, 0)
    folders["val"] = walk.class_folders(splits["val"])
    if not folders["val"] and walk.passed.files.get(LOOSE, 0) > loose:
        raise DataError(f"{splits['val']}: images lie loose in it; sort them into class folders as in train")
    train, val = (images_of(walk, splits[split], folders[split]) for split in ("train", "val"))
    layout = f"{splits['train'].name}/ and {splits['val'].name}/ with class folders"
    return labelled(path, layout, train, val, walk.passed)


LAYOUT = Layout("split-folders", "train/CLASS/*.jpg and val/CLASS/*.jpg, or train/ alone", _matches, _read)
