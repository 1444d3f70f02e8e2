"""The classes of ImageNet's validation images, from the files that people have them in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from distlth.data.layouts.base import few
from distlth.data.layouts.splits import Found
from distlth.data.layouts.stored import read_file, read_members, text_lines
from distlth.errors import DataError

SOLUTION = "LOC_val_solution.csv"
SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
KNOWN = f"{SOLUTION}, {DEVKIT}.tar.gz or {SYNSET_LABELS}"

_SYNSET = re.compile(r"n\d{8}")


def find_truth(folders: Sequence[Path]) -> Path | None:
    """Return the first file (or unpacked devkit) in these folders that has the classes of val images."""
    names = (
        SOLUTION,
        f"{DEVKIT}.tar.gz",
        f"{DEVKIT}/data/{GROUND_TRUTH}",
        f"data/{GROUND_TRUTH}",
        SYNSET_LABELS,
    )
    places = (folder / name for folder in folders for name in names)
    return next((place for place in places if place.is_file()), None)


def read_truth(path: Path) -> dict[str, str]:
    """Return the class of each val image by its name without ending; DataError where a line is no class."""
    if path.name == SOLUTION:
        return _solution(path)
    if path.name == SYNSET_LABELS:
        return _numbered(path, text_lines(path, read_file(path)))
    if path.name == GROUND_TRUTH:
        return _devkit(path, read_file(path), read_file(path.parent / META))
    files = read_members(path, (GROUND_TRUTH, META))
    return _devkit(path, files[GROUND_TRUTH], files[META])


def sorted_by(truth: Path, images: Mapping[str, Found]) -> dict[str, list[Found]]:
    """Return val images (by name without ending) by class; DataError unless `truth` names exactly these."""
    classes = read_truth(truth)
    if unnamed := sorted(images.keys() - classes.keys()):
        raise DataError(f"{truth}: has no class for {len(unnamed):,} val images: {few(unnamed)}")
    if missing := sorted(classes.keys() - images.keys()):
        raise DataError(f"{truth}: names {len(missing):,} val images that are not there: {few(missing)}")
    found: dict[str, list[Found]] = {}
    for name in sorted(images):
        found.setdefault(classes[name], []).append(images[name])
    return found


def _solution(path: Path) -> dict[str, str]:
    """Kaggle's file. After its head: image, comma, and class and box of each object, of one class alone."""
    found: dict[str, str] = {}
    for number, line in enumerate(text_lines(path, read_file(path)), 1):
        name, _, boxes = line.partition(",")
        if number == 1 and name == "ImageId":
            continue
        if name in found:
            raise DataError(f"{path}: line {number} names {name} again")
        found[name] = _synset(path, number, boxes.strip('" ').partition(" ")[0])
    return found


def _numbered(path: Path, classes: Sequence[str]) -> dict[str, str]:
    return {
        f"ILSVRC2012_val_{number:08}": _synset(path, number, name.strip())
        for number, name in enumerate(classes, 1)
    }


def _synset(path: Path, number: int, name: str) -> str:
    if not _SYNSET.fullmatch(name):
        raise DataError(f"{path}: line {number} has no class such as n01440764")
    return name


def _devkit(path: Path, ground_truth: bytes, meta: bytes) -> dict[str, str]:
    """The devkit's: a number a line, and what it means in a file of MATLAB's."""
    names = _meta(path, meta)
    numbers = text_lines(path, ground_truth)
    if unknown := [number for number in numbers if number.strip() not in names]:
        raise DataError(f"{path}: {META} has no class {few(unknown, 1)}")
    return _numbered(path, [names[number.strip()] for number in numbers])


def _meta(path: Path, data: bytes) -> dict[str, str]:
    """Return the class of each number, as text."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f"{path}: needs scipy to read {META} (pip install scipy); {SOLUTION} and {SYNSET_LABELS} do not"
        ) from None
    try:
        synsets = loadmat(BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {
            str(int(number)): str(name)
            for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        }
    except Exception as error:  # scipy raises errors of many kinds
        raise DataError(f"{path}: {META} cannot be read ({error})") from None
