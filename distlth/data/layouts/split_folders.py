"""`train/CLASS/**/*`, `val/CLASS/**/*` and `test/CLASS/**/*`, or the first alone, or two of them."""

from __future__ import annotations

from pathlib import Path

from distlth.data.layouts.base import Draw, Layout, Source
from distlth.data.layouts.splits import divide, images_of, split_folders
from distlth.data.layouts.walk import LOOSE, Walk, visible_folders
from distlth.errors import DataError


def _matches(path: Path) -> bool:
    return bool(split_folders(path))


def _read(path: Path, draw: Draw) -> Source:
    splits = split_folders(path)
    if "test" in splits and not _has_classes(splits["train"], splits["test"]):
        del splits["test"]
    walk = Walk()
    walk.pass_beside(path, splits.values())
    # All class folders first: a link from one into another is then recognised.
    folders = {split: _class_folders(walk, place) for split, place in splits.items()}
    found = {split: images_of(walk, splits[split], folders[split]) for split in splits}
    names = [f"{place.name}/" for place in splits.values()]
    said = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return divide(path, f"{said} with class folders", found, draw, walk.passed)


def _has_classes(train: Path, test: Path) -> bool:
    """Return whether a test folder has a class of train's: many come without, as ImageNet's."""
    names = [{folder.name for folder in visible_folders(place)} for place in (train, test)]
    return bool(names[0] & names[1])


def _class_folders(walk: Walk, place: Path) -> dict[str, Path]:
    """Return the class folders of a split; DataError where its images lie beside none."""
    loose = walk.passed.files.get(LOOSE, 0)
    found = walk.class_folders(place)
    if not found and walk.passed.files.get(LOOSE, 0) > loose:
        raise DataError(f"{place}: images lie loose in it; sort them into class folders as in train")
    return found


LAYOUT = Layout(
    "split-folders", "train/CLASS/*.jpg, val/CLASS/*.jpg, test/CLASS/*.jpg, or train/ alone", _matches, _read
)
