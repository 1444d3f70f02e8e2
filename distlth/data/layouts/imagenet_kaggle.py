"""ImageNet as Kaggle has it: `ILSVRC/Data/CLS-LOC/train/CLASS/*`, `val/*` and `LOC_val_solution.csv`."""

from __future__ import annotations

from pathlib import Path

from distlth.data.layouts.base import Draw, Layout, Source
from distlth.data.layouts.ground_truth import KNOWN, find_truth, sorted_by
from distlth.data.layouts.splits import divide, read_classes
from distlth.data.layouts.walk import Walk, visible_folders
from distlth.errors import DataError

TREE = Path("ILSVRC", "Data", "CLS-LOC")


def _tree(path: Path) -> Path | None:
    """Return CLS-LOC of the tree, of which `path` is the root or a folder on the way."""
    ways = (path / Path(*TREE.parts[begin:]) for begin in range(len(TREE.parts)))
    if path.name == TREE.name and (path / "val").is_dir():
        return path
    return next((way for way in ways if (way / "val").is_dir() or (way / "train").is_dir()), None)


def _matches(path: Path) -> bool:
    tree = _tree(path)
    # Where val has class folders, it is a tree like others.
    return tree is not None and not (tree == path and _is_sorted(tree))


def _is_sorted(tree: Path) -> bool:
    return (tree / "val").is_dir() and bool(visible_folders(tree / "val"))


def _read(path: Path, draw: Draw) -> Source:
    tree = _tree(path)
    if tree is None:
        raise DataError(f"{path}: no {TREE} in it")
    if missing := [name for name in ("train", "val") if not (tree / name).is_dir()]:
        raise DataError(f"{tree}: has no folder {missing[0]}")
    walk = Walk()
    walk.pass_beside(tree, (tree / "train", tree / "val"))
    train = read_classes(walk, tree / "train")
    if _is_sorted(tree):
        found = {"train": train, "val": read_classes(walk, tree / "val")}
        return divide(path, f"{TREE} with class folders", found, draw, walk.passed)
    truth = find_truth([tree, *tree.absolute().parents[:3]])
    if truth is None:
        raise DataError(
            f"{path}: the images of {tree / 'val'} lie loose and nothing has their classes: {KNOWN}"
        )
    val = sorted_by(truth, {image.stem: image for image in walk.images(tree / "val")})
    layout = f"{TREE}, classes of val from {truth.name}"
    return divide(path, layout, {"train": train, "val": val}, draw, walk.passed)


LAYOUT = Layout(
    "imagenet-kaggle", f"{TREE}/train/CLASS/*.JPEG, val/*.JPEG and LOC_val_solution.csv", _matches, _read
)
