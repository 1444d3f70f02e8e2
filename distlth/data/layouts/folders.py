"""Image folders as people have them: which files belong to which class and split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distlth.errors import DataError

# Those of torchvision's ImageFolder.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class Sample:
    """An image file and its label, an index into the source's classes."""

    path: Path
    label: int


@dataclass(frozen=True)
class Source:
    """The images of a data set, sorted by class and path within each split; `classes` are sorted names."""

    path: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]


def scan(path: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Source:
    """Return the images under `path`, in one of the layouts that people have.

    - `train/CLASS/**/*` and `val/CLASS/**/*` (ImageNet), or `val/images/*` with `val/val_annotations.txt`
      (Tiny-ImageNet as it is downloaded);
    - `train/CLASS/**/*` alone, or `CLASS/**/*`: of each class `val_fraction` (0..1, at least one image)
      becomes the val split, the images with the smallest hash of (seed, name).

    Hidden files and other kinds of files are ignored. DataError says what is missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of images")
    if not (path / "train").is_dir():
        if (path / "val").is_dir():
            raise DataError(f"{path}: has val but no train folder")
        return _split(path, _classes(path), val_fraction, seed)
    classes = _classes(path / "train")
    if (path / "val").is_dir():
        return _with_val(path, classes)
    if (path / "test").is_dir():
        raise DataError(
            f"{path}: has train and test but no val; name test val, or give {path / 'train'} alone"
        )
    return _split(path, classes, val_fraction, seed)


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Return image files by class folder; each class has at least one."""
    found = {name: _images(folder / name) for name in _folders(folder)}
    if not any(found.values()):
        raise DataError(f"{folder}: no images in class folders ({folder / 'CLASS' / '*.jpg'})")
    for name, files in found.items():
        if not files:
            raise DataError(f"{folder / name}: no images in this class folder")
    if len(found) < 2:
        raise DataError(f"{folder}: only one class folder ({next(iter(found))}); a classifier needs two")
    return found


def _folders(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Return all image files below `folder`, sorted by path; follows linked folders, as torchvision does."""
    return sorted(
        Path(root, name)
        for root, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    )


def _with_val(path: Path, train: dict[str, list[Path]]) -> Source:
    folder = path / "val"
    annotations = folder / ANNOTATIONS
    val = _annotated(annotations) if annotations.is_file() else _val_classes(folder)
    unknown, missing = sorted(val.keys() - train.keys()), sorted(train.keys() - val.keys())
    if unknown or missing:
        differences = [f"only in val: {_few(unknown)}"] * bool(unknown)
        differences += [f"only in train: {_few(missing)}"] * bool(missing)
        raise DataError(f"{path}: train and val have different classes; {'; '.join(differences)}")
    names = sorted(train)
    return Source(path, tuple(names), _samples(names, train), _samples(names, val))


def _val_classes(folder: Path) -> dict[str, list[Path]]:
    if not _folders(folder) and _images(folder):
        raise DataError(f"{folder}: images lie loose in it; sort them into class folders as in train")
    return _classes(folder)


def _annotated(annotations: Path) -> dict[str, list[Path]]:
    """Return Tiny-ImageNet's val images by class. The lines are: file name, tab, class, tab, box."""
    found: dict[str, list[Path]] = {}
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise DataError(f"{annotations}: line {number} is not 'file<TAB>class'")
        found.setdefault(fields[1], []).append(annotations.parent / "images" / fields[0])
    return {name: sorted(files) for name, files in found.items()}


def _split(path: Path, classes: dict[str, list[Path]], fraction: float, seed: int) -> Source:
    if not 0 < fraction < 1:
        raise DataError(f"val fraction {fraction} is not between 0 and 1")
    train: dict[str, list[Path]] = {}
    val: dict[str, list[Path]] = {}
    for name, files in classes.items():
        if len(files) < 2:
            raise DataError(f"{path}: class {name} has one image, which cannot be split into train and val")
        count = min(max(1, round(fraction * len(files))), len(files) - 1)
        chosen = set(sorted(files, key=lambda file: _rank(file.relative_to(path), seed))[:count])
        train[name] = [file for file in files if file not in chosen]
        val[name] = [file for file in files if file in chosen]
    names = sorted(classes)
    return Source(path, tuple(names), _samples(names, train), _samples(names, val))


def _rank(name: Path, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{name.as_posix()}".encode(), digest_size=8).digest()


def _samples(names: Sequence[str], files: dict[str, list[Path]]) -> tuple[Sample, ...]:
    return tuple(Sample(file, label) for label, name in enumerate(names) for file in files[name])


def _few(names: Iterable[str], limit: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
