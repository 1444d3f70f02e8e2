"""The splits of a source: folders that are named after them, and the val split that is drawn elsewhere."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from distlth.data.layouts.base import NOTHING, Draw, Passed, Sample, Source, few
from distlth.data.layouts.walk import Walk, visible_folders
from distlth.errors import DataError

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}

# Names that mean a split to people, but in no certain way.
_UNCLEAR = re.compile(
    r"(train|training|val|valid|validation|test|testing)[-_ .]?(set|data|images?|split|\d+)"
)

# By class. Samples stand for images that are no files of their own; they get their labels here.
Files = Mapping[str, Sequence[Path] | Sequence[Sample]]
Found = TypeVar("Found", Path, Sample)


def split_folders(path: Path) -> dict[str, Path]:
    """Return the folders of `path` that are splits, by `train`, `val` and `test`; {} where all are classes.

    Names count in any case, as in `NAMES`. Raises DataError for two names of one split, for splits beside
    class folders, and for names that only look like one.
    """
    if not path.is_dir():
        return {}
    folders = visible_folders(path)
    found: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_OF.get(folder.name.casefold())
        if split and split in found:
            raise DataError(
                f"{path}: both {found[split].name} and {folder.name} are {split} splits; keep one"
            )
        if split:
            found[split] = folder
        elif _UNCLEAR.fullmatch(folder.name.casefold()):
            raise DataError(f"{folder}: is this a split or a class? Name a split train, val or test")
    others = [folder for folder in folders if folder not in found.values()]
    return _checked(path, found, others)


def _checked(path: Path, found: dict[str, Path], others: Sequence[Path]) -> dict[str, Path]:
    """Return the splits, where they are complete and the other folders cannot be meant as one."""
    if not found:
        return {}
    if others and set(found) == {"train"} and not visible_folders(found["train"]):
        return {}  # a class of this name, as in CIFAR-100
    if "train" not in found:
        missing = f"has {' and '.join(sorted(found))} but no train folder"
        hint = f"; if {few([folder.name for folder in found.values()])} is a class, rename it" * bool(others)
        raise DataError(f"{path}: {missing}{hint}")
    if "val" in found:
        return found
    if "test" in found:
        raise DataError(
            f"{path}: has train and test but no val; name test val, or give {found['train']} alone"
        )
    if others:
        raise DataError(
            f"{path}: has {few([folder.name for folder in others])} beside {found['train'].name}, but no val;"
            f" name the validation folder val, or give {found['train']} alone"
        )
    return found


def read_classes(walk: Walk, folder: Path) -> dict[str, list[Path]]:
    """Return image files by class folder; DataError unless there are two, each with an image."""
    return images_of(walk, folder, walk.class_folders(folder))


def images_of(walk: Walk, folder: Path, folders: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Return image files by class, of these class folders in `folder`; errors as in `read_classes`."""
    for name, place in folders.items():
        _check_no_splits(name, place)
    found = {name: walk.images(place) for name, place in folders.items()}
    if not any(found.values()):
        seen = f"; {walk.passed}" if walk.passed.files else ""
        raise DataError(f"{folder}: no images in class folders ({folder / 'CLASS' / '*.jpg'}){seen}")
    for name, files in found.items():
        if not files:
            raise DataError(f"{folders[name]}: no images in this class folder")
    if len(found) < 2:
        raise DataError(f"{folder}: only one class folder ({next(iter(found))}); a classifier needs two")
    return found


def _check_no_splits(name: str, folder: Path) -> None:
    inside = [place.name for place in visible_folders(folder) if place.name.casefold() in SPLIT_OF]
    if len({SPLIT_OF[split.casefold()] for split in inside}) > 1:
        raise DataError(
            f"{folder}: has {' and '.join(inside)} in a class; put the classes into the splits, as in"
            f" {folder.parent / inside[0] / name}"
        )


def draw_val(
    path: Path, layout: str, classes: Mapping[str, Sequence[Found]], draw: Draw, passed: Passed
) -> Source:
    """Return a source whose val split is drawn from the images of each class."""
    train: dict[str, list[Found]] = {}
    val: dict[str, list[Found]] = {}
    for name, files in classes.items():
        if len(files) < 2:
            raise DataError(f"{path}: class {name} has one image, which cannot be split into train and val")
        count = min(max(1, round(draw.fraction * len(files))), len(files) - 1)
        chosen = set(sorted(files, key=lambda file: _rank(_path(file).relative_to(path), draw.seed))[:count])
        train[name] = [file for file in files if file not in chosen]
        val[name] = [file for file in files if file in chosen]
    layout = f"{layout}; val is drawn from them, {draw.fraction:.3g} of each class"
    return labelled(path, layout, train, val, passed)


def labelled(path: Path, layout: str, train: Files, val: Files, passed: Passed = NOTHING) -> Source:
    """Return the source of these files by class; DataError where train and val have different classes."""
    unknown, missing = sorted(val.keys() - train.keys()), sorted(train.keys() - val.keys())
    if unknown or missing:
        differences = [f"only in val: {few(unknown)}"] * bool(unknown)
        differences += [f"only in train: {few(missing)}"] * bool(missing)
        raise DataError(f"{path}: train and val have different classes; {'; '.join(differences)}")
    names = sorted(train)
    samples = _samples(names, train), _samples(names, val)
    return Source(path, layout, tuple(names), *samples, passed, _alike(names))


def _alike(names: Sequence[str]) -> tuple[str, ...]:
    """Return a warning for each class whose name is that of another one in other letters."""
    first: dict[str, str] = {}
    found = [(first.setdefault(name.casefold(), name), name) for name in names]
    return tuple(
        f"classes {one} and {other} differ in upper and lower case alone"
        for one, other in found
        if one != other
    )


def _samples(names: Sequence[str], files: Files) -> tuple[Sample, ...]:
    return tuple(_sample(file, label) for label, name in enumerate(names) for file in files[name])


def _sample(file: Path | Sample, label: int) -> Sample:
    return replace(file, label=label) if isinstance(file, Sample) else Sample(file, label)


def _path(file: Path | Sample) -> Path:
    return file.path if isinstance(file, Sample) else file


def _rank(name: Path, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:".encode() + os.fsencode(name), digest_size=8).digest()
