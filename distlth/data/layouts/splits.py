"""The splits of a source: folders that are named after them, and the val split that is drawn from train."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
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
    return _checked(path, {split: found[split] for split in NAMES if split in found}, others)


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
    if "val" in found or "test" in found:
        return found
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


def divide(
    path: Path, layout: str, found: Mapping[str, Files], draw: Draw, passed: Passed = NOTHING
) -> Source:
    """Return the source of the splits that were found, by class: train, and val and test where there are any.

    A val split that is asked for, or missing, is drawn from train; one that was there is test then. Raises
    DataError for splits of different classes, and for a val split that is asked for beside val and test.
    """
    if "val" in found and not draw.is_asked:
        return _labelled(path, layout, found, passed)
    if {"val", "test"} <= found.keys():
        raise DataError(f"{path}: has train, val and test; leave out --val-fraction and --val-images")
    train, val = _drawn(path, found["train"], draw)
    parts = {"train": train, "val": val}
    held_out = found.get("test", found.get("val"))
    if held_out is not None:
        parts["test"] = held_out
    was_val = "; the val split that was there is test" * ("val" in found)
    return _labelled(path, f"{layout}; val is drawn from train, {draw}{was_val}", parts, passed)


def divide_test(path: Path, layout: str, train: Files, test: Files, draw: Draw) -> Source:
    """Return the source of a data set whose published form has train and test alone.

    As others train on all of train, test is val here unless a val split is asked for.
    """
    if draw.is_asked:
        return divide(path, layout, {"train": train, "test": test}, draw)
    return divide(path, f"{layout}; val is the test split", {"train": train, "val": test}, draw)


def _drawn(path: Path, classes: Files, draw: Draw) -> tuple[Files, Files]:
    """Return what is left of the images of each class, and those drawn as val."""
    for name, files in classes.items():
        if len(files) < 2:
            raise DataError(f"{path}: class {name} has one image, which cannot be split into train and val")
    train: dict[str, list[Sample]] = {}
    val: dict[str, list[Sample]] = {}
    names = sorted(classes)
    for name, count in zip(names, draw.counts([len(classes[name]) for name in names]), strict=True):
        samples = [_sample(file, 0) for file in classes[name]]
        chosen = set(sorted(samples, key=lambda sample: _rank(sample.key(path), draw.seed))[:count])
        train[name] = [sample for sample in samples if sample not in chosen]
        val[name] = [sample for sample in samples if sample in chosen]
    return train, val


def _labelled(path: Path, layout: str, found: Mapping[str, Files], passed: Passed) -> Source:
    """Return the source of these splits; DataError where train and another one have different classes."""
    names = sorted(found["train"])
    for split, classes in found.items():
        _check_same(path, names, split, classes)
    train, val = _samples(names, found["train"]), _samples(names, found["val"])
    test = _samples(names, found.get("test", dict.fromkeys(names, ())))
    return Source(path, layout, tuple(names), train, val, passed, _alike(names), test)


def _check_same(path: Path, names: Iterable[str], split: str, others: Iterable[str]) -> None:
    unknown, missing = sorted({*others} - {*names}), sorted({*names} - {*others})
    if unknown or missing:
        differences = [f"only in {split}: {few(unknown)}"] * bool(unknown)
        differences += [f"only in train: {few(missing)}"] * bool(missing)
        raise DataError(f"{path}: train and {split} have different classes; {'; '.join(differences)}")


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


def _rank(key: bytes, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:".encode() + key, digest_size=8).digest()
